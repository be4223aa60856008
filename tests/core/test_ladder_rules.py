"""The rules of the ladder: what is learned of durations, when a rung is entered and left, and the last reserve."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from carpool._core.breaker import TRUST_S, URGENT_CLOSED_S, URGENT_PAUSE_S, Breaker
from carpool._core.concurrency import START as IN_FLIGHT
from carpool._core.messages import Call, CancelRemote, Create, Fail, Refused, Upload
from carpool._core.model import DONE, LIVE, SENT, Fault
from carpool._core.routing import PRIOR_S, RESERVE_MORE, RESERVE_QUEUE_S, Durations, quicker_below
from carpool._core.throttle import Throttle
from carpool.settings import CHEAP, FAST, Ladder, Price

from .desk import LANE, START, Desk, every, only

HOUR = 3_600.0
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
LAST_S = Durations().reserve_s(LANE.model, CHEAP, 1)
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)
FLEX = ("flex", "standard")


def state(desk: Desk, place: int) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


# -- durations


def test_a_rung_is_entered_if_enough_of_what_is_known_fits_before_the_rungs_below() -> None:
    durations = Durations()
    for duration_s in [60.0] * 5 + [600.0] * 5:
        durations.saw("m", "flex", duration_s)
        durations.saw("m", "batch", duration_s)
    below_s = PRIOR_S["standard"]
    assert durations.enter("m", CHEAP, 1, 60.0 + below_s) == 1, "half of the calls of flex fit"
    assert durations.enter("m", CHEAP, 1, 59.0 + below_s) == 2
    below_s += durations.usual_s("m", "flex")
    assert durations.enter("m", CHEAP, 0, 60.0 + below_s) == 1, "more than half of the jobs have to fit"
    assert durations.enter("m", CHEAP, 0, 600.0 + below_s) == 0


def test_the_last_rung_gets_more_than_its_usual_time() -> None:
    durations = Durations()
    usual_s = durations.usual_s("m", "standard")
    assert durations.reserve_s("m", CHEAP, 1) == usual_s * (1 + RESERVE_MORE) + RESERVE_QUEUE_S
    assert durations.reserve_s("m", CHEAP, 2) == 0.0


def test_no_rung_is_entered_that_would_have_to_be_left_at_once() -> None:
    durations = Durations()
    for _ in range(10):
        durations.saw("m", "batch", 1.0)
    at_once_s = durations.reserve_s("m", ("batch", "standard"), 0)
    assert durations.enter("m", ("batch", "standard"), 0, at_once_s) == 1
    assert durations.enter("m", ("batch", "standard"), 0, at_once_s + 1.0) == 0


@pytest.mark.parametrize(
    ("ladder", "rung", "below"),
    [
        (CHEAP, 0, ("flex", "standard")),
        (CHEAP, 1, ("standard",)),
        (FAST, 0, ()),
        (("flex", "batch", "standard"), 0, ("standard",)),
        (("batch", "standard", "flex"), 0, ("standard",)),
    ],
)
def test_a_rung_is_left_in_haste_for_quicker_ones_alone(ladder: Ladder, rung: int, below: Ladder) -> None:
    durations = Durations()
    assert quicker_below(ladder, rung) == below
    assert durations.leave_at("m", ladder, rung, 1e6) == 1e6 - (
        sum(PRIOR_S[route] for route in below) + PRIOR_S[below[-1]] * RESERVE_MORE + RESERVE_QUEUE_S if below else 0.0
    )


def test_a_rung_with_no_quicker_one_below_is_entered_however_little_time_is_left() -> None:
    assert Durations().enter("m", FAST, 0, 1.0) == 0
    assert Durations().enter("m", ("flex", "batch", "standard"), 0, 1.0) == 2


@pytest.mark.parametrize("left_s", [50.0, HOUR])
def test_a_refused_call_stays_on_its_route_if_the_next_would_be_too_late(left_s: float) -> None:
    desk = Desk()
    place = desk.admit(ladder=FAST, deadline=START + left_s)
    desk.shed(only(desk.wait().actions, Call))
    assert state(desk, place) == LIVE
    again = only(desk.wake().actions, Call)
    assert again.places == [place]
    late = desk.admit("late", ladder=FAST, deadline=START + 9 * HOUR)
    desk.shed(only(desk.wait().actions, Call))
    assert (state(desk, place), state(desk, late)) == (LIVE, SENT), "a batch may be in time"


def test_only_what_has_become_slower_is_told_and_only_once() -> None:
    durations = Durations()
    assert not durations.has_risen(START, 0)
    assert durations.usual_s("m", "flex") == PRIOR_S["flex"]
    durations.saw("m", "flex", 10.0)
    assert not durations.has_risen(START, 0)
    durations.saw("m", "flex", 2 * PRIOR_S["flex"])
    durations.saw("m", "flex", 3 * PRIOR_S["flex"])
    assert not durations.has_risen(START, 10**15), "not so often where there is much to look at"
    assert durations.has_risen(START, 0)
    assert not durations.has_risen(START, 0)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float]]:
    """What durations were told."""
    told: list[tuple[str, str, float]] = []
    monkeypatch.setattr(Durations, "saw", lambda _self, *what: told.append(what))
    return told


def test_jobs_teach_how_long_the_batch_route_takes(taught: list[tuple[str, str, float]]) -> None:
    desk = Desk()
    place, *_ = desk.running(key="k")
    desk.wake()
    desk.now = START + 100.0
    desk.polled()
    desk.failed("unknown")  # the fetch breaks: the same end is not learned twice
    desk.wake()
    desk.polled()
    desk.fetched(kept=[(place, b"{}")])
    desk.ended()
    assert taught == [(LANE.model, "batch", 100.0)]


@pytest.mark.parametrize(("after_s", "learned"), [(100.0, 0), (PRIOR_S["batch"] + 1.0, 1)])
def test_a_job_that_fails_teaches_only_how_long_not(
    taught: list[tuple[str, str, float]], after_s: float, learned: int
) -> None:
    desk = Desk()
    desk.running(key="k")
    desk.wake()
    desk.now = START + after_s
    desk.polled("FAILED", output=False)
    assert len(taught) == learned


def test_waiting_for_flex_to_take_a_call_is_no_duration_of_flex(taught: list[tuple[str, str, float]]) -> None:
    desk = Desk()
    desk.admit(ladder=("flex",))
    desk.shed(only(desk.wait().actions, Call))
    call = only(desk.wake().actions, Call)
    desk.now += 30.0
    desk.answered(call)
    assert taught == [(LANE.model, "flex", 30.0)]


def test_a_request_leaves_earlier_if_a_rung_below_has_become_slower_meanwhile() -> None:
    desk = Desk(jobs_max=1)
    desk.running("first", key="first")
    desk.admit("second", ladder=("batch", "standard"), deadline=START + 8 * HOUR)
    desk.wait()
    for _ in range(3):
        desk.engine.book.durations.saw(LANE.model, "standard", 1_000.0)
    desk.wait(60.0)
    reserve_s = 1_000.0 * (1 + RESERVE_MORE) + RESERVE_QUEUE_S
    assert every(desk.wait(START + 8 * HOUR - reserve_s - 1.0 - desk.now).actions, Call) == []
    assert only(desk.wait(1.0).actions, Call).route == "standard"


# -- moving on


def test_a_request_whose_jobs_failed_as_often_as_they_may_goes_to_its_next_rung() -> None:
    desk = Desk(attempts_max=1)
    place = desk.admit(ladder=CHEAP, deadline=START + 12 * HOUR)
    desk.wait()
    desk.created()
    desk.wake()
    step = desk.polled("FAILED", output=False)
    assert every(step.actions, Fail) == every(step.actions, Create) == []
    assert only(step.actions, Call).route == "flex"
    assert state(desk, place) == LIVE


@pytest.mark.parametrize("limit_usd", ["1.00", "0"])
def test_requests_leave_a_job_that_waits_for_room_without_being_sent_twice(limit_usd: str) -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal(limit_usd))
    hurried = desk.admit("hurried", ladder=CHEAP, deadline=START + 7 * HOUR)
    at_ease = desk.admit("at ease")
    desk.wait()
    desk.refused(429, status="RESOURCE_EXHAUSTED")
    desk.now = START + 7 * HOUR - BELOW_S
    step = desk.wait()
    call = only(step.actions, Call)
    assert (call.places, state(desk, hurried)) == ([hurried], LIVE)
    assert only(step.actions, Create).job.spans == ((1, 1, 2),)
    desk.answered(call)
    desk.created()
    assert (state(desk, hurried), state(desk, at_ease)) == (DONE, SENT)
    assert sum(day.doubles for day in desk.disk.accounts()) == 0


def test_a_running_job_that_everybody_has_left_is_cancelled_at_each_look_until_it_ends() -> None:
    desk = Desk(prices=PRICES)
    desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    step = desk.wait(7 * HOUR - BELOW_S)
    assert only(step.actions, CancelRemote).name == "batches/1"
    call = only(step.actions, Call)
    assert only(desk.polled("RUNNING", output=False).actions, CancelRemote).name == "batches/1"
    desk.answered(call)
    again = desk.restart()
    again.wake()
    assert only(again.polled("RUNNING", output=False).actions, CancelRemote).name == "batches/1"


def test_a_job_is_not_cancelled_for_requests_that_may_not_be_sent_twice() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal(0))
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    step = desk.wait(7 * HOUR - BELOW_S)
    assert (every(step.actions, CancelRemote), every(step.actions, Call), state(desk, place)) == ([], [], SENT)


def test_a_job_is_not_made_for_requests_that_all_went_ahead_while_it_was_uploaded() -> None:
    desk = Desk(prices=PRICES, inline_bytes_max=1)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    assert every(desk.wait().actions, Upload)
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.answered(call)
    step = desk.uploaded()
    assert (every(step.actions, Create), desk.jobs, state(desk, place)) == ([], [], DONE)


def test_a_flex_call_in_the_air_is_not_left_where_paying_twice_is_forbidden() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=0)
    place = desk.admit(ladder=FLEX, deadline=START + HOUR)
    call = only(desk.wait().actions, Call)
    assert every(desk.wait(HOUR - LAST_S).actions, Call) == []
    assert place in desk.engine.book.held_back
    step = desk.shed(call)  # now it is in no call any more
    assert only(step.actions, Call).route == "standard"


def test_a_request_that_left_a_call_waits_for_it_once_there_is_no_money_to_pay_twice() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal("0.015"))
    places = [desk.admit(f"p{number}", ladder=FLEX, deadline=START + HOUR) for number in range(2)]
    first, second = every(desk.wait().actions, Call)
    step = desk.wait(HOUR - LAST_S)
    [call] = every(step.actions, Call)  # there is money for one double, and each was told that it may be the one
    assert set(desk.engine.book.held_back) == set(places) - set(call.places)
    desk.answered(first)
    desk.answered(second)
    assert [state(desk, place) for place in places] == [DONE, DONE]


def test_an_abandoned_request_whose_call_ahead_of_its_job_fails_stays_in_its_job() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.leave(place)
    desk.shed(call)
    assert (state(desk, place), desk.engine.book.live.trips) == (SENT, {})
    desk.wait(60.0)
    assert desk.engine.book.live.flights == {}


# -- the last reserve


def test_who_has_little_time_left_does_not_wait_long_between_two_tries() -> None:
    desk = Desk(retry_min_s=1.0, retry_max_s=120.0)
    desk.admit(ladder=("standard",), deadline=START + 20.0)
    step = desk.wait()
    called = [desk.now]
    while desk.now < START + 18.0:
        for call in every(step.actions, Call):
            desk.shed(call, 503)
        step = desk.wake()
        called += [desk.now] * len(every(step.actions, Call))
    gaps = [after - before for before, after in pairwise(called)]
    assert max(gaps) <= 20.0 * 0.25 + URGENT_PAUSE_S
    assert len(called) >= 6


def test_an_open_breaker_lets_urgent_calls_through_at_a_distance() -> None:
    breaker = Breaker("b")
    breaker.sent(0.0)
    assert breaker.next_urgent(0.1) == URGENT_CLOSED_S
    breaker.open(1.0, retry_after_s=300.0)
    breaker.refused(1.0, 0.0)
    assert breaker.next_urgent(1.0) == URGENT_PAUSE_S
    assert breaker.next_urgent(10.0) == 10.0
    breaker.sent(10.0)
    assert breaker.next_urgent(10.5) == 10.0 + TRUST_S
    assert breaker.next_urgent(5.0) == 5.0, "the clock was set back"


def test_an_urgent_call_does_not_wait_for_others_to_be_taken() -> None:
    throttle = Throttle("t")
    for _ in range(int(IN_FLIGHT)):
        throttle.started(1, 0.0)
    assert not throttle.may_start(1.0, 1)
    assert throttle.may_start(1.0, 1, urgent_at=1.0)
    assert not throttle.may_start(1.0, 1, urgent_at=2.0)
    assert throttle.next_start(1.0) == 2.0


def test_a_call_that_got_no_answer_may_still_be_paid_for_beside_the_next() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=FLEX, deadline=START + HOUR)
    call = only(desk.wait().actions, Call)
    step = desk.wait(HOUR - LAST_S)
    assert only(step.actions, Call).route == "standard"
    trip = desk.engine.book.live.trips[place]
    desk.tell(Refused(call.op, Fault(kind="unknown")))
    assert trip.besides


def test_a_call_that_was_refused_leaves_the_next_one_alone() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=FLEX, deadline=START + HOUR)
    call = only(desk.wait().actions, Call)
    desk.wait(HOUR - LAST_S)
    trip = desk.engine.book.live.trips[place]
    desk.shed(call)
    assert not trip.besides
