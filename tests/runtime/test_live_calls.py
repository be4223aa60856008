"""Live calls at every moment: callers that leave, clients that are left, stores without room, bugs of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import Any

import pytest

import carpool
from carpool import FAST, ClientClosed, DeadlineExceeded, MemoryStore, RequestFailed
from carpool._core.messages import Write
from carpool._core.model import Fault, Span
from carpool._ports import Answers, ProviderError
from carpool.types import ServerError

from .virtual import MODEL, Service, answer, client_of, run, turns, until


class Leaves(Exception):
    """What a block is left with."""


LIVE: Any = ("standard",)
POINTS = ["send", "sent"]
"""A call waits there before the service has seen it, or after it was billed."""


def asked(client: carpool.Client, prompt: str = "p", **more: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(client.generate(MODEL, prompt, **({"ladder": LIVE} | more)))


async def outcome(call: asyncio.Task[Any]) -> Any:
    try:
        return (await call).text
    except carpool.CarpoolError as error:
        return type(error)


async def reached(service: Service, point: str, count: int = 1) -> None:
    await until(lambda: service.passed[point] >= count, point)


# -- leaving the client


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("on_close", "held_s"), [("keep", 10.0), ("keep", 60.0), ("drain", 60.0), ("cancel", 10.0)])
def test_a_client_that_is_left_while_a_call_flies(on_close: str, held_s: float, point: str, key: str | None) -> None:
    service, store = Service(), MemoryStore()
    waits = on_close == "drain" or (on_close == "keep" and held_s < 20.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service.held.add(point)
        async with client_of(service, store, on_close=on_close) as client:
            call = asked(client, key=key)
            await reached(service, point)
            loop.call_later(held_s, service.held.clear)
            left_at = loop.time()
        took_s = loop.time() - left_at
        assert await outcome(call) == (answer("p") if waits else ClientClosed)
        assert took_s <= {"keep": min(held_s, 20.0), "drain": held_s, "cancel": 0.0}[on_close] + 2.0
        service.held.clear()
        async with client_of(service, store.reopened()) as client:
            again = await client.generate(MODEL, "p", key=key, ladder=LIVE)
            assert again.text == answer("p")
        paid = service.live["p"]
        if waits:
            assert paid == (1 if key else 2)
        else:
            assert paid == (1 if point == "send" else 2), "nobody can know that it was answered"

    run(main())


def test_after_an_exception_nobody_waits_for_calls_that_fly() -> None:
    async def main() -> None:
        service = Service()
        service.held.add("sent")
        loop = asyncio.get_running_loop()
        with suppress(Leaves):
            async with client_of(service, MemoryStore()) as client:
                call = asked(client)
                await reached(service, "sent")
                left_at = loop.time()
                raise Leaves
        assert loop.time() - left_at < 1.0
        assert await outcome(call) is ClientClosed

    run(main())


# -- callers that leave


@pytest.mark.parametrize("point", POINTS)
def test_the_answer_of_a_caller_who_left_is_for_whoever_asks_the_same(point: str) -> None:
    async def main() -> None:
        service = Service()
        service.held.add(point)
        async with client_of(service, MemoryStore()) as client:
            call = asked(client)
            await reached(service, point)
            call.cancel()
            await asyncio.sleep(5.0)
            joined = asked(client)
            await turns()
            service.held.clear()
            first = await joined
            assert (first.text, first.receipt.reused, first.receipt.route) == (answer("p"), True, "standard")
            assert service.live == {"p": 1}

    run(main())


def test_an_answer_that_came_when_its_caller_had_left_is_kept() -> None:
    async def main() -> None:
        service, store = Service(), MemoryStore()
        service.held.add("sent")
        async with client_of(service, store) as client:
            call = asked(client)
            await reached(service, "sent")
            call.cancel()
            await asyncio.sleep(1.0)
            service.held.clear()
            await client.drain()
        async with client_of(service, store.reopened()) as client:
            assert (await client.generate(MODEL, "p", ladder=LIVE)).receipt.reused
        assert service.live == {"p": 1}

    run(main())


def test_a_caller_who_leaves_at_any_turn_costs_at_most_one_call() -> None:
    async def main(after: int) -> None:
        service = Service()
        async with client_of(service, MemoryStore()) as client:
            call = asked(client)
            await turns(after)
            call.cancel()
            await asyncio.wait((call,))
            again = await client.generate(MODEL, "p", ladder=LIVE)
            assert again.text == answer("p")
            await client.drain()
            assert client.stats().waiting == 0
        given = 0 if call.cancelled() else 1
        assert service.live["p"] <= 1 + given

    for after in range(40):
        run(main(after))


def test_a_call_that_waits_for_its_turn_is_withdrawn_with_its_caller() -> None:
    async def main() -> None:
        service = Service()
        service.held.add("send")
        async with client_of(service, MemoryStore(), live_calls_max=1) as client:
            first = asked(client, "first")
            await reached(service, "send")
            second = asked(client, "second")
            await asyncio.sleep(1.0)
            second.cancel()
            await asyncio.sleep(1.0)
            service.held.clear()
            assert await outcome(first) == answer("first")
            await client.drain()
        assert service.live == {"first": 1}

    run(main())


class Refusing(Service):
    """Refuses live calls."""

    refuses = True

    async def send(self, *args: Any, **more: Any) -> Answers:
        if self.refuses:
            raise ProviderError(Fault(kind="refused", error=ServerError(503, "overloaded", "UNAVAILABLE")))
        return await super().send(*args, **more)


@pytest.mark.parametrize("joins", [False, True])
def test_a_key_whose_deadline_passed_between_two_tries_is_known_to_have_missed_it(joins: bool) -> None:
    async def main() -> None:
        service, store = Refusing(), MemoryStore()
        async with client_of(service, store, attempts_max=100) as client:
            calls = [asked(client, key="k", deadline=None if joins else 60)]
            await turns()
            if joins:
                calls.append(asked(client, key="k", deadline=60))
                await turns()
                calls[0].cancel()
            with pytest.raises(DeadlineExceeded) as first:
                await calls[-1]
            with pytest.raises(DeadlineExceeded, match="was withdrawn: ask the same again") as caught:
                await client.result("k")
            assert (first.value.key, caught.value.key) == ("k", "k")
            await client.drain()
        service.refuses = False
        async with client_of(service, store.reopened()) as client:
            with pytest.raises(DeadlineExceeded, match="was withdrawn: ask the same again"):
                await client.result("k")
            assert service.live == {}
            assert await outcome(asked(client, key="k")) == answer("p")
            assert (await client.result("k")).text == answer("p")
        assert service.live == {"p": 1}

    run(main())


# -- a store without room


class Tight(MemoryStore):
    """A store whose commits fail while it is full."""

    full = False

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        if not self.full:
            return super().commit(writes)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(carpool.StoreFull("the disk is full: make room"))
        return failed


def test_answers_that_come_while_the_store_is_full_are_paid_for_once_and_reach_everybody() -> None:
    async def main() -> None:
        service, store = Service(), Tight()
        service.held.add("sent")
        async with client_of(service, store) as client:
            calls = [asked(client, "bare"), asked(client, "keyed", key="k")]
            await reached(service, "sent", 2)
            store.full = True
            service.held.clear()
            assert await outcome(calls[0]) == answer("bare"), "it needs no room"
            await asyncio.sleep(30.0)
            assert not calls[1].done(), "it is not on disk"
            store.full = False
            assert await outcome(calls[1]) == answer("keyed")
        assert service.live == {"bare": 1, "keyed": 1}

    run(main())


# -- rows that are read back


class Slow(MemoryStore):
    """A store whose rows take their time to be read."""

    held = False

    async def read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        await until(lambda: not self.held)
        async for part in super().read(spans):
            yield part


def test_a_row_that_is_read_for_a_live_call_stays_there_while_its_job_answers() -> None:
    async def main() -> None:
        service, store = Service(latency_s=6 * 3_600.0 + 2_700.0), Slow()
        async with client_of(service, store) as client:
            call = asked(client, ladder=carpool.CHEAP, deadline="7h", key="k")
            company = asked(client, "company", ladder=("batch",), key="company")  # whose job is not cancelled
            await until(lambda: service.jobs)
            store.held = True
            # The row is sent again when 1,000 seconds are left, and the job answers before it could be read for that.
            await until(call.done)
            await asyncio.sleep(60.0)
            assert (call.result().text, call.result().receipt.route) == (answer("p"), "batch")
            store.held = False
            await client.drain()
            assert company.done()
            assert await outcome(asked(client, "next")) == answer("next")
        assert service.live == {"p": 1, "next": 1}

    run(main())


# -- bugs of our own


class Buggy(Service):
    """Breaks a live call: before it is made, or with an answer too few."""

    broken = ""

    async def send(self, *args: Any, **more: Any) -> Answers:
        if self.broken == "raises":
            raise ZeroDivisionError
        found = await super().send(*args, **more)
        return Answers([]) if self.broken == "answers" else found


@pytest.mark.parametrize(("ladder", "deadline"), [(LIVE, None), (LIVE, 3_600.0), (FAST, None)])
@pytest.mark.parametrize("broken", ["raises", "answers"])
def test_a_bug_in_a_live_call_fails_its_request_alone_and_is_not_tried_again(
    broken: str, deadline: float | None, ladder: Any
) -> None:
    async def main() -> None:
        service = Buggy()
        service.broken = broken
        async with client_of(service, MemoryStore()) as client:
            call = asked(client, deadline=deadline, ladder=ladder)
            with pytest.raises(RequestFailed, match="bug of carpool"):
                await call
            service.broken = ""
            assert await outcome(asked(client, "next")) == answer("next")
        assert service.live["p"] == (broken == "answers")
        assert service.jobs == {}

    run(main())
