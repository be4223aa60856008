"""The rare turns of the ladder: late replies, rows that a call left out, moments that were noted and hold no more."""

from __future__ import annotations

from decimal import Decimal

import pytest

from carpool._core.messages import Answered, Call, CancelRemote, Create, Fail
from carpool._core.meter import Charge
from carpool._core.model import DONE, LIVE, QUEUED, SENT, Lane
from carpool._core.output import RowFault
from carpool._core.routing import BATCH_ONLY, Durations, choose, code_of
from carpool.errors import ConfigurationError
from carpool.settings import CHEAP, FAST, Ladder, Price
from carpool.types import Kind

from .desk import LANE, START, Desk, error, every, only

HOUR = 3_600.0
FLEX: Ladder = ("flex", "standard")
STANDARD: Ladder = ("standard",)
EMBED = Lane("embed", "model-of-embeddings")
PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
LAST_S = Durations().reserve_s(LANE.model, CHEAP, 1)
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)


def state(desk: Desk, place: int) -> int:
    segment, row = desk.engine.book.at(place)
    return DONE if segment is None else segment.states[row]


# -- which ladder a call takes


@pytest.mark.parametrize(
    ("given", "usual", "kind", "timed", "taken"),
    [
        (None, None, "generate", False, ("batch",)),
        (None, None, "generate", True, CHEAP),
        (None, FAST, "generate", True, FAST),
        (None, FAST, "generate", False, FAST),
        (FLEX, FAST, "generate", False, FLEX),
        (None, None, "embed", True, ("batch", "standard")),
        (FLEX, None, "embed", False, STANDARD),
        (FAST, None, "embed", False, FAST),
    ],
)
def test_a_call_takes_its_own_ladder_or_the_usual_one(
    given: Ladder | None, usual: Ladder | None, kind: Kind, timed: bool, taken: Ladder
) -> None:
    assert choose(given, usual, kind, timed=timed) == code_of(taken)
    assert code_of(("batch",)) == BATCH_ONLY


def test_embeddings_have_no_flex_route_and_no_ladder_of_it() -> None:
    with pytest.raises(ConfigurationError, match="embeddings have no flex route"):
        choose(("flex",), None, "embed", timed=True)
    assert choose(("flex",), None, "generate", timed=True) == code_of(("flex",))


# -- replies


def test_the_second_reply_to_a_live_call_changes_nothing() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=STANDARD)
    call = only(desk.wait().actions, Call)
    desk.answered(call)
    told = (desk.engine.receipt(), desk.engine.stats())
    for step in (desk.answered(call), desk.shed(call)):
        assert (step.writes, step.actions) == ([], [])
    assert (desk.engine.receipt(), desk.engine.stats(), state(desk, place)) == (*told, DONE)


def shared() -> tuple[Desk, int, int, Call]:
    """Return a desk with a call that carries two embeddings."""
    desk = Desk()
    good, bad = (desk.admit(name, lane=EMBED, ladder=STANDARD) for name in ("good", "bad"))
    return desk, good, bad, only(desk.wait().actions, Call)


def test_a_row_that_a_live_call_answers_with_an_error_fails_alone() -> None:
    desk, good, bad, call = shared()
    step = desk.tell(Answered(call.op, [good], [], [RowFault(bad, error(400, "too long"))], Charge(answers=1)))
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind, fail.failure.error.code) == ([bad], "rejected", 400)
    assert (state(desk, good), state(desk, bad), desk.engine.idle) == (DONE, DONE, True)


def test_a_row_that_a_live_call_leaves_out_is_sent_again() -> None:
    desk, good, bad, call = shared()
    step = desk.tell(Answered(call.op, [good], [], [], Charge(answers=1)))
    assert (every(step.actions, Fail), state(desk, good), state(desk, bad)) == ([], DONE, LIVE)
    assert only(desk.wake().actions, Call).places == [bad]


# -- moments at which a rung is left


def test_who_was_answered_leaves_nothing_when_its_time_would_have_come() -> None:
    desk = Desk()
    desk.admit(ladder=FLEX, deadline=START + HOUR)
    desk.answered(only(desk.wait().actions, Call))
    step = desk.wait(HOUR - LAST_S)
    assert (step.actions, desk.engine.book.leaving) == ([], [])


def test_nobody_is_sent_twice_for_whom_nobody_waits() -> None:
    desk = Desk(prices=PRICES)
    place = desk.admit(ladder=CHEAP, deadline=START + 7 * HOUR)
    desk.wait()
    desk.created()
    desk.leave(place)
    step = desk.wait(7 * HOUR - BELOW_S)
    assert (every(step.actions, Call), every(step.actions, CancelRemote)) == ([], [])
    assert (state(desk, place), desk.engine.book.leaving) == (SENT, [])


def test_a_rung_is_left_later_once_those_below_have_become_quicker() -> None:
    desk = Desk(prices=PRICES)
    desk.admit(ladder=FLEX, deadline=START + HOUR)
    desk.wait()
    durations = desk.engine.book.durations
    for _ in range(10):
        durations.saw(LANE.model, "standard", 2.0)
    later_s = durations.reserve_s(LANE.model, FLEX, 0)
    assert later_s < LAST_S
    assert every(desk.wait(HOUR - LAST_S).actions, Call) == []
    assert [call.route for call in every(desk.wait(LAST_S - later_s).actions, Call)] == ["standard"]


# -- who waits in vain


def test_those_that_wait_for_a_route_that_refuses_all_go_to_a_batch_together() -> None:
    desk = Desk(live_calls_max=3)
    places = [desk.admit(f"p{number}", ladder=FAST) for number in range(9)]
    calls = every(desk.wait().actions, Call)
    assert len(calls) == 3
    steps = [desk.shed(call) for call in calls]
    assert desk.engine.book.live.throttles.of("standard", LANE.model).is_refusing(desk.now)
    probes = [call for step in steps for call in every(step.actions, Call)]
    states = [state(desk, place) for place in places]
    assert states.count(LIVE) == len(probes) <= 3
    assert states.count(QUEUED) + states.count(SENT) == len(places) - len(probes)
    assert only([action for step in steps for action in step.actions], Create)


@pytest.mark.parametrize("leaves", [True, False])
def test_who_waits_for_a_batch_after_a_call_that_is_still_in_the_air_ends_with_that_call(leaves: bool) -> None:
    ladder: Ladder = ("flex", "standard", "batch")
    desk = Desk(prices=PRICES, jobs_max=1, attempts_max=1)
    other = desk.running("other")
    place = desk.admit(key="k", ticket=True, ladder=ladder, deadline=START + HOUR)
    call = only(desk.wait().actions, Call)
    second = only(desk.wait(HOUR - desk.engine.book.durations.reserve_s(LANE.model, ladder, 0)).actions, Call)
    desk.now = START + HOUR + 1.0
    desk.shed(second)
    assert (state(desk, place), list(desk.engine.book.live.flights)) == (QUEUED, [call.op])
    if leaves:
        desk.leave(place)
    assert (state(desk, place), desk.engine.stats().waiting) == (LIVE if leaves else QUEUED, 1)
    desk.answered(call, kept=[(place, b"body")])
    desk.polled()
    desk.fetched(*other)
    assert every(desk.ended().actions, Create) == []
    assert (desk.claim("k")[0].value, desk.engine.idle) == ("kept", True)
