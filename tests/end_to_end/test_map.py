"""``map``: many rows in, outcomes out as they come, within a window; the same rows later cost nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from carpool import (
    Client,
    ClientClosed,
    ConfigurationError,
    KeyConflict,
    NotBatchable,
    Outcome,
    Request,
    RequestRejected,
)
from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values

from .support import (
    EMBED_MODEL,
    FORMS,
    MODEL,
    assert_billed_once,
    assert_own,
    billed,
    opened,
    prompts,
    rows_of_jobs,
    settled,
    until,
)


def rows(texts: list[str], *, keyed: bool = False) -> Iterator[Request]:
    return (Request(model=MODEL, contents=text, key=f"key {text}" if keyed else None) for text in texts)


async def mapped(client: Client, requests: Any, **more: Any) -> list[Outcome]:
    return [outcome async for outcome in client.map(requests, **more)]


def texts_of(outcomes: list[Outcome]) -> list[str]:
    return sorted(cast("Any", outcome.response).text for outcome in outcomes)


@FORMS
@pytest.mark.parametrize("keyed", [True, False])
async def test_every_row_has_its_outcome_and_the_same_rows_cost_nothing_again_even_later(
    keyed: bool, form: dict[str, Any], tmp_path: Path
) -> None:
    texts = prompts(300)
    async with Emulator(Plan(faults={"output.shuffled": Fault()})) as emulator:
        runs: list[dict[str, bytes]] = []
        for _ in range(2):
            async with opened(emulator, tmp_path, **form) as client:
                for _ in range(2):
                    outcomes = await mapped(client, rows(texts, keyed=keyed))
                    assert all(outcome.ok for outcome in outcomes)
                    assert texts_of(outcomes) == sorted(map(expected_text, texts))
                    runs.append({outcome.key: cast("Any", outcome.response).raw for outcome in outcomes})
        assert all(run == runs[0] for run in runs)
        assert len(runs[0]) == 300
        assert_billed_once(emulator, texts)
    if keyed:
        assert sorted(runs[0]) == sorted(f"key {text}" for text in texts)


async def test_outcomes_of_keyed_rows_are_found_by_their_keys() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        outcomes = {outcome.key: outcome for outcome in await mapped(client, rows(prompts(50), keyed=True))}
        assert_own(prompts(50), [outcomes[f"key {text}"].response for text in prompts(50)])
        assert_own(["prompt 7"], [await client.result("key prompt 7")])


async def test_equal_rows_without_a_key_are_distinct_and_counted(tmp_path: Path) -> None:
    texts = ["same"] * 3 + ["other"]
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            assert len({outcome.key for outcome in await mapped(client, rows(texts))}) == 4
        async with opened(emulator, tmp_path) as client:
            assert len(await mapped(client, rows([*texts, "same"]))) == 5
        assert billed(emulator, ["same", "other"]) == [4, 1]


async def test_two_rows_of_one_key_share_one_answer() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            outcomes = await mapped(client, rows(["a", "a"], keyed=True))
        assert_own(["a", "a"], [outcome.response for outcome in outcomes])
        assert_billed_once(emulator, ["a"])


async def test_errors_are_outcomes_and_the_rest_goes_on(tmp_path: Path) -> None:
    requests = [
        *rows(prompts(20), keyed=True),
        Request(model=MODEL, contents="bad [[error:400:no]]", key="refused"),
        Request(model=MODEL, contents="", key="empty"),
        Request(model=MODEL, contents="a", config={"temprature": 1}, key="misspelt"),
        Request(model="imagen-4", contents="a", key="image"),
        Request(model=MODEL, contents="another", key="key prompt 3"),
        Request(model=MODEL, contents="a", key=""),
        Request(model=MODEL, contents="a", deadline="soon", key="soon"),
        Request(model=MODEL, contents=""),
    ]
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            outcomes = await mapped(client, requests)
        assert_billed_once(emulator, prompts(20))
    assert len(outcomes) == len(requests)
    errors = [(outcome.key, type(outcome.error)) for outcome in outcomes if not outcome.ok]
    assert ("refused", RequestRejected) in errors
    assert ("image", NotBatchable) in errors
    assert ("key prompt 3", KeyConflict) in errors
    assert {key for key, kind in errors if kind is ConfigurationError} >= {"empty", "misspelt", "soon"}
    assert len(errors) == 8
    assert all(outcome.key for outcome in outcomes)
    answers = {outcome.key: outcome.response for outcome in outcomes if outcome.ok}
    assert_own(prompts(20), [answers[f"key {text}"] for text in prompts(20)])


async def test_rows_of_both_kinds_and_several_models_go_together() -> None:
    requests = [
        Request(model=model, contents=text, key=f"{model} {text}")
        for text in prompts(10)
        for model in (MODEL, "gemini-2.5-flash")
    ] + [
        Request(model=EMBED_MODEL, kind="embed", contents=text, key=text, config={"output_dimensionality": 4})
        for text in prompts(10)
    ]
    async with Emulator() as emulator, opened(emulator) as client:
        found = {outcome.key: outcome.response for outcome in await mapped(client, requests)}
    assert_own(prompts(10), [found[f"{MODEL} {text}"] for text in prompts(10)])
    assert_own(prompts(10), [found[f"gemini-2.5-flash {text}"] for text in prompts(10)])
    assert [cast("Any", found[text]).values for text in prompts(10)] == [
        expected_values(text, 4) for text in prompts(10)
    ]


async def test_rows_come_from_an_async_source_too() -> None:
    async def source() -> AsyncIterator[Request]:
        for request in rows(prompts(50), keyed=True):
            await asyncio.sleep(0)
            yield request

    async with Emulator() as emulator:
        async with opened(emulator) as client:
            outcomes = await mapped(client, source())
        assert len(outcomes) == 50
        assert_billed_once(emulator, prompts(50))


async def test_outcomes_come_while_the_source_has_more_to_give() -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[Request]:
        for request in rows(["first"]):
            yield request
        await more.wait()
        for request in rows(["second"]):
            yield request

    async with asyncio.timeout(5), Emulator() as emulator, opened(emulator) as client:
        outcomes = client.map(source())
        assert_own(["first"], [(await anext(outcomes)).response])
        more.set()
        assert_own(["second"], [(await anext(outcomes)).response])
        assert [outcome async for outcome in outcomes] == []


@pytest.mark.parametrize("window", [1, 7, 100])
async def test_never_more_rows_than_the_window_are_outstanding(window: int, tmp_path: Path) -> None:
    taken = given = most = 0

    def source() -> Iterator[Request]:
        nonlocal taken, most
        for request in rows(prompts(60), keyed=True):
            taken += 1
            most = max(most, taken - given)
            yield request

    async with Emulator(Plan(latency_s=(0.0, 0.01))) as emulator:
        async with opened(emulator, tmp_path, linger_s=0.005) as client:
            async for outcome in client.map(source(), window=window):
                given += 1
                assert outcome.ok
                stats = client.stats()
                assert stats.waiting + stats.sent <= window
        assert_billed_once(emulator, prompts(60))
    assert given == 60
    assert most <= window + 1, "the source is asked for at most one row beyond the window"


@pytest.mark.parametrize("window", [0, -1])
async def test_a_window_without_room_is_refused(window: int) -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        with pytest.raises(ConfigurationError):
            await mapped(client, rows(["a"]), window=window)


async def test_no_rows_give_no_outcomes() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        assert await mapped(client, []) == []


async def test_a_map_broken_off_before_it_is_sent_takes_its_rows_out(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, linger_s=60.0, batch_requests_max=10) as client:
            async with aclosing(cast("Any", client.map(rows(prompts(15), keyed=True)))) as outcomes:
                assert (await anext(outcomes)).ok
            await until(lambda: client.stats().waiting == 0, "unsent rows are taken out")
        assert rows_of_jobs(emulator) == [10]
        async with opened(emulator, tmp_path) as client:
            await client.drain()
            assert rows_of_jobs(emulator) == [10]
            assert len(await mapped(client, rows(prompts(15), keyed=True))) == 15
        assert_billed_once(emulator, prompts(15))


@FORMS
@pytest.mark.parametrize("keyed", [True, False])
async def test_a_map_broken_off_in_the_middle_and_run_again_pays_for_nothing_twice(
    keyed: bool, form: dict[str, Any], tmp_path: Path
) -> None:
    texts = prompts(100)
    async with Emulator(Plan(latency_s=(0.0, 0.2))) as emulator:
        async with opened(emulator, tmp_path, **form, batch_requests_max=10) as client:
            broken_off = cast("Any", client.map(rows(texts, keyed=keyed), window=50))
            assert all([(await anext(broken_off)).ok for _ in range(25)])
            await broken_off.aclose()
        async with opened(emulator, tmp_path, **form, batch_requests_max=10) as client:
            outcomes = await mapped(client, rows(texts, keyed=keyed), window=50)
        assert texts_of(outcomes) == sorted(map(expected_text, texts))
        assert_billed_once(emulator, texts)


async def test_a_task_that_maps_and_is_cancelled_leaves_nothing_waiting() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, linger_s=60.0) as client:
            task = asyncio.create_task(mapped(client, rows(prompts(10))))
            await until(lambda: client.stats().waiting == 10, "all rows wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: client.stats().waiting == 0, "all rows are taken out")
        assert not emulator.requests


async def test_an_error_of_the_source_ends_the_map_and_takes_its_rows_out() -> None:
    def source() -> Iterator[Request]:
        yield from rows(prompts(5))
        raise OSError("the disk of the source is gone")

    async with Emulator() as emulator:
        async with opened(emulator, linger_s=60.0) as client:
            with pytest.raises(OSError, match="of the source"):
                await mapped(client, source())
            await until(lambda: client.stats().waiting == 0, "all rows are taken out")
        assert not emulator.requests


async def test_a_map_through_a_narrow_gate_ends() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, waiting_requests_max=3, linger_s=0.001) as client:
            outcomes = await mapped(client, rows(prompts(40), keyed=True), window=20)
        assert len(outcomes) == 40
        assert_billed_once(emulator, prompts(40))


async def test_a_map_whose_client_is_closed_meanwhile_ends(tmp_path: Path) -> None:
    taken: dict[str, Outcome] = {}

    async def take_all(client: Client) -> None:
        async for outcome in client.map(rows(prompts(40), keyed=True), window=10):
            taken[outcome.key] = outcome

    async with Emulator(Plan(latency_s=0.5)) as emulator:
        async with opened(emulator, tmp_path, linger_s=0.01) as client:
            task = asyncio.create_task(take_all(client))
            await until(lambda: client.stats().jobs_created, "the first job")
        (end,) = await settled(task)
        assert end is None or isinstance(end, ClientClosed)
        assert all(isinstance(outcome.error, ClientClosed) for outcome in taken.values())
        async with opened(emulator, tmp_path) as client:
            outcomes = await mapped(client, rows(prompts(40), keyed=True))
        assert texts_of(outcomes) == sorted(map(expected_text, prompts(40)))
        assert_billed_once(emulator, prompts(40))
