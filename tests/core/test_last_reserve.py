"""The last reserve of a rung: what is tried in it although the route refuses, and what is asked for again."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from carpool._core.breaker import (
    ASKED_MAX_S,
    OBEYING_PAUSE_S,
    PAUSE_MAX_S,
    TRUST_S,
    URGENT_CLOSED_S,
    URGENT_PAUSE_S,
    Breaker,
    Pushback,
)
from carpool._core.concurrency import START as IN_FLIGHT
from carpool._core.messages import Call, Refused, Step
from carpool._core.model import SENT, Fault
from carpool._core.routing import PRIOR_S, Durations
from carpool._core.throttle import Throttle
from carpool.settings import CHEAP, Ladder, Price
from carpool.types import ServerError

from .desk import LANE, START, Desk, every, only

HOUR = 3_600.0
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
FLEX: Ladder = ("flex", "standard")
LAST_S = Durations().reserve_s(LANE.model, FLEX, 0)
FLEX_S = Durations().own_s(LANE.model, FLEX, 0)
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)


def asks(retry_after_s: float) -> ServerError:
    """An overloaded server that asks to be left alone."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after_s}s"}]
    return ServerError(503, "overloaded", "UNAVAILABLE", details)


def tries(desk: Desk, step: Step, until: float, refusal: ServerError | None = None) -> list[float]:
    """Refuse every call until a time, and return when they were sent."""
    sent: list[float] = []
    while desk.now < until:
        for call in every(step.actions, Call):
            sent.append(desk.now)
            step = desk.tell(Refused(call.op, Fault(kind="refused", error=refusal or ServerError(503))))
            break
        else:
            step = desk.wake()
    return sent


def gaps(times: list[float], since: float) -> list[float]:
    return [after - before for before, after in pairwise(times) if before >= since]


# -- how often


def test_on_the_last_rung_one_request_alone_is_tried_every_two_seconds_to_the_end() -> None:
    desk = Desk()
    desk.admit(ladder=("standard",), deadline=START + 300.0)
    last_s = Durations().last_s(LANE.model, "standard")
    sent = tries(desk, desk.wait(), START + 300.0)
    before = gaps([at for at in sent if at < START + 300.0 - last_s], START)
    assert max(before) > 4 * URGENT_PAUSE_S, "a route that refuses is left alone while there is time"
    within = gaps(sent, START + 300.0 - last_s)
    assert len(within) >= last_s / URGENT_PAUSE_S - 3
    assert max(within) == pytest.approx(URGENT_PAUSE_S)


def of_many_lengths() -> Desk:
    """Return a desk that knows flex: half of the calls take seconds, some as long as one thinks before."""
    desk = Desk()
    for duration_s in [5.0] * 5 + [PRIOR_S["flex"]] * 5:
        desk.engine.book.durations.saw(LANE.model, "flex", duration_s)
    return desk


def test_flex_is_tried_every_five_seconds_once_its_last_reserve_has_begun() -> None:
    desk = of_many_lengths()
    desk.admit(ladder=FLEX, deadline=START + HOUR)
    sent = tries(desk, desk.wait(), START + HOUR - LAST_S)
    before = gaps([at for at in sent if at < START + HOUR - FLEX_S], START)
    assert max(before) > 0.7 * PAUSE_MAX_S
    within = gaps(sent, START + HOUR - FLEX_S)
    assert len(within) > 100
    assert max(within) == pytest.approx(OBEYING_PAUSE_S)
    assert min(within) == pytest.approx(OBEYING_PAUSE_S)


def test_flex_is_left_alone_for_as_long_as_the_server_asks_for_in_its_last_reserve_too() -> None:
    desk = of_many_lengths()
    desk.admit(ladder=FLEX, deadline=START + FLEX_S)
    sent = tries(desk, desk.wait(), START + FLEX_S - LAST_S, asks(40.0))
    assert len(sent) > 10
    assert min(gaps(sent, START)) >= 40.0 - 1e-6
    assert max(gaps(sent, START)) < 45.0


def test_standard_is_not_left_alone_for_it_in_the_last_reserve() -> None:
    desk = Desk()
    desk.admit(ladder=("standard",), deadline=START + 60.0)
    assert len(tries(desk, desk.wait(), START + 60.0, asks(40.0))) > 20


def test_who_waits_for_flex_leaves_once_it_would_not_be_entered_any_more_and_a_call_in_the_air_goes_on() -> None:
    left_s = PRIOR_S["flex"] + PRIOR_S["standard"]
    desk = Desk(prices=PRICES)
    waits, flies = (desk.admit(str(n), ladder=FLEX, deadline=START + left_s + 60.0) for n in range(2))
    first, second = every(desk.wait().actions, Call)
    desk.shed(first if first.places == [waits] else second, 429)
    step = desk.wait(60.0)
    assert [(call.route, call.places) for call in every(step.actions, Call)] == [("standard", [waits])]
    assert desk.engine.book.live.trips[flies].route == "flex"
    step = desk.wait(left_s - LAST_S)
    assert [(call.route, call.places) for call in every(step.actions, Call)] == [("standard", [flies])]


# -- the breaker and the throttle


@pytest.mark.parametrize(("obeys", "first"), [(False, 8), (True, 2)])
def test_each_second_without_a_refusal_lets_twice_as_many_urgent_calls_through(obeys: bool, first: int) -> None:
    breaker = Breaker("b", obeys=obeys)
    breaker.open(0.0)
    sent: dict[int, int] = {}
    now = 10.0
    for _ in range(8 * first):
        breaker.sent(now)
        sent[round((now - 10.0) / TRUST_S)] = (
            sum(sent.values())
            + 1
            - sum(count for second, count in sent.items() if second < round((now - 10.0) / TRUST_S))
        )
        now = breaker.next_urgent(now)
    assert sent == {0: 1, 1: first - 1, 2: first, 3: 2 * first, 4: 4 * first}
    breaker.refused(now, 10.0)
    assert breaker.next_urgent(now) == 14.0 + (OBEYING_PAUSE_S if obeys else URGENT_PAUSE_S)


def test_a_late_refusal_of_a_call_from_before_the_last_one_does_not_count_again() -> None:
    breaker = Breaker("b")
    breaker.open(0.0)
    breaker.sent(1.0)
    breaker.sent(1.0)
    breaker.refused(3.0, 1.0)
    breaker.sent(4.0)
    breaker.refused(4.5, 1.0)
    assert breaker.next_urgent(5.0) == 5.0
    breaker.refused(5.5, 4.0)
    assert breaker.next_urgent(5.5) == 6.0


def test_what_the_server_asks_for_holds_for_urgent_calls_where_they_obey() -> None:
    breaker, obeying = Breaker("b"), Breaker("b", obeys=True)
    for one in (breaker, obeying):
        one.sent(0.0)
        one.refused(0.5, 0.0, retry_after_s=30.0)
    assert (breaker.next_urgent(1.0), obeying.next_urgent(1.0)) == (1.0, 30.5)
    obeying.open(1.0)
    assert obeying.next_urgent(1.0) == 30.5
    obeying.sent(31.0)
    obeying.refused(31.5, 31.0)
    assert obeying.next_urgent(31.5) == 31.0 + OBEYING_PAUSE_S


def test_a_probe_that_passes_ends_what_the_server_asked_for() -> None:
    breaker = Breaker("b", obeys=True)
    breaker.open(0.0)
    breaker.sent(10.0)
    breaker.sent(11.0)
    breaker.refused(11.5, 5.0, retry_after_s=60.0)
    breaker.succeeded(12.0, 10.0)
    assert breaker.next_urgent(12.0) == 12.0


def test_a_clock_that_was_set_back_holds_nobody_for_longer_than_a_server_may_ask_for() -> None:
    breaker = Breaker("b", obeys=True)
    breaker.sent(100_000.0)
    breaker.refused(100_000.0, 100_000.0, retry_after_s=ASKED_MAX_S)
    assert breaker.next_urgent(1_000.0) == 1_000.0


def test_urgent_calls_keep_their_distance_while_the_route_takes_calls() -> None:
    breaker, obeying = Breaker("b"), Breaker("b", obeys=True)
    for one in (breaker, obeying):
        one.sent(0.0)
    assert (breaker.next_urgent(0.1), obeying.next_urgent(0.1)) == (URGENT_CLOSED_S, OBEYING_PAUSE_S)


def test_urgent_calls_go_together_unless_the_last_was_refused() -> None:
    throttle = Throttle("t")
    throttle.started(1, 0.0)
    throttle.ended(5.0, sent_at=0.0)
    for _ in range(5 * int(IN_FLIGHT)):
        assert throttle.may_start(100.0, 1, urgent_at=100.0)
        throttle.started(1, 100.0)
    assert not throttle.may_start(100.0, 1)
    throttle.refused(100.2, Pushback(scope="overload"), sent_at=100.0)
    assert not throttle.may_start(100.2, 1, urgent_at=100.0)
    assert throttle.may_start(100.0 + URGENT_CLOSED_S, 1, urgent_at=100.0)


def test_a_request_hurries_as_soon_as_its_route_is_known_to_be_slower() -> None:
    desk = Desk()
    place = desk.admit(ladder=("standard",), deadline=START + 300.0)
    call = only(desk.wait().actions, Call)
    desk.shed(call)
    trip = desk.engine.book.live.trips[place]
    assert trip.urgent_at == START + 300.0 - Durations().last_s(LANE.model, "standard")
    for _ in range(3):
        desk.engine.book.durations.saw(LANE.model, "standard", 180.0)
    desk.wait(1.0)
    assert trip.urgent_at == START + 300.0 - desk.engine.book.durations.last_s(LANE.model, "standard")
    assert trip.urgent_at < START + 100.0


def test_urgent_calls_keep_to_the_most_that_may_be_in_the_air() -> None:
    throttle = Throttle("t", calls_max=3)
    for _ in range(3):
        throttle.started(1, 100.0)
    assert not throttle.may_start(100.0, 1, urgent_at=100.0)


# -- money that comes back


def test_a_request_that_may_not_be_sent_twice_leaves_its_job_when_money_has_come_back() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal("0.0077"))  # enough for one
    places = [desk.admit(f"p{number}", ladder=CHEAP, deadline=START + 7 * HOUR) for number in range(2)]
    desk.wait()
    desk.created()
    call = only(desk.wait(7 * HOUR - BELOW_S).actions, Call)
    [waiting] = set(places) - set(call.places)
    assert set(desk.engine.book.held_back) == {waiting}
    desk.wait()
    desk.answered(call)
    segment, row = desk.engine.book.at(waiting)
    assert segment is not None
    assert segment.states[row] == SENT
    step = desk.wait(BELOW_S * 0.1)
    assert only(step.actions, Call).places == [waiting]
    assert desk.engine.book.held_back == {}


def test_a_request_in_a_live_call_asks_again_too() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal(0))
    place = desk.admit(ladder=FLEX, deadline=START + HOUR)
    desk.wait()
    desk.wait(HOUR - LAST_S)
    assert place in desk.engine.book.held_back
    [(at, asking, rung)] = desk.engine.book.leaving
    assert (asking, rung) == (place, 0)
    assert at - desk.now == pytest.approx(LAST_S * 0.1)
    desk.wait(LAST_S - 1.0)
    [(at, _, _)] = desk.engine.book.leaving
    assert at - desk.now == pytest.approx(5.0)


def test_asking_again_teaches_nothing_about_the_batch_route() -> None:
    desk = Desk(prices=PRICES, max_double_cost_per_day_usd=Decimal(0))
    desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    usual_s = desk.engine.book.durations.usual_s(LANE.model, "batch")
    desk.wait(7 * HOUR - BELOW_S)
    for _ in range(20):
        desk.wait(10.0)
    assert desk.engine.book.durations.usual_s(LANE.model, "batch") == usual_s
