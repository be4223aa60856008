"""Stored results: what finds them, who may have them, and when they go.

Owns the way from a result's first record to its last: results of explicit keys stay for whoever asks, those of
automatic keys until somebody took them. It must not know jobs beyond their names.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

import msgspec

from carpool._core.book import Book, spans_of
from carpool._core.messages import DropResults, PutResults
from carpool._core.model import (
    ABANDONED,
    DIGEST_BYTES,
    EXPLICIT,
    NAMED,
    ROW_BITS,
    ROW_MASK,
    UNKNOWN_DIGEST,
    Job,
    Lane,
    Place,
    ResultsHead,
    Segment,
    Taken,
    place_of,
)
from carpool._core.output import Run
from carpool.settings import Route, Settings

ASIDE_KEY_CHARS: Final = 256
_KEPT_FLAGS: Final = bytes(flags & ~ABANDONED for flags in range(256))
ROWS_A_STEP: Final = 5_000
"""How many rows that are past their time a step goes through: some 10 ms."""
_EXPLICIT_BYTES: Final = bytes(flags & EXPLICIT for flags in range(256))


class KeptRow(msgspec.Struct, frozen=True, gc=False):
    """A result to be stored."""

    place: Place
    key: str
    digest: bytes
    flags: int
    failed: bool
    body: bytes


def row_of(segment: Segment, row: int, body: bytes, *, failed: bool) -> KeptRow:
    """Return the result of a request, to be stored."""
    return KeptRow(
        place=place_of(segment.no, row),
        key=segment.keys[row],
        digest=segment.digest(row),
        flags=segment.flags[row],
        failed=failed,
        body=body,
    )


class Columns:
    """Results to be stored, in columns: those of a job may be a million."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.keys: list[str] = []
        self.digests = bytearray()
        self.flags = bytearray()
        self.failed = bytearray()
        self.bodies: list[bytes] = []

    @classmethod
    def of(cls, rows: Iterable[KeptRow]) -> Columns:
        """Return rows as columns."""
        columns = cls()
        for row in rows:
            columns.add(row)
        return columns

    def add(self, row: KeptRow) -> None:
        """Add a result."""
        self.places.append(row.place)
        self.keys.append(row.key)
        self.digests += row.digest
        self.flags.append(row.flags)
        self.failed.append(row.failed)
        self.bodies.append(row.body)

    def add_run(self, segment: Segment, run: Run) -> None:
        """Add the answers to rows of a segment that follow each other."""
        start, stop = run.start, run.stop
        self.places += run.places
        self.keys += segment.keys[start:stop]
        self.digests += segment.digests[start * DIGEST_BYTES : stop * DIGEST_BYTES]
        self.flags += segment.flags[start:stop]
        self.failed += bytes(run.count)
        self.bodies += run.bodies or ()


def keep(  # noqa: PLR0917 - as a record has them
    book: Book, lane: Lane, job_name: str, rows: Iterable[KeptRow], now: float, route: Route = "batch"
) -> ResultsHead:
    """Store results, let their keys find them, and return their record."""
    return keep_columns(book, lane, job_name, Columns.of(rows), now, route)


def keep_columns(  # noqa: PLR0917 - as a record has them
    book: Book, lane: Lane, job_name: str, rows: Columns, now: float, route: Route = "batch"
) -> ResultsHead:
    """Store results as ``keep`` does."""
    head = ResultsHead(
        no=book.next_results,
        origin=book.origin,
        lane=lane,
        job=job_name,
        kept_at=now,
        places=rows.places,
        keys=rows.keys,
        digests=bytes(rows.digests),
        flags=bytes(rows.flags.translate(_KEPT_FLAGS)),
        failed=bytes(rows.failed),
        ends=array("Q", accumulate(map(len, rows.bodies))).tobytes(),
        route=route,
        text_only=lane.kind == "embed" and book.is_text_only(lane, spans_of(rows.places)),
    )
    book.next_results += 1
    if not NAMED.issuperset(rows.flags):
        book.handed.update(
            (place, place_of(head.no, at))
            for at, (place, flags) in enumerate(zip(rows.places, rows.flags, strict=True))
            if not flags & (EXPLICIT | ABANDONED)
        )
    index_results(book, head)
    book.write(PutResults(head=head, bodies=rows.bodies))
    return head


def set_aside(book: Book, job: Job, rows: list[tuple[str, bytes]], now: float) -> None:
    """Store rows of a job's output that are not its answers under keys of their own, for an operator to look at."""
    no = book.next_segment
    book.next_segment += len(rows)
    kept = (
        KeptRow(
            place=place_of(no + number, 0),
            key=f"aside/{job.name}/{number}/{key}"[:ASIDE_KEY_CHARS],
            digest=UNKNOWN_DIGEST,
            flags=EXPLICIT,
            failed=False,
            body=body,
        )
        for number, (key, body) in enumerate(rows)
    )
    keep(book, job.lane, job.name, kept, now)


def index_results(book: Book, head: ResultsHead) -> None:
    """Let the keys of stored results find them, and offer those of automatic keys that no awaiter will take."""
    book.results[head.no] = head
    book.results_open[head.no] = len(head.keys)
    if NAMED.issuperset(head.flags):
        book.keys.keep(head.keys, place_of(head.no, 0))
        return
    for row, key in enumerate(head.keys):
        place = place_of(head.no, row)
        if head.flags[row] & EXPLICIT:
            book.keys.keep((key,), place)
        elif head.places[row] not in book.handed:
            offer(book, place)


def offer(book: Book, place: Place) -> None:
    """Let identical calls adopt the stored result of an automatic key."""
    head, row = book.results[place >> ROW_BITS], place & ROW_MASK
    book.keys.abandon(head.digests[row * 16 : row * 16 + 16], head.kept_at, place, kept=True)


def release_handed(book: Book, now: float, age_s: float) -> bool:
    """Let go of results handed to awaiters some time ago; return whether there are more of them."""
    due: list[Place] = []
    for request, place in book.handed.items():  # the oldest first
        if len(due) > ROWS_A_STEP or now - book.results[place >> ROW_BITS].kept_at < age_s:
            break
        due.append(request)
    for request in due:
        release(book, book.handed.pop(request))
    return len(due) > ROWS_A_STEP


def release(book: Book, place: Place) -> None:
    """Note that a stored result is needed no more; the last one of its record drops it."""
    no, row = place >> ROW_BITS, place & ROW_MASK
    if no not in book.results:
        return  # too old meanwhile
    taken = book.taken.setdefault(no, bytearray(len(book.results[no].keys)))
    if taken[row]:
        return
    taken[row] = 1
    book.results_open[no] -= 1
    if book.results_open[no] == 0:
        drop(book, [no])
    else:
        book.took(no)


def index_taken(book: Book, record: Taken) -> None:
    """Withdraw the offers of stored results that an earlier process delivered."""
    head = book.results[record.no]
    book.taken[record.no] = bytearray(record.rows)
    for row, key in enumerate(head.keys):
        if not record.rows[row]:
            continue
        book.results_open[record.no] -= 1
        place = place_of(record.no, row)
        book.keys.forget(key, place)
        book.keys.discard(head.digests[row * 16 : row * 16 + 16], head.kept_at, place, kept=True)


def drop_old(book: Book, now: float) -> bool:
    """Forget stored results past their time; return whether there are more of them."""
    old: list[int] = []
    rows = 0
    for no, head in book.results.items():
        if now - head.kept_at <= _keep_s(head, book.settings):
            continue
        if rows >= ROWS_A_STEP:
            break
        old.append(no)
        rows += len(head.keys)
    else:
        rows = 0
    if old:
        drop(book, old)
    return rows > 0


def _keep_s(head: ResultsHead, settings: Settings) -> float:
    explicit = any(head.flags.translate(_EXPLICIT_BYTES))
    return settings.keep_results_s if explicit else settings.reuse_window_s


def drop(book: Book, numbers: list[int]) -> None:
    """Forget stored results, and every key that still leads to them."""
    unmarked: list[int] = []
    for no in numbers:
        head = book.results.pop(no)
        del book.results_open[no]
        book.taken.pop(no, None)
        for row, key in enumerate(head.keys):
            place, request = place_of(no, row), head.places[row]
            unmarked.append(request >> ROW_BITS)
            if book.keys.forget(key, place):
                continue
            if book.handed.get(request) == place:
                del book.handed[request]
            elif not head.flags[row] & EXPLICIT:
                book.keys.discard(head.digests[row * 16 : row * 16 + 16], head.kept_at, place, kept=True)
    # Until its job is closed, a row counts as done on disk only by its result.
    book.sweep_segments(no for no in unmarked if no in book.segments and book.segments[no].jobs)
    book.write(DropResults(numbers=numbers))
