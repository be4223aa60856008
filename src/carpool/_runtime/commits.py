"""Commits in their order: what spilled over between turns, then the turn's own; a full disk makes them wait.

Owns the writes that are not durable yet, and whether the store is full. While it is, nothing is given up and nothing
new begins: the same writes are tried again until there is room.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from carpool._core.messages import PutSegment, Write
from carpool._ports import Store
from carpool.errors import StoreFull

logger: Final = logging.getLogger("carpool")
RETRY_S: Final = 1.0
_END_BYTES: Final = 8
LOOK_S: Final = 1.0
"""How long a disk may take before whoever waits for it is looked after."""


class _Spilled(NamedTuple):
    """Writes of a turn that has not come yet; the store empties their list once they are durable."""

    writes: list[Write]
    begun: asyncio.Future[None] | None
    size_bytes: int = 0

    @property
    def durable_bytes(self) -> int:
        """What of them the store has counted already."""
        begun = self.begun
        if begun is None or not begun.done() or begun.cancelled() or begun.exception() is not None:
            return 0
        return self.size_bytes


class Commits:
    """Writes to one store.

    Args:
        store: where to.
        pass_time: waits so many seconds for room, and does meanwhile what needs no store; raises the error it is given
            if waiting has no use any more.
        look: does what is due without the store, while that takes its time.
        saw_full: is told of each write that found no room.
    """

    def __init__(
        self,
        store: Store,
        pass_time: Callable[[StoreFull, float], Awaitable[None]],
        look: Callable[[], None],
        saw_full: Callable[[StoreFull], None],
    ) -> None:
        self._store = store
        self._pass_time = pass_time
        self._look = look
        self._saw_full = saw_full
        self._spilled: list[_Spilled] = []
        self._spilled_before: list[_Spilled] = []
        """What spilled over before the commit under way."""
        self.full: StoreFull | None = None
        """Why nothing can be written now."""

    @property
    def room_bytes(self) -> int:
        """How much more new requests may take up, those of this turn included."""
        if self.full is not None:
            return 0
        return self._store.room_bytes + sum(one.durable_bytes for one in (*self._spilled_before, *self._spilled))

    def spill(self, writes: list[Write]) -> None:
        """Begin to write what the next turn would write first."""
        ends = (write.head.ends[-_END_BYTES:] for write in writes if isinstance(write, PutSegment))
        size_bytes = sum(int.from_bytes(end, sys.byteorder) for end in ends)
        self._spilled.append(_Spilled(writes, asyncio.ensure_future(self._store.commit(writes)), size_bytes))

    async def begin(self, writes: list[Write]) -> None:
        """Write what opening changes; without room for it, the first turn tries again before it does anything else."""
        try:
            await self._store.commit(writes)
        except StoreFull as error:
            self._note(error)
            self._spilled.append(_Spilled(writes, None))

    async def commit(self, writes: list[Write]) -> None:
        """Write what was spilled, then this; on return all of it is durable.

        Raises:
            StoreError: it cannot be written.
        """
        self._spilled_before, self._spilled = self._spilled, []
        # What follows a segment may speak of it: it must not be on disk without it.
        for writes_before, begun, _ in self._spilled_before:
            await self._until_durable(writes_before, self._store.commit(writes_before) if begun is None else begun)
        if writes:
            await self._until_durable(writes, self._store.commit(writes))
        self._spilled_before = []

    async def _until_durable(self, writes: list[Write], begun: Awaitable[None]) -> None:
        while True:
            try:
                await self._wait_for(begun)
            except StoreFull as error:
                self._note(error)
                full = error
            else:
                break
            await self._pass_time(full, RETRY_S)
            begun = self._store.commit(writes)
        if self.full is not None:
            logger.info("there is room again, and everything goes on")
            self.full = None

    async def _wait_for(self, begun: Awaitable[None]) -> None:
        done = asyncio.ensure_future(begun)
        try:
            while not done.done():
                await asyncio.wait((done,), timeout=LOOK_S)
                self._look()
        except BaseException:
            done.cancel()
            raise
        done.result()

    def _note(self, error: StoreFull) -> None:
        self.full = error
        self._saw_full(error)
