"""Callers that mean no good: the sidecar stays up, and a good caller is answered all the while."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from carpool.surfaces.messages import Answer
from carpool.surfaces.sidecar.interim import PROCESSING
from carpool.surfaces.sidecar.limits import Limits

from .sidecars import OK, Caller, Desk, House, house, until

FEW = Limits(connections_max=200, grace_s=0)


@asynccontextmanager
async def good_caller(place: House) -> AsyncIterator[list[int]]:
    """Somebody who asks again and again, on new connections, and is to be answered each time."""
    answered: list[int] = []

    async def ask() -> None:
        while True:
            answered.append((await place.ask(place.post("/good"))).status)

    task = asyncio.create_task(ask())
    try:
        yield answered
        before = len(answered)
        await until(lambda: len(answered) >= before + 3 or task.done())
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), f"a good caller was not answered: {task.exception()}"
    assert set(answered) == {200}


class Counter(Desk):
    """Answers good callers at once, and all others when told."""

    async def answer(self, call: object) -> Answer:
        if getattr(call, "path", "") == "/good":
            return OK
        return await super().answer(call)  # type: ignore[arg-type]


# -- too many, and too idle


async def test_a_thousand_idle_connections_give_way_to_who_wants_something() -> None:
    async with house(Counter(), limits=FEW) as place, good_caller(place) as answered:
        busy = [await place.asked(f"/{number}") for number in range(20)]
        highest = 0
        idle: list[Caller] = []
        for number in range(1_000):
            idle.append(await place.caller())
            if number % 10 == 0:
                highest = max(highest, len(place.connections))
        await until(lambda: place.seen["gave_way"] >= 800)
        assert highest <= FEW.connections_max + 1  # type: ignore[operator]
        assert answered
        for caller in idle[:100]:
            assert await caller.ended()  # those that were idle longest
        for number, caller in enumerate(busy):
            place.give(f"/{number}")
            assert (await caller.reply()).status == 200, "who was in the middle of a call never gives way"
        assert place.seen["not_let_in"] == 0


async def test_when_all_are_in_the_middle_of_calls_the_next_is_told_so_and_health_is_still_told() -> None:
    async with house(limits=Limits(connections_max=32, grace_s=0)) as place:
        busy = [await place.asked(f"/{number}") for number in range(24)]
        for _ in range(20):
            reply = await place.ask(place.post("/more"))
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert (await place.ask(place.get("/carpool/health"))).status == 200
        place.give("/0")
        assert (await busy[0].reply()).status == 200
        again = await place.asked("/more")
        place.give("/more")
        assert (await again.reply()).status == 200


async def test_who_sends_nothing_or_a_head_byte_by_byte_is_closed_after_75_seconds() -> None:
    async with house(Desk(OK), limits=FEW) as place:
        silent, slow = await place.caller(), await place.caller()
        await until(lambda: place.connections.idle == 2)
        request = place.post()
        for byte in request[:7]:
            await slow.send(bytes((byte,)))
            place.pass_time(10)
        kept = await place.caller()
        await kept.send(request)
        assert (await kept.reply()).status == 200
        await until(lambda: place.connections.idle == 3)
        place.pass_time(4.9)
        assert place.seen["idle"] == 0
        place.pass_time(0.1)
        assert place.seen["idle"] == 2
        assert await silent.ended()
        assert await slow.ended()
        await kept.send(request)
        assert (await kept.reply()).status == 200
        place.pass_time(75)
        assert await kept.ended()


async def test_a_request_that_came_just_now_saves_its_connection() -> None:
    async with house(limits=FEW) as place:
        caller = await place.caller()
        await until(lambda: place.connections.idle == 1)
        (connection,) = place.connections._open
        place.clock.now += 80
        connection.data_received(place.post())  # the head is there, and nobody has looked at it
        assert not place.connections.give_way()
        place.connections.look()
        await until(lambda: "/v1beta/x" in place.desk.pending)
        place.give()
        assert (await caller.reply()).status == 200


async def test_who_waits_for_its_answer_is_not_idle() -> None:
    async with house(limits=FEW) as place:
        caller = await place.asked()
        for _ in range(1_000):
            place.pass_time(15)
        place.give()
        assert (await caller.reply()).status == 200


# -- garbage


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300, 400),
        (b"AIza-canary-0123456789-canary\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(2_000)) + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
    ids=["tls", "no request", "long header", "long line", "many headers", "lengths", "length", "both", "blank", "h2"],
)
async def test_what_is_no_request_is_refused_without_repeating_it(
    garbage: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(Desk(OK), limits=FEW) as place:
        caller = await place.caller()
        await caller.send(garbage)
        reply = await caller.reply()
        assert reply.status == status
        assert json.loads(reply.body)["error"]["code"] == status
        assert await caller.ended()
        assert (await place.ask(place.post())).status == 200
        assert len(place.desk.calls) == 1
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    assert b"canary" not in reply.body


@pytest.mark.parametrize("target", ["http://evil.example/v1/x", "evil.example:443", "*", "//evil.example/x"])
async def test_it_is_no_proxy(target: str) -> None:
    async with house(Desk(OK), limits=FEW) as place:
        method = "CONNECT" if target.endswith(":443") else "OPTIONS"
        reply = await place.ask(place.head(f"{method} {target} HTTP/1.1"))
        # Two slashes are an odd path and no more: a call to our own host.
        assert reply.status == (200 if target.startswith("//") else 421)
        assert [call.path for call in place.desk.calls] == ([target] if reply.status == 200 else [])


async def test_a_malformed_chunk_is_refused_and_only_that_caller_suffers() -> None:
    async with house(Counter(), limits=FEW) as place, good_caller(place):
        head = place.head("POST /x HTTP/1.1", "Transfer-Encoding: chunked")
        for chunk in (b"zz\r\nhello\r\n", b"5\r\nhelloworld\r\n", b"ffffffffffffffffff\r\n"):
            caller = await place.caller()
            await caller.send(head + chunk)
            assert (await caller.reply()).status == 400
            assert await caller.ended()
        assert not place.desk.calls


async def test_random_bytes_do_no_harm() -> None:
    chance = random.Random(7)
    async with house(Counter(), limits=FEW) as place, good_caller(place):
        for _ in range(200):
            caller = await place.caller()
            with suppress(ConnectionError):
                await caller.send(chance.randbytes(chance.randrange(1, 3_000)))
            if chance.random() < 0.5:
                caller.close()


# -- floods


async def test_a_flood_of_pipelined_requests_is_read_no_faster_than_it_is_answered() -> None:
    async with house(Counter(), limits=FEW) as place, good_caller(place):
        caller = await place.caller()
        flood = place.post("/first") + place.post("/next") * 20_000
        sending = asyncio.create_task(caller.send(flood))
        await until(lambda: "/first" in place.desk.pending)
        assert [call.path for call in place.desk.calls] == ["/first"]
        (connection,) = place.connections._turns
        await until(lambda: connection._buffer_paused or sending.done())
        assert len(connection._messages) <= 32
        sending.cancel()
        await asyncio.wait({sending})
        caller.close()


async def test_a_caller_that_never_reads_is_given_up_and_takes_no_memory_meanwhile() -> None:
    large = Answer(status=200, body=b"x" * 50_000_000)
    async with house(Counter(), limits=FEW) as place, good_caller(place):
        peer = socket.create_connection(("127.0.0.1", place.sidecar.port))
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            peer.sendall(place.post("/large"))
            await until(lambda: "/large" in place.desk.pending)
            place.give("/large", large)
            await until(lambda: any(turn.sent_bytes for turn in place.connections._turns.values()))
            place.pass_time(10)  # the system's own buffers took some of it
            place.pass_time(10)
            assert place.seen["slow"] == 1
            await until(lambda: place.seen["gone"] == 1)
        finally:
            peer.close()


async def test_signs_of_life_do_not_pile_up_for_a_caller_that_does_not_read_them() -> None:
    async with house(limits=FEW) as place:
        await place.asked()
        (turn,) = place.connections._turns.values()
        transport = turn.connection.transport
        assert transport is not None
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        for _ in range(100_000):
            place.clock.now += 15
            place.connections.look()
            if transport.get_write_buffer_size():
                break
        size = transport.get_write_buffer_size()
        assert 0 < size <= len(PROCESSING)
        for _ in range(100):
            place.clock.now += 15
            place.connections.look()
        assert transport.get_write_buffer_size() == size


async def test_a_slow_reader_of_an_answer_in_pieces_makes_the_service_wait_and_not_the_memory_grow() -> None:
    given = 0

    async def pieces() -> object:
        nonlocal given
        for _ in range(10_000):
            given += 1
            yield b"x" * 100_000

    async with house(limits=FEW) as place:
        caller = await place.asked()
        place.give(answer=Answer(status=200, pieces=pieces()))  # type: ignore[arg-type]
        await caller.head()
        before = -1
        while given != before:
            before = given
            for _ in range(50):
                await asyncio.sleep(0)
        assert given < 1_000
        (turn,) = place.connections._turns.values()
        assert turn.connection.transport is not None
        assert turn.connection.transport.get_write_buffer_size() < 1_000_000


# -- no files left

_CHILD = """
import asyncio, resource, sys
from carpool.surfaces.sidecar.interim import PROCESSING
from carpool.surfaces.sidecar.limits import Limits, connections_of
from carpool.surfaces.messages import Answer
from carpool.surfaces.sidecar.server import Sidecar

class Desk:
    async def answer(self, call):
        return Answer(status=200, body=b"ok")

async def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, int(sys.argv[1]))))
    limits = Limits(grace_s=0, connections_max=int(sys.argv[2]) or None)
    async with Sidecar(Desk(), limits=limits) as sidecar:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        print(sidecar.port, soft, sidecar._doorway._connections_max, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print(dict(sidecar._serving.connections.seen), flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def child(hard: int, connections_max: int) -> AsyncIterator[tuple[subprocess.Popen[str], list[int]]]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once, and is waited for in threads
        [sys.executable, "-c", _CHILD, str(hard), str(connections_max)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        try:
            yield process, [int(number) for number in line.split()]
        finally:
            process.kill()


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/x HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % port)
    async with asyncio.timeout(60):
        got = await reader.read()
    writer.close()
    return got


async def test_the_soft_limit_of_open_files_is_raised_and_never_reached() -> None:
    async with child(hard=256, connections_max=0) as (process, (port, soft, most)):
        assert (soft, most) == (256, 192)
        peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(600)]
        assert (await _ask(port)).startswith(b"HTTP/1.1 200 OK")
        out, _ = await asyncio.to_thread(process.communicate, "\n")
        assert "not_let_in" not in out
        for _, writer in peers:
            writer.close()


async def test_where_others_have_used_up_the_files_somebody_gives_way_and_nothing_stands_still() -> None:
    async with child(hard=64, connections_max=500) as (process, (port, soft, most)):
        assert (soft, most) == (64, 500)
        peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        assert (await _ask(port)).startswith(b"HTTP/1.1 200 OK")
        out, _ = await asyncio.to_thread(process.communicate, "\n")
        assert "not_let_in" in out
        for _, writer in peers:
            writer.close()
