"""How rows end: each alone, whatever became of its job."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.keys import Claim
from carpool._core.messages import Create, Deliver, Fail, PutMarks, PutResults, Report, Undelivered, Upload
from carpool._core.model import DONE, ROW_BITS, Failure, JobState, Marks, Place
from carpool.types import ServerError

from .desk import LANE, Desk, digest_of, error, every, only, questions


def state_of(desk: Desk, place: Place) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


def failures(desk_actions: Sequence[object]) -> dict[Place, str]:
    return {place: fail.failure.kind for fail in every(desk_actions, Fail) for place in fail.places}


# -- answers


def test_answers_of_live_callers_are_settled_without_a_write_of_their_own() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    step = desk.fetched(*places)
    assert (step.writes, step.actions) == ([], [])
    step = desk.ended()
    assert (desk.jobs, desk.disk.jobs, desk.disk.segments) == ([], {}, {})
    assert desk.engine.stats().answered == 2


def test_answers_of_explicit_keys_are_stored_in_the_step_that_delivers_them() -> None:
    desk = Desk()
    [place] = desk.fetching(key="k")
    step = desk.fetched(kept=[(place, b"answer")])
    results = only(step.writes, PutResults)
    assert (results.head.keys, results.bodies, results.head.places) == (["k"], [b"answer"], [place])
    assert only(step.actions, Deliver).rows == [(place, b"answer")]
    assert desk.claim("k")[0] is Claim.KEPT


def test_a_job_is_closed_by_its_own_keys_not_by_those_of_the_reply() -> None:
    desk = Desk(attempts_max=1)
    places = desk.fetching("a", "b", "c")
    desk.fetched(places[1])
    step = desk.ended(unknown=3)
    assert failures(step.actions) == {places[0]: "missing", places[2]: "missing"}
    reports = {report.event: report.count for report in every(step.actions, Report)}
    assert reports == {"rows_not_ours": 3, "rows_missing": 2}


def test_rows_that_did_not_come_are_sent_again_and_then_missing() -> None:
    desk = Desk(attempts_max=3)
    [place] = desk.fetching()
    for _ in range(2):
        desk.ended()
        desk.wait(1.0)
        desk.created()
        desk.wake()
        desk.polled()
    assert failures(desk.ended().actions) == {place: "missing"}
    assert desk.engine.stats().retried == 2


@pytest.mark.parametrize("state", ["PARTIALLY_SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED"])
def test_what_a_job_that_did_not_succeed_left_out_failed_with_its_error(state: str) -> None:
    desk = Desk(attempts_max=1)
    places = desk.running("a", "b")
    desk.wake()
    desk.polled(state, failure=error(13, "broken"))
    desk.fetched(places[0])
    step = desk.ended()
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind, fail.failure.error.code) == ([places[1]], "failed", 13)
    assert "rows_missing" not in [report.event for report in every(step.actions, Report)]


@pytest.mark.parametrize("state", ["FAILED", "EXPIRED", "CANCELLED"])
def test_a_job_that_ended_without_output_is_lost_and_its_rows_go_again(state: str) -> None:
    desk = Desk(attempts_max=2)
    [place] = desk.running()
    desk.wake()
    lost = desk.job.id
    step = desk.polled(state, output=False)
    assert "job_lost" in [report.event for report in every(step.actions, Report)]
    create = only(step.actions, Create)
    assert (desk.engine.book.place_in(create.job, 0), create.job.id != lost) == (place, True)


def test_rows_with_an_error_that_may_pass_are_sent_again_when_the_job_is_closed() -> None:
    desk = Desk(attempts_max=2)
    places = desk.fetching("a", "b")
    step = desk.fetched(places[0], failed=[(places[1], error(13))])
    assert every(step.actions, Fail) == []
    step = desk.ended()
    assert only(step.actions, Create).job.spans == ((1, 1, 2),)
    assert "rows_missing" not in [report.event for report in every(step.actions, Report)]
    assert only(step.writes, PutMarks).marks == Marks(no=1, done=b"\1\0", attempts=b"\0\1")
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(failed=[(places[1], error(8, "exhausted"))])
    fail = only(desk.ended().actions, Fail)
    assert (fail.failure.kind, fail.failure.error.code) == ("failed", 8)


def test_a_row_with_an_error_that_will_not_pass_is_rejected_alone() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    step = desk.fetched(places[1], failed=[(places[0], error(400, "bad"))])
    assert failures(step.actions) == {places[0]: "rejected"}
    desk.ended()
    assert desk.engine.stats().failed == 1


def test_errors_seen_before_a_download_broke_count_once() -> None:
    desk = Desk(attempts_max=2)
    [place] = desk.fetching()
    desk.fetched(failed=[(place, error(13))])
    desk.failed("unknown")
    desk.wake()
    desk.polled()
    desk.fetched(place)
    desk.ended()
    assert (desk.engine.stats().answered, desk.engine.stats().retried) == (1, 0)


def test_verdicts_on_explicit_keys_are_stored_and_told_in_one_step() -> None:
    desk = Desk(attempts_max=1)
    bare, named = desk.admit("a"), desk.admit("b", key="k")
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled("EXPIRED", output=False)
    head = desk.disk.results_head(1)
    assert (head.keys, head.failed) == (["k"], b"\1")
    stored = msgspec.json.decode(desk.disk.result(1 << ROW_BITS, ROW_BITS), type=Failure)
    assert (stored.kind, stored.job) == ("failed", "batches/1")
    assert (state_of(desk, bare), state_of(desk, named)) == (DONE, DONE)


def test_equal_verdicts_are_told_together() -> None:
    desk = Desk()
    places = desk.fetching("a", "b", "c")
    step = desk.fetched(failed=[(places[0], error(400)), (places[1], error(404)), (places[2], error(400))])
    assert [fail.places for fail in every(step.actions, Fail)] == [[places[0], places[2]], [places[1]]]


def test_the_account_is_settled_with_each_block() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    desk.fetched(places[0], kept=[(places[1], b"x")])
    assert desk.engine.receipt().requests == 2


def test_a_row_is_never_settled_twice() -> None:
    desk = Desk()
    [place] = desk.fetching()
    desk.fetched(place)
    assert desk.fetched(place, kept=[(place, b"x")], failed=[(place, error(400)), (place, error(13))]).actions == []
    assert (desk.engine.stats().answered, desk.engine.stats().failed, desk.engine.book.retries) == (1, 0, {})


def test_nobody_settles_a_row_of_a_segment_that_is_forgotten() -> None:
    desk = Desk()
    [place] = desk.fetching()
    with pytest.raises(AssertionError, match="forgotten"):
        desk.fetched(place + (1 << ROW_BITS))


# -- callers that are gone


def test_rows_that_nobody_awaits_any_more_are_not_sent_again() -> None:
    desk = Desk()
    places = desk.running("a", "b")
    desk.wake()
    desk.leave(places[0])
    step = desk.polled("EXPIRED", output=False)
    assert only(step.actions, Create).job.spans == ((1, 1, 2),)
    assert desk.adopt("a")[0] is Claim.NEW


def test_an_answer_that_its_caller_did_not_live_to_take_is_kept_for_the_next() -> None:
    desk = Desk()
    [place] = desk.fetching("a")
    key = desk.engine.book.key_at(place)
    desk.fetched(place)
    desk.ended()
    step = desk.tell(Undelivered([(place, key, digest_of("a"), b"answer")], LANE, "batches/1"))
    assert only(step.writes, PutResults).bodies == [b"answer"]
    assert desk.adopt("a")[0] is Claim.KEPT


# -- bad rows


def serve(desk: Desk, bad: set[Place], *, names: bool, inline: bool, as_job: bool = False) -> set[Place]:
    """Refuse every batch with a bad row in it, take the others; return whose requests were rejected."""
    rejected: set[Place] = set()
    for _ in range(500):
        if not desk.jobs:
            desk.wait(1.0)
        if not desk.jobs:
            return rejected
        job = desk.jobs[0]
        rows = [
            place for no, start, stop in job.spans for place in range(no << ROW_BITS | start, no << ROW_BITS | stop)
        ]
        wrong = [number for number, place in enumerate(rows) if place in bad]
        if job.state is JobState.UPLOADING:
            desk.uploaded(job)
        elif job.state is JobState.RUNNING and job.wake_at is not None:
            desk.wake()
        elif job.state is JobState.RUNNING and wrong:
            step = desk.polled("FAILED", job, output=False, failure=refusal(wrong, names=names, inline=inline, code=3))
            rejected |= failures(step.actions).keys()
        elif job.state is JobState.RUNNING:
            desk.polled("SUCCEEDED", job)
            desk.fetched(*rows, job=job)
            desk.ended(job=job)
        elif wrong and not as_job:
            step = desk.failed("refused", refusal(wrong, names=names, inline=inline, code=400), job)
            rejected |= failures(step.actions).keys()
        else:
            desk.created(f"batches/{job.op}", job)
    raise AssertionError("it goes on for ever")


def refusal(rows: list[int], *, names: bool, inline: bool, code: int) -> ServerError:
    words = "Request contains an invalid argument."
    if names:
        words = f"... at 'requests[{rows[0]}]'" if inline else "\n".join(f"Error on line {row + 1}: x" for row in rows)
    return ServerError(code, words, "INVALID_ARGUMENT")


@given(
    st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_bad_rows_fail_alone_and_all_others_are_answered(
    batch: tuple[int, set[int]], names: bool, inline: bool, as_job: bool
) -> None:
    count, wrong = batch
    desk = Desk(inline_bytes_max=20_000_000 if inline else 0, batch_requests_max=50)
    places = [desk.admit(str(number), key=str(number)) for number in range(count)]
    bad = {places[number] for number in wrong}
    assert serve(desk, bad, names=names, inline=inline, as_job=as_job) == bad
    stats = desk.engine.stats()
    assert (stats.answered, stats.failed, stats.retried) == (count - len(bad), len(bad), 0)
    assert (desk.engine.idle, desk.disk.segments, desk.disk.jobs) == (True, {}, {})


def test_rows_named_by_the_server_are_rejected_and_the_rest_goes_at_once_as_one() -> None:
    desk = Desk(inline_bytes_max=0)
    places = [desk.admit(prompt) for prompt in "abcd"]
    desk.wait()
    desk.uploaded()
    step = desk.refused(400, "Error on line 4: x\nError on line 2: y", "INVALID_ARGUMENT")
    assert failures(step.actions) == {places[1]: "rejected", places[3]: "rejected"}
    assert only(step.actions, Upload).job.spans == ((1, 0, 1), (1, 2, 3))
    assert only(step.writes, PutMarks).marks.attempts == bytes(4)


def test_an_unnamed_bad_row_is_looked_for_by_halves_in_the_same_form() -> None:
    desk = Desk(inline_bytes_max=0)
    for prompt in "abcde":
        desk.admit(prompt)
    desk.wait()
    desk.uploaded()
    step = desk.refused(400, "Request contains an invalid argument.", "INVALID_ARGUMENT")
    assert [upload.job.count for upload in every(step.actions, Upload)] == [2, 3]


def test_a_missing_file_named_by_a_row_is_that_rows_fault_where_there_is_no_input_file() -> None:
    desk = Desk()
    for prompt in "ab":
        desk.admit(prompt)
    desk.wait()
    step = desk.refused(403, "You do not have permission to access the File x or it may not exist.")
    assert [create.job.count for create in every(step.actions, Create)] == [1, 1]


def test_a_bad_row_that_is_named_and_answered_already_is_not_judged_again() -> None:
    desk = Desk()
    places = desk.fetching("a", "b", "c")
    desk.fetched(places[0])
    desk.failed("unknown")
    desk.wake()
    step = desk.polled("FAILED", output=False, failure=ServerError(3, "requests[0]", "INVALID_ARGUMENT"))
    assert every(step.actions, Fail) == []
    assert [create.job.count for create in every(step.actions, Create)] == [1, 1]


def test_a_job_of_one_answered_row_that_fails_afterwards_is_just_closed() -> None:
    desk = Desk()
    places = desk.fetching("a")
    desk.fetched(places[0])
    desk.failed("unknown")
    desk.wake()
    step = desk.polled("FAILED", output=False, failure=ServerError(3, "bad", "INVALID_ARGUMENT"))
    assert (every(step.actions, Fail), desk.jobs) == ([], [])


def test_rows_of_callers_that_are_gone_are_left_out_of_the_halves() -> None:
    desk = Desk()
    places = [desk.admit(prompt) for prompt in "ab"]
    desk.wait()
    desk.leave(*places)
    desk.refused(400, "invalid", "INVALID_ARGUMENT")
    assert (desk.jobs, desk.engine.idle) == ([], True)


def test_a_half_whose_callers_left_while_it_waited_makes_no_job() -> None:
    desk = Desk(jobs_max=1)
    places = [desk.admit(prompt) for prompt in "abc"]
    desk.wait()
    desk.refused(400, "invalid", "INVALID_ARGUMENT")
    [first] = desk.jobs
    last = desk.admit("d")
    desk.created()
    desk.leave(places[1], places[2])
    desk.wake()
    desk.polled("SUCCEEDED", first)
    desk.fetched(places[0])
    desk.ended()
    assert desk.engine.book.place_in(desk.job, 0) == last


def test_what_is_too_large_and_awaited_by_nobody_leaves_no_trace() -> None:
    desk = Desk()
    place = desk.admit("a")
    desk.wait()
    desk.leave(place)
    assert questions(desk.refused(413)) == []
    assert (desk.engine.idle, desk.disk.segments) == (True, {})
    desk.admit("b")
    assert questions(desk.wait()) == [Create]


def test_what_is_too_large_inline_goes_as_a_file() -> None:
    desk = Desk()
    for prompt in "abc":
        desk.admit(prompt)
    desk.wait()
    step = desk.refused(413)
    assert only(step.actions, Upload).job.count == 3
    desk.uploaded()
    desk.refused(413)
    assert [job.count for job in desk.jobs] == [1, 2]


@pytest.mark.parametrize(("code", "status"), [(400, "FAILED_PRECONDITION"), (404, "NOT_FOUND")])
def test_what_the_server_will_never_take_is_rejected_as_a_whole(code: int, status: str) -> None:
    desk = Desk()
    places = [desk.admit(prompt) for prompt in "ab"]
    desk.wait()
    assert failures(desk.refused(code, "no", status).actions) == dict.fromkeys(places, "rejected")
