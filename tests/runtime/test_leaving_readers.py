"""Whoever waits for a stored result when the client is left is told so: nobody hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import carpool
from carpool.emulator import Emulator

SETTINGS = carpool.Settings(linger_s=0.001, poll_min_s=0.002)


class SlowToRead(carpool.MemoryStore):
    """Stored results are never read to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def results(self, places: Sequence[int]) -> list[bytes]:
        self.asked.set()
        await asyncio.Event().wait()
        return await super().results(places)


async def test_reads_of_stored_results_that_leaving_breaks_off_end_with_client_closed() -> None:
    store = SlowToRead()
    async with Emulator() as emulator, asyncio.timeout(20):
        client = carpool.Client(api_key="k", base_url=emulator.base_url, store=store, settings=SETTINGS)
        async with client:
            await client.generate("gemini-3.5-flash", "one", key="one")
            again = [
                asyncio.create_task(client.generate("gemini-3.5-flash", "one", key="one")),
                asyncio.create_task(client.result("one")),
            ]
            await store.asked.wait()
        for call in again:
            with pytest.raises(carpool.ClientClosed):
                await call
