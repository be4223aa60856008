"""Jobs and money: reserved before they are sent, settled as they are read, given back or lost when they end."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from carpool._core.budget import DAY_S, DAYS_KEPT, DayAccount, day_of
from carpool._core.estimate import GUESS, Habit
from carpool._core.keys import Claim
from carpool._core.messages import Create, Fail, PutDay, PutHabit, RowsFetched, Woken
from carpool._core.meter import NO_CHARGE, Charge
from carpool._core.model import Lane, limit_of
from carpool.types import PICO

from .desk import START, Desk, error, every, only

FLASH = Lane("generate", "gemini-2.5-flash")
TODAY = day_of(START)


def account(desk: Desk, day: int = TODAY) -> DayAccount:
    """Return the account of a day as the engine has it."""
    book = desk.engine.book
    return msgspec.structs.replace(book.ledger.budget.account(day), base_url=book.base_url)


def written(desk: Desk, day: int = TODAY) -> DayAccount:
    """Return the account of a day as it is on disk."""
    [found] = [record for record in desk.disk.load() if isinstance(record, DayAccount) and record.day == day]
    return found


def committed(desk: Desk, day: int = TODAY) -> int:
    return desk.engine.book.ledger.budget.committed(day).all_picousd


def cost_of(count: int, tokens: int = 1_000) -> int:
    """Return what is reserved for a batch of requests of so many tokens each."""
    desk = Desk()
    for _ in range(count):
        desk.admit(lane=FLASH, tokens=tokens)
    desk.wait()
    return committed(desk)


def usd(picousd: int) -> Decimal:
    return Decimal(picousd) / PICO


def fetching(desk: Desk, *prompts: str, tokens: int = 1_000, keys: bool = True) -> list[int]:
    places = [desk.admit(text, key=text if keys else None, lane=FLASH, tokens=tokens) for text in prompts]
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    return places


def answers(count: int, paid: int = 100, prompt: int = 10, unknown: int = 0) -> Charge:
    known = count - unknown
    return Charge(
        answers=count, unknown=unknown, prompt=prompt, list_picousd=2 * paid * known, paid_picousd=paid * known,
        outputs=(7,) * known,
    )  # fmt: skip


def read(desk: Desk, charge: Charge, *places: int, again: Charge = NO_CHARGE) -> None:
    rows = [(place, b"{}") for place in places]
    desk.tell(RowsFetched(desk.job.id, desk.job.op, [], rows, [], charge, again=again))


# -- before


def test_a_job_is_sent_once_its_money_is_reserved_on_disk() -> None:
    desk = Desk()
    desk.admit(lane=FLASH, tokens=1_000)
    step = desk.wait()
    [day] = every(step.writes, PutDay)
    assert only(step.actions, Create).job.id == day.account.holds[0].id
    assert committed(desk) == day.account.holds[0].reserved_picousd > 1_000 * 150_000


def test_what_requests_name_as_their_limit_is_what_is_reserved_over_restarts_too() -> None:
    desk = Desk(linger_s=1.0)
    desk.admit("a", key="a", ticket=True, lane=FLASH)
    desk.admit("b", key="b", ticket=True, lane=FLASH, limit=limit_of(10, searches=True))
    desk.admit("c", key="c", ticket=True, lane=FLASH, limit=limit_of(0, searches=True))
    desk.admit("d", key="d", ticket=True, lane=FLASH)
    desk.tell(Woken())
    desk = desk.restart()
    desk.wake()
    rate = desk.engine.book.ledger.rate(FLASH.model)
    assert rate is not None
    output = rate.tier("batch", long=False).output
    searches = 2 * rate.search_picousd
    assert committed(desk) == 4 * rate.tier("batch", long=False).input + (3 * GUESS.p95 + 10) * output + searches


def test_what_the_budget_does_not_allow_is_told_so_and_not_sent() -> None:
    desk = Desk(budget_per_day_usd=usd(cost_of(1) - 1))
    place, kept = desk.admit(lane=FLASH, tokens=1_000), desk.admit("k", key="k", lane=FLASH, tokens=1_000)
    step = desk.wait()
    assert not every(step.actions, Create)
    fail = only(step.actions, Fail)
    assert (fail.places, fail.failure.kind) == ([place, kept], "budget")
    assert "Settings.budget_per_day_usd" in fail.failure.error.message
    assert (desk.engine.stats().waiting, desk.engine.stats().waiting_bytes, desk.engine.stats().failed) == (0, 0, 2)
    assert (committed(desk), desk.engine.book.segments) == (0, {})
    assert desk.claim("k", "k")[0] is Claim.NEW, "it was not paid for, and may be tried again"


@pytest.mark.parametrize("room", [1, 2, 3])
def test_the_first_requests_go_as_far_as_the_budget_reaches(room: int) -> None:
    desk = Desk(budget_per_day_usd=usd(cost_of(room) + 5))
    places = [desk.admit(lane=FLASH, tokens=1_000, size_bytes=40 + at) for at in range(4)]
    step = desk.wait()
    job = only(step.actions, Create).job
    assert (job.count, job.tokens, job.line_bytes) == (room, room * 1_000, sum(range(40, 40 + room)))
    assert [desk.engine.book.place_in(job, row) for row in range(room)] == places[:room]
    assert only(step.actions, Fail).places == places[room:]
    assert desk.engine.stats().waiting == 0
    desk.created()
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    read(desk, answers(room), *places[:room])
    desk.ended()
    assert (desk.jobs, desk.engine.book.segments) == ([], {})


def test_large_requests_at_the_front_leave_less_to_send_than_their_number_tells() -> None:
    desk = Desk(budget_per_day_usd=usd(cost_of(1, 900_000) + cost_of(1, 0) * 2))
    large = [desk.admit(lane=FLASH, tokens=900_000) for _ in range(2)]
    small = [desk.admit(lane=FLASH, tokens=0) for _ in range(2)]
    step = desk.wait()
    assert (only(step.actions, Create).job.count, only(step.actions, Fail).places) == (1, [large[1], *small])


def test_without_a_price_a_budget_lets_nothing_go() -> None:
    desk = Desk(budget_per_day_usd=Decimal(1000))
    place = desk.admit()
    fail = only(desk.wait().actions, Fail)
    assert (fail.places, fail.failure.kind) == ([place], "budget")
    assert "is not known" in fail.failure.error.message


def test_the_next_day_has_a_budget_of_its_own() -> None:
    desk = Desk(budget_per_day_usd=usd(cost_of(1)), linger_max_s=0.0)
    desk.admit(lane=FLASH, tokens=1_000)
    assert every(desk.wait().actions, Create)
    desk.admit(lane=FLASH, tokens=1_000)
    assert only(desk.wait().actions, Fail).failure.kind == "budget"
    desk.admit(lane=FLASH, tokens=1_000)
    assert every(desk.wait(DAY_S).actions, Create)


def test_reservations_outlive_the_process() -> None:
    desk = Desk(budget_per_day_usd=usd(cost_of(1)), linger_max_s=0.0)
    desk.admit("a", key="a", lane=FLASH, tokens=1_000)
    desk.wait()
    desk.created()
    desk = desk.restart()
    assert committed(desk) == cost_of(1)
    desk.admit("b", key="b", lane=FLASH, tokens=1_000)
    assert only(desk.wait().actions, Fail).failure.kind == "budget"


# -- after


def test_what_was_not_spent_is_given_back_in_the_step_that_closes_the_job() -> None:
    desk = Desk()
    places = fetching(desk, "a", "b")
    read(desk, answers(2), *places)
    assert (account(desk).routes["batch"].paid_picousd, written(desk).spent_picousd) == (200, 0)
    step = desk.ended()
    assert only(step.writes, PutDay).account == written(desk) == account(desk)
    found = written(desk)
    assert (found.spent_picousd, found.overrun_picousd, found.lost_picousd, found.holds) == (200, 0, 0, [])
    assert desk.engine.receipt().paid_usd == usd(200)


def test_what_was_spent_beyond_is_overrun() -> None:
    desk = Desk()
    [place] = fetching(desk, "a")
    reserved = committed(desk)
    read(desk, answers(1, paid=reserved + 3), place)
    desk.ended()
    assert (written(desk).overrun_picousd, desk.engine.receipt().overrun_usd) == (3, usd(3))


def test_an_output_that_is_read_again_is_paid_for_once() -> None:
    desk = Desk()
    places = fetching(desk, "a", "b")
    read(desk, answers(1), places[0])
    desk.failed()
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    read(desk, answers(1), places[1], again=answers(1))
    desk.ended()
    assert (written(desk).spent_picousd, written(desk).routes["batch"].requests) == (200, 2)
    assert (desk.engine.receipt().requests, desk.engine.receipt().paid_usd) == (2, usd(200))


def test_an_output_that_another_process_read_in_part_is_on_its_account_too() -> None:
    desk = Desk()
    places = fetching(desk, "a", "b")
    read(desk, answers(1), places[0])
    desk = desk.restart()
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    read(desk, answers(1), places[1], again=answers(1))
    desk.ended()
    assert written(desk).spent_picousd == 200
    assert (desk.engine.receipt().requests, desk.engine.receipt().paid_usd) == (1, usd(100))


def test_a_job_of_a_store_without_accounts_is_on_the_account_of_the_day_it_was_made() -> None:
    desk = Desk()
    places = fetching(desk, "a")
    desk.disk.days.clear()
    desk = desk.restart(DAY_S)
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    read(desk, answers(1), *places)
    desk.ended()
    assert (written(desk).spent_picousd, written(desk).overrun_picousd) == (100, 100)


def lose_rows(desk: Desk) -> None:
    """All came but one."""
    [place, _] = fetching(desk, "a", "b")
    read(desk, answers(1), place)
    desk.ended()


def lose_output(desk: Desk) -> None:
    """The output is gone."""
    fetching(desk, "a", "b")
    desk.failed("refused", error(404))


def lose_job(desk: Desk) -> None:
    """It ended, and left nothing."""
    fetching(desk, "a", "b")
    desk.failed()
    desk.wake()
    desk.polled("EXPIRED", output=False)


def lose_trace(desk: Desk) -> None:
    """Whether it was ever made is not known."""
    desk.admit("a", key="a", lane=FLASH, tokens=1_000)
    desk.wait()
    desk.failed("unknown")
    while desk.jobs:
        desk.found()
        if desk.jobs:
            desk.wake()


@pytest.mark.parametrize("lose", [lose_rows, lose_output, lose_job, lose_trace])
def test_what_may_have_been_done_without_a_word_counts_as_spent(lose: Any) -> None:
    desk = Desk(attempts_max=1, job_attempts_max=1, output_grace_s=0.0)
    lose(desk)
    paid = 100 if lose is lose_rows else 0
    found = written(desk)
    reserved = cost_of(1 if lose is lose_trace else 2)
    assert (found.spent_picousd, found.lost_picousd, found.holds) == (reserved, reserved - paid, [])
    whole = desk.engine.book.ledger.receipt_of(0, TODAY)
    assert (whole.lost_usd, whole.paid_usd) == (usd(reserved - paid), usd(paid))


def test_rows_of_a_cancelled_job_that_were_not_done_cost_nothing() -> None:
    desk = Desk(attempts_max=1)
    [place, _] = desk_fetching_cancelled(desk)
    read(desk, answers(1), place)
    desk.ended()
    assert (written(desk).spent_picousd, written(desk).lost_picousd) == (100, 0)


def desk_fetching_cancelled(desk: Desk) -> list[int]:
    places = [desk.admit(text, key=text, lane=FLASH, tokens=1_000) for text in "ab"]
    desk.wait()
    desk.created()
    desk.wake()
    desk.polled("CANCELLED", failure=error(1, "cancelled"))
    desk.engine.fetch_index(desk.job.id)
    return places


def test_a_job_that_is_refused_gives_all_back() -> None:
    desk = Desk()
    desk.admit("a", key="a", lane=FLASH, tokens=1_000)
    desk.wait()
    desk.failed("refused", error(400, "no", "INVALID_ARGUMENT"))
    assert (written(desk).spent_picousd, written(desk).lost_picousd, written(desk).holds) == (0, 0, [])


@pytest.mark.parametrize("room", [1, 2])
def test_a_job_that_vanished_is_lost_money_and_its_next_attempt_needs_its_own(room: int) -> None:
    desk = Desk(job_attempts_max=5, budget_per_day_usd=usd(cost_of(1) * room))
    desk.admit("a", key="a", lane=FLASH, tokens=1_000)
    desk.wait()
    desk.created()
    desk.wake()
    desk.failed("refused", error(404))
    desk.wake()
    step = desk.found()
    desk.wake()
    step = desk.found()
    assert bool(every(step.actions, Create)) == (room == 2)
    assert [fail.failure.kind for fail in every(step.actions, Fail)] == ["budget"] * (room == 1)
    assert (written(desk).lost_picousd, committed(desk)) == (cost_of(1), cost_of(1) * room)


# -- what is learned, and forgotten


def test_a_job_of_which_all_came_teaches_how_long_requests_and_answers_are() -> None:
    desk = Desk()
    places = fetching(desk, "a", "b")
    read(desk, answers(1, prompt=700), places[0])
    desk.failed()
    desk.wake()
    desk.polled()
    desk.engine.fetch_index(desk.job.id)
    read(desk, answers(1, prompt=800), places[1], again=answers(1, prompt=700))
    habit = only(desk.ended().writes, PutHabit).habit
    assert (habit.model, habit.estimated, habit.counted) == (FLASH.model, 2_000, 1_500)
    assert sum(habit.outputs.buckets[1::2]) == 2, "each answer once"
    assert desk.restart().engine.book.ledger.habits.ratio(FLASH.model) == 0.75


@pytest.mark.parametrize("unknown", [0, 1])
def test_a_job_of_which_not_all_is_known_teaches_nothing_of_requests(unknown: int) -> None:
    desk = Desk(attempts_max=1)
    places = fetching(desk, "a", "b")
    count = 1 + unknown
    read(desk, answers(count, unknown=unknown), *places[:count])
    desk.ended()
    [habit] = [record for record in desk.disk.load() if isinstance(record, Habit)]
    assert (habit.estimated, sum(habit.outputs.buckets[1::2])) == (0, 1)


def test_days_long_ago_are_forgotten() -> None:
    desk = Desk()
    places = fetching(desk, "a")
    read(desk, answers(1), *places)
    desk.ended()
    desk.admit("b", key="b", lane=FLASH)
    desk.wait((DAYS_KEPT + 1) * DAY_S)
    assert [record.day for record in desk.disk.load() if isinstance(record, DayAccount)] == [TODAY + DAYS_KEPT + 1]
    assert desk.engine.receipt().overrun_usd == 0
