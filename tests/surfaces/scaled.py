"""Time that passes many times faster than on the wall, for everything on one event loop: client, emulator, timeouts.

Owns the loop. Virtual time, which jumps to the next timer, cannot be had where sockets are in play.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits a fraction of what it is told."""

    scale = 1.0

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout if timeout is None else timeout / self.scale)


class ScaledLoop(asyncio.SelectorEventLoop):
    """A loop on which a second of the wall is many."""

    def __init__(self, scale: float) -> None:
        selector = _Selector()
        selector.scale = scale
        self._scale = scale
        self._began = time.monotonic()
        super().__init__(selector)

    def time(self) -> float:
        return self._began + (time.monotonic() - self._began) * self._scale


def run_scaled(story: Coroutine[Any, Any, T], scale: float) -> T:
    """Run a story to its end, on a loop of its own.

    Args:
        story: what happens.
        scale: seconds that pass on the loop in one of the wall.
    """
    with asyncio.Runner(loop_factory=lambda: ScaledLoop(scale)) as runner:
        return runner.run(story)


def epoch() -> float:
    """Return the time of the running loop in seconds since the epoch, as the client reckons it."""
    return _EPOCH + asyncio.get_running_loop().time()


_EPOCH = time.time() - time.monotonic()
