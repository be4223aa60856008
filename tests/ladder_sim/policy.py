"""The policy to be compared with: it knows how long routes take and how often they refuse, but not the draws.

It goes down the same ladder. A request enters the batch route or skips it, leaves it when a certain time is left, calls
flex from then on while that is worth its price, and standard from the last reserve on.

- The last reserve is what ours aims at: one and a half times what ``RESERVE_SHARE`` of the true distribution of
  standard calls keep to, and 10 s.
- Flex is worth its price while at least ``FLEX_SHARE`` of its true distribution would be answered before the last
  reserve: a call that is given up costs half a list price for nothing, one that is answered saves as much.
- When the batch route is left is chosen to make the expected bill smallest, for each length of deadline (``CLASSES``)
  and each part of the horizon where the distributions drift: each of ``LEAVES`` is tried on ``TRIALS`` shadow draws of
  the same scenario, made from other seeds. A miss counts as the full price there: to be late is no way to save.

It is granted more than ours can have: it hears of a job's end at once, cancelling a job that it leaves costs nothing
however many others ride in it, there are no quotas (its requests know nothing of each other, so that under a quota it
would be late where ours is not), and a rung that refuses costs it nothing but time.
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
from .service import MODELS, REFUSAL_SLOT_S, START, Service

RESERVE_SHARE: Final = 0.9
FLEX_SHARE: Final = 0.5
_SHORTEST, _LONGEST = log(2 * MINUTE), log(36 * HOUR)
CLASSES: Final = tuple(exp(_SHORTEST + n * (_LONGEST - _SHORTEST) / 14) for n in range(1, 15))
"""The longest deadline of each."""
LEAVES: Final = (NEVER, 4 * HOUR, 2 * HOUR, HOUR, 40 * MINUTE, 25 * MINUTE, 16 * MINUTE, 8 * MINUTE, 4 * MINUTE, 0.0)
"""Time left, beyond the last reserve, at which the batch route is left; infinity: it is not entered."""
TRIALS: Final = 200
SHADOWS: Final = 24
PARTS: Final = 3
BATCH, FULL = 1, 2
"""What an answer costs: on the batch and flex routes, and on standard, in halves of the list price."""
_BEGIN_S: Final = 3.0
_PROBE_S: Final = REFUSAL_SLOT_S
"""Time between two calls of a flex route that refuses, whatever it asks for: to call more often would tell nothing."""


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
    flex_until = last - service.scenario.flex(FLEX_SHARE, at - START)
    t = at + _BEGIN_S
    while t < leave:
        fate = service.fate(model, t)
        if fate.kind == "SUCCEEDED" and fate.ends_at <= leave:
            return Played(BATCH, fate.ends_at)
        t = min(leave, fate.ends_at)
    t = max(at, leave) if leave > at else at
    paid, ends_at = 0, NEVER
    while t < flex_until and "flex" in ladder:
        if not service.refuses("flex", model, t):
            paid, ends_at = BATCH, t + service.takes_s("flex", number, t)
            if ends_at <= last:
                return Played(paid, ends_at)
            break
        t += _PROBE_S
    t = max(at, last)
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
    shortest, longest = log(CLASSES[number - 1]) if number else _SHORTEST, log(CLASSES[number])
    reserve = reserve_s(scenario)
    trials = []
    for trial in range(TRIALS):
        at = START + HORIZON_S * (part + rng.random()) / PARTS
        deadline = at + exp(rng.uniform(shortest, longest))
        trials.append((_shadow(name, trial % SHADOWS), 1_000_000 + trial, rng.choice(MODELS), at, deadline))
    paid: list[tuple[int, int]] = []
    for order, leave_s in enumerate(LEAVES):
        total = 0
        for service, request, model, at, deadline in trials:
            last = deadline - reserve
            played = play(service, request, model, ladder, at, deadline, last - leave_s, last)
            total += played.halves + (FULL if played.ended_at > deadline else 0)
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
