"""The store on disk where there is no room, or where others hold it: what fails, what goes on, and what is told."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from carpool._core.messages import DropSegments
from carpool._core.model import SegmentHead
from carpool._stores import cache as caches
from carpool._stores.database import Database
from carpool._stores.disk import DiskStore
from carpool.errors import StoreFull, StoreLocked
from carpool.settings import Settings

from ..contract.records import line, put_job, put_marks, put_results, put_segment  # noqa: TID252 - no packages
from .helpers import FILLED_CHUNKS, FILLED_RECORDS, blocked, everything, filled, opened, refused

# -- full disks and limits


async def test_on_a_full_disk_a_commit_fails_whole_and_the_next_one_works_when_there_is_room(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(caches.SETTINGS, "sqlite_max_page_count", 1_638_400 // caches.PAGE_BYTES)
    store = await opened(home)
    await store.commit([put_segment(1, [b"x" * 1_000_000])])
    with pytest.raises(StoreFull, match=r"the disk is full: make room\. Nothing more is accepted"):
        await store.commit([put_segment(2), put_segment(3, [b"y" * 1_000_000]), put_job("a")])
    assert [type(record).__name__ for record in (await everything(store))[:-1]] == ["Meta", "SegmentHead"]
    await store.commit([put_segment(2), put_job("a")])
    await store.commit([DropSegments([1])])
    await store.commit([put_segment(3, [b"y" * 1_000_000])])
    assert [chunk async for chunk in store.read([(3, 0, 1), (2, 0, 1)])] == [b"y" * 1_000_000, line(2, 0)]
    await store.close()


async def test_a_commit_that_does_not_fit_does_not_fail_those_queued_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(caches.SETTINGS, "sqlite_max_page_count", 819_200 // caches.PAGE_BYTES)
    store = await opened(home)
    go_on = blocked(store)
    waiting = [
        store.commit([put_segment(1)]),
        store.commit([put_segment(2, [b"x" * 2_000_000]), put_job("b")]),
        store.commit([put_segment(3), put_marks(1)]),
        store.commit([DropSegments([1])]),
    ]
    go_on()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreFull, type(None), type(None)]
    records = await everything(store)
    assert [type(record).__name__ for record in records] == ["Meta", "SegmentHead", "bytes"]
    assert records[1].no == 3
    await store.close()


async def test_the_store_tells_how_much_more_it_takes_and_still_writes_what_it_must(home: Path) -> None:
    store = DiskStore(home, Settings(store_bytes_max=1_000_000))
    await store.open()
    assert 990_000 < store.room_bytes < 1_000_000
    await store.commit([put_segment(1, [b"x" * 600_000])])
    assert 390_000 < store.room_bytes < 400_000
    await store.commit([put_marks(1), put_job("b"), put_results(1, [b"z" * 600_000])])
    assert store.room_bytes < 0
    await store.close()

    store = DiskStore(home, Settings(store_bytes_max=1_000_000))
    await store.open()
    assert store.room_bytes < 0
    await store.commit([DropSegments([1])])
    assert 390_000 < store.room_bytes < 400_000
    await store.close()


async def test_a_disk_that_is_nearly_full_has_no_room_for_requests(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(home)
    assert store.room_bytes > 0
    monkeypatch.setattr("carpool._stores.disk.free_bytes", lambda _: 33_554_431)
    assert store.room_bytes == -1
    await store.close()


async def test_a_full_disk_gives_the_ballasts_room_for_opening(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(home)
    assert (slot / "ballast").exists()
    opening = caches.open_cache
    tried: list[bool] = []

    def full(folder: Path, *, existed: bool) -> Any:
        tried.append((folder / "ballast").exists())
        if tried[-1]:
            raise OSError(28, "No space left on device")
        return opening(folder, existed=existed)

    monkeypatch.setattr("carpool._stores.database.open_cache", full)
    store = await opened(home)
    assert tried == [True, False]
    assert store.checked is False
    assert len(await everything(store)) == FILLED_RECORDS + FILLED_CHUNKS
    assert (slot / "ballast").stat().st_size == 1_048_576
    await store.close()
    assert (slot / "ballast").stat().st_size == 2_097_152


async def test_a_full_disk_without_ballast_cannot_be_opened_and_says_so(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(home)
    (slot / "ballast").unlink()

    def full(folder: Path, *, existed: bool) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("carpool._stores.database.open_cache", full)
    error = await refused(home)
    assert isinstance(error, StoreFull)
    assert "make room" in str(error)
    monkeypatch.undo()
    store = await opened(home)
    assert len(await everything(store)) == FILLED_RECORDS + FILLED_CHUNKS
    await store.close()


# -- others who use the database


async def test_a_database_that_others_hold_is_tried_again_within_bounds(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "BUSY_S", 0.01)
    store = await opened(home)
    with closing(sqlite3.connect(slot / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="another program holds the database: end it"):
            await store.commit([put_segment(1)])
        other.execute("ROLLBACK")
    await store.commit([put_segment(1)])
    assert len(await everything(store)) == 3
    await store.close()


async def test_a_database_that_others_hold_is_not_opened(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(home)
    monkeypatch.setattr(caches, "BUSY_S", 0.01)
    with closing(sqlite3.connect(slot / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert isinstance(await refused(home), StoreLocked)
        other.execute("ROLLBACK")
    store = await opened(home)
    await store.close()


class UnfinishedCache:
    """A diskcache whose next transaction fails at its very end, and is left open: so it does when COMMIT fails."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._fails = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    @contextmanager
    def transact(self, *, retry: bool) -> Any:
        if not self._fails:
            with self._cache.transact(retry=retry):
                yield
            return
        self._fails = False
        self._cache._sql("BEGIN IMMEDIATE")
        self._cache._txn_id = threading.get_ident()
        yield
        self._cache._txn_id = None
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error


async def test_a_transaction_that_is_left_open_is_rolled_back(store: DiskStore) -> None:
    def swap(database: Database) -> None:
        database._cache = UnfinishedCache(database._opened)  # type: ignore[assignment]

    await store._call(swap)
    with pytest.raises(StoreFull):
        await store.commit([put_segment(1)])
    await store.commit([put_segment(2)])
    assert [record.no for record in await everything(store) if isinstance(record, SegmentHead)] == [2]
