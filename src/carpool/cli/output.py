"""The output of ``carpool map``: a file that can be gone on with, or a stream.

Owns the format of an output row, what is read back from an output file, and its lock. A file is appended to; rows with
an error are taken out of it before a run that asks them again, by way of a second file that takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from carpool import Outcome
from carpool.cli.console import UsageError
from carpool.cli.fingerprints import Fingerprints

_ROW_START: Final = b'{"key":'
_NONE: Final = msgspec.Raw()


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    response: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE


_decoder: Final = msgspec.json.Decoder(_Row)


class Output:
    """Where rows go.

    Attributes:
        done: keys of rows that have their response already.
        retried: rows with an error that were taken out, to be asked again.
    """

    def __init__(self, file: BinaryIO, *, seekable: bool) -> None:
        self._file = file
        self._is_regular = seekable
        self.done = Fingerprints()
        self.retried = 0

    @classmethod
    def open(cls, target: str) -> Self:
        """Open an output: ``-`` is stdout; a file that exists is gone on with.

        Raises:
            UsageError: it cannot be written, is in use, or holds something else.
        """
        if target == "-":
            return cls(sys.stdout.buffer, seekable=False)
        path = Path(target)
        try:
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                return cls(path.open("wb"), seekable=False)
            output = cls(_open_locked(path), seekable=True)
            try:
                output._go_on(path)
            except BaseException:
                output._file.close()
                raise
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror}") from None
        return output

    def write(self, outcome: Outcome) -> None:
        """Add a row; it is in the file after ``flush``."""
        self._file.write(row_of(outcome))

    def flush(self) -> None:
        """Hand rows to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Make the rows durable, and let go of the file."""
        self._file.flush()
        if self._is_regular:
            os.fsync(self._file.fileno())
        if self._file is not sys.stdout.buffer:
            self._file.close()

    def _go_on(self, path: Path) -> None:
        """Take stock of a file, cut a torn last line off, and take rows with an error out."""
        end, last = 0, b"\n"
        for line, row in _rows(self._file, path):
            if row is None:
                break
            end += len(line)
            last = line
            if bytes(row.response):
                self.done.add(row.key)
            else:
                self.retried += 1
        self._file.truncate(end)
        if not last.endswith(b"\n"):
            self._file.seek(end)
            self._file.write(b"\n")
        if self.retried:
            self._file = _without_errors(self._file, path)
        self._file.seek(0, os.SEEK_END)


def row_of(outcome: Outcome) -> bytes:
    """Return an output row: one line of JSON."""
    key = msgspec.json.encode(outcome.key)
    if outcome.response is not None:
        return b'{"key":%b,"response":%b}\n' % (key, on_one_line(outcome.response.raw))
    error = outcome.error
    told = {
        "code": getattr(error, "code", None),
        "status": getattr(error, "status", None),
        "message": getattr(error, "message", None) or str(error),
        "type": type(error).__name__,
    }
    return b'{"key":%b,"error":%b}\n' % (key, msgspec.json.encode(told))


def on_one_line(raw: bytes) -> bytes:
    """Return JSON without line breaks. JSON that has none is not touched."""
    if b"\n" not in raw and b"\r" not in raw:
        return raw
    try:
        return msgspec.json.format(raw, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Line breaks in JSON are blanks: inside of strings they are written as \n.
        return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def _open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and writing, made if need be, for this process alone."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file = os.fdopen(handle, "r+b", buffering=1_048_576)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UsageError(f"{path} is being written by another carpool map: wait for it to end") from None
        # Whoever had the file before may have put another one in its place.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return file
        file.close()


def _rows(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, _Row | None]]:
    """Iterate over the lines of an output file with their rows; a torn last line has none.

    Raises:
        UsageError: a line is not an output row.
    """
    file.seek(0)
    for number, line in enumerate(file, 1):
        row = _row(line)
        if row is None and _is_torn(line):
            yield line, None
            return
        if row is None:
            raise UsageError(
                f"{path}, line {number}: this is not an output row of carpool map. "
                "Nothing was changed; name another output"
            )
        yield line, row


def _row(line: bytes) -> _Row | None:
    try:
        row = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return row if bool(bytes(row.response)) != bool(bytes(row.error)) else None


def _is_torn(line: bytes) -> bool:
    """Return whether this is what a kill or a power cut leaves of a last row: its beginning, or zeros in its place."""
    if line.endswith(b"\n"):
        return False
    return line.startswith(_ROW_START) or _ROW_START.startswith(line) or not line.strip(b"\0")


def _without_errors(file: BinaryIO, path: Path) -> BinaryIO:
    """Put a file without the rows that have an error in the place of this one, and return it, locked and open."""
    folder = path.resolve().parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=".new")
    new = os.fdopen(handle, "r+b", buffering=1_048_576)
    try:
        fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(handle, stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        for line, row in _rows(file, path):
            if row is not None and bytes(row.response):
                new.write(line)
        new.flush()
        os.fsync(handle)
        Path(name).replace(path.resolve())
        _sync_folder(folder)
    except BaseException:
        new.close()
        Path(name).unlink(missing_ok=True)
        raise
    file.close()
    return new


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
