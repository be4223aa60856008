"""Planted faults in the sweep: twins, jobs of a store that was restored, and what waits for both.

Owns nothing but the plants; the list is in ``mutants``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from carpool._core import lifecycle, sweeping
from carpool._core.book import Book
from carpool._core.census import Census, Origin
from carpool._core.messages import CancelRemote, Swept
from carpool._core.model import Job
from carpool._core.recovery import Recovery

from .mutants import Patch, mutant


@mutant(likely=1)
def ignores_the_sweep(patch: Patch) -> None:
    """Whatever a sweep finds, nothing follows from it."""
    original = sweeping.on_swept

    def on_swept(book: Book, event: Swept, now: float) -> None:
        original(book, msgspec.structs.replace(event, remotes=[]), now)

    patch.setattr(sweeping, "on_swept", on_swept)


@mutant(likely=44)
def cancels_jobs_that_it_does_not_know(patch: Patch) -> None:
    """After the restore of a backup, paid work is thrown away."""

    def adopt(book: Book, found: Any, now: float) -> None:
        sweeping.count_doubles(book, [remote for _, remote in found], now)

    patch.setattr(sweeping, "_adopt", adopt)


@mutant(likely=335)
def ignores_jobs_that_it_does_not_know(patch: Patch) -> None:
    """After the restore of a backup, what is paid for is paid for again."""
    patch.setattr(sweeping, "_adopt", lambda book, found, now: None)


@mutant(likely=1)
def counts_doubles_again_and_again(patch: Patch) -> None:
    """A double that is seen twice is counted twice."""
    original = Census.count

    def count(self: Census, name: str) -> bool:
        original(self, name)
        return True

    patch.setattr(Census, "count", count)


@mutant(likely=1)
def counts_doubles_and_lets_them_run(patch: Patch) -> None:
    """A twin is counted, and not cancelled."""
    original = sweeping.count_doubles

    def count_doubles(book: Book, remotes: Any, now: float) -> int:
        before = len(book.step.actions)
        count = original(book, remotes, now)
        book.step.actions[before:] = [a for a in book.step.actions[before:] if not isinstance(a, CancelRemote)]
        return count

    patch.setattr(sweeping, "count_doubles", count_doubles)


@mutant(likely=2)
def takes_the_job_itself_for_a_double(patch: Patch) -> None:
    """A running job is cancelled, since the list shows a job of its name."""
    original = sweeping._judge_open

    def judge_open(book: Book, job: Job, found: Any, now: float) -> None:
        original(book, msgspec.structs.replace(job, name="batches/another"), found, now)

    patch.setattr(sweeping, "_judge_open", judge_open)


@mutant(likely=335)
def sends_held_requests_before_the_sweep(patch: Patch) -> None:
    """After the restore of a backup, requests go that may be inside a job that this store does not know."""
    original = Recovery.finish

    def finish(self: Recovery, now: float) -> Any:
        engine, step = original(self, now)
        engine.book.census.blind = True
        return engine, step

    patch.setattr(Recovery, "finish", finish)


@mutant(likely=335)
def sends_held_requests_before_unknown_jobs_ended(patch: Patch) -> None:
    """Requests are held for the list alone, and not for the jobs that it showed."""
    original = sweeping._let_go

    def let_go(book: Book, now: float) -> None:
        strangers = {job.id: job for job in book.jobs.values() if job.stranger}
        for job_id in strangers:
            del book.jobs[job_id]
        original(book, now)
        book.jobs.update(strangers)

    patch.setattr(sweeping, "_let_go", let_go)


@mutant(likely=44)
def takes_every_job_for_its_own(patch: Patch) -> None:
    """Numbers are compared with those of this process only, not with what the store knew when it was opened."""
    patch.setattr(Census, "origin_of", lambda self, name, store_id: Origin.CLOSED)


@mutant(likely=39)
def waits_for_ever_for_a_list_that_cannot_be_had(patch: Patch) -> None:
    """Requests of earlier processes are held as long as the list is refused."""
    original = sweeping.on_failed

    def on_failed(book: Book, event: Any, now: float) -> None:
        original(book, event, now)
        book.census.wake_at = now + 10**9

    patch.setattr(sweeping, "on_failed", on_failed)


@mutant(likely=3)
def judges_by_a_list_that_is_too_old(patch: Patch) -> None:
    """A job that was closed while the list was on its way is taken for one that runs on."""
    original = sweeping._judge_closed

    def judge_closed(book: Book, closed: Any, op: int, found: Any, now: float) -> None:
        original(book, None if closed is None else msgspec.structs.replace(closed, name="", sweep=-1), op, found, now)

    patch.setattr(sweeping, "_judge_closed", judge_closed)


@mutant(likely=1)
def forgets_the_lag(patch: Patch) -> None:
    """A list that was seen to lag is trusted as before."""
    patch.setattr(Census, "note_lag", lambda self, lag_s: None)


@mutant(likely=20)
def creates_from_old_files(patch: Patch) -> None:
    """A job that was refused for days is created from a file that the server has deleted meanwhile."""
    patch.setattr(lifecycle, "_is_old", lambda book, job, now: False)
