"""The ladder over restarts: what goes on by itself, what waits to be claimed, when rows in jobs are left."""

from __future__ import annotations

from decimal import Decimal

import pytest

from carpool._core.keys import Claim
from carpool._core.messages import Answered, Call, Create, Deliver, PutResults, Refused, RowsFetched, Sweep, Swept
from carpool._core.meter import Charge
from carpool._core.model import DONE, LIVE, QUEUED, SENT, Fault, Lane
from carpool._core.routing import Durations, code_of
from carpool.settings import CHEAP, FAST, Ladder, Price
from carpool.types import ServerError

from .desk import LANE, START, Desk, digest_of, every, only
from .test_sweeping import stranger

HOUR = 3_600.0
STANDARD: Ladder = ("standard",)
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
EMBEDS = Lane("embed", LANE.model)
LAST_S = Durations().reserve_s(LANE.model, CHEAP, 1)
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)


def state(desk: Desk, place: int) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


def adopt(desk: Desk, prompt: str = "p", left_s: float | None = None, ladder: Ladder = STANDARD) -> int:
    """Ask the same again, and return where."""
    deadline = None if left_s is None else desk.now + left_s
    claim, place = desk.engine.adopt(digest_of(prompt), desk.now, deadline, code_of(ladder))
    assert claim is Claim.LIVE
    return place


# -- what waited, or was in the air


def test_an_explicit_key_goes_on_live_by_itself_after_a_crash_in_the_air() -> None:
    desk = Desk()
    desk.admit(key="k", ladder=STANDARD)
    assert len(every(desk.wait().actions, Call)) == 1
    again = desk.restart()
    call = only(again.wait().actions, Call)
    assert (call.route, again.engine.stats().waiting) == ("standard", 1)
    step = again.answered(call, kept=[(call.places[0], b"body")])
    assert only(step.writes, PutResults).head.keys == ["k"]


def test_what_a_call_in_the_air_may_have_cost_counts_as_spent_after_a_crash() -> None:
    desk = Desk(prices=PRICES)
    desk.admit(key="k", ladder=STANDARD)
    desk.wait()
    [day] = desk.restart().disk.accounts()
    assert day.lost_picousd == day.spent_picousd == day.full_picousd > 0
    assert day.routes == {}


def test_a_bare_await_on_a_live_route_is_parked_and_takes_its_ladder_up_again_when_claimed() -> None:
    desk = Desk()
    desk.admit(ladder=STANDARD)
    desk.wait()
    again = desk.restart()
    assert every(again.wait(60.0).actions, Call) == []
    place = adopt(again)
    assert state(again, place) == LIVE
    assert only(again.wait().actions, Call).places == [place]
    assert every(again.wait().actions, Create) == []


def test_a_request_that_is_woken_long_after_it_was_accepted_begins_then() -> None:
    desk = Desk()
    desk.admit(key="k", ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    desk.tell(Refused(call.op, Fault(kind="refused", error=ServerError(401))))
    desk.admit(key="l", ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.refused(401)
    desk.wait(6 * HOUR + 1_800.0)
    claim, place = desk.engine.find("l")
    assert (claim, state(desk, place), desk.engine.book.live.trips[place].route) == (Claim.LIVE, LIVE, "flex")
    assert desk.engine.book.live.trips[place].entered_at == desk.now


def test_a_request_goes_on_with_the_time_that_is_left() -> None:
    desk = Desk(linger_s=60.0)
    desk.admit(key="k", ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    assert only(desk.restart(after_s=2 * HOUR).wait().actions, Call).route == "flex"


def test_a_deadline_that_has_passed_hurries_nobody() -> None:
    desk = Desk(linger_s=60.0)
    cheap = desk.admit("a", key="a", ladder=CHEAP, deadline=START + 7 * HOUR)
    fast = desk.admit("b", key="b", ladder=FAST, deadline=START + 7 * HOUR)
    desk.wait()
    again = desk.restart(after_s=8 * HOUR)
    call = only(again.wait().actions, Call)
    assert (call.places, call.route, call.deadline) == ([fast], "standard", float("inf"))
    assert state(again, cheap) == SENT


def test_one_whose_deadline_has_passed_is_not_tried_for_ever() -> None:
    desk = Desk(attempts_max=2)
    desk.admit(key="k", ladder=STANDARD, deadline=START + 60.0)
    step = desk.wait()
    for _ in range(2):
        desk.now = max(desk.now, START + 61.0)
        [call] = every(step.actions, Call)
        step = desk.tell(Refused(call.op, Fault(kind="unknown")))
        if desk.engine.book.live.trips:
            step = desk.wake()
    assert desk.engine.stats().failed == 1


# -- rows that are in jobs


def in_a_job(key: str | None = "k", left_s: float = 7 * HOUR, ladder: Ladder = CHEAP) -> tuple[Desk, int]:
    desk = Desk(prices=PRICES)
    place = desk.admit(key=key, ladder=ladder, deadline=None if key is None else START + left_s)
    desk.wait()
    desk.created()
    return desk, place


def test_a_job_is_left_in_time_also_after_a_restart() -> None:
    desk, place = in_a_job()
    again = desk.restart(after_s=HOUR)
    assert every(again.wait(6 * HOUR - BELOW_S - 2.0).actions, Call) == []
    assert only(again.wait(2.0).actions, Call).places == [place]
    assert state(again, place) == SENT


def test_a_bare_row_in_a_job_is_not_sent_again_unasked() -> None:
    desk = Desk(prices=PRICES)
    desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    assert every(desk.restart().wait(7 * HOUR).actions, Call) == []


def test_a_row_that_everybody_left_stays_in_its_job() -> None:
    desk, place = in_a_job(key=None, ladder=("batch", "standard"))
    desk.leave(place)
    taken = adopt(desk, left_s=7 * HOUR, ladder=("batch", "standard"))
    desk.leave(taken)
    assert every(desk.wait(7 * HOUR).actions, Call) == []


@pytest.mark.parametrize("ticket", [False, True])
def test_an_explicit_key_that_everybody_left_goes_on_in_its_job_until_somebody_asks_again(ticket: bool) -> None:
    desk = Desk(prices=PRICES, live_calls_max=1)
    lanes = [desk.admit(name, key=name, ticket=ticket, ladder=CHEAP, deadline=START + 7 * HOUR) for name in "ab"]
    desk.wait()
    desk.created()
    first = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    [waiting] = set(lanes) - set(first.places)
    desk.leave(waiting)
    assert (waiting in desk.engine.book.live.trips) is ticket
    desk.answered(first, kept=[(first.places[0], b"x")])
    key = desk.engine.book.key_at(waiting)
    assert desk.claim(key, key) == (Claim.LIVE, waiting)
    again = [place for trip in desk.engine.book.live.flights.values() for place in trip.trips]
    assert (len(again), len(every(desk.wait().actions, Call))) == ((1, 0) if ticket else (0, 1))


def test_whoever_takes_up_a_row_in_a_job_brings_deadline_and_ladder_along() -> None:
    desk, place = in_a_job(key=None)
    desk.leave(place)
    assert adopt(desk, left_s=8 * HOUR, ladder=("batch", "standard")) == place
    assert every(desk.wait(8 * HOUR - LAST_S - 1.0).actions, Call) == []
    assert only(desk.wait(1.0).actions, Call).route == "standard"


def test_a_row_in_a_job_keeps_its_ladder_if_the_new_one_has_no_job_on_it() -> None:
    desk, place = in_a_job(key=None)
    desk.leave(place)
    adopt(desk, left_s=8 * HOUR, ladder=STANDARD)
    assert only(desk.wait(8 * HOUR - BELOW_S).actions, Call).route == "flex"


def test_a_row_that_is_taken_up_without_a_deadline_is_in_no_hurry_any_more() -> None:
    desk, place = in_a_job()
    other = desk.admit("q", ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wake()
    assert state(desk, other) == SENT
    desk.leave(other)
    assert adopt(desk, "q", ladder=CHEAP) == other
    desk.now = START
    assert [call.places for call in every(desk.wait(7 * HOUR - BELOW_S).actions, Call)] == [[place]]


def test_a_call_in_the_air_that_is_taken_up_keeps_its_rung_and_leaves_it_by_the_new_deadline() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=("flex", "standard"))
    call = only(desk.wait().actions, Call)
    desk.leave(place)
    assert adopt(desk, left_s=HOUR, ladder=STANDARD) == place
    assert only(desk.wait(HOUR - LAST_S).actions, Call).route == "standard"
    desk.answered(call)
    assert state(desk, place) == DONE


def test_a_row_answered_by_its_job_and_a_live_call_in_one_turn_is_answered_once() -> None:
    desk, place = in_a_job()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.polled()
    desk.fetched(kept=[(place, b"job")])
    step = desk.tell(Answered(call.op, [], [(place, b"live")], [], Charge(answers=1)))
    assert (every(step.writes, PutResults), every(step.actions, Deliver)) == ([], [])
    assert desk.engine.stats().answered == 1


def test_a_job_that_vanished_is_not_made_again_for_a_row_that_went_ahead() -> None:
    desk, place = in_a_job()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    desk.refused(404)
    while desk.jobs:
        desk.wake()
        desk.found()
    assert (desk.jobs, state(desk, place), desk.engine.stats().waiting) == ([], LIVE, 1)
    desk.answered(call, kept=[(place, b"x")])
    assert (state(desk, place), desk.engine.stats().waiting) == (DONE, 0)


def test_a_live_call_is_not_left_for_a_route_that_is_slower_by_its_nature() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=("flex", "batch"), deadline=desk.now + 24 * HOUR)
    call = only(desk.wait().actions, Call)
    desk.wait(23 * HOUR)
    assert (state(desk, place), desk.engine.book.leaving) == (LIVE, [])
    desk.answered(call)
    assert state(desk, place) == DONE


# -- what is held back for a job that this store may not know


def unsure(*ladders: Ladder) -> tuple[Desk, list[int]]:
    """Return a process that cannot tell yet whether what it found in its store is in a job, and where that is."""
    desk = Desk()
    desk.running("first", key="first")
    places = [desk.admit(f"p{n}", key=f"k{n}", ladder=ladder) for n, ladder in enumerate(ladders)]
    desk.disk.apply([desk.engine.book.close_segment(desk.engine.book.open[LANE])])  # and there it ends
    again = desk.restart()
    again.listed = None
    return again, places


def test_live_requests_wait_too_until_it_is_sure_that_they_are_in_no_unknown_job() -> None:
    desk, [fast, cheap] = unsure(FAST, CHEAP)
    asked = only(desk.wait().actions, Sweep)
    assert (state(desk, fast), state(desk, cheap), desk.engine.stats().waiting) == (QUEUED, QUEUED, 2)
    step = desk.tell(Swept(asked.op, []))
    assert only(step.actions, Call).places == [fast]
    assert (state(desk, fast), desk.engine.stats().waiting) == (LIVE, 2 - (state(desk, cheap) == SENT))


def test_live_requests_are_answered_by_an_unknown_job_that_holds_them() -> None:
    desk, [fast] = unsure(FAST)
    asked = only(desk.wait().actions, Sweep)
    desk.tell(Swept(asked.op, [stranger()]))
    late = desk.admit("late", key="late", ladder=STANDARD)
    assert only(desk.wait(1.0).actions, Call).places == [late]
    job = next(job for job in desk.jobs if job.stranger)
    desk.polled("SUCCEEDED", job)
    assert desk.engine.fetch_index(job.id) == {"k0": fast, "late": late}
    desk.tell(RowsFetched(job.id, job.op, [], [(fast, b"F"), (late, b"L")], [], Charge(answers=2)))
    assert [desk.claim(key, prompt)[0] for key, prompt in (("k0", "p0"), ("late", "late"))] == [Claim.KEPT, Claim.KEPT]
    assert (desk.engine.stats().waiting, desk.engine.book.live.trips) == (0, {})


def test_a_parked_live_request_that_is_claimed_meanwhile_waits_too() -> None:
    desk = Desk()
    desk.running("first", key="first")
    desk.admit("p", ladder=STANDARD)
    desk.wait()
    again = desk.restart()
    again.listed = None
    asked = only(again.wait().actions, Sweep)
    place = adopt(again)
    assert every(again.wait().actions, Call) == []
    assert state(again, place) == QUEUED
    assert only(again.tell(Swept(asked.op, [])).actions, Call).places == [place]


# -- live embeddings that share a call


def test_a_wrong_key_is_told_to_all_that_share_a_call() -> None:
    desk = Desk()
    for number in range(3):
        desk.admit(f"p{number}", lane=EMBEDS, ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    desk.tell(Refused(call.op, Fault(kind="refused", error=ServerError(400, "API key not valid.", "INVALID_ARGUMENT"))))
    assert desk.engine.stats().failed == 3


# -- calls that were left in the air, where nothing may be paid for twice


def left_in_the_air() -> tuple[Desk, int, Call]:
    """Return a desk on which doubles are forbidden, a request that has to leave its flex call, and that call."""
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal(0))
    place = desk.admit(key="k", ladder=("flex", "standard"), deadline=START + HOUR)
    call = only(desk.wait().actions, Call)
    assert every(desk.wait(HOUR - LAST_S).actions, Call) == []
    assert (state(desk, place), desk.engine.book.live.trips[place].route) == (LIVE, "flex")
    return desk, place, call


def test_a_request_that_may_not_be_sent_beside_the_call_that_it_left_waits_for_that() -> None:
    desk, place, call = left_in_the_air()
    assert place in desk.engine.book.held_back
    desk.answered(call, kept=[(place, b"late")])
    assert (state(desk, place), desk.claim("k")[0]) == (DONE, Claim.KEPT)
    assert (desk.engine.book.live.trips, desk.engine.stats().waiting) == ({}, 0)


def test_it_goes_on_alone_once_the_call_that_it_left_came_to_nothing() -> None:
    desk, place, call = left_in_the_air()
    assert only(desk.shed(call).actions, Call).route == "standard"
    assert not desk.engine.book.live.trips[place].besides


def test_a_job_that_answered_first_leaves_a_refused_live_call_nothing_to_end() -> None:
    desk, place = in_a_job(ladder=("batch", "standard"))
    call = only(desk.wait(7 * HOUR - LAST_S).actions, Call)
    desk.shed(call, 400, "no")
    assert (state(desk, place), desk.engine.book.live.trips, desk.engine.stats().failed) == (SENT, {}, 0)
    desk.polled()
    desk.fetched(kept=[(place, b"x")])
    assert desk.claim("k")[0] is Claim.KEPT
