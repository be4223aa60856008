"""A bug of our own costs the requests that it hits, typed, and nothing else: nobody hangs, nothing paid for is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import carpool
from carpool._gemini.developer import DeveloperProvider
from carpool.emulator import Emulator, Plan, expected_text

SETTINGS = carpool.Settings(linger_s=0.01, poll_min_s=0.02, lookup_wait_s=0.05)


class Buggy(DeveloperProvider):
    """Breaks in one call for a while."""

    def __init__(self, broken: str, **options: Any) -> None:
        super().__init__(**options)
        self.broken = broken

    async def poll(self, name: str) -> carpool.BatchJob:
        if self.broken == "poll":
            raise ZeroDivisionError
        return await super().poll(name)

    def fetch(self, job: carpool.BatchJob) -> Any:
        if self.broken == "fetch":
            raise ZeroDivisionError
        return super().fetch(job)

    async def create(self, job: Any, lines: Any) -> str:
        if self.broken == "create":
            raise ZeroDivisionError
        return await super().create(job, lines)


@pytest.mark.parametrize("broken", ["create", "poll", "fetch"])
async def test_a_bug_in_one_job_fails_its_requests_and_the_next_process_goes_on(broken: str, tmp_path: Path) -> None:
    async with Emulator(plan=Plan(latency_s=0.01)) as emulator, asyncio.timeout(20):
        provider = Buggy(broken, api_key="k", base_url=emulator.base_url, settings=SETTINGS)
        async with carpool.Client(provider=provider, home=tmp_path, settings=SETTINGS) as client:
            with pytest.raises(carpool.RequestFailed, match="bug of carpool"):
                await client.generate("gemini-3.5-flash", "mine", key="mine")
            with pytest.raises(carpool.RequestFailed, match="bug of carpool"):
                await client.generate("gemini-3.5-flash", "mine", key="mine")
            provider.broken = ""
            other = await client.generate("gemini-3.5-flash", "other")
            assert other.text == expected_text("other")
            await client.drain()
        async with carpool.Client(
            api_key="k",
            base_url=emulator.base_url,
            home=tmp_path,
            settings=SETTINGS,
        ) as client:
            answer = await client.result("mine")
            assert answer.json()["candidates"]
        assert emulator.ledger().billed_by_key == {"mine": 1, other.key: 1}


async def test_the_account_is_up_to_date_when_the_last_answer_is_taken(tmp_path: Path) -> None:
    async with (
        Emulator() as emulator,
        carpool.Client(api_key="k", base_url=emulator.base_url, home=tmp_path, settings=SETTINGS) as client,
    ):
        await asyncio.gather(*(client.generate("gemini-3.5-flash", f"p{i}") for i in range(50)))
        assert client.receipt().requests == 50
        assert client.stats().answered == 50


@pytest.mark.parametrize("method", ["_turn", "_finish_turn", "_sleep"])
async def test_a_bug_in_the_loop_itself_tells_everybody(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carpool._runtime.loop import Runtime  # noqa: PLC0415 - only this test looks inside

    broken = False
    whole = getattr(Runtime, method)

    def breaking(self: Any, *arguments: Any) -> Any:
        if broken:
            raise ZeroDivisionError
        return whole(self, *arguments)

    monkeypatch.setattr(Runtime, method, breaking)
    settings = carpool.Settings(linger_s=0.01, poll_min_s=0.02, inline_bytes_max=0, lookup_wait_s=0.02)
    async with Emulator(plan=Plan(latency_s=0.1)) as emulator, asyncio.timeout(20):
        async with carpool.Client(api_key="k", base_url=emulator.base_url, home=tmp_path, settings=settings) as client:
            waiting = [asyncio.create_task(client.generate("gemini-3.5-flash", f"p{i}")) for i in range(3)]
            await client.flush()
            broken = True
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(
                "bug of its own" in str(outcome) or outcome.text == expected_text(f"p{i}")
                for i, outcome in enumerate(outcomes)
            )
            with pytest.raises(carpool.CarpoolError, match="bug of its own"):
                await asyncio.gather(*(client.generate("gemini-3.5-flash", f"later {i}") for i in range(10)))
        broken = False
        async with carpool.Client(api_key="k", base_url=emulator.base_url, home=tmp_path, settings=settings) as client:
            assert [(await client.generate("gemini-3.5-flash", f"p{i}")).text for i in range(3)] == [
                expected_text(f"p{i}") for i in range(3)
            ]
