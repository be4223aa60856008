"""Homes that cannot be used, keys that are refused, servers that are not there: typed errors, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from carpool import (
    Client,
    ConfigurationError,
    Request,
    RequestError,
    RequestFailed,
    RequestRejected,
    StoreError,
    StoreLocked,
)
from carpool._stores.disk import DiskStore
from carpool.emulator import Emulator, Plan

from .support import (
    API_KEY,
    FILE,
    FORMS,
    MODEL,
    PATIENCE_S,
    ask_all,
    asked_for,
    assert_billed_once,
    assert_own,
    make_client,
    opened,
    ops_of,
    prompts,
    quick,
    refused,
    rows_of_jobs,
    settled,
    until,
    with_canary,
)

OTHER_KEY = "AIza-another-key-9876543210"


def databases_in(home: Path) -> list[Path]:
    return list(home.rglob("*.db"))


# -- homes


async def test_a_home_that_is_a_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("mine")
    async with Emulator() as emulator:
        for place in (home, home / "below"):
            with pytest.raises(ConfigurationError) as caught:
                async with opened(emulator, place):
                    raise AssertionError("it opened")
            assert str(place) in str(caught.value)
        assert not emulator.requests
    assert home.read_text() == "mine"


async def test_a_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "not" / "there" / "yet"
    async with Emulator() as emulator, opened(emulator, home) as client:
        assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
    assert home.stat().st_mode & 0o777 == 0o700
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_the_home_comes_from_the_environment_if_from_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPOOL_HOME", str(tmp_path / "home"))
    async with Emulator() as emulator:
        async with Client(api_key=API_KEY, base_url=emulator.base_url, settings=quick()) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        assert (tmp_path / "home").is_dir()
        async with opened(emulator, tmp_path / "home") as client:
            assert_own(["a"], [await client.result("a")])


async def test_two_clients_of_one_home_work_beside_each_other(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as two:
            ones, twos = await asyncio.gather(ask_all(one, prompts(20, "one")), ask_all(two, prompts(20, "two")))
        assert_own(prompts(20, "one"), ones)
        assert_own(prompts(20, "two"), twos)
        assert_billed_once(emulator, prompts(20, "one") + prompts(20, "two"))


async def test_a_home_whose_slots_are_all_taken_says_so_and_is_free_again_afterwards(tmp_path: Path) -> None:
    def client_with_one_slot(emulator: Emulator) -> Client:
        store = DiskStore(tmp_path, quick(), slots_max=1)
        return with_canary(Client(api_key=API_KEY, base_url=emulator.base_url, store=store, settings=quick()))

    async with Emulator() as emulator:
        async with client_with_one_slot(emulator) as first:
            with pytest.raises(StoreLocked):
                async with client_with_one_slot(emulator):
                    raise AssertionError("it opened")
            assert_own(["a"], [await first.generate(MODEL, "a", key="a")])
        async with client_with_one_slot(emulator) as second:
            assert_own(["a"], [await second.generate(MODEL, "a", key="a")])
        assert_billed_once(emulator, ["a"])


async def test_a_damaged_home_is_refused_and_left_untouched(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="a")])
        (database,) = databases_in(tmp_path)
        damaged = b"\x00" * database.stat().st_size
        database.write_bytes(damaged)
        with pytest.raises(StoreError):
            async with opened(emulator, tmp_path):
                raise AssertionError("it opened")
        assert database.read_bytes() == damaged


# -- keys that the server refuses


@FORMS
async def test_a_wrong_key_is_told_to_every_caller_at_the_first_answer(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(api_keys=frozenset({OTHER_KEY}))) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            errors = await refused(RequestRejected, *(client.generate(MODEL, text) for text in prompts(5)))
        assert len(emulator.requests) == 1
    for error in errors:
        assert (error.code, error.status) == (400, "INVALID_ARGUMENT")
        assert error.message == "API key not valid. Please pass a valid API key."
        assert API_KEY not in f"{error} {error!r} {error.details}"
        assert "key" in str(error).lower()


@FORMS
async def test_what_was_accepted_with_a_refused_key_is_not_sent_unasked_and_can_be_asked_for_again(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(api_keys=frozenset({OTHER_KEY}))) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            await refused(RequestRejected, *(client.generate(MODEL, text, key=text) for text in prompts(3)))
            assert client.stats().parked == 3
            calls = len(emulator.requests)
            emulator.plan = Plan(api_keys=frozenset({API_KEY}))
            assert_own(["another"], [await client.generate(MODEL, "another")])
            assert rows_of_jobs(emulator) == [1], "rows were sent that nobody asked for again"
            answers = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(3)))
        assert_own(prompts(3), answers)
        assert_billed_once(emulator, ["another", *prompts(3)])
        assert len(emulator.requests) > calls


@FORMS
async def test_tickets_of_a_refused_key_go_on_after_reopening_once_the_server_takes_the_key(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(api_keys=frozenset({OTHER_KEY}))) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            tickets = [await client.submit(Request(model=MODEL, contents=text, key=text)) for text in prompts(3)]
            await refused(RequestRejected, *tickets)
        emulator.plan = Plan(api_keys=frozenset({API_KEY}))
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(3), [await client.result(text) for text in prompts(3)])
        assert_billed_once(emulator, prompts(3))


async def test_work_of_another_key_is_left_alone_with_a_warning_and_never_judged_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Emulator(Plan(api_keys=frozenset({OTHER_KEY}))) as emulator:
        async with opened(emulator, tmp_path) as client:
            await refused(RequestRejected, *(client.generate(MODEL, text, key=text) for text in prompts(3)))
        caplog.clear()
        async with opened(emulator, tmp_path, api_key=OTHER_KEY) as client:
            assert client.stats().foreign == 3
            assert [record.levelno for record in caplog.records if "left alone" in record.message] == [logging.WARNING]
            with pytest.raises(RequestError):
                await client.result(prompts(3)[0])
            answers = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(3)))
            assert_own(prompts(3), answers)
            assert not any(answer.receipt.reused for answer in answers)
        assert_billed_once(emulator, prompts(3))
        emulator.plan = Plan(api_keys=frozenset({API_KEY, OTHER_KEY}))
        async with opened(emulator, tmp_path) as client:
            assert_own(prompts(3), [await client.result(text) for text in prompts(3)])
        assert rows_of_jobs(emulator) == [3, 3]
        async with opened(emulator, tmp_path, api_key=OTHER_KEY) as client:
            assert_own(prompts(3), [await client.result(text) for text in prompts(3)])
        assert rows_of_jobs(emulator) == [3, 3]


async def test_results_of_another_key_are_not_given_away_and_its_keys_are_free(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.generate(MODEL, "a", key="mine")])
        async with opened(emulator, tmp_path, api_key=OTHER_KEY) as client:
            await refused(RequestError, client.result("mine"))
            assert_own(["b"], [await client.generate(MODEL, "b", key="mine")])
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.result("mine")])
        assert_billed_once(emulator, ["a", "b"])


async def test_a_job_of_another_key_is_neither_polled_nor_sent_again(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.5)) as emulator:
        async with opened(emulator, tmp_path) as client:
            ticket = await client.submit(Request(model=MODEL, contents="a", key="a"))
            await until(lambda: client.stats().jobs_created, "the job")
        seen = len(asked_for(emulator))
        async with opened(emulator, tmp_path, api_key=OTHER_KEY) as client:
            assert client.stats().jobs == 0
            await client.drain()
        assert len(asked_for(emulator)) == seen
        async with opened(emulator, tmp_path) as client:
            assert_own(["a"], [await client.result(ticket.key)])
        assert_billed_once(emulator, ["a"])


# -- servers that are not there


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def client_of_port(port: int, home: Path, **settings: Any) -> Client:
    base_url = f"http://127.0.0.1:{port}"
    settings = {"first_contact_s": 0.2, **settings}
    return with_canary(Client(api_key=API_KEY, base_url=base_url, home=home, settings=quick(**settings)))


@FORMS
async def test_a_server_that_is_not_there_is_told_to_every_caller(
    form: dict[str, Any], free_port: int, tmp_path: Path
) -> None:
    async with asyncio.timeout(PATIENCE_S), client_of_port(free_port, tmp_path, **form) as client:
        errors = await refused(RequestFailed, *(client.generate(MODEL, text) for text in prompts(5)))
        assert client.stats().parked == 0
    for error in errors:
        assert "cannot be reached" in str(error)
        assert API_KEY not in f"{error} {error!r}"


@FORMS
async def test_tickets_and_explicit_keys_go_on_by_themselves_when_the_server_is_there_after_reopening(
    form: dict[str, Any], free_port: int, tmp_path: Path
) -> None:
    async with asyncio.timeout(PATIENCE_S), client_of_port(free_port, tmp_path, **form) as client:
        tickets = [await client.submit(Request(model=MODEL, contents=text)) for text in prompts(3, "ticket")]
        keyed = [client.generate(MODEL, text, key=text) for text in prompts(3, "keyed")]
        bare = [client.generate(MODEL, text) for text in prompts(3, "bare")]
        await refused(RequestFailed, *tickets, *keyed, *bare)
    async with asyncio.timeout(PATIENCE_S), Emulator(port=free_port) as emulator:
        async with client_of_port(free_port, tmp_path, **form) as client:
            await client.drain()
            assert_own(prompts(3, "ticket"), [await client.result(ticket.key) for ticket in tickets])
            assert_own(prompts(3, "keyed"), [await client.result(key) for key in prompts(3, "keyed")])
        assert_billed_once(emulator, prompts(3, "ticket") + prompts(3, "keyed"))


async def test_the_same_client_goes_on_when_the_server_comes_and_it_is_asked_again(
    free_port: int, tmp_path: Path
) -> None:
    async with asyncio.timeout(PATIENCE_S), client_of_port(free_port, tmp_path) as client:
        await refused(RequestFailed, client.generate(MODEL, "a", key="a"), client.generate(MODEL, "b"))
        async with Emulator(port=free_port) as emulator:
            answers = [await client.generate(MODEL, "a", key="a"), await client.generate(MODEL, "b")]
            assert_own(["a", "b"], answers)
            assert_billed_once(emulator, ["a", "b"])


async def test_a_server_that_was_there_and_went_away_is_waited_for(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.2)) as emulator:
        async with opened(emulator, tmp_path, first_contact_s=0.1, **FILE) as client:
            assert_own(["a"], [await client.generate(MODEL, "a")])
            waiting = asyncio.gather(*(client.generate(MODEL, text) for text in prompts(5)))
            await until(lambda: ops_of(emulator)["create"] == 2, "the second job")
            port = int(emulator.base_url.rpartition(":")[2])
            await emulator.stop()
            more = asyncio.gather(*(client.generate(MODEL, text) for text in prompts(5, "more")))
            await until(lambda: client.stats().jobs == 2, "a third job that cannot start")
            emulator.world.plan = Plan()
            revived = Emulator(port=port)
            revived.world = emulator.world
            async with revived:
                assert_own(prompts(5), await waiting)
                assert_own(prompts(5, "more"), await more)
        assert_billed_once(emulator, ["a", *prompts(5), *prompts(5, "more")])


async def test_a_call_taken_before_the_server_is_there_is_answered_once_it_is(free_port: int, tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), client_of_port(free_port, tmp_path, first_contact_s=30.0) as client:
        waiting = settled(*(client.generate(MODEL, text) for text in prompts(5)))
        calls = asyncio.ensure_future(waiting)
        await until(lambda: client.stats().jobs == 1, "a job that cannot start")
        async with Emulator(port=free_port) as emulator:
            assert_own(prompts(5), await calls)
            assert_billed_once(emulator, prompts(5))


async def test_jobs_of_a_server_that_is_not_there_cannot_be_listed(free_port: int, tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), client_of_port(free_port, tmp_path) as client:
        with pytest.raises(Exception, match="cannot be reached") as caught:
            await client.jobs.get("batches/none")
        assert type(caught.value).__name__ == "JobError"


async def test_opening_and_leaving_asks_the_server_nothing(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        for _ in range(3):
            async with asyncio.timeout(PATIENCE_S), make_client(emulator, tmp_path):
                pass
        assert not emulator.requests
