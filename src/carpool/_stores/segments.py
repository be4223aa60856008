"""The framed, checksummed value: one record and the bytes that belong to it, as they lie in a store.

Owns the layout of a value and the names of values; tells damage from a later version. Pure: it must not know where
values are kept.

A value is a header of 24 bytes (magic, version, kind, sizes, checksum over the rest), a head (a record, msgpack) and
a body (the lines of a segment, the bodies of results; nothing for other records).
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias, assert_never

import msgspec

from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
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
from carpool._core.model import Job, Marks, Meta, ResultsHead, SegmentHead, Taken
from carpool._core.routing import Seen
from carpool.errors import StoreCorrupt, StoreError, StoreVersion
from carpool.settings import Route

Changes: TypeAlias = dict[str, bytearray | None]
"""What is to be stored by name; ``None``: nothing."""

META: Final = "meta"
_LOCKED_BYTES_MAX: Final = 5_120
"""For more, zlib lets go of the interpreter's lock, and to get that back from an event loop that has much to do takes
ten times as long as a megabyte's checksum."""
HEADER_BYTES: Final = 24
_MAGIC: Final = b"crpl"
_VERSION: Final = 1
_PREFIX: Final = struct.Struct(">4sBcxxIQ")
_CHECKSUM: Final = struct.Struct(">I")
_END_BYTES: Final = 8

_TYPES: Final[dict[str, type[Record]]] = {
    "meta": Meta,
    "s": SegmentHead,
    "m": Marks,
    "j": Job,
    "r": ResultsHead,
    "t": Taken,
    "d": DayAccount,
    "h": Habit,
    "u": Seen,
}
_DECODERS: Final = {kind: msgspec.msgpack.Decoder(record) for kind, record in _TYPES.items()}
_RANKS: Final = {kind: rank for rank, kind in enumerate(_TYPES)}
_NUMBERED_KINDS: Final = frozenset("smrtd")
"""Kinds whose names have a number."""
_NUMBERED: Final = re.compile(r"[smrt]([0-9]+)|d([0-9]+):[0-9a-f]{12}")


class Value(NamedTuple):
    """A value whose checksum is right."""

    head: memoryview
    body: memoryview


def segment_name(no: int) -> str:
    """Return the name of a segment's value."""
    return f"s{no}"


def marks_name(no: int) -> str:
    """Return the name of the value that says what became of a segment's rows."""
    return f"m{no}"


def results_name(no: int) -> str:
    """Return the name of the value of stored results."""
    return f"r{no}"


def taken_name(no: int) -> str:
    """Return the name of the value that says which stored results were delivered."""
    return f"t{no}"


def day_name(base_url: str, day: int) -> str:
    """Return the name of the value of a day's account with a service."""
    return f"d{day}:{_short(base_url)}"


def habit_name(base_url: str, model: str) -> str:
    """Return the name of the value of what was learned of a model of a service; a slash would part it."""
    return f"h{_short(base_url)}:{model.replace('/', ':')}"


def seen_name(base_url: str, model: str, route: Route) -> str:
    """Return the name of the value that says how long a route took for a model of a service."""
    return f"u{_short(base_url)}:{route}:{model.replace('/', ':')}"


@lru_cache
def _short(base_url: str) -> str:
    """Return what stands for a base URL in a name, which may have no slash: always as long."""
    return sha256(base_url.encode()).hexdigest()[:12]


def job_name(job_id: str) -> str:
    """Return the name of a job's value."""
    if "/" in job_id:
        raise StoreError(f"job id {job_id!r} has a slash in it and cannot be stored")
    return f"j{job_id}"


def order(name: str) -> tuple[int, int, str]:
    """Return where a value comes when all are loaded.

    Identity, segments by number, marks, jobs, results, what was taken of them, days, habits, durations.

    Raises:
        StoreCorrupt: no value has such a name.
    """
    kind = _kind(name)
    rank = _RANKS.get(kind)
    number = name[1:]
    numbered = _NUMBERED.fullmatch(name)
    if rank is None or (kind in _NUMBERED_KINDS and numbered is None):
        raise StoreCorrupt(f"the store holds {name[:80]!r}, which carpool did not write")
    return (rank, 0, number) if numbered is None else (rank, int(numbered[1] or numbered[2]), number)


def _kind(name: str) -> str:
    return name if name == META else name[:1]


def encode(name: str, record: Record, body: Sequence[bytes | bytearray] = ()) -> bytearray:
    """Return the value of a record.

    Raises:
        StoreError: something in it is not of the type that it should be.
    """
    try:
        head = msgspec.msgpack.encode(record)
        value = bytearray().join([bytes(HEADER_BYTES), head, *body])
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise StoreError(f"{name} cannot be stored: {error}") from error
    _PREFIX.pack_into(value, 0, _MAGIC, _VERSION, name[:1].encode(), len(head), len(value) - HEADER_BYTES - len(head))
    _CHECKSUM.pack_into(value, _PREFIX.size, _checksum(value, _LOCKED_BYTES_MAX))
    return value


def _checksum(value: bytes | bytearray, step_bytes: int = sys.maxsize) -> int:
    view = memoryview(value)
    found = zlib.crc32(view[: _PREFIX.size])
    for start in range(HEADER_BYTES, len(view), step_bytes):
        found = zlib.crc32(view[start : start + step_bytes], found)
    return found


def size_bytes(name: str, start: bytes) -> int:
    """Return the whole size of a value of which only the start is at hand.

    Raises:
        StoreCorrupt: this is not the start of such a value.
        StoreVersion: a later version of carpool wrote it.
    """
    if len(start) < HEADER_BYTES:
        raise StoreCorrupt(f"{name} is damaged: it is only {len(start)} bytes long")
    magic, version, kind, head_bytes, body_bytes = _PREFIX.unpack_from(start)
    if magic != _MAGIC:
        raise StoreCorrupt(f"{name} is damaged: it does not start as carpool's values do")
    if version > _VERSION:
        raise StoreVersion(f"{name} has format {version}; this version of carpool reads up to {_VERSION}: upgrade it")
    if kind != name[:1].encode():
        raise StoreCorrupt(f"{name} is damaged: it holds a record of another kind")
    return HEADER_BYTES + int(head_bytes) + int(body_bytes)


def head_bytes(start: bytes) -> int:
    """Return how long the head is of a value whose start was checked by ``size_bytes``."""
    return int(_PREFIX.unpack_from(start)[3])


def decode(name: str, value: bytes) -> Value:
    """Check a value and return its parts.

    Raises:
        StoreCorrupt: it is not what was written.
        StoreVersion: a later version of carpool wrote it.
    """
    size = size_bytes(name, value)
    if size != len(value):
        raise StoreCorrupt(f"{name} is damaged: it is {len(value)} bytes long where {size} were written")
    (checksum,) = _CHECKSUM.unpack_from(value, _PREFIX.size)
    if checksum != _checksum(value):
        raise StoreCorrupt(f"{name} is damaged: its checksum does not fit")
    head_bytes = _PREFIX.unpack_from(value)[3]
    view = memoryview(value)[HEADER_BYTES:]
    return Value(view[:head_bytes], view[head_bytes:])


def record(name: str, head: memoryview) -> Record:
    """Return the record in a head.

    Raises:
        StoreCorrupt: it is none, or that of another name.
    """
    try:
        found = _DECODERS[_kind(name)].decode(head)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"{name} is damaged: its head cannot be read ({error})") from None
    if _name_of(found) != name:
        raise StoreCorrupt(f"{name} is damaged: it holds {_name_of(found)[:80]!r}")
    return found


def _name_of(found: Record) -> str:
    match found:
        case Meta():
            return META
        case SegmentHead():
            return segment_name(found.no)
        case Marks():
            return marks_name(found.no)
        case Job():
            return job_name(found.id)
        case ResultsHead():
            return results_name(found.no)
        case Taken():
            return taken_name(found.no)
        case DayAccount():
            return day_name(found.base_url, found.day)
        case Habit():
            return habit_name(found.base_url, found.model)
        case Seen():
            return seen_name(found.base_url, found.model, found.route)
        case _:
            assert_never(found)


def lines(name: str, value: Value, rows: Iterable[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of some rows of a segment (or of results), each from a first row up to another.

    Raises:
        StoreCorrupt: it has no such rows.
    """
    found = record(name, value.head)
    assert isinstance(found, SegmentHead | ResultsHead)
    ends = memoryview(found.ends).cast("Q")
    slices: list[bytes] = []
    for start, stop in rows:
        if not 0 <= start <= stop <= len(ends):
            raise StoreCorrupt(f"{name} has no rows {start} to {stop}: it has {len(ends)}")
        first = ends[start - 1] if start else 0
        last = ends[stop - 1] if stop else 0
        if not first <= last <= len(value.body):
            raise StoreCorrupt(f"{name} is damaged: its rows {start} to {stop} lie outside of it")
        slices.append(bytes(value.body[first:last]))
    return slices


def encode_all(writes: Sequence[Write], store_id: str) -> Changes:
    """Return what a commit changes, the last write to a name winning.

    Args:
        writes: what to write, in order.
        store_id: the identity that the store has; no write may change it.

    Raises:
        StoreError: one of them cannot be stored; then none should be.
    """
    # Whole records are encoded last: a commit of many steps replaces some of them again and again.
    changes: dict[str, Record | bytearray | None] = {}
    for write in writes:
        match write:
            case PutMeta(meta):
                check_identity(meta, store_id)
                changes[META] = meta
            case PutSegment(head, rows):
                changes[segment_name(head.no)] = _encode_rows(segment_name(head.no), head, rows)
            case PutMarks(marks):
                changes[marks_name(marks.no)] = marks
            case DropSegments(numbers):
                changes.update((name(no), None) for no in numbers for name in (segment_name, marks_name))
            case PutJob(job):
                changes[job_name(job.id)] = job
            case DropJob(job_id):
                changes[job_name(job_id)] = None
            case PutResults(head, rows):
                changes[results_name(head.no)] = _encode_rows(results_name(head.no), head, rows)
            case PutTaken(taken):
                changes[taken_name(taken.no)] = taken
            case DropResults(numbers):
                changes.update((name(no), None) for no in numbers for name in (results_name, taken_name))
            case PutDay(account):
                changes[_name_of(account)] = account
            case DropDays(days, base_url):
                changes.update((day_name(base_url, day), None) for day in days)
            case PutHabit(habit):
                changes[_name_of(habit)] = habit
            case PutSeen(seen):
                changes[_name_of(seen)] = seen
            case _:
                assert_never(write)
    return {
        name: encode(name, change) if isinstance(change, msgspec.Struct) else change for name, change in changes.items()
    }


def _encode_rows(name: str, head: SegmentHead | ResultsHead, rows: Sequence[bytes | bytearray]) -> bytearray:
    value = encode(name, head, rows)
    check_rows(head, _PREFIX.unpack_from(value)[4])
    return value


def check_identity(meta: Meta, store_id: str) -> None:
    """Raise ``StoreError`` unless the record has the identity that the store has."""
    if meta.store_id != store_id:
        raise StoreError(f"the store is {store_id!r} and cannot become {meta.store_id!r}")


def check_rows(head: SegmentHead | ResultsHead, size: int) -> None:
    """Raise ``StoreError`` unless the head fits its rows: if not, it would be found out when it is too late.

    Args:
        head: the record.
        size: the rows' bytes.
    """
    last = int.from_bytes(head.ends[-_END_BYTES:], sys.byteorder)
    if (len(head.ends), last) != (len(head.keys) * _END_BYTES, size):
        raise StoreError(
            f"{_name_of(head)} cannot be stored: its rows have {size} bytes,"
            f" where its head tells of {len(head.keys)} keys, {len(head.ends) // _END_BYTES} ends and {last} bytes"
        )
