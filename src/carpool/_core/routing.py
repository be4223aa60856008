"""The ladder: which route a request takes now, and when it has to be left for the next one.

Owns the codes by which ladders are written down, the durations that were seen, and the two rules: when a rung is
entered, and when it is left. It must not know rows, jobs or calls.
"""

from __future__ import annotations

from itertools import permutations
from math import ceil
from typing import Final

import msgspec

from carpool.errors import ConfigurationError
from carpool.settings import CHEAP, ROUTES, Ladder, Route, check_ladder
from carpool.types import Kind

LADDERS: Final[tuple[Ladder, ...]] = tuple(
    ladder for length in range(1, len(ROUTES) + 1) for ladder in permutations(ROUTES, length)
)
"""All ladders there are. A row's ladder is written down as its index here, so the order is for ever."""
BATCH_ONLY: Final = 0
SAMPLES_MAX: Final = 64
KINDS_MAX: Final = 1_024
"""Routes of models whose durations are kept; the one that was seen first makes room."""
RECORD_PAUSE_S: Final = 60.0
"""Least time between two writings of what was seen: to lose the last of it costs little."""
USUAL_SHARE: Final = 0.9
ENTER_SHARE: Final[dict[Route, float]] = {"batch": 0.75, "flex": 0.5, "standard": 0.5}
"""A rung is entered if that share of its known durations fits into the time before the rungs below need theirs.

More of the batch route: a request that leaves a job others ride in is often paid for twice, and flex costs no more. A
live call that is left in vain is paid for beside the full price of the next: at even odds both ways cost the same."""
RESERVE_MORE: Final = 0.5
RESERVE_QUEUE_S: Final = 10.0
"""The last rung gets half as much time again as it usually takes, and this for the calls that go before: there is
nothing below it for the one of ten that takes longer than usual."""
LOOKS_PER_S: Final = 20_000
"""How many requests may be looked at anew in a second, since a route below theirs has become slower."""
PRIOR_S: Final[dict[Route, float]] = {"batch": 6 * 3_600.0, "flex": 900.0, "standard": 60.0}
"""How long a route takes before there is any history: guesses, until ten durations were seen.

Which route is quicker than another is taken from here alone: a rung is not left in haste for one that is slower by
its nature, as FAST's live call is for its batch."""
_TRUSTED: Final = 10


def _quicker_below(ladder: Ladder, rung: int) -> Ladder:
    found: list[Route] = [ladder[rung]]
    for route in ladder[rung + 1 :]:
        if PRIOR_S[route] < PRIOR_S[found[-1]]:
            found.append(route)
    return tuple(found[1:])


_QUICKER_BELOW: Final = {
    (ladder, rung): _quicker_below(ladder, rung) for ladder in LADDERS for rung in range(len(ladder))
}
_CODES: Final = {ladder: code for code, ladder in enumerate(LADDERS)}


class Seen(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """The durations of one route and model, as they are written down: the newest last."""

    model: str
    route: Route
    durations_s: list[float]
    base_url: str = ""
    """Of the service: see ``base_url_of``. Empty until it is written down."""


def code_of(ladder: Ladder) -> int:
    """Return the number by which a ladder is written down."""
    return _CODES[ladder]


def quicker_below(ladder: Ladder, rung: int) -> Ladder:
    """Return the rungs below one that are quicker by their nature, each than the one before."""
    return _QUICKER_BELOW[ladder, rung]


def choose(given: Ladder | None, usual: Ladder | None, kind: Kind, *, timed: bool) -> int:
    """Return the code of the ladder that a call takes.

    Args:
        given: by the call; checked here.
        usual: of calls that give none; ``None``: ``CHEAP`` with a deadline, else the batch route alone.
        kind: embeddings have no flex route: they pass it over.
        timed: whether the call has a deadline.

    Raises:
        ConfigurationError: it is no ladder, or holds no route that an embedding could take.
    """
    if given is None:
        if usual is None and not timed:
            return BATCH_ONLY
        ladder: Ladder = usual or CHEAP
    else:
        ladder = given if given in LADDERS else check_ladder(given)
    if kind == "embed" and "flex" in ladder:
        ladder = tuple(route for route in ladder if route != "flex")
        if not ladder:
            raise ConfigurationError(
                "ladder is ('flex',), and embeddings have no flex route; use 'batch' or 'standard'"
            )
    return _CODES[ladder]


class Durations:
    """How long each route takes for each model."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Route], list[float]] = {}
        self._usual: dict[tuple[str, Route], float] = {}
        self._before: dict[tuple[str, Route], float] = {}
        """What was usual before something was learned that has not been looked at yet."""
        self._looked_at = 0.0
        self._changed: set[tuple[str, Route]] = set()
        self._recorded_at = float("-inf")

    def saw(self, model: str, route: Route, duration_s: float) -> None:
        """Learn from a request that took so long from entering the route to its answer."""
        seen = self._of(model, route)
        seen.append(max(0.0, duration_s))
        del seen[:-SAMPLES_MAX]
        usual = self._usual.pop((model, route), None)
        if usual is not None:
            self._before.setdefault((model, route), usual)
        self._changed.add((model, route))

    def saw_at_least(self, model: str, route: Route, duration_s: float) -> None:
        """Learn from one that was given up after so long: it tells something only if that is longer than usual."""
        if duration_s > self.usual_s(model, route):
            self.saw(model, route, duration_s)

    def usual_s(self, model: str, route: Route) -> float:
        """Return the duration that nine of ten requests keep to; until ten were seen the prior counts as one more."""
        known = self._usual.get((model, route))
        if known is None:
            known = self._usual[model, route] = self._within_s(model, route, USUAL_SHARE)
        return known

    def _within_s(self, model: str, route: Route, share: float) -> float:
        seen = sorted(self._seen.get((model, route), ()))
        if len(seen) < _TRUSTED:
            seen = sorted([*seen, PRIOR_S[route]])
        return seen[ceil(share * len(seen)) - 1]

    def has_risen(self, now: float, waiting: int) -> bool:
        """Return whether any route has become slower since this was last told, so that requests must leave earlier.

        Args:
            now: the time.
            waiting: requests that will have to be looked at if so: the more there are, the more seldom it is told.
        """
        # Distance, not order: the clock may have been set back meanwhile.
        if not self._before or abs(now - self._looked_at) * LOOKS_PER_S < waiting:
            return False
        self._looked_at = now
        before, self._before = self._before, {}
        return any(self.usual_s(model, route) > usual for (model, route), usual in before.items())

    # -- records

    def changes(self, now: float, *, at_once: bool = False) -> list[Seen]:
        """Return what is to be written down now: what changed since the last time, but seldom.

        Args:
            now: the time.
            at_once: however short a time ago that was: there may be no next time.
        """
        # Distance, not order: the clock may have been set back meanwhile.
        if not self._changed or not (at_once or abs(now - self._recorded_at) >= RECORD_PAUSE_S):
            return []
        changed, self._changed, self._recorded_at = sorted(self._changed), set(), now
        return [Seen(model=model, route=route, durations_s=list(self._seen[model, route])) for model, route in changed]

    def take(self, record: Seen) -> None:
        """Take what was written down."""
        seen = self._of(record.model, record.route)
        seen[:] = [max(0.0, duration_s) for duration_s in record.durations_s[-SAMPLES_MAX:]]
        self._usual.pop((record.model, record.route), None)

    def _of(self, model: str, route: Route) -> list[float]:
        seen = self._seen.get((model, route))
        if seen is None:
            if len(self._seen) >= KINDS_MAX:
                oldest = next(iter(self._seen))
                del self._seen[oldest]
                self._usual.pop(oldest, None)
                self._changed.discard(oldest)
            seen = self._seen[model, route] = []
        return seen

    # -- the two rules

    def reserve_s(self, model: str, ladder: Ladder, rung: int) -> float:
        """Return how much time the quicker rungs below one need; 0 if there are none."""
        below = quicker_below(ladder, rung)
        return self._sum_s(model, below[:-1]) + self.last_s(model, below[-1]) if below else 0.0

    def own_s(self, model: str, ladder: Ladder, rung: int) -> float:
        """Return how long before a deadline the last reserve of a rung begins: with its own time and what is below."""
        route = ladder[rung]
        if quicker_below(ladder, rung):
            return self.usual_s(model, route) + self.reserve_s(model, ladder, rung)
        return self.last_s(model, route)

    def last_s(self, model: str, route: Route) -> float:
        """Return how much time a route needs after which no quicker one comes."""
        return self.usual_s(model, route) * (1 + RESERVE_MORE) + RESERVE_QUEUE_S

    def enter(self, model: str, ladder: Ladder, rung: int, left_s: float) -> int:
        """Return the first rung from ``rung`` on that may well be done before the rungs below need what is left.

        What the last one gets beyond its usual time does not count for that: a rung that is left in time, or a little
        later, must still find the next one open. But none is entered that would have to be left at once.

        One below which there is no quicker one is entered however little time is left: there is nothing to be saved
        for.
        """
        for number in range(rung, len(ladder) - 1):
            below = quicker_below(ladder, number)
            if not below:
                return number
            if self.is_in_time(model, ladder[number], left_s - self._sum_s(model, below)) and (
                left_s > self.reserve_s(model, ladder, number)
            ):
                return number
        return len(ladder) - 1

    def is_in_time(self, model: str, route: Route, left_s: float) -> bool:
        """Return whether a route may well be done in the time that is left."""
        return self._within_s(model, route, ENTER_SHARE[route]) <= left_s

    def leave_at(self, model: str, ladder: Ladder, rung: int, deadline: float, *, waits: bool = False) -> float:
        """Return when a rung has to be left, so that the quicker rungs below have the time that they usually take.

        Args:
            model: which.
            ladder: which.
            rung: of the ladder.
            deadline: of the request.
            waits: whether nothing of it is under way there: then it leaves as soon as it would not be entered any more.
        """
        left_s = self.reserve_s(model, ladder, rung)
        below = quicker_below(ladder, rung)
        if waits and below:
            route = ladder[rung]
            left_s = max(left_s, self._within_s(model, route, ENTER_SHARE[route]) + self._sum_s(model, below))
        return deadline - left_s

    def _sum_s(self, model: str, routes: tuple[Route, ...]) -> float:
        return sum(self.usual_s(model, route) for route in routes)
