"""What awaiters are told: answers, verdicts, deadlines that have passed.

Owns the answers that are on their way from a job's output to callers. The engine books them first, so that a caller who
is cancelled in between leaves his to whoever asks the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Final, NamedTuple, cast

from carpool._core.engine import Engine
from carpool._core.messages import Deliver, Expire, Fail
from carpool._core.model import Place
from carpool._runtime.awaiters import Answer, Awaiters, Waiter
from carpool._runtime.calls import facts_of
from carpool._runtime.entrance import Entrance
from carpool._runtime.fetch import BARE, Handful, Sorted
from carpool._runtime.verdicts import exception_for
from carpool.types import Facts

_AT_ONCE: Final = 256
"""How many awaiters are told before they come to their turns. What woke them is gone then; of thousands at once the
garbage collector, which counts what is made and not gone, would walk over everything that waits."""


class _Due(NamedTuple):
    """Answers that are given next."""

    handful: Handful
    facts: Facts
    keys: Mapping[Place, str] | None
    """Of a block that was booked: answers that nobody takes are kept under these. ``None``: they are stored already."""


class Handover:
    """Hands over what the engine has decided."""

    def __init__(self, engine: Engine, entrance: Entrance, awaiters: Awaiters, now: Callable[[], float]) -> None:
        self._engine = engine
        self._entrance = entrance
        self._awaiters = awaiters
        self._now = now
        self._unbooked: list[_Due] = []
        self._due: list[_Due] = []

    def add(self, block: Sorted) -> None:
        """Keep a block's answers until the engine has booked them."""
        self._unbooked += [_Due(handful, block.facts, block.keys) for handful in block.handovers]

    def booked(self) -> None:
        """Note that the engine has booked what is here: it is due."""
        self._due += self._unbooked
        self._unbooked.clear()

    async def give(self) -> None:
        """Give awaiters what is due; who was cancelled meanwhile leaves his to the next."""
        given = 0
        for handful, facts, keys in self._due:
            for waiter, place, body in zip(*handful, strict=True):
                if waiter.done():
                    if keys is not None:
                        key = keys.get(place) or self._engine.book.key_at(place)
                        self._entrance.undelivered(place, key, body, facts)
                    continue
                waiter.set_result(Answer(body, facts))
                given += 1
                if not given % _AT_ONCE:
                    await asyncio.sleep(0)
        self._due.clear()  # last: what a bug leaves here, ``dismiss`` hands over

    def dismiss(self) -> None:
        """Give awaiters what is here, though it will not be booked any more."""
        for handful, facts, _ in (*self._due, *self._unbooked):
            for waiter, body in zip(handful.waiters, handful.bodies, strict=True):
                if not waiter.done():
                    waiter.set_result(Answer(body, facts))

    def deliver(self, action: Deliver) -> None:
        """Let stored results be due for their awaiters, who are let go of."""
        book, awaiters = self._engine.book, self._awaiters
        facts = facts_of(book, action.lane, action.job, self._now(), action.route, text_only=action.text_only)
        for run in action.runs:
            assert run.bodies is not None, "what is delivered was stored"
            cells = awaiters.cells(run)
            if len(cells) == run.count and BARE.issuperset(map(type, cells)):
                awaiters.let_go(run)
                handful = Handful(cast("list[Waiter]", cells), run.places, run.bodies)
            else:
                handful = self._taken(zip(run.places, run.bodies, strict=True))
            self._due.append(_Due(handful, facts, None))
        self._due.append(_Due(self._taken(action.rows), facts, None))

    def _taken(self, rows: Iterable[tuple[Place, bytes]]) -> Handful:
        """Return the awaiters of rows with their answers: there may be none of a row, or several."""
        take = self._awaiters.take
        found = [(waiter, place, body) for place, body in rows for waiter in take(place)]
        return Handful([waiter for waiter, _, _ in found], [place for _, place, _ in found], [one[2] for one in found])

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
