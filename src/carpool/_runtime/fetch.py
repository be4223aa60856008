"""Sort a job's output by place: straight to live awaiters, or to be stored first, or an error.

Owns the hottest loop of the way back. A row of an automatic key that somebody awaits is handed over at once; all others
are stored before they count as settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from carpool._core.book import Book
from carpool._core.messages import Answered, RowsFetched
from carpool._core.meter import NO_CHARGE, Charge, Meter
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Block, Place, Row, RowFault
from carpool._runtime.awaiters import Awaiters, Waiter
from carpool.types import Facts

ASIDE_ROWS_MAX: Final = 100
ASIDE_BYTES_MAX: Final = 1_048_576


class Sorted(NamedTuple):
    """A block of a job's output, or what a live call brought, sorted."""

    event: RowsFetched | Answered
    handovers: list[tuple[Waiter, Place, bytes]]
    """Answers that go straight to awaiters, once the engine has taken the event."""
    facts: Facts
    keys: Mapping[Place, str] = MappingProxyType({})
    """Keys of requests that may be forgotten by the time they are handed over; jobs keep theirs."""


class RowSorter:
    """Sorts the blocks of one fetch. Each key counts once: the first row of a key wins.

    Nothing is kept of a row that was sorted: a key that comes again is remembered, and what its rows say is compared in
    a second reading of the output (``compare``), which hardly any job needs.

    Args:
        book: knows the requests.
        awaiters: who awaits which.
        index: places of the job's requests that have no answer yet.
        facts: what all answers of the job share.
        keys: gives all keys of the job, those answered before included.
        answered: keys of the job that were answered by an earlier fetch, which broke off.
        meter: prices the answers, those to ``answered`` too; ``None``: whoever sorts does that.
        overtaken: of ``answered``, those that a live call answered, by key: what the job says of them is new money.
            They are taken out as they come.
    """

    def __init__(
        self,
        book: Book,
        awaiters: Awaiters,
        index: dict[str, Place],
        facts: Facts,
        *,
        keys: Callable[[], list[str]],
        answered: set[str],
        meter: Meter | None = None,
        overtaken: dict[str, Place] | None = None,
    ) -> None:
        self._overtaken = {} if overtaken is None else overtaken
        self._book = book
        self._columns = awaiters.columns
        self._index = index
        self._facts = facts
        self._keys = keys
        self._job_keys: frozenset[str] | None = None
        self._answered = answered
        self._meter = meter
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
        pop, segments, columns = self._index.pop, self._book.segments, self._columns
        delivered: list[Place] = []
        handovers: list[tuple[Waiter, Place, bytes]] = []
        kept: list[tuple[Place, bytes]] = []
        failed: list[RowFault] = []
        bodies: list[bytes] = []
        again: list[bytes] = []
        facts, future_type, overtaken = self._facts, asyncio.Future, self._overtaken
        try:
            for row in block.rows:
                place = pop(row.key, -1)
                if place < 0:
                    if row.key in overtaken and row.error is None:
                        self._answered.discard(row.key)
                        del overtaken[row.key]
                        bodies.append(bytes(row.response))
                    elif self._judge(row):
                        again.append(bytes(row.response))
                    continue
                if row.error is not None:
                    failed.append(RowFault(place, row.error))
                    continue
                body = bytes(row.response)
                bodies.append(body)
                no = place >> ROW_BITS
                column = columns.get(no)
                at = place & ROW_MASK
                if column is not None and at < len(column):
                    waiter = column[at]
                    if isinstance(waiter, future_type) and not waiter.done() and not segments[no].flags[at] & EXPLICIT:
                        handovers.append((waiter, place, body))
                        column[at] = None
                        delivered.append(place)
                        continue
                kept.append((place, body))
            charge, repeated = self._charge(bodies), self._charge(again)
        except BaseException:
            self.take_back(handovers)
            raise
        self.strangers += block.unreadable
        event = RowsFetched(job_id, op, delivered, kept, failed, charge, again=repeated)
        return Sorted(event, handovers, facts)

    def _charge(self, bodies: list[bytes]) -> Charge:
        return self._meter.charge(bodies) if bodies and self._meter is not None else NO_CHARGE

    def take_back(self, handovers: list[tuple[Waiter, Place, bytes]]) -> None:
        """Let those who were to be handed answers wait like the others: a bug came between, and they are to be told."""
        for waiter, place, _ in handovers:
            column = self._columns.get(place >> ROW_BITS)
            if column is not None and column[place & ROW_MASK] is None:
                column[place & ROW_MASK] = waiter

    def compare(self, block: Block) -> None:
        """Set aside what keys that came more than once say besides their first rows; to be called in a second reading.

        The same again, and an error after whatever came first, is nothing to be told.
        """
        for row in block.rows:
            if row.key not in self.doubled:
                continue
            told = None if row.error is not None else hash(bytes(row.response))
            if self._firsts.setdefault(row.key, told) != told and told is not None:
                self._set_aside(row)

    def _judge(self, row: Row) -> bool:
        """Judge a row that is the answer to nothing that waits for one; return whether it was settled before."""
        if row.key in self._answered:
            self._answered.discard(row.key)
            return row.error is None
        if self._job_keys is None:
            self._job_keys = frozenset(self._keys())
        if row.key in self._job_keys:
            self.doubled.add(row.key)
        else:
            self._set_aside(row)
        return False

    def _set_aside(self, row: Row) -> None:
        body = bytes(row.response)
        self.strangers += 1
        if row.error is None and len(self.aside) < ASIDE_ROWS_MAX and self._aside_bytes + len(body) <= ASIDE_BYTES_MAX:
            self.aside.append((row.key, body))
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
        for row in block.rows:
            if row.error is not None:
                continue
            body = bytes(row.response)
            place = self._index.pop(row.key, -1)
            if place < 0:
                unclaimed.append((row.key, body))
            else:
                kept.append((place, body))
            if not row.key or row.key not in seen:  # the same again costs nothing
                (again if row.key in charged else new).append(body)
                seen.add(row.key)
        charged |= seen
        self.strangers += block.unreadable
        event = RowsFetched(job_id, op, [], kept, [], charge(new), unclaimed, charge(again))
        return Sorted(event, [], self._facts)


def name_by_position(rows: list[Row], keys: list[str]) -> bool:
    """Give rows without any key those of the requests in the order in which they were sent; return whether they fit.

    The service promises the order of the input, and field reports contradict it: only where a setting says so.
    """
    if len(rows) != len(keys) or any(row.key for row in rows):
        return False
    for row, key in zip(rows, keys, strict=True):
        row.key = key
    return True
