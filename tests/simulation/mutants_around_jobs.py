"""Planted faults in the loop, the keys, the lanes and the recovery.

Owns nothing but the plants; the list is in ``mutants``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from carpool._core import lifecycle
from carpool._core.accumulator import Accumulator
from carpool._core.book import Book
from carpool._core.engine import Engine
from carpool._core.keys import Claim
from carpool._core.messages import Action, Deliver, Expire, Write
from carpool._core.model import EXPLICIT, QUEUED, Job, JobState, ResultsHead, Segment
from carpool._core.recovery import Recovery

from .mutants import Patch, mutant
from .process import Process

# -- the loop


@mutant(likely=3)
def acts_before_the_commit(patch: Patch) -> None:
    """Actions start while the writes of their step are still under way."""

    def finish_turn(self: Process, writes: list[Write], actions: list[Action], after: list[Callable[[], None]]) -> None:
        def done() -> None:
            self._act_all([])
            for callback in after:
                callback()

        for action in actions:
            self.act(action)
        self.commit(writes, done)

    patch.setattr(Process, "_finish_turn", finish_turn)


@mutant(likely=3)
def delivers_before_the_commit(patch: Patch) -> None:
    """Stored answers reach their awaiters before they are stored."""
    original = Process._finish_turn

    def finish_turn(self: Process, writes: list[Write], actions: list[Action], after: list[Callable[[], None]]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                self.act(action)
        original(self, writes, [action for action in actions if not isinstance(action, Deliver)], after)

    patch.setattr(Process, "_finish_turn", finish_turn)


@mutant(likely=1)
def asks_for_no_wakeup(patch: Patch) -> None:
    """The engine does not say when a deadline comes."""
    original = Engine.next_wakeup

    def next_wakeup(self: Engine) -> float | None:
        deadlines, self.book.deadlines = self.book.deadlines, []
        due = original(self)
        self.book.deadlines = deadlines
        return due

    patch.setattr(Engine, "next_wakeup", next_wakeup)


@mutant(likely=1)
def tells_nobody_of_deadlines(patch: Patch) -> None:
    """Deadlines pass in silence."""
    original = Process.act

    def act(self: Process, action: Action) -> None:
        if not isinstance(action, Expire):
            original(self, action)

    patch.setattr(Process, "act", act)


# -- keys


@mutant(likely=3)
def adopts_nothing(patch: Patch) -> None:
    """An identical call is always a new request."""
    patch.setattr(Engine, "adopt", lambda self, digest, now, deadline, ladder: (Claim.NEW, 0))


@mutant(likely=18)
def leaves_parked_rows_parked(patch: Patch) -> None:
    """Whoever adopts a parked request waits for ever."""
    patch.setattr(Engine, "_wake_row", lambda self, segment, row, now: None)


@mutant(likely=5)
def never_joins_explicit_keys(patch: Patch) -> None:
    """A key in flight is taken for a new one."""
    original = Engine.claim

    def claim(self: Engine, key: str, digest: bytes, now: float) -> tuple[Claim, int]:
        if self.book.keys.live(key) is not None:
            del self.book.keys.named[key]
        return original(self, key, digest, now)

    patch.setattr(Engine, "claim", claim)


@mutant(likely=2)
def lets_queued_requests_of_cancelled_callers_go(patch: Patch) -> None:
    """A request whose caller was cancelled is sent all the same, and its answer kept for nobody."""
    original = Engine.leave

    def leave(self: Engine, place: int, now: float) -> None:
        segment, row = self.book.at(place)
        if segment is None or (segment.states and segment.states[row] != QUEUED):
            original(self, place, now)

    patch.setattr(Engine, "leave", leave)


# -- lanes


@mutant(likely=27)
def cuts_withdrawn_rows(patch: Patch) -> None:
    """A batch takes all rows of its spans, whatever became of them."""
    patch.setattr("carpool._core.accumulator.queued_runs", lambda segment, start, stop: [(start, stop)])


@mutant(likely=110)
def counts_no_envelope(patch: Patch) -> None:
    """The inline form is chosen by the rows alone."""

    def choose_form(settings: Any, framing: Any, ledger: Any, batch: Any, *more: Any) -> str:
        return "inline" if not batch.as_file and batch.line_bytes < settings.inline_bytes_max else "file"

    patch.setattr("carpool._core.book.choose_form", choose_form)


@mutant(likely=1)
def sees_no_token_ceiling(patch: Patch) -> None:
    """Jobs hold more tokens of a model than may be enqueued."""
    patch.setattr(Accumulator, "_next_tokens", lambda self, queue: 0)


# -- recovery


@mutant(likely=10)
def creates_again_after_a_restart(patch: Patch) -> None:
    """A job that was being created is created once more instead of being looked for."""
    original = Recovery._sort_job

    def sort_job(self: Recovery, job: Job, now: float) -> None:
        if job.state is JobState.CREATING:
            job.state, job.wake_at = JobState.READY, now
        else:
            original(self, job, now)

    patch.setattr(Recovery, "_sort_job", sort_job)


@mutant(likely=103)
def cuts_the_wait_short_at_a_restart(patch: Patch) -> None:
    """Two looks at a list that lags follow each other at once if a restart comes between them."""
    original = Recovery._sort_job

    def sort_job(self: Recovery, job: Job, now: float) -> None:
        original(self, job, now)
        job.wake_at = now

    patch.setattr(Recovery, "_sort_job", sort_job)


@mutant(likely=6)
def sends_parked_rows_unasked(patch: Patch) -> None:
    """Bare awaits of a dead process go on by themselves."""
    original = Recovery._sort_rows

    def sort_rows(self: Recovery, segment: Segment) -> None:
        flags, segment.flags = segment.flags, bytearray(flag | EXPLICIT for flag in segment.flags)
        original(self, segment)
        segment.flags = flags

    patch.setattr(Recovery, "_sort_rows", sort_rows)


@mutant(likely=114)
def goes_on_with_jobs_of_bare_rows(patch: Patch) -> None:
    """A job that was not created yet when its process died is created for nobody."""
    patch.setattr(Recovery, "_holds_bare_rows", lambda self, job: False)


@mutant(likely=12)
def forgets_explicit_keys_at_a_restart(patch: Patch) -> None:
    """A key in flight is not known after a restart."""
    original = Recovery.finish

    def finish(self: Recovery, now: float) -> Any:
        engine, step = original(self, now)
        for key, _ in engine.book.keys.all_live():
            del engine.book.keys.named[key]
        return engine, step

    patch.setattr(Recovery, "finish", finish)


@mutant(likely=204)
def forgets_stored_results_at_a_restart(patch: Patch) -> None:
    """Rows with a stored result count as open, and are sent again."""
    original = Recovery._take_results

    def take_results(self: Recovery, head: ResultsHead) -> None:
        original(self, msgspec.structs.replace(head, places=[place | (1 << 60) for place in head.places]))

    patch.setattr(Recovery, "_take_results", take_results)


@mutant(likely=3)
def offers_nothing_after_a_restart(patch: Patch) -> None:
    """What a dead process left cannot be adopted."""
    original = Recovery.finish

    def finish(self: Recovery, now: float) -> Any:
        engine, step = original(self, now)
        engine.book.keys.abandoned.clear()
        return engine, step

    patch.setattr(Recovery, "finish", finish)


@mutant(likely=7)
def touches_foreign_records(patch: Patch) -> None:
    """Work of another origin is taken for one's own."""
    original = Recovery.take

    def take(self: Recovery, record: Any) -> None:
        if hasattr(record, "origin"):
            record = msgspec.structs.replace(record, origin=self._book.origin)
        original(self, record)

    patch.setattr(Recovery, "take", take)


@mutant(likely=23)
def records_no_marks(patch: Patch) -> None:
    """What became of rows is not written down when their job is closed."""
    original = Book.write

    def write(self: Book, write: Write) -> None:
        if type(write).__name__ != "PutMarks":
            original(self, write)

    patch.setattr(Book, "write", write)


# -- once real: bugs that seeds have found


@mutant(likely=3272)
def forgets_callers_while_it_closes(patch: Patch) -> None:
    """Segments are forgotten under callers that wait to be told that the client is closed."""
    patch.setattr(Engine, "_close", closes_without_a_word(Engine._close))


def closes_without_a_word(original: Callable[..., None]) -> Callable[..., None]:
    def close(self: Engine, *, send: bool) -> None:
        original(self, send=send)
        self.book.closing = False

    return close


@mutant(likely=54)
def lets_broken_jobs_take_up_room(patch: Patch) -> None:
    """A job that nobody asks about any more counts as running for ever."""
    original = lifecycle.on_broken

    def on_broken(book: Book, job: Job, event: Any) -> None:
        original(book, job, event)
        book.pacing.started(job.id, job.lane, job.tokens)

    patch.setattr(lifecycle, "on_broken", on_broken)


@mutant(likely=67)
def cuts_into_segments_that_are_gone(patch: Patch) -> None:
    """A lane goes on waiting with the deadlines and spans of requests that were all withdrawn."""
    original = Accumulator.withdraw

    def withdraw(self: Accumulator, segment: Segment, row: int) -> None:
        queue = self._queues[segment.lane]
        original(self, segment, row)
        self._queues[segment.lane] = queue

    patch.setattr(Accumulator, "withdraw", withdraw)
