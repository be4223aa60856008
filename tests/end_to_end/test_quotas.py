"""Quotas of the server: enqueued tokens that are not told and change, and the storage of files."""

from __future__ import annotations

import asyncio

from carpool.emulator import Emulator, Plan

from .support import FILE, ask_all, assert_billed_once, assert_own, calls_of, opened, prompts, rows_of_jobs, until


async def test_below_a_ceiling_of_tokens_that_changes_every_call_is_answered_once() -> None:
    texts = prompts(300, "a prompt of some length, so that it has some tokens")
    plan = Plan(latency_s=0.02, enqueued_tokens_max=600)
    async with Emulator(plan) as emulator, opened(emulator) as client:

        async def change() -> None:
            for jobs, ceiling in ((2, 100), (4, 100_000)):
                await until(lambda jobs=jobs: len(rows_of_jobs(emulator)) >= jobs, f"{jobs} jobs")  # type: ignore[misc]
                emulator.world.plan = Plan(latency_s=0.02, enqueued_tokens_max=ceiling)

        answers, _ = await asyncio.gather(ask_all(client, texts), change())
        assert_own(texts, answers)
        assert_billed_once(emulator, texts)
        assert 429 in {call.status for call in calls_of(emulator, "create")}
        assert len(rows_of_jobs(emulator)) >= 4


async def test_files_wait_for_room_in_the_storage_and_are_not_refused() -> None:
    texts = prompts(60)
    async with Emulator(Plan(storage_bytes_max=20_000)) as emulator:
        async with opened(emulator, **FILE, batch_requests_max=5, file_storage_bytes_max=6_000, linger_s=0.0) as client:
            assert_own(texts, await ask_all(client, texts))
        assert_billed_once(emulator, texts)
        assert {call.status for call in calls_of(emulator, "upload.start", "upload.finalize")} == {200}


async def test_a_storage_that_others_have_filled_is_waited_for() -> None:
    texts = prompts(20)
    async with Emulator(Plan(storage_bytes_max=10)) as emulator, opened(emulator, **FILE) as client:

        async def mend() -> None:
            while sum(call.status == 429 for call in calls_of(emulator, "upload.start")) < 3:
                await client.flush()
            emulator.world.plan = Plan()

        answers, _ = await asyncio.gather(ask_all(client, texts), mend())
        assert_own(texts, answers)
        assert_billed_once(emulator, texts)
