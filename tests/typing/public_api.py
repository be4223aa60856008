"""What type checkers make of the public API; read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import assert_type

import carpool


async def calls(client: carpool.Client) -> None:
    """Each call has the type that its documentation says."""
    answer = await client.generate("gemini-3.5-flash", "hi", deadline="4h", ladder=carpool.CHEAP)
    assert_type(answer, carpool.GenerateResponse)
    assert_type(answer.text, str)
    assert_type(answer.usage, carpool.Usage)
    assert_type(answer.raw, bytes)
    assert_type(answer.receipt.paid_usd, Decimal | None)
    assert_type(answer.images, list[carpool.Blob])
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
    assert_type(client.map([request]), AsyncIterator[carpool.Outcome])
    async for outcome in client.map([request], window=10):
        assert_type(outcome.error, carpool.CarpoolError | None)
    async for job in client.jobs.list():
        assert_type(job, carpool.BatchJob)
    assert_type(client.stats(), carpool.Stats)
    assert_type(client.receipt().saved_usd, Decimal)
