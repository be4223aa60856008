"""Virtual time: callbacks in the order of their times, none of them waiting for a real second.

Owns the agenda of one world. It must not know who puts what on it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Runs callbacks at their times."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.turns = 0
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, time: float, callback: Callable[[], object]) -> None:
        """Call back at a time; not before now."""
        self.turns += 1
        heapq.heappush(self._agenda, (max(time, self.now), self.turns, callback))

    def after(self, delay_s: float, callback: Callable[[], object]) -> None:
        """Call back after some seconds."""
        self.at(self.now + delay_s, callback)

    @property
    def next_at(self) -> float | None:
        """When the next callback is due."""
        return self._agenda[0][0] if self._agenda else None

    def step(self) -> bool:
        """Go to the next callback; return whether there was one."""
        if not self._agenda:
            return False
        self.now, _, callback = heapq.heappop(self._agenda)
        callback()
        return True
