"""The policy to be compared with: it knows how long routes take and how often they refuse, but not the draws.

It goes down the same ladder by the same kind of rule: a request enters the batch route or skips it, leaves it when a
certain time is left, leaves flex when a certain time is left, and tries standard from then on. How much time is left
when it leaves flex is what the last reserve aims at, as ours does: one and a half times what ``RESERVE_SHARE`` of the
true distribution of standard calls keep to, and 10 s. Everything else is chosen, for each length of deadline
(``CLASSES``) and each part of the horizon where the distributions drift, to make the expected bill smallest: each of
``LEAVES`` is tried on ``TRIALS`` shadow draws of the same scenario, made from other seeds, and the cheapest is taken.

It is granted more than ours can have: it hears of a job's end at once, cancelling a job that it leaves costs nothing
however many others ride in it, there are no quotas, and a rung that refuses costs it nothing but time.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from math import exp, log
from random import Random
from typing import Final

import msgspec

from carpool._core.routing import RESERVE_MORE, RESERVE_QUEUE_S
from carpool.settings import CHEAP, Ladder

from .asked import EMBEDS_LADDER, NEVER
from .scenarios import DRIFTING, HORIZON_S, HOUR, MINUTE, SCENARIOS, Scenario
from .service import MODELS, START, Service

RESERVE_SHARE: Final = 0.9
CLASSES: Final = tuple(exp(log(2 * MINUTE) + n * (log(36 * HOUR) - log(2 * MINUTE)) / 14) for n in range(15))
LEAVES: Final = (NEVER, 4 * HOUR, 2 * HOUR, HOUR, 40 * MINUTE, 25 * MINUTE, 16 * MINUTE, 8 * MINUTE, 4 * MINUTE, 0.0)
"""Time left, beyond the last reserve, at which the batch route is left; infinity: it is not entered."""
TRIALS: Final = 200
SHADOWS: Final = 24
PARTS: Final = 3
BATCH, FULL = 1, 2
"""What an answer costs: on the batch and flex routes, and on standard, in halves of the list price."""
_BEGIN_S: Final = 3.0
_PROBE_S: Final = 30.0
"""Time between two calls of a flex route that refuses: that of a client that does not hammer."""


class Played(msgspec.Struct, frozen=True):
    """How a request fared."""

    halves: int
    """Half list prices that were paid for it."""
    ended_at: float


def play(  # noqa: PLR0917 - one line of arguments, called millions of times
    service: Service, number: int, model: str, ladder: Ladder, at: float, deadline: float, leave: float, last: float
) -> Played:
    """Send one request down its ladder.

    Args:
        service: its draws decide.
        number: of the request.
        model: which.
        ladder: which.
        at: when it comes.
        deadline: when it is too late; infinity: never.
        leave: when it leaves the batch route.
        last: when it leaves flex.
    """
    t = at + _BEGIN_S
    while t < leave:
        fate = service.fate(model, t)
        if fate.kind == "SUCCEEDED" and fate.ends_at <= leave:
            return Played(BATCH, fate.ends_at)
        t = min(leave, fate.ends_at)
    t = max(at, leave) if leave > at else at
    paid, ends_at = 0, NEVER
    while t < last and "flex" in ladder:
        if not service.refuses("flex", model, t):
            paid, ends_at = BATCH, t + service.takes_s("flex", number, t)
            if ends_at <= last:
                return Played(paid, ends_at)
            break
        t = min(t + _PROBE_S, last)
    t = max(t, last)
    while t < deadline:
        if not service.refuses("standard", model, t):
            takes_s = service.takes_s("standard", number, t, shares="flex" not in ladder)
            return Played(paid + FULL, min(ends_at, t + takes_s))
        t += 1.0
    return Played(paid, ends_at)


def reserve_s(scenario: Scenario) -> float:
    """Return the last reserve of who knows how long standard calls take."""
    return (1 + RESERVE_MORE) * scenario.standard(RESERVE_SHARE, 0.0) + RESERVE_QUEUE_S


@cache
def _choice(name: str, number: int, part: int, ladder: Ladder) -> float:
    """Return at how much time left the batch route is to be left, of a class of deadlines in a part of the horizon."""
    [scenario] = [scenario for scenario in SCENARIOS if scenario.name == name]
    rng = Random(f"{name}/{number}/{part}")
    left_s, reserve = CLASSES[number], reserve_s(scenario)
    trials = []
    for trial in range(TRIALS):
        at = START + HORIZON_S * (part + rng.random()) / PARTS
        trials.append((_shadow(name, trial % SHADOWS), 1_000_000 + trial, rng.choice(MODELS), at))
    paid: list[tuple[int, int]] = []
    for order, leave_s in enumerate(LEAVES):
        total = 0
        for service, request, model, at in trials:
            deadline = at + left_s
            last = deadline - reserve
            total += play(service, request, model, ladder, at, deadline, last - leave_s, last).halves
        paid.append((total, order))
    return LEAVES[min(paid)[1]]


def prepare(scenario: Scenario) -> None:
    """Choose for all deadlines of a scenario: processes that are forked later need not."""
    for ladder in (CHEAP, EMBEDS_LADDER):
        for number in range(len(CLASSES)):
            for part in range(PARTS) if scenario.name == DRIFTING else (1,):
                _choice(scenario.name, number, part, ladder)


@cache
def _shadow(name: str, number: int) -> Service:
    [scenario] = [scenario for scenario in SCENARIOS if scenario.name == name]
    return Service(scenario, f"shadow {number}")


def clairvoyant(  # noqa: PLR0917 - as play
    service: Service, number: int, model: str, ladder: Ladder, at: float, deadline: float
) -> Played:
    """Send one request as the policy that knows the distributions would."""
    if deadline == NEVER:
        return play(service, number, model, ladder, at, deadline, NEVER, NEVER)
    last = deadline - reserve_s(service.scenario)
    drifts = service.scenario.name == DRIFTING
    part = min(PARTS - 1, int((at - START) / HORIZON_S * PARTS)) if drifts else 1
    leave_s = _choice(service.scenario.name, min(len(CLASSES) - 1, bisect_left(CLASSES, deadline - at)), part, ladder)
    return play(service, number, model, ladder, at, deadline, last - leave_s, last)
