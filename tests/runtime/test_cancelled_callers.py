"""A caller that is cancelled, at each stage of its request: he alone is gone, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

import carpool
from carpool._core.output import Block
from carpool.types import BatchJob

from .virtual import MODEL, Service, answer, client_of, run, turns, until

FILE: dict[str, Any] = {"inline_cost_max_usd": Decimal(0)}
INLINE: dict[str, Any] = {}
POINTS = ["upload", "uploaded", "create", "created", "poll", "fetch", "last"]


def points(form: dict[str, Any]) -> list[str]:
    return POINTS if form is FILE else POINTS[2:]


CASES = [
    pytest.param(form, point, id=f"{'file' if form is FILE else 'inline'}-{point}")
    for form in (FILE, INLINE)
    for point in points(form)
]


async def at_point(service: Service, point: str) -> None:
    await until(lambda: service.passed[point], point)
    await turns()


@pytest.mark.parametrize("keyed", [False, True], ids=["bare", "keyed"])
@pytest.mark.parametrize(("form", "point"), CASES)
def test_a_caller_is_cancelled_while_its_job_is_there(form: dict[str, Any], point: str, keyed: bool) -> None:
    async def main() -> None:
        service = Service()
        store = carpool.MemoryStore()
        async with client_of(service, store, **form) as client:

            def ask(prompt: str) -> asyncio.Task[carpool.GenerateResponse]:
                key = prompt if keyed else None
                return asyncio.create_task(client.generate(MODEL, prompt, key=key))

            service.held.add(point)
            stays, gone = ask("stays"), ask("gone")
            await at_point(service, point)
            gone.cancel()
            await asyncio.wait((gone,))
            assert gone.cancelled()
            service.held.clear()
            assert (await stays).text == answer("stays")
            again = await ask("gone")
            assert again.text == answer("gone")
        assert service.billed() == {"gone": 1, "stays": 1}

    run(main())


@pytest.mark.parametrize(("form", "point"), CASES)
def test_everybody_is_cancelled_and_nobody_asks_again(form: dict[str, Any], point: str) -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore(), **form) as client:
            service.held.add(point)
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(3)]
            await at_point(service, point)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [point != "last"] * 2 + [True]
            service.held.clear()
            await client.drain()
            assert (client.stats().waiting, client.stats().jobs) == (0, 0)
        before = point in {"upload", "uploaded"}
        assert sum(service.billed().values()) == (0 if before else 3), "not created is not paid; else kept"

    run(main())


def test_a_caller_is_cancelled_while_it_waits_its_turn() -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore(), waiting_requests_max=1, linger_s=5) as client:
            first = asyncio.create_task(client.generate(MODEL, "first"))
            await turns()
            queued = [asyncio.create_task(client.generate(MODEL, f"queued {i}")) for i in range(3)]
            await turns()
            assert client.stats().queued_callers == 3
            queued[1].cancel()
            await asyncio.wait((queued[1],))
            answers = await asyncio.gather(first, queued[0], queued[2])
            assert [one.text for one in answers] == [answer("first"), answer("queued 0"), answer("queued 2")]
            assert client.stats().queued_callers == 0
        assert service.billed() == {"first": 1, "queued 0": 1, "queued 2": 1}

    run(main())


def test_a_caller_is_cancelled_in_the_turn_in_which_it_is_let_in() -> None:
    """Its place is free again: the others come in."""

    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore(), waiting_requests_max=1, linger_s=5) as client:
            gate = client._runtime.gate
            whole = gate.release
            first = asyncio.create_task(client.generate(MODEL, "first"))
            await turns()
            queued = [asyncio.create_task(client.generate(MODEL, f"queued {i}")) for i in range(4)]
            await turns()

            def release_and_cancel(waiting: int, waiting_bytes: int) -> None:
                whole(waiting, waiting_bytes)
                if gate._released and not queued[2].cancelling():
                    for task in queued[:3]:
                        task.cancel()

            gate.release = release_and_cancel  # type: ignore[method-assign]
            assert (await first).text == answer("first")
            assert (await queued[3]).text == answer("queued 3")
            assert [task.cancelled() for task in queued] == [True, True, True, False]
        assert service.billed() == {"first": 1, "queued 3": 1}

    run(main())


def test_a_caller_is_cancelled_while_its_lane_gathers() -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore(), linger_s=60) as client:
            gone = asyncio.create_task(client.generate(MODEL, "gone"))
            stays = asyncio.create_task(client.generate(MODEL, "stays"))
            await turns()
            gone.cancel()
            assert (await stays).text == answer("stays")
            assert gone.cancelled()
        assert service.billed() == {"stays": 1}

    run(main())


@pytest.mark.parametrize("keyed", [False, True], ids=["bare", "keyed"])
def test_a_caller_is_cancelled_in_the_turn_in_which_it_is_answered(keyed: bool) -> None:
    """The answer is in its future already, and the caller never runs to take it: the next one like it gets it."""

    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore()) as client:
            key = "k" if keyed else None
            gone = asyncio.create_task(client.generate(MODEL, "p", key=key))
            handover = client._runtime._handover
            whole = handover.give

            async def give_and_cancel() -> None:
                is_due = bool(handover._due)
                await whole()
                if is_due:
                    gone.cancel()

            handover.give = give_and_cancel  # type: ignore[method-assign]
            await asyncio.wait((gone,))
            assert gone.cancelled()
            again = await client.generate(MODEL, "p", key=key)
            assert again.text == answer("p")
            await client.drain()
        assert service.billed() == {"p": 1}

    run(main())


class Whole(Service):
    """A service whose output comes in one piece."""

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        yield Block.of([row async for block in super().fetch(job) for row in block.rows])


def test_a_caller_is_cancelled_between_the_arrival_of_its_answer_and_its_booking() -> None:
    """The others of the same piece of output get theirs, and his own is kept for whoever asks the same."""

    async def main() -> None:
        service = Whole()
        async with client_of(service, carpool.MemoryStore()) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, f"p{i}")) for i in range(3)]
            handover = client._runtime._handover
            add = handover.add

            def add_and_cancel(block: Any) -> None:
                add(block)
                tasks[0].cancel()

            handover.add = add_and_cancel  # type: ignore[method-assign]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert tasks[0].cancelled()
            assert [one.text for one in answers[1:]] == [answer("p1"), answer("p2")]
            again = await client.generate(MODEL, "p0")
            assert again.text == answer("p0")
            assert again.receipt.reused
        assert service.billed() == {"p0": 1, "p1": 1, "p2": 1}

    run(main())


def test_a_caller_is_cancelled_while_a_stored_result_is_read() -> None:
    class Slow(carpool.MemoryStore):
        waits = False

        async def results(self, places: Any) -> list[bytes]:
            while self.waits:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1)
            return await super().results(places)

    async def main() -> None:
        service, store = Service(), Slow()
        async with client_of(service, store) as client:
            first = await client.generate(MODEL, "p", key="k")
            store.waits = True
            tasks = [asyncio.create_task(client.result("k")) for _ in range(3)]
            await turns()
            tasks[1].cancel()
            await asyncio.wait((tasks[1],))
            store.waits = False
            answers = await asyncio.gather(tasks[0], tasks[2])
            assert [one.raw for one in answers] == [first.raw] * 2
        assert service.billed() == {"p": 1}

    run(main())


def test_one_of_several_awaiters_of_a_key_is_cancelled() -> None:
    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore()) as client:
            tasks = [asyncio.create_task(client.generate(MODEL, "p", key="k")) for _ in range(4)]
            await turns()
            tasks[0].cancel()
            tasks[2].cancel()
            answers = await asyncio.gather(tasks[1], tasks[3])
            assert answers[0].raw == answers[1].raw
        assert service.billed() == {"p": 1}

    run(main())


def test_who_submits_is_cancelled_and_the_ticket_is_kept() -> None:
    """A submit that was cancelled may have been taken in: then its key gives the answer, once paid for."""

    async def main() -> None:
        service = Service()
        async with client_of(service, carpool.MemoryStore()) as client:
            task = asyncio.create_task(client.submit(carpool.Request(model=MODEL, contents="p", key="k")))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert (await client.result("k")).json()["candidates"]
        assert service.billed() == {"p": 1}

    run(main())


@pytest.mark.parametrize("keyed", [False, True], ids=["bare", "keyed"])
def test_a_caller_is_cancelled_while_others_of_his_job_are_told(keyed: bool) -> None:
    """Answers are given by a few hundred at a time: the first who has his may cancel one who is still to be told."""

    async def main() -> None:
        service = Whole()
        async with client_of(service, carpool.MemoryStore()) as client:

            def ask(number: int) -> asyncio.Task[carpool.GenerateResponse]:
                return asyncio.create_task(client.generate(MODEL, f"p{number}", key=f"k{number}" if keyed else None))

            tasks = [ask(number) for number in range(600)]
            tasks[0].add_done_callback(lambda _: tasks[599].cancel())
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert tasks[599].cancelled()
            assert [one.text for one in answers[:599]] == [answer(f"p{number}") for number in range(599)]
            again = await ask(599)
            assert (again.text, again.receipt.reused) == (answer("p599"), True)
        assert set(service.billed().values()) == {1}

    run(main())
