"""Planted faults in the life of jobs, and in how their rows end.

Owns nothing but the plants; the list is in ``mutants``.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carpool._core import lifecycle, settlement, shelf
from carpool._core.book import Book
from carpool._core.engine import Engine
from carpool._core.messages import Found, Revoke, Revoked, RowsFetched
from carpool._core.model import ABANDONED, Fault, Job, JobState, Marks, ResultsHead
from carpool._core.recovery import Recovery

from .calls import Calls
from .mutants import Patch, mutant

# -- how rows end


@mutant(likely=8)
def settles_by_the_keys_of_the_reply(patch: Patch) -> None:
    """A row that did not come back is never judged."""
    original = settlement.settle_rest

    def settle_rest(book: Book, job: Job, error: Any, now: float, **how: bool) -> None:
        came = list(book.retries.get(job.id, {}))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Book, "sent_in", lambda self, job: came)
            original(book, job, error, now, **how)

    patch.setattr(settlement, "settle_rest", settle_rest)


@mutant(likely=24)
def ignores_a_failed_job(patch: Patch) -> None:
    """A job that ended otherwise than well is polled for ever."""
    original = lifecycle.on_polled

    def on_polled(book: Book, job: Job, event: Any, now: float) -> None:
        if event.remote.state in ("FAILED", "EXPIRED", "CANCELLED"):
            job.wake_at = now + 1_800.0
        else:
            original(book, job, event, now)

    patch.setattr(lifecycle, "on_polled", on_polled)


@mutant(likely=16)
def takes_a_failed_poll_for_a_verdict(patch: Patch) -> None:
    """One 503 on a poll, and the job counts as lost while it runs on."""
    original = lifecycle.on_call_failed

    def on_call_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        if job.state is JobState.RUNNING:
            settlement.settle_rest(book, job, fault.error, now, missing=False)
        else:
            original(book, job, fault, now)

    patch.setattr(lifecycle, "on_call_failed", on_call_failed)


@mutant(likely=7)
def takes_a_broken_download_for_its_end(patch: Patch) -> None:
    """Rows behind the break count as missing."""

    def fetch_failed(book: Book, job: Job, fault: Fault, now: float) -> None:
        settlement.settle_rest(book, job, fault.error, now, missing=True)

    patch.setattr(lifecycle, "_fetch_failed", fetch_failed)


@mutant(likely=3)
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


@mutant(likely=122)
def forgets_attempts_at_a_restart(patch: Patch) -> None:
    """Attempts start from nothing in each process."""
    original = Recovery._take_marks

    def take_marks(self: Recovery, marks: Marks) -> None:
        original(self, msgspec.structs.replace(marks, attempts=bytes(len(marks.attempts))))

    patch.setattr(Recovery, "_take_marks", take_marks)


@mutant(likely=65)
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


@mutant(likely=2)
def forgets_answers_not_taken(patch: Patch) -> None:
    """An answer handed to a caller that was cancelled in that moment is lost."""
    patch.setattr(settlement, "on_undelivered", lambda book, event, now: None)


@mutant(likely=2)
def hands_explicit_keys_over_unstored(patch: Patch) -> None:
    """The answer of an explicit key goes straight to its awaiter, and is in no store."""
    original = Calls._sort

    def sort(self: Calls, action: Any, index: Any, rows: Any) -> tuple[RowsFetched, int]:
        event, strangers = original(self, action, index, rows)
        callers = self._process.callers
        straight = [(place, body) for place, body in event.kept if place in callers.awaiters]
        for place, body in straight:
            for call in callers.awaiters.pop(place):
                callers.answer(call, body, action.job.name)
        kept = [pair for pair in event.kept if pair not in straight]
        delivered = event.delivered + [place for place, _ in straight]
        return msgspec.structs.replace(event, delivered=delivered, kept=kept), strangers

    patch.setattr(Calls, "_sort", sort)


@mutant(likely=22)
def offers_what_it_hands_over(patch: Patch) -> None:
    """A stored answer that goes to live awaiters is offered to later identical calls too."""
    original = shelf.index_results

    def index_results(book: Book, head: ResultsHead) -> None:
        book.handed.clear()
        original(book, head)

    patch.setattr(shelf, "index_results", index_results)


# -- the life of a job


@mutant(likely=18)
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


@mutant(likely=25)
def looks_once(patch: Patch) -> None:
    """The list is searched once, however much it lags."""
    patch.setattr(lifecycle, "_LOOKS", {"inline": 1, "file": 1})


@mutant(likely=167)
def revokes_nothing(patch: Patch) -> None:
    """The input file of a create on its way stays where it is."""
    original = Calls._arrive

    def arrive(self: Calls, action: Any, lines: list[bytes]) -> None:
        if isinstance(action, Revoke):
            self._process.later(0.1, lambda: self._hear(Revoked(action.job.id, action.op)))
        else:
            original(self, action, lines)

    patch.setattr(Calls, "_arrive", arrive)


@mutant(likely=48)
def ignores_twins(patch: Patch) -> None:
    """Of two jobs with one name, one goes on unseen."""
    original = lifecycle.on_found

    def on_found(book: Book, job: Job, event: Found, now: float) -> None:
        original(book, job, msgspec.structs.replace(event, remotes=event.remotes[:1]), now)

    patch.setattr(lifecycle, "on_found", on_found)


@mutant(likely=53)
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


@mutant(likely=3)
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


@mutant(likely=6)
def sends_answered_rows_anew(patch: Patch) -> None:
    """The next attempt of a job that vanished holds the rows that were answered before."""
    patch.setattr(settlement, "trim", lambda book, job: True)


@mutant(likely=185)
def never_gives_up_reaching_the_server(patch: Patch) -> None:
    """Failed calls are not counted across attempts to create."""
    original = Book.move

    def move(self: Book, job: Job, state: JobState, *, failing: bool = False) -> None:
        original(self, job, state)

    patch.setattr(Book, "move", move)
