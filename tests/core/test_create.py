"""How a job is created: once, on record, and found again if nobody knows whether it was."""

from __future__ import annotations

import pytest

from carpool._core.messages import (
    CancelRemote,
    Create,
    DeleteRemote,
    Fail,
    Find,
    Poll,
    PutJob,
    Report,
    Revoke,
    Upload,
)
from carpool._core.model import JobState

from .desk import Desk, error, every, only, questions, remote
from .states import creating, looking, ready, uploading

# -- create


def test_the_intent_is_on_record_before_the_create() -> None:
    desk = Desk()
    desk.admit()
    step = desk.wait()
    assert only(step.writes, PutJob).job.state is JobState.CREATING
    assert only(step.actions, Create).job.state is JobState.CREATING


def test_a_file_is_uploaded_then_created() -> None:
    desk = uploading()
    job = desk.job
    assert desk.disk.job(job.id).state is JobState.UPLOADING
    step = desk.uploaded()
    assert (only(step.writes, PutJob).job.state, questions(step)) == (JobState.CREATING, [Create])
    assert only(step.actions, Create).job.file_name == job.file_name


def test_a_job_that_was_taken_is_polled_after_the_shortest_pause() -> None:
    desk = creating()
    step = desk.created("batches/7")
    assert (only(step.writes, PutJob).job.name, step.actions) == ("batches/7", [])
    assert desk.engine.next_wakeup() == desk.now + 5.0
    assert questions(desk.wake()) == [Poll]


def test_a_create_that_was_not_sent_is_sent_again_as_the_same_attempt() -> None:
    desk = ready()
    assert desk.disk.job(desk.job.id).state is JobState.READY
    step = desk.wake()
    create = only(step.actions, Create)
    assert (create.job.attempt, only(step.writes, PutJob).job.state) == (1, JobState.CREATING)


@pytest.mark.parametrize("form", ["inline", "file"])
def test_callers_are_told_after_a_while_if_the_server_is_never_reached(form: str) -> None:
    desk = Desk(first_contact_s=10.0, inline_bytes_max=0 if form == "file" else 20_000_000)
    place = desk.admit()
    desk.wait()
    since, told = desk.now, None
    while told is None:
        assert desk.now - since < 20.0
        step = desk.failed("not_sent", error(message="connection refused"))
        told = next(iter(every(step.actions, Fail)), None)
        if told is None:
            desk.wake()
    assert (told.failure.kind, told.places, desk.jobs) == ("unreachable", [place], [])
    assert desk.now - since > 4.0


def test_a_server_that_answered_before_is_waited_for_longer() -> None:
    desk = Desk(first_contact_s=0.0, unreachable_s=500.0, retry_max_s=50.0)
    desk.admit()
    desk.wait()
    desk.refused(429)
    since = desk.now
    while True:
        desk.wake()
        if every(desk.failed("not_sent").actions, Fail):
            break
    assert 400.0 < desk.now - since < 600.0


def test_a_quota_refusal_backs_off_doubling_and_a_job_taken_clears_it() -> None:
    desk = Desk(quota_retry_min_s=100.0, quota_retry_max_s=10_000.0)
    desk.admit()
    desk.wait()
    pauses = []
    for _ in range(3):
        desk.refused(429)
        assert desk.disk.job(desk.job.id).state is JobState.READY
        assert desk.job.wake_at is not None
        pauses.append(desk.job.wake_at - desk.now)
        assert questions(desk.wake()) == [Create]
    assert all(0.8 * low <= pause <= low for low, pause in zip([100, 200, 400], pauses, strict=True))
    desk.created()
    assert desk.engine.book.pacing.ceiling(desk.job.lane.model).blocked_until == 0


def test_a_lane_refused_for_quota_seals_no_further_job_meanwhile() -> None:
    desk = Desk(quota_retry_min_s=100.0)
    desk.admit()
    desk.wait()
    desk.refused(429)
    desk.admit()
    assert questions(desk.wait(10.0)) == []
    assert len(desk.jobs) == 1


def test_a_wrong_key_is_told_to_all_and_only_explicit_keys_stay() -> None:
    desk = Desk()
    bare, named = desk.admit("a"), desk.admit("b", key="k")
    desk.wait()
    step = desk.refused(401, "unauthorized")
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind) == ([bare, named], "credentials")
    assert (desk.jobs, desk.engine.stats().parked, desk.engine.stats().waiting) == ([], 1, 0)
    assert desk.claim("k", "b")[1] == named  # asked for again, it goes again
    assert only(desk.wait(1.0).actions, Create).job.count == 1


FILE_WORDS = "You do not have permission to access the File x or it may not exist."


def test_a_file_that_is_gone_is_uploaded_anew_under_another_name() -> None:
    desk = uploading()
    desk.uploaded()
    assert questions(desk.refused(403, FILE_WORDS)) == [Find]  # which only a key that is good may ask
    upload = only(desk.found().actions, Upload)
    assert (upload.job.attempt, upload.job.file_name[-2:]) == (2, "-2")
    assert desk.disk.job(desk.job.id).display_name.endswith(".2")


# -- a create of unknown fate


def test_a_job_that_took_effect_unheard_is_adopted() -> None:
    desk = looking()
    step = desk.found(remote("batches/9", "RUNNING"))
    assert (desk.job.name, desk.job.state, questions(step)) == ("batches/9", JobState.RUNNING, [Poll])
    assert desk.disk.job(desk.job.id).name == "batches/9"


def test_twins_are_cancelled_and_counted() -> None:
    desk = looking()
    step = desk.found(remote("batches/1", "RUNNING"), remote("batches/2", "PENDING"), remote("batches/3", "FAILED"))
    assert desk.job.name == "batches/1"
    assert [action.name for action in every(step.actions, CancelRemote)] == ["batches/2"]
    assert desk.engine.receipt().doubles == 2
    assert ("twins", 2) in [(report.event, report.count) for report in every(step.actions, Report)]


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        (["FAILED", "RUNNING", "SUCCEEDED"], "batches/2"),
        (["EXPIRED", "RUNNING", "PENDING"], "batches/1"),
        (["RUNNING", "PARTIALLY_SUCCEEDED", "SUCCEEDED"], "batches/1"),
        (["FAILED", "CANCELLED"], "batches/0"),
    ],
)
def test_of_twins_the_one_with_output_is_adopted_else_the_oldest_that_may_give_some(
    states: list[str], chosen: str
) -> None:
    desk = looking()
    desk.found(*(remote(f"batches/{number}", state) for number, state in enumerate(states)))
    assert desk.job.name == chosen


def test_inline_a_job_is_looked_for_twice_before_the_next_attempt() -> None:
    desk = looking()
    assert questions(desk.found()) == []
    assert desk.engine.next_wakeup() == desk.now + 60.0
    assert questions(desk.wake()) == [Find]
    step = desk.found()
    create = only(step.actions, Create)
    assert (create.job.attempt, create.job.display_name[-2:]) == (2, ".2")
    assert only(step.writes, PutJob).job.state is JobState.CREATING


def test_a_file_is_revoked_and_waited_for_before_the_next_attempt() -> None:
    desk = uploading()
    desk.uploaded()
    assert questions(desk.failed("unknown")) == [Find]
    desk.found()
    assert questions(desk.wake()) == [Find]
    step = desk.found()
    assert only(step.actions, Revoke).job.file_name == desk.job.file_name
    assert questions(desk.failed("unknown")) == []
    assert questions(desk.wake()) == [Revoke]
    assert questions(desk.revoked()) == []
    assert desk.disk.job(desk.job.id).revoked
    assert desk.engine.next_wakeup() == desk.now + 60.0
    assert questions(desk.wake()) == [Find]
    upload = only(desk.found().actions, Upload)
    assert (upload.job.attempt, desk.disk.job(desk.job.id).revoked) == (2, False)


def test_a_list_that_cannot_be_read_is_asked_again_and_decides_nothing() -> None:
    desk = looking()
    for _ in range(20):
        step = desk.failed("unknown", error(503))
        assert (step.writes, step.actions) == ([], [])
        assert questions(desk.wake()) == [Find]


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_attempts_of_unknown_fate_are_bounded(attempts: int) -> None:
    desk = Desk(job_attempts_max=attempts)
    place = desk.admit(key="k")
    step = desk.wait()
    for number in range(attempts):
        desk.failed("unknown")
        desk.found()
        desk.wake()
        step = desk.found()
        assert bool(every(step.actions, Create)) is (number < attempts - 1)
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind, desk.jobs) == ([place], "ambiguous", [])


# -- callers that are gone before anything is created


def test_a_job_that_nobody_awaits_any_more_is_not_sent() -> None:
    desk = Desk(inline_bytes_max=0)
    place = desk.admit()
    desk.wait()
    desk.failed("unknown")
    desk.leave(place)
    assert questions(desk.wake()) == []
    assert (desk.jobs, desk.engine.stats().parked) == ([], 1)


def test_an_uploaded_file_that_nobody_awaits_any_more_is_deleted_and_not_created() -> None:
    desk = Desk(inline_bytes_max=0)
    place = desk.admit()
    desk.wait()
    desk.leave(place)
    step = desk.uploaded()
    assert (questions(step), desk.jobs, len(every(step.actions, DeleteRemote))) == ([], [], 1)


def test_while_an_inline_job_waits_its_cancelled_requests_are_taken_out() -> None:
    desk = Desk(quota_retry_min_s=100.0)
    places = [desk.admit(prompt) for prompt in "abc"]
    desk.wait()
    desk.refused(429)
    desk.leave(places[1])
    create = only(desk.wake().actions, Create)
    assert (create.job.spans, create.job.count, create.job.line_bytes) == (((1, 0, 1), (1, 2, 3)), 2, 100)
    assert desk.disk.job(desk.job.id).spans == create.job.spans
    desk.refused(429)
    desk.leave(places[0], places[2])
    assert questions(desk.wake()) == []
    assert (desk.jobs, desk.engine.book.pacing.jobs) == ([], 0)


def test_a_file_is_created_whole_as_long_as_anybody_awaits_a_row_of_it() -> None:
    desk = Desk(inline_bytes_max=0)
    places = [desk.admit(prompt) for prompt in "abc"]
    desk.wait()
    desk.leave(places[1])
    assert only(desk.uploaded().actions, Create).job.count == 3
    assert list(desk.engine.book.sent_in(desk.job)) == places


# -- uploads


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (401, "", "credentials"),
        (403, "permission to access the file", "credentials"),
        (400, "bad", "rejected"),
        (404, "", "rejected"),
    ],
)
def test_an_upload_that_is_refused_is_told(code: int, message: str, kind: str) -> None:
    desk = uploading()
    fail = only(desk.refused(code, message).actions, Fail)
    assert (fail.failure.kind, desk.jobs) == (kind, [])


def test_an_upload_refused_for_quota_backs_off() -> None:
    desk = uploading()
    desk.failed("unknown")
    desk.wake()
    desk.refused(429)
    assert desk.job.failures == 0
    due = desk.engine.next_wakeup()
    assert due is not None
    assert due - desk.now >= 0.8 * desk.settings.quota_retry_min_s
    assert questions(desk.wake()) == [Upload]


def test_an_upload_that_is_too_large_is_halved_down_to_single_rows() -> None:
    desk = Desk(inline_bytes_max=0)
    places = [desk.admit(prompt, key=prompt) for prompt in "abc"]
    desk.wait()
    told: list[int] = []
    while desk.jobs:
        step = desk.refused(413, job=desk.jobs[0])
        for fail in every(step.actions, Fail):
            assert fail.failure.kind == "too_large"
            told += fail.places
    assert sorted(told) == places
