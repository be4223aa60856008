"""Callers that go away: what was not sent is taken out, what was sent is kept for whoever asks the same again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import Client, ClientClosed, RequestFailed
from carpool.emulator import Emulator, Fault, Plan

from .support import (
    EMBED_MODEL,
    FORMS,
    HOUR_S,
    INLINE,
    MODEL,
    TimedEmulator,
    ask_all,
    assert_billed_once,
    assert_own,
    billed,
    opened,
    ops_of,
    prompts,
    refused,
    rows_of_jobs,
    settled,
    until,
)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel calls, and insist that each ends as cancelled."""
    for task in tasks:
        task.cancel()
    outcomes = await settled(*tasks)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * len(tasks)


async def cancel_in_flight(client: Client, texts: list[str], **more: Any) -> None:
    """Ask for some prompts, wait until they are in a job, and cancel the callers."""
    before = client.stats().jobs_created
    tasks = [asyncio.create_task(client.generate(MODEL, text, **more)) for text in texts]
    await until(lambda: client.stats().jobs_created > before, "the job")
    assert client.stats().sent == len(texts)
    await cancelled(*tasks)
    await client.flush()  # one turn of the client's own: it has seen that they are gone


@FORMS
async def test_what_a_cancelled_caller_had_sent_is_adopted_by_the_next_identical_call(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            await cancel_in_flight(client, prompts(5))
            emulator.let_pass()
            emulator.plan = Plan()
            answers = await ask_all(client, prompts(5))
            assert_own(prompts(5), answers)
            assert_billed_once(emulator, prompts(5))
            assert client.stats().reused == 5
            for answer in answers:
                assert answer.receipt.reused
                assert answer.receipt.reused_age_s > 0
                assert answer.receipt.paid_usd == 0
            third = await client.generate(MODEL, "prompt 0")
            assert not third.receipt.reused
        assert rows_of_jobs(emulator) == [5, 1]


@FORMS
async def test_what_came_for_a_cancelled_caller_is_kept_for_the_next_identical_call(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            await cancel_in_flight(client, prompts(5))
            emulator.let_pass()
            await client.drain()
            answers = await ask_all(client, prompts(2))
        async with opened(emulator, tmp_path, **form) as client:
            answers += await ask_all(client, prompts(5)[2:])
        assert_own(prompts(5), answers)
        assert all(answer.receipt.reused for answer in answers)
        assert_billed_once(emulator, prompts(5))


async def test_what_was_adopted_and_delivered_is_not_given_to_a_later_process_again(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path) as client:
            await cancel_in_flight(client, prompts(3))
            emulator.let_pass()
            emulator.plan = Plan()
            await client.drain()
            adopted = await client.generate(MODEL, "prompt 0")
            assert adopted.receipt.reused
        async with opened(emulator, tmp_path) as client:
            answers = await ask_all(client, prompts(3))
        assert [answer.receipt.reused for answer in answers] == [False, True, True]
        assert billed(emulator, prompts(3)) == [2, 1, 1]


async def test_each_abandoned_request_is_adopted_once_the_oldest_first() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            await cancel_in_flight(client, ["same"] * 3)
            emulator.let_pass()
            emulator.plan = Plan()
            answers = await ask_all(client, ["same"] * 5)
        assert_own(["same"] * 5, answers)
        assert sorted(answer.receipt.reused for answer in answers) == [False, False, True, True, True]
        assert len({answer.key for answer in answers}) == 5
        assert billed(emulator, ["same"]) == [5]


async def test_other_requests_of_the_same_words_adopt_nothing() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            await cancel_in_flight(client, ["a"])
            emulator.plan = Plan()
            others = await asyncio.gather(
                client.generate("gemini-2.5-flash", "a"),
                client.generate(MODEL, "a", config={"temperature": 0}),
                client.generate(MODEL, "a "),
                client.generate(MODEL, "a", key="a"),
                client.embed(EMBED_MODEL, "a"),
            )
            assert not any(answer.receipt.reused for answer in others)
            emulator.let_pass()
            assert_own(["a"], [await client.generate(MODEL, "a")])
        assert emulator.ledger().rows_billed == 6


async def test_a_vector_is_adopted_too() -> None:
    config = {"output_dimensionality": 4}
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            task = asyncio.create_task(client.embed(EMBED_MODEL, "a", config=config))
            await until(lambda: client.stats().jobs_created, "the job")
            await cancelled(task)
            emulator.let_pass()
            vector = await client.embed(EMBED_MODEL, "a", config=config)
            assert vector.receipt.reused
        assert emulator.ledger().rows_billed == 1


@pytest.mark.parametrize("key", [None, "mine"])
async def test_a_caller_that_is_cancelled_before_its_request_is_sent_takes_it_out(
    key: str | None, tmp_path: Path
) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, linger_s=0.3) as client:
            task = asyncio.create_task(client.generate(MODEL, "never", key=key))
            await until(lambda: client.stats().waiting == 1, "the request waits")
            await cancelled(task)
            await until(lambda: client.stats().waiting == 0, "the request is taken out")
            assert_own(["other"], [await client.generate(MODEL, "other")])
        assert billed(emulator, ["never", "other"]) == [0, 1]
        async with opened(emulator, tmp_path) as client:
            await client.drain()
        assert billed(emulator, ["never", "other"]) == [0, 1]


async def test_a_caller_that_is_cancelled_at_once_leaves_nothing() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, linger_s=HOUR_S, linger_max_s=HOUR_S) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(20)]
            await asyncio.sleep(0)
            await cancelled(*tasks)
            await client.drain()
            assert client.stats().waiting == 0
        assert not emulator.requests


async def test_of_several_callers_of_one_key_the_others_are_not_harmed_by_one_that_goes() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, linger_s=0.1) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, "a", key="a")) for _ in range(4)]
            await until(lambda: client.stats().waiting == 1, "the request waits")
            await cancelled(tasks[0])
            await until(lambda: client.stats().jobs_created, "the job")
            assert client.stats().sent == 1
            await cancelled(tasks[2])
            emulator.let_pass()
            assert_own(["a"] * 2, [await tasks[1], await tasks[3]])
        assert_billed_once(emulator, ["a"])


@FORMS
async def test_callers_cancelled_at_any_moment_pay_for_nothing_twice(form: dict[str, Any], tmp_path: Path) -> None:
    texts = prompts(200)
    async with Emulator(Plan(latency_s=0.05)) as emulator:
        async with opened(emulator, tmp_path, **form, linger_s=0.005, batch_requests_max=20) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in texts]
            for round_number in range(40):
                await asyncio.sleep(0.005)
                for index in range(round_number, 200, 40):
                    tasks[index].cancel()
            first = await settled(*tasks)
            gone = [text for text, outcome in zip(texts, first, strict=True) if isinstance(outcome, BaseException)]
            second = await ask_all(client, gone)
        assert_own(gone, second)
        assert_billed_once(emulator, texts)


async def test_a_caller_cancelled_in_the_very_turn_of_its_answer_loses_nothing(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **INLINE) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(10)]
            # The first to be answered cancels the rest: their answers are there, but they have not run yet.
            tasks[0].add_done_callback(lambda _: [task.cancel() for task in tasks[1:]])
            first = await settled(*tasks)
            assert_own(["prompt 0"], first[:1])
            gone = [text for text, answer in zip(prompts(10), first, strict=True) if isinstance(answer, BaseException)]
            again = await ask_all(client, gone)
        assert_own(gone, again)
        assert_billed_once(emulator, prompts(10))


@FORMS
async def test_what_was_in_flight_when_the_client_closed_is_adopted_after_reopening(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, text)) for text in prompts(5)]
            await until(lambda: client.stats().sent == 5 and client.stats().jobs_created, "the job")
        await refused(ClientClosed, *tasks)
        emulator.let_pass()
        async with opened(emulator, tmp_path, **form) as client:
            answers = await ask_all(client, prompts(5))
            assert_own(prompts(5), answers)
            assert all(answer.receipt.reused for answer in answers)
        assert ops_of(emulator)["create"] == 1
        assert_billed_once(emulator, prompts(5))


async def test_what_came_while_nobody_asked_is_adopted_by_a_third_process(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path) as client:
            await cancel_in_flight(client, prompts(5))
        emulator.let_pass()
        async with opened(emulator, tmp_path) as client:
            await client.drain()
            assert client.stats().answered == 5
        async with opened(emulator, tmp_path) as client:
            assert_own(prompts(5), await ask_all(client, prompts(5)))
        assert_billed_once(emulator, prompts(5))


async def test_rows_that_nobody_awaits_any_more_are_not_sent_again_unasked(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S, faults={"job.failed": Fault(count=1)})) as emulator:
        async with opened(emulator, tmp_path) as client:
            await cancel_in_flight(client, prompts(5))
            emulator.let_pass()
            emulator.plan = Plan()
            await client.drain()
            assert client.stats().waiting == client.stats().jobs == 0
        assert rows_of_jobs(emulator) == [5]
        async with opened(emulator, tmp_path) as client:
            assert_own(prompts(5), await ask_all(client, prompts(5)))
        assert_billed_once(emulator, prompts(5))


async def test_an_abandoned_request_that_is_too_old_is_not_adopted() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, reuse_window_s=0) as client:
            await cancel_in_flight(client, ["a"])
            emulator.let_pass()
            emulator.plan = Plan()
            answer = await client.generate(MODEL, "a")
            assert not answer.receipt.reused
            await client.drain()
        assert billed(emulator, ["a"]) == [2]


async def test_an_adopter_that_goes_too_leaves_it_to_the_next() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            await cancel_in_flight(client, ["a"])
            for _ in range(2):
                adopter = asyncio.create_task(client.generate(MODEL, "a"))
                await asyncio.sleep(0)
                await cancelled(adopter)
            emulator.let_pass()
            answer = await client.generate(MODEL, "a")
            assert_own(["a"], [answer])
            assert answer.receipt.reused
        assert rows_of_jobs(emulator) == [1]


async def test_an_adopter_of_a_stored_answer_that_goes_too_leaves_it_to_the_next(tmp_path: Path) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, tmp_path) as client:
            await cancel_in_flight(client, ["a"])
            emulator.let_pass()
            await client.drain()
            adopter = asyncio.create_task(client.generate(MODEL, "a"))
            await asyncio.sleep(0)
            await cancelled(adopter)
            answer = await client.generate(MODEL, "a")
            assert_own(["a"], [answer])
        assert_billed_once(emulator, ["a"])


async def stubborn(client: Client, text: str, patience_s: float, struck: list[TimeoutError], **more: Any) -> Any:
    """Ask with a timeout, and again at once whenever it strikes."""
    while True:
        try:
            async with asyncio.timeout(patience_s):
                return await client.generate(MODEL, text, **more)
        except TimeoutError as error:
            struck.append(error)


@pytest.mark.parametrize("key", [None, "mine"])
async def test_asking_again_at_once_after_a_timeout_takes_over_what_is_in_flight(key: str | None) -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            struck: list[TimeoutError] = []
            asking = asyncio.create_task(stubborn(client, "a", 0.05, struck, key=key))
            await until(lambda: client.stats().jobs_created and len(struck) >= 3, "it was asked for again in flight")
            emulator.let_pass()
            answer = await asking
            await client.drain()
        assert_own(["a"], [answer])
        assert rows_of_jobs(emulator) == [1]


@pytest.mark.parametrize("key", [None, "mine"])
async def test_asking_again_at_once_after_a_timeout_takes_the_place_of_what_was_not_sent(key: str | None) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, linger_s=0.3) as client:
            struck: list[TimeoutError] = []
            asking = asyncio.create_task(stubborn(client, "a", 0.1, struck, key=key))
            await until(lambda: client.stats().waiting == 1, "the request waits")
            answer = await asking
        assert struck
        assert_own(["a"], [answer])
        assert_billed_once(emulator, ["a"])


async def test_asking_again_at_once_after_a_deadline_takes_the_place_of_what_was_not_sent() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, linger_s=0.5, jobs_max=1) as client:
            emulator.plan = Plan(latency_s=0.3)
            holder = asyncio.create_task(client.generate("gemini-2.5-flash", "holds the only job"))
            await client.flush()

            async def twice() -> Any:
                try:
                    return await client.generate(MODEL, "a", key="a", deadline=0.1)
                except TimeoutError:
                    return await client.generate(MODEL, "a", key="a")

            async with asyncio.timeout(5):
                assert_own(["a"], [await twice()])
                await holder
        assert billed(emulator, ["a"]) == [1]


async def test_a_caller_that_missed_its_deadline_leaves_its_request_to_the_next() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator) as client:
            (error,) = await settled(client.generate(MODEL, "a", deadline=0.25))
            assert isinstance(error, TimeoutError)
            await until(lambda: client.stats().jobs_created, "the job")
            emulator.let_pass()
            answer = await client.generate(MODEL, "a")
            assert_own(["a"], [answer])
            assert answer.receipt.reused
        assert_billed_once(emulator, ["a"])


async def test_the_adopter_of_a_row_that_fails_gets_its_error() -> None:
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        async with opened(emulator, attempts_max=2) as client:
            await cancel_in_flight(client, ["bad [[error:13:oh]]"])
            emulator.let_pass()
            emulator.plan = Plan()
            (error,) = await refused(RequestFailed, client.generate(MODEL, "bad [[error:13:oh]]"))
            assert error.code == 13
        assert rows_of_jobs(emulator) == [1, 1]
