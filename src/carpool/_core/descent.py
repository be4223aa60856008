"""One request's way down its ladder: on which rung it begins, and where it goes from there.

Owns the moves between rungs. What a route usually takes is for ``routing``, which live call goes next for ``live``,
what the end of one means for ``landing``, when time is short for ``leaving``, and how jobs go on for ``lifecycle``.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carpool._core.accumulator import queued_runs
from carpool._core.book import Book, spans_of
from carpool._core.ledger import PAID_PERCENT, Ask
from carpool._core.live import NEVER, Trip
from carpool._core.model import ABANDONED, LIVE, PARKED, QUEUED, SENT, Place, Segment, caps_of, place_of
from carpool._core.routing import BATCH_ONLY, LADDERS, quicker_below
from carpool.settings import Ladder, Route


class Rider(NamedTuple):
    """A request that is under way."""

    segment: Segment
    row: int

    @property
    def place(self) -> Place:
        """Return its place."""
        return place_of(self.segment.no, self.row)

    @property
    def ladder(self) -> Ladder:
        """Return the routes that it may take, in the order in which they are tried."""
        codes = self.segment.ladders
        return LADDERS[codes[self.row] if self.row < len(codes) else BATCH_ONLY]

    @property
    def deadline(self) -> float:
        """Return its deadline; infinity if it has none."""
        return self.segment.deadlines[self.row] if self.segment.deadlines else NEVER

    @property
    def tokens(self) -> int:
        """Return the estimate of its input."""
        return self.segment.tokens_of(self.row, self.row + 1)

    @property
    def limit(self) -> int:
        """Return what bounds its cost: ``limit_of``."""
        limits = self.segment.limits
        return limits[self.row] if self.row < len(limits) else 0

    @property
    def state(self) -> int:
        """Return its state."""
        return self.segment.states[self.row]


def rider(book: Book, place: Place) -> Rider:
    """Return the request of a place."""
    segment, row = book.at(place)
    assert segment is not None, f"place {place:#x} is forgotten, although it is under way"
    return Rider(segment, row)


# -- onto a rung


def begin(book: Book, segment: Segment, start: int, stop: int, now: float) -> None:
    """Queue rows that are QUEUED and counted, each on the first rung of its ladder that fits into its time.

    Rows that are held back all wait in their lane, for ``release``.
    """
    if not segment.ladders or segment.no <= book.held_to:
        book.queue(segment, start, stop)
        return
    low = start
    for row in range(start, stop):
        one = Rider(segment, row)
        rung = first_rung(book, one, 0, now)
        if one.ladder[rung] == "batch":
            _watch(book, one, rung, now)
            continue
        if low < row:
            book.queue(segment, low, row)
        low = row + 1
        segment.states[row] = LIVE
        go_live(book, one, rung, now)
    if low < stop:
        book.queue(segment, low, stop)


def wake(book: Book, segment: Segment, row: int, now: float) -> None:
    """Let a row that is PARKED begin anew, in front of its lane if it takes the batch route."""
    one = Rider(segment, row)
    rung = first_rung(book, one, 0, now)
    if one.ladder[rung] == "batch":
        book.requeue(((segment.no, row, row + 1),), now)
        _watch(book, one, rung, now)
    elif segment.no <= book.held_to:
        book.requeue(((segment.no, row, row + 1),), now)
    else:
        book.count_in(segment, row, row + 1)
        segment.states[row] = LIVE
        go_live(book, one, rung, now)


def release(book: Book, now: float) -> None:
    """Let requests of earlier processes begin that were held back, each on its rung."""
    held = [segment for no, segment in book.segments.items() if no <= book.held_to and segment.ladders]
    book.release_held()
    for segment in held:
        for start, stop in queued_runs(segment, 0, len(segment.keys)):
            for row in range(start, stop):
                one = Rider(segment, row)
                rung = first_rung(book, one, 0, now)
                if one.ladder[rung] == "batch":
                    _watch(book, one, rung, now)
                else:
                    book.unqueue(segment, row)
                    go_live(book, one, rung, now)


def watch_jobs(book: Book, segment: Segment, now: float) -> None:
    """Note when rows that are in jobs have to leave them: what an earlier process noted of that is gone."""
    if segment.ladders and segment.deadlines:
        for row, state in enumerate(segment.states):
            if state == SENT and not segment.flags[row] & ABANDONED:
                watch_job(book, segment, row, now)


def watch_job(book: Book, segment: Segment, row: int, now: float) -> None:
    """Note when a row that is in a job has to leave it."""
    one = Rider(segment, row)
    _watch(book, one, one.ladder.index("batch"), now)


def take_up(book: Book, one: Rider, deadline: float | None, ladder: int, now: float) -> None:
    """Let a request that nobody awaits be that of whoever asks the same now: with this deadline, and this ladder.

    One that is under way keeps its ladder, unless its job is on the new one too.
    """
    segment, row = one
    trip = book.live.trips.get(one.place)
    if trip is None and (one.state == PARKED or (one.state == SENT and "batch" in LADDERS[ladder])):
        segment.ladders.extend(bytes(max(0, row + 1 - len(segment.ladders))))
        segment.ladders[row] = ladder
    if segment.deadlines or deadline is not None:
        segment.deadlines.extend([NEVER] * (len(segment.keys) - len(segment.deadlines)))
        segment.deadlines[row] = NEVER if deadline is None else deadline
    if trip is not None:
        trip.deadline = one.deadline
        trip.urgent_at = urgent_at(book, one, trip.rung)
        _watch(book, one, trip.rung, now)


def go_on(book: Book, places: Iterable[Place], now: float) -> None:
    """Send rows that a job gave no answer to again: in another job, or on the next rung if time or tries are short."""
    again: list[Place] = []
    for place in places:
        one = rider(book, place)
        book.held_back.pop(place, None)
        if place in book.live.trips:
            go_on_alone(book, one)
            continue
        tired = one.segment.attempts[one.row] >= book.settings.attempts_max
        rung = first_rung(book, one, one.ladder.index("batch") + tired, now)
        if one.ladder[rung] == "batch":
            again.append(place)
            continue
        book.count_in(one.segment, one.row, one.row + 1)
        one.segment.states[one.row] = LIVE
        one.segment.attempts[one.row] = 0
        go_live(book, one, rung, now)
    book.requeue(spans_of(again), now)


def go_on_alone(book: Book, one: Rider) -> None:
    """Let a request that went ahead of its job go on without it."""
    book.count_in(one.segment, one.row, one.row + 1)
    one.segment.states[one.row] = LIVE
    book.live.trips[one.place].besides = False


def has_next(book: Book, place: Place, route: Route) -> bool:
    """Return whether a request that one route cannot answer may be sent over another."""
    return route in rider(book, place).ladder[:-1]


def first_rung(book: Book, one: Rider, rung: int, now: float) -> int:
    """Return the first rung, from this one on, that fits into the time that a request has left."""
    left_s = one.deadline - now
    if left_s == NEVER or left_s <= 0:
        return rung  # one that has passed hurries nobody: what is still to be answered need not cost the full price
    return book.durations.enter(one.segment.lane.model, one.ladder, rung, left_s)


def go_live(book: Book, one: Rider, rung: int, now: float, *, besides: bool = False) -> None:
    """Start a row that is LIVE, or still in a job, on a live rung.

    Args:
        book: the state.
        one: the row.
        rung: of its ladder.
        now: the time.
        besides: whether a call that it has left is in the air.
    """
    besides = besides or one.state == SENT
    book.live.push(
        Trip(
            place=one.place,
            lane=one.segment.lane,
            route=one.ladder[rung],
            rung=rung,
            tokens=one.tokens,
            deadline=one.deadline,
            entered_at=now,
            size_bytes=one.segment.bytes_of(one.row, one.row + 1),
            flees=not besides and flees(book, one, rung, now),
            urgent_at=urgent_at(book, one, rung),
            wake_at=now,
            besides=besides,
        )
    )
    _watch(book, one, rung, now)


def urgent_at(book: Book, one: Rider, rung: int) -> float:
    """Return when the last reserve of a rung begins for a request."""
    return one.deadline - book.durations.own_s(one.segment.lane.model, one.ladder, rung)


def _watch(book: Book, one: Rider, rung: int, now: float) -> None:
    """Note when a request has to leave its rung."""
    if now < one.deadline < NEVER and quicker_below(one.ladder, rung):
        heapq.heappush(book.leaving, (leave_at(book, one, rung), one.place, rung))


# -- off a rung


def leave_at(book: Book, one: Rider, rung: int) -> float:
    """Return when a request has to leave a rung, as far as is known now."""
    trip = book.live.trips.get(one.place)
    waits = trip is not None and trip.rung == rung and not trip.op
    return book.durations.leave_at(one.segment.lane.model, one.ladder, rung, one.deadline, waits=waits)


def flee(book: Book, now: float) -> None:
    """Take the requests that wait for a live route in vain to a rung that costs no more."""
    for trip in book.live.in_vain(now):
        descend(book, rider(book, trip.place), trip.rung + 1, now)


def descend(book: Book, one: Rider, rung: int, now: float) -> None:
    """Take a request from the rung above this one to it, or to a rung below if it fits better.

    If the request is in a job as well, that goes on; and so does a live call in the air: it may be answered, and
    billed, all the same.
    """
    rung = first_rung(book, one, rung, now)
    one.segment.attempts[one.row] = 0
    if one.state == QUEUED:
        book.unqueue(one.segment, one.row)
    trip = book.live.drop(one.place)
    if one.ladder[rung] != "batch":
        go_live(book, one, rung, now, besides=trip is not None and trip.op > 0)
    else:
        assert one.state != SENT, f"{one.place:#x} is in a job, and would go into another"
        book.requeue(((one.segment.no, one.row, one.row + 1),), now, counted=True)
        _watch(book, one, rung, now)


def stop(book: Book, place: Place, *, late: bool) -> None:
    """Let a request for which nobody waits any more go on where it is under way, and nowhere else.

    Args:
        book: the state.
        place: of the request, which is in a job, in a live call, or in both.
        late: whether its deadline has passed: then a live call is not made again if it fails.
    """
    trip = book.live.trips.get(place)
    if trip is None:
        return
    if trip.op:
        trip.late = late
    else:
        book.live.drop(place)


def flees(book: Book, one: Rider, rung: int, now: float) -> bool:
    """Return whether a request that is refused on a rung goes on at once: the next costs no more, and is in time."""
    if not is_no_dearer(one.ladder, rung):
        return False
    left_s = one.deadline - now
    return left_s <= 0 or book.durations.is_in_time(one.segment.lane.model, one.ladder[rung + 1], left_s)


def is_no_dearer(ladder: Ladder, rung: int) -> bool:
    """Return whether there is a next rung, and it costs no more than this one."""
    return rung + 1 < len(ladder) and PAID_PERCENT[ladder[rung + 1]] <= PAID_PERCENT[ladder[rung]]


def ask_of(hold_id: str, route: Route, riders: Sequence[Rider], *, doubles: int) -> Ask:
    """Return what a live call asks of the budget.

    Args:
        hold_id: the name under which it is reserved.
        route: over which it goes.
        riders: whom it carries, of one lane.
        doubles: how many of them are in a running job too.
    """
    caps, searches = caps_of([array("Q", [one.limit for one in riders])])
    return Ask(
        id=hold_id,
        route=route,
        lane=riders[0].segment.lane,
        count=len(riders),
        input_tokens=sum([one.tokens for one in riders]),
        caps=caps,
        searches=searches,
        doubles=doubles,
        lasting=False,
    )
