"""Leaving under an anyio scope that was cancelled, which cancels at every await and not just once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import carpool
from carpool.emulator import Emulator, Plan

MODEL = "gemini-3.5-flash"


def client_at(emulator: Emulator, home: Path, **settings: Any) -> carpool.Client:
    quick: dict[str, Any] = {"linger_s": 0.01, "poll_min_s": 0.02, "lookup_wait_s": 0.02}
    return carpool.Client(
        api_key="k", base_url=emulator.base_url, home=home, settings=carpool.Settings(**quick | settings)
    )


async def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, "it never came to that"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("on_close", ["keep", "drain", "cancel"])
async def test_a_block_that_is_cancelled_lets_go_of_its_home(on_close: Any, tmp_path: Path) -> None:
    async with Emulator(plan=Plan(latency_s=600)) as emulator:
        with anyio.CancelScope() as scope:
            async with client_at(emulator, tmp_path, on_close=on_close) as client, anyio.create_task_group() as group:
                group.start_soon(client.generate, MODEL, "under way")
                await until(lambda: client.stats().sent)
                scope.cancel()
                await client.generate(MODEL, "never sent")
        assert scope.cancelled_caught
        assert (tmp_path / "slot-0" / "clean").exists()
        async with client_at(emulator, tmp_path):
            pass
        assert not (tmp_path / "slot-1").exists()


async def test_a_drain_that_is_cancelled_lets_go_of_its_home(tmp_path: Path) -> None:
    async with Emulator(plan=Plan(latency_s=600)) as emulator:
        with anyio.CancelScope() as scope:
            async with client_at(emulator, tmp_path, on_close="drain") as client:
                await client.submit(carpool.Request(model=MODEL, contents="takes long"))
                asyncio.get_running_loop().call_later(0.05, scope.cancel)
        assert scope.cancelled_caught
        assert (tmp_path / "slot-0" / "clean").exists()


async def test_a_map_that_is_cancelled_takes_its_rows_back(tmp_path: Path) -> None:
    async with Emulator() as emulator, client_at(emulator, tmp_path, linger_s=600, linger_max_s=600) as client:
        rows = [carpool.Request(model=MODEL, contents=f"row {number}") for number in range(3)]
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_take_all, client, rows)
                await until(lambda: client.stats().waiting == 3)
                scope.cancel()
        await until(lambda: client.stats().waiting == 0)


async def _take_all(client: carpool.Client, rows: list[carpool.Request]) -> None:
    async for outcome in client.map(rows):
        assert outcome.ok
