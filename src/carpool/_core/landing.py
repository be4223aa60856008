"""Live calls: what may start, and what their ends mean for the requests that they carried.

Owns the verdicts of live calls. Where a request goes next is for ``descent``; how jobs end for ``settlement``.
"""

from __future__ import annotations

from typing import Final, Literal

from carpool._core import leaving, settlement, shelf
from carpool._core.book import Book
from carpool._core.breaker import ASKED_MAX_S, URGENT_CLOSED_S, Pushback, read_pushback
from carpool._core.descent import ask_of, descend, flees, is_no_dearer, leave_at, rider
from carpool._core.ledger import Refusal as Unaffordable
from carpool._core.live import NEVER, Flight, Trip
from carpool._core.messages import Answered, Deliver, Refused
from carpool._core.model import ABANDONED, ROW_BITS, SENT, Failure, Fault
from carpool._core.retry import Refusal, bad_rows, is_turned_away, pause_s, read_refusal
from carpool.types import ServerError

_PARTS: Final = 10
"""A company with a bad request among it is parted into about so many."""
_AGAIN_S: Final = 5.0
"""Pause before money is asked for again that was refused since the request is in another call."""
_PATIENCE_SHARE: Final = 0.25
"""Longest pause before the next try, of the time that is left."""
_NO_ANSWER: Final = ServerError(message="the call was answered without a row for this request")


def start(book: Book, now: float) -> None:
    """Start the live calls that may start now; what there is no money for is refused."""
    for call in book.live.start(now):
        flight = book.live.flights[call.op]
        riders = [rider(book, trip.place) for trip in flight.trips]
        doubles = sum([trip.besides for trip in flight.trips])
        refusal = book.ledger.reserve(ask_of(hold_of(call.op), call.route, riders, doubles=doubles), now)
        if refusal is None:
            book.act(call)
            continue
        book.live.land(call.op)
        book.live.throttles.of(call.route, call.lane.model).dropped(flight.started_at)
        for trip in flight.trips:
            _unaffordable(book, trip, refusal, now)
        book.sweep_segments(trip.place >> ROW_BITS for trip in flight.trips)


def on_answered(book: Book, event: Answered, now: float) -> None:
    """Settle what a live call answered."""
    flight = book.live.land(event.op)
    if flight is None:
        return
    model, route = flight.lane.model, flight.route
    estimate = sum([trip.tokens for trip in flight.trips])
    throttle = book.live.throttles.of(route, model)
    throttle.ended(
        now,
        sent_at=flight.started_at,
        tokens=event.charge.prompt,
        estimate=estimate,
        requests=len(flight.trips),
    )
    book.reached = True
    book.ledger.book(route, model, event.charge, now, hold_of(flight.op))
    book.ledger.close(hold_of(flight.op))
    # A row may have been answered by its job since the answer was sorted: the first answer is its answer.
    delivered = [place for place in event.delivered if book.is_open(place)]
    kept = [(place, body) for place, body in event.kept if book.is_open(place)]
    book.answered += len(delivered) + len(kept)
    if kept:
        rows = [shelf.row_of(*rider(book, place), body, failed=False) for place, body in kept]
        head = shelf.keep(book, flight.lane, "", rows, now, route=route)
        book.act(Deliver(job="", lane=flight.lane, rows=kept, route=route, text_only=head.text_only))
    answered = {*delivered, *[place for place, _ in kept]}
    for trip in flight.trips:
        if trip.place in answered:
            book.overtake(trip.place)
            # Time in which flex refuses is no reason to leave a job earlier for its sake; before standard is the last
            # moment.
            book.durations.saw(model, route, now - (flight.started_at if route == "flex" else trip.entered_at))
            book.withdraw(*rider(book, trip.place))  # it may have left the call, and wait for a batch
        elif not trip.over:
            error = next((fault.error for fault in event.failed if fault.place == trip.place), _NO_ANSWER)
            _failed(book, trip, Fault(kind="refused", error=error), read_pushback(error), now)
    book.sweep_segments([trip.place >> ROW_BITS for trip in flight.trips])


def _let_alone(book: Book, trip: Trip) -> None:
    """Note that a call came to nothing: if its request has left it, that is on its next rung alone."""
    heir = book.live.trips.get(trip.place) if trip.over else None
    if heir is not None:
        heir.besides = rider(book, trip.place).state == SENT


def on_refused(book: Book, event: Refused, now: float) -> None:
    """Sort the error of a live call: the request's own, or the route's."""
    flight = book.live.land(event.op)
    if flight is None:
        return
    throttle = book.live.throttles.of(flight.route, flight.lane.model)
    if event.broken:
        throttle.dropped(flight.started_at)
        _broken(book, flight, event.fault, now)
        return
    pushback = read_pushback(event.fault.error)
    throttle.refused(now, pushback, sent_at=flight.started_at)
    book.reached = book.reached or event.fault.kind != "not_sent"
    # What got no answer may have been computed and billed all the same.
    book.ledger.close(hold_of(flight.op), known=event.fault.kind != "unknown" or is_turned_away(event.fault.error))
    if event.fault.kind != "unknown":
        for trip in flight.trips:
            _let_alone(book, trip)
    if len(flight.trips) > 1 and not pushback.refuses and _may_be_one_of(event.fault):
        _part(book, flight, event.fault, now)
    else:
        for trip in flight.trips:
            if not trip.over:
                _failed(book, trip, event.fault, pushback, now)
    book.sweep_segments(trip.place >> ROW_BITS for trip in flight.trips)


def _broken(book: Book, flight: Flight, fault: Fault, now: float) -> None:
    """Give up the requests of a call that a bug of ours broke: another try would meet it again, and may cost again."""
    book.ledger.close(hold_of(flight.op), known=False)
    for trip in flight.trips:
        _let_alone(book, trip)
        if not trip.over:
            _end(book, trip, Failure(kind="failed", error=fault.error), now)
    book.sweep_segments(trip.place >> ROW_BITS for trip in flight.trips)


def _may_be_one_of(fault: Fault) -> bool:
    """Return whether a refusal of several requests may be meant for one of them, or for their size."""
    return fault.kind == "refused" and read_refusal(fault) in (Refusal.ISOLATE, Refusal.TOO_LARGE)


def _part(book: Book, flight: Flight, fault: Fault, now: float) -> None:
    """Part the bad request of a call from the others: by the server's words, else in ever smaller companies."""
    count = len(flight.trips)
    named = set(bad_rows(fault.error.message, count))
    for number, trip in enumerate(flight.trips):
        if trip.over:
            continue
        if number in named:
            _failed(book, trip, fault, Pushback(), now)
        elif not _is_unwanted(book, trip, now):
            if not named:
                trip.company = max(1, count // _PARTS)
            trip.wake_at = now
            book.live.push(trip)


def _is_unwanted(book: Book, trip: Trip, now: float) -> bool:
    """Return whether nobody waits for a request any more; it ends then, or goes on in its job alone.

    A key that somebody named goes on without him, but not beyond its deadline.
    """
    one = rider(book, trip.place)
    is_abandoned = one.segment.flags[one.row] & ABANDONED
    if not is_abandoned and not trip.late:
        return False
    if one.state == SENT:
        book.live.drop(trip.place)
    elif is_abandoned:
        book.finish(*one)
    else:
        _end(book, trip, Failure(kind="overdue"), now)
    return True


def _failed(book: Book, trip: Trip, fault: Fault, pushback: Pushback, now: float) -> None:
    """Let a request whose live call failed try again, go on to its next rung, or end."""
    one = rider(book, trip.place)
    trip.tries += 1
    is_last = trip.rung + 1 == len(one.ladder)
    if _is_unwanted(book, trip, now):
        return
    if fault.kind == "refused" and not pushback.refuses:
        # What flex cannot do the next rung may; what the request has wrong it will say too.
        if trip.route == "flex" and not is_last:
            descend(book, one, trip.rung + 1, now)
        else:
            _end(book, trip, _verdict_of(fault), now)
    elif not is_last and (
        (not trip.besides and flees(book, one, trip.rung, now))
        or _is_out_of_tries(book, trip, now)
        or leave_at(book, one, trip.rung)
        <= now
        < trip.deadline  # it stayed since it was in a call, and may not be sent twice
    ):
        descend(book, one, trip.rung + 1, now)
    elif is_last and _is_out_of_tries(book, trip, now):
        kind: Literal["failed", "unreachable"] = "unreachable" if fault.kind == "not_sent" else "failed"
        _end(book, trip, Failure(kind=kind, error=fault.error), now)
    else:
        s = book.settings
        pause = pause_s(s.retry_min_s, s.retry_max_s, trip.tries, f"{trip.place:x}")
        wait_s = max(pause, min(pushback.retry_after_s, ASKED_MAX_S))
        wait_s = min(wait_s, max(s.retry_min_s, (trip.deadline - now) * _PATIENCE_SHARE))
        # In its last reserve it is the route's throttle that says when.
        soon_s = max(URGENT_CLOSED_S, pushback.retry_after_s if trip.route == "flex" else 0.0)
        trip.wake_at = min(now + wait_s, max(trip.urgent_at, now + soon_s))
        book.live.push(trip)


def _is_out_of_tries(book: Book, trip: Trip, now: float) -> bool:
    """Return whether a request has tried often enough; one with a deadline tries until its time is over."""
    return not now < trip.deadline < NEVER and trip.tries >= book.settings.attempts_max


def _verdict_of(fault: Fault) -> Failure:
    refusal = read_refusal(fault)
    return Failure(kind="credentials" if refusal is Refusal.CREDENTIALS else "rejected", error=fault.error)


def _end(book: Book, trip: Trip, failure: Failure, now: float) -> None:
    """Give a request its final verdict; one that is in a running job too may still be answered there."""
    book.live.drop(trip.place)
    if rider(book, trip.place).state != SENT:
        verdicts = settlement.Verdicts()
        verdicts.add([trip.place], failure)
        settlement.fail(book, trip.lane, "", verdicts, now)


def _unaffordable(book: Book, trip: Trip, refusal: Unaffordable, now: float) -> None:
    """Tell a request that its budget is used up; where a rung below costs less it goes there.

    One that may be answered by a job, or by a call that it left, waits for that.
    """
    one = rider(book, trip.place)
    if one.state == SENT:
        book.live.drop(trip.place)
        book.held_back[trip.place] = refusal.reason
        leaving.ask_again(book, one, one.ladder.index("batch"), now)
    elif trip.besides:  # the call that it left is in the air, and may answer it yet
        book.held_back[trip.place] = refusal.reason
        trip.wake_at = now + _AGAIN_S
        book.live.push(trip)
    elif is_no_dearer(one.ladder, trip.rung):
        descend(book, one, trip.rung + 1, now)
    else:
        _end(book, trip, Failure(kind="budget", error=ServerError(message=refusal.message)), now)


def hold_of(op: int) -> str:
    """Return the name under which the money of a live call is reserved."""
    return f"call-{op}"
