"""More callers than may wait: first come, first served; nobody is forgotten, nobody is counted twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import ClientClosed, ConfigurationError, Request
from carpool.emulator import Emulator, Fault, Plan

from .support import (
    EMBED_MODEL,
    FORMS,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    opened,
    prompts,
    refused,
    settled,
    until,
)


@FORMS
@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_all_callers_end_however_few_may_wait(limit: int, form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **form, waiting_requests_max=limit, linger_s=0.001) as client:
            assert_own(prompts(50), await ask_all(client, prompts(50)))
            assert client.stats().queued_callers == 0
        assert_billed_once(emulator, prompts(50))


@pytest.mark.parametrize("limit", [1, 300])
async def test_a_limit_in_bytes_holds_callers_back_too(limit: int) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_bytes_max=limit, linger_s=0.001) as client:
            assert_own(prompts(50), await ask_all(client, prompts(50)))
        assert_billed_once(emulator, prompts(50))


async def test_callers_queue_before_they_are_taken_in_and_say_so() -> None:
    async with Emulator() as emulator, opened(emulator, waiting_requests_max=3, linger_s=0.3) as client:
        first = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(3)]
        await until(lambda: client.stats().waiting == 3, "the first three wait")
        second = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(5, "second")]
        await until(lambda: client.stats().queued_callers == 5, "the others queue")
        assert client.stats().waiting == 3
        assert_own(prompts(3) + prompts(5, "second"), await settled(*first, *second))


async def test_callers_are_served_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    keys = [f"k{index:02}" for index in range(40)]
    async with Emulator() as emulator:
        settings = {"waiting_requests_max": 1, "batch_requests_max": 1, "jobs_max": 1, "linger_s": 0.0}
        async with opened(emulator, tmp_path, **settings) as client:
            await settled(*(client.generate(MODEL, key, key=key) for key in keys))
        assert list(emulator.ledger().billed_by_key) == keys


async def test_a_newcomer_does_not_pass_those_who_queue() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=1, batch_requests_max=1, jobs_max=1) as client:
            queued = [asyncio.create_task(client.generate(MODEL, key, key=key)) for key in ("a", "b", "c", "d")]
            newcomers: list[asyncio.Task[Any]] = []
            queued[0].add_done_callback(
                lambda _: newcomers.append(asyncio.create_task(client.generate(MODEL, "new", key="new")))
            )
            await settled(*queued)
            await settled(*newcomers)
        assert list(emulator.ledger().billed_by_key) == ["a", "b", "c", "d", "new"]


@pytest.mark.parametrize("which", ["first", "last", "every second", "all but the last"])
async def test_queued_callers_that_are_cancelled_do_not_block_the_others(which: str) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=1, linger_s=0.02) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(20)]
            await until(lambda: client.stats().queued_callers == 19, "all but one queue")
            gone = {"first": [1], "last": [19], "every second": range(1, 20, 2), "all but the last": range(1, 19)}[
                which
            ]
            for index in gone:
                tasks[index].cancel()
            outcomes = await settled(*tasks)
            assert_own(["one more"], [await client.generate(MODEL, "one more")])
            assert client.stats().queued_callers == 0
        kept = [index for index in range(20) if index not in gone]
        assert all(isinstance(outcomes[index], asyncio.CancelledError) for index in gone)
        assert_own([f"prompt {index}" for index in kept], [outcomes[index] for index in kept])
        assert_billed_once(emulator, ["one more", *(f"prompt {index}" for index in kept)])


async def test_a_caller_cancelled_in_the_turn_in_which_it_is_let_in_gives_its_place_to_the_next() -> None:
    async with Emulator() as emulator, opened(emulator, waiting_requests_max=1, linger_s=0.2) as client:
        tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(5)]
        await until(lambda: client.stats().queued_callers == 4, "all but one queue")
        for index in (1, 2):
            await client.flush()
            assert client.stats().queued_callers == 4 - index, "the next is let in, and has not run yet"
            tasks[index].cancel()
        outcomes = await settled(*tasks)
        assert_own(["prompt 0", "prompt 3", "prompt 4"], [outcomes[0], outcomes[3], outcomes[4]])
        assert all(isinstance(outcomes[index], asyncio.CancelledError) for index in (1, 2))


async def test_queued_callers_that_are_refused_do_not_keep_their_place() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=1, linger_s=0.01) as client:
            calls: list[Any] = []
            for text in prompts(15):
                calls += [client.generate(MODEL, text), client.generate(MODEL, ""), client.generate(MODEL, "a", key="")]
            outcomes = await settled(*calls)
        assert_own(prompts(15), outcomes[::3])
        assert all(isinstance(error, ConfigurationError) for error in outcomes[1::3] + outcomes[2::3])
        assert_billed_once(emulator, prompts(15))


async def test_callers_that_queue_when_the_client_closes_are_told() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=1, linger_s=60.0) as client:
            tasks: list[asyncio.Task[Any]] = []
            tasks += [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(10)]
            tasks += [asyncio.create_task(client.embed(EMBED_MODEL, text)) for text in prompts(10)]
            tickets = [asyncio.create_task(client.submit(Request(model=MODEL, contents="t"))) for _ in range(3)]
            await until(lambda: client.stats().queued_callers == 22, "all but one queue")
        errors = await refused(ClientClosed, *tasks, *tickets)
        assert len({id(error) for error in errors}) == 23
        assert not emulator.requests


async def test_callers_that_queue_while_the_client_drains_are_answered_or_told() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=1, on_close="drain") as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(10)]
            await until(lambda: client.stats().queued_callers == 9, "all but one queue")
        outcomes = await settled(*tasks)
        assert all(isinstance(outcome, ClientClosed) or getattr(outcome, "text", "") for outcome in outcomes)


async def test_tickets_vectors_and_texts_share_the_gate() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=2, linger_s=0.001) as client:

            async def ticket(text: str) -> Any:
                return await (await client.submit(Request(model=MODEL, contents=text)))

            outcomes = await settled(
                *(client.generate(MODEL, text) for text in prompts(20)),
                *(ticket(text) for text in prompts(20, "ticket")),
                *(client.embed(EMBED_MODEL, text, config={"output_dimensionality": 4}) for text in prompts(20)),
            )
        assert_own(prompts(20) + prompts(20, "ticket"), outcomes[:40])
        assert [len(outcome.values) for outcome in outcomes[40:] if not isinstance(outcome, BaseException)] == [4] * 20


async def test_rows_that_are_sent_again_do_not_lock_out_the_callers(tmp_path: Path) -> None:
    faults = {"row.error": Fault(probability=0.3, code=13), "job.failed": Fault(probability=0.2)}
    async with Emulator(Plan(faults=faults), seed=3) as emulator:
        settings = {"waiting_requests_max": 2, "linger_s": 0.001, "attempts_max": 20, "batch_requests_max": 3}
        async with opened(emulator, tmp_path, **settings) as client:
            assert_own(prompts(60), await ask_all(client, prompts(60)))
        assert_billed_once(emulator, prompts(60))


async def test_callers_wait_while_the_server_takes_no_job_and_go_on_when_it_does() -> None:
    async with Emulator(Plan(faults={"create.429": Fault()})) as emulator:
        async with opened(emulator, waiting_requests_max=1, batch_requests_max=1, jobs_max=1) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(10)]
            await until(lambda: client.stats().queued_callers == 8, "one is in a job, one waits, the others queue")
            emulator.plan = Plan()
            assert_own(prompts(10), await settled(*tasks))
        assert_billed_once(emulator, prompts(10))
