"""Requests on the live routes: which wait, which are in the air, and when the next call may go.

Owns the queues, nearest deadline first, and the calls in the air. It must not know why a request came here, nor where
it goes next: that is for ``descent``.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from typing import Final

import msgspec

from carpool._core.messages import Call
from carpool._core.model import ROW_BITS, Lane, Place, Segment
from carpool._core.throttle import Throttle, Throttles
from carpool.settings import Route

NEVER: Final = float("inf")
EMBEDS_MAX: Final = 100
"""Contents that one live embedding call takes (batchEmbedContents)."""
SHARED_BYTES_MAX: Final = 8_388_608
"""Size of the requests that share one call; what is larger goes alone."""
WAIT_MAX_S: Final = 15.0
"""How long a request waits for a live call while a route that costs no more is on its ladder."""
LINES_BYTES_MAX: Final = 16_777_216
"""What of waiting requests may stay in memory, over all live routes."""
_LOOK_S: Final = 1.0
"""Between two looks along a line that is too long."""


class Trip(msgspec.Struct, kw_only=True, eq=False, gc=False):
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
    size_bytes: int = 0
    flees: bool = False
    """Whether there is a next rung that costs no more."""
    company: int = EMBEDS_MAX
    """How many may share a call with it, itself included."""
    urgent_at: float = NEVER
    """From when on it is in the last reserve of its rung: it is tried although the route refuses calls."""
    tries: int = 0
    op: int = 0
    """The call that carries it; 0 while it waits."""
    wake_at: float = 0.0
    """Not to be sent before."""
    besides: bool = False
    """Whether its row is in a running job too, or in a call that it has left: what both answer is paid for twice."""
    over: bool = False
    """Whether it was answered elsewhere, or left."""
    late: bool = False
    """Whether its deadline has passed while its call was in the air, and nobody waits for it."""
    ready: bool = False
    """Whether it stands in line."""
    line: bytes | None = None
    """Its row of a batch file, as far as there is room for it in memory; else it is read when it goes."""


class Flight(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One call in the air."""

    op: int
    route: Route
    lane: Lane
    trips: list[Trip]
    started_at: float


class _Line:
    """Requests of one route and lane that wait for a call."""

    __slots__ = ("count", "fleeing", "heap", "look_at", "tokens")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Trip]] = []
        """Nearest deadline first; some of them may have left."""
        self.fleeing: deque[Trip] = deque()
        """Those that need not wait here, in the order in which they came; some may have left."""
        self.count = 0
        self.tokens = 0
        self.look_at = 0.0
        """When to look along it again."""

    def enter(self, number: int, trip: Trip) -> None:
        heapq.heappush(self.heap, (trip.deadline, number, trip))
        if trip.flees:
            self.fleeing.append(trip)
        trip.ready = True
        self.count += 1
        self.tokens += trip.tokens

    def leave(self, trip: Trip) -> None:
        trip.ready = False
        self.count -= 1
        self.tokens -= trip.tokens

    def first(self, most: int) -> list[tuple[float, int, Trip]]:
        """Take out those that go next and may share a call; those that have left are let go of."""
        taken: list[tuple[float, int, Trip]] = []
        size_bytes = 0
        while self.heap and len(taken) < most:
            trip = self.heap[0][2]
            if trip.ready:
                size_bytes += trip.size_bytes
                most = min(most, trip.company)
                if taken and (len(taken) >= most or size_bytes > SHARED_BYTES_MAX):
                    break
                taken.append(self.heap[0])
            heapq.heappop(self.heap)
        return taken

    def put_back(self, entries: list[tuple[float, int, Trip]]) -> None:
        """Let those that were taken out stand in line as before."""
        for entry in entries:
            heapq.heappush(self.heap, entry)

    def far_back(self, throttle: Throttle, now: float) -> list[Trip]:
        """Return those that need not wait here, and whose turn would come too late."""
        if not self.fleeing or 0.0 <= self.look_at - now <= _LOOK_S:
            return []
        if throttle.wait_s(now, self.count - 1, self.tokens) <= WAIT_MAX_S:
            return []
        self.look_at = now + _LOOK_S
        found: list[Trip] = []
        ahead = tokens = 0
        for _, _, trip in sorted(self.heap, key=_order):
            if trip.ready:
                tokens += trip.tokens
                if trip.flees and throttle.wait_s(now, ahead, tokens) > WAIT_MAX_S:
                    found.append(trip)
                ahead += 1
        return found

    def oldest(self) -> Trip | None:
        """Return the one that need not wait here and came first."""
        while self.fleeing and not self.fleeing[0].ready:
            self.fleeing.popleft()
        return self.fleeing[0] if self.fleeing else None


class Live:
    """All requests on live routes."""

    def __init__(self, throttles: Throttles) -> None:
        self.throttles = throttles
        self.trips: dict[Place, Trip] = {}
        self.flights: dict[int, Flight] = {}
        self.carried: Counter[int] = Counter()
        """How many requests of each segment are in the air: it is not to be dropped while they may be read from it."""
        self._lines: dict[tuple[Route, Lane], _Line] = {}
        self._resting: list[tuple[float, int, Trip]] = []
        self._lines_bytes = 0
        self._numbers = count(1)

    def remember(self, segment: Segment, lines: bytes | bytearray) -> None:
        """Keep those rows of a segment that has just been closed in memory which are to go live, while there is room.

        To read each of them back would cost more than the rest of a call, and hold up whoever writes.
        """
        start = 0
        for place, end in enumerate(segment.ends, segment.no << ROW_BITS):
            trip = self.trips.get(place)
            if trip is not None and self._lines_bytes + end - start <= LINES_BYTES_MAX:
                trip.line = bytes(lines[start:end])
                self._lines_bytes += end - start
            start = end

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
            if trip.line is not None:
                self._lines_bytes -= len(trip.line)
                trip.line = None
            if trip.ready:
                self._lines[trip.route, trip.lane].leave(trip)
        return trip

    def rejoin(self, place: Place) -> bool:
        """Let a request that has left a call in the air wait for that call alone; return whether there is one."""
        if place >> ROW_BITS not in self.carried:
            return False
        for flight in self.flights.values():
            for trip in flight.trips:
                if trip.place == place:
                    self.drop(place)
                    trip.over = False
                    self.trips[place] = trip
                    return True
        return False

    def start(self, now: float) -> Iterator[Call]:
        """Start the calls that may start now, those with the nearest deadline first."""
        self._wake(now)
        for (route, lane), line in list(self._lines.items()):
            if self.throttles.are_full:
                return
            throttle = self.throttles.of(route, lane.model)
            most = EMBEDS_MAX if lane.kind == "embed" else 1
            while entries := line.first(most):
                trips = [trip for _, _, trip in entries]
                tokens = sum([trip.tokens for trip in trips])
                if not throttle.may_start(now, tokens, trips[0].urgent_at):
                    line.put_back(entries)
                    break
                op = next(self._numbers)
                for trip in trips:
                    line.leave(trip)
                    trip.op = op
                    self.carried[trip.place >> ROW_BITS] += 1
                self.flights[op] = Flight(op=op, route=route, lane=lane, trips=trips, started_at=now)
                throttle.started(tokens, now, requests=len(trips))
                until = max([trip.deadline for trip in trips])
                # A deadline that has passed leaves no time for an answer, and whoever named it waits no more.
                until = until if until > now else NEVER
                yield Call(op=op, route=route, lane=lane, places=[trip.place for trip in trips], deadline=until)
            if not line.heap:
                del self._lines[route, lane]

    def in_vain(self, now: float) -> list[Trip]:
        """Return those that wait in vain, and need not.

        In vain: the route refuses all calls, or keeps them waiting long. Calls that may start have started before,
        since one of them is the probe that shows when the route recovers.
        """
        found: list[Trip] = []
        for (route, lane), line in self._lines.items():
            if line.oldest() is None:
                continue
            throttle = self.throttles.of(route, lane.model)
            if throttle.is_refusing(now):
                found += [trip for trip in line.fleeing if trip.ready]
                continue
            while (oldest := line.oldest()) is not None and now - oldest.entered_at >= WAIT_MAX_S:
                line.leave(oldest)
                found.append(oldest)
            found += line.far_back(throttle, now)
        return found

    def land(self, op: int) -> Flight | None:
        """Take a call out of the air; ``None`` if there is none of this number."""
        flight = self.flights.pop(op, None)
        for trip in flight.trips if flight is not None else ():
            trip.op = 0
            no = trip.place >> ROW_BITS
            self.carried[no] -= 1
            if not self.carried[no]:
                del self.carried[no]
        return flight

    def next_wakeup(self, now: float) -> float | None:
        """Return when to look again if nothing else happens before."""
        times = [self._resting[0][0]] if self._resting else []
        full = self.throttles.are_full  # then the end of another call comes first
        for (route, lane), line in self._lines.items():
            if not full:
                times.append(self.throttles.of(route, lane.model).next_start(now))
            oldest = line.oldest()
            if oldest is not None:
                times.append(oldest.entered_at + WAIT_MAX_S)
                if line.look_at > now:
                    times.append(line.look_at)
        return min((time for time in times if time < NEVER), default=None)

    def _wake(self, now: float) -> None:
        """Let those that have rested stand in line."""
        while self._resting and self._resting[0][0] <= now:
            _, number, trip = heapq.heappop(self._resting)
            if not trip.over:
                self._lines.setdefault((trip.route, trip.lane), _Line()).enter(number, trip)


def _order(entry: tuple[float, int, Trip]) -> tuple[float, int]:
    return entry[0], entry[1]
