"""Leaving the client: what is sent stays, what is not goes as promised, and nobody is left hanging or unheard."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from carpool import Client, ClientClosed, ConfigurationError, MemoryStore, Request, RequestRejected
from carpool.emulator import Emulator, Fault, Plan

from .support import (
    API_KEY,
    FORMS,
    MODEL,
    PATIENCE_S,
    asked_for,
    assert_billed_once,
    assert_own,
    billed,
    jobs_of,
    make_client,
    opened,
    ops_of,
    prompts,
    refused,
    rows_of_jobs,
    settled,
    until,
)


class Leaves(Exception):
    """What a block is left with."""


@asynccontextmanager
async def left_with_an_error(emulator: Emulator, home: Path, **settings: Any) -> AsyncGenerator[Client]:
    """Open a client whose block ends with an exception."""
    with suppress(Leaves):
        async with opened(emulator, home, **settings) as client:
            yield client
            raise Leaves


def ask_in_tasks(client: Client, texts: list[str], **more: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(client.generate(MODEL, text, **more)) for text in texts]


async def tickets_for(client: Client, texts: list[str]) -> None:
    await asyncio.gather(*(client.submit(Request(model=MODEL, contents=text, key=text)) for text in texts))


# -- keep


async def test_unsent_bare_calls_are_withdrawn_and_told(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, linger_s=60.0) as client:
            tasks = ask_in_tasks(client, prompts(5))
            await until(lambda: client.stats().waiting == 5, "all calls wait")
        errors = await refused(ClientClosed, *tasks)
        assert len({id(error) for error in errors}) == 5
        async with opened(emulator, tmp_path) as client:
            await client.drain()
            assert client.stats().parked == 0
        assert not asked_for(emulator)


@FORMS
async def test_unsent_tickets_and_explicit_keys_are_sent_on_a_clean_exit(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.1)) as emulator:
        async with opened(emulator, tmp_path, **form, linger_s=60.0) as client:
            await tickets_for(client, prompts(5, "ticket"))
            keyed = [asyncio.create_task(client.generate(MODEL, text, key=text)) for text in prompts(5, "keyed")]
            bare = ask_in_tasks(client, prompts(5, "bare"))
            await until(lambda: client.stats().waiting == 15, "all calls wait")
        await refused(ClientClosed, *keyed, *bare)
        assert rows_of_jobs(emulator) == [10]
        async with opened(emulator, tmp_path, **form) as client:
            texts = prompts(5, "ticket") + prompts(5, "keyed")
            assert_own(texts, [await client.result(text) for text in texts])
        assert_billed_once(emulator, texts)


async def test_after_an_exception_unsent_tickets_stay_on_disk_and_go_on_in_the_next_process(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with left_with_an_error(emulator, tmp_path, linger_s=60.0) as client:
            await tickets_for(client, prompts(5))
            bare = ask_in_tasks(client, prompts(5, "bare"))
            await until(lambda: client.stats().waiting == 10, "all calls wait")
        await refused(ClientClosed, *bare)
        assert not emulator.requests
        async with opened(emulator, tmp_path) as client:
            await client.drain()
            assert_billed_once(emulator, prompts(5))
            assert_own(prompts(5), [await client.result(text) for text in prompts(5)])


@FORMS
async def test_what_is_in_flight_is_neither_cancelled_nor_lost(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.4)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            tasks = ask_in_tasks(client, prompts(5))
            await until(lambda: client.stats().jobs_created, "the job")
        errors = await refused(ClientClosed, *tasks)
        assert all("stays on record" in str(error) for error in errors)
        assert ops_of(emulator)["cancel"] == 0
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(5), await settled(*ask_in_tasks(client, prompts(5))))
        assert rows_of_jobs(emulator) == [5]


@FORMS
async def test_leaving_waits_for_a_create_that_is_in_the_air(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(faults={"create.slow": Fault(seconds=0.4)})) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            tasks = ask_in_tasks(client, prompts(5))
            await until(lambda: ops_of(emulator)["create"], "the create")
        await refused(ClientClosed, *tasks)
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(5), await settled(*ask_in_tasks(client, prompts(5))))
        assert ops_of(emulator)["create"] == 1
        assert ops_of(emulator)["list"] <= 1, "the job was looked for, beside the look with which a client begins"
        assert_billed_once(emulator, prompts(5))


@FORMS
async def test_a_create_that_was_cut_off_by_leaving_is_found_again_and_not_repeated(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(faults={"create.slow": Fault(seconds=5.0)})) as emulator:
        async with opened(emulator, tmp_path, **form, close_timeout_s=0) as client:
            await tickets_for(client, prompts(5))
            await until(lambda: ops_of(emulator)["create"], "the create")
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(5), [await client.result(text) for text in prompts(5)])
        assert ops_of(emulator)["create"] == 1
        assert_billed_once(emulator, prompts(5))


async def test_leaving_does_not_wait_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    async with Emulator(Plan(faults={"create.503": Fault(), "list.503": Fault()})) as emulator:
        async with opened(emulator, tmp_path, close_timeout_s=0.1) as client:
            await tickets_for(client, prompts(3))
            await until(lambda: ops_of(emulator)["list"], "the first look for the job")
        emulator.plan = Plan()
        async with opened(emulator, tmp_path) as client:
            assert_own(prompts(3), [await client.result(text) for text in prompts(3)])
        assert_billed_once(emulator, prompts(3))


# -- drain and cancel


@FORMS
async def test_drain_answers_everybody_before_it_leaves(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.1, faults={"row.error": Fault(every=3, count=2)})) as emulator:
        async with opened(emulator, tmp_path, **form, on_close="drain", linger_s=60.0) as client:
            tasks = ask_in_tasks(client, prompts(5))
            await tickets_for(client, prompts(5, "ticket"))
        assert_own(prompts(5), await settled(*tasks))
        assert_billed_once(emulator, prompts(5) + prompts(5, "ticket"))


async def test_drain_is_not_for_a_block_left_with_an_exception(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with left_with_an_error(emulator, tmp_path, on_close="drain", linger_s=60.0) as client:
            await tickets_for(client, prompts(3))
            tasks = ask_in_tasks(client, prompts(3, "bare"))
            await until(lambda: client.stats().waiting == 6, "all calls wait")
        await refused(ClientClosed, *tasks)
        assert not emulator.requests


@FORMS
async def test_cancel_cancels_the_jobs_too(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=3_600.0)) as emulator:
        async with opened(emulator, tmp_path, **form, on_close="cancel", batch_requests_max=2) as client:
            tasks = ask_in_tasks(client, prompts(4))
            await until(lambda: client.stats().jobs_created == 2, "both jobs")
        await refused(ClientClosed, *tasks)
        assert [job.state for job in jobs_of(emulator)] == ["CANCELLED"] * 2


async def test_cancel_sends_nothing_that_was_not_sent(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, on_close="cancel", linger_s=60.0) as client:
            await tickets_for(client, prompts(3))
            tasks = ask_in_tasks(client, prompts(3, "bare"))
            await until(lambda: client.stats().waiting == 6, "all calls wait")
        await refused(ClientClosed, *tasks)
        assert not emulator.requests


# -- the wrong moment, the wrong place


def uses(client: Client) -> dict[str, Callable[[], Any]]:
    """Return every way to use a client, by name; some are synchronous."""

    async def listed() -> list[Any]:
        return [job async for job in client.jobs.list()]

    async def mapped() -> list[Any]:
        return [outcome async for outcome in client.map([Request(model=MODEL, contents="a")])]

    return {
        "generate": lambda: client.generate(MODEL, "a"),
        "generate with a key": lambda: client.generate(MODEL, "a", key="a"),
        "embed": lambda: client.embed("gemini-embedding-001", "a"),
        "submit": lambda: client.submit(Request(model=MODEL, contents="a")),
        "result": lambda: client.result("a"),
        "map": mapped,
        "flush": client.flush,
        "drain": client.drain,
        "jobs.list": listed,
        "jobs.get": lambda: client.jobs.get("batches/a"),
        "jobs.cancel": lambda: client.jobs.cancel("batches/a"),
        "jobs.delete": lambda: client.jobs.delete("batches/a"),
        "stats": client.stats,
        "receipt": client.receipt,
    }


async def error_of(use: Callable[[], Any]) -> Exception | None:
    try:
        outcome = use()
        if asyncio.iscoroutine(outcome):
            await outcome
    except Exception as error:  # noqa: BLE001 - the test looks at what it is
        return error
    return None


async def test_a_client_that_was_not_entered_says_so() -> None:
    async with Emulator() as emulator:
        client = make_client(emulator)
        errors = {name: type(await error_of(use)) for name, use in uses(client).items()}
        assert errors == dict.fromkeys(errors, ConfigurationError)
        assert not emulator.requests


async def test_a_client_that_was_left_says_so_and_keeps_its_account() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            assert_own(["a"], [await client.generate(MODEL, "a")])
            receipt = client.receipt()
        assert client.receipt() == receipt
        assert client.stats().answered == receipt.requests == 1
        seen = len(emulator.requests)
        wanted = {name: use for name, use in uses(client).items() if name not in ("stats", "receipt")}
        errors = {name: type(await error_of(use)) for name, use in wanted.items()}
        assert errors == dict.fromkeys(errors, ClientClosed)
        assert len(emulator.requests) == seen


async def test_a_client_can_be_used_from_its_own_loop_only(tmp_path: Path) -> None:
    async with Emulator() as emulator, opened(emulator, tmp_path) as client:
        names = {name: use for name, use in uses(client).items() if name not in ("stats", "receipt")}
        for name, use in names.items():
            error = await asyncio.to_thread(asyncio.run, error_of(use))
            assert type(error) is ConfigurationError, name
            assert "loop" in str(error)
        assert_own(["a"], [await client.generate(MODEL, "a")])
        assert ops_of(emulator)["create"] == 1


async def test_a_client_is_entered_once() -> None:
    async with Emulator() as emulator:
        client = make_client(emulator)
        async with client:
            with pytest.raises(ConfigurationError):
                await client.__aenter__()
            assert_own(["a"], [await client.generate(MODEL, "a")])
        with pytest.raises(ConfigurationError):
            await client.__aenter__()


async def test_leaving_twice_or_from_two_tasks_at_once_is_leaving_once(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.2)) as emulator:
        client = make_client(emulator, tmp_path)
        async with asyncio.timeout(PATIENCE_S):
            await client.__aenter__()
            tasks = ask_in_tasks(client, prompts(3))
            await until(lambda: client.stats().jobs_created, "the job")
            await asyncio.gather(*(client.__aexit__(None, None, None) for _ in range(3)))
            await client.__aexit__(None, None, None)
        await refused(ClientClosed, *tasks)


async def test_leaving_what_was_never_entered_does_nothing() -> None:
    async with Emulator() as emulator:
        client = make_client(emulator)
        async with asyncio.timeout(5):
            await client.__aexit__(None, None, None)
        assert not emulator.requests


async def test_a_client_whose_opening_failed_can_be_left(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    async with Emulator() as emulator:
        client = make_client(emulator, home)
        async with asyncio.timeout(5):
            with pytest.raises(ConfigurationError):
                await client.__aenter__()
            await client.__aexit__(None, None, None)


async def test_entering_and_leaving_may_happen_in_different_tasks(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        client = make_client(emulator, tmp_path)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.create_task(client.__aenter__())
            assert_own(prompts(5), await settled(*ask_in_tasks(client, prompts(5))))
            await asyncio.create_task(client.__aexit__(None, None, None))
        assert isinstance(await error_of(lambda: client.generate(MODEL, "a")), ClientClosed)


@pytest.fixture
async def lifespan_client() -> AsyncGenerator[tuple[Emulator, Client]]:
    async with Emulator() as emulator, make_client(emulator) as client:
        yield emulator, client


async def test_a_client_lives_in_a_fixture(lifespan_client: tuple[Emulator, Client]) -> None:
    emulator, client = lifespan_client
    assert_own(prompts(5), await settled(*ask_in_tasks(client, prompts(5))))
    assert_billed_once(emulator, prompts(5))


async def test_a_task_that_opens_and_is_cancelled_lets_go_of_everything(tmp_path: Path) -> None:
    async with Emulator() as emulator:

        async def live() -> None:
            async with make_client(emulator, tmp_path) as client:
                await client.submit(Request(model=MODEL, contents="a", key="a"))
                began.set()
                await asyncio.Event().wait()

        began = asyncio.Event()
        task = asyncio.create_task(live())
        await began.wait()
        task.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([task])
        assert task.cancelled()
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.result("a")])
        assert_billed_once(emulator, ["a"])


# -- noise


@asynccontextmanager
async def quiet() -> AsyncGenerator[list[dict[str, Any]]]:
    """Collect what the loop complains about, garbage included, and insist that no task or thread is left."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        yield complaints
        await until(lambda: asyncio.all_tasks() <= tasks, "the end of all tasks")
        await until(lambda: set(threading.enumerate()) <= threads, "the end of all threads")
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []
    finally:
        loop.set_exception_handler(before)


@pytest.mark.parametrize("on_close", ["keep", "drain", "cancel"])
@pytest.mark.parametrize("clean", [True, False])
async def test_nothing_is_left_behind_and_nothing_complains(on_close: str, clean: bool, tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.05)) as emulator, quiet():
        for _ in range(2):
            left = opened if clean else left_with_an_error
            async with left(emulator, tmp_path, on_close=on_close) as client:
                await client.submit(Request(model=MODEL, contents="bad [[error:400:no]]"))
                await client.submit(Request(model=MODEL, contents="good", key="good"))
                answered = ask_in_tasks(client, prompts(2))
                await settled(*answered)
                tasks = ask_in_tasks(client, [*prompts(2, "late"), "late [[error:400:no]]"])
                gone = ask_in_tasks(client, prompts(2, "gone"))
                await asyncio.sleep(0)
                for task in gone:
                    task.cancel()
            outcomes = await settled(*tasks, *gone)
            kinds = {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)}
            assert kinds <= {ClientClosed, RequestRejected, asyncio.CancelledError}
            del tasks, gone, answered, outcomes, client  # what they hold must not hide a complaint


async def test_a_call_left_without_its_client_ends() -> None:
    async with Emulator() as emulator:
        client = Client(api_key=API_KEY, base_url=emulator.base_url, store=MemoryStore())
        await client.__aenter__()
        task = asyncio.create_task(client.generate(MODEL, "a"))
        await asyncio.sleep(0)
        await client.__aexit__(None, None, None)
        await refused(ClientClosed, task)
        assert billed(emulator, ["a"]) == [0]
