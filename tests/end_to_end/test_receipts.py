"""Receipts by client, by day and over the slots of a home, and how they look."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import Client, ConfigurationError, DeadlineExceeded, Receipt, Request, StoreError
from carpool._core import routing
from carpool._core.budget import DayAccount, Totals
from carpool._core.messages import PutDay
from carpool._stores.disk import DiskStore
from carpool._upkeep import receipts_by_day
from carpool.emulator import Emulator, EmulatorThread, Fault, Plan
from carpool.sync import Client as SyncClient

from .support import MODEL, opened, prompts, quick, refused, until

STANDARD = ("standard",)
ADOPTS = {"adopt_after_s": 0.2}


def days() -> tuple[date, date]:
    """Return today and tomorrow: a test may go on over midnight."""
    today = datetime.now(UTC).date()
    return today, today + timedelta(1)


def by_day(client: Client | SyncClient, when: tuple[date, date]) -> Receipt:
    return client.receipt(day=when[0]) + client.receipt(day=when[1])


async def ask(client: Client, count: int, about: str, **more: Any) -> list[Any]:
    return await asyncio.gather(*(client.generate(MODEL, text, **more) for text in prompts(count, about)))


async def test_a_days_receipt_holds_what_all_processes_of_the_home_paid(tmp_path: Path) -> None:
    when = days()
    async with Emulator(Plan(latency_s=0.02)) as emulator:
        async with opened(emulator, tmp_path) as first:
            await ask(first, 5, "first")
            await first.drain()
        async with opened(emulator, tmp_path) as second, opened(emulator, tmp_path) as third:
            assert second.receipt().requests == 0
            assert by_day(second, when) == first.receipt()
            await ask(second, 3, "second", ladder=STANDARD)
            await ask(third, 2, "third")
            await asyncio.gather(second.drain(), third.drain())
            for client in (second, third):
                whole = by_day(client, when)
                assert {route: totals.requests for route, totals in whole.by_route.items()} == {
                    "batch": 7,
                    "standard": 3,
                }
                assert whole.paid_usd == Decimal(emulator.ledger().picousd) / 10**12
            assert second.receipt().requests == 3
            assert second.receipt(day=when[0] - timedelta(1)) == Receipt.empty()
        assert by_day(second, when) == by_day(third, when), "also after leaving"


async def test_what_another_service_billed_in_the_same_home_is_in_no_receipt(tmp_path: Path) -> None:
    """Neither from the client's own slot, nor from that of another process."""
    when = days()
    totals = {"batch": Totals(requests=5, list_picousd=2 * 10**12, paid_picousd=10**12)}
    number = (when[0] - date(1970, 1, 1)).days
    account = DayAccount(day=number, routes=totals, spent_picousd=10**12, base_url="https://elsewhere.example")
    stores = [DiskStore(tmp_path, quick(), slots_max=2) for _ in range(2)]
    for store in stores:
        await store.open()
        await store.commit([PutDay(account=account)])
    for store in stores:
        await store.close()
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, budget_per_day_usd=Decimal("0.5")) as client:
            assert by_day(client, when) == Receipt.empty()
            await ask(client, 2, "mine", ladder=STANDARD)
            assert by_day(client, when) == client.receipt()
        async with opened(emulator, tmp_path) as client, opened(emulator, tmp_path) as second:
            assert by_day(client, when).requests == by_day(second, when).requests == 2
    services = receipts_by_day(tmp_path)
    assert {base_url: sum(one.requests for one in of_days.values()) for base_url, of_days in services.items()} == {
        "http://127.0.0.1": 2,
        "https://elsewhere.example": 10,
    }


async def test_what_an_adopted_slot_pays_is_in_the_receipt_of_the_day(tmp_path: Path) -> None:
    when = days()
    async with Emulator(Plan(latency_s=0.5)) as emulator, opened(emulator, tmp_path, **ADOPTS) as mine:
        async with opened(emulator, tmp_path, **ADOPTS) as other:
            for text in prompts(4):
                ticket = asyncio.create_task(other.generate(MODEL, text, key=text))
                ticket.add_done_callback(lambda done: done.exception())
            await until(lambda: other.stats().jobs_created, "the job")
        assert by_day(mine, when).requests == 0
        await until(lambda: by_day(mine, when).requests == 4, "the answers to what the other left")
        assert by_day(mine, when).paid_usd == Decimal(emulator.ledger().picousd) / 10**12
        assert mine.receipt().requests == 4


async def test_a_slot_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    async with Emulator() as emulator, opened(emulator, tmp_path) as client:
        broken = tmp_path / "slot-5"
        broken.mkdir(0o700)
        (broken / "cache.db").write_bytes(b"no database at all, and long enough to be looked at" * 100)
        with pytest.raises(StoreError, match="slot-5"):
            client.receipt(day=days()[0])
        assert client.receipt().requests == 0


@pytest.mark.parametrize("day", ["2026-11-21", 7, datetime(2026, 11, 21, tzinfo=UTC)])
async def test_a_day_is_a_date(day: Any) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        with pytest.raises(ConfigurationError, match=r"day is .*a day in UTC"):
            client.receipt(day=day)


async def test_a_receipt_tells_what_is_lost_unknown_and_overrun_in_each_form() -> None:
    when = days()
    plan = Plan(faults={"generate.dropped_after_apply": Fault(count=1)})
    async with Emulator(plan) as emulator, opened(emulator) as client:
        await client.generate(MODEL, "seen in the end", ladder=STANDARD)
        await client.generate("gemini-flash-latest", "no price", ladder=STANDARD)
        receipt = client.receipt()
        assert receipt.unknown_cost == 1
        assert receipt.lost_usd > 0
        assert receipt == by_day(client, when)
        for shown in (str(receipt), receipt._repr_html_()):
            assert "Without a price, since model or token count is not known: 1." in shown
            assert "Reserved for what never told its cost: $" in shown
            assert "standard" in shown


def test_a_client_for_scripts_has_the_receipts_of_days_too(tmp_path: Path) -> None:
    when = days()
    with EmulatorThread() as emulator:
        settings = quick()
        with SyncClient(
            api_key="AIza-x-0123456789", base_url=emulator.base_url, home=tmp_path, settings=settings
        ) as it:
            it.generate(MODEL, "hello", ladder=STANDARD)
            assert by_day(it, when).requests == it.receipt().requests == 1


async def test_a_deadline_that_money_forbids_to_meet_names_the_setting_and_the_amount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever awaits, and to whoever has a ticket."""
    monkeypatch.setattr(routing, "RESERVE_QUEUE_S", 0.0)  # it would leave no time for a job
    settings = {"max_double_cost_per_day_usd": Decimal(0)}
    async with Emulator(Plan(faults={"job.stuck_running": Fault()})) as emulator:
        async with opened(emulator, tmp_path, **settings) as client:
            durations = client._runtime.engine.book.durations
            for route, usual_s in (("batch", 0.01), ("standard", 0.2)):
                for _ in range(20):
                    durations.saw(MODEL, route, usual_s)  # type: ignore[arg-type]
            more: Any = {"ladder": ("batch", "standard"), "deadline": 3.0}
            ticket = await client.submit(Request(model=MODEL, contents="ticket", key="ticket", **more))
            awaits = (client.generate(MODEL, "await", **more), client.generate(MODEL, "key", key="k", **more))
            errors = await refused(DeadlineExceeded, *awaits, ticket)
            for error in errors:
                assert "may cost up to $0.0" in str(error)
                assert "Settings.max_double_cost_per_day_usd leaves $0.000000 for today (UTC)" in str(error)
        assert emulator.ledger().live_calls == 0
