"""The receipt is the emulator's own bill to the last digit: of a mixed run, over breaks, and over restarts."""

from __future__ import annotations

import asyncio
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import BudgetExceeded, Client, Receipt, Request, RequestRejected
from carpool.emulator import Emulator, Fault, Plan

from .support import EMBED_MODEL, FILE, FORMS, HOUR_S, TimedEmulator, jobs_of, make_client, opened, prompts, until

PICO = 10**12
THINKS = {"thinking_config": {"thinking_budget": 50}}
SEARCHES = {"tools": [{"google_search": {}}]}


def whole(client: Client) -> Receipt:
    """Return the account of all days and processes of a home."""
    return client._runtime.engine.book.ledger.receipt_of(0, 10**6)


async def mixed(client: Client, count: int) -> list[Any]:
    """Make calls of many kinds, tickets and bare awaits, and wait for all."""
    calls: list[Any] = []
    for number, text in enumerate(prompts(count)):
        match number % 8:
            case 0:
                calls.append(client.generate("gemini-2.5-flash-lite", text, config={"max_output_tokens": 20}))
            case 1:
                calls.append(client.generate("gemini-3.5-flash", text, config=THINKS))
            case 2:
                calls.append(client.generate("gemini-2.5-flash", text, config=SEARCHES))
            case 3:
                calls.append(client.generate("gemini-3.5-flash", text, config=SEARCHES, key=f"key {number}"))
            case 4:
                calls.append(client.embed(EMBED_MODEL, text, config={"output_dimensionality": 8}))
            case 5:
                calls.append(client.generate("gemini-4-argon", text * 50, key=f"key {number}"))
            case 6:
                calls.append(client.generate("gemini-2.5-pro", text + " [[blocked:SAFETY]]"))
            case _:
                calls.append(client.generate("gemini-flash-latest", text))
    return await asyncio.gather(*calls)


def equal(receipt: Receipt, emulator: Emulator) -> None:
    ledger = emulator.ledger()
    assert receipt.paid_usd == Decimal(ledger.picousd) / PICO
    assert receipt.unknown_cost == ledger.unpriced
    assert receipt.requests == ledger.rows_billed + ledger.live_calls


@FORMS
async def test_the_receipt_of_a_mixed_run_is_the_bill(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.05)) as emulator, opened(emulator, tmp_path, **form) as client:
        answers = await mixed(client, 800)
        await client.drain()
        receipt = client.receipt()
        equal(receipt, emulator)
        equal(whole(client), emulator)
        single = [answer.receipt for answer in answers]
        known = [one for one in single if one.paid_usd is not None]
        assert sum(one.paid_usd for one in known) == receipt.paid_usd
        assert sum(one.list_usd for one in known) == receipt.list_usd
        assert len(single) - len(known) == receipt.unknown_cost > 0
        assert 0 <= receipt.overrun_usd < receipt.paid_usd


@pytest.mark.parametrize("op", ["reset", "cut"])
async def test_an_output_that_breaks_off_is_counted_once(tmp_path: Path, op: str) -> None:
    plan = Plan(latency_s=0.05, faults={f"download.{op}": Fault(count=3, bytes=700_000)})
    async with Emulator(plan) as emulator, opened(emulator, tmp_path, **FILE) as client:
        again = readings(client)
        calls = [client.generate("gemini-3.5-flash", text * 60) for text in prompts(1_500)]
        await asyncio.gather(*calls)
        await client.drain()
        assert sum(again) > 0, "a part had been settled before it broke off"
        equal(client.receipt(), emulator)
        equal(whole(client), emulator)


def readings(client: Client) -> list[int]:
    """Return a list that takes the numbers of answers that were read before, block by block."""
    ledger, counts = client._runtime.engine.book.ledger, list[int]()
    book = ledger.book

    def noting(*facts: Any) -> None:
        book(*facts)
        counts.append(facts[5].answers if len(facts) > 5 else 0)

    ledger.book = noting  # type: ignore[method-assign]
    return counts


async def test_an_output_of_an_unknown_job_that_breaks_off_is_counted_once(tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    texts = [text * 60 for text in prompts(1_500)]
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, home, linger_s=HOUR_S, linger_max_s=HOUR_S, **FILE) as client:
            await client.submit(Request(model="gemini-3.5-flash", contents="early", key="early"))
            shutil.copytree(home, backup)
            for text in texts:
                await client.submit(Request(model="gemini-3.5-flash", contents=text, key=text[:12]))
            await client.flush()
            await until(lambda: jobs_of(emulator), "the job")
        shutil.rmtree(home)
        backup.rename(home)
        emulator.let_pass()
        emulator.plan = Plan(faults={"download.cut": Fault(count=1, bytes=700_000)})
        async with opened(emulator, home, **FILE) as client:
            again = readings(client)
            await client.result("early")
            await client.drain()
            assert sum(again) > 0
            equal(client.receipt(), emulator)
            equal(whole(client), emulator)


async def test_the_account_goes_on_after_a_restart_at_any_time(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.3)) as emulator:
        for wait_s in (0.0, 0.1, 0.2, 0.35, 0.5):
            client = make_client(emulator, tmp_path)
            async with client:
                task = asyncio.create_task(mixed(client, 160))
                await asyncio.sleep(wait_s)
                await client._runtime.close("keep", clean=False)
            await asyncio.gather(task, return_exceptions=True)
        async with opened(emulator, tmp_path) as client:
            await mixed(client, 160)
            await client.drain()
            equal(whole(client), emulator)


async def test_rows_that_are_refused_cost_nothing(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.05)) as emulator, opened(emulator, tmp_path) as client:
        good = client.generate("gemini-3.5-flash", "good")
        bad = client.generate("gemini-3.5-flash", "[[error:3:no]]")
        answer, error = await asyncio.gather(good, bad, return_exceptions=True)
        assert isinstance(error, RequestRejected)
        await client.drain()
        assert client.receipt().paid_usd == answer.receipt.paid_usd
        equal(client.receipt(), emulator)


@pytest.mark.parametrize("reused", [True])
async def test_an_answer_that_was_there_costs_nothing_again(tmp_path: Path, reused: bool) -> None:
    async with Emulator(Plan(latency_s=0.05)) as emulator:
        for turn in range(2):
            async with opened(emulator, tmp_path) as client:
                answer = await client.generate("gemini-3.5-flash", "again", key="mine")
                await client.drain()
                equal(whole(client), emulator)
                assert answer.receipt.reused == (reused and turn > 0)


async def test_what_a_job_that_the_home_does_not_know_cost_is_on_the_account(tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, home, linger_s=HOUR_S, linger_max_s=HOUR_S) as client:
            await client.submit(Request(model="gemini-3.5-flash", contents="early", key="early"))
            shutil.copytree(home, backup)  # nothing is being written just now
            for text in prompts(20):
                await client.submit(Request(model="gemini-3.5-flash", contents=text, key=text))
            await client.flush()
            await until(lambda: jobs_of(emulator), "the job")
        shutil.rmtree(home)
        backup.rename(home)
        emulator.let_pass()
        async with opened(emulator, home) as client:
            await client.result("early")
            await asyncio.gather(*[client.generate("gemini-3.5-flash", text, key=text) for text in prompts(20)])
            await client.drain()
            assert len(jobs_of(emulator)) == 1
            equal(whole(client), emulator)
            equal(client.receipt(), emulator)
            assert client.receipt().overrun_usd == client.receipt().paid_usd > 0
        async with opened(emulator, home) as client:
            equal(whole(client), emulator)
            assert client.receipt().requests == 0


async def test_a_budget_holds_over_restarts_and_tells_callers_before_anything_is_sent(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.05)) as emulator:
        for turn in range(2):
            async with opened(emulator, tmp_path, budget_per_day_usd=Decimal("0.02")) as client:
                calls = [client.generate("gemini-3.5-flash", text) for text in prompts(200, f"{turn}")]
                found = await asyncio.gather(*calls, return_exceptions=True)
                await client.drain()
                refused = [one for one in found if isinstance(one, BaseException)]
                assert {type(one) for one in refused} <= {BudgetExceeded}
                assert (0 < len(refused) < 200) if not turn else refused
                equal(whole(client), emulator)
                assert whole(client).paid_usd <= Decimal("0.02")
                assert len(found) - len(refused) == client.receipt().requests
