"""Edges: the last moment at which something still holds, the first try after an answer, the counts of what waits."""

from __future__ import annotations

from decimal import Decimal

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import (
    Create,
    Created,
    DeleteRemote,
    Fail,
    Fetch,
    Find,
    Poll,
    PutJob,
    PutSegment,
    Revoke,
    Upload,
)
from carpool._core.model import JobState, place_of
from carpool.settings import Price
from carpool.types import ServerError

from .desk import LANE, START, Desk, digest_of, error, every, only, questions, remote
from .states import STATES, creating, fetching, looking, running, uploading

HOUR = 3_600.0


# -- the last moment


def test_a_result_is_given_to_its_last_moment() -> None:
    desk = Desk(keep_results_s=HOUR)
    [place] = desk.fetching("a", key="k")
    desk.fetched(kept=[(place, b"x")])
    desk.now += HOUR
    assert desk.engine.knows("k", digest_of("a"), desk.now)
    assert desk.claim("k", "a")[0] is Claim.KEPT


def test_an_abandoned_request_is_adopted_to_its_last_moment() -> None:
    desk = Desk(reuse_window_s=HOUR)
    [place] = desk.abandoned("a")
    desk.now = START + HOUR
    assert desk.engine.knows(None, digest_of("a"), desk.now)
    assert desk.adopt("a") == (Claim.LIVE, place)


def test_output_that_is_gone_is_given_up_when_the_grace_is_over_and_not_before() -> None:
    desk = Desk(output_grace_s=60.0, attempts_max=1)
    desk.fetching("a")
    ended_at = desk.job.ended_at
    desk.now = ended_at + 59.0
    assert every(desk.refused(404).actions, Fail) == []
    desk.wake()
    desk.polled()
    desk.now = ended_at + 60.0
    assert only(desk.refused(404).actions, Fail).failure.kind == "missing"


@pytest.mark.parametrize("state", ["SUCCEEDED", "PARTIALLY_SUCCEEDED"])
def test_output_that_is_late_is_given_up_when_the_grace_is_over_and_not_before(state: str) -> None:
    desk = Desk(output_grace_s=60.0, attempts_max=1)
    desk.running("a")
    desk.wake()
    ended_at = desk.now
    assert desk.polled(state, output=False).actions == []
    desk.wait(59.0)
    assert desk.polled(state, output=False).actions == []
    desk.job.wake_at = ended_at + 60.0
    desk.now = ended_at + 60.0
    desk.wait()
    assert only(desk.polled(state, output=False).actions, Fail).failure.kind == "missing"


@pytest.mark.parametrize(("code", "status"), [(3, ""), (0, "INVALID_ARGUMENT"), (3, "INVALID_ARGUMENT")])
def test_a_job_that_failed_by_a_bad_row_is_known_by_its_code_or_its_status(code: int, status: str) -> None:
    desk = Desk()
    desk.running("a", "b")
    desk.wake()
    step = desk.polled("FAILED", output=False, failure=error(code, "Error on line 2: x", status))
    assert only(step.actions, Fail).failure.kind == "rejected"
    assert only(step.actions, Create).job.spans == ((1, 0, 1),)


@pytest.mark.parametrize(("code", "status"), [(13, ""), (13, "INTERNAL"), (0, "")])
def test_a_job_that_failed_otherwise_is_sent_again_whole(code: int, status: str) -> None:
    desk = Desk()
    desk.running("a", "b")
    desk.wake()
    step = desk.polled("FAILED", output=False, failure=error(code, "Error on line 2: x", status))
    assert every(step.actions, Fail) == []
    assert only(step.actions, Create).job.spans == ((1, 0, 2),)


# -- the first try after an answer


def pause_after_a_failure(desk: Desk) -> float:
    desk.failed("unknown", error(503))
    assert desk.job.wake_at is not None
    return desk.job.wake_at - desk.now


def test_pauses_begin_anew_after_each_answer_of_the_list() -> None:
    desk = looking()
    for _ in range(4):
        pause_after_a_failure(desk)
        desk.wake()
    desk.found()
    assert questions(desk.wake()) != []
    assert pause_after_a_failure(desk) <= desk.settings.retry_min_s


def test_pauses_begin_anew_when_the_job_was_taken() -> None:
    desk = Desk(first_contact_s=1_000.0)
    desk.admit("a")
    desk.wait()
    for _ in range(4):
        desk.failed("not_sent")
        assert questions(desk.wake()) == [Create]
    desk.created()
    desk.wake()
    assert pause_after_a_failure(desk) <= desk.settings.retry_min_s


def test_pauses_begin_anew_after_the_input_was_deleted() -> None:
    desk = uploading()
    desk.uploaded()
    desk.failed("unknown")
    desk.found()
    desk.wake()
    assert questions(desk.found()) == [Revoke]
    for _ in range(4):
        pause_after_a_failure(desk)
        desk.wake()
    desk.revoked()
    desk.wake()
    assert pause_after_a_failure(desk) <= desk.settings.retry_min_s


@pytest.mark.parametrize(("state", "output"), [("RUNNING", False), ("SUCCEEDED", False)])
def test_pauses_begin_anew_after_each_answer_about_a_job(state: str, output: bool) -> None:
    desk = running()
    for _ in range(4):
        pause_after_a_failure(desk)
        desk.wake()
    desk.polled(state, output=output)
    desk.wake()
    assert pause_after_a_failure(desk) <= desk.settings.retry_min_s


def test_a_new_process_begins_its_pauses_anew() -> None:
    desk = running()
    desk.job.failures, desk.job.stalled = 9, True
    desk.disk.apply([PutJob(desk.job)])
    again = desk.restart()
    assert again.job.failures == 0
    assert not again.job.stalled


def test_a_file_that_was_deleted_to_revoke_a_create_is_not_deleted_again() -> None:
    desk = uploading()
    desk.uploaded()
    desk.failed("unknown")
    desk.found()
    desk.wake()
    desk.found()
    desk.revoked()
    desk.wake()
    desk.found(remote("batches/9", "SUCCEEDED"))
    desk.polled()
    [place] = desk.engine.fetch_index(desk.job.id).values()
    desk.fetched(kept=[(place, b"x")])
    assert every(desk.ended().actions, DeleteRemote) == []


# -- a server that has answered before is waited for


def is_waited_for(desk: Desk) -> bool:
    """Return whether callers go on waiting though the server cannot be reached just now."""
    return every(desk.failed("not_sent").actions, Fail) == []


NOT_YET = {"first_contact_s": 0.0, "unreachable_s": 500.0}


def test_a_server_that_took_a_file_is_waited_for() -> None:
    desk = Desk(inline_bytes_max=0, **NOT_YET)
    desk.admit("a")
    desk.wait()
    desk.uploaded()
    assert is_waited_for(desk)


def test_a_server_that_took_a_job_or_spoke_of_one_is_waited_for() -> None:
    for polled in (False, True):
        desk = Desk(**NOT_YET)
        desk.running("a")
        if polled:
            desk.engine.book.reached = False
            desk.wake()
            desk.polled("RUNNING", output=False)
        desk.admit("b")
        desk.wait(1.0)
        step = desk.failed("not_sent", job=desk.jobs[1])
        assert every(step.actions, Fail) == []


def test_a_server_that_listed_jobs_is_waited_for() -> None:
    desk = Desk(**NOT_YET)
    desk.admit("a")
    desk.wait()
    desk.failed("unknown")
    desk.engine.book.reached = False
    desk.found()
    desk.wake()
    assert questions(desk.found()) == [Create]
    assert is_waited_for(desk)


# -- what actions and records hold


@pytest.mark.parametrize("state", [state for state in STATES if state is not JobState.READY])
def test_a_question_carries_its_own_number_and_a_copy_of_the_job_as_it_stands(state: JobState) -> None:
    desk = STATES[state]()
    if state is JobState.FETCHING:
        desk = running()
        step = desk.polled()
    else:
        step = desk.failed("unknown")
        while not questions(step):
            step = desk.wake()
    [asked] = [action for action in step.actions if isinstance(action, Upload | Create | Find | Revoke | Poll | Fetch)]
    assert (asked.op, asked.job.id, asked.job.state) == (desk.job.op, desk.job.id, desk.job.state)
    assert asked.job is not desk.job


def test_each_create_carries_its_own_number() -> None:
    desk = creating()
    numbers = [desk.job.op]
    for _ in range(3):
        desk.refused(429)
        create = only(desk.wake().actions, Create)
        assert create.op == desk.job.op
        numbers.append(create.op)
    assert len(set(numbers)) == 4


def test_a_late_answer_to_an_earlier_question_is_not_taken_for_one_to_the_present_question() -> None:
    desk = creating()
    first = desk.job.op
    desk.refused(429)
    assert questions(desk.wake()) == [Create]
    step = desk.tell(Created(desk.job.id, first, "batches/of-the-first"))
    assert (step.writes, step.actions, desk.job.state, desk.job.name) == ([], [], JobState.CREATING, "")


def test_the_servers_last_word_on_a_job_is_not_on_record() -> None:
    desk = fetching()
    desk.failed("unknown")
    desk.wake()
    assert desk.job.remote is not None
    assert only(desk.refused(404).writes, PutJob).job.remote is None


def test_a_job_that_travels_inline_has_no_file_and_the_label_is_in_its_name() -> None:
    desk = Desk(label="team-a")
    desk.admit("a")
    desk.wait()
    assert (desk.job.file_name, desk.job.display_name.split(".")[3:]) == ("", ["1", "team-a"])


def test_the_names_of_each_attempt_hold_the_id_of_the_job() -> None:
    desk = uploading()
    job_id = desk.job.id
    for attempt in (1, 2):
        assert desk.job.file_name == f"files/cp-{job_id}-{attempt}"
        assert desk.job.display_name.split(".")[2:] == [job_id, str(attempt)]
        desk.uploaded()
        desk.failed("unknown")
        desk.found()
        desk.wake()
        assert questions(desk.found()) == [Revoke]
        desk.revoked()
        desk.wake()
        assert questions(desk.found()) == [Upload]


@pytest.mark.parametrize("with_deadline", [0, 1, 2])
def test_the_column_of_deadlines_is_empty_or_as_long_as_the_others(with_deadline: int) -> None:
    desk = Desk(linger_s=100.0)
    for row in range(4):
        desk.admit(str(row), deadline=START + 100 + row if row in (1, 2)[:with_deadline] else None)
    head = only(desk.wait().writes, PutSegment).head
    assert len(head.deadlines) == (8 * 4 if with_deadline else 0)
    assert len(head.ends) == len(head.tokens) == 8 * 4


def test_automatic_keys_are_numbered() -> None:
    desk = Desk()
    assert [desk.engine.new_key(bytes(16)).rpartition(".")[2] for _ in range(17)][::8] == ["1", "9", "17"]


def test_a_job_that_ended_otherwise_than_well_gives_its_missing_rows_its_own_error_or_a_common_one() -> None:
    told = []
    for failure in (ServerError(13, "broken"), None):
        desk = Desk(attempts_max=1)
        desk.running("a")
        desk.wake()
        desk.polled("EXPIRED", failure=failure)
        told.append(only(desk.ended().actions, Fail).failure.error)
    assert told == [ServerError(13, "broken"), ServerError(message="the job succeeded without a row for this key")]


def test_a_job_that_succeeded_gives_its_missing_rows_the_common_error_whatever_it_says_besides() -> None:
    desk = Desk(attempts_max=1)
    desk.running("a")
    desk.wake()
    desk.polled("SUCCEEDED", failure=ServerError(13, "odd"))
    assert only(desk.ended().actions, Fail).failure.error.message == "the job succeeded without a row for this key"


def test_a_row_that_failed_too_often_is_told_of_the_job_that_failed_it() -> None:
    desk = Desk(attempts_max=1)
    [place] = desk.fetching("a")
    desk.fetched(failed=[(place, error(13, "broken"))])
    failure = only(desk.ended().actions, Fail).failure
    assert (failure.kind, failure.error, failure.job) == ("failed", error(13, "broken"), "batches/1")


# -- counts


def test_what_waits_is_counted_in_and_out_to_the_byte() -> None:
    desk = Desk(linger_s=100.0, attempts_max=5)
    first = desk.admit("a", size_bytes=60)
    desk.admit("b", size_bytes=70)
    desk.wait(100.0)
    desk.admit("c", size_bytes=80)
    stats = desk.engine.stats()
    assert (stats.waiting, stats.waiting_bytes, stats.sent) == (1, 80, 2)
    desk.created()
    desk.wake()
    desk.polled()
    desk.fetched(first)
    desk.ended()
    stats = desk.engine.stats()
    assert (stats.waiting, stats.waiting_bytes, stats.sent, stats.retried) == (2, 150, 0, 1)


def test_answers_jobs_and_money_are_counted() -> None:
    prices = {LANE.model: Price(input_usd=Decimal(2), output_usd=Decimal(4))}
    desk = Desk(prices=prices)
    for number in range(1, 3):
        bare, kept = desk.admit("a"), desk.admit("b", key=str(number))
        desk.wait()
        desk.created(f"batches/{number}")
        desk.wake()
        desk.polled()
        desk.fetched(bare, kept=[(kept, b"x")])
        desk.ended()
        stats = desk.engine.stats()
        assert (stats.answered, stats.jobs_created) == (2 * number, number)
    receipt = desk.engine.receipt()
    route = receipt.by_route["batch"]
    assert (list(receipt.by_route), route.requests, receipt.unknown_cost) == (["batch"], 4, 0)
    assert (route.list_usd, route.paid_usd) == (Decimal("0.000012"), Decimal("0.000006"))


def test_when_a_request_ends_its_key_and_its_offer_end_too() -> None:
    desk = Desk(linger_s=100.0)
    bare, named = desk.admit("a"), desk.admit("b", key="k")
    assert desk.engine.book.keys.all_live() == [("k", named)]
    desk.wait(100.0)
    desk.created()
    desk.leave(bare)
    assert desk.engine.has_abandoned
    desk.wake()
    desk.polled()
    desk.fetched(bare, kept=[(named, b"x")])
    assert not desk.engine.has_abandoned
    assert desk.engine.book.keys.all_live() == []
    assert desk.engine.find("k") == (Claim.KEPT, place_of(1, 0))
    assert desk.engine.find("other") == (Claim.NEW, 0)


def test_what_was_to_be_sent_again_is_forgotten_with_its_job() -> None:
    desk = fetching()
    [place] = desk.engine.fetch_index(desk.job.id).values()
    desk.fetched(failed=[(place, error(13))])
    desk.ended()
    assert desk.engine.book.retries == {}
