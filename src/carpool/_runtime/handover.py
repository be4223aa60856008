"""What awaiters are told: answers, verdicts, deadlines that have passed.

Owns the answers that are on their way from a job's output to callers. The engine books them first, so that a caller who
is cancelled in between leaves his to whoever asks the same.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from carpool._core.engine import Engine
from carpool._core.messages import Deliver, Expire, Fail
from carpool._core.model import Place
from carpool._runtime.awaiters import Answer, Awaiters
from carpool._runtime.calls import facts_of
from carpool._runtime.entrance import Entrance
from carpool._runtime.fetch import Sorted
from carpool._runtime.verdicts import exception_for


class Handover:
    """Hands over what the engine has decided."""

    def __init__(self, engine: Engine, entrance: Entrance, awaiters: Awaiters, now: Callable[[], float]) -> None:
        self._engine = engine
        self._entrance = entrance
        self._awaiters = awaiters
        self._now = now
        self._blocks: list[Sorted] = []

    def add(self, block: Sorted) -> None:
        """Keep a block's answers until the engine has booked them."""
        self._blocks.append(block)

    def booked(self) -> None:
        """Give awaiters the answers that the engine has booked; who was cancelled meanwhile leaves his to the next."""
        for block in self._blocks:
            facts = block.facts
            for handful in block.handovers:
                for waiter, place, body in zip(*handful, strict=True):
                    if waiter.done():
                        key = block.keys.get(place) or self._engine.book.key_at(place)
                        self._entrance.undelivered(place, key, body, facts)
                    else:
                        waiter.set_result(Answer(body, facts))
        self._blocks.clear()  # last: what a bug leaves here, ``dismiss`` hands over

    def dismiss(self) -> None:
        """Give awaiters what is here, though it will not be booked any more."""
        for block in self._blocks:
            for handful in block.handovers:
                for waiter, body in zip(handful.waiters, handful.bodies, strict=True):
                    if not waiter.done():
                        waiter.set_result(Answer(body, block.facts))

    def deliver(self, action: Deliver) -> None:
        """Hand stored results to their awaiters."""
        book = self._engine.book
        facts = facts_of(book, action.lane, action.job, self._now(), action.route, text_only=action.text_only)
        for place, body in action.rows:
            for waiter in self._awaiters.take(place):
                waiter.set_result(Answer(body, facts))
        for run in action.runs:
            assert run.bodies is not None, "what is delivered was stored"
            for cell, body in zip(self._awaiters.cells(run), run.bodies, strict=False):
                if isinstance(cell, list):
                    for waiter, _ in cell:
                        if not waiter.done():
                            waiter.set_result(Answer(body, facts))
                elif cell is not None and not cell.done():
                    cell.set_result(Answer(body, facts))
            self._awaiters.let_go(run)  # last: whom a bug leaves here is told of it

    def fail(self, action: Fail, lines: dict[Place, bytes]) -> None:
        """Tell awaiters the verdict; ``lines`` are the requests, so that their text is not echoed."""
        for place, key in zip(action.places, action.keys, strict=True):
            if self._awaiters.has(place):
                error = exception_for(action.failure, key, lines.get(place, b""))  # first: it may not come to its end
                for waiter in self._awaiters.take(place):
                    waiter.set_exception(copy(error))

    def expire(self, action: Expire) -> None:
        """Tell awaiters that their deadline has passed."""
        segment, row = self._engine.book.at(action.place)
        if segment and self._awaiters.expire(action.place, action.deadline, segment.keys[row], action.why):
            self._entrance.nobody_left(action.place)
