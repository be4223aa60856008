"""A home that was put back from a backup: jobs that it does not know are adopted, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import Request
from carpool.emulator import Fault, Plan
from carpool.settings import Price

from .support import (
    FILE,
    FORMS,
    HOUR_S,
    MODEL,
    TimedEmulator,
    assert_billed_once,
    assert_own,
    billed,
    jobs_of,
    opened,
    until,
)

pytestmark = pytest.mark.anyio


HOUR: dict[str, Any] = {"linger_s": HOUR_S, "linger_max_s": HOUR_S}
EARLY, LATE = ["early 0", "early 1"], ["late 0", "late 1", "late 2"]


async def restored(emulator: TimedEmulator, tmp_path: Path, **settings: Any) -> Path:
    """Accept some requests, take a backup, accept others, send all in one job, and put the backup back.

    Each request has its prompt as its key.
    """
    home, backup = tmp_path / "home", tmp_path / "backup"
    async with opened(emulator, home, **HOUR, **settings) as client:
        for text in EARLY:
            await client.submit(Request(model=MODEL, contents=text, key=text))
        shutil.copytree(home, backup)  # nothing is being written just now
        for text in LATE:
            await client.submit(Request(model=MODEL, contents=text, key=text))
        await client.flush()
        await until(lambda: jobs_of(emulator), "the job")
    shutil.rmtree(home)
    backup.rename(home)
    return home


@FORMS
async def test_what_a_job_that_the_home_does_not_know_answers_is_not_asked_again(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        home = await restored(emulator, tmp_path, **form)
        emulator.let_pass()
        async with opened(emulator, home, **form) as client:
            # What the backup has goes on by itself; what it has not, whoever asks for it gets.
            answers = [await client.result(key) for key in EARLY]
            answers += [await client.generate(MODEL, text, key=text) for text in LATE]
            assert_own(EARLY + LATE, answers)
            [job] = jobs_of(emulator)
            assert {answer.receipt.job for answer in answers} == {job.name}
            assert client.stats().jobs_created == 0
            again = await client.generate(MODEL, LATE[0], key=LATE[0])
            assert again.raw == answers[len(EARLY)].raw
        assert_billed_once(emulator, EARLY + LATE)
        async with opened(emulator, home, **form) as client:  # and it is on record
            assert_own(EARLY + LATE, [await client.result(key) for key in EARLY + LATE])
        assert len(jobs_of(emulator)) == 1


async def test_rows_of_an_unknown_job_that_are_errors_are_asked_again_and_the_account_has_what_it_cost(
    tmp_path: Path,
) -> None:
    plan = Plan(latency_s=HOUR_S, faults={"row.error": Fault(count=1, code=13), "row.garbled": Fault(after=1, count=1)})
    settings = {**FILE, "prices": {MODEL: Price(input_usd=Decimal(1_000_000), output_usd=Decimal(0))}}
    async with TimedEmulator(plan) as emulator:
        home = await restored(emulator, tmp_path, **settings)
        emulator.let_pass()
        emulator.plan = Plan()
        async with opened(emulator, home, **settings) as client:
            answers = [await client.result(key) for key in EARLY]
            answers += [await client.generate(MODEL, text, key=text) for text in LATE]
            assert_own(EARLY + LATE, answers)
            first, second = jobs_of(emulator)[:2]
            # The row with the error and the one that could not be read were the early ones: they are sent again.
            assert [answer.receipt.job for answer in answers[len(EARLY) :]] == [first.name] * len(LATE)
            assert {answer.receipt.job for answer in answers[: len(EARLY)]} == {second.name}
            assert client.receipt().paid_usd > 0
        assert billed(emulator, LATE) == [1] * len(LATE)
        assert billed(emulator, EARLY) == [1, 2]  # what came garbled was billed: nobody can tell what it said


async def test_what_the_unknown_job_does_not_answer_is_sent_once_it_has_ended(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        home = await restored(emulator, tmp_path)
        async with opened(emulator, home) as client:
            early = asyncio.ensure_future(client.result(EARLY[0]))
            own = await client.submit(Request(model=MODEL, contents="new", key="new"))
            await until(lambda: client.stats().jobs_created, "a job for what is new")
            assert not early.done()
            emulator.let_pass()
            assert_own([EARLY[0], "new"], [await early, await own])
            assert (await own).receipt.job != (await early).receipt.job
            assert_own([EARLY[1]], [await client.result(EARLY[1])])
        assert_billed_once(emulator, [*EARLY, *LATE, "new"])
