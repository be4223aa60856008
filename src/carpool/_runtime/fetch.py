"""Sort a job's output by place: straight to live awaiters, or to be stored first, or an error.

Owns the hottest loop of the way back. A row of an automatic key that somebody awaits is handed over at once; all others
are stored before they count as settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from carpool._core.book import Book
from carpool._core.messages import RowsFetched
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Block, Place, Row, RowFault, Tokens
from carpool._runtime.awaiters import Awaiters, Waiter
from carpool.responses import view_usage
from carpool.types import Facts

ASIDE_ROWS_MAX: Final = 100
ASIDE_BYTES_MAX: Final = 1_048_576


class Sorted(NamedTuple):
    """A block of output, sorted."""

    event: RowsFetched
    handovers: list[tuple[Waiter, Place, bytes]]
    """Answers that go straight to awaiters, once the engine has taken the event."""
    facts: Facts


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
    ) -> None:
        self._book = book
        self._columns = awaiters.columns
        self._index = index
        self._facts = facts
        self._keys = keys
        self._job_keys: frozenset[str] | None = None
        self._answered = answered
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
        facts, future_type = self._facts, asyncio.Future
        try:
            for row in block.rows:
                place = pop(row.key, -1)
                if place < 0:
                    self._judge(row)
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
            tokens = Tokens(len(bodies)) if facts.input_picousd is None else count_tokens(bodies)
        except BaseException:
            self.take_back(handovers)
            raise
        self.strangers += block.unreadable
        return Sorted(RowsFetched(job_id, op, delivered, kept, failed, tokens), handovers, facts)

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

    def _judge(self, row: Row) -> None:
        """Judge a row that is the answer to nothing that waits for one."""
        if row.key in self._answered:
            self._answered.discard(row.key)
            return
        if self._job_keys is None:
            self._job_keys = frozenset(self._keys())
        if row.key in self._job_keys:
            self.doubled.add(row.key)
        else:
            self._set_aside(row)

    def _set_aside(self, row: Row) -> None:
        body = bytes(row.response)
        self.strangers += 1
        if row.error is None and len(self.aside) < ASIDE_ROWS_MAX and self._aside_bytes + len(body) <= ASIDE_BYTES_MAX:
            self.aside.append((row.key, body))
            self._aside_bytes += len(body)


class StrangerSorter:
    """Sorts the output of a job that this store did not know: all of it is stored before anybody hears of it."""

    def __init__(self, index: dict[str, Place], facts: Facts) -> None:
        self._index = index
        self._facts = facts
        self.strangers = 0
        self.aside: list[tuple[str, bytes]] = []

    def sort(self, job_id: str, op: int, block: Block) -> Sorted:
        """Sort one block; rows that came back as errors are left out: their requests, if any, get a verdict later."""
        kept: list[tuple[Place, bytes]] = []
        unclaimed: list[tuple[str, bytes]] = []
        for row in block.rows:
            if row.error is not None:
                continue
            place = self._index.pop(row.key, -1)
            if place < 0:
                unclaimed.append((row.key, bytes(row.response)))
            else:
                kept.append((place, bytes(row.response)))
        self.strangers += block.unreadable
        bodies = [body for _, body in (*kept, *unclaimed)]
        tokens = Tokens(len(bodies)) if self._facts.input_picousd is None else count_tokens(bodies)
        return Sorted(RowsFetched(job_id, op, [], kept, [], tokens, unclaimed), [], self._facts)


def name_by_position(rows: list[Row], keys: list[str]) -> bool:
    """Give rows without any key those of the requests in the order in which they were sent; return whether they fit.

    The service promises the order of the input, and field reports contradict it: only where a setting says so.
    """
    if len(rows) != len(keys) or any(row.key for row in rows):
        return False
    for row, key in zip(rows, keys, strict=True):
        row.key = key
    return True


def count_tokens(bodies: list[bytes]) -> Tokens:
    """Return the token sums of some answers."""
    prompt = output = uncounted = 0
    for body in bodies:
        view = view_usage(body)
        usage = view.usage_metadata
        used = usage.prompt_token_count or view.token_count
        if not used or usage.cached_content_token_count:
            uncounted += 1
            continue
        prompt += used
        output += usage.candidates_token_count + usage.thoughts_token_count
    return Tokens(len(bodies), uncounted, prompt, output)
