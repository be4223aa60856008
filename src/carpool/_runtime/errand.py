"""Work for a task group: how it is given to a task, and what is left behind if that is cancelled.

Owns two ways. An errand is a task's only work, and leaves nothing behind if the task is cancelled before it begins. A
crew does much small work one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Errand(Coroutine[Any, Any, None]):
    """A coroutine that is made when it is first run.

    anyio from 4.14 on makes the coroutine before the task runs. When an event loop is torn down with such a task in it,
    the coroutine is dropped, and Python warns that it "was never awaited".

    Args:
        work: what makes it.
        args: what for.
    """

    __slots__ = ("_args", "_begun", "_work")

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self._work = work
        self._args = args
        self._begun: Coroutine[Any, Any, None] | None = None

    def _begin(self) -> Coroutine[Any, Any, None]:
        if self._begun is None:
            self._begun = self._work(*self._args)
        return self._begun

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        return self._begin().send(value)

    def throw(self, *error: Any) -> Any:
        return self._begin().throw(*error)

    def close(self) -> None:
        if self._begun is not None:
            self._begun.close()


class Crew(Generic[_T]):
    """Tasks that do small work again and again, as many as are busy at once: to start a task costs 20 us each time.

    Args:
        work: what is done.
        start: starts a task beside the loop.
    """

    def __init__(self, work: Callable[[_T], Coroutine[Any, Any, None]], start: Callable[..., None]) -> None:
        self._work = work
        self._start = start
        self._idle: list[asyncio.Future[_T]] = []

    def do(self, item: _T) -> None:
        """Let an idle task do it, else a new one."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():  # else it was cancelled: the client is being left
                idle.set_result(item)
                return
        self._start(self._serve, item)

    async def _serve(self, item: _T) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work(item)
            idle: asyncio.Future[_T] = loop.create_future()
            self._idle.append(idle)
            item = await idle
