"""Leaving a client at each stage of its work: everybody is told, in bounded time, and the next process goes on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest

import carpool
from carpool._core.model import Fault
from carpool._ports import ProviderError

from .virtual import MODEL, SERVER_DOWN, Service, answer, client_of, run, turns, until

POINTS = ["upload", "uploaded", "create", "created", "poll", "fetch", "last"]
CLOSE_TIMEOUT_S = 20.0
FILE: dict[str, Any] = {"inline_cost_max_usd": Decimal(0), "close_timeout_s": CLOSE_TIMEOUT_S}


class Leaves(Exception):
    """What a block is left with."""


class Failing(carpool.MemoryStore):
    """A store whose disk is gone from the moment on at which a test says so."""

    fails = False

    def commit(self, writes: Any) -> Any:
        if not self.fails:
            return super().commit(writes)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(carpool.StoreError("the disk is gone"))
        return failed


@asynccontextmanager
async def left(service: Service, store: carpool.MemoryStore, *, clean: bool, **more: Any) -> AsyncGenerator[Any]:
    with suppress(Leaves):
        async with client_of(service, store, **FILE, **more) as client:
            yield client
            if not clean:
                raise Leaves


async def ask_in_every_way(client: carpool.Client) -> list[asyncio.Future[Any]]:
    """Ask for a bare answer, one of a key, and submit a ticket; return what waits for them."""
    ticket = await client.submit(carpool.Request(model=MODEL, contents="ticket", key="ticket"))
    await asyncio.sleep(0)

    async def taken() -> Any:
        return await ticket

    return [
        asyncio.create_task(client.generate(MODEL, "bare")),
        asyncio.create_task(client.generate(MODEL, "keyed", key="keyed")),
        asyncio.create_task(taken()),
    ]


async def assert_goes_on(service: Service, store: carpool.MemoryStore, *, bare: bool = True) -> None:
    """Insist that the next process answers all of it, each paid for once; a bare call only if it was not answered."""
    service.held.clear()
    async with client_of(service, store.reopened(), **FILE) as client:
        calls = [client.generate(MODEL, "keyed", key="keyed")]
        if bare:
            calls.append(client.generate(MODEL, "bare"))
        answers = await asyncio.gather(*calls)
        assert [one.text for one in answers] == [answer("keyed"), answer("bare")][: len(calls)]
        ticket = await client.result("ticket")
        assert ticket.json()["candidates"][0]["content"]["parts"][0]["text"] == answer("ticket")
        await client.drain()
    assert service.billed() == {"bare": 1, "keyed": 1, "ticket": 1}


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "exception"])
@pytest.mark.parametrize("on_close", ["keep", "drain", "cancel"])
@pytest.mark.parametrize("point", POINTS)
def test_leaving_at_each_stage(point: str, on_close: str, clean: bool) -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        now = asyncio.get_running_loop().time
        async with left(service, store, clean=clean, on_close=on_close) as client:
            waiting = await ask_in_every_way(client)
            service.held.add(point)
            await until(lambda: service.passed[point], point)
            await turns()
            if on_close == "drain" and clean:
                service.held.clear()
            before = now()
        if not (on_close == "drain" and clean):
            assert now() - before <= CLOSE_TIMEOUT_S + 1
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        errors = [one for one in outcomes if isinstance(one, BaseException)]
        assert all(type(error) is carpool.ClientClosed for error in errors), outcomes
        assert len({id(error) for error in errors}) == len(errors)
        if on_close == "drain" and clean:
            assert errors == []
        assert not service.is_open
        if on_close == "cancel" and point == "poll":
            assert [job.cancelled for job in service.jobs.values()] == [True]
        assert len(asyncio.all_tasks()) == 1
        await assert_goes_on(service, store, bare=isinstance(outcomes[0], BaseException))

    run(main())


def test_leaving_with_cancel_does_not_wait_for_a_server_that_hangs() -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        async with client_of(service, store, on_close="cancel", batch_requests_max=1, linger_s=0) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(5)]
            await until(lambda: len(service.jobs) == 5)
            await turns()
            service.held.add("cancel")
            before = asyncio.get_running_loop().time()
        assert service.passed["cancel"] == 5
        assert asyncio.get_running_loop().time() - before <= CLOSE_TIMEOUT_S
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {carpool.ClientClosed}

    run(main())


def test_leaving_while_the_server_cannot_be_reached() -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        service.fault = lambda _: SERVER_DOWN
        async with client_of(service, store, **FILE) as client:
            waiting = await ask_in_every_way(client)
            await until(lambda: service.passed["upload"])
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {carpool.ClientClosed, carpool.RequestFailed}
        service.fault = lambda _: None
        await assert_goes_on(service, store)

    run(main())


def test_callers_that_queue_at_the_gate_are_told() -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore(), waiting_requests_max=1, linger_s=60) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(3)]
            await turns()
            assert client.stats().queued_callers == 2
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {carpool.ClientClosed}
        assert not service.jobs

    run(main())


def test_a_drain_goes_on_when_another_one_is_given_up() -> None:
    async def main() -> None:
        service = Service()
        settings: dict[str, Any] = {"linger_s": 7_200.0, "linger_max_s": 7_200.0, "attempts_max": 5}
        async with client_of(service, carpool.MemoryStore(), **settings) as client:
            service.fault = lambda point: ProviderError(Fault(kind="not_sent")) if point == "create" else None
            waiting = asyncio.create_task(client.generate(MODEL, "early"))
            await turns()
            first, second = asyncio.create_task(client.drain()), asyncio.create_task(client.drain())
            await turns()
            first.cancel()
            await asyncio.wait((first,))
            late = asyncio.create_task(client.generate(MODEL, "late"))
            await turns()
            service.fault = lambda _: None
            await second
            assert asyncio.get_running_loop().time() < 3_600
            assert [one.text for one in await asyncio.gather(waiting, late)] == [answer("early"), answer("late")]

    run(main())


def test_what_the_next_process_needs_no_more_is_deleted() -> None:
    """The input of a job whose callers died with their process is never used: it does not stay on the server."""

    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        service.held.add("uploaded")
        client = client_of(service, store, **FILE)
        await client.__aenter__()
        asking = asyncio.create_task(client.generate(MODEL, "bare"))
        await until(lambda: service.files)
        dead = store.reopened()
        await client.__aexit__(Leaves, None, None)
        await asyncio.wait((asking,))
        service.held.clear()
        async with client_of(service, dead, **FILE):
            await until(lambda: not service.files, "the deletion")
        assert not service.jobs

    run(main())


# -- ended from outside


def test_a_loop_that_is_torn_down_with_the_client_open() -> None:
    """``asyncio.run`` cancels what is left when its main task ends: provider and store are let go of."""
    service, store = Service(), carpool.MemoryStore()
    kept: list[Any] = []

    async def main() -> None:
        client = client_of(service, store, **FILE)
        await client.__aenter__()
        kept.extend((client, await ask_in_every_way(client)))
        await until(lambda: service.passed["poll"])

    run(main())
    client, waiting = kept
    assert not service.is_open
    assert repr(store).endswith("closed>")
    assert all(task.done() for task in waiting)
    health = client.health()
    assert health.status == "failed"
    assert "CancelledError" in health.reasons[0]

    async def later() -> None:
        with pytest.raises(carpool.ClientClosed, match="ended from outside"):
            await client.generate(MODEL, "late")
        await client.__aexit__(None, None, None)
        await assert_goes_on(service, store)

    run(later())


def test_somebody_cancels_every_task_of_a_loop() -> None:
    """As some frameworks do when they stop: calls end, leaving does not hang, and the next one goes on."""

    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        client = client_of(service, store, **FILE)
        await client.__aenter__()
        waiting = await ask_in_every_way(client)
        await until(lambda: service.passed["poll"])
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait(waiting)
        await turns()
        assert not service.is_open
        with pytest.raises(carpool.ClientClosed):
            await client.generate(MODEL, "late")
        await client.__aexit__(None, None, None)
        await assert_goes_on(service, store)

    run(main())


def test_a_client_is_left_on_another_loop_than_its_own() -> None:
    service = Service()
    first = asyncio.new_event_loop()
    client = client_of(service, carpool.MemoryStore())
    first.run_until_complete(client.__aenter__())

    async def leave() -> None:
        with pytest.raises(carpool.ConfigurationError, match="another event loop"):
            await client.__aexit__(None, None, None)

    asyncio.run(leave())
    first.run_until_complete(client.__aexit__(None, None, None))
    assert not service.is_open
    first.close()


def test_a_child_after_a_fork_lets_go_of_nothing_of_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore()) as client:
            with monkeypatch.context() as patch:
                patch.setattr("carpool._runtime.loop.os.getpid", lambda: -1)
                assert client.health().status == "failed"
                assert "fork" in client.health().reasons[0]
                with pytest.raises(carpool.ConfigurationError, match="fork"):
                    await client.generate(MODEL, "p")
                await client.__aexit__(None, None, None)
            assert service.is_open
            assert (await client.generate(MODEL, "p")).text == answer("p")

    run(main())


# -- forgotten


def test_a_forgotten_client_finishes_and_lets_go() -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()

        async def forget() -> carpool.Ticket[Any]:
            client = client_of(service, store)
            forgotten.append(weakref.ref(client))
            await client.__aenter__()
            return await client.submit(carpool.Request(model=MODEL, contents="p", key="p"))

        forgotten: list[weakref.ref[carpool.Client]] = []
        ticket = await asyncio.create_task(forget())
        with pytest.warns(ResourceWarning, match="without being left"):
            await until(lambda: gc.collect() is None or forgotten[0]() is None)
        assert (await ticket).json()["candidates"]
        await until(lambda: not service.is_open, "the end")
        assert repr(store).endswith("closed>")
        assert service.billed() == {"p": 1}

    run(main())


def test_a_forgotten_client_whose_store_fails_lets_go_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        service, store = Service(), Failing()
        client = client_of(service, store, linger_s=60)
        await client.__aenter__()
        await client.submit(carpool.Request(model=MODEL, contents="p", key="p"))
        store.fails = True
        del client
        with pytest.warns(ResourceWarning, match="without being left"):
            gc.collect()
        await until(lambda: not service.is_open, "the end")
        await turns()

    run(main())
    assert "a forgotten client could not finish: the disk is gone" in caplog.text


def test_a_store_that_cannot_be_closed_as_its_loop_ends(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(carpool.MemoryStore):
        async def close(self) -> None:
            raise carpool.StoreError("it does not close")

    service = Service()

    async def main() -> carpool.Client:
        return await client_of(service, Stuck()).__aenter__()

    assert run(main()).health().status == "failed"
    assert not service.is_open
    assert "could not be closed in order: it does not close" in caplog.text


@pytest.mark.parametrize("later", [False, True], ids=["in the turn in which it failed", "later"])
def test_whoever_leaves_a_client_that_has_failed_was_told_before(later: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Failing):
        async def close(self) -> None:
            raise carpool.StoreError("it does not close")

    async def main() -> None:
        service, store = Service(), Broken()
        async with client_of(service, store) as client:
            store.fails = True
            with pytest.raises(carpool.StoreError, match="the disk is gone"):
                await client.generate(MODEL, "p")
            if later:
                await until(lambda: not service.is_open, "the end")
        assert not service.is_open

    run(main())
    assert "could not be closed in order: it does not close" in caplog.text


def test_a_client_that_was_left_is_not_forgotten() -> None:
    async def main() -> None:
        async with client_of(Service(), carpool.MemoryStore()) as client:
            assert (await client.generate(MODEL, "p")).text == answer("p")
        del client
        gc.collect()  # a warning would be an error
        await turns()

    run(main())
