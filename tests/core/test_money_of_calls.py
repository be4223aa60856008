"""Live calls and money: reserved before they are sent, given back or lost when they end, each on its UTC day."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from carpool._core.budget import DAY_S, DayAccount, day_of
from carpool._core.messages import Answered, Call, Create, Fail, PutDay, Refused
from carpool._core.meter import Charge
from carpool._core.model import Fault, Lane, limit_of
from carpool._core.retry import is_turned_away
from carpool._core.routing import PRIOR_S
from carpool.settings import CHEAP, FAST, Ladder
from carpool.types import PICO

from .desk import START, Desk, error, every, only

FLASH = Lane("generate", "gemini-2.5-flash")
NOBODYS = Lane("generate", "model-without-price")
EMBED = Lane("embed", "gemini-embedding-2")
STANDARD: Ladder = ("standard",)
CAP = 10
COST = 1_000 * 300_000 + CAP * 2_500_000
"""Reserved for one request on the standard route."""
TODAY = day_of(START)
HOUR = 3_600.0


def usd(picousd: int) -> Decimal:
    return Decimal(picousd) / PICO


def ask(desk: Desk, text: str = "p", ladder: Ladder = STANDARD, **more: Any) -> int:
    return desk.admit(text, lane=FLASH, tokens=1_000, ladder=ladder, limit=limit_of(CAP, searches=False), **more)


def day(desk: Desk, number: int = TODAY) -> DayAccount:
    return desk.engine.book.ledger.budget.account(number)


def committed(desk: Desk, number: int = TODAY) -> int:
    return desk.engine.book.ledger.budget.committed(number).all_picousd


def answer(desk: Desk, call: Call, paid: int) -> None:
    charge = Charge(answers=len(call.places), list_picousd=paid, paid_picousd=paid)
    desk.tell(Answered(call.op, list(call.places), [], [], charge))


def test_a_call_is_made_once_its_money_is_granted_on_disk() -> None:
    desk = Desk()
    ask(desk)
    step = desk.wait()
    assert only(step.actions, Call).route == "standard"
    assert only(step.writes, PutDay).account.granted_picousd >= COST == committed(desk)


def test_what_it_cost_is_spent_and_the_rest_is_given_back() -> None:
    desk = Desk()
    ask(desk)
    answer(desk, only(desk.wait().actions, Call), COST - 7)
    assert committed(desk) == COST - 7
    ask(desk)
    answer(desk, only(desk.wait().actions, Call), COST + 7)
    assert (committed(desk), day(desk).overrun_picousd) == (2 * COST, 7)
    assert desk.engine.receipt().overrun_usd == usd(7)


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (Fault(kind="refused", error=error(429, "slow down", "RESOURCE_EXHAUSTED")), 0),
        (Fault(kind="not_sent", error=error(0, "no route to host")), 0),
        (Fault(kind="unknown", error=error(503, "overloaded", "UNAVAILABLE")), 0),
        (Fault(kind="unknown", error=error(503, "Service Unavailable")), COST),
        (Fault(kind="unknown", error=error(500, "boom", "INTERNAL")), COST),
        (Fault(kind="unknown", error=error(0, "connection reset")), COST),
    ],
)
def test_what_a_call_may_have_cost_that_had_no_answer_stays_spent(fault: Fault, lost: int) -> None:
    desk = Desk()
    ask(desk)
    desk.tell(Refused(only(desk.wait().actions, Call).op, fault))
    assert (day(desk).lost_picousd, day(desk).routes) == (lost, {})
    assert desk.engine.receipt().lost_usd == usd(lost)


def test_only_the_services_own_word_says_that_a_call_was_not_taken() -> None:
    assert is_turned_away(error(14, "", "UNAVAILABLE"))
    assert not is_turned_away(error(500, "", "UNAVAILABLE"))


def test_what_was_in_the_air_when_the_process_died_is_lost_and_the_rest_of_the_day_stands() -> None:
    desk = Desk(budget_per_day_usd=usd(3 * COST))
    ask(desk)
    answer(desk, only(desk.wait().actions, Call), COST)
    ask(desk)
    desk.wait()
    later = desk.restart()
    assert later.engine.receipt().lost_usd == 0, "it was not this process that lost it"
    whole = later.engine.book.ledger.receipt_of(TODAY, TODAY)
    assert (whole.requests, whole.paid_usd) == (1, usd(COST))
    assert usd(COST) <= whole.lost_usd <= usd(2 * COST)
    assert committed(later) <= 3 * COST


def test_money_is_on_the_day_on_which_the_call_was_made() -> None:
    before_midnight = (TODAY + 1) * DAY_S - 1.0
    desk = Desk(now=before_midnight, budget_per_day_usd=usd(COST))
    ask(desk)
    call = only(desk.wait().actions, Call)
    ask(desk, "another")
    assert only(desk.wait().actions, Fail).failure.kind == "budget"
    ask(desk, "of tomorrow")
    assert only(desk.wait(1.0).actions, Call).route == "standard"
    answer(desk, call, COST)
    assert (committed(desk, TODAY), committed(desk, TODAY + 1)) == (COST, COST)
    assert day(desk, TODAY).routes["standard"].paid_picousd == COST
    assert day(desk, TODAY + 1).routes == {}


# -- ceilings


@pytest.mark.parametrize("ladder", [STANDARD, ("flex", "standard"), FAST, ("batch",)])
@pytest.mark.parametrize("setting", ["budget_per_day_usd", "full_price_per_day_usd"])
def test_under_a_ceiling_nothing_goes_out_that_has_no_price(ladder: Ladder, setting: str) -> None:
    settings: dict[str, Any] = {setting: Decimal(1_000)}
    desk = Desk(**settings)
    desk.admit(lane=NOBODYS, ladder=ladder)
    step = desk.wait()
    sent = every(step.actions, Call | Create)
    if setting == "full_price_per_day_usd" and ladder != STANDARD:
        assert len(sent) == 1, "half price is not under that ceiling"
        return
    assert sent == []
    told = only(step.actions, Fail).failure
    assert told.kind == "budget"
    assert f"The price of 'model-without-price' is not known, so it cannot be kept within Settings.{setting}" in (
        told.error.message
    )


def test_what_may_not_cost_the_full_price_waits_in_a_batch_where_it_may() -> None:
    desk = Desk(full_price_per_day_usd=usd(COST))
    first, second = ask(desk, "first", FAST), ask(desk, "second", FAST)
    step = desk.wait()
    assert only(step.actions, Call).places == [first]
    assert desk.engine.book.place_in(only(desk.wait().actions or step.actions, Create).job, 0) == second


# -- doubles


def hurried(desk: Desk, count: int = 1) -> list[Call]:
    """Return the calls for requests that are in a running job, whose deadline nears."""
    for number in range(count):
        ask(desk, f"p{number}", CHEAP, deadline=START + 7 * HOUR)
    desk.admit("at ease", lane=FLASH)
    desk.wait()
    desk.created()
    step = desk.wait(7 * HOUR - PRIOR_S["flex"] - PRIOR_S["standard"])
    return every(step.actions, Call)


def test_a_double_counts_once_however_often_the_server_turns_it_away() -> None:
    desk = Desk()
    [call] = hurried(desk)
    for _ in range(2):
        assert desk.engine.receipt().doubles == 0
        step = desk.tell(Refused(call.op, Fault(kind="unknown", error=error(503, "overloaded", "UNAVAILABLE"))))
        call = only([*step.actions, *desk.wait(60.0).actions], Call)
    answer(desk, call, 100)
    assert (desk.engine.receipt().doubles, desk.engine.receipt().double_usd) == (1, usd(100))
    assert desk.restart().engine.book.ledger.receipt_of(TODAY, TODAY).doubles == 1


def test_doubles_stay_below_their_ceiling_and_the_others_say_why_they_were_late() -> None:
    flex = COST // 2
    desk = Desk(max_double_cost_per_day_usd=usd(2 * flex))
    calls = hurried(desk, 5)
    assert [call.route for call in calls] == ["flex", "flex"]
    assert desk.engine.book.ledger.budget.committed(TODAY).double_picousd == 2 * flex
    held = list(desk.engine.book.held_back.values())
    assert len(held) == 3
    assert all("Settings.max_double_cost_per_day_usd leaves $0.000000" in why for why in held)


# -- embeddings


def embedding_cost(*, media: bool, count: int = 2) -> int:
    desk = Desk()
    for number in range(count):
        limit = limit_of(0, searches=media and not number)
        desk.admit(f"p{number}", lane=EMBED, tokens=10, ladder=STANDARD, limit=limit)
    [call] = every(desk.wait().actions, Call)
    spans: Sequence[tuple[int, int, int]] = [(1, 0, count)]
    book = desk.engine.book
    assert book.is_text_only(call.lane, spans) is not media
    assert not book.is_text_only(FLASH, spans)
    assert not book.is_text_only(call.lane, [(9, 0, 1)]), "what is forgotten is not known"
    return committed(desk)


def test_embeddings_of_text_are_reserved_at_the_price_of_text() -> None:
    assert embedding_cost(media=False) == 20 * 200_000
    assert embedding_cost(media=True) == 20 * 12_000_000


@pytest.mark.parametrize(
    ("model", "known"), [("gemini-embedding-001", True), ("gemini-embedding-2", False), ("x", False)]
)
def test_one_sum_for_several_embeddings_has_a_price_where_all_of_it_costs_the_same(model: str, known: bool) -> None:
    ledger = Desk().engine.book.ledger
    assert (ledger.meter("standard", Lane("embed", model), START).cost_of_embeddings(100) is not None) is known
    found = ledger.meter("standard", EMBED, START, text_only=True).cost_of_embeddings(100)
    assert found is not None
    assert found.paid_picousd == 100 * 200_000
