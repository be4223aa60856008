"""The ladder: on which rung a request begins, when it moves on, and what live calls' ends mean."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from carpool._core.messages import (
    Answered,
    Call,
    CancelRemote,
    Closing,
    Create,
    Deliver,
    Expire,
    Fail,
    PutHabit,
    PutResults,
    PutSeen,
    RowsFetched,
    Step,
)
from carpool._core.meter import Charge
from carpool._core.model import DONE, LIVE, QUEUED, SENT
from carpool._core.routing import KINDS_MAX, LADDERS, PRIOR_S, RECORD_PAUSE_S, Durations, Seen, code_of
from carpool.settings import CHEAP, FAST, Ladder, Price

from .desk import LANE, START, Desk, error, every, only

HOUR = 3_600.0
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
STANDARD: Ladder = ("standard",)
LAST_S = Durations().reserve_s(LANE.model, CHEAP, 1)
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)
"""What is kept for the rungs below flex, and below the batch route, before there is any history."""


def calls(step: Step) -> list[str]:
    return [call.route for call in every(step.actions, Call)]


def state(desk: Desk, place: int) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


# -- where a request begins


@pytest.mark.parametrize(
    ("left_s", "route"),
    [(7 * HOUR, "batch"), (5 * HOUR, "flex"), (600.0, "standard"), (5.0, "standard")],
)
def test_a_request_begins_on_the_first_rung_that_fits_into_its_time(left_s: float, route: str) -> None:
    desk = Desk()
    desk.admit(ladder=CHEAP, deadline=START + left_s)
    step = desk.wait()
    assert calls(step) == ([] if route == "batch" else [route])
    assert len(every(step.actions, Create)) == (route == "batch")


def test_without_a_deadline_it_begins_on_the_first_rung() -> None:
    desk = Desk()
    places = [desk.admit(ladder=ladder) for ladder in (("batch",), FAST, CHEAP, STANDARD)]
    step = desk.wait()
    assert calls(step) == ["standard", "standard"]
    assert only(step.actions, Create).job.count == 2
    assert [state(desk, place) for place in places] == [SENT, LIVE, SENT, LIVE]


def test_every_ladder_is_written_down_and_read_back_in_a_later_process() -> None:
    desk = Desk(linger_s=60.0)
    for number, ladder in enumerate(LADDERS):
        desk.admit(f"p{number}", key=f"k{number}", ladder=ladder)
    desk.wait()
    [segment] = desk.restart().engine.book.segments.values()
    assert [LADDERS[code] for code in segment.ladders] == list(LADDERS)
    assert [code_of(ladder) for ladder in LADDERS] == list(range(15))


# -- live calls


def test_a_live_answer_of_a_bare_call_is_handed_over_and_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.admit(ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    desk.answered(call)
    book = desk.engine.book
    assert (book.segments, book.live.trips, book.live.flights, desk.disk.segments) == ({}, {}, {}, {})
    assert (book.waiting_requests, book.waiting_bytes, desk.engine.idle) == (0, 0, True)
    assert desk.engine.receipt().by_route["standard"].requests == 1


def test_a_live_answer_of_an_explicit_key_is_stored_before_it_is_delivered() -> None:
    desk = Desk()
    place = desk.admit(key="k", ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    step = desk.answered(call, kept=[(place, b"body")])
    assert only(step.writes, PutResults).head.route == "standard"
    assert only(step.actions, Deliver).rows == [(place, b"body")]
    assert desk.restart().claim("k")[0].value == "kept"


def test_a_refused_fast_call_goes_to_a_batch_at_once() -> None:
    desk = Desk()
    desk.admit(ladder=FAST)
    call = only(desk.wait().actions, Call)
    step = desk.shed(call, 429, "You exceeded your current quota.", "RESOURCE_EXHAUSTED")
    assert every(step.actions, Fail) == []
    assert only(step.actions, Create).job.count == 1
    assert desk.engine.book.waiting_requests == 0


def test_a_shed_flex_call_is_tried_again_while_the_next_rung_costs_more() -> None:
    desk = Desk()
    desk.admit(ladder=("flex", "standard"), deadline=START + HOUR)
    step, tried = desk.wait(), 0
    leave_at = START + HOUR - PRIOR_S["flex"] - PRIOR_S["standard"]
    while desk.now < leave_at:
        for call in every(step.actions, Call):
            assert call.route == "flex"
            desk.shed(call)
            tried += 1
        step = desk.wait(1.0)
    assert tried > 5
    assert calls(step) == ["standard"]


def test_without_a_deadline_a_rung_is_left_after_its_tries() -> None:
    desk = Desk(attempts_max=2)
    desk.admit(ladder=("flex", "standard"))
    desk.shed(only(desk.wait().actions, Call))
    step = desk.shed(only(desk.wake().actions, Call))
    assert calls(step) == ["standard"]


def test_the_last_rung_ends_in_an_error_after_its_tries() -> None:
    desk = Desk(attempts_max=2)
    place = desk.admit(ladder=STANDARD)
    desk.shed(only(desk.wait().actions, Call))
    fail = only(desk.shed(only(desk.wake().actions, Call)).actions, Fail)
    assert (fail.places, fail.failure.kind, fail.failure.error.code) == ([place], "failed", 503)
    assert desk.engine.idle


def test_a_bad_request_is_rejected_by_the_live_route_without_another_try() -> None:
    desk = Desk()
    place = desk.admit(ladder=FAST)
    fail = only(desk.shed(only(desk.wait().actions, Call), 400, "bad", "INVALID_ARGUMENT").actions, Fail)
    assert (fail.places, fail.failure.kind) == ([place], "rejected")


def test_what_flex_rejects_the_next_rung_is_asked() -> None:
    desk = Desk()
    desk.admit(ladder=("flex", "standard"))
    step = desk.shed(only(desk.wait().actions, Call), 400, "flex is not for this model", "INVALID_ARGUMENT")
    assert calls(step) == ["standard"]


# -- falling forward


def test_a_queued_request_leaves_when_the_rungs_below_need_the_time_that_is_left() -> None:
    desk = Desk(jobs_max=1)
    desk.running("first", key="first")
    place = desk.admit("second", ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    assert state(desk, place) == QUEUED
    leave_s = 7 * HOUR - BELOW_S
    assert calls(desk.wait(START + leave_s - desk.now - 1.0)) == []
    assert calls(desk.wait(1.0)) == ["flex"]
    assert (state(desk, place), desk.engine.book.waiting_requests) == (LIVE, 1)


def test_a_request_in_a_running_job_is_sent_again_and_a_job_of_nobody_is_cancelled_first() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    step = desk.wait(7 * HOUR - BELOW_S)
    kinds = [type(action) for action in step.actions if isinstance(action, Call | CancelRemote)]
    assert kinds == [CancelRemote, Call]
    assert state(desk, place) == SENT
    desk.answered(only(step.actions, Call))
    assert state(desk, place) == DONE


def test_what_the_job_answers_first_is_taken_and_the_live_answer_is_a_double() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.polled()
    desk.fetched(place)
    desk.ended()
    assert state(desk, place) == DONE
    desk.tell(Answered(call.op, [], [], [], Charge(answers=1)))
    assert desk.engine.receipt().doubles == 1


def test_nothing_is_sent_twice_where_that_is_forbidden() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=0)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    step = desk.wait(7 * HOUR - 1.0)
    assert (calls(step), state(desk, place)) == ([], SENT)
    told = only(desk.wait(1.0).actions, Expire)
    assert told.place == place
    assert "may cost up to $0.010240, and Settings.max_double_cost_per_day_usd leaves $0.000000" in told.why
    desk.polled("CANCELLED", output=False)
    assert desk.engine.book.held_back == {}


def test_a_row_that_a_job_did_not_answer_goes_on_alone_where_it_went_ahead() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.polled("CANCELLED", output=False)
    assert (state(desk, place), desk.jobs) == (LIVE, [])
    desk.answered(call)
    assert state(desk, place) == DONE


# -- what durations teach


def test_usual_durations_are_learned_and_the_prior_fades() -> None:
    durations = Durations()
    assert durations.usual_s("m", "batch") == PRIOR_S["batch"]
    for _ in range(9):
        durations.saw("m", "batch", 600.0)
    assert durations.usual_s("m", "batch") == 600.0
    durations.saw_at_least("m", "batch", 60.0)
    [seen] = durations.changes(START)
    assert len(seen.durations_s) == 9
    again = Durations()
    again.take(seen)
    assert again.usual_s("m", "batch") == 600.0
    assert again.changes(START) == []


def test_what_is_learned_is_bounded_and_the_oldest_makes_room() -> None:
    durations = Durations()
    durations.take(Seen(model="m", route="flex", durations_s=[-1.0] * 99))
    durations.saw("m", "flex", 2.0)
    assert durations.usual_s("m", "flex") == 0.0
    for number in range(KINDS_MAX):
        durations.saw(f"m{number}", "flex", 1.0)
    assert durations.usual_s("m", "flex") == PRIOR_S["flex"]
    assert {seen.model for seen in durations.changes(START)} == {f"m{number}" for number in range(KINDS_MAX)}


# -- durations on record


def answer_one(desk: Desk, took_s: float) -> Step:
    place = desk.admit(key=f"k{desk.now}", ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    desk.now += took_s
    return desk.answered(call, kept=[(place, b"body")])


def test_durations_are_written_with_what_is_written_anyway_and_seldom() -> None:
    desk = Desk()
    assert only(answer_one(desk, 2.0).writes, PutSeen).seen.durations_s == [2.0]
    assert every(answer_one(desk, 3.0).writes, PutSeen) == []
    assert desk.wait(RECORD_PAUSE_S).writes == []
    desk.admit()
    assert only(desk.wait().writes, PutSeen).seen.durations_s == [2.0, 3.0]


def test_durations_are_written_on_leaving_however_short_a_time_ago_they_were() -> None:
    desk = Desk()
    answer_one(desk, 2.0)
    answer_one(desk, 3.0)
    assert only(desk.tell(Closing(send=True)).writes, PutSeen).seen.durations_s == [2.0, 3.0]
    assert desk.tell(Closing(send=True)).writes == []


def test_a_clock_that_was_set_back_does_not_keep_durations_from_being_written() -> None:
    desk = Desk()
    answer_one(desk, 2.0)
    desk.now -= 24 * HOUR
    assert only(answer_one(desk, 3.0).writes, PutSeen).seen.durations_s == [2.0, 3.0]


def test_a_later_process_knows_the_durations() -> None:
    desk = Desk()
    for _ in range(10):
        answer_one(desk, 1_000.0)
    durations = desk.restart().engine.book.durations
    assert durations.usual_s(LANE.model, "standard") == 1_000.0
    assert durations.changes(desk.now) == []


def test_how_long_live_answers_are_is_written_with_the_durations() -> None:
    desk = Desk()
    written: list[int] = []
    for number in range(3):
        place = desk.admit(key=f"k{number}", ladder=STANDARD)
        call = only(desk.wait().actions, Call)
        charge = Charge(answers=1, outputs=(7,) * 10)
        desk.tell(Answered(call.op, [], [(place, b"body")], [], charge))
        written.append(desk.restart().engine.book.ledger.habits.lengths(LANE.model).learned)
    assert written == [0, 0, 0], "ten are too few, and the others are not written within a minute"
    desk.now += RECORD_PAUSE_S
    desk.admit()
    desk.wait()
    assert desk.restart().engine.book.ledger.habits.lengths(LANE.model).learned == 30


def test_how_long_answers_are_is_written_on_leaving_while_their_job_is_still_tidied_up() -> None:
    desk = Desk()
    first, second = desk.fetching("a", "b", key="a")
    charge = Charge(answers=1, outputs=(7,) * 20)
    for place in (first, second):
        desk.tell(RowsFetched(desk.job.id, desk.job.op, [], [(place, b"body")], [], charge))
    assert desk.restart().engine.book.ledger.habits.lengths(LANE.model).learned == 20
    assert only(desk.tell(Closing(send=True)).writes, PutHabit).habit.outputs.buckets == [7, 40]
    assert desk.tell(Closing(send=True)).writes == []


# -- a job and a live call that answer the same request at about the same time


def doubled(**settings: Any) -> tuple[Desk, int, Call]:
    """Return a request in a job that is being read, and in a live call."""
    desk = Desk(prices=PRICES, **settings)
    place = desk.admit(key="k", ladder=CHEAP, deadline=START + 7 * HOUR)
    other = desk.admit("other", key="other")
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.polled()
    assert other != place
    return desk, place, call


def test_a_row_that_a_live_call_answered_since_its_block_was_sorted_is_settled_once() -> None:
    desk, place, call = doubled()
    desk.answered(call, kept=[(place, b"live")])
    desk.fetched(kept=[(place, b"job"), (place + 1, b"job")])
    desk.ended()
    assert (state(desk, place), desk.jobs) == (DONE, [])
    assert desk.engine.stats().answered == 2
    assert desk.engine.book.overtaken == {}


def test_a_live_answer_that_was_sorted_before_the_job_answered_is_settled_once() -> None:
    desk, place, call = doubled()
    desk.fetched(kept=[(place, b"job"), (place + 1, b"job")])
    desk.answered(call, kept=[(place, b"live")])
    desk.ended()
    assert (state(desk, place), desk.engine.stats().answered) == (DONE, 2)


def test_a_row_that_failed_in_a_job_and_was_answered_live_is_not_sent_again() -> None:
    desk, place, call = doubled()
    desk.fetched(kept=[(place + 1, b"job")], failed=[(place, error(13))])
    desk.answered(call, kept=[(place, b"live")])
    step = desk.ended()
    assert (state(desk, place), desk.jobs) == (DONE, [])
    assert every(step.actions, Create) == []
