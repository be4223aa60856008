"""Input files that are gone, old, or somebody else's; rows of output that are no answers."""

from __future__ import annotations

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import Create, DeleteRemote, Fail, FetchEnded, Find, PutJob, PutResults, Upload
from carpool._core.model import JobState

from .desk import Desk, error, every, only, questions, remote
from .states import uploading

FILE_WORDS = "You do not have permission to access the File x or it may not exist."


def gone() -> Desk:
    """A job whose create was refused for want of its file."""
    desk = uploading()
    desk.uploaded()
    step = desk.refused(403, FILE_WORDS)
    assert questions(step) == [Find]
    assert only(step.writes, PutJob).job.file_gone
    return desk


def test_a_file_is_gone_if_the_key_may_do_other_things() -> None:
    desk = gone()
    upload = only(desk.found().actions, Upload)
    assert (upload.job.attempt, upload.job.file_gone) == (2, False)


@pytest.mark.parametrize(
    ("code", "message"), [(403, FILE_WORDS), (401, ""), (403, "denied"), (400, "API key not valid")]
)
def test_a_key_that_may_not_list_either_is_refused(code: int, message: str) -> None:
    desk = gone()
    fail = only(desk.refused(code, message).actions, Fail)
    assert (fail.failure.kind, desk.jobs) == ("credentials", [])


def test_a_list_that_fails_otherwise_says_nothing_about_the_key() -> None:
    desk = gone()
    assert desk.failed("unknown", error(503)).actions == []
    assert questions(desk.wake()) == [Find]
    desk.restart()
    assert only(desk.found().actions, Upload).job.attempt == 2


def test_a_job_that_is_there_after_all_is_adopted() -> None:
    desk = gone()
    desk.found(remote("batches/1", "RUNNING"))
    assert (desk.job.name, desk.job.file_gone) == ("batches/1", False)


def test_a_key_that_may_not_list_decides_nothing_about_a_create_of_unknown_fate() -> None:
    desk = uploading()
    desk.uploaded()
    desk.failed("unknown")
    assert desk.refused(403, "denied").actions == []
    assert desk.job.state is JobState.LOOKING


# -- old files


def waiting(after_s: float) -> Desk:
    """A job that waited so long after its upload before it may be created."""
    desk = Desk(inline_bytes_max=0, file_reuse_s=1_000.0, quota_retry_min_s=after_s, quota_retry_max_s=after_s)
    desk.admit(key="k")
    desk.wait()
    desk.uploaded()
    desk.refused(429)
    return desk


def test_a_file_that_is_too_old_is_uploaded_again_and_no_attempt_is_counted() -> None:
    desk = waiting(2_000.0)
    old = desk.job.file_name
    step = desk.wake()
    upload = only(step.actions, Upload)
    assert (upload.job.attempt, upload.job.file_name) == (1, f"{old}-1")
    assert only(step.actions, DeleteRemote).name == old
    assert desk.disk.job(desk.job.id).file_name == f"{old}-1"
    create = only(desk.uploaded().actions, Create)
    assert (create.job.attempt, create.job.display_name[-2:]) == (1, ".1")
    assert desk.engine.book.at(1 << 20)[0].attempts == bytearray(1)  # type: ignore[union-attr]


def test_a_file_that_is_young_enough_is_used() -> None:
    assert questions(waiting(900.0).wake()) == [Create]


def test_an_old_file_that_nobody_wants_any_more_is_not_uploaded_again() -> None:
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


def test_a_name_that_another_file_has_is_not_taken_but_another_one_a_few_times() -> None:
    desk = uploading()
    for number in range(1, 10):
        upload = only(desk.refused(409, "exists").actions, Upload)
        assert upload.job.file_name.endswith(f"-1-{number}")
    assert only(desk.refused(409, "exists").actions, Fail).failure.kind == "rejected"


# -- rows set aside


def test_rows_that_are_no_answers_are_counted_and_kept_for_an_operator() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="a")
    desk.fetched(kept=[(place, b"x")])
    job = desk.job
    step = desk.tell(FetchEnded(job.id, job.op, 3, [("nobody's", b"one"), ("a", b"other")]))
    head = only(step.writes, PutResults).head
    assert head.keys == [f"aside/{job.name}/0/nobody's", f"aside/{job.name}/1/a"]
    assert desk.engine.stats().quarantined == 3
    assert desk.engine.find(head.keys[1])[0] is Claim.KEPT
    assert desk.claim("a", "a")[0] is Claim.KEPT  # the first wins
    again = desk.restart()
    assert again.engine.find(head.keys[0])[0] is Claim.KEPT
    assert again.admit("new", key="n") >> 20 > max(place >> 20 for place in head.places)


def test_the_keys_of_rows_set_aside_are_cut_short() -> None:
    desk = Desk()
    [place] = desk.fetching("a", key="a")
    desk.fetched(kept=[(place, b"x")])
    step = desk.tell(FetchEnded(desk.job.id, desk.job.op, 1, [("k" * 5_000, b"one")]))
    assert len(only(step.writes, PutResults).head.keys[0]) == 256
