"""Requests that leave their rung since the time for it is over, and what becomes of the jobs that held them.

Owns the moment. Where they go, and what a refusal means, is for ``descent``.
"""

from __future__ import annotations

import heapq
from typing import Final

from carpool._core import descent, settlement
from carpool._core.book import Book
from carpool._core.descent import Rider, leave_at, rider
from carpool._core.live import NEVER, Trip
from carpool._core.messages import CancelRemote
from carpool._core.model import ABANDONED, LIVE, PARKED, SENT, Job, JobState, Place
from carpool._core.routing import quicker_below

_AGAIN_SHARE: Final = 0.1
_AGAIN_S: Final = 5.0
"""A request that may not be sent twice now asks again after a share of the time that is left, or so long: doubles often
cost less than was reserved for them, and a new day may begin."""


def move_on(book: Book, now: float) -> None:
    """Take the requests whose time on their rung is over to the next."""
    if book.durations.has_risen(now, len(book.leaving) + len(book.live.trips)):
        _look_anew(book)
    riding: dict[str, dict[Place, None]] = {}
    while book.leaving and book.leaving[0][0] <= now:
        _, place, rung = heapq.heappop(book.leaving)
        if not book.is_open(place):
            continue
        one = rider(book, place)
        if _rung_of(book, one) != rung or not now < one.deadline < NEVER:
            continue
        if one.state == PARKED or one.segment.flags[one.row] & ABANDONED:
            continue  # nobody waits for it: whoever takes it up will watch it again
        at = leave_at(book, one, rung)
        trip = book.live.trips.get(place)
        if at > now:  # the rungs below have become quicker since this was noted
            heapq.heappush(book.leaving, (at, place, rung))
        elif one.state == SENT and trip is None:
            riding.setdefault(book.job_of(place).id, {})[place] = None
        else:
            _leave_live_route(book, one, trip, rung, now)
    for job_id, places in riding.items():
        _leave_job(book, book.jobs[job_id], [rider(book, place) for place in places], now)


def cancel_left(book: Book, job: Job) -> bool:
    """Cancel a running job if nobody waits for it any more, and return whether that is so.

    All its requests were answered over a live route, or wait for one; those that are only of use to whoever asks the
    same again hold it.
    """
    if not job.name or job.stalled or job.stranger or any(place not in book.live.trips for place in book.sent_in(job)):
        return False
    book.act(CancelRemote(name=job.name))
    return True


def _look_anew(book: Book) -> None:
    """Note again when each request has to leave its rung, and when its last reserve begins: a route is slower now."""
    book.leaving = [
        (leave_at(book, rider(book, place), rung), place, rung)
        for _, place, rung in book.leaving
        if book.is_open(place)
    ]
    heapq.heapify(book.leaving)
    for trip in book.live.trips.values():
        if trip.deadline < NEVER:
            trip.urgent_at = descent.urgent_at(book, rider(book, trip.place), trip.rung)


def _leave_live_route(book: Book, one: Rider, trip: Trip | None, rung: int, now: float) -> None:
    """Take a request that waits, or is in a live call, to a quicker rung; in a call it is sent twice then."""
    onto = _next_rung(book, one, rung, now)
    if trip is not None and trip.op:
        if not _may_double(book, one, onto, now):
            ask_again(book, one, rung, now)
            return
        book.durations.saw_at_least(trip.lane.model, trip.route, now - book.live.flights[trip.op].started_at)
    descent.descend(book, one, onto, now)


def _leave_job(book: Book, job: Job, leaving: list[Rider], now: float) -> None:
    """Send requests of a job on their next rung: as well, if the server has the job; else they are taken out of it.

    A job for which nobody waits then is cancelled before any of them is sent.
    """
    onto = [(one, _next_rung(book, one, one.ladder.index("batch"), now)) for one in leaving]
    if _is_at_rest(book, job):
        for one, rung in onto:
            book.count_in(one.segment, one.row, one.row + 1)
            one.segment.states[one.row] = LIVE
            descent.go_live(book, one, rung, now)
        book.durations.saw_at_least(job.lane.model, "batch", now - job.sealed_at)
        settlement.take_apart(book, job, now)
        return
    gone = 0
    for one, rung in onto:
        if _may_double(book, one, rung, now):
            descent.go_live(book, one, rung, now)
            gone += 1
        else:
            ask_again(book, one, one.ladder.index("batch"), now)
    if gone:
        book.durations.saw_at_least(job.lane.model, "batch", now - job.sealed_at)
    if cancel_left(book, job):
        book.report("job_left", job.name, len(leaving))


def _is_at_rest(book: Book, job: Job) -> bool:
    """Return whether nothing of a job is on the server, nor on its way there: it waits for room, or to try again."""
    if job.state is JobState.UPLOADING:
        return job.wake_at is not None or book.pacing.waits(job.id)
    return job.state is JobState.READY


def _may_double(book: Book, one: Rider, rung: int, now: float) -> bool:
    """Return whether a request may be sent on a rung although it may be answered, and billed, where it is."""
    refusal = book.ledger.refusal(descent.ask_of("", one.ladder[rung], [one], doubles=1), now)
    if refusal is not None:
        book.held_back[one.place] = refusal.reason
        return False
    book.held_back.pop(one.place, None)
    return True


def ask_again(book: Book, one: Rider, rung: int, now: float) -> None:
    """Look at a request again that may not be sent twice now."""
    heapq.heappush(book.leaving, (now + max(_AGAIN_S, (one.deadline - now) * _AGAIN_SHARE), one.place, rung))


def _next_rung(book: Book, one: Rider, rung: int, now: float) -> int:
    """Return the rung for which one is left in haste: a quicker one."""
    return descent.first_rung(book, one, one.ladder.index(quicker_below(one.ladder, rung)[0]), now)


def _rung_of(book: Book, one: Rider) -> int:
    trip = book.live.trips.get(one.place)
    if trip is not None:
        return trip.rung
    return one.ladder.index("batch") if "batch" in one.ladder else -1
