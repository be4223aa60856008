"""What the file form rests on, made untrue one by one: the double that follows is found, cancelled and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from carpool import Alarm, Client
from carpool.emulator import Fault, Plan

from ..end_to_end.support import (  # noqa: TID252 - test folders are no packages
    API_KEY,
    FILE,
    HOUR_S,
    PATIENCE_S,
    TimedEmulator,
    ask_all,
    assert_own,
    billed,
    jobs_of,
    prompts,
    quick,
    until,
)

TEXTS: Final = prompts(5)
LATE: Final = {"create.applied_later": Fault(count=1, seconds=0.4)}
"""It takes effect when it was looked for and revoked, and another one was sent."""
UNTRUE: Final[dict[str, dict[str, Any]]] = {
    "a create whose input file was deleted takes no effect": {"create_ignores_deleted_file": True, "faults": LATE},
    "a deletion is immediate": {"delete_lag_s": 60.0, "faults": LATE},
    "lists lag for less than the wait": {"list_lag_s": 0.6, "faults": {"create.dropped_after_apply": Fault(count=1)}},
}


@pytest.mark.parametrize("untrue", UNTRUE)
async def test_a_double_is_found_cancelled_and_counted(untrue: str, tmp_path: Path) -> None:
    alarms: list[Alarm] = []
    plan = Plan(latency_s=HOUR_S, **UNTRUE[untrue])
    client_settings = quick(**FILE, sweep_s=1.0, lookup_wait_s=0.05)
    async with TimedEmulator(plan) as emulator, asyncio.timeout(PATIENCE_S):
        async with Client(
            api_key=API_KEY,
            base_url=emulator.base_url,
            home=tmp_path,
            settings=client_settings,
            on_alarm=alarms.append,
        ) as client:
            asking = asyncio.create_task(ask_all(client, TEXTS))
            await until(lambda: client.receipt().doubles, "a double that is counted")
            await until(lambda: "CANCELLED" in [job.state for job in jobs_of(emulator)], "its cancellation")
            emulator.let_pass()
            assert_own(TEXTS, await asking)
            await client.drain()
            assert client.receipt().doubles == 1
            assert any(reason.startswith("twins") for reason in client.health().reasons)
        assert sorted(job.state for job in jobs_of(emulator)) == ["CANCELLED", "SUCCEEDED"]
        one, other = (job.display_name.rpartition(".")[0] for job in jobs_of(emulator))
        assert one == other, "two jobs of different requests are no double"
        assert [alarm.name for alarm in alarms].count("twins") == 1
        assert billed(emulator, TEXTS) == [1] * len(TEXTS), "what was cancelled in time costs nothing"


async def test_as_long_as_they_are_true_there_is_none(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S, faults=LATE)) as emulator, asyncio.timeout(PATIENCE_S):
        async with Client(
            api_key=API_KEY,
            base_url=emulator.base_url,
            home=tmp_path,
            settings=quick(**FILE, sweep_s=1.0, lookup_wait_s=0.05),
        ) as client:
            asking = asyncio.create_task(ask_all(client, TEXTS))
            await until(lambda: jobs_of(emulator), "a job")
            sweeps = len([call for call in emulator.requests if call.op == "list"])
            await until(lambda: [call.op for call in emulator.requests].count("list") > sweeps + 1, "two more looks")
            emulator.let_pass()
            assert_own(TEXTS, await asking)
            assert client.receipt().doubles == 0
        assert len(jobs_of(emulator)) == 1
        assert billed(emulator, TEXTS) == [1] * len(TEXTS)
