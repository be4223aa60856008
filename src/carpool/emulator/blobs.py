"""Bytes that may be too many for memory.

Owns one growing run of bytes, in memory while it is small and in an unnamed temporary file above that. It must not know
what the bytes mean.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import Final

_MEMORY_BYTES_MAX: Final = 4 * 1024 * 1024
_BLOCK_BYTES: Final = 256 * 1024


class Blob:
    """Bytes that can be appended to and read anywhere.

    Args:
        data_dir: directory for the temporary file, None for the system's.
    """

    def __init__(self, data_dir: str | None) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES_MAX, dir=data_dir)  # noqa: SIM115 (the blob's)
        weakref.finalize(self, self._file.close)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._file.seek(self.size_bytes)
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to so many bytes from an offset on."""
        self._file.seek(offset)
        return self._file.read(size_bytes)

    def sha256_hex(self) -> str:
        """Return the SHA-256 of all bytes in hexadecimal."""
        return self._hash.hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        r"""Yield each line's offset and its bytes without the ``\n``, which is the only thing that ends a line.

        Others may read the blob between two lines.
        """
        offset = 0  # of the line being gathered
        parts: list[bytes] = []
        position = 0
        while block := self.read(position, _BLOCK_BYTES):
            position += len(block)
            *ended, rest = block.split(b"\n")
            for piece in ended:
                line = b"".join([*parts, piece]) if parts else piece
                parts.clear()
                yield offset, line
                offset += len(line) + 1
            if rest:
                parts.append(rest)
        if parts:
            yield offset, b"".join(parts)
