"""The engine: told what happened, it answers with what to write down, what to do, and when to ask again.

Owns the order of a step: close what was admitted, take the events, then do what has become due. How requests come in is
for ``admission``. One task owns an engine; nothing in it waits, and the same events give the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias, assert_never

from carpool._core import alarms, descent, landing, leaving, lifecycle, settlement, shelf, sweeping
from carpool._core.admission import Admission
from carpool._core.messages import (
    Answered,
    Broken,
    CallFailed,
    Closing,
    Created,
    DropDays,
    Event,
    FetchEnded,
    Flushed,
    Found,
    Polled,
    Refused,
    Revoked,
    RowsFetched,
    Step,
    SweepFailed,
    Swept,
    Undelivered,
    Uploaded,
    Woken,
)
from carpool._core.model import (
    EXPLICIT,
    LIVE,
    PARKED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    TICKET,
    Framing,
    JobState,
    Meta,
    Place,
)
from carpool.settings import Settings
from carpool.types import Receipt, Stats

_EXPIRY_PAUSE_S: Final = 600.0

Reply: TypeAlias = Uploaded | Created | Found | Revoked | Polled | RowsFetched | FetchEnded | CallFailed | Broken
_REPLIES: Final[dict[JobState, tuple[type, ...]]] = {
    JobState.UPLOADING: (Uploaded, CallFailed, Broken),
    JobState.READY: (),
    JobState.CREATING: (Created, CallFailed, Broken),
    JobState.LOOKING: (Found, Revoked, CallFailed, Broken),
    JobState.RUNNING: (Polled, CallFailed, Broken),
    JobState.FETCHING: (RowsFetched, FetchEnded, CallFailed, Broken),
    JobState.CLOSED: (),
}
"""What may answer the question in the air, by the job's state."""


class Engine(Admission):
    """Decides everything about requests and jobs; see ``turn``."""

    def __init__(self, settings: Settings, framing: Framing, origin: str, meta: Meta) -> None:
        super().__init__(settings, framing, origin, meta)
        self._next_expiry = 0.0
        self._unexpired = 0
        """The first segment that the round of expiry has not come to."""

    def step(self, event: Event, now: float) -> Step:
        """Answer one event; see ``turn``."""
        return self.turn((event,), now)

    def turn(self, events: Iterable[Event], now: float) -> Step:
        """Answer what happened since the last step, in its order; without an event, that time passed.

        Total: every event in every state; a reply to a question no longer asked changes nothing. What has become due is
        looked for once, after all of them: that costs more than most events do.
        """
        self._told_at = now
        self._gather(now)
        for event in events:
            self._take(event, now)
        self._keep_late(now)
        self._advance(now)
        return self.book.take_step(now)

    def begin_fetch(self, job_id: str) -> None:
        """Note that a job's output is about to be read from the start."""
        ledger = self.book.ledger
        ledger.adopt(job_id, "batch", self.book.jobs[job_id].sealed_at)
        ledger.begin(job_id)

    def fetch_index(self, job_id: str) -> dict[str, Place]:
        """Return the places of what a job's output may answer, by their keys: it is about to be read from the start."""
        self.begin_fetch(job_id)
        book, job = self.book, self.book.jobs[job_id]
        return sweeping.index(book) if job.stranger else {book.key_at(place): place for place in book.sent_in(job)}

    def tidy(self, now: float) -> Step:
        """Drop what is past its time, and answer with what to write down; nothing that is under way goes on."""
        self.book.disposal.in_slices = False
        while self._expire_kept(now):
            pass
        return self.book.take_step(now)

    def next_wakeup(self) -> float | None:
        """Return when to send ``Woken`` if nothing else happens before; ``None``: nothing waits for time to pass."""
        book = self.book
        due = book.lanes.next_due()
        times = [job.wake_at for job in book.jobs.values() if job.wake_at is not None]
        times += [time for time in (due, sweeping.due_at(book)) if time is not None]
        times += [heap[0][0] for heap in (book.deadlines, book.leaving) if heap]
        live = book.live.next_wakeup(self._told_at)
        if live is not None:
            times.append(live)
        if book.results or book.segments:
            times.append(self._next_expiry)
        if book.disposal.goes_on:
            times.append(self._told_at)
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        """Whether no request is waiting or under way."""
        book = self.book
        return not book.waiting_requests and not book.live.flights and all(job.stalled for job in book.jobs.values())

    @property
    def unsent(self) -> bool:
        """Whether a request waits, or a job has no name yet."""
        jobs = self.book.jobs.values()
        return bool(self.book.waiting_requests) or any(not job.name and not job.stalled for job in jobs)

    def is_stalled(self, place: Place) -> bool:
        """Return whether a request is in a job that this process asks about no more."""
        no, row = place >> ROW_BITS, place & ROW_MASK
        spans = (span for job in self.book.jobs.values() if job.stalled for span in job.spans)
        return any(segment == no and start <= row < stop for segment, start, stop in spans)

    def stats(self) -> Stats:
        """Return a snapshot."""
        book = self.book
        return Stats(
            waiting=book.waiting_requests,
            waiting_bytes=book.waiting_bytes,
            sent=sum(job.count for job in book.jobs.values()),
            answered=book.answered,
            failed=book.failed,
            retried=book.retried,
            reused=book.reused,
            jobs=len(book.jobs),
            jobs_created=book.jobs_created,
            queued_callers=0,
            parked=sum(segment.states.count(PARKED) for segment in book.segments.values()),
            foreign=book.foreign,
            quarantined=book.quarantined,
            live=len(book.live.trips),
        )

    def receipt(self) -> Receipt:
        """Return the account."""
        return self.book.ledger.receipt()

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Woken():
                pass
            case Flushed():
                self.book.flush()
            case Undelivered():
                settlement.on_undelivered(self.book, event, now)
            case Swept():
                sweeping.on_swept(self.book, event, now)
            case SweepFailed():
                sweeping.on_failed(self.book, event, now)
            case Answered():
                landing.on_answered(self.book, event, now)
            case Refused():
                landing.on_refused(self.book, event, now)
            case Closing():
                self._close(send=event.send)
            case _:
                self._take_reply(event, now)

    def _take_reply(self, event: Reply, now: float) -> None:
        book = self.book
        job = book.jobs.get(event.job)
        if job is None or job.op != event.op or job.wake_at is not None or not isinstance(event, _REPLIES[job.state]):
            return
        match event:
            case Uploaded():
                lifecycle.on_uploaded(book, job, event, now)
            case Created():
                lifecycle.on_created(book, job, event, now)
            case Found():
                lifecycle.on_found(book, job, event, now)
            case Revoked():
                lifecycle.on_revoked(book, job, event, now)
            case Polled():
                lifecycle.on_polled(book, job, event, now)
            case RowsFetched():
                (sweeping if job.stranger else settlement).on_rows(book, job, event, now)
            case FetchEnded():
                settlement.on_fetch_ended(book, job, event, now)
            case CallFailed():
                lifecycle.on_call_failed(book, job, event.fault, now)
            case Broken():
                lifecycle.on_broken(book, job, event)
            case _:
                assert_never(event)

    def _advance(self, now: float) -> None:
        """Do what has become due."""
        book = self.book
        for action in book.overdue(now):
            book.act(action)
        if now >= self._next_expiry:
            self._next_expiry = now if self._expire_kept(now) else now + _EXPIRY_PAUSE_S
        sweeping.advance(book, now)
        alarms.raise_new(book, now)
        leaving.move_on(book, now)  # before jobs go on: what leaves one that was not sent yet is not sent twice
        for job in list(book.jobs.values()):
            if job.wake_at is not None and job.wake_at <= now:
                lifecycle.resume(book, job, now)
        lifecycle.let_on(book, now)
        landing.start(book, now)
        descent.flee(book, now)
        for batch in book.lanes.cuts(now):
            if batch.count:
                lifecycle.send(book, batch, now)

    def _expire_kept(self, now: float) -> bool:
        """Drop results past their time and parked requests that nobody claimed; try parked tickets again.

        Return whether there is more of it: a step has a bounded share.
        """
        book = self.book
        more = [
            shelf.release_handed(book, now, _EXPIRY_PAUSE_S),
            shelf.drop_old(book, now),
            self._expire_parked(now),
        ]
        if any(more):
            return True
        days = book.ledger.forget(now)
        if days:
            book.write(DropDays(days=days, base_url=book.base_url))
        book.drop_stale_deadlines()
        return False

    def _expire_parked(self, now: float) -> bool:
        book, seen = self.book, 0
        touched: list[int] = []
        first, self._unexpired = self._unexpired, 0
        for segment in book.segments.values():
            states, flags = segment.states, segment.flags
            row = states.find(PARKED) if segment.no >= first else -1
            if row < 0:
                continue
            if seen >= shelf.ROWS_A_STEP:
                self._unexpired = segment.no
                break
            seen += len(states)
            overage = now - segment.accepted_at > book.settings.reuse_window_s
            while row >= 0:
                if flags[row] & TICKET:
                    self._wake_row(segment, row, now)
                elif overage and not flags[row] & EXPLICIT:
                    book.finish(segment, row)
                    touched.append(segment.no)
                row = states.find(PARKED, row + 1)
        book.sweep_segments(touched)
        return self._unexpired > 0

    def _close(self, *, send: bool) -> None:
        """Withdraw bare awaits that were not sent; send or leave the rest."""
        book = self.book
        book.closing = True
        book.disposal.in_slices = False
        touched: list[int] = []
        for segment in book.segments.values():
            if QUEUED not in segment.states and LIVE not in segment.states:
                continue
            for row, state in enumerate(segment.states):
                if not segment.flags[row] & EXPLICIT and self._waits(segment, row, state):
                    book.withdraw(segment, row)
                    touched.append(segment.no)
        book.sweep_segments(touched)
        if send:
            book.flush()
