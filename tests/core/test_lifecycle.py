"""What becomes of a job that has a name: polled, looked for, fetched, broken."""

from __future__ import annotations

import pytest

from carpool._core.messages import (
    Broken,
    Create,
    DeleteRemote,
    Fail,
    Fetch,
    Find,
    Poll,
    Report,
)
from carpool._core.model import FaultKind, JobState

from .desk import START, Desk, error, every, only, questions, remote
from .states import fetching, running

# -- running


def test_the_pause_between_polls_grows_with_the_age_of_the_job_within_its_limits() -> None:
    desk = Desk(poll_min_s=5.0, poll_max_s=300.0)
    desk.running()
    pauses = []
    while desk.now < desk.job.created_at + 20_000:
        desk.wake()
        desk.polled("RUNNING", output=False)
        assert desk.job.wake_at is not None
        pauses.append(desk.job.wake_at - desk.now)
    assert (min(pauses), max(pauses), pauses) == (5.0, 300.0, sorted(pauses))


@pytest.mark.parametrize(("kind", "code"), [("unknown", 503), ("not_sent", 0), ("refused", 403), ("refused", 429)])
def test_a_failed_poll_is_never_a_verdict(kind: FaultKind, code: int) -> None:
    desk = running()
    pauses = []
    for _ in range(12):
        step = desk.failed(kind, error(code))
        assert (step.writes, step.actions, desk.job.state) == ([], [], JobState.RUNNING)
        assert desk.job.wake_at is not None
        pauses.append(desk.job.wake_at - desk.now)
        assert questions(desk.wake()) == [Poll]
    assert pauses[3] > 2 * pauses[1]
    assert max(pauses) <= desk.settings.retry_max_s


def test_a_job_that_is_not_found_is_looked_for_and_not_in_haste() -> None:
    desk = running()
    step = desk.refused(404, "Requested entity was not found.")
    assert (desk.disk.job(desk.job.id).state, questions(step)) == (JobState.LOOKING, [])
    assert desk.engine.next_wakeup() == desk.now + 5.0
    assert questions(desk.wake()) == [Find]
    desk.found(remote("batches/1", "RUNNING"))
    assert (desk.job.state, desk.job.name) == (JobState.RUNNING, "batches/1")


def test_a_job_that_vanished_is_created_anew_for_what_is_still_wanted() -> None:
    desk = Desk()
    places = desk.running("a", "b", "c", "d")
    desk.wake()
    desk.polled()
    desk.fetched(places[0])
    desk.failed("unknown")
    desk.wake()
    desk.refused(404)
    desk.leave(places[1])
    desk.wake()
    desk.found()
    desk.wake()
    step = desk.found()
    create = only(step.actions, Create)
    assert (create.job.spans, create.job.count, create.job.tokens, create.job.line_bytes) == (((1, 2, 4),), 2, 2, 100)
    assert (create.job.attempt, create.job.name, create.job.created_at) == (2, "", 0.0)
    assert desk.engine.book.pacing.jobs == 1
    assert desk.adopt("b") is not None


def test_a_job_that_vanished_and_that_nobody_awaits_any_more_is_not_created_anew() -> None:
    desk = Desk()
    [place] = desk.running("a")
    desk.wake()
    desk.refused(404)
    desk.leave(place)
    desk.wake()
    desk.found()
    desk.wake()
    assert questions(desk.found()) == []
    assert (desk.jobs, desk.engine.stats().parked) == ([], 1)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "", "SOMETHING_NEW"])
def test_a_state_that_is_not_final_or_not_known_is_waited_for(state: str) -> None:
    desk = running()
    step = desk.polled(state, output=False)
    assert (step.writes, step.actions, desk.job.state) == ([], [], JobState.RUNNING)


@pytest.mark.parametrize("state", ["SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"])
def test_whatever_the_end_output_that_is_there_is_fetched(state: str) -> None:
    desk = running()
    fetch = only(desk.polled(state).actions, Fetch)
    assert (fetch.remote.state, fetch.op) == (state, desk.job.op)


def test_output_that_is_late_is_waited_for_and_then_counts_as_missing() -> None:
    desk = Desk(output_grace_s=60.0, attempts_max=1)
    [place] = desk.running()
    step, since = desk.wake(), desk.now
    while desk.jobs:
        step = desk.polled("SUCCEEDED", output=False)
        if desk.jobs:
            assert desk.job.state is JobState.RUNNING
            desk.wake()
    assert 60.0 <= desk.now - since < 70.0
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind) == ([place], "missing")


# -- fetching


def test_a_broken_download_starts_again_and_skips_what_is_settled() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    assert list(desk.engine.fetch_index(desk.job.id).values()) == places
    desk.fetched(places[0])
    desk.failed("unknown")
    assert questions(desk.wake()) == [Poll]
    desk.polled()
    assert list(desk.engine.fetch_index(desk.job.id).values()) == places[1:]
    desk.fetched(places[1])
    desk.ended()
    assert (desk.jobs, desk.engine.stats().answered) == ([], 2)


def test_a_download_that_breaks_again_and_again_is_tried_less_and_less_often() -> None:
    desk = fetching()
    pauses = []
    for _ in range(6):
        desk.failed("unknown", error(503))
        assert desk.job.wake_at is not None
        pauses.append(desk.job.wake_at - desk.now)
        desk.wake()
        desk.polled()
    assert pauses == sorted(pauses)
    assert pauses[-1] > 10 * pauses[0]


def test_output_that_is_gone_counts_as_missing_after_the_grace() -> None:
    desk = Desk(output_grace_s=60.0, attempts_max=2)
    desk.fetching()
    while not (reports := every(desk.refused(404).actions, Report)):
        desk.wake()
        desk.polled()
    assert [report.event for report in reports] == ["output_vanished", "rows_missing"]
    assert desk.now - START >= 60.0
    assert desk.job.state is JobState.CREATING


def test_the_remote_job_and_the_uploaded_file_are_deleted_when_everything_is_safe() -> None:
    desk = Desk(inline_bytes_max=0, delete_remote=True)
    [place] = desk.fetching()
    file_name = desk.job.file_name
    desk.fetched(place)
    step = desk.ended()
    assert [action.name for action in every(step.actions, DeleteRemote)] == [file_name, "batches/1"]
    kept = Desk()
    [place] = kept.fetching()
    kept.fetched(place)
    assert every(kept.ended().actions, DeleteRemote) == []


# -- bugs of our own


def test_a_job_that_breaks_is_told_of_and_left_as_it_is_and_takes_up_no_room() -> None:
    desk = Desk(jobs_max=1)
    [place] = desk.running("a")
    desk.wake()
    job = desk.job
    step = desk.tell(Broken(job.id, job.op, "a bug of ours"))
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind, fail.failure.error.message) == ([place], "failed", "a bug of ours")
    assert (step.writes, desk.disk.job(job.id).state) == ([], JobState.RUNNING)
    assert desk.engine.is_stalled(place)
    assert desk.engine.idle
    assert not desk.engine.unsent
    assert desk.tell(Broken(job.id, job.op - 1, "again")).actions == []
    desk.admit("b")
    assert questions(desk.wait(400.0)) == [Create]
    again = desk.restart()
    assert Poll in questions(again.wait())
