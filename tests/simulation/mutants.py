"""Planted faults: what the engine, or the loop around it, would do wrong. The simulation must catch each of them.

Owns the list. Each mutant changes one rule, by replacing functions for as long as it is planted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
import pytest

from carpool._core import lifecycle, settlement
from carpool._core.accumulator import Accumulator
from carpool._core.book import Book
from carpool._core.engine import Engine
from carpool._core.keys import Claim
from carpool._core.messages import Action, Deliver, Expire, Found, Revoke, Revoked, RowsFetched, Write
from carpool._core.model import ABANDONED, EXPLICIT, QUEUED, Fault, Job, JobState, Marks, ResultsHead, Segment
from carpool._core.recovery import Recovery

from .process import Process

Patch: TypeAlias = pytest.MonkeyPatch
Plant: TypeAlias = Callable[[Patch], None]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    plant: Plant
    reason: str
    likely: int
    """A seed that sees it, as the draw in ``plan`` is now: tried first, to save time."""


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(likely: int) -> Callable[[Plant], Plant]:
    """Add a mutant to the list; its docstring says which rule it breaks."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant=plant, reason=plant.__doc__ or "", likely=likely)
        return plant

    return add


# -- how rows end


@mutant(likely=0)
def settles_by_the_keys_of_the_reply(patch: Patch) -> None:
    """A row that did not come back is never judged."""
    original = settlement.settle_rest

    def settle_rest(book: Book, job: Job, error: Any, now: float, *, missing: bool) -> None:
        came = list(book.retries.get(job.id, {}))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(book, "rows_in", lambda job, state: came)
            original(book, job, error, now, missing=missing)

    patch.setattr(settlement, "settle_rest", settle_rest)


@mutant(likely=0)
def ignores_a_failed_job(patch: Patch) -> None:
    """A job that ended otherwise than well is polled for ever."""
    original = lifecycle.on_polled

    def on_polled(book: Book, job: Job, event: Any, now: float) -> None:
        if event.remote.state in ("FAILED", "EXPIRED", "CANCELLED"):
            job.wake_at = now + 1_800.0
        else:
            original(book, job, event, now)

    patch.setattr(lifecycle, "on_polled", on_polled)


@mutant(likely=0)
def takes_a_failed_poll_for_a_verdict(patch: Patch) -> None:
    """One 503 on a poll, and the job counts as lost while it runs on."""
    original = lifecycle.on_call_failed

    def on_call_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        if job.state is JobState.RUNNING:
            settlement.settle_rest(book, job, fault.error, now, missing=False)
        else:
            original(book, job, fault, now)

    patch.setattr(lifecycle, "on_call_failed", on_call_failed)


@mutant(likely=0)
def takes_a_broken_download_for_its_end(patch: Patch) -> None:
    """Rows behind the break count as missing."""

    def fetch_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        settlement.settle_rest(book, job, fault.error, now, missing=True)

    patch.setattr(lifecycle, "_fetch_failed", fetch_failed)


@mutant(likely=0)
def never_counts_attempts(patch: Patch) -> None:
    """A row that always fails is sent for ever."""

    def try_again(book: Book, place: int, failure: Any, verdicts: Any) -> bool:
        segment, row = book.at(place)
        assert segment is not None
        if segment.flags[row] & ABANDONED:
            book.finish(segment, row)
            return False
        return True

    patch.setattr(settlement, "_try_again", try_again)


@mutant(likely=0)
def forgets_attempts_at_a_restart(patch: Patch) -> None:
    """Attempts start from nothing in each process."""
    original = Recovery._take_marks

    def take_marks(self: Recovery, marks: Marks) -> None:
        original(self, msgspec.structs.replace(marks, attempts=bytes(len(marks.attempts))))

    patch.setattr(Recovery, "_take_marks", take_marks)


@mutant(likely=0)
def sends_again_what_nobody_awaits(patch: Patch) -> None:
    """Rows of callers that are gone are sent again when their job is lost."""
    original = settlement._try_again

    def try_again(book: Book, place: int, failure: Any, verdicts: Any) -> bool:
        segment, row = book.at(place)
        assert segment is not None
        if segment.flags[row] & ABANDONED:
            return True
        return original(book, place, failure, verdicts)

    patch.setattr(settlement, "_try_again", try_again)


@mutant(likely=0)
def forgets_answers_not_taken(patch: Patch) -> None:
    """An answer handed to a caller that was cancelled in that moment is lost."""
    patch.setattr(settlement, "on_undelivered", lambda book, event, now: None)


@mutant(likely=0)
def hands_explicit_keys_over_unstored(patch: Patch) -> None:
    """The answer of an explicit key goes straight to its awaiter, and is in no store."""
    original = Process._sort

    def sort(self: Process, action: Any, index: Any, rows: Any) -> tuple[RowsFetched, int]:
        event, strangers = original(self, action, index, rows)
        straight = [(place, body) for place, body in event.kept if place in self.awaiters]
        for place, body in straight:
            for call in self.awaiters.pop(place):
                self._answer(call, body, action.job.name)
        kept = [pair for pair in event.kept if pair not in straight]
        delivered = event.delivered + [place for place, _ in straight]
        return msgspec.structs.replace(event, delivered=delivered, kept=kept), strangers

    patch.setattr(Process, "_sort", sort)


@mutant(likely=0)
def offers_what_it_hands_over(patch: Patch) -> None:
    """A stored answer that goes to live awaiters is offered to later identical calls too."""
    original = Book.index_results

    def index_results(self: Book, head: ResultsHead) -> None:
        self.handed.clear()
        original(self, head)

    patch.setattr(Book, "index_results", index_results)


# -- the life of a job


@mutant(likely=0)
def takes_ambiguous_for_failed(patch: Patch) -> None:
    """A create of unknown fate is sent again at once."""
    original = lifecycle._create_failed

    def create_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        if fault.kind == "unknown":
            book.move(job, JobState.LOOKING)
            lifecycle._next_attempt(book, job, fault.error, now)
        else:
            original(book, job, fault, now)

    patch.setattr(lifecycle, "_create_failed", create_failed)


@mutant(likely=0)
def looks_once(patch: Patch) -> None:
    """The list is searched once, however much it lags."""
    patch.setattr(lifecycle, "_LOOKS", {"inline": 1, "file": 1})


@mutant(likely=0)
def revokes_nothing(patch: Patch) -> None:
    """The input file of a create on its way stays where it is."""
    original = Process._arrive

    def arrive(self: Process, action: Any, lines: list[bytes]) -> None:
        if isinstance(action, Revoke):
            self.later(0.1, lambda: self._hear(Revoked(action.job.id, action.op)))
        else:
            original(self, action, lines)

    patch.setattr(Process, "_arrive", arrive)


@mutant(likely=0)
def ignores_twins(patch: Patch) -> None:
    """Of two jobs with one name, one goes on unseen."""
    original = lifecycle.on_found

    def on_found(book: Book, job: Job, event: Found, now: float) -> None:
        original(book, job, msgspec.structs.replace(event, remotes=event.remotes[:1]), now)

    patch.setattr(lifecycle, "on_found", on_found)


@mutant(likely=0)
def accepts_stale_replies(patch: Patch) -> None:
    """A reply to a question no longer asked is taken for one to the question in the air."""
    original = Engine._take_reply

    def take_reply(self: Engine, event: Any, now: float) -> None:
        job = self.book.jobs.get(event.job)
        if job is not None:
            job.wake_at = None
            event = msgspec.structs.replace(event, op=job.op)
        original(self, event, now)

    patch.setattr(Engine, "_take_reply", take_reply)


@mutant(likely=0)
def takes_a_missing_job_for_lost(patch: Patch) -> None:
    """One 404, and the job is created anew without a look at the list."""
    original = lifecycle.on_call_failed

    def on_call_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        if job.state is JobState.RUNNING and fault.error.code == 404:
            book.move(job, JobState.LOOKING)
            lifecycle._next_attempt(book, job, fault.error, now)
        else:
            original(book, job, fault, now)

    patch.setattr(lifecycle, "on_call_failed", on_call_failed)


@mutant(likely=0)
def sends_answered_rows_anew(patch: Patch) -> None:
    """The next attempt of a job that vanished holds the rows that were answered before."""
    patch.setattr(settlement, "trim", lambda book, job: True)


@mutant(likely=0)
def never_gives_up_reaching_the_server(patch: Patch) -> None:
    """Failed calls are not counted across attempts to create."""
    original = Book.move

    def move(self: Book, job: Job, state: JobState, *, failing: bool = False) -> None:
        original(self, job, state)

    patch.setattr(Book, "move", move)


# -- the loop


@mutant(likely=0)
def acts_before_the_commit(patch: Patch) -> None:
    """Actions start while the writes of their step are still under way."""

    def finish_turn(self: Process, writes: list[Write], actions: list[Action], after: list[Callable[[], None]]) -> None:
        def done() -> None:
            self._act_all([])
            for callback in after:
                callback()

        for action in actions:
            self.act(action)
        self._commit(writes, done)

    patch.setattr(Process, "_finish_turn", finish_turn)


@mutant(likely=0)
def delivers_before_the_commit(patch: Patch) -> None:
    """Stored answers reach their awaiters before they are stored."""
    original = Process._finish_turn

    def finish_turn(self: Process, writes: list[Write], actions: list[Action], after: list[Callable[[], None]]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                self.act(action)
        original(self, writes, [action for action in actions if not isinstance(action, Deliver)], after)

    patch.setattr(Process, "_finish_turn", finish_turn)


@mutant(likely=0)
def asks_for_no_wakeup(patch: Patch) -> None:
    """The engine does not say when a deadline comes."""
    original = Engine.next_wakeup

    def next_wakeup(self: Engine) -> float | None:
        deadlines, self.book.deadlines = self.book.deadlines, []
        due = original(self)
        self.book.deadlines = deadlines
        return due

    patch.setattr(Engine, "next_wakeup", next_wakeup)


@mutant(likely=0)
def tells_nobody_of_deadlines(patch: Patch) -> None:
    """Deadlines pass in silence."""
    original = Process.act

    def act(self: Process, action: Action) -> None:
        if not isinstance(action, Expire):
            original(self, action)

    patch.setattr(Process, "act", act)


# -- keys


@mutant(likely=0)
def adopts_nothing(patch: Patch) -> None:
    """An identical call is always a new request."""
    patch.setattr(Engine, "adopt", lambda self, digest, now: (Claim.NEW, 0))


@mutant(likely=0)
def leaves_parked_rows_parked(patch: Patch) -> None:
    """Whoever adopts a parked request waits for ever."""
    patch.setattr(Engine, "_wake_row", lambda self, segment, row, now: None)


@mutant(likely=0)
def never_joins_explicit_keys(patch: Patch) -> None:
    """A key in flight is taken for a new one."""
    original = Engine.claim

    def claim(self: Engine, key: str, digest: bytes, now: float) -> tuple[Claim, int]:
        self.book.keys.live.pop(key, None)
        return original(self, key, digest, now)

    patch.setattr(Engine, "claim", claim)


@mutant(likely=0)
def lets_queued_requests_of_cancelled_callers_go(patch: Patch) -> None:
    """A request whose caller was cancelled is sent all the same, and its answer kept for nobody."""
    original = Engine.leave

    def leave(self: Engine, place: int, now: float) -> None:
        segment, row = self.book.at(place)
        if segment is None or (segment.states and segment.states[row] != QUEUED):
            original(self, place, now)

    patch.setattr(Engine, "leave", leave)


# -- lanes


@mutant(likely=0)
def cuts_withdrawn_rows(patch: Patch) -> None:
    """A batch takes all rows of its spans, whatever became of them."""
    patch.setattr("carpool._core.accumulator.queued_runs", lambda segment, start, stop: [(start, stop)])


@mutant(likely=0)
def counts_no_envelope(patch: Patch) -> None:
    """The inline form is chosen by the rows alone."""

    def choose_form(settings: Any, framing: Any, ledger: Any, batch: Any, name_bytes: int) -> str:
        return "inline" if not batch.as_file and batch.line_bytes < settings.inline_bytes_max else "file"

    patch.setattr("carpool._core.book.choose_form", choose_form)


@mutant(likely=0)
def sees_no_token_ceiling(patch: Patch) -> None:
    """Jobs hold more tokens of a model than may be enqueued."""
    patch.setattr(Accumulator, "_next_tokens", lambda self, queue: 0)


# -- recovery


@mutant(likely=0)
def creates_again_after_a_restart(patch: Patch) -> None:
    """A job that was being created is created once more instead of being looked for."""
    original = Recovery._sort_job

    def sort_job(self: Recovery, job: Job, now: float) -> None:
        if job.state is JobState.CREATING:
            job.state, job.wake_at = JobState.READY, now
        else:
            original(self, job, now)

    patch.setattr(Recovery, "_sort_job", sort_job)


@mutant(likely=0)
def cuts_the_wait_short_at_a_restart(patch: Patch) -> None:
    """Two looks at a list that lags follow each other at once if a restart comes between them."""
    original = Recovery._sort_job

    def sort_job(self: Recovery, job: Job, now: float) -> None:
        original(self, job, now)
        job.wake_at = now

    patch.setattr(Recovery, "_sort_job", sort_job)


@mutant(likely=0)
def sends_parked_rows_unasked(patch: Patch) -> None:
    """Bare awaits of a dead process go on by themselves."""
    original = Recovery._sort_rows

    def sort_rows(self: Recovery, segment: Segment) -> None:
        flags, segment.flags = segment.flags, bytearray(flag | EXPLICIT for flag in segment.flags)
        original(self, segment)
        segment.flags = flags

    patch.setattr(Recovery, "_sort_rows", sort_rows)


@mutant(likely=0)
def goes_on_with_jobs_of_bare_rows(patch: Patch) -> None:
    """A job that was not created yet when its process died is created for nobody."""
    patch.setattr(Recovery, "_holds_bare_rows", lambda self, job: False)


@mutant(likely=0)
def forgets_explicit_keys_at_a_restart(patch: Patch) -> None:
    """A key in flight is not known after a restart."""
    original = Recovery.finish

    def finish(self: Recovery, now: float) -> Any:
        engine, step = original(self, now)
        engine.book.keys.live.clear()
        return engine, step

    patch.setattr(Recovery, "finish", finish)


@mutant(likely=0)
def forgets_stored_results_at_a_restart(patch: Patch) -> None:
    """Rows with a stored result count as open, and are sent again."""
    original = Recovery._take_results

    def take_results(self: Recovery, head: ResultsHead) -> None:
        original(self, msgspec.structs.replace(head, places=[place | (1 << 60) for place in head.places]))

    patch.setattr(Recovery, "_take_results", take_results)


@mutant(likely=0)
def offers_nothing_after_a_restart(patch: Patch) -> None:
    """What a dead process left cannot be adopted."""
    original = Recovery.finish

    def finish(self: Recovery, now: float) -> Any:
        engine, step = original(self, now)
        engine.book.keys.abandoned.clear()
        return engine, step

    patch.setattr(Recovery, "finish", finish)


@mutant(likely=0)
def touches_foreign_records(patch: Patch) -> None:
    """Work of another origin is taken for one's own."""
    original = Recovery.take

    def take(self: Recovery, record: Any) -> None:
        if hasattr(record, "origin"):
            record = msgspec.structs.replace(record, origin=self._book.origin)
        original(self, record)

    patch.setattr(Recovery, "take", take)


@mutant(likely=0)
def records_no_marks(patch: Patch) -> None:
    """What became of rows is not written down when their job is closed."""
    original = Book.write

    def write(self: Book, write: Write) -> None:
        if type(write).__name__ != "PutMarks":
            original(self, write)

    patch.setattr(Book, "write", write)
