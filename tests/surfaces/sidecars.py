"""A sidecar over a desk that answers when it is told to, and callers that speak to it byte by byte.

Owns bounded waits for conditions. It must not know what is tested with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import pytest

from carpool.surfaces.messages import Answer, Call
from carpool.surfaces.sidecar.connections import Connections
from carpool.surfaces.sidecar.limits import Limits
from carpool.surfaces.sidecar.server import Sidecar

PATIENCE_S: Final = 60.0
"""A net under every wait: whatever takes so long hangs. No test measures anything by it."""
OK: Final = Answer(status=200, body=b'{"ok":true}')


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Answers calls: at once with what is set, else when told."""

    def __init__(self, at_once: Answer | Exception | None = None) -> None:
        self.at_once = at_once
        self.calls: list[Call] = []
        self.pending: dict[str, asyncio.Future[Answer]] = {}
        self.cancelled: list[str] = []

    async def answer(self, call: Call) -> Answer:
        self.calls.append(call)
        if isinstance(self.at_once, Exception):
            raise self.at_once
        if self.at_once is not None:
            return self.at_once
        path = call.path
        del call
        future = self.pending[path] = asyncio.get_running_loop().create_future()
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(path)
            raise
        finally:
            self.pending.pop(path, None)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """A connection, without a library of HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def reply(self) -> Reply:
        """Read one response to its end, interim ones apart."""
        status, headers = await self.head()
        while status < 200:
            status, headers = await self.head()
        if "content-length" in headers:
            async with asyncio.timeout(PATIENCE_S):
                body = await self.reader.readexactly(int(headers["content-length"]))
            return Reply(status, headers, body)
        return Reply(status, headers, b"")

    async def rest(self) -> bytes:
        """Read all until the connection ends."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def ended(self) -> bool:
        """Wait for the end of the connection, of which nothing is expected any more."""
        return await self.rest() == b""

    def close(self) -> None:
        self.writer.close()


class House:
    """A running sidecar with its desk and its clock."""

    def __init__(self, sidecar: Sidecar, desk: Desk, clock: Clock) -> None:
        self.sidecar = sidecar
        self.desk = desk
        self.clock = clock
        self._callers: list[Caller] = []

    @property
    def connections(self) -> Connections:
        assert self.sidecar._serving is not None
        return self.sidecar._serving.connections

    @property
    def seen(self) -> Any:
        return self.connections.seen

    async def caller(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.sidecar.port))
        self._callers.append(caller)
        return caller

    def head(self, line: str, *headers: str, host: str | None = None) -> bytes:
        name = f"127.0.0.1:{self.sidecar.port}" if host is None else host
        lines = [line, f"Host: {name}", *headers] if name else [line, *headers]
        return "".join(f"{one}\r\n" for one in [*lines, ""]).encode("latin-1")

    def post(self, path: str = "/v1beta/x", *headers: str, body: bytes = b"{}", host: str | None = None) -> bytes:
        return self.head(f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *headers, host=host) + body

    def get(self, path: str, *headers: str, host: str | None = None) -> bytes:
        return self.head(f"GET {path} HTTP/1.1", *headers, host=host)

    async def ask(self, data: bytes) -> Reply:
        """Send a request on a connection of its own and read the response."""
        caller = await self.caller()
        await caller.send(data)
        reply = await caller.reply()
        caller.close()
        return reply

    async def asked(self, path: str = "/v1beta/x", *headers: str, body: bytes = b"{}") -> Caller:
        """Send a request, and return when its answer is awaited."""
        caller = await self.caller()
        await caller.send(self.post(path, *headers, body=body))
        await until(lambda: path in self.desk.pending)
        await until(lambda: self.connections.waiting > 0)
        return caller

    def give(self, path: str = "/v1beta/x", answer: Answer = OK) -> None:
        self.desk.pending[path].set_result(answer)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.connections.look()

    def leave(self) -> None:
        for caller in self._callers:
            caller.close()


@asynccontextmanager
async def house(
    desk: Desk | None = None, *, limits: Limits | None = None, real_time: bool = False, **options: Any
) -> AsyncIterator[House]:
    clock = Clock()
    desk = desk or Desk()
    sidecar = Sidecar(
        desk, limits=limits or Limits(grace_s=0, connections_max=200), clock=None if real_time else clock, **options
    )
    async with sidecar:
        running = House(sidecar, desk, clock)
        try:
            yield running
        finally:
            running.leave()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    ends_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > ends_at:
            pytest.fail("it never came to that")
        await asyncio.sleep(0.002)
