"""A task beside the loop that raises: what it carried fails, typed; the client lives, or says that it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import carpool
from carpool._runtime.handover import Handover
from carpool._stores import memory

from .virtual import MODEL, Service, answer, client_of, run, turns, until

FILE: dict[str, Any] = {"inline_cost_max_usd": Decimal(0)}


def breaks_at(*points: str) -> Callable[[str], BaseException | None]:
    return lambda point: ZeroDivisionError() if point in points else None


@pytest.fixture
def alarms() -> list[carpool.Alarm]:
    return []


@pytest.mark.parametrize("point", ["upload", "create", "created", "poll", "fetch", "last"])
def test_questions_about_a_job(point: str, alarms: list[carpool.Alarm]) -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        service.fault = breaks_at(point)
        async with client_of(service, store, alarms.append, **FILE) as client:
            calls = [
                client.generate(MODEL, "keyed", key="keyed"),
                client.generate(MODEL, "bare"),
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            failed = [one for one in outcomes if isinstance(one, BaseException)]
            assert failed
            assert {type(one) for one in failed} == {carpool.RequestFailed}
            service.fault = lambda _: None
            assert (await client.generate(MODEL, "other")).text == answer("other")
            assert client.health().status == "degraded"
            assert client.health().reasons[0].startswith("job_stalled: ")
            assert "job_stalled" in [alarm.name for alarm in alarms]
            await client.drain()
        async with client_of(service, store.reopened(), **FILE) as client:
            assert (await client.generate(MODEL, "keyed", key="keyed")).text == answer("keyed")
        assert service.billed()["keyed"] == 1

    run(main())


def test_a_look_for_a_job() -> None:
    async def main() -> None:
        from carpool._core.model import Fault  # noqa: PLC0415 - only here
        from carpool._ports import ProviderError  # noqa: PLC0415

        service = Service()

        def fault(point: str) -> BaseException | None:
            if point == "created":
                return ProviderError(Fault(kind="unknown"))
            return ZeroDivisionError() if point in {"find", "list"} else None

        service.fault = fault
        async with client_of(service, carpool.MemoryStore()) as client:
            with pytest.raises(carpool.RequestFailed, match="bug of carpool"):
                await client.generate(MODEL, "p")
            assert client.health().status == "degraded"

    run(main())


def test_a_look_at_all_jobs() -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        async with client_of(service, store) as client:
            await client.generate(MODEL, "a", key="a")
        service.fault = breaks_at("list")
        async with client_of(service, store.reopened()) as client:
            await until(lambda: service.passed["list"], "the sweep")
            assert (await client.generate(MODEL, "b")).text == answer("b")
            assert (await client.result("a")).json()["candidates"]
            assert client.health().status != "failed"

    run(main())


def test_deleting_what_is_no_longer_needed(alarms: list[carpool.Alarm]) -> None:
    async def main() -> None:
        service = Service()
        service.fault = breaks_at("delete")
        async with client_of(service, carpool.MemoryStore(), alarms.append, **FILE) as client:
            assert (await client.generate(MODEL, "a")).text == answer("a")
            await client.drain()
            await until(lambda: alarms)
            assert [(alarm.name, alarm.detail) for alarm in alarms] == [("bug", "ZeroDivisionError in Deeds._delete")]
            assert (await client.generate(MODEL, "b")).text == answer("b")
            assert client.health().status == "ok"

    run(main())


def test_cancelling_jobs_on_leaving(alarms: list[carpool.Alarm]) -> None:
    async def main() -> None:
        service = Service()
        service.fault = breaks_at("cancel")
        client = client_of(service, carpool.MemoryStore(), alarms.append, on_close="cancel", batch_requests_max=1)
        async with client:
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(2)]
            await until(lambda: len(service.jobs) == 2)
            await turns()
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {carpool.ClientClosed}
        assert service.passed["cancel"] == 2
        assert [alarm.name for alarm in alarms] == ["bug"] * 2

    run(main())


@pytest.mark.parametrize("damaged", [False, True], ids=["raises", "unreadable"])
def test_reading_stored_results(damaged: bool, alarms: list[carpool.Alarm]) -> None:
    class Broken(memory.MemoryStore):
        broken = False

        async def results(self, places: Any) -> list[bytes]:
            if not self.broken:
                return await super().results(places)
            if damaged:
                return []
            raise ZeroDivisionError

    async def main() -> None:
        service, store = Service(), Broken()
        async with client_of(service, store, alarms.append) as client:
            await client.generate(MODEL, "p", key="k")
            store.broken = True
            outcomes = await asyncio.gather(client.result("k"), client.result("k"), return_exceptions=True)
            assert [type(one) for one in outcomes] == [carpool.RequestFailed] * 2
            assert "on record: ask again" in str(outcomes[0])
            store.broken = False
            assert (await client.result("k")).json()["candidates"]
            assert [alarm.name for alarm in alarms] == ["bug"]
            assert client.health().status == "ok"

    run(main())


@pytest.mark.parametrize("method", ["booked", "deliver", "fail", "expire"])
def test_the_hand_over(method: str, alarms: list[carpool.Alarm], monkeypatch: pytest.MonkeyPatch) -> None:
    """This is part of the loop's own turn: the client stops, says so, and the next one has what was paid for."""

    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        if method == "fail":
            service.fault = breaks_at("poll")
        with monkeypatch.context() as patch:
            client = client_of(service, store, alarms.append)
            await client.__aenter__()

            def broken(*arguments: object) -> None:
                if method == "booked" and not service.passed["fetch"]:
                    return
                raise ZeroDivisionError

            patch.setattr(Handover, method, broken)
            calls = [client.generate(MODEL, "keyed", key="keyed"), client.generate(MODEL, "bare", deadline=300)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert any("bug of its own" in str(one) for one in outcomes), outcomes
            await turns()
            assert client.health().status == "failed"
            assert client.health().reasons[0].startswith("stopped: ")
            assert alarms[-1].name == "stopped"
            with pytest.raises(carpool.CarpoolError, match="bug of its own"):
                await client.generate(MODEL, "later")
            await client.__aexit__(None, None, None)
        service.fault = lambda _: None
        async with client_of(service, store.reopened()) as client:
            assert (await client.generate(MODEL, "keyed", key="keyed")).text == answer("keyed")
        assert service.billed()["keyed"] == 1

    run(main())


def test_work_that_a_part_of_the_client_started(alarms: list[carpool.Alarm]) -> None:
    async def main() -> None:
        async with client_of(Service(), carpool.MemoryStore(), alarms.append) as client:

            async def look_after() -> None:
                raise ZeroDivisionError

            client._runtime.start(look_after)
            assert (await client.generate(MODEL, "p")).text == answer("p")
            assert [alarm.name for alarm in alarms] == ["bug"]
            assert "look_after" in alarms[0].detail

    run(main())


def test_rows_that_cannot_be_read_back(alarms: list[carpool.Alarm]) -> None:
    """What is to be sent is not there: the store is at fault, and everybody is told."""

    class Broken(memory.MemoryStore):
        def read(self, spans: Any) -> Any:
            raise carpool.StoreCorrupt("a segment is damaged")

    async def main() -> None:
        client = client_of(Service(), Broken(), alarms.append, batch_requests_max=1)
        await client.__aenter__()
        calls = (client.generate(MODEL, f"p{i}") for i in range(3))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in outcomes] == [carpool.StoreCorrupt] * 3
        await turns()
        assert client.health().status == "failed"
        assert [alarm.name for alarm in alarms] == ["stopped"]
        await client.__aexit__(None, None, None)

    run(main())
