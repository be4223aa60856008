"""Things that are due after the same delay.

Owns their order: whatever was put in first is due first, so that one timer is enough for any number of them. It must
not know what they are, or what time it is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Rota(Generic[T]):
    """A queue of things by when each is due; all take the same time, so nothing is ever sorted.

    Args:
        delay_s: how long after it was put in a thing is due.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._due: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: T) -> bool:
        return thing in self._due

    def __repr__(self) -> str:
        return f"Rota(delay_s={self._delay_s}, things={len(self._due)})"

    def put(self, thing: T, now: float) -> None:
        """Put a thing in, or in again: it is due after the delay."""
        self._due[thing] = now + self._delay_s
        self._due.move_to_end(thing)

    def drop(self, thing: T) -> None:
        """Take a thing out, if it is in."""
        self._due.pop(thing, None)

    def first(self) -> T | None:
        """Return what was put in longest ago."""
        return next(iter(self._due), None)

    def take_due(self, now: float, most: int) -> list[T]:
        """Take out what is due, so many of them at most."""
        taken: list[T] = []
        while self._due and len(taken) < most:
            thing = next(iter(self._due))
            if self._due[thing] > now:
                break
            del self._due[thing]
            taken.append(thing)
        return taken

    @property
    def next_at(self) -> float | None:
        """When the next thing is due."""
        return next(iter(self._due.values()), None)
