"""Stored results, read back for those who ask again.

Owns the reads that wait for the store: all that came in one turn of the loop go together.
"""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Final, TypeAlias

import msgspec

from carpool._core.engine import Engine
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Failure, Place, ResultsHead
from carpool._ports import Store
from carpool._runtime.awaiters import Answer
from carpool._runtime.calls import facts_of
from carpool._runtime.verdicts import exception_for
from carpool.errors import CarpoolError, RequestFailed, StoreError

_Read: TypeAlias = tuple[Place, ResultsHead, asyncio.Future[Answer]]

_decoder: Final = msgspec.json.Decoder(Failure)


class KeptReads:
    """Reads stored results."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._waiting: list[_Read] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, place: Place) -> asyncio.Future[Answer]:
        """Return a future of the result at a place; it is read when ``serve`` is called next."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, self._engine.book.results[place >> ROW_BITS], future))
        return future

    async def serve(self) -> None:
        """Read all that was asked for, and hand it over.

        What was dropped since, as the error of a key that somebody tries again, is told as gone.
        """
        waiting, self._waiting = self._waiting, []
        try:
            while waiting and not await self._read(waiting := self._still_there(waiting)):
                pass  # some were dropped while they were read: the others can still be had
        except Exception as error:
            # Nobody else tells those who wait.
            words = "a bug of carpool broke the reading of stored results ({}). They are on record: ask again"
            _refuse(waiting, RequestFailed(words.format(type(error).__name__)))
            raise
        except BaseException:
            # Cancelled, as the client is being left: whoever sends the others away sends these away too.
            self._waiting = waiting + self._waiting
            raise

    async def _read(self, waiting: list[_Read]) -> bool:
        """Return whether all were read, or cannot be."""
        try:
            bodies = await self._store.results([place for place, _, _ in waiting])
        except StoreError as error:
            if any(place >> ROW_BITS not in self._engine.book.results for place, _, _ in waiting):
                return False
            _refuse(waiting, error)
            return True
        for (place, head, future), body in zip(waiting, bodies, strict=True):
            if not future.done():
                self._hand(place, head, body, future)
        return True

    def _still_there(self, waiting: list[_Read]) -> list[_Read]:
        there: list[_Read] = []
        for place, head, future in waiting:
            if place >> ROW_BITS in self._engine.book.results:
                there.append((place, head, future))
            elif not future.done():
                key = head.keys[place & ROW_MASK]
                future.set_exception(
                    RequestFailed(
                        f"the stored result of request {key!r} was dropped before it could be read, since its key is "
                        "tried again or its time was over. Ask for it again",
                        key=key,
                    )
                )
        return there

    def dismiss(self, error: CarpoolError) -> None:
        """Fail all that was asked for and not read."""
        waiting, self._waiting = self._waiting, []
        _refuse(waiting, error)

    def _hand(self, place: Place, head: ResultsHead, body: bytes, future: asyncio.Future[Answer]) -> None:
        row = place & ROW_MASK
        if head.failed[row]:
            future.set_exception(exception_for(_decoder.decode(body), head.keys[row]))
            return
        book, text_only = self._engine.book, head.text_only
        facts = facts_of(book, head.lane, head.job, head.kept_at, head.route, text_only=text_only)
        future.set_result(Answer(body, facts))
        if not head.flags[row] & EXPLICIT:
            self._engine.took(place)


def _refuse(waiting: list[_Read], error: CarpoolError) -> None:
    for _, _, future in waiting:
        if not future.done():
            future.set_exception(copy(error))
