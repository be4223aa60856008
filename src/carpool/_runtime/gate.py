"""The gate before encoding: who may come in while too much is waiting. First come, first served.

Owns the queue of callers. It must not know requests; it is told how much waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from carpool.errors import ClientClosed

_ROW_BYTES_GUESS: Final = 1_024
NOBODY: Final = object()


class Gate:
    """Lets callers in as long as what waits, and who was let in and has not arrived yet, stays below the limits."""

    def __init__(self, requests_max: int, bytes_max: int) -> None:
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._queue: deque[asyncio.Future[None]] = deque()
        self.serves: object = NOBODY
        """The event loop whose callers come in without a closer look. Nobody's before the first turn, when the client
        comes to its end, and while too much waits."""
        self._released = 0
        """Callers let in that have not come back yet: they count as waiting, once."""

    @property
    def queued(self) -> int:
        """Callers that wait their turn."""
        return len(self._queue)

    @property
    def expects(self) -> bool:
        """Whether callers wait their turn, or were let in and have not come yet."""
        return bool(self._queue) or self._released > 0

    def is_shut(self, waiting: int, waiting_bytes: int) -> bool:
        """Return whether a newcomer must queue: there is no room, or others came first."""
        return bool(self._queue) or not self._has_room(waiting, waiting_bytes)

    async def wait(self) -> None:
        """Wait to be let in.

        Raises:
            ClientClosed: the client was closed first.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._released -= 1
            raise
        self._released -= 1

    def release(self, waiting: int, waiting_bytes: int) -> None:
        """Let in as many as there is room for, in the order in which they came."""
        while self._queue and self._has_room(waiting, waiting_bytes):
            turn = self._queue.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._released += 1

    def shut_down(self) -> None:
        """Send everybody away."""
        self.serves = NOBODY
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(
                    ClientClosed("the client was closed while this call waited its turn; nothing was sent")
                )

    def _has_room(self, waiting: int, waiting_bytes: int) -> bool:
        row_bytes = waiting_bytes // waiting if waiting else _ROW_BYTES_GUESS
        return (
            waiting + self._released < self._requests_max
            and waiting_bytes + self._released * row_bytes < self._bytes_max
        )
