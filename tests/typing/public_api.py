"""What type checkers make of the public API; read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import assert_type

import carpool
import carpool.sync


async def calls(client: carpool.Client) -> None:
    """Each call has the type that its documentation says."""
    answer = await client.generate("gemini-3.5-flash", "hi", deadline="4h", ladder=carpool.CHEAP)
    assert_type(answer, carpool.GenerateResponse)
    assert_type(answer.text, str)
    assert_type(answer.usage, carpool.Usage)
    assert_type(answer.raw, bytes)
    assert_type(answer.receipt.paid_usd, Decimal | None)
    assert_type(answer.images, list[carpool.Blob])
    assert_type(answer.function_calls, list[carpool.FunctionCall])
    vector = await client.embed("gemini-embedding-001", "hi", deadline=timedelta(hours=1), key="k")
    assert_type(vector, carpool.EmbedResponse)
    assert_type(vector.values, list[float])
    await client.generate("gemini-3.5-flash", ["a", {"text": "b"}], deadline=datetime.now(UTC), config={"seed": 1})


async def rows(client: carpool.Client) -> None:
    """Rows, tickets, jobs and accounts too."""
    request = carpool.Request(model="gemini-3.5-flash", contents="hi", key="k")
    ticket = await client.submit(request)
    assert_type(ticket.key, str)
    assert_type(await client.result("k"), carpool.GenerateResponse | carpool.EmbedResponse)
    assert_type(client.map([request]), AsyncGenerator[carpool.Outcome])
    async for outcome in client.map([request], window=10):
        assert_type(outcome.error, carpool.CarpoolError | None)
    async for job in client.jobs.list():
        assert_type(job, carpool.BatchJob)
    async for outcome in client.map([{"key": "k", "request": {"contents": []}}], model="gemini-3.5-flash"):
        assert_type(outcome.key, str)
    assert_type(client.jobs.results("batches/x"), AsyncGenerator[carpool.Outcome])
    assert_type(client.stats(), carpool.Stats)
    assert_type(client.receipt().saved_usd, Decimal)
    assert_type(client.health(), carpool.Health)
    assert_type(client.health().reasons, list[str])
    alarms: list[carpool.Alarm] = []
    carpool.Client(on_alarm=alarms.append)
    assert_type(alarms[0].count, int)


async def media(client: carpool.Client) -> None:
    """Files and caches too, and what contents may hold."""
    file = await client.files.upload(Path("a.png"), display_name="a")
    assert_type(file, carpool.File)
    assert_type(await client.files.upload("a.png"), carpool.File)
    assert_type(await client.files.upload(b"a", mime_type="text/plain"), carpool.File)
    assert_type(await client.files.get(file.name), carpool.File)
    assert_type(client.files.list(), AsyncGenerator[carpool.File])
    await client.files.delete(file.name)
    cache = await client.caches.create("gemini-3.5-flash", [file, "a"], config={"system_instruction": "b"}, ttl_s=60)
    assert_type(cache, carpool.Cache)
    assert_type(await client.caches.extend(cache.name, ttl_s=60), carpool.Cache)
    assert_type(client.caches.list(), AsyncGenerator[carpool.Cache])
    await client.generate("gemini-3.5-flash", ["a", file, carpool.Blob(b"", "image/png"), Path("a.png")])


def without_await(client: carpool.sync.Client) -> None:
    """The client for code without ``await`` gives the same types."""
    with client as opened:
        assert_type(opened, carpool.sync.Client)
    assert_type(client.generate("gemini-3.5-flash", "hi", deadline="4h").text, str)
    assert_type(client.embed("gemini-embedding-001", "hi").values, list[float])
    ticket = client.submit(carpool.Request(model="gemini-3.5-flash", contents="hi"))
    assert_type(ticket.done(), bool)
    ticket.result(timeout_s=1)
    assert_type(client.result(ticket.key), carpool.GenerateResponse | carpool.EmbedResponse)
    rows: list[carpool.Request | dict[str, object]] = [{"key": "k", "request": {}}]
    assert_type(client.map(rows, model="gemini-3.5-flash"), Iterator[carpool.Outcome])
    assert_type(client.jobs.list(), Iterator[carpool.BatchJob])
    assert_type(client.jobs.get("batches/x"), carpool.BatchJob)
    assert_type(client.jobs.results("batches/x"), Iterator[carpool.Outcome])
    assert_type(client.files.upload(Path("a.png")), carpool.File)
    assert_type(client.files.list(), Iterator[carpool.File])
    assert_type(client.caches.extend("cachedContents/x", ttl_s=60), carpool.Cache)
    assert_type(client.caches.list(), Iterator[carpool.Cache])
    assert_type(client.receipt(), carpool.Receipt)
    assert_type(client.health(), carpool.Health)
