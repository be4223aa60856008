"""Health and alarms: what an operator is told, and that telling never costs anything."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import pytest

import carpool
from carpool._core.alarms import ALARMS
from carpool._core.messages import Write

from .virtual import DAY_S, MODEL, SERVER_DOWN, Service, answer, client_of, run, turns, until


class Tight(carpool.MemoryStore):
    """A store whose room a test sets."""

    left_bytes = sys.maxsize
    broken = False

    @property
    def room_bytes(self) -> int:
        return self.left_bytes

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        if self.broken or self.left_bytes <= 0:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(carpool.StoreError("the disk is gone") if self.broken else carpool.StoreFull("full"))
            return failed
        return super().commit(writes)


def names(health: carpool.Health) -> list[str]:
    """Return the names of the alarms in the reasons, and insist that each is documented."""
    found = [reason.partition(":")[0] for reason in health.reasons]
    assert set(found) <= ALARMS.keys()
    return found


def test_a_client_that_works_is_ok() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        client = client_of(Service(), carpool.MemoryStore(), alarms.append)
        with pytest.raises(carpool.ConfigurationError, match="not open"):
            client.health()
        async with client:
            assert client.health() == carpool.Health(status="ok", reasons=[])
            await client.generate(MODEL, "p")
            assert client.health() == carpool.Health(status="ok", reasons=[])
        assert client.health().status == "failed"
        assert names(client.health()) == ["closed"]
        assert alarms == []

    run(main())


def test_a_store_without_room() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        store = Tight()
        async with client_of(Service(), store, alarms.append) as client:
            store.left_bytes = 10_000
            assert names(client.health()) == ["store_nearly_full"]
            await client.generate(MODEL, "a")
            await client.generate(MODEL, "b")
            assert [alarm.name for alarm in alarms] == ["store_nearly_full"], "once"
            waiting = asyncio.create_task(client.generate(MODEL, "c"))
            await asyncio.sleep(0)
            store.left_bytes = 0
            await until(lambda: len(alarms) == 2)
            assert alarms[1].name == "store_full"
            assert client.health().status == "degraded"
            assert names(client.health()) == ["store_full"]
            store.left_bytes = sys.maxsize
            assert (await waiting).text == answer("c")
            assert client.health().status == "ok"
            store.left_bytes = 10_000
            await client.generate(MODEL, "d")
            assert [alarm.name for alarm in alarms].count("store_nearly_full") == 2

    run(main())


def test_a_store_that_takes_nothing_new() -> None:
    """What is left is for answers: nothing failed yet, but callers are refused."""

    async def main() -> None:
        alarms: list[carpool.Alarm] = []

        class Reserved(Tight):
            full = False

            @property
            def room_bytes(self) -> int:
                return 0 if self.full else sys.maxsize

        store = Reserved()
        async with client_of(Service(), store, alarms.append) as client:
            waiting = asyncio.create_task(client.generate(MODEL, "a"))
            await turns()
            store.full = True
            assert names(client.health()) == ["store_full"]
            assert (await waiting).text == answer("a"), "what was accepted goes on"
            with pytest.raises(carpool.StoreFull):
                await client.generate(MODEL, "b")
            assert [alarm.name for alarm in alarms] == ["store_full"]
            store.full = False
            assert client.health().status == "ok"
            assert (await client.generate(MODEL, "b")).text == answer("b")

    run(main())


def test_a_server_that_cannot_be_reached() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        service = Service(latency_s=DAY_S / 2)
        async with client_of(service, carpool.MemoryStore(), alarms.append) as client:
            waiting = asyncio.create_task(client.generate(MODEL, "p"))
            await until(lambda: service.passed["poll"])
            service.fault = lambda _: SERVER_DOWN
            seen = service.passed["poll"]
            await until(lambda: service.passed["poll"] > seen)
            assert client.health().status == "ok", "one failed call is no news"
            await until(lambda: alarms)
            await asyncio.sleep(1_800)
            assert [alarm.name for alarm in alarms] == ["server_unreachable"], "once"
            assert names(client.health()) == ["server_unreachable"]
            service.fault = lambda _: None
            assert (await waiting).text == answer("p")
            assert client.health().status == "ok"
            assert len(alarms) == 1

    run(main())


def test_a_job_that_is_late() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        service = Service(latency_s=2 * DAY_S)
        async with client_of(service, carpool.MemoryStore(), alarms.append) as client:
            waiting = asyncio.create_task(client.generate(MODEL, "p"))
            await until(lambda: service.jobs)
            await asyncio.sleep(0.5 * DAY_S)
            assert client.health().status == "ok"
            await asyncio.sleep(DAY_S)
            assert client.health().status == "degraded"
            assert names(client.health()) == ["job_overdue"]
            assert "batches/1" in client.health().reasons[0]
            await waiting
            assert client.health().status == "ok"
            assert [alarm.name for alarm in alarms] == ["job_overdue"]

    run(main())


def test_results_that_cannot_be_fetched() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        service = Service()
        async with client_of(service, carpool.MemoryStore(), alarms.append) as client:
            service.fault = lambda point: SERVER_DOWN if point == "fetch" else None
            waiting = asyncio.create_task(client.generate(MODEL, "p"))
            await until(lambda: service.passed["fetch"])
            assert "results_unfetched" not in names(client.health())
            await asyncio.sleep(DAY_S + 1_000)
            assert "results_unfetched" in names(client.health())
            assert [alarm.name for alarm in alarms].count("results_unfetched") == 1
            service.fault = lambda _: None
            assert (await waiting).text == answer("p")
            await client.drain()
            assert client.health().status == "ok"

    run(main())


def test_a_job_that_was_created_twice() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        service = Service()
        async with client_of(service, carpool.MemoryStore(), alarms.append) as client:
            service.held.add("created")
            waiting = asyncio.create_task(client.generate(MODEL, "p"))
            await until(lambda: service.jobs)
            (first,) = service.jobs.values()
            service.jobs["batches/2"] = type(first)(
                name="batches/2", display_name=first.display_name, rows=first.rows, ends_at=first.ends_at
            )
            service.fault = lambda point: carpool_unknown() if point == "created" else None
            service.held.clear()
            assert (await waiting).text == answer("p")
            assert "twins" in names(client.health())
            assert "twins" in [alarm.name for alarm in alarms]

    run(main())


def carpool_unknown() -> Exception:
    from carpool._core.model import Fault  # noqa: PLC0415 - for one test
    from carpool._ports import ProviderError  # noqa: PLC0415

    return ProviderError(Fault(kind="unknown"))


def test_a_store_that_fails() -> None:
    async def main() -> None:
        alarms: list[carpool.Alarm] = []
        store = Tight()
        service = Service()
        client = client_of(service, store, alarms.append)
        await client.__aenter__()
        store.broken = True
        with pytest.raises(carpool.StoreError, match="the disk is gone"):
            await client.generate(MODEL, "p")
        await turns()
        health = client.health()
        assert health == carpool.Health(status="failed", reasons=["stopped: the disk is gone"])
        assert [(alarm.name, alarm.detail) for alarm in alarms] == [("stopped", "the disk is gone")]
        assert not service.is_open, "what it held is let go of, though nobody left it"
        with pytest.raises(carpool.StoreError, match="the disk is gone"):
            await client.generate(MODEL, "p")
        await client.__aexit__(None, None, None)

    run(main())


def test_a_store_that_cannot_tell_its_room() -> None:
    class Mute(carpool.MemoryStore):
        mute = False

        @property
        def room_bytes(self) -> int:
            if self.mute:
                raise carpool.StoreError("the disk is gone")
            return sys.maxsize

    async def main() -> None:
        store = Mute()
        async with client_of(Service(), store) as client:
            store.mute = True
            assert client.health() == carpool.Health(status="failed", reasons=["stopped: the disk is gone"])
            store.mute = False
            assert client.health().status == "ok"

    run(main())


# -- the hook


class Unwell(Exception):
    """What a hook raises."""


@pytest.mark.parametrize("error", [Unwell("mine"), asyncio.CancelledError()], ids=lambda one: type(one).__name__)
def test_a_hook_that_raises_costs_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    called: list[carpool.Alarm] = []

    def hook(alarm: carpool.Alarm) -> None:
        called.append(alarm)
        raise error

    async def main() -> None:
        store = Tight()
        async with client_of(Service(), store, hook) as client:
            store.left_bytes = 10_000
            assert (await client.generate(MODEL, "p")).text == answer("p")
            assert client.health().status == "degraded"

    with caplog.at_level(logging.ERROR, "carpool"):
        run(main())
    assert [alarm.name for alarm in called] == ["store_nearly_full"]
    assert [record.getMessage() for record in caplog.records] == ["on_alarm failed on the alarm store_nearly_full"]


def test_a_hook_may_use_the_client() -> None:
    async def main() -> None:
        store, seen = Tight(), []

        def hook(alarm: carpool.Alarm) -> None:
            seen.append((alarm.name, client.health().status, client.stats().waiting))

        client = client_of(Service(), store, hook)
        async with client:
            store.left_bytes = 10_000
            await client.generate(MODEL, "p")
        assert seen == [("store_nearly_full", "degraded", 1)]

    run(main())


@pytest.mark.parametrize("hook", ["no function", 3, object()])
def test_a_hook_is_a_function(hook: Any) -> None:
    with pytest.raises(carpool.ConfigurationError, match="on_alarm"):
        client_of(Service(), carpool.MemoryStore(), hook)


def test_a_hook_is_not_a_coroutine_function() -> None:
    async def hook(alarm: carpool.Alarm) -> None:
        raise AssertionError(alarm)

    with pytest.raises(carpool.ConfigurationError, match="plain function"):
        client_of(Service(), carpool.MemoryStore(), hook)


def test_alarms_are_logged_under_their_names(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = Tight()
        async with client_of(Service(), store) as client:
            store.left_bytes = 10_000
            await client.generate(MODEL, "p")

    with caplog.at_level(logging.INFO):
        run(main())
    assert [(record.name, record.levelname) for record in caplog.records] == [("carpool", "WARNING")]
    assert caplog.records[0].getMessage().startswith("store_nearly_full: ")


def test_the_blocking_client_tells_too() -> None:
    with carpool.sync.Client(provider=Service(), store=carpool.MemoryStore(), on_alarm=print) as client:
        assert client.health() == carpool.Health(status="ok", reasons=[])
    assert client.health().status == "failed"
