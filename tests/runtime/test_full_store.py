"""A store without room: what was accepted waits and is never half there, nothing is sent, and new calls are told."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import carpool
from carpool._core.messages import Write
from carpool._core.model import Meta
from carpool._stores.database import Database
from carpool._stores.memory import MemoryStore
from carpool._stores.segments import Changes
from carpool.emulator import Emulator, Plan, expected_text

from . import virtual
from .virtual import Service

MODEL = "gemini-3.5-flash"
SETTINGS = carpool.Settings(linger_s=0.01, poll_min_s=0.02)


class Tight(MemoryStore):
    """A store whose commits fail while it is full."""

    full = False
    refused = 0

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        if not self.full:
            return super().commit(writes)
        self.refused += 1
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(carpool.StoreFull("the disk is full: make room"))
        return failed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool._runtime.commits.RETRY_S", 0.02)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(plan=Plan(latency_s=0.01)) as emulator:
        yield emulator


def client_of(emulator: Emulator, store: MemoryStore | None = None, **more: Any) -> carpool.Client:
    return carpool.Client(
        **({"api_key": "k", "base_url": emulator.base_url, "store": store, "settings": SETTINGS} | more)
    )


async def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        await asyncio.sleep(0.002)


async def test_accepted_calls_wait_for_room_and_new_ones_are_told(emulator: Emulator) -> None:
    store = Tight()
    async with client_of(emulator, store) as client:
        store.full = True
        waiting = asyncio.create_task(client.generate(MODEL, "early"))
        await until(lambda: store.refused)
        with pytest.raises(carpool.StoreFull, match="nothing was sent: make room"):
            await client.generate(MODEL, "late")
        with pytest.raises(carpool.StoreFull) as refused:
            await client.submit(carpool.Request(model=MODEL, contents="late", key="late"))
        assert refused.value.key == "late"
        seen = store.refused
        await until(lambda: store.refused > seen + 2)
        assert not waiting.done()
        assert not emulator.requests, "something was sent before it was on record"
        store.full = False
        assert (await waiting).text == expected_text("early")
        assert (await client.generate(MODEL, "late")).text == expected_text("late")
    assert emulator.ledger().rows_billed == 2


async def test_stored_results_can_be_read_while_nothing_can_be_written(emulator: Emulator) -> None:
    store = Tight()
    async with client_of(emulator, store) as client:
        await client.generate(MODEL, "kept", key="kept")
        await client.drain()
        store.full = True
        waiting = asyncio.create_task(client.generate(MODEL, "other"))
        await until(lambda: store.refused)
        async with asyncio.timeout(10):
            assert (await client.result("kept")).json()
            assert (await client.generate(MODEL, "kept", key="kept")).text == expected_text("kept")
        assert not waiting.done()
        store.full = False
        await waiting


def test_a_deadline_passes_while_the_store_is_full() -> None:
    async def main() -> None:
        service, store = Service(), Tight()
        async with virtual.client_of(service, store) as client:
            store.full = True
            with pytest.raises(carpool.DeadlineExceeded):
                await client.generate(MODEL, "hurried", deadline=60)
            store.full = False
            await client.drain()
        assert not service.billed(), "what nobody awaits any more was sent"

    virtual.run(main())


def test_a_cancelled_caller_takes_his_request_back_while_the_store_is_full() -> None:
    async def main() -> None:
        service, store = Service(), Tight()
        async with virtual.client_of(service, store) as client:
            store.full = True
            waiting = asyncio.create_task(client.generate(MODEL, "gone"))
            await virtual.until(lambda: store.refused)
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert waiting.cancelled()
            store.full = False
            await client.drain()
        assert not service.billed()

    virtual.run(main())


async def test_leaving_while_the_store_is_full_tells_everybody(emulator: Emulator) -> None:
    store = Tight()
    client = client_of(emulator, store)
    await client.__aenter__()
    store.full = True
    waiting = asyncio.create_task(client.generate(MODEL, "lost"))
    await until(lambda: store.refused)
    async with asyncio.timeout(10):
        with pytest.raises(carpool.StoreFull):
            await client.__aexit__(None, None, None)
        with pytest.raises(carpool.StoreFull):
            await waiting
    assert not emulator.requests


async def test_a_store_that_is_full_when_it_is_opened(emulator: Emulator) -> None:
    store = Tight()
    client = client_of(emulator, store, settings=carpool.Settings(linger_s=60, poll_min_s=0.02))
    await client.__aenter__()
    kept = asyncio.create_task(client.generate(MODEL, "kept", key="kept"))
    await asyncio.sleep(0)
    await client.flush()
    await kept
    await client.submit(carpool.Request(model=MODEL, contents="later", key="later"))
    await client.__aexit__(ZeroDivisionError, None, None)
    calls = len(emulator.requests)
    full = Tight(Meta(store_id=store._store_id))
    full._values = store._values.copy()
    full.full = True
    alarms: list[carpool.Alarm] = []
    async with asyncio.timeout(20), client_of(emulator, full, on_alarm=alarms.append) as client:
        assert client.health().reasons[0].startswith("store_full: ")
        with pytest.raises(carpool.StoreFull):
            await client.generate(MODEL, "late")
        assert (await client.result("kept")).json()
        seen = full.refused
        await until(lambda: full.refused > seen + 2)
        assert len(emulator.requests) == calls, "nothing is asked before it is on record that the store was opened"
        full.full = False
        assert (await client.result("later")).json()
        assert [alarm.name for alarm in alarms] == ["store_full"]
        assert client.health().status == "ok"
    assert set(emulator.ledger().billed_by_key.values()) == {1}


class Disk:
    """The room of the disk under a database: transactions fail midway once it is used up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
        # Each is changed by one thread only: the size by the test, the others by the store's.
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self.refused = 0
        change = Database._change

        def change_if_there_is_room(database: Database, cache: Any, changes: Changes) -> None:
            for name, value in changes.items():
                self.used_bytes += len(value or b"")
                if self.used_bytes > self.size_bytes:
                    self.refused += 1
                    raise OSError(errno.ENOSPC, "No space left on device")
                change(database, cache, {name: value})

        monkeypatch.setattr(Database, "_change", change_if_there_is_room)


async def test_ten_thousand_accepts_on_a_disk_that_fills_up(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 2_000_000)
    settings = carpool.Settings(linger_s=0.01, poll_min_s=0.02, segment_bytes=65_536)
    acknowledged: list[str] = []
    async with client_of(emulator, home=tmp_path, settings=settings) as client:

        async def submit(number: int) -> None:
            key = f"k{number}"
            await client.submit(carpool.Request(model=MODEL, contents="x" * 400 + key, key=key))
            acknowledged.append(key)

        submitting = [asyncio.create_task(submit(number)) for number in range(10_000)]
        # Before the client hears of it, it accepts: what it has accepted waits.
        await until(lambda: any(reason.startswith("store_full") for reason in client.health().reasons))
        creates = [call.op for call in emulator.requests].count("create")
        refusals = disk.refused
        await until(lambda: disk.refused > refusals + 3)
        with pytest.raises(carpool.StoreFull):
            await client.generate(MODEL, "one more")
        assert [call.op for call in emulator.requests].count("create") == creates
        disk.size_bytes = 2**60
        outcomes = await asyncio.gather(*submitting, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, BaseException)]
        assert all(isinstance(one, carpool.StoreFull) for one in refused)
        assert len(acknowledged) == 10_000 - len(refused)
        await client.drain()
        answers = await asyncio.gather(*(client.result(key) for key in acknowledged))
        assert all(answer.json() for answer in answers)
    assert emulator.ledger().billed_by_key == dict.fromkeys(acknowledged, 1)


async def test_a_process_that_dies_while_the_disk_is_full_leaves_whole_requests(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 300_000)
    settings = carpool.Settings(linger_s=60, poll_min_s=0.02, segment_bytes=65_536)
    acknowledged: list[str] = []
    client = client_of(emulator, home=tmp_path, settings=settings)
    await client.__aenter__()
    for number in range(50):
        await client.submit(carpool.Request(model=MODEL, contents=f"early {number}", key=f"early {number}"))
        acknowledged.append(f"early {number}")
    late = [
        asyncio.create_task(client.submit(carpool.Request(model=MODEL, contents="x" * 9_000 + str(n), key=f"late {n}")))
        for n in range(100)
    ]
    await until(lambda: disk.refused)
    with pytest.raises(carpool.StoreFull):
        await client.__aexit__(None, None, None)
    for one in await asyncio.gather(*late, return_exceptions=True):
        if isinstance(one, BaseException):
            assert isinstance(one, carpool.StoreFull)
        else:
            acknowledged.append(one.key)
    disk.size_bytes = 2**60
    async with client_of(emulator, home=tmp_path, settings=SETTINGS) as client:
        answers = await asyncio.gather(*(client.result(key) for key in acknowledged))
        assert all(answer.json() for answer in answers)
        await client.drain()
    billed = emulator.ledger().billed_by_key
    assert set(acknowledged) <= billed.keys()
    assert set(billed.values()) == {1}
