"""``carpool receipt``: what was paid for, by day and by route."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool._core.budget import DayAccount, Hold, Totals
from carpool._core.messages import PutDay
from carpool._stores.disk import DiskStore
from carpool.settings import Settings

from .program import Done, Inside, Service, write_rows

GOOGLE = "https://generativelanguage.googleapis.com"
TODAY = datetime.now(UTC).date()
FIRST_DAY = date(1970, 1, 1)


def number(day: date) -> int:
    return (day - FIRST_DAY).days


async def put(home: Path, *accounts: DayAccount) -> None:
    store = DiskStore(home, Settings())
    await store.open()
    await store.commit([PutDay(account=account) for account in accounts])
    await store.close()


def account(day: date, base_url: str = GOOGLE, **more: Any) -> DayAccount:
    routes = {
        "batch": Totals(requests=10, list_picousd=4 * 10**12, paid_picousd=2 * 10**12),
        "standard": Totals(requests=2, unknown=1, list_picousd=10**12, paid_picousd=10**12),
    }
    return DayAccount(day=number(day), routes=routes, base_url=base_url, **more)


def only_service(done: Done) -> Any:
    """Return what is told of the one service."""
    [service] = done.data["services"]
    return service


def test_what_was_paid_for_is_shown_while_others_use_the_home(inside: Inside, service: Service) -> None:
    write_rows(inside.folder / "in.jsonl", [{"key": f"k{n}", "prompt": f"prompt {n}"} for n in range(3)])
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    told = only_service(inside.run("receipt", "--json", "--days", "2"))
    assert told["base_url"] == "http://127.0.0.1"
    assert told["total"]["requests"] == 3
    assert Decimal(str(told["total"]["paid_usd"])) == Decimal(service.ledger.picousd) / 10**12
    assert sum(day["by_route"]["batch"]["requests"] for day in told["days"]) == 3


async def test_days_and_routes_have_rows_and_a_sum(inside: Inside) -> None:
    before = TODAY - timedelta(1)
    await put(inside.folder / "home", account(before, overrun_picousd=5), account(TODAY, doubles=3, double_picousd=7))
    done = inside.run("receipt", COLUMNS="100")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines() if line.strip()]
    assert [str(before), "batch", "10", "$4.0000", "$2.0000", "$2.0000"] in lines
    assert ["standard", "2", "$1.0000", "$1.0000", "$0.0000"] in lines
    assert ["all", "24", "$10.0000", "$6.0000", "$4.0000"] in lines
    assert "Without a price, since model or token count is not known: 2." in done.out
    assert "Jobs or requests that the server got twice: 3" in done.out
    assert "Paid beyond what was reserved: $0.0000" in done.out


async def test_what_an_emulator_billed_is_beside_the_money_and_not_in_it(inside: Inside) -> None:
    both = [account(TODAY, base_url) for base_url in ("http://127.0.0.1", GOOGLE, "http://[::1]")]
    await put(inside.folder / "home", *both, account(TODAY - timedelta(1)))
    done = inside.run("receipt", COLUMNS="100")
    titles = [line.strip() for line in done.out.splitlines() if line.startswith("Receipt")]
    assert titles == [f"Receipt: {base_url}" for base_url in (GOOGLE, "http://127.0.0.1", "http://[::1]")]
    lines = [line.split() for line in done.out.splitlines() if line.strip()]
    sums = [line for line in lines if line[0] == "all"]
    assert sums == [
        ["all", str(n), *amounts]
        for n, *amounts in (
            (24, "$10.0000", "$6.0000", "$4.0000"),
            (12, "$5.0000", "$3.0000", "$2.0000"),
            (12, "$5.0000", "$3.0000", "$2.0000"),
        )
    ]
    told = inside.run("receipt", "--json").data["services"]
    assert [(one["base_url"], one["total"]["paid_usd"], len(one["days"])) for one in told] == [
        (GOOGLE, 6, 2),
        ("http://127.0.0.1", 3, 1),
        ("http://[::1]", 3, 1),
    ]


async def test_one_day_can_be_asked_for(inside: Inside) -> None:
    long_ago = TODAY - timedelta(40)
    await put(inside.folder / "home", account(long_ago), account(TODAY - timedelta(1)))
    assert only_service(inside.run("receipt", "--json"))["total"]["requests"] == 12
    for day in (str(long_ago), "yesterday"):
        told = only_service(inside.run("receipt", "--day", day, "--json"))
        assert (told["total"]["requests"], len(told["days"])) == (12, 1)
    assert inside.run("receipt", "--day", "today").out == "Receipt: nothing was paid for\n"
    wrong = inside.run("receipt", "--day", "tomorrow")
    assert (wrong.code, wrong.out) == (2, "")
    assert "--day is 'tomorrow'" in wrong.err


async def test_what_a_dead_process_had_granted_to_live_calls_is_shown_as_lost(inside: Inside) -> None:
    hold = Hold(id="j", day=number(TODAY), route="batch", reserved_picousd=10)
    await put(
        inside.folder / "home",
        DayAccount(day=number(TODAY), base_url=GOOGLE, holds=[hold], granted_picousd=25 * 10**10),
    )
    told = only_service(inside.run("receipt", "--json"))
    assert told["total"]["lost_usd"] == 0.25
    assert "Reserved for what never told its cost: $0.25" in inside.run("receipt").out


async def test_a_grant_of_a_living_process_is_not_lost(inside: Inside) -> None:
    store = DiskStore(inside.folder / "home", Settings())
    await store.open()
    try:
        await store.commit([PutDay(account=DayAccount(day=number(TODAY), base_url=GOOGLE, granted_picousd=10**12))])
        assert only_service(inside.run("receipt", "--json"))["total"]["lost_usd"] == 0
    finally:
        await store.close()


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_home_that_is_not_there_cost_nothing_and_is_not_made(inside: Inside, arguments: tuple[str, ...]) -> None:
    done = inside.run("receipt", "--home", str(inside.folder / "nowhere"), *arguments)
    assert done.code == 0
    assert not (inside.folder / "nowhere").exists()
