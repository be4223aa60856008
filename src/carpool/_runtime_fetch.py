"""Sort a job's output by place: straight to live awaiters, or to be stored first, or an error.

Owns the hottest loop of the way back. A row of an automatic key that somebody awaits is handed over at once; all others are
stored before they count as settled.
"""

from __future__ import annotations

import asyncio

from carpool._core.book import Book
from carpool._core.messages import RowsFetched
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Block, Place, RowFault, Tokens
from carpool._runtime_awaiters import Awaiters
from carpool.types import Facts, read_usage


class RowSorter:
    """Sorts the blocks of one fetch. Each key counts once: what comes again, or is not ours, is a stranger."""

    def __init__(self, book: Book, awaiters: Awaiters, index: dict[str, Place], facts: Facts) -> None:
        self._book = book
        self._columns = awaiters.columns
        self._index = index
        self._facts = facts
        self._priced = facts.input_picousd is not None
        self.strangers = 0

    def sort(self, job_id: str, op: int, block: Block) -> RowsFetched:
        """Sort one block, and hand over what may be handed over."""
        pop, segments, columns = self._index.pop, self._book.segments, self._columns
        delivered: list[Place] = []
        kept: list[tuple[Place, bytes]] = []
        failed: list[RowFault] = []
        facts = self._facts
        future_type = asyncio.Future
        for row in block.rows:
            place = pop(row.key, -1)
            if place < 0:
                self.strangers += 1
                continue
            if row.error is not None:
                failed.append(RowFault(place, row.error))
                continue
            body = bytes(row.response)
            no = place >> ROW_BITS
            column = columns.get(no)
            at = place & ROW_MASK
            if column is not None and at < len(column):
                waiter = column[at]
                if isinstance(waiter, future_type) and not waiter.done() and not segments[no].flags[at] & EXPLICIT:
                    waiter.set_result((body, facts))
                    column[at] = None
                    delivered.append(place)
                    continue
            kept.append((place, body))
        self.strangers += block.unreadable
        return RowsFetched(job_id, op, delivered, kept, failed, self._count(block))

    def _count(self, block: Block) -> Tokens:
        answers = prompt = output = uncounted = 0
        for row in block.rows:
            if row.error is not None:
                continue
            answers += 1
            if not self._priced:
                continue
            usage = read_usage(bytes(row.response))
            if not usage.total_tokens or usage.cached_tokens:
                uncounted += 1
                continue
            prompt += usage.prompt_tokens
            output += usage.answer_tokens + usage.thinking_tokens
        return Tokens(answers, uncounted, prompt, output)
