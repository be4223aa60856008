"""Many requests in, outcomes out as they come.

Owns the window and the keys of rows that have none. No task a row: a callback on each future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Protocol

from carpool._runtime.awaiters import Answer, Asked
from carpool.errors import CarpoolError, ConfigurationError, RequestError
from carpool.responses import Outcome
from carpool.types import Kind, Request


class Desk(Protocol):
    """What ``map`` needs of a client."""

    async def wait_for_room(self) -> None:
        """Wait while too much is waiting."""
        ...

    def ask_row(self, request: Request, occurred: dict[bytes, int]) -> tuple[Asked, Any]:
        """Take a row in; return it with the schema that its answer is read with."""
        ...

    def row_gone(self, asked: Asked) -> None:
        """Note that nobody awaits a row any more."""
        ...


class _Window:
    """Rows outstanding, and the outcomes that nobody has taken yet."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._occurred: dict[bytes, int] = {}
        self._asked: dict[int, Asked] = {}
        self._number = 0
        self.done: deque[Outcome] = deque()
        self.changed = asyncio.Event()
        self.room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, request: Request) -> None:
        """Take a row in; one that cannot be sent gives its outcome at once."""
        self._number += 1
        number = self._number
        try:
            asked, schema = self._desk.ask_row(request, self._occurred)
        except (RequestError, ConfigurationError) as error:
            self.done.append(Outcome(key=error.key or request.key or f"row {number}", error=error))
            return
        self._asked[number] = asked

        def settled(future: asyncio.Future[Answer]) -> None:
            if self._asked.pop(number, None) is not None and not future.cancelled():
                self.done.append(_outcome(request.kind, asked, schema, future))
                self.changed.set()

        asked.future.add_done_callback(settled)

    def withdraw(self) -> None:
        """Let go of what is outstanding: rows that were not sent are taken out."""
        outstanding, self._asked = list(self._asked.values()), {}
        for asked in outstanding:
            asked.future.cancel()
            self._desk.row_gone(asked)


async def map_requests(
    desk: Desk, requests: Iterable[Request] | AsyncIterable[Request], window_rows: int
) -> AsyncIterator[Outcome]:
    """Iterate over outcomes; see ``Client.map``."""
    window = _Window(desk)
    feeding = asyncio.get_running_loop().create_task(_feed(window, desk, requests, window_rows))
    try:
        while True:
            while window.done:
                yield window.done.popleft()
            window.room.set()
            if feeding.done() and (feeding.exception() is not None or not len(window)):
                break
            window.changed.clear()
            await window.changed.wait()
        feeding.result()
    finally:
        feeding.cancel()
        await asyncio.wait((feeding,))
        window.withdraw()


async def _feed(
    window: _Window, desk: Desk, requests: Iterable[Request] | AsyncIterable[Request], window_rows: int
) -> None:
    """Take rows in as long as there is room; outcomes that nobody has taken yet count too."""
    try:
        async for request in requests if isinstance(requests, AsyncIterable) else _aiter(requests):
            await desk.wait_for_room()
            window.ask(request)
            while len(window) + len(window.done) >= window_rows:
                window.changed.set()
                window.room.clear()
                await window.room.wait()
            if window.done:
                window.changed.set()
    finally:
        window.changed.set()


async def _aiter(requests: Iterable[Request]) -> AsyncIterator[Request]:
    """Iterate over plain rows, letting the loop breathe now and then."""
    for number, request in enumerate(requests):
        if number % 1_000 == 0:
            await asyncio.sleep(0)
        yield request


def _outcome(kind: Kind, asked: Asked, schema: Any, future: asyncio.Future[Answer]) -> Outcome:
    error = future.exception()
    if isinstance(error, CarpoolError):
        return Outcome(key=asked.key, error=error)
    if error is not None:
        return Outcome(key=asked.key, error=CarpoolError(f"{type(error).__name__}: {error}", key=asked.key))
    return Outcome(key=asked.key, response=asked.response(kind, schema, future.result()))
