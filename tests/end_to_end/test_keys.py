"""Explicit keys and tickets: nothing is paid for twice, now or in a later process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import (
    ConfigurationError,
    EmbedResponse,
    KeyConflict,
    MemoryStore,
    Request,
    RequestError,
    RequestFailed,
    RequestRejected,
)
from carpool.emulator import Emulator, Fault, Plan, expected_values

from .support import (
    EMBED_MODEL,
    FORMS,
    MODEL,
    ask_all,
    asked_for,
    assert_billed_once,
    assert_own,
    billed,
    jobs_of,
    opened,
    prompts,
    refused,
    rows_of_jobs,
    settled,
    until,
)


def ticket_of(text: str, key: str | None = None, **more: Any) -> Request:
    return Request(model=MODEL, contents=text, key=key, **more)


@FORMS
async def test_the_same_key_joins_what_is_in_flight(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.3)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            together = [client.generate(MODEL, "a", key="a") for _ in range(5)]
            waiting = asyncio.ensure_future(settled(*together))
            await until(lambda: client.stats().sent == 1, "the job")
            late = await asyncio.gather(*(client.generate(MODEL, "a", key="a") for _ in range(5)))
            answers = [*await waiting, *late, await client.result("a")]
        assert_own(["a"] * 11, answers)
        assert len({answer.raw for answer in answers}) == 1
        assert [answer.receipt.reused for answer in answers] == [False] + [True] * 10
        assert sum(bool(answer.receipt.paid_usd) for answer in answers) == 1
        assert_billed_once(emulator, ["a"])


@FORMS
async def test_the_same_key_costs_nothing_after_its_answer_and_in_later_processes(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator() as emulator:
        raws: list[list[bytes]] = []
        for _ in range(3):
            async with opened(emulator, tmp_path, **form) as client:
                for _ in range(2):
                    answers = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(50)))
                    assert_own(prompts(50), answers)
                    raws.append([answer.raw for answer in answers])
        assert all(raw == raws[0] for raw in raws)
        assert rows_of_jobs(emulator) == [50]
        assert_billed_once(emulator, prompts(50))


async def test_a_reused_answer_says_so_and_that_it_cost_nothing(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            first = await client.generate(MODEL, "a", key="a")
        async with opened(emulator, tmp_path) as client:
            second = await client.generate(MODEL, "a", key="a")
            assert client.stats().reused == 1
            assert client.receipt().requests == 0
    assert (first.receipt.reused, second.receipt.reused) == (False, True)
    assert first.receipt.paid_usd
    assert second.receipt.paid_usd == 0
    assert second.receipt.reused_age_s >= 0
    assert (second.key, second.receipt.job, second.raw) == (first.key, first.receipt.job, first.raw)


async def test_a_memory_store_that_is_reopened_keeps_its_keys() -> None:
    store = MemoryStore()
    async with Emulator() as emulator:
        async with opened(emulator, store=store) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        async with opened(emulator, store=store.reopened()) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert_billed_once(emulator, ["a"])


@FORMS
async def test_the_same_key_with_another_request_is_a_conflict_in_flight_afterwards_and_later(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(latency_s=0.2)) as emulator:

        async def conflicts(client: Any) -> None:
            errors = await refused(
                KeyConflict,
                client.generate(MODEL, "b", key="a"),
                client.generate("gemini-2.5-flash", "a", key="a"),
                client.generate(MODEL, "a", key="a", config={"temperature": 0.5}),
                client.embed(EMBED_MODEL, "a", key="a"),
                client.submit(ticket_of("b", "a")),
            )
            assert [error.key for error in errors] == ["a"] * 5

        async with opened(emulator, tmp_path, **form) as client:
            first = asyncio.ensure_future(client.generate(MODEL, "a", key="a"))
            await until(lambda: client.stats().waiting == 1, "the first call")
            await conflicts(client)
            await until(lambda: client.stats().sent == 1, "the job")
            await conflicts(client)
            assert_own(["a"], [await first])
            await conflicts(client)
        async with opened(emulator, tmp_path, **form) as client:
            await conflicts(client)
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert_billed_once(emulator, ["a"])


async def test_the_same_request_in_another_spelling_is_the_same_request() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            first = await client.generate(MODEL, "a", key="a", config={"max_output_tokens": 50, "temperature": 1})
            for model, contents, config in (
                (f"models/{MODEL}", "a", {"maxOutputTokens": 50, "temperature": 1}),
                (MODEL, {"role": "user", "parts": [{"text": "a"}]}, {"temperature": 1, "max_output_tokens": 50}),
                (MODEL, [{"text": "a"}], {"temperature": 1, "max_output_tokens": 50}),
            ):
                again = await client.generate(model, contents, key="a", config=config)
                assert again.raw == first.raw
        assert rows_of_jobs(emulator) == [1]


@FORMS
async def test_a_key_whose_request_was_rejected_may_be_tried_again_also_later(
    form: dict[str, Any], tmp_path: Path
) -> None:
    text = "bad [[error:400:no]]"
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            for tries in (1, 2):
                await refused(RequestRejected, client.generate(MODEL, text, key="a"))
                assert len(jobs_of(emulator)) == tries
        async with opened(emulator, tmp_path, **form) as client:
            await refused(RequestRejected, client.generate(MODEL, text, key="a"))
            assert len(jobs_of(emulator)) == 3


async def test_a_rejected_key_may_be_used_for_another_request(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            await refused(RequestRejected, client.generate(MODEL, "bad [[error:400:no]]", key="a"))
            mended = await client.generate(MODEL, "good", key="a")
            assert_own(["good", "good"], [mended, await client.result("a")])
        async with opened(emulator, tmp_path) as client:
            assert_own(["good"], [await client.generate(MODEL, "good", key="a")])
        assert_billed_once(emulator, ["good"])


async def test_a_stored_verdict_is_told_to_later_processes(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, attempts_max=2) as client:
            await refused(RequestRejected, client.generate(MODEL, "x [[error:400:no]]", key="rejected"))
            await refused(RequestFailed, client.generate(MODEL, "x [[error:13:oh]]", key="failed"))
        calls = len(asked_for(emulator))
        async with opened(emulator, tmp_path) as client:
            (rejected,) = await refused(RequestRejected, client.result("rejected"))
            (failed,) = await refused(RequestFailed, client.result("failed"))
        assert len(asked_for(emulator)) == calls
    assert (rejected.key, rejected.code, rejected.message) == ("rejected", 400, "no")
    assert (failed.key, failed.code, failed.message) == ("failed", 13, "oh")


async def test_identical_prompts_without_a_key_are_distinct_requests(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            together = await ask_all(client, ["same"] * 7)
            one_more = await client.generate(MODEL, "same")
        assert_own(["same"] * 8, [*together, one_more])
        assert len({answer.key for answer in [*together, one_more]}) == 8
        assert billed(emulator, ["same"]) == [8]
        assert not any(answer.receipt.reused for answer in together)


async def test_the_same_prompt_under_two_keys_is_two_requests() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            assert_own(["a", "a"], [await client.generate(MODEL, "a", key=key) for key in ("one", "two")])
        assert billed(emulator, ["a"]) == [2]


async def test_a_result_past_its_time_is_asked_for_anew() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, keep_results_s=0) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert billed(emulator, ["a"]) == [2]


# -- tickets and results


async def test_a_ticket_is_answered_as_often_as_it_is_awaited(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.1)) as emulator:
        async with opened(emulator, tmp_path) as client:
            ticket = await client.submit(ticket_of("a"))
            assert not ticket.done()
            answers = [await ticket, await ticket, await client.result(ticket.key)]
            assert ticket.done()
        assert_own(["a"] * 3, answers)
        assert_billed_once(emulator, ["a"])


async def test_a_cancelled_awaiter_of_a_ticket_takes_nothing_with_it() -> None:
    async with Emulator(Plan(latency_s=0.2)) as emulator:
        async with opened(emulator) as client:
            ticket = await client.submit(ticket_of("a"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ticket, 0.01)
            assert_own(["a"], [await ticket])
        assert_billed_once(emulator, ["a"])


async def test_a_ticket_s_error_is_a_fresh_object_for_each_await() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        ticket = await client.submit(ticket_of("bad [[error:400:no]]"))
        errors = [*await refused(RequestRejected, ticket), *await refused(RequestRejected, ticket)]
        errors += await refused(RequestRejected, client.result(ticket.key))
    assert len({id(error) for error in errors}) == 3
    assert [(error.key, error.code) for error in errors] == [(ticket.key, 400)] * 3


@FORMS
@pytest.mark.parametrize("when", ["waiting", "sent", "answered"])
async def test_tickets_survive_reopening(when: str, form: dict[str, Any], tmp_path: Path) -> None:
    slow = {"linger_s": 60.0, "close_timeout_s": 0.0} if when == "waiting" else {}
    async with Emulator(Plan(latency_s=0.3 if when == "sent" else 0.0)) as emulator:
        async with opened(emulator, tmp_path, **form, **slow) as client:
            tickets = [await client.submit(ticket_of(text)) for text in prompts(10)]
            tickets += [await client.submit(ticket_of(text, f"key {text}")) for text in prompts(10, "keyed")]
            vector = await client.submit(Request(model=EMBED_MODEL, kind="embed", contents="v"))
            if when == "sent":
                await until(lambda: not client.stats().waiting and client.stats().jobs_created >= 2, "all jobs")
            elif when == "answered":
                await client.drain()
        texts = prompts(10) + prompts(10, "keyed")
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(texts, [await client.result(ticket.key) for ticket in tickets])
            found = await client.result(vector.key)
            assert isinstance(found, EmbedResponse)
            assert found.values == expected_values("v")
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(texts, await asyncio.gather(*(client.result(ticket.key) for ticket in tickets)))
        assert billed(emulator, texts) == [1] * 20
        assert emulator.ledger().rows_billed == 21


async def test_the_result_of_a_key_that_nobody_gave_is_an_error() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            automatic = await client.generate(MODEL, "a")
            errors = await refused(RequestError, client.result("never given"), client.result(automatic.key))
        assert errors[0].key == "never given"
        assert "never given" in str(errors[0])
        assert_billed_once(emulator, ["a"])


async def test_a_result_can_be_awaited_while_its_request_is_under_way() -> None:
    async with Emulator(Plan(latency_s=0.2)) as emulator:
        async with opened(emulator) as client:
            await client.submit(ticket_of("a", "a"))
            answers = await asyncio.gather(*(client.result("a") for _ in range(3)))
        assert_own(["a"] * 3, answers)


async def test_submit_returns_before_anything_is_sent_and_flush_sends_it() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, linger_s=60.0) as client:
            tickets = [await client.submit(ticket_of(text)) for text in prompts(5)]
            assert not emulator.requests
            assert client.stats().waiting == 5
            await client.flush()
            assert_own(prompts(5), [await ticket for ticket in tickets])
        assert rows_of_jobs(emulator) == [5]


async def test_drain_sends_everything_and_waits_for_all_of_it(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.1, faults={"row.error": Fault(every=4, count=2)})) as emulator:
        async with opened(emulator, tmp_path, linger_s=60.0) as client:
            tickets = [await client.submit(ticket_of(text)) for text in prompts(9)]
            async with asyncio.timeout(5):
                await client.drain()
            assert all(ticket.done() for ticket in tickets)
            assert client.stats().waiting == client.stats().jobs == 0
            await client.drain()
        assert_billed_once(emulator, prompts(9))


async def test_a_deadline_for_a_request_that_cannot_be_read_is_refused() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        await refused(ConfigurationError, client.submit(ticket_of("a", deadline="soon")))


@pytest.mark.parametrize("on_disk", [True, False])
async def test_who_reads_the_error_of_a_key_while_it_is_tried_again_harms_nobody(on_disk: bool, tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path if on_disk else None) as client:
            await refused(RequestRejected, client.generate(MODEL, "bad [[error:400:no]]", key="k"))
            assert_own(["fine"], [await client.generate(MODEL, "fine", key="other")])
            reading = [asyncio.create_task(client.result(key)) for key in ("k", "other")]
            await asyncio.sleep(0)
            again = asyncio.create_task(client.generate(MODEL, "good", key="k"))
            dropped, other = await settled(*reading)
            assert isinstance(dropped, RequestFailed | RequestRejected)  # the latter if it was read in time
            assert dropped.key == "k"
            assert_own(["fine"], [other])
            assert_own(["good"] * 2, [await again, await client.result("k")])
        assert_billed_once(emulator, ["fine", "good"])
