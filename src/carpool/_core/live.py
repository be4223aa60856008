"""Requests on the live routes: which wait, which are in the air, and when the next call may go.

Owns the queues, nearest deadline first, and the calls in the air. It must not know why a request came here, nor where
it goes next: that is for ``descent``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Final

import msgspec

from carpool._core.messages import Call
from carpool._core.model import Lane, Place
from carpool._core.throttle import Throttles
from carpool.settings import Route

NEVER: Final = float("inf")
EMBEDS_MAX: Final = 100
"""Contents that one live embedding call takes (batchEmbedContents)."""


class Trip(msgspec.Struct, kw_only=True, eq=False):
    """One request on a live route."""

    place: Place
    lane: Lane
    route: Route
    rung: int
    """Of its ladder."""
    tokens: int
    """Estimate of its input."""
    deadline: float
    entered_at: float
    urgent_at: float = NEVER
    """From when on it has nothing to lose: it is on its last rung, and has little more time than that usually takes."""
    tries: int = 0
    op: int = 0
    """The call that carries it; 0 while it waits."""
    wake_at: float = 0.0
    """Not to be sent before."""
    share_max: int = EMBEDS_MAX
    """How many may share its call: fewer since one that it was in was refused."""
    besides: bool = False
    """Whether its row is in a running job too: what both answer is paid for twice."""
    over: bool = False
    """Whether it was answered elsewhere, or left."""


class Flight(msgspec.Struct, kw_only=True, eq=False):
    """One call in the air."""

    op: int
    route: Route
    lane: Lane
    trips: list[Trip]
    started_at: float


class Live:
    """All requests on live routes."""

    def __init__(self, throttles: Throttles) -> None:
        self.throttles = throttles
        self.trips: dict[Place, Trip] = {}
        self.flights: dict[int, Flight] = {}
        self._ready: dict[tuple[Route, Lane], list[tuple[float, int, Trip]]] = {}
        self._resting: list[tuple[float, int, Trip]] = []
        self._numbers = count(1)

    def push(self, trip: Trip) -> None:
        """Take a request in, or back."""
        assert self.trips.get(trip.place, trip) is trip, f"place {trip.place:#x} is on two live routes"
        self.trips[trip.place] = trip
        trip.op = 0
        heapq.heappush(self._resting, (trip.wake_at, next(self._numbers), trip))

    def drop(self, place: Place) -> Trip | None:
        """Let go of a request; its call, if it is in the air, comes back to nobody."""
        trip = self.trips.pop(place, None)
        if trip is not None:
            trip.over = True
        return trip

    @property
    def queues(self) -> list[tuple[Route, Lane, list[Trip]]]:
        """Requests that wait for a call, those with the nearest deadline first, by route and lane."""
        return [
            (route, lane, [trip for _, _, trip in sorted(heap, key=_order) if not trip.over])
            for (route, lane), heap in self._ready.items()
        ]

    def start(self, now: float) -> Iterator[Call]:
        """Start the calls that may start now, those with the nearest deadline first."""
        self._wake(now)
        for (route, lane), heap in list(self._ready.items()):
            throttle = self.throttles.of(route, lane.model)
            most = EMBEDS_MAX if lane.kind == "embed" else 1
            while (trips := self._next(heap, most)) and throttle.may_start(
                now, sum(trip.tokens for trip in trips), urgent_at=trips[0].urgent_at
            ):
                for _ in trips:
                    heapq.heappop(heap)
                op = next(self._numbers)
                for trip in trips:
                    trip.op = op
                self.flights[op] = Flight(op=op, route=route, lane=lane, trips=trips, started_at=now)
                throttle.started(sum(trip.tokens for trip in trips), now, requests=len(trips))
                until = max(trip.deadline for trip in trips)
                # A deadline that has passed leaves no time for an answer, and whoever named it waits no more.
                until = until if until > now else NEVER
                yield Call(op=op, route=route, lane=lane, places=[trip.place for trip in trips], deadline=until)
            if not heap:
                del self._ready[route, lane]

    def land(self, op: int) -> Flight | None:
        """Take a call out of the air; ``None`` if there is none of this number."""
        flight = self.flights.pop(op, None)
        for trip in flight.trips if flight is not None else ():
            trip.op = 0
        return flight

    def next_wakeup(self, now: float) -> float | None:
        """Return when to look again if nothing else happens before."""
        times = [self._resting[0][0]] if self._resting else []
        times += [self.throttles.of(route, lane.model).next_start(now) for route, lane in self._ready]
        return min((time for time in times if time < NEVER), default=None)

    def _wake(self, now: float) -> None:
        """Queue what has rested."""
        while self._resting and self._resting[0][0] <= now:
            _, number, trip = heapq.heappop(self._resting)
            if not trip.over:
                heapq.heappush(self._ready.setdefault((trip.route, trip.lane), []), (trip.deadline, number, trip))

    @staticmethod
    def _next(heap: list[tuple[float, int, Trip]], most: int) -> list[Trip]:
        """Return the requests that go next, still in the heap; those that are over are let go of."""
        taken: list[tuple[float, int, Trip]] = []
        while heap and len(taken) < most:
            entry = heapq.heappop(heap)
            trip = entry[2]
            if not trip.over and len(taken) < trip.share_max:
                taken.append(entry)
                most = min(most, trip.share_max)
            elif not trip.over:
                heapq.heappush(heap, entry)
                break
        for entry in taken:
            heapq.heappush(heap, entry)
        return [trip for _, _, trip in taken]


def _order(entry: tuple[float, int, Trip]) -> tuple[float, int]:
    return entry[0], entry[1]
