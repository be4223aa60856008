"""When a missed deadline is nobody's fault: the first promise of the ladder, in exact words.

*No deadline is missed while any lower rung accepted work within its last reserve.* For a request let D be its deadline,
R the reserve that the engine keeps for standard (one and a half times what is usual, and 10 s), and F what is usual of
flex, both as it knows them at D. The last reserve of flex is from D - R - F to D - R, or to when the request went on to
standard if that was earlier, since less was known then, or since flex did not fit any more; that of standard from
D - R, or what was taken for it when the request went there if that is earlier, to D. A route on the ladder *accepted
work* if for ``HOLDS_S`` without a break, within its last reserve and while the request was there,

- it refused nobody, and had quota for one call more than all that it took, by the service's log;
- a call of this request that began then would have been answered by D; and
- on flex: the service had not asked to be left alone (RetryInfo) for longer. On standard that does not count, since a
  request in its last reserve has nothing to lose.

``HOLDS_S`` is what a client must have the chance to notice: its time between two tries (two seconds on the last rung,
five on flex, as its documents say) and half a second for the try. So the miss of each request of a crowd counts where
there was room for but one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from carpool._core.breaker import EAGER_PAUSE_S, URGENT_PAUSE_S
from carpool._core.live import Trip
from carpool._core.routing import Durations
from carpool.settings import Route

from .asked import Asked
from .service import Service

LOOK_S: Final = 0.25
TRY_S: Final = 0.5
HOLDS_S: Final[dict[Route, float]] = {"standard": URGENT_PAUSE_S + TRY_S, "flex": EAGER_PAUSE_S + TRY_S}


class Asks:
    """For how long the service asked to be left alone."""

    def __init__(self) -> None:
        self._since: dict[tuple[Route, str], list[float]] = {}
        self._until: dict[tuple[Route, str], list[float]] = {}

    def note(self, route: Route, model: str, at: float, until: float) -> None:
        """Note a refusal that asked for it."""
        untils = self._until.setdefault((route, model), [])
        untils.append(max(until, untils[-1]) if untils else until)
        self._since.setdefault((route, model), []).append(at)

    def is_asked(self, route: Route, model: str, at: float) -> bool:
        """Return whether it wanted to be left alone at a time."""
        number = bisect_right(self._since.get((route, model), []), at) - 1
        return number >= 0 and at < self._until[route, model][number]


def accepted_work(service: Service, asks: Asks, asked: Asked, durations: Durations, trip: Trip | None) -> Route | None:
    """Return the lower rung that accepted work within its last reserve, of a request that missed its deadline.

    Args:
        service: by whose log it is judged.
        asks: what it asked for.
        asked: the request.
        durations: as they are known at its deadline.
        trip: what the engine has of it, if it is on a live route.
    """
    ladder = asked.ladder
    last = asked.deadline - durations.reserve_s(asked.model, ladder, len(ladder) - 2)
    went_on_at = begins_at = last
    if trip is not None and trip.route == "standard":
        went_on_at, begins_at = min(last, trip.entered_at), min(last, trip.urgent_at)
    windows: dict[Route, tuple[float, float]] = {
        "flex": (last - durations.usual_s(asked.model, "flex"), went_on_at),
        "standard": (begins_at, asked.deadline),
    }
    for route in ladder[1:]:
        at, until = max(asked.at, windows[route][0]), windows[route][1]
        since = at
        while at <= until:
            if not _would_take(service, asks, asked, route, at):
                since = at + LOOK_S
            elif at - since >= HOLDS_S[route]:
                return route
            at += LOOK_S
    return None


def _would_take(service: Service, asks: Asks, asked: Asked, route: Route, at: float) -> bool:
    model = asked.model
    takes_s = service.takes_s(route, asked.number, at, shares=asked.kind == "embed")
    return (
        at + takes_s <= asked.deadline
        and not service.refuses(route, model, at)
        and service.had_room(route, model, at)
        and not (route == "flex" and asks.is_asked(route, model, at))
    )
