"""The slot of another process, seen from outside: its explicit keys, what became of them, and their answers.

Owns the reading of a database that somebody else may be writing: read-only, in short transactions, and trusted no more
than one's own. It must not know who asks, nor why.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, assert_never

import msgspec

from carpool._core.messages import Record
from carpool._core.model import (
    DIGEST_BYTES,
    EXPLICIT,
    FORMAT,
    ROW_BITS,
    ROW_MASK,
    Job,
    Marks,
    Meta,
    Place,
    ResultsHead,
    SegmentHead,
    Taken,
    place_of,
)
from carpool._stores import segments
from carpool._stores.cache import BUSY_S, check_row, database_path, meaning, part_of
from carpool.errors import StoreLocked, StoreVersion

_WHOLE_BYTES: Final = 65_536
"""Smaller values are read whole, so that their checksum can be checked; of others only the head."""
_RACY_NS: Final = 100_000_000
"""A file that was written so short a time before it was read may be written again without its stamp telling."""
_ROWS: Final = (
    "SELECT key, raw, mode, filename, expire_time, typeof(key), typeof(value), rowid, store_time, length(value)"
    " FROM Cache"
)

_Part: TypeAlias = tuple[int, int, float, int]
"""Number, rowid, time and length of one row of a value: another value has others."""
_FileStamp: TypeAlias = tuple[int, int, int] | None
_Stamp: TypeAlias = tuple[_FileStamp, _FileStamp]


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An answer, or a verdict, that a slot holds."""

    place: Place
    head: ResultsHead
    digest: bytes
    failed: bool


class UnderWay(msgspec.Struct, frozen=True, gc=False):
    """A request that a slot holds and that is not answered."""

    accepted_at: float
    digest: bytes


Sighting: TypeAlias = Stored | UnderWay | None


class _Opened(NamedTuple):
    """The value of results that was read last."""

    no: int
    parts: list[_Part]
    ends: memoryview
    body: memoryview


class Peek:
    """What one slot holds of one origin.

    ``refresh``, ``read`` and ``close`` take time, and belong into a thread. The others must not be called while
    ``refresh`` runs.

    Args:
        folder: of the slot.
        origin: records of others are not seen.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder = folder
        self._origin = origin
        self._files = (str(database_path(folder)), f"{database_path(folder)}-wal")
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._stamp: _Stamp | None = None
        self._opened: _Opened | None = None
        self._forget()

    def _forget(self) -> None:
        self._parts: dict[str, list[_Part]] = {}
        self._records: dict[str, Record] = {}
        self._live: dict[str, Place] = {}
        self._kept: dict[str, Place] = {}
        self._segments: dict[int, SegmentHead] = {}
        self._results: dict[int, ResultsHead] = {}
        self._done: dict[int, bytes] = {}
        self._taken: dict[int, bytes] = {}
        self._jobs: dict[str, None] = {}
        self._version = -1

    # -- asking

    @property
    def is_current(self) -> bool:
        """Whether nothing was written since the last refresh, as far as the files' stamps tell for sure."""
        return self._stamp is not None and self._stamp == self._look()

    @property
    def is_unfinished(self) -> bool:
        """Whether there are jobs, or explicit keys without an answer."""
        return bool(self._jobs) or any(self._under_way(key, place) for key, place in self._live.items())

    @property
    def jobs(self) -> int:
        """How many jobs are not closed."""
        return len(self._jobs)

    @property
    def written_at(self) -> float:
        """When something was last written, in seconds since the epoch."""
        return max((stamp[2] for stamp in self._look() if stamp is not None), default=0) / 1e9

    def find(self, key: str) -> Sighting:
        """Return what is known of an explicit key."""
        place = self._live.get(key)
        if place is not None and self._under_way(key, place):
            head = self._segments[place >> ROW_BITS]
            return UnderWay(head.accepted_at, _digest(head.digests, place & ROW_MASK))
        place = self._kept.get(key)
        if place is None:
            return None
        no, row = place >> ROW_BITS, place & ROW_MASK
        taken = self._taken.get(no)
        if taken is not None and taken[row]:
            return None
        kept = self._results[no]
        return Stored(place, kept, _digest(kept.digests, row), bool(kept.failed[row]))

    def _under_way(self, key: str, place: Place) -> bool:
        done = self._done.get(place >> ROW_BITS)
        if done is not None and done[place & ROW_MASK]:
            return False
        # Until its job is closed, a row counts as done only by its result.
        kept = self._kept.get(key)
        return kept is None or self._results[kept >> ROW_BITS].places[kept & ROW_MASK] != place

    def cached(self, place: Place) -> bytes | None:
        """Return the body of a stored result, if it lies beside the one that was read last."""
        no, row = place >> ROW_BITS, place & ROW_MASK
        opened = self._opened
        if opened is None or opened.no != no or opened.parts != self._parts.get(segments.results_name(no)):
            return None
        return bytes(opened.body[opened.ends[row - 1] if row else 0 : opened.ends[row]])

    # -- reading

    def refresh(self) -> None:
        """Read what was written since the last time.

        Raises:
            StoreError: or one of its kinds; then nothing is known of the slot.
        """
        with self._guard:
            begun_ns, stamp = time.time_ns(), self._look()
            self._stamp = None
            try:
                if stamp[0] is None or not stamp[0][1]:
                    self._disconnect()
                    self._forget()
                else:
                    self._read_changes(self._connected(stamp[0]))
            except Exception as error:
                self._disconnect()
                self._forget()
                found = meaning(error, self.folder)
                if not isinstance(found, StoreLocked):
                    self._stamp = stamp
                raise type(found)(f"{self.folder}: {found}") from error
            if all(file is None or file[2] < begun_ns - _RACY_NS for file in stamp):
                self._stamp = stamp

    def read(self, key: str, place: Place) -> bytes | None:
        """Return the body of a stored result; ``None`` if it is gone.

        Raises:
            StoreError: or one of its kinds.
        """
        name, no, row = segments.results_name(place >> ROW_BITS), place >> ROW_BITS, place & ROW_MASK
        with self._guard:
            parts = self._parts.get(name)
            if parts is None or self._connection is None:
                return None
            try:
                value = self._value(self._connection, name, parts)
                if value is None:
                    return None
                head = segments.record(name, value.head)
            except Exception as error:
                found = meaning(error, self.folder)
                raise type(found)(f"{self.folder}: {found}") from error
            assert isinstance(head, ResultsHead)
            if len(head.keys) <= row or head.keys[row] != key:
                return None  # another value has its name now
            ends = memoryview(head.ends).cast("Q")
            self._opened = _Opened(no, parts, ends, value.body)
            return bytes(value.body[ends[row - 1] if row else 0 : ends[row]])

    def close(self) -> None:
        """Let go of the database; the next refresh opens it anew."""
        with self._guard:
            self._disconnect()
            self._forget()
            self._stamp = None

    def _look(self) -> _Stamp:
        return _file_stamp(self._files[0]), _file_stamp(self._files[1])

    def _connected(self, stamp: _FileStamp) -> sqlite3.Connection:
        inode = stamp[0] if stamp is not None else 0
        if self._connection is not None and inode != self._inode:
            self._disconnect()
            self._forget()
        if self._connection is None:
            uri = f"{database_path(self.folder).absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._inode = inode
        return self._connection

    def _disconnect(self) -> None:
        self._opened = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read_changes(self, connection: sqlite3.Connection) -> None:
        ((version,),) = connection.execute("PRAGMA data_version").fetchall()
        if version == self._version:
            return
        connection.execute("BEGIN")
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = _parts_of(connection) if "Cache" in tables else {}
            gone = [name for name, parts in self._parts.items() if found.get(name) != parts]
            new = [name for name, parts in found.items() if self._parts.get(name) != parts]
            records = [(name, self._record(connection, name, found[name])) for name in sorted(new, key=segments.order)]
        finally:
            connection.execute("ROLLBACK")
        for name in gone:
            self._drop(self._records.pop(name, None))
        for name, record in records:
            if record is not None:
                self._take(record, name)
        self._parts = found
        self._version = version

    def _record(self, connection: sqlite3.Connection, name: str, parts: list[_Part]) -> Record | None:
        _, rowid, _, length = parts[0]
        if length > _WHOLE_BYTES:
            with connection.blobopen("Cache", "value", rowid, readonly=True) as blob:
                start = blob.read(segments.HEADER_BYTES)
                segments.size_bytes(name, start)
                size = segments.head_bytes(start)
                if segments.HEADER_BYTES + size <= length:
                    return segments.record(name, memoryview(blob.read(size)))
        value = self._value(connection, name, parts)
        return None if value is None else segments.record(name, value.head)

    def _value(self, connection: sqlite3.Connection, name: str, parts: list[_Part]) -> segments.Value | None:
        rows: list[bytes] = []
        for number, _, _, _ in parts:
            row_name = f"{name}/{number}" if number else name
            select = "SELECT value FROM Cache WHERE key = ? AND raw = 1"
            found = connection.execute(select, (row_name,)).fetchall()
            if len(found) != 1 or type(found[0][0]) is not bytes:
                return None
            rows.append(found[0][0])
        return segments.decode(name, rows[0] if len(rows) == 1 else b"".join(rows))

    # -- what was read

    def _take(self, record: Record, name: str) -> None:
        match record:
            case SegmentHead() if record.origin == self._origin:
                rows = {key: row for row, key in enumerate(record.keys) if record.flags[row] & EXPLICIT}
                if not rows:
                    return
                self._live.update((key, place_of(record.no, row)) for key, row in rows.items())
                self._segments[record.no] = record
            case ResultsHead() if record.origin == self._origin:
                rows = {key: row for row, key in enumerate(record.keys) if record.flags[row] & EXPLICIT}
                if not rows:
                    return
                self._kept.update((key, place_of(record.no, row)) for key, row in rows.items())
                self._results[record.no] = record
            case Job() if record.origin == self._origin:
                self._jobs[record.id] = None
            case Marks():
                self._done[record.no] = record.done
            case Taken():
                self._taken[record.no] = record.rows
            case Meta():
                if record.format > FORMAT:
                    raise StoreVersion(f"format {record.format} is from a later version of carpool: upgrade it")
            case _:
                return
        self._records[name] = record

    def _drop(self, record: Record | None) -> None:
        match record:
            case None | Meta():
                return
            case SegmentHead():
                _drop_keys(self._live, record.keys, record.no)
                del self._segments[record.no]
            case ResultsHead():
                _drop_keys(self._kept, record.keys, record.no)
                del self._results[record.no]
            case Job():
                del self._jobs[record.id]
            case Marks():
                del self._done[record.no]
            case Taken():
                del self._taken[record.no]
            case _:
                assert_never(record)


def _drop_keys(table: dict[str, Place], keys: list[str], no: int) -> None:
    for row, key in enumerate(keys):
        if table.get(key) == place_of(no, row):
            del table[key]


def _digest(digests: bytes, row: int) -> bytes:
    return digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]


def _file_stamp(path: str) -> _FileStamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - asked for each new key
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _parts_of(connection: sqlite3.Connection) -> dict[str, list[_Part]]:
    """Return the rows of all values by name, having checked that they are values of ours."""
    parts: dict[str, list[_Part]] = {}
    with closing(connection.execute(_ROWS)) as rows:
        for key, *columns, rowid, stored_at, length in rows:
            check_row(*columns)
            name, number = part_of(key)
            parts.setdefault(name, []).append((number, rowid, stored_at, length))
    for found in parts.values():
        found.sort()
    return parts
