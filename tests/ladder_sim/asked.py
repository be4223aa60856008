"""What callers ask of one seed, and how each request ended.

Owns the load: bursts, deadlines from two minutes to 36 hours and none, models and kinds.
"""

from __future__ import annotations

from math import exp, log
from random import Random
from typing import Final

import msgspec

from carpool.settings import CHEAP, Ladder, Route

from .scenarios import HORIZON_S, HOUR, MINUTE, Scenario
from .service import MODELS, START

NEVER: Final = float("inf")
TIMED: Final = 0.85
EMBEDS: Final = 0.15
EMBEDS_LADDER: Final[Ladder] = ("batch", "standard")
"""They pass flex over."""


class Asked(msgspec.Struct, kw_only=True):
    """One request."""

    number: int
    kind: str
    model: str
    at: float
    deadline: float
    place: int = 0
    ending: str = ""
    """``value``, ``expired``, or the kind of a failure."""
    ended_at: float = 0.0
    route: str = ""
    held_back: bool = False
    """Whether the ceiling on doubles kept it in its job."""
    took_s: dict[Route, float] = msgspec.field(default_factory=dict)
    """How long its calls that were accepted take."""

    @property
    def ladder(self) -> Ladder:
        """The routes that it may take."""
        return CHEAP if self.kind == "generate" else EMBEDS_LADDER


def load(scenario: Scenario, rng: Random) -> list[Asked]:
    """Return the requests of a seed, in the order in which they come."""
    asked: list[Asked] = []
    bursts = scenario.requests / (0.7 + 0.3 * scenario.burst / 2)
    at = START
    while len(asked) < scenario.requests:
        at += rng.expovariate(bursts / HORIZON_S)
        kind = "embed" if rng.random() < EMBEDS else "generate"
        model = rng.choice(MODELS)
        left_s = draw_left_s(rng)
        together = rng.random() < 0.5
        for _ in range(rng.randint(1, scenario.burst) if rng.random() < 0.3 else 1):
            if not together:
                left_s = draw_left_s(rng)
            asked.append(Asked(number=len(asked), kind=kind, model=model, at=at, deadline=at + left_s))
    return asked[: scenario.requests]


def draw_left_s(rng: Random) -> float:
    """Draw how much time a request has: two minutes to 36 hours, or any."""
    return exp(rng.uniform(log(2 * MINUTE), log(36 * HOUR))) if rng.random() < TIMED else NEVER
