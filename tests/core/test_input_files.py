"""Input files of jobs that are gone, old, or somebody else's, and rows of output that are no answers."""

from __future__ import annotations

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import Create, DeleteRemote, Fail, FetchEnded, Find, PutJob, PutResults, Upload
from carpool._core.model import EXPLICIT, UNKNOWN_DIGEST, Failure, JobState, place_of
from carpool._core.shelf import ASIDE_KEY_CHARS

from .desk import LANE, Desk, error, every, only, questions, remote
from .states import uploading

GONE = "You do not have permission to access the File x or it may not exist."


def waiting(age_s: float) -> Desk:
    """Return a desk whose job, refused for quota, is due again when its input has some age."""
    desk = uploading()
    desk.uploaded()
    uploaded_at = desk.now
    desk.refused(429)
    desk.now = uploaded_at + age_s
    return desk


def desk_age() -> float:
    return Desk().settings.file_reuse_s


# -- age


def test_an_input_that_is_old_enough_to_be_deleted_soon_is_uploaded_again_under_a_new_name() -> None:
    desk = waiting(desk_age() + 1.0)
    job_id, old = desk.job.id, desk.job.file_name
    step = desk.wait()
    upload = only(step.actions, Upload)
    assert (upload.job.file_name, upload.job.renewed) == (f"files/cp-{job_id}-1-1", 1)
    assert (upload.job.attempt, upload.job.uploaded_at, upload.op) == (1, 0.0, desk.job.op)
    assert [action.name for action in every(step.actions, DeleteRemote)] == [old]
    record = only(step.writes, PutJob).job
    assert (record.file_name, record.state) == (upload.job.file_name, JobState.UPLOADING)
    assert desk.disk.job(job_id).file_name == upload.job.file_name
    # No attempt is counted: neither the job's nor the request's.
    step = desk.uploaded()
    assert questions(step) == [Create]
    create = only(step.actions, Create)
    assert (create.job.attempt, create.job.display_name[-2:]) == (1, ".1")
    assert desk.engine.book.at(1 << 20)[0].attempts == bytearray(1)  # type: ignore[union-attr]


def test_an_input_of_just_that_age_still_serves() -> None:
    desk = waiting(desk_age())
    assert questions(desk.wait()) == [Create]


def test_an_old_input_that_nobody_wants_any_more_is_not_uploaded_again() -> None:
    desk = Desk(inline_bytes_max=0, file_reuse_s=1_000.0, quota_retry_min_s=2_000.0, quota_retry_max_s=2_000.0)
    place = desk.admit()
    desk.wait()
    desk.uploaded()
    desk.refused(429)
    desk.leave(place)
    step = desk.wake()
    assert (questions(step), desk.jobs, len(every(step.actions, DeleteRemote))) == ([], [], 1)


def test_an_upload_that_was_interrupted_long_ago_gets_a_new_name() -> None:
    desk = uploading()
    young = desk.restart(after_s=100.0)
    assert young.job.file_name.endswith("-1")
    old = desk.restart(after_s=144_001.0)
    assert old.job.file_name.endswith("-1-1")
    assert old.disk.job(old.job.id).file_name == old.job.file_name


def test_pauses_go_on_growing_over_a_renewal() -> None:
    desk = Desk(inline_bytes_max=0, unreachable_s=86_400.0 * 7)
    desk.admit("a", key="k")
    desk.wait()
    desk.uploaded()
    for _ in range(5):
        desk.failed("not_sent")
        desk.wake()
    desk.failed("not_sent")
    failures = desk.job.failures
    desk.now += desk.settings.file_reuse_s + 1.0
    desk.job.wake_at = desk.now
    assert questions(desk.wait()) == [Upload]
    assert desk.job.failures == failures


# -- names that are taken


def test_an_upload_whose_name_is_taken_by_something_else_goes_under_another() -> None:
    desk = uploading()
    job_id = desk.job.id
    names = [desk.job.file_name]
    for _ in range(3):
        step = desk.refused(409, "already exists")
        names.append(only(step.actions, Upload).job.file_name)
        assert only(step.writes, PutJob).job.file_name == names[-1]
    assert names == [f"files/cp-{job_id}-1" + suffix for suffix in ("", "-1", "-2", "-3")]


def test_an_upload_whose_every_name_is_taken_is_rejected() -> None:
    desk = uploading()
    tries = 0
    while desk.jobs:
        step = desk.refused(409, "already exists")
        tries += 1
    assert tries == 10
    assert only(step.actions, Fail).failure == Failure(kind="rejected", error=error(409, "already exists"))


# -- a file that is gone, or a key that is refused


def asked_after_a_403() -> Desk:
    """Return a desk whose create was refused for want of its file: another call tells what the key may."""
    desk = uploading()
    desk.uploaded()
    step = desk.refused(403, GONE)
    assert questions(step) == [Find]
    assert only(step.writes, PutJob).job.file_gone
    return desk


def test_if_the_key_may_list_jobs_it_was_the_file_and_another_attempt_uploads_it_again() -> None:
    desk = asked_after_a_403()
    upload = only(desk.found().actions, Upload)
    assert (upload.job.attempt, upload.job.file_gone) == (2, False)


@pytest.mark.parametrize(("code", "words"), [(401, "no"), (403, GONE), (403, "denied"), (400, "API key not valid")])
def test_if_the_key_may_not_even_list_jobs_it_was_the_key(code: int, words: str) -> None:
    desk = asked_after_a_403()
    [place] = desk.engine.fetch_index(desk.job.id).values()
    fail = only(desk.refused(code, words).actions, Fail)
    assert fail == Fail(places=[place], keys=["k"], failure=Failure(kind="credentials", error=error(code, words)))
    assert desk.jobs == []


@pytest.mark.parametrize(("kind", "code"), [("unknown", 503), ("refused", 429), ("refused", 404), ("unknown", 403)])
def test_a_list_that_cannot_be_had_decides_nothing(kind: str, code: int) -> None:
    desk = asked_after_a_403()
    step = desk.failed("refused" if kind == "refused" else "unknown", error(code))
    assert (every(step.actions, Fail), len(desk.jobs)) == ([], 1)
    assert questions(desk.wake()) == [Find]
    again = desk.restart()  # that the file may be gone is on record
    assert questions(again.wait()) == [Find]
    assert only(again.found().actions, Upload).job.attempt == 2


def test_a_key_that_may_not_list_decides_nothing_about_a_create_of_unknown_fate() -> None:
    desk = uploading()
    desk.uploaded()
    desk.failed("unknown")
    assert desk.refused(403, "denied").actions == []
    assert desk.job.state is JobState.LOOKING


def test_a_job_that_is_there_after_all_is_adopted() -> None:
    desk = asked_after_a_403()
    desk.found(remote("batches/1", "RUNNING"))
    assert (desk.job.name, desk.job.file_gone) == ("batches/1", False)


def test_a_file_that_is_gone_each_time_fails_its_requests_in_the_end() -> None:
    desk = Desk(inline_bytes_max=0, job_attempts_max=2)
    desk.admit("a", key="k")
    desk.wait()
    for _ in range(2):
        desk.uploaded()
        desk.refused(403, GONE)
        step = desk.found()
    failure = only(step.actions, Fail).failure
    assert (failure.kind, failure.error.message, desk.jobs) == ("failed", "the input file is gone", [])


# -- rows that are no answers


def test_rows_that_are_not_ours_are_set_aside_under_keys_of_their_own() -> None:
    desk = Desk()
    [place] = desk.fetching("a")
    desk.fetched(place)
    desk.now += 5.0
    rows = [("strange", b"first"), ("k" * 500, b"second")]
    head_and_bodies = only(desk.tell(FetchEnded(desk.job.id, desk.job.op, 3, rows)).writes, PutResults)
    head = head_and_bodies.head
    assert head.keys == ["aside/batches/1/0/strange", f"aside/batches/1/1/{'k' * 500}"[:ASIDE_KEY_CHARS]]
    assert (head.lane, head.job, head.kept_at) == (LANE, "batches/1", desk.now)
    assert (head.digests, head.flags, head.failed) == (UNKNOWN_DIGEST * 2, bytes((EXPLICIT, EXPLICIT)), b"\0\0")
    assert head_and_bodies.bodies == [b"first", b"second"]
    assert desk.engine.find(head.keys[0]) == (Claim.KEPT, place_of(1, 0))
    assert desk.engine.stats().quarantined == 3  # all that there were, though not each is kept
    assert len({*head.places, desk.admit("b")}) == 3


def test_rows_set_aside_outlive_a_restart_and_are_nobodys_answer() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="a")
    desk.fetched(kept=[(place, b"x")])
    head = only(desk.tell(FetchEnded(desk.job.id, desk.job.op, 1, [("a", b"other")])).writes, PutResults).head
    assert desk.claim("a", "a") == (Claim.KEPT, place)  # the first wins
    again = desk.restart()
    assert again.engine.find(head.keys[0])[0] is Claim.KEPT
    assert again.admit("new", key="n") >> 20 > max(place >> 20 for place in head.places)
