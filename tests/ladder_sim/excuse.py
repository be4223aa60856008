"""When a missed deadline is nobody's fault: the first promise of the ladder, in exact words.

*No deadline is missed while any lower rung accepted work within its last reserve.* For a request with the deadline D,
and a time t, let R be the reserve that the engine keeps for standard (one and a half times what is usual, and 10 s) and
F what is usual of flex, both as it knows them at t. Then t is within the last reserve of standard from D - R to D, and
within that of flex from D - R - F to D - R, as long as the request has not gone on to standard. A route on the ladder
*accepted work* if for ``HOLDS_S`` without a break, within its last reserve and while the request was there,

- it refused nobody, and had quota for one call more than all that it took, by the service's log;
- a call of this request that began then would have been answered by D (it takes as long as the one that was accepted
  of it, if there is one: nobody asks twice for what is on its way); and
- on flex: the service had not asked to be left alone (RetryInfo) for longer. On standard that does not count, since a
  request in its last reserve has nothing to lose.

``HOLDS_S`` is what a client must have the chance to notice: its time between two tries (two seconds on standard, five
on flex, as its documents say), and the second after which a try that was not refused is followed by others. So the miss
of each request of a crowd counts where there was room for but one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from carpool._core.breaker import OBEYING_PAUSE_S, TRUST_S, URGENT_PAUSE_S
from carpool._core.live import Trip
from carpool._core.routing import PRIOR_S, RESERVE_MORE, RESERVE_QUEUE_S, Durations
from carpool.settings import Route

from .asked import Asked
from .service import MODELS, Service

LOOK_S: Final = 0.25
HOLDS_S: Final[dict[Route, float]] = {"standard": URGENT_PAUSE_S + TRUST_S, "flex": OBEYING_PAUSE_S + TRUST_S}
LIVE: Final[tuple[Route, ...]] = ("flex", "standard")


class Steps:
    """A value over time."""

    def __init__(self, first: float) -> None:
        self.values = [first]
        self._times: list[float] = []

    def note(self, at: float, value: float) -> None:
        """Note the value from now on."""
        if value != self.values[-1]:
            self._times.append(at)
            self.values.append(value)

    def at(self, at: float) -> float:
        """Return the value at a time."""
        return self.values[bisect_right(self._times, at)]


class Known:
    """What the engine knew at each time: what is usual of the live routes, and how long it was asked to leave them."""

    def __init__(self) -> None:
        self._usual_s = {(model, route): Steps(PRIOR_S[route]) for model in MODELS for route in LIVE}
        self._asked_until = {(model, route): Steps(0.0) for model in MODELS for route in LIVE}

    def note(self, at: float, durations: Durations) -> None:
        """Note what is usual now."""
        for (model, route), steps in self._usual_s.items():
            steps.note(at, durations.usual_s(model, route))

    def note_asked(self, at: float, model: str, route: Route, until: float) -> None:
        """Note until when the service asks to be left alone."""
        steps = self._asked_until[model, route]
        steps.note(at, max(until, steps.values[-1]))

    def is_asked(self, at: float, model: str, route: Route) -> bool:
        """Return whether the service wants to be left alone."""
        return at < self._asked_until[model, route].at(at)

    def reserves(self, at: float, model: str) -> tuple[float, float]:
        """Return how long before a deadline the last reserve of flex begins, and that of standard."""
        standard_s = self._usual_s[model, "standard"].at(at) * (1 + RESERVE_MORE) + RESERVE_QUEUE_S
        return standard_s + self._usual_s[model, "flex"].at(at), standard_s


def accepted_work(service: Service, known: Known, asked: Asked, trip: Trip | None) -> Route | None:
    """Return the lower rung that accepted work within its last reserve, of a request that missed its deadline.

    Args:
        service: by whose log it is judged.
        known: what the engine knew.
        asked: the request.
        trip: what the engine has of it, if it is on a live route.
    """
    went_on_at = trip.entered_at if trip is not None and trip.route == "standard" else asked.deadline
    for route in asked.ladder[1:]:
        until = went_on_at if route == "flex" else asked.deadline
        at = since = max(asked.at, until - 3_600.0)
        while at <= until:
            if not (_is_last_reserve(known, asked, route, at) and _would_take(service, known, asked, route, at)):
                since = at + LOOK_S
            elif at - since >= HOLDS_S[route]:
                return route
            at += LOOK_S
    return None


def _is_last_reserve(known: Known, asked: Asked, route: Route, at: float) -> bool:
    of_flex_s, of_standard_s = known.reserves(at, asked.model)
    left_s = asked.deadline - at
    return left_s <= of_standard_s if route == "standard" else of_standard_s < left_s <= of_flex_s


def _would_take(service: Service, known: Known, asked: Asked, route: Route, at: float) -> bool:
    model = asked.model
    takes_s = asked.took_s.get(route, service.takes_s(route, asked.number, at, shares=asked.kind == "embed"))
    return (
        at + takes_s <= asked.deadline
        and not service.refuses(route, model, at)
        and service.had_room(route, model, at)
        and not (route == "flex" and known.is_asked(at, model, route))
    )
