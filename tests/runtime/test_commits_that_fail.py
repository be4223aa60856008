"""Each commit of a client's life fails in turn, for good or for want of room: nothing hangs, is lost or paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, Final

import pytest

import carpool
from carpool._core.messages import Write

from .virtual import DAY_S, MODEL, Service, answer, client_of, run

SETTINGS: Final[dict[str, Any]] = {"inline_cost_max_usd": Decimal(0), "segment_bytes": 4_096, "close_timeout_s": 20.0}
COMMITS: Final = range(1, 15)


class Failing(carpool.MemoryStore):
    """A store of which one commit fails, and those after it."""

    def __init__(self, at: int, error: type[carpool.StoreError], *, written: bool) -> None:
        super().__init__()
        self.at = at
        self.error = error
        self.written = written
        self.count = 0
        self.failures = 0
        self.until_s = 0.0

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        loop = asyncio.get_running_loop()
        self.count += 1
        if self.count == self.at:
            self.until_s = loop.time() + (10.0 if self.error is carpool.StoreFull else 10 * DAY_S)
        if self.count < self.at or loop.time() >= self.until_s:
            return super().commit(writes)
        self.failures += 1
        if self.written:
            assert super().commit(writes).exception() is None  # type: ignore[attr-defined]
        done = loop.create_future()
        done.set_exception(self.error("it does not work"))
        return done


async def ask(client: carpool.Client) -> list[Any]:
    async def ticket() -> Any:
        return await (await client.submit(carpool.Request(model=MODEL, contents="ticket", key="ticket")))

    calls = [
        client.generate(MODEL, "bare"),
        client.generate(MODEL, "keyed", key="keyed"),
        ticket(),
        client.generate(MODEL, "large" + "x" * 5_000, key="large"),
    ]
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize("error", [carpool.StoreError, carpool.StoreCorrupt, carpool.StoreFull])
@pytest.mark.parametrize("at", COMMITS)
def test_a_commit_that_fails(at: int, error: type[carpool.StoreError], written: bool) -> None:
    async def main() -> None:
        service, store = Service(), Failing(at, error, written=written)
        client = client_of(service, store, **SETTINGS)
        async with asyncio.timeout(2 * DAY_S):
            try:
                await client.__aenter__()
            except carpool.StoreError:
                assert at == 1
                outcomes: list[Any] = []
            else:
                outcomes = await ask(client)
                lives = client.health().status != "failed"
                failed = [one for one in outcomes if isinstance(one, BaseException)]
                assert {type(one) for one in failed} <= {error}
                assert lives or error is not carpool.StoreFull
                assert not failed or not lives or at == 1  # a store that is full when it is opened takes nothing in
                try:
                    await client.__aexit__(None, None, None)
                except carpool.StoreError:
                    assert not lives or store.failures
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not service.is_open
        assert store.failures or store.count < at
        acknowledged = {"ticket"} if outcomes and not isinstance(outcomes[2], BaseException) else set[str]()
        async with asyncio.timeout(2 * DAY_S), client_of(service, store.reopened(), **SETTINGS) as client:
            for key in acknowledged:
                assert (await client.result(key)).json()["candidates"]
            answers = await ask(client)
            texts = [one.json()["candidates"][0]["content"]["parts"][0]["text"] for one in answers]
            assert texts == [answer(prompt) for prompt in ("bare", "keyed", "ticket", "large" + "x" * 5_000)]
            await client.drain()
        billed = service.billed()
        given = bool(outcomes) and not isinstance(outcomes[0], BaseException)
        assert billed.pop("bare") <= 1 + given
        assert set(billed.values()) == {1}

    run(main())
