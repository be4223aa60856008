"""Sort a job's output by place: straight to live awaiters, or to be stored first, or an error.

Owns the hottest loop of the way back. A row of an automatic key that somebody awaits is handed over at once; all others
are stored before they count as settled. Rows that come in the order in which they were sent are taken in runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from carpool._core.book import Book
from carpool._core.messages import Answered, RowsFetched
from carpool._core.meter import NO_CHARGE, Meter
from carpool._core.model import EXPLICIT, NAMED, ROW_BITS, ROW_MASK, Place, Segment, Span, place_of
from carpool._core.output import Block, Row, RowFault, Run
from carpool._runtime.arrivals import CAME, WAITED, Arrivals
from carpool._runtime.awaiters import Awaiters, Cell, Waiter
from carpool.types import Facts

ASIDE_ROWS_MAX: Final = 100
ASIDE_BYTES_MAX: Final = 1_048_576
_RUN_ROWS_MIN: Final = 4
"""From so many rows on it takes less time to settle them together."""
BARE: Final = frozenset({asyncio.Future})
"""Type of the cells of awaited rows with one awaiter each."""


class Handful(NamedTuple):
    """Answers for awaiters, in columns."""

    waiters: list[Waiter]
    places: Sequence[Place]
    bodies: list[bytes]


class Sorted(NamedTuple):
    """A block of a job's output, or what a live call brought, sorted."""

    event: RowsFetched | Answered
    handovers: list[Handful]
    """Answers that go straight to awaiters, once the engine has taken the event."""
    facts: Facts
    keys: Mapping[Place, str] = MappingProxyType({})
    """Keys of requests that may be forgotten by the time they are handed over; jobs keep theirs."""


class Parting:
    """Parts answers: what goes straight to live awaiters of automatic keys, and what is to be stored first."""

    def __init__(self, segments: dict[int, Segment], columns: dict[int, list[Cell]]) -> None:
        self._segments = segments
        self._columns = columns
        self.handovers: list[Handful] = []
        self.runs: list[Run] = []
        self.delivered: list[Place] = []
        self.kept: list[tuple[Place, bytes]] = []
        self._single = Handful([], self.delivered, [])

    def take_run(self, no: int, start: int, stop: int, bodies: list[bytes]) -> None:
        """Take the answers to a run of rows: in one go if they are all of one kind."""
        flags, count = self._segments[no].flags, stop - start
        if flags.count(0, start, stop) == count:
            column = self._columns.get(no, [])
            cells = column[start:stop]
            if len(cells) == count and BARE.issuperset(map(type, cells)):
                column[start:stop] = [None] * count
                places = range(place_of(no, start), place_of(no, stop))
                self.handovers.append(Handful(cast("list[Waiter]", cells), places, bodies))
                self.runs.append(Run(no, start, stop))
                return
        elif set(flags[start:stop]) <= NAMED:
            self.runs.append(Run(no, start, stop, bodies))
            return
        for row, body in enumerate(bodies, start):
            self.take(no, row, body)

    def take(self, no: int, row: int, body: bytes) -> None:
        """Take one answer."""
        place, column = place_of(no, row), self._columns.get(no)
        if column is not None and row < len(column) and not self._segments[no].flags[row] & EXPLICIT:
            waiter = column[row]
            if isinstance(waiter, asyncio.Future) and not waiter.done():
                column[row] = None
                single = self._single
                if not single.waiters:
                    self.handovers.append(single)
                single.waiters.append(waiter)
                single.bodies.append(body)
                self.delivered.append(place)
                return
        self.kept.append((place, body))


def take_back(columns: dict[int, list[Cell]], handovers: list[Handful]) -> None:
    """Let those who were to be handed answers wait like the others: a bug came between, and they are to be told."""
    for waiters, places, _ in handovers:
        for waiter, place in zip(waiters, places, strict=True):
            column = columns.get(place >> ROW_BITS)
            if column is not None and column[place & ROW_MASK] is None:
                column[place & ROW_MASK] = waiter


class _Lots(NamedTuple):
    """What a block comes to, while it is sorted."""

    parting: Parting
    failed: list[RowFault]
    new: list[bytes]
    """Answers that cost something, since their requests had none."""
    again: list[bytes]
    """Answers that an earlier reading has charged."""


class RowSorter:
    """Sorts the blocks of one fetch. Each key counts once: the first row of a key wins.

    Nothing is kept of a row that was sorted: a key that comes again is remembered, and what its rows say is compared in
    a second reading of the output (``compare``), which hardly any job needs.

    Args:
        book: knows the requests.
        awaiters: who awaits which.
        arrivals: tells which of them keys name, and which have an answer.
        facts: what all answers of the job share.
        meter: prices the answers, those to requests that were answered before too.
        overtaken: requests that a live call answered, by key: what the job says of them is new money. They are taken
            out as they come.
    """

    def __init__(
        self,
        book: Book,
        awaiters: Awaiters,
        arrivals: Arrivals,
        facts: Facts,
        *,
        meter: Meter,
        overtaken: dict[str, Place] | None = None,
    ) -> None:
        self._book = book
        self._columns = awaiters.columns
        self._arrivals = arrivals
        self._facts = facts
        self._meter = meter
        self._overtaken = {} if overtaken is None else overtaken
        self.doubled: set[str] = set()
        """Keys that came more than once."""
        self._firsts: dict[str, int | None] = {}
        """Hashes of their first answers; ``None``: that was no answer."""
        self.strangers = 0
        """Rows that are no answers of the job: of another key, doubled with other bytes, or unreadable."""
        self.aside: list[tuple[str, bytes]] = []
        """Key and bytes of the first of them."""
        self._aside_bytes = 0

    def sort(self, job_id: str, op: int, block: Block) -> Sorted:
        """Sort one block."""
        lots = _Lots(Parting(self._book.segments, self._columns), [], [], [])
        at = 0
        try:
            for span in self._arrivals.find(block.keys):
                if span is None:
                    self._set_aside(block, at)
                    at += 1
                else:
                    self._sort_run(block, at, span, lots)
                    at += span[2] - span[1]
            parting, new = lots.parting, lots.new
            charge = self._meter.charge(new, block.lines if len(new) == len(block.keys) else b"")
            repeated = self._meter.charge(lots.again) if lots.again else NO_CHARGE
        except BaseException:
            take_back(self._columns, lots.parting.handovers)
            raise
        self.strangers += block.unreadable
        event = RowsFetched(
            job_id, op, parting.delivered, parting.kept, lots.failed, charge, again=repeated, runs=parting.runs
        )
        return Sorted(event, parting.handovers, self._facts)

    def _sort_run(self, block: Block, at: int, span: Span, lots: _Lots) -> None:
        """Sort the rows of a block, from an index on, that belong to a run of requests."""
        no, start, stop = span
        marks, count = self._arrivals.marks[no], stop - start
        if count >= _RUN_ROWS_MIN and marks.count(WAITED, start, stop) == count and not block.errors:
            bodies = block.bodies[at : at + count]
            lots.parting.take_run(no, start, stop, bodies)
            lots.new.extend(bodies)
        else:
            for row in range(start, stop):
                self._sort_row(block, at + row - start, no, row, lots)
        marks[start:stop] = bytes((CAME,)) * count

    def _sort_row(self, block: Block, at: int, no: int, row: int, lots: _Lots) -> None:
        key, body, error, mark = block.keys[at], block.bodies[at], block.errors.get(at), self._arrivals.marks[no][row]
        if mark == WAITED:
            if error is not None:
                lots.failed.append(RowFault(place_of(no, row), error))
            else:
                lots.new.append(body)
                lots.parting.take(no, row, body)
        elif mark == CAME:
            self.doubled.add(key)
        elif error is None:
            (lots.new if self._overtaken.pop(key, None) is not None else lots.again).append(body)

    def compare(self, block: Block) -> None:
        """Set aside what keys that came more than once say besides their first rows; to be called in a second reading.

        The same again, and an error after whatever came first, is nothing to be told.
        """
        for at, key in enumerate(block.keys):
            if key not in self.doubled:
                continue
            told = None if at in block.errors else hash(block.bodies[at])
            if self._firsts.setdefault(key, told) != told and told is not None:
                self._set_aside(block, at)

    def _set_aside(self, block: Block, at: int) -> None:
        body = block.bodies[at]
        self.strangers += 1
        is_kept = len(self.aside) < ASIDE_ROWS_MAX and self._aside_bytes + len(body) <= ASIDE_BYTES_MAX
        if is_kept and at not in block.errors:
            self.aside.append((block.keys[at], body))
            self._aside_bytes += len(body)


class StrangerSorter:
    """Sorts the output of a job that this store did not know: all of it is stored before anybody hears of it.

    Args:
        index: places of the requests that its rows may answer.
        facts: what all its answers share.
        meter: prices them.
        charged: keys of the answers that an earlier fetch, which broke off, has charged; those of this one are added.
    """

    def __init__(self, index: dict[str, Place], facts: Facts, meter: Meter, charged: set[str]) -> None:
        self._index = index
        self._facts = facts
        self._meter = meter
        self._charged = charged
        self._seen: set[str] = set()
        self.strangers = 0
        self.aside: list[tuple[str, bytes]] = []

    def sort(self, job_id: str, op: int, block: Block) -> Sorted:
        """Sort one block; rows that came back as errors are left out: their requests, if any, get a verdict later."""
        kept: list[tuple[Place, bytes]] = []
        unclaimed: list[tuple[str, bytes]] = []
        new: list[bytes] = []
        again: list[bytes] = []
        charge, charged, seen = self._meter.charge, self._charged, self._seen
        for key, body, error in block.rows:
            if error is not None:
                continue
            place = self._index.pop(key, -1)
            if place < 0:
                unclaimed.append((key, body))
            else:
                kept.append((place, body))
            if not key or key not in seen:  # the same again costs nothing
                (again if key in charged else new).append(body)
                seen.add(key)
        charged |= seen
        self.strangers += block.unreadable
        event = RowsFetched(job_id, op, [], kept, [], charge(new), unclaimed, charge(again))
        return Sorted(event, [], self._facts)


def name_by_position(rows: list[Row], keys: list[str]) -> list[Row] | None:
    """Return rows without any key under those of the requests, in the order in which they were sent, if they fit.

    The service promises the order of the input, and field reports contradict it: only where a setting says so.
    """
    if len(rows) != len(keys) or any(row.key for row in rows):
        return None
    return [row._replace(key=key) for row, key in zip(rows, keys, strict=True)]
