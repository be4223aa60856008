"""The slot of another process, seen from outside: its explicit keys, what became of them, and their answers.

Owns the reading of a database that somebody else may be writing: read-only, in short transactions, and trusted no more
than one's own. It must not know who asks, nor why.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

import msgspec

from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
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
from carpool._core.routing import Seen
from carpool._stores import segments
from carpool._stores.cache import BUSY_S, check_row, database_path, meaning, part_of
from carpool._stores.slots import is_free
from carpool.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreVersion

_WHOLE_BYTES: Final = 65_536
"""Smaller values are read whole, so that their checksum can be checked; of others only the head."""
_SECOND_NS: Final = 1_000_000_000
_RACY_NS: Final = 30_000_000
"""A file that was written so short a time before it was read may be written again without its stamp telling: kernels
take the time for it from a clock that ticks every 1 to 10 ms."""
_RACY_SECONDS_NS: Final = 2 * _SECOND_NS + _RACY_NS
"""The same where the stamp is in whole seconds, as the clocks of some file systems are; that of FAT counts by two."""
_PRIMARY: Final = 0xFF
_ROWS: Final = (
    "SELECT key, raw, mode, filename, expire_time, typeof(key), typeof(value), rowid, store_time, length(value)"
    " FROM Cache"
)
_DAYS: Final = f"key = '{segments.META}' OR key GLOB 'd[0-9]*'"
_LEARNED: Final = f"key = '{segments.META}' OR key GLOB '[hu]*'"
_OPEN: Final = "key GLOB '[sjm]*'"
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'Cache'"
_VALUE: Final = "SELECT value FROM Cache WHERE key = ? AND raw = 1"

_Part: TypeAlias = tuple[int, int, float, int]
"""Number, rowid, time and length of one row of a value: another value has others."""
_Row: TypeAlias = tuple[Any, ...]
_FileStamp: TypeAlias = tuple[int, int, int] | None
"""Inode, size, time of the last change in nanoseconds."""
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


class Bodies(NamedTuple):
    """A value of stored results, with the bodies of all of them."""

    head: ResultsHead
    body: memoryview

    def of(self, key: str, stored: Stored) -> bytes | None:
        """Return one body; ``None`` if it is not here.

        Raises:
            StoreCorrupt: it lies outside of the value.
        """
        no, row, head = stored.place >> ROW_BITS, stored.place & ROW_MASK, self.head
        if (head.no, head.kept_at, head.keys[row : row + 1]) != (no, stored.head.kept_at, [key]):
            return None  # another value has its number now
        ends = memoryview(head.ends).cast("Q")
        first, last = ends[row - 1] if row else 0, ends[row]
        if not first <= last <= len(self.body):
            raise StoreCorrupt(f"{segments.results_name(no)} is damaged: its row {row} lies outside of it")
        return bytes(self.body[first:last])


class Peek:
    """What one slot holds of one origin.

    ``refresh`` and ``read`` take time, and belong into a thread, one at a time. The others must not be called while
    ``refresh`` runs.

    Args:
        folder: of the slot.
        origin: records of others are not seen.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder = folder
        self._origin = origin
        self._database = database_path(folder).absolute()
        self._files = (str(self._database), f"{self._database}-wal")
        self._access = (self._database, os.R_OK | os.W_OK), (folder, os.W_OK | os.X_OK)
        self._stamp: _Stamp | None = None
        self._forget()

    def _forget(self) -> None:
        self._rows: set[_Row] = set()
        self._parts: dict[str, list[_Part]] = {}
        self._records: dict[str, Record] = {}
        """Those of use, by name."""
        self._live: dict[str, Place] = {}
        self._kept: dict[str, Place] = {}

    # -- asking

    @property
    def is_current(self) -> bool:
        """Whether nothing was written since the last refresh, as far as the files' stamps tell for sure."""
        return self._stamp is not None and self._stamp == self._look()

    @property
    def is_unfinished(self) -> bool:
        """Whether there are jobs, or explicit keys without an answer."""
        return bool(self.jobs) or any(self._under_way(key, place) for key, place in self._live.items())

    @property
    def jobs(self) -> int:
        """How many jobs are not closed."""
        return sum(isinstance(record, Job) for record in self._records.values())

    @property
    def written_at(self) -> float:
        """When something was last written, in seconds since the epoch."""
        # An empty log is made by whoever looks.
        return max((written_ns for _, size, written_ns in filter(None, self._look()) if size), default=0) / 1e9

    def find(self, key: str) -> Sighting:
        """Return what is known of an explicit key."""
        place = self._live.get(key)
        if place is not None and self._under_way(key, place):
            segment = self._records[segments.segment_name(place >> ROW_BITS)]
            assert isinstance(segment, SegmentHead)
            return UnderWay(segment.accepted_at, _digest(segment, place))
        place = self._kept.get(key)
        if place is None:
            return None
        taken = self._records.get(segments.taken_name(place >> ROW_BITS))
        if isinstance(taken, Taken) and _is_set(taken.rows, place):
            return None
        head = self._results(place)
        return Stored(place, head, _digest(head, place), _is_set(head.failed, place))

    def _under_way(self, key: str, place: Place) -> bool:
        marks = self._records.get(segments.marks_name(place >> ROW_BITS))
        if isinstance(marks, Marks) and _is_set(marks.done, place):
            return False
        # Until its job is closed, a row counts as done only by its result.
        kept = self._kept.get(key)
        return kept is None or self._results(kept).places[kept & ROW_MASK] != place

    def _results(self, place: Place) -> ResultsHead:
        head = self._records[segments.results_name(place >> ROW_BITS)]
        assert isinstance(head, ResultsHead)
        return head

    # -- reading

    def refresh(self) -> None:
        """Read what was written since the last time.

        Raises:
            StoreLocked, StoreFull: it cannot be read for the moment.
            StoreError: or another of its kinds: it cannot be read. Then nothing is known of the slot.
        """
        begun_ns, stamp = time.time_ns(), self._look()
        self._stamp = None
        settled = all(file is None or is_settled(file[2], begun_ns) for file in stamp)
        try:
            if stamp[0] is None or not stamp[0][1]:
                self._forget()
            else:
                self._read_changes()
        except Exception as error:
            self._forget()
            found = self._meaning(error)
            if settled and not isinstance(found, StoreLocked | StoreFull):
                self._stamp = stamp
            raise found from error
        if settled:
            self._stamp = stamp

    def read(self, place: Place) -> Bodies | None:
        """Return the value that a stored result lies in; ``None`` if it is gone.

        Raises:
            StoreError: or one of its kinds.
        """
        name = segments.results_name(place >> ROW_BITS)
        parts = self._parts.get(name)
        if parts is None:
            return None
        try:
            with self._snapshot() as connection:
                value = _value(connection, name, parts)
            head = None if value is None else _checked(name, segments.record(name, value.head))
        except Exception as error:
            raise self._meaning(error) from error
        return Bodies(head, value.body) if value is not None and isinstance(head, ResultsHead) else None

    def accounts(self) -> list[DayAccount]:
        """Return the accounts of days as they are on disk now, the oldest first. Takes little time; any thread may ask.

        Raises:
            StoreError: or one of its kinds: it cannot be read.
        """
        days = [record for record in self._found(_DAYS) if isinstance(record, DayAccount)]
        return sorted(days, key=lambda account: account.day)

    def learned(self) -> list[Habit | Seen]:
        """Return what answers taught, as it is on disk now.

        Raises:
            StoreError: or one of its kinds: it cannot be read.
        """
        return [record for record in self._found(_LEARNED) if isinstance(record, Habit | Seen)]

    def backlog(self) -> tuple[int, list[Job]]:
        """Return how many requests have no answer, and the jobs that are not closed, of every origin. It takes time.

        Raises:
            StoreError: or one of its kinds: it cannot be read.
        """
        found = self._found(_OPEN)
        rows = sum(len(record.keys) for record in found if isinstance(record, SegmentHead))
        done = sum(len(record.done) - record.done.count(0) for record in found if isinstance(record, Marks))
        return rows - done, [record for record in found if isinstance(record, Job)]

    def _found(self, which: str) -> list[Record | None]:
        if not _file_stamp(self._files[0]):
            return []
        try:
            with self._snapshot() as connection:
                return [_record(connection, name, parts) for name, parts in _named_parts(connection, which).items()]
        except Exception as error:
            raise self._meaning(error) from error

    def _look(self) -> _Stamp:
        return _file_stamp(self._files[0]), _file_stamp(self._files[1])

    @contextmanager
    def _snapshot(self) -> Generator[sqlite3.Connection]:
        # Not kept open: that would keep its owner, who closes it, from moving what is in the log to its place, and so
        # from overwriting what was deleted.
        uri = f"{self._database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield connection

    def _meaning(self, error: Exception) -> StoreError:
        found = meaning(error, self.folder)
        cannot_open = getattr(error, "sqlite_errorcode", 0) & _PRIMARY == sqlite3.SQLITE_CANTOPEN
        if cannot_open and self._database.is_file() and all(os.access(*one) for one in self._access):
            # Nobody forbids it: there are too many open files, or there is no memory.
            found = StoreLocked(f"the database cannot be opened now ({error})")
        return type(found)(f"{self.folder}: {found}")

    def _read_changes(self) -> None:
        with self._snapshot() as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            rows: set[_Row] = set(connection.execute(_ROWS)) if "Cache" in tables else set()
            changed = self._changed_parts(self._rows - rows, rows - self._rows)
            if segments.META in changed:  # first of all: what a later version wrote may be of any form
                _record(connection, segments.META, changed[segments.META])
            records = [(name, _record(connection, name, changed[name])) for name in sorted(changed, key=segments.order)]
        for name, parts in changed.items():
            self._drop(self._records.pop(name, None))
            self._parts[name] = parts
            if not parts:
                del self._parts[name]
        for name, record in records:
            if record is not None and self._is_of_use(record):
                self._records[name] = record
                if isinstance(record, SegmentHead | ResultsHead):
                    self._table(record).update(_explicit(record))
        self._rows = rows

    def _changed_parts(self, gone: set[_Row], new: set[_Row]) -> dict[str, list[_Part]]:
        """Return the parts of each value that has others than before; none of one that is gone."""
        changed: dict[str, list[_Part]] = {}
        for key, *_, rowid, stored_at, length in gone:
            name, number = part_of(key)
            changed.setdefault(name, self._parts[name].copy()).remove((number, rowid, stored_at, length))
        for key, *columns, rowid, stored_at, length in new:
            check_row(*columns)
            name, number = part_of(key)
            changed.setdefault(name, self._parts.get(name, []).copy()).append((number, rowid, stored_at, length))
        for parts in changed.values():
            parts.sort()
        return changed

    def _drop(self, record: Record | None) -> None:
        if isinstance(record, SegmentHead | ResultsHead):
            table = self._table(record)
            for key, place in _explicit(record).items():
                if table.get(key) == place:
                    del table[key]

    def _table(self, record: SegmentHead | ResultsHead) -> dict[str, Place]:
        return self._live if isinstance(record, SegmentHead) else self._kept

    def _is_of_use(self, record: Record) -> bool:
        match record:
            case SegmentHead() | ResultsHead():
                return record.origin == self._origin and any(flags & EXPLICIT for flags in record.flags)
            case Job():
                return record.origin == self._origin
            case Marks() | Taken():
                return True
            case Meta() | DayAccount() | Habit() | Seen():
                return False
            case _:
                assert_never(record)


def _explicit(record: SegmentHead | ResultsHead) -> dict[str, Place]:
    return {key: place_of(record.no, row) for row, key in enumerate(record.keys) if record.flags[row] & EXPLICIT}


def _is_set(column: bytes, place: Place) -> bool:
    row = place & ROW_MASK
    return column[row : row + 1] not in (b"", b"\0")


def _digest(head: SegmentHead | ResultsHead, place: Place) -> bytes:
    row = place & ROW_MASK
    return head.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]


def _file_stamp(path: str) -> _FileStamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - asked for each new key
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_settled(written_ns: int, now_ns: int) -> bool:
    """Return whether a file that is written from now on will have another stamp."""
    return written_ns < now_ns - (_RACY_NS if written_ns % _SECOND_NS else _RACY_SECONDS_NS)


def _record(connection: sqlite3.Connection, name: str, parts: list[_Part]) -> Record | None:
    if not parts:
        return None
    _, rowid, _, length = parts[0]
    if length > _WHOLE_BYTES:
        with connection.blobopen("Cache", "value", rowid, readonly=True) as blob:
            start = blob.read(segments.HEADER_BYTES)
            segments.size_bytes(name, start)
            size = segments.head_bytes(start)
            if segments.HEADER_BYTES + size <= length:
                return _checked(name, segments.record(name, memoryview(blob.read(size))))
    value = _value(connection, name, parts)
    return None if value is None else _checked(name, segments.record(name, value.head))


def _value(connection: sqlite3.Connection, name: str, parts: Iterable[_Part]) -> segments.Value | None:
    rows: list[bytes] = []
    for number, _, _, _ in parts:
        found = connection.execute(_VALUE, (f"{name}/{number}" if number else name,)).fetchall()
        if len(found) != 1 or type(found[0][0]) is not bytes:
            return None
        rows.append(found[0][0])
    return segments.decode(name, rows[0] if len(rows) == 1 else b"".join(rows))


def _named_parts(connection: sqlite3.Connection, which: str) -> dict[str, list[_Part]]:
    """Return the parts of the values whose names a condition finds."""
    named: dict[str, list[_Part]] = {}
    if not connection.execute(_HAS_TABLE).fetchone():
        return named
    for key, *columns, rowid, stored_at, length in connection.execute(f"{_ROWS} WHERE {which}"):
        check_row(*columns)
        name, number = part_of(key)
        named.setdefault(name, []).append((number, rowid, stored_at, length))
    return {name: sorted(parts) for name, parts in named.items()}


def _checked(name: str, record: Record) -> Record:
    """Return a record whose columns are as long as each other, of a format that is known.

    Raises:
        StoreCorrupt: they are not.
        StoreVersion: a later version of carpool wrote it.
    """
    columns: tuple[tuple[bytes | list[int], int], ...]
    match record:
        case SegmentHead():
            columns = ((record.flags, 1), (record.digests, DIGEST_BYTES))
        case ResultsHead():
            columns = ((record.flags, 1), (record.digests, DIGEST_BYTES), (record.failed, 1), (record.ends, 8))
            columns = (*columns, (record.places, 1))
        case Meta() if record.format > FORMAT:
            raise StoreVersion(f"format {record.format} is from a later version of carpool: upgrade it")
        case _:
            return record
    if any(len(column) != len(record.keys) * size for column, size in columns):
        raise StoreCorrupt(f"{name} is damaged: its columns are not as long as each other")
    return record


def accounts_of(peek: Peek) -> list[DayAccount]:
    """Return the accounts of days of a slot; what a process that is gone had granted to live calls is lost.

    Raises:
        StoreError: or one of its kinds: it cannot be read.
    """
    accounts = peek.accounts()
    return [account.left() for account in accounts] if is_free(peek.folder) else accounts
