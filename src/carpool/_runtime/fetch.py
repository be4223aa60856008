"""Sort a job's output by place: straight to live awaiters, or to be stored first, or an error.

Owns the hottest loop of the way back. A row of an automatic key that somebody awaits is handed over at once; all others
are stored before they count as settled.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from carpool._core.book import Book
from carpool._core.messages import RowsFetched
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Block, Place, Row, RowFault, Tokens
from carpool._runtime.awaiters import Awaiters, Waiter
from carpool.responses import view_usage
from carpool.types import Facts


class Sorted(NamedTuple):
    """A block of output, sorted."""

    event: RowsFetched
    handovers: list[tuple[Waiter, Place, bytes]]
    """Answers that go straight to awaiters, once the engine has taken the event."""
    facts: Facts


class RowSorter:
    """Sorts the blocks of one fetch. Each key counts once: what comes again, or is not ours, is a stranger."""

    def __init__(self, book: Book, awaiters: Awaiters, index: dict[str, Place], facts: Facts) -> None:
        self._book = book
        self._columns = awaiters.columns
        self._index = index
        self._facts = facts
        self.strangers = 0

    def sort(self, job_id: str, op: int, block: Block) -> Sorted:
        """Sort one block."""
        pop, segments, columns = self._index.pop, self._book.segments, self._columns
        delivered: list[Place] = []
        handovers: list[tuple[Waiter, Place, bytes]] = []
        kept: list[tuple[Place, bytes]] = []
        failed: list[RowFault] = []
        bodies: list[bytes] = []
        facts, future_type = self._facts, asyncio.Future
        for row in block.rows:
            place = pop(row.key, -1)
            if place < 0:
                self.strangers += 1
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
        self.strangers += block.unreadable
        tokens = Tokens(len(bodies)) if facts.input_picousd is None else count_tokens(bodies)
        return Sorted(RowsFetched(job_id, op, delivered, kept, failed, tokens), handovers, facts)


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
