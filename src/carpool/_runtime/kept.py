"""Stored results, read back for those who ask again.

Owns the reads that wait for the store: all that came in one turn of the loop go together.
"""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Final

import msgspec

from carpool._core.engine import Engine
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Failure, Place, ResultsHead
from carpool._ports import Store
from carpool._runtime.awaiters import Answer
from carpool._runtime.calls import facts_of
from carpool._runtime.verdicts import exception_for
from carpool.errors import CarpoolError, StoreError

_decoder: Final = msgspec.json.Decoder(Failure)


class KeptReads:
    """Reads stored results."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._waiting: list[tuple[Place, asyncio.Future[Answer]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, place: Place) -> asyncio.Future[Answer]:
        """Return a future of the result at a place; it is read when ``serve`` is called next."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, future))
        return future

    async def serve(self) -> None:
        """Read all that was asked for, and hand it over."""
        waiting, self._waiting = self._waiting, []
        heads = [self._engine.book.results[place >> ROW_BITS] for place, _ in waiting]
        try:
            bodies = await self._store.results([place for place, _ in waiting])
        except StoreError as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(copy(error))
            return
        for (place, future), head, body in zip(waiting, heads, bodies, strict=True):
            if not future.done():
                self._hand(place, head, body, future)

    def dismiss(self, error: CarpoolError) -> None:
        """Fail all that was asked for and not read."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(copy(error))

    def _hand(self, place: Place, head: ResultsHead, body: bytes, future: asyncio.Future[Answer]) -> None:
        row = place & ROW_MASK
        if head.failed[row]:
            future.set_exception(exception_for(_decoder.decode(body), head.keys[row]))
            return
        future.set_result((body, facts_of(self._engine.book, head.lane, head.job, head.kept_at)))
        if not head.flags[row] & EXPLICIT:
            self._engine.took(place)
