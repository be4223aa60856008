"""Commits in their order: what spilled over between turns, then the turn's own; a full disk makes them wait.

Owns the writes that are not durable yet, and whether the store is full. While it is, nothing is given up and nothing
new begins: the same writes are tried again until there is room.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from carpool._core.messages import Write
from carpool._ports import Store
from carpool.errors import StoreFull

logger: Final = logging.getLogger("carpool")
RETRY_S: Final = 1.0


class Commits:
    """Writes to one store.

    Args:
        store: where to.
        pass_time: waits so many seconds for room, and does meanwhile what needs no store; raises the error it is given
            if waiting has no use any more.
        saw_full: is told of each write that found no room.
    """

    def __init__(
        self,
        store: Store,
        pass_time: Callable[[StoreFull, float], Awaitable[None]],
        saw_full: Callable[[StoreFull], None],
    ) -> None:
        self._store = store
        self._pass_time = pass_time
        self._saw_full = saw_full
        self._spilled: list[tuple[list[Write], Awaitable[None] | None]] = []
        self.full: StoreFull | None = None
        """Why nothing can be written now."""

    @property
    def room_bytes(self) -> int:
        """How much more new requests may take up."""
        return 0 if self.full is not None else self._store.room_bytes

    def spill(self, writes: list[Write]) -> None:
        """Begin to write what the next turn would write first."""
        self._spilled.append((writes, self._store.commit(writes)))

    async def begin(self, writes: list[Write]) -> None:
        """Write what opening changes; without room for it, the first turn tries again before it does anything else."""
        try:
            await self._store.commit(writes)
        except StoreFull as error:
            self._note(error)
            self._spilled.append((writes, None))

    async def commit(self, writes: list[Write]) -> None:
        """Write what was spilled, then this; on return all of it is durable.

        Raises:
            StoreError: it cannot be written.
        """
        spilled, self._spilled = self._spilled, []
        # What follows a segment may speak of it: it must not be on disk without it.
        for earlier, begun in spilled:
            await self._until_durable(earlier, self._store.commit(earlier) if begun is None else begun)
        if writes:
            await self._until_durable(writes, self._store.commit(writes))

    async def _until_durable(self, writes: list[Write], begun: Awaitable[None]) -> None:
        while True:
            try:
                await begun
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

    def _note(self, error: StoreFull) -> None:
        self.full = error
        self._saw_full(error)
