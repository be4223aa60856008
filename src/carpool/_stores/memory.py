"""The store in memory: the reference twin of the one on disk, for tests and for programs that may forget.

Owns nothing that outlives the process. Records are kept encoded, so that whoever changes one
afterwards changes no store.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import string
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final, TypeAlias, assert_never

import msgspec

from carpool._core.messages import (
    DropDays,
    DropJob,
    DropResults,
    DropSegments,
    PutDay,
    PutHabit,
    PutJob,
    PutMarks,
    PutMeta,
    PutResults,
    PutSeen,
    PutSegment,
    PutTaken,
    Record,
    Write,
)
from carpool._core.model import ROW_BITS, ROW_MASK, Meta, Place, ResultsHead, SegmentHead, Span
from carpool._stores import segments
from carpool.errors import StoreCorrupt, StoreError

_Value: TypeAlias = tuple[bytes, bytes, memoryview]
"""An encoded record, the rows that belong to it, and where each of them ends."""
_NO_ROWS: Final = (b"", memoryview(b"").cast("Q"))

_ID_CHARS: Final = string.ascii_lowercase + string.digits


class MemoryStore:
    """A store that lasts as long as the process does.

    Args:
        meta: identity to begin with; a fresh one if not given.
    """

    def __init__(self, meta: Meta | None = None) -> None:
        if meta is None:
            meta = Meta(store_id="".join(secrets.choice(_ID_CHARS) for _ in range(8)))
        self._store_id = meta.store_id
        self._values: dict[str, _Value] = {segments.META: (_encoded(meta), *_NO_ROWS)}
        self._pid = os.getpid()
        self._state = "not open"

    def __repr__(self) -> str:
        return f"<MemoryStore {self._store_id} {self._state}>"

    def reopened(self) -> MemoryStore:
        """Return a new store, not yet open, that holds what was committed to this one: what a crash leaves behind."""
        store = MemoryStore(Meta(store_id=self._store_id))
        store._values = self._values.copy()
        return store

    @property
    def room_bytes(self) -> int:
        """No limit of its own."""
        return sys.maxsize

    async def open(self) -> None:
        """Get ready."""
        if self._state != "not open":
            raise StoreError("the store was opened before: make a new one")
        self._state = "open"

    async def close(self) -> None:
        """Let go. Does nothing the second time."""
        if self._state == "open":
            self._state = "closed"

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        """Apply writes at once, all of them or none; what is returned is done already.

        Raises:
            StoreError: one of them cannot be stored.
        """
        self._check()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            changes = [change for write in writes for change in self._changes(write)]
        except StoreError as error:
            done.set_exception(error)
            return done
        for name, value in changes:
            if value is None:
                self._values.pop(name, None)
            else:
                self._values[name] = value
        done.set_result(None)
        return done

    def _changes(self, write: Write) -> list[tuple[str, _Value | None]]:
        match write:
            case PutMeta(meta):
                segments.check_identity(meta, self._store_id)
                return [(segments.META, (_encoded(meta), *_NO_ROWS))]
            case PutSegment(head, rows):
                return [(segments.segment_name(head.no), _with_rows(head, rows))]
            case PutMarks(marks):
                return [(segments.marks_name(marks.no), (_encoded(marks), *_NO_ROWS))]
            case DropSegments(numbers):
                return [(name(no), None) for no in numbers for name in (segments.segment_name, segments.marks_name)]
            case PutJob(job):
                return [(segments.job_name(job.id), (_encoded(job), *_NO_ROWS))]
            case DropJob(job_id):
                return [(segments.job_name(job_id), None)]
            case PutResults(head, rows):
                return [(segments.results_name(head.no), _with_rows(head, rows))]
            case PutTaken(taken):
                return [(segments.taken_name(taken.no), (_encoded(taken), *_NO_ROWS))]
            case DropResults(numbers):
                return [(name(no), None) for no in numbers for name in (segments.results_name, segments.taken_name)]
            case PutDay(account):
                return [(segments.day_name(account.base_url, account.day), (_encoded(account), *_NO_ROWS))]
            case DropDays(days, base_url):
                return [(segments.day_name(base_url, day), None) for day in days]
            case PutHabit(habit):
                return [(segments.habit_name(habit.base_url, habit.model), (_encoded(habit), *_NO_ROWS))]
            case PutSeen(seen):
                return [(segments.seen_name(seen.base_url, seen.model, seen.route), (_encoded(seen), *_NO_ROWS))]
            case _:
                assert_never(write)

    def load(self) -> AsyncIterator[Record]:
        """Iterate over all records as they stood when it began: identity, segments, marks, jobs, results."""
        self._check()
        return self._load(self._values.copy())

    async def _load(self, values: dict[str, _Value]) -> AsyncIterator[Record]:
        for name in sorted(values, key=segments.order):
            yield segments.record(name, memoryview(values[name][0]))

    def read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        """Iterate over the lines of these rows: one chunk a span."""
        self._check()
        return self._read(spans)

    async def _read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        for no, start, stop in spans:
            yield self._rows(segments.segment_name(no), start, stop)

    async def results(self, places: Sequence[Place]) -> list[bytes]:
        """Return the bodies of stored results; a place here is a results number and a row."""
        self._check()
        rows = ((segments.results_name(place >> ROW_BITS), place & ROW_MASK) for place in places)
        return [self._rows(name, row, row + 1) for name, row in rows]

    def _rows(self, name: str, start: int, stop: int) -> bytes:
        value = self._values.get(name)
        if value is None:
            raise StoreCorrupt(f"there is no {name}")
        _, rows, ends = value
        if not 0 <= start <= stop <= len(ends):
            raise StoreCorrupt(f"{name} has no rows {start} to {stop}: it has {len(ends)}")
        return rows[ends[start - 1] if start else 0 : ends[stop - 1] if stop else 0]

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError("the store was made before this process was forked: make a new one in the child")
        if self._state != "open":
            raise StoreError(f"the store is {self._state}")


def _encoded(record: Record) -> bytes:
    try:
        return msgspec.msgpack.encode(record)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise StoreError(f"a {type(record).__name__} cannot be stored: {error}") from error


def _with_rows(head: SegmentHead | ResultsHead, rows: Sequence[bytes | bytearray]) -> _Value:
    try:
        joined = b"".join(rows)
    except TypeError as error:
        raise StoreError(f"the rows of a {type(head).__name__} cannot be stored: {error}") from error
    segments.check_rows(head, len(joined))
    return _encoded(head), joined, memoryview(head.ends).cast("Q")
