"""A server that answers with whatever bytes a test says, and keeps what it was asked.

Owns no expectations. It shares nothing with the client or the emulator: hostile replies are written by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from carpool._core.model import Fault, Job, JobState, Lane
from carpool._gemini.developer import DeveloperProvider
from carpool._ports import ProviderError
from carpool.settings import Settings

KEY = "AIzaSECRETcanary0123456789abcdefghijk"


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def reply(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """Return the bytes of an HTTP reply; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Length", str(len(body)))
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in named.items() if value), "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Server:
    """A server on a free port of this machine; ``answer`` is asked for every request."""

    answer: Handler | bytes | list[bytes]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for _ in range(10):  # whoever was accepted just now is to be dismissed like the others
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while not writer.is_closing() and (asked := await _read(reader)) is not None:
                self.asked.append(asked)
                await self._answered(asked, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()

    async def _answered(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        match self.answer:
            case bytes() as fixed:
                writer.write(fixed)
            case list() as queue:
                writer.write(queue.pop(0))
            case handler:
                await handler(asked, writer)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


@pytest.fixture
def quick() -> Settings:
    """Return settings whose limits are reached at once."""
    return Settings(
        call_timeout_s=5.0,
        retry_min_s=0.001,
        retry_max_s=0.002,
        upload_chunk_bytes=262_144,
        body_bytes_max=65_536,
        line_bytes_max=65_536,
    )


def job(**fields: object) -> Job:
    """Return a job about to be created."""
    base: dict[str, object] = {
        "id": "j",
        "lane": Lane("generate", "gemini-3.5-flash"),
        "origin": "o",
        "form": "file",
        "spans": (),
        "count": 1,
        "line_bytes": 0,
        "tokens": 1,
        "sealed_at": 0.0,
        "display_name": "cp1.s.j.1",
        "state": JobState.CREATING,
        "file_name": "files/cp-1",
    }
    return Job(**(base | fields))  # type: ignore[arg-type]


async def chunks_of(*parts: bytes) -> AsyncIterator[bytes]:
    """Iterate over given bytes."""
    for part in parts:
        yield part


async def fault_of(call: Awaitable[object]) -> Fault:
    """Return the fault of a call that must fail."""
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value.fault


class Tools:
    """What the tests of this folder share."""

    KEY = KEY
    Asked = Asked
    Server = Server
    reply = staticmethod(reply)
    job = staticmethod(job)
    chunks_of = staticmethod(chunks_of)
    fault_of = staticmethod(fault_of)


@pytest.fixture
def tools() -> type[Tools]:
    """Return the server and the helpers."""
    return Tools


@pytest.fixture
async def at(quick: Settings) -> AsyncIterator[Callable[..., Awaitable[DeveloperProvider]]]:
    """Return what makes an open provider at a URL; all of them are closed in the end."""
    made: list[DeveloperProvider] = []

    async def make(url: str, **options: Any) -> DeveloperProvider:
        provider = DeveloperProvider(**({"api_key": KEY, "base_url": url, "settings": quick} | options))
        await provider.open()
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()
