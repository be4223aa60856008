"""Clocks that jump: the wall clock a day to and fro, while a client runs and between two processes.

A client reads the wall clock once, when it opens, and then carries it on by the monotonic clock.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

import carpool

from .virtual import DAY_S, MODEL, START_S, Service, answer, client_of, run, set_wall, turns, until

JUMPS = pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S], ids=["back a day", "on a day"])
FILE: dict[str, Any] = {"inline_cost_max_usd": Decimal(0)}


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    set_wall(monkeypatch)


# -- while a client runs


@JUMPS
def test_a_jump_while_calls_are_under_way(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service = Service(latency_s=7_200)
        now = asyncio.get_running_loop().time
        async with client_of(service, carpool.MemoryStore()) as client:
            kept = await client.generate(MODEL, "kept", key="kept")
            waiting = asyncio.create_task(client.generate(MODEL, "p", deadline="4h"))
            late = asyncio.create_task(client.generate(MODEL, "late", deadline="1h"))
            await turns()
            began = now()
            set_wall(monkeypatch, jump_s)
            with pytest.raises(carpool.DeadlineExceeded):
                await late
            assert now() - began == pytest.approx(3_600, abs=1)
            assert (await waiting).text == answer("p")
            assert now() - began < 7_200 + 600, "polls go on at their pace"
            assert (await client.generate(MODEL, "kept", key="kept")).raw == kept.raw
            with pytest.raises(carpool.DeadlineExceeded):
                await client.generate(MODEL, "hurried", deadline=60)
        assert service.billed() == {"kept": 1, "p": 1, "late": 1, "hurried": 1}

    run(main())


def test_a_time_of_day_is_that_of_the_wall_clock_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        set_wall(monkeypatch, DAY_S)
        async with client_of(Service(latency_s=7_200), carpool.MemoryStore()) as client:
            began = asyncio.get_running_loop().time()
            with pytest.raises(carpool.DeadlineExceeded):
                await client.generate(MODEL, "p", deadline=datetime.fromtimestamp(START_S + DAY_S + 3_600, UTC))
            assert asyncio.get_running_loop().time() - began == pytest.approx(3_600, abs=1)

    run(main())


# -- between two processes


async def left_behind(service: Service, store: carpool.MemoryStore, point: str, settings: dict[str, Any]) -> None:
    """Let a process die while its job is at a point: what is in the store stays, and nothing is put in order."""
    service.held.add(point)
    client = client_of(service, store, **settings)
    await client.__aenter__()
    await client.submit(carpool.Request(model=MODEL, contents="ticket", key="ticket"))
    keyed = asyncio.create_task(client.generate(MODEL, "keyed", key="keyed"))
    bare = asyncio.create_task(client.generate(MODEL, "bare"))
    await (turns() if point == "gathering" else until(lambda: service.passed[point], point))
    await turns()
    behind.append(store.reopened())
    service.held.clear()
    await client.__aexit__(ZeroDivisionError, None, None)
    await asyncio.gather(keyed, bare, return_exceptions=True)


behind: list[carpool.MemoryStore] = []
"""What a process left behind when it died."""


@JUMPS
@pytest.mark.parametrize("point", ["gathering", "upload", "uploaded", "create", "created", "poll", "fetch", "last"])
def test_a_jump_before_the_next_process(point: str, jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service, settings = Service(latency_s=3_600), FILE | {"linger_s": 30.0, "lookup_wait_s": 60.0}
        now = asyncio.get_running_loop().time
        await left_behind(service, carpool.MemoryStore(), point, settings)
        set_wall(monkeypatch, jump_s)
        began = now()
        async with client_of(service, behind.pop(), **settings) as client:
            answers = await asyncio.gather(
                client.generate(MODEL, "keyed", key="keyed"), client.generate(MODEL, "bare"), client.result("ticket")
            )
            assert [one.json()["candidates"][0]["content"]["parts"][0]["text"] for one in answers] == [
                answer("keyed"),
                answer("bare"),
                answer("ticket"),
            ]
        assert service.billed() == {"keyed": 1, "bare": 1, "ticket": 1}
        assert now() - began < 3_600 + 900, "nothing waits for the clock to catch up"

    run(main())


@JUMPS
def test_unasked_work_goes_on_after_a_jump(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tickets that nobody asks for, so that nothing else wakes them."""

    async def main() -> None:
        service = Service()
        now = asyncio.get_running_loop().time
        settings = {"linger_s": 30.0, "lookup_wait_s": 60.0}
        await left_behind(service, carpool.MemoryStore(), "gathering", settings)
        set_wall(monkeypatch, jump_s)
        began = now()
        async with client_of(service, behind.pop(), **settings) as client:
            await until(lambda: service.billed()["ticket"] == service.billed()["keyed"] == 1, "the job")
            assert now() - began < 900
            await client.result("ticket")
        assert service.billed() == {"keyed": 1, "ticket": 1}, "a bare call is never sent unasked"

    run(main())


@JUMPS
def test_stored_results_outlive_a_jump(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        async with client_of(service, store) as client:
            first = await client.generate(MODEL, "keyed", key="keyed")
        set_wall(monkeypatch, jump_s)
        async with client_of(service, store.reopened()) as client:
            assert (await client.result("keyed")).raw == first.raw
            assert (await client.generate(MODEL, "keyed", key="keyed")).raw == first.raw
            await asyncio.sleep(3_600)
        set_wall(monkeypatch)
        async with client_of(service, store.reopened()) as client:
            assert (await client.result("keyed")).raw == first.raw
        assert service.billed() == {"keyed": 1}

    run(main())


def test_an_answer_that_nobody_took_outlives_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        service, store = Service(), carpool.MemoryStore()
        async with client_of(service, store) as client:
            gone = asyncio.create_task(client.generate(MODEL, "bare"))
            await until(lambda: service.passed["poll"])
            gone.cancel()
            await asyncio.wait((gone,))
            await client.drain()
        set_wall(monkeypatch, DAY_S)
        async with client_of(service, store.reopened()) as client:
            assert (await client.generate(MODEL, "bare")).text == answer("bare")
        assert service.billed() == {"bare": 1}

    run(main())


@JUMPS
def test_late_output_is_waited_for_after_a_jump(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ended without output has a grace: a jump must not end it, since its rows would be paid for again."""

    class Late(Service):
        hidden = True

        def _view(self, job: Any) -> Any:
            view = super()._view(job)
            return carpool.BatchJob(
                name=view.name,
                display_name=view.display_name,
                state=view.state,
                inline_output=view.inline_output and not self.hidden,
            )

    async def main() -> None:
        service, store = Late(), carpool.MemoryStore()
        client = client_of(service, store)
        await client.__aenter__()
        await client.submit(carpool.Request(model=MODEL, contents="p", key="p"))
        await asyncio.sleep(700)
        dead = store.reopened()
        await client.__aexit__(ZeroDivisionError, None, None)
        set_wall(monkeypatch, jump_s)
        async with client_of(service, dead) as client:
            await asyncio.sleep(60)
            service.hidden = False
            assert (await client.result("p")).json()["candidates"]
        assert service.billed() == {"p": 1}

    run(main())


def test_a_laptop_that_slept() -> None:
    """The monotonic clock stops while the machine is suspended: all that was due waits for its rest, nothing is lost.

    For the client, a suspension is a wall clock that was set forward.
    """

    async def main() -> None:
        service = Service(latency_s=3_600)
        async with client_of(service, carpool.MemoryStore()) as client:
            waiting = asyncio.create_task(client.generate(MODEL, "p", deadline="2h"))
            await until(lambda: service.passed["poll"])
            for job in service.jobs.values():
                job.ends_at = 0  # the server did not sleep
            began = asyncio.get_running_loop().time()
            assert (await waiting).text == answer("p")
            assert asyncio.get_running_loop().time() - began <= 300, "no longer than between two polls"

    run(main())
