"""Input rows of ``carpool map``: lines in, requests with keys out.

Owns the format of a row, the keys of rows that have none, and the check of a whole file before anything is sent. It
must not know what becomes of a request; what a request may hold is checked by the library, row by row.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from carpool import Request
from carpool.cli.console import UsageError
from carpool.cli.fingerprints import Fingerprints
from carpool.types import Kind

_KEY_CHARS_MAX: Final = 512
_SHOWN_CHARS: Final = 80
_NO_REQUEST: Final = msgspec.Raw()
_FORMS: Final = 'a row is {"key": ..., "request": {...}} or {"key": ..., "prompt": "..."}; the key may be left out'


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str | None = None
    request: msgspec.Raw = _NO_REQUEST
    prompt: str | None = None


_decoder: Final = msgspec.json.Decoder(_Line)


class BadRow(UsageError):
    """A line that is not a row."""

    def __init__(self, source: str, line_no: int, why: str) -> None:
        super().__init__(f"{source}, line {line_no}: {why}")


class RowReader:
    """Reads the rows of one input, in order.

    Args:
        source: name of the input, for messages.
        model: model of all requests.
        kind: kind of all requests.
        line_bytes_max: longest line.
    """

    def __init__(self, source: str, model: str, kind: Kind, line_bytes_max: int) -> None:
        self.line_bytes_max = line_bytes_max
        self._source = source
        self._model = model
        self._kind: Kind = kind
        self._line_no = 0
        self._seen = Fingerprints()
        self._repeated: dict[str, int] = {}

    @property
    def line_no(self) -> int:
        """Number of the line read last, counted from 1."""
        return self._line_no

    def read(self, line: bytes) -> Request | None:
        """Return the request of the next line; ``None`` if the line is blank.

        Raises:
            BadRow: it is not a row.
        """
        self._line_no += 1
        if self._line_no == 1:
            line = without_mark(line)
        if len(line) > self.line_bytes_max:
            raise self.bad(f"it is longer than {self.line_bytes_max} bytes (CARPOOL_LINE_BYTES_MAX)")
        if not line.strip():
            return None
        try:
            row = _decoder.decode(line)
        except msgspec.ValidationError as error:
            raise self.bad(f"{error}; {_FORMS}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.bad(f"it is not JSON in UTF-8 ({error})") from None
        request = bytes(row.request)
        if bool(request) == (row.prompt is not None):
            raise self.bad(_FORMS)
        key = row.key
        if key is None:
            key = self._key_of(request or f"prompt\0{row.prompt}".encode())
        elif not 1 <= len(key) <= _KEY_CHARS_MAX:
            raise self.bad(f"its key has {len(key)} characters; a key has 1 to {_KEY_CHARS_MAX}")
        if row.prompt is not None:
            return Request(model=self._model, kind=self._kind, key=key, contents=row.prompt)
        return Request(model=self._model, kind=self._kind, key=key, body=request)

    def bad(self, why: str) -> BadRow:
        """Return the error that the line read last is not a row."""
        return BadRow(self._source, self._line_no, why)

    def _key_of(self, content: bytes) -> str:
        """Return the key of a row without one: from its content, and how often that occurred before."""
        start = blake2b(f"{self._kind}\0{self._model.removeprefix('models/')}\0".encode(), digest_size=16)
        start.update(_canonical(content))
        digest = start.hexdigest()
        number = 1
        if not self._seen.add(digest):
            number = self._repeated[digest] = self._repeated.get(digest, 1) + 1
        return f"c{digest}.{number}"


def without_mark(line: bytes) -> bytes:
    """Return the first line of a file without the byte order mark that some editors write before it."""
    return line.removeprefix(BOM_UTF8)


def _canonical(content: bytes) -> bytes:
    """Return JSON without the blanks and the order of its fields; what cannot be decoded stays as it is."""
    try:
        return msgspec.json.encode(msgspec.json.decode(content), order="sorted")
    except (ValueError, RecursionError):
        return content


def read_lines(path: Path, line_bytes_max: int) -> Iterator[bytes]:
    """Iterate over the lines of a file; one that is too long is cut just behind the limit."""
    with path.open("rb") as file:
        while line := file.readline(line_bytes_max + 1):
            yield line


def check_input(path: Path, model: str, kind: Kind, line_bytes_max: int) -> int:
    """Read a whole file, and return how many rows it has.

    Raises:
        BadRow: a line is not a row.
        UsageError: a key is there twice.
    """
    reader = RowReader(str(path), model, kind, line_bytes_max)
    keys = Fingerprints()
    for line in read_lines(path, line_bytes_max):
        request = reader.read(line)
        if request is not None and not keys.add(request.key or ""):
            key = request.key or ""
            first = _first_line_of(path, key, model, kind, line_bytes_max)
            shown = repr(key[:_SHOWN_CHARS])
            raise UsageError(f"{path}: the key {shown} is on line {first} and again on line {reader.line_no}")
    return len(keys)


def _first_line_of(path: Path, key: str, model: str, kind: Kind, line_bytes_max: int) -> int:
    reader = RowReader(str(path), model, kind, line_bytes_max)
    for line in read_lines(path, line_bytes_max):
        request = reader.read(line)
        if request is not None and request.key == key:
            break
    return reader.line_no
