"""Who waits for the loop itself: for the end of a turn, or for a state.

Owns their futures. It must not know what a turn does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy

from carpool.errors import CarpoolError


class Milestones:
    """Futures of those who wait for the loop."""

    def __init__(self) -> None:
        self._after_turn: list[asyncio.Future[None]] = []
        self._states: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def after_turn(self) -> asyncio.Future[None]:
        """Return what is done once everything asked for so far is on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._after_turn.append(done)
        return done

    def when(self, state: Callable[[], bool]) -> asyncio.Future[None]:
        """Return what is done once a turn ends in a state."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._states.append((state, reached))
        return reached

    def begin_turn(self) -> list[asyncio.Future[None]]:
        """Return those who wait for the turn that begins; whoever comes later waits for the next."""
        waiting, self._after_turn = self._after_turn, []
        return waiting

    def break_off(self, waiting: list[asyncio.Future[None]]) -> None:
        """Note that the turn did not come to its end."""
        self._after_turn = waiting + self._after_turn

    def end_turn(self, waiting: list[asyncio.Future[None]]) -> None:
        """Tell those who waited for the turn."""
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def look(self) -> None:
        """Tell those whose state has come."""
        for state, future in self._states:
            if not future.done() and state():
                future.set_result(None)
        self._states = [(state, future) for state, future in self._states if not future.done()]

    def dismiss(self, reason: CarpoolError) -> None:
        """Tell everybody that it will not come."""
        for future in (*(reached for _, reached in self._states), *self._after_turn):
            if not future.done():
                future.set_exception(copy(reason))
