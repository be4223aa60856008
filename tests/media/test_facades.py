"""``client.files``, ``client.caches``, ``client.jobs``: what callers are told when a call about one of them fails."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from carpool import CacheError, CarpoolError, Client, ConfigurationError, FileError, JobError, MemoryStore, Settings
from carpool.emulator import Emulator, Fault, Plan

KEY = "AIza-canary-0123456789"
CALLS: list[tuple[str, type[CarpoolError], str, Callable[[Client], Awaitable[Any]]]] = [
    ("files.get", FileError, "files/a", lambda client: client.files.get("files/a")),
    ("files.delete", FileError, "files/a", lambda client: client.files.delete("files/a")),
    ("files.list", FileError, "", lambda client: anext(client.files.list())),
    ("upload.start", FileError, "", lambda client: client.files.upload(b"x", mime_type="text/plain")),
    ("caches.create", CacheError, "", lambda client: client.caches.create("gemini-3.5-flash", "a")),
    ("caches.get", CacheError, "cachedContents/a", lambda client: client.caches.get("cachedContents/a")),
    ("caches.update", CacheError, "cachedContents/a", lambda client: client.caches.extend("cachedContents/a", ttl_s=1)),
    ("caches.delete", CacheError, "cachedContents/a", lambda client: client.caches.delete("cachedContents/a")),
    ("caches.list", CacheError, "", lambda client: anext(client.caches.list())),
    ("get", JobError, "batches/a", lambda client: client.jobs.get("a")),
    ("cancel", JobError, "batches/a", lambda client: client.jobs.cancel("a")),
    ("delete", JobError, "batches/a", lambda client: client.jobs.delete("a")),
    ("list", JobError, "jobs", lambda client: anext(client.jobs.list())),
    ("get", JobError, "batches/a", lambda client: anext(client.jobs.results("a"))),
]


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as emulator:
        yield emulator


def client_of(base_url: str, **more: Any) -> Client:
    settings = Settings(retry_min_s=0.001, retry_max_s=0.001)
    return Client(api_key=KEY, base_url=base_url, store=MemoryStore(), settings=settings, **more)


@pytest.mark.parametrize(("op", "kind", "name", "call"), CALLS)
async def test_a_call_that_is_refused_says_whose_and_why(
    op: str, kind: type[CarpoolError], name: str, call: Callable[[Client], Awaitable[Any]], emulator: Emulator
) -> None:
    emulator.plan = Plan(faults={f"{op}.400": Fault(message=f"key {KEY} says no")})
    async with client_of(emulator.base_url) as client:
        with pytest.raises(kind) as caught:
            await call(client)
    error = caught.value
    assert type(error) is kind
    assert error.code == 400
    assert (getattr(error, "name", None) or error.job or "") == name
    assert "the server refused (400" in str(error)
    assert KEY not in f"{error}{error!r}{error.message}"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(again), str(again), again.__dict__) == (kind, str(error), error.__dict__)


@pytest.mark.parametrize(("op", "kind", "name", "call"), CALLS)
async def test_a_server_that_cannot_be_reached_is_said_so(
    op: str, kind: type[CarpoolError], name: str, call: Callable[[Client], Awaitable[Any]], emulator: Emulator
) -> None:
    async with client_of(emulator.base_url) as client:
        await emulator.stop()
        with pytest.raises(kind, match="the server cannot be reached"):
            await call(client)


@pytest.mark.parametrize(("op", "kind", "name", "call"), CALLS)
async def test_a_client_that_is_not_open_says_so(
    op: str, kind: type[CarpoolError], name: str, call: Callable[[Client], Awaitable[Any]], emulator: Emulator
) -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        await call(client_of(emulator.base_url))


class Plain:
    """A provider of the user's own, with nothing but what a provider must have."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        if name in ("files", "caches"):
            raise AttributeError(name)
        return getattr(self._provider, name)


async def test_a_provider_of_ones_own_needs_neither_files_nor_caches(emulator: Emulator) -> None:
    from carpool._gemini.developer import DeveloperProvider  # noqa: PLC0415 - the one use of an adapter

    provider: Any = Plain(DeveloperProvider(api_key=KEY, base_url=emulator.base_url))
    settings = Settings(linger_s=0, poll_min_s=0.01, poll_max_s=0.01)
    async with Client(provider=provider, store=MemoryStore(), settings=settings) as client:
        for call in (client.files.get("a"), client.files.upload(b"", mime_type="a/b"), anext(client.files.list())):
            with pytest.raises(ConfigurationError, match="give it an attribute 'files'"):
                await call
        for ask in (client.caches.get("a"), client.caches.create("m", "a"), anext(client.caches.list())):
            with pytest.raises(ConfigurationError, match="give it an attribute 'caches'"):
                await ask
        part = {"file_data": {"file_uri": f"{emulator.base_url}/v1beta/files/unknown", "mime_type": "image/png"}}
        with pytest.raises(CarpoolError):  # nobody checks; the server has its own word on it
            await client.generate("gemini-3.5-flash", ["a", part])


async def test_a_file_on_disk_that_is_not_there_is_refused_before_anything_is_sent(emulator: Emulator) -> None:
    async with client_of(emulator.base_url) as client:
        with pytest.raises(ConfigurationError, match=r"missing\.png is not a file"):
            await client.files.upload("missing.png")
    assert not emulator.requests
