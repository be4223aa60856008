"""Work for a task group that leaves nothing behind if its task is cancelled before it begins.

Owns one workaround: anyio from 4.14 on makes the coroutine before the task runs. When an event loop is torn down with
such a task in it, the coroutine is dropped, and Python warns that it "was never awaited".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Errand(Coroutine[Any, Any, None]):
    """A coroutine that is made when it is first run.

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
