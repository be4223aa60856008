"""What was learned and spent belongs to a service: that of another one in the same home neither counts nor is lost."""

from __future__ import annotations

from typing import Any

import pytest

from carpool._core.budget import DAY_S, DAYS_KEPT, DayAccount, day_of
from carpool._core.estimate import Habit
from carpool._core.messages import Answered, Call, Fail, RowsFetched
from carpool._core.meter import Charge
from carpool._core.model import Lane, Place, base_url_of, limit_of
from carpool._core.routing import PRIOR_S, RECORD_PAUSE_S, Seen
from carpool.settings import Ladder

from .desk import ORIGIN, START, Desk, every, only

FLASH = Lane("generate", "gemini-2.5-flash")
STANDARD: Ladder = ("standard",)
HERE, NEW_KEY = base_url_of(ORIGIN), "https://here#2"
EMULATOR = "http://127.0.0.1:8700#1"
TOKENS = 40
TODAY = day_of(START)
COST = 1_000 * 300_000 + TOKENS * 2_500_000
"""Of one answer; what is reserved for it as well."""


def ask(desk: Desk) -> list[Any]:
    """Ask live; return what is done, calls or refusals for money."""
    desk.admit(lane=FLASH, tokens=1_000, ladder=STANDARD, limit=limit_of(TOKENS, searches=False))
    actions = desk.wait().actions
    return [*every(actions, Call), *every(actions, Fail)]


def answer(desk: Desk, took_s: float, answers: int = 20) -> None:
    """Ask live, and spend, learn and write down what comes back."""
    [call] = ask(desk)
    desk.now += took_s
    charge = Charge(answers=1, list_picousd=COST, paid_picousd=COST, outputs=(TOKENS,) * answers)
    desk.tell(Answered(call.op, list(call.places), [], [], charge))
    desk.now += RECORD_PAUSE_S
    desk.admit()
    desk.wait()


def send(desk: Desk) -> Place:
    """Send a job of one request, and return its place."""
    place = desk.admit("a", key="a", lane=FLASH, tokens=1_000, limit=limit_of(TOKENS, searches=False))
    desk.wait()
    desk.created()
    return place


def bring(desk: Desk, place: Place) -> None:
    """Bring the answer of that job."""
    desk.wake()
    desk.polled()
    job = desk.job
    desk.engine.fetch_index(job.id)
    charge = Charge(answers=1, list_picousd=COST, paid_picousd=COST)
    desk.tell(RowsFetched(job.id, job.op, [], [(place, b"body")], [], charge))
    desk.ended()


def taught_by(origin: str, **settings: Any) -> Desk:
    """Return the desk of a process that is gone: ten calls of a second each, in which twenty answers each came."""
    desk = Desk(origin=origin, **settings)
    for _ in range(10):
        answer(desk, 1.0)
    return desk


def known(desk: Desk) -> tuple[float, int, int, int]:
    """Return what a desk knows: usual duration, answers, money of the day, answers on its receipt."""
    ledger = desk.engine.book.ledger
    return (
        desk.engine.book.durations.usual_s(FLASH.model, "standard"),
        ledger.habits.lengths(FLASH.model).learned,
        ledger.budget.committed(TODAY).all_picousd,
        ledger.receipt_of(TODAY, TODAY).requests,
    )


NOTHING = (PRIOR_S["standard"], 0, 0, 0)
TAUGHT = (1.0, 200, 10 * COST, 10)


def records(desk: Desk, base_url: str) -> list[DayAccount | Habit | Seen]:
    found = [record for record in desk.disk.load() if isinstance(record, DayAccount | Habit | Seen)]
    return [record for record in found if record.base_url == base_url]


def test_what_an_emulator_taught_and_billed_is_not_the_services() -> None:
    emulated = taught_by(EMULATOR)
    before = records(emulated, "http://127.0.0.1")
    assert {type(record) for record in before} == {DayAccount, Habit, Seen}
    real = emulated.restart()
    assert known(real) == NOTHING
    answer(real, 300.0, answers=21)
    assert known(real)[1:] == (21, COST, 1)
    assert records(real, "http://127.0.0.1") == before, "left as it is"
    assert known(real.restart()) == known(real)
    assert known(real.restart(origin=EMULATOR)) == TAUGHT


def test_another_port_of_this_machine_is_the_same_emulator() -> None:
    assert known(taught_by(EMULATOR).restart(origin="http://127.0.0.1:9999#1")) == TAUGHT


def test_a_new_key_of_the_same_service_knows_what_the_old_one_did() -> None:
    assert known(taught_by(ORIGIN).restart(origin=NEW_KEY)) == TAUGHT


@pytest.mark.parametrize(("origin", "kind"), [(ORIGIN, Fail), (NEW_KEY, Fail), (EMULATOR, Call)])
def test_a_new_key_gives_no_new_budget_and_another_service_has_its_own(origin: str, kind: type[Any]) -> None:
    budget = {"budget_per_day_usd": 10 * COST / 10**12}
    later = taught_by(ORIGIN, **budget).restart(origin=origin)
    assert [type(deed) for deed in ask(later)] == [kind]


def test_what_was_reserved_for_a_job_of_the_old_key_still_counts_and_is_given_back_with_it() -> None:
    desk = Desk()
    place = send(desk)
    held = known(desk)[2]
    assert known(desk.restart(origin=NEW_KEY))[2] == held > 0
    again = desk.restart()
    assert known(again)[2] == held
    bring(again, place)
    assert (only(records(again, HERE), DayAccount).holds, known(again)[2]) == ([], COST)


def test_days_long_ago_are_forgotten_of_ones_own_service_alone() -> None:
    desk = taught_by(EMULATOR)
    real = desk.restart()
    bring(real, send(real))
    assert {record.day for record in every(records(real, HERE), DayAccount)} == {TODAY}
    real.admit("b", key="b", lane=FLASH)
    real.wait((DAYS_KEPT + 1) * DAY_S)
    assert TODAY not in {record.day for record in every(records(real, HERE), DayAccount)}
    assert [record.day for record in every(records(real, "http://127.0.0.1"), DayAccount)] == [TODAY]


@pytest.mark.parametrize(
    ("origin", "base_url"),
    [
        ("https://generativelanguage.googleapis.com#0123456789ab", "https://generativelanguage.googleapis.com"),
        ("https://a.example:8443/path#1", "https://a.example:8443/path"),
        ("http://127.0.0.1:8700#1", "http://127.0.0.1"),
        ("http://127.8.0.2:8700/path#1", "http://127.8.0.2/path"),
        ("https://localhost:1#1", "https://localhost"),
        ("http://[::1]:80#1", "http://[::1]"),
        ("http://localhost#1", "http://localhost"),
        ("https://127.0.0.1.example:8443#1", "https://127.0.0.1.example:8443"),
        ("https://localhost.example:8443#1", "https://localhost.example:8443"),
        ("of no form", "of no form"),
    ],
)
def test_a_service_is_its_base_url_and_this_machine_is_one(origin: str, base_url: str) -> None:
    assert base_url_of(origin) == base_url
