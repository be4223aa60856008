"""How a sidecar stops: who waits may have its answer, or hears to ask again; nobody hangs."""

from __future__ import annotations

import asyncio
import json

from carpool.surfaces.messages import Answer
from carpool.surfaces.sidecar.limits import Limits

from .sidecars import OK, Desk, house, until

PATIENT = Limits(grace_s=3_600, connections_max=200)


async def test_who_waits_gets_its_answer_while_nobody_else_is_let_in() -> None:
    async with house(limits=PATIENT) as place:
        caller = await place.asked()
        idle = await place.caller()
        await until(lambda: len(place.connections) == 2)
        stopping = asyncio.create_task(place.sidecar.stop())
        assert await idle.ended()
        refused = 0
        try:
            await asyncio.open_connection("127.0.0.1", place.sidecar.port)
        except ConnectionError:
            refused += 1
        assert refused == 1
        assert not stopping.done()
        place.give()
        reply = await caller.reply()
        assert (reply.status, reply.body, reply.headers["connection"]) == (200, OK.body, "close")
        await stopping
        assert await caller.ended()


async def test_after_the_grace_callers_hear_to_ask_again_and_their_calls_are_cancelled() -> None:
    async with house(limits=Limits(grace_s=0.01, connections_max=200)) as place:
        callers = [await place.asked(f"/{number}") for number in range(3)]
        await place.sidecar.stop()
        for caller in callers:
            reply = await caller.reply()
            error = json.loads(reply.body)["error"]
            assert (reply.status, error["status"], reply.headers["retry-after"]) == (503, "UNAVAILABLE", "5")
            assert "ask again" in error["message"]
            assert await caller.ended()
        assert sorted(place.desk.cancelled) == ["/0", "/1", "/2"]
        assert place.seen["interrupted"] == 3
        assert place.seen["gone"] == 0


async def test_a_second_signal_ends_the_waiting_at_once() -> None:
    async with house(limits=PATIENT) as place:
        caller = await place.asked()
        stopping = asyncio.create_task(place.sidecar.stop())
        await until(lambda: place.sidecar._stopping)
        place.sidecar.hurry()
        assert (await caller.reply()).status == 503
        await stopping


async def test_a_request_that_comes_meanwhile_is_asked_to_come_again() -> None:
    async with house(limits=PATIENT) as place:
        caller = await place.asked("/first")
        await caller.send(place.post("/second"))
        stopping = asyncio.create_task(place.sidecar.stop())
        await until(lambda: place.sidecar._stopping)
        place.give("/first")
        assert (await caller.reply()).status == 200
        await stopping
        assert [call.path for call in place.desk.calls] == ["/first"]


async def test_half_a_body_does_not_hold_it_up() -> None:
    async with house(limits=Limits(grace_s=0.01, connections_max=200)) as place:
        caller = await place.caller()
        await caller.send(place.head("POST /v1beta/x HTTP/1.1", "Content-Length: 1000") + b"{")
        await until(lambda: place.connections.turns == 1)
        await place.sidecar.stop()
        assert (await caller.reply()).status == 503


async def test_a_call_that_does_not_let_itself_be_cancelled_does_not_hold_it_up_for_ever() -> None:
    freed = asyncio.Event()

    class Stubborn(Desk):
        async def answer(self, call: object) -> Answer:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await freed.wait()
            return OK

    async with house(Stubborn(), limits=Limits(grace_s=0.01, connections_max=200)) as place:
        caller = await place.caller()
        await caller.send(place.post())
        await until(lambda: place.connections.waiting == 1)
        stopping = asyncio.create_task(place.sidecar.stop())
        await until(lambda: place.sidecar._stopping)
        place.sidecar.hurry()
        await until(lambda: place.connections.seen["interrupted"] == 0 and place.sidecar._hurried.is_set() is False)
        place.sidecar.hurry()
        await stopping
        freed.set()
        assert await caller.ended()


async def test_leaving_while_being_cancelled_stops_as_well() -> None:
    async def run() -> None:
        async with house(limits=PATIENT) as place:
            place.sidecar.hurry()
            entered.set_result(place.sidecar.port)
            await asyncio.get_running_loop().create_future()

    entered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run())
    port = await entered
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    writer.close()
