"""The look into a slot of somebody else: what it finds, that it is never behind, and that it trusts nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carpool import StoreCorrupt, StoreError, StoreVersion
from carpool._core.messages import (
    DropJob,
    DropResults,
    DropSegments,
    PutMarks,
    PutMeta,
    PutResults,
    PutTaken,
)
from carpool._core.model import FORMAT, Marks, Meta, Taken, place_of
from carpool._stores import peek as module
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Peek, Stored, UnderWay
from carpool._stores.slots import is_free, knock, take_slot, was_knocked
from carpool.errors import StoreLocked

from ..contract.records import ORIGIN, line, put_job, put_marks, put_results, put_segment  # noqa: TID252 - test folders are no packages
from .helpers import sql


def looked(slot: Path, origin: str = ORIGIN) -> Peek:
    peek = Peek(slot, origin)
    peek.refresh()
    return peek


def under_way(peek: Peek, *keys: str) -> list[str]:
    return [key for key in keys if isinstance(peek.find(key), UnderWay)]


# Of the three rows of a segment, the second has an explicit key: k<no>-1-ü.


async def test_explicit_keys_are_found_until_they_are_done(store: DiskStore, slot: Path) -> None:
    peek = looked(slot)
    assert not peek.is_unfinished
    await store.commit([put_segment(1), put_segment(2)])
    peek.refresh()
    assert under_way(peek, "k1-0-ü", "k1-1-ü", "k2-1-ü", "k2-2-ü") == ["k1-1-ü", "k2-1-ü"]
    found = peek.find("k2-1-ü")
    assert found == UnderWay(1_000.5, (1).to_bytes(16, "big"))
    assert peek.is_unfinished
    await store.commit([put_marks(1, b"\0\1\0")])
    peek.refresh()
    assert under_way(peek, "k1-1-ü", "k2-1-ü") == ["k2-1-ü"]
    await store.commit([DropSegments([2])])
    peek.refresh()
    assert under_way(peek, "k1-1-ü", "k2-1-ü") == []
    assert not peek.is_unfinished
    peek.close()


async def test_a_result_counts_before_its_request_is_marked_and_after_it_is_dropped(
    store: DiskStore, slot: Path
) -> None:
    peek = looked(slot)
    head = put_results(1, [b"x", b"body"])
    head = PutResults(msgspec.structs.replace(head.head, keys=["k", "k1-1-ü"]), head.bodies)
    await store.commit([put_segment(1), head])
    peek.refresh()
    found = peek.find("k1-1-ü")
    assert isinstance(found, Stored)
    assert (found.place, found.failed, found.head.job) == (place_of(1, 1), True, "batches/abc123")
    assert not peek.is_unfinished
    assert peek.cached(found.place) is None
    assert peek.read("k1-1-ü", found.place) == b"body"
    assert (peek.cached(found.place), peek.cached(place_of(1, 0))) == (b"body", b"x")
    assert peek.read("another", found.place) is None
    await store.commit([DropSegments([1])])
    peek.refresh()
    assert isinstance(peek.find("k1-1-ü"), Stored)
    await store.commit([PutTaken(Taken(no=1, rows=b"\0\1"))])
    peek.refresh()
    assert (peek.find("k1-1-ü"), isinstance(peek.find("k"), Stored)) == (None, True)
    await store.commit([DropResults([1])])
    peek.refresh()
    assert (peek.find("k"), peek.read("k", place_of(1, 0)), peek.cached(place_of(1, 0))) == (None, None, None)
    peek.close()


async def test_a_number_that_is_used_again_is_not_mistaken_for_what_it_was(store: DiskStore, slot: Path) -> None:
    peek = looked(slot)
    await store.commit([put_results(1, [b"old"])])
    peek.refresh()
    assert peek.read("r1-0", place_of(1, 0)) == b"old"
    await store.commit([DropResults([1])])
    await store.commit([put_results(1, [b"new"])])
    peek.refresh()
    assert peek.cached(place_of(1, 0)) is None
    assert peek.read("r1-0", place_of(1, 0)) == b"new"
    peek.close()


async def test_jobs_are_unfinished_work_of_their_origin_alone(store: DiskStore, slot: Path) -> None:
    await store.commit([put_job("01a"), put_job("01b"), put_segment(1), put_results(2)])
    mine, other = looked(slot), looked(slot, "another")
    assert (mine.is_unfinished, mine.jobs) == (True, 2)
    assert (other.is_unfinished, other.jobs) == (False, 0)
    assert (other.find("k1-1-ü"), other.find("r2-0")) == (None, None)
    await store.commit([DropJob("01a"), DropJob("01b"), put_marks(1, b"\1\1\1")])
    mine.refresh()
    assert (mine.is_unfinished, mine.jobs) == (False, 0)
    for peek in (mine, other):
        peek.close()


async def test_it_is_current_only_if_nothing_can_have_been_written_since(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peek = looked(slot)
    assert not peek.is_current, "it was written a moment ago, and may be again within a tick of the clock"
    monkeypatch.setattr(module, "_RACY_NS", -(10**12))
    peek.refresh()
    assert peek.is_current
    await store.commit([put_segment(1)])
    assert not peek.is_current
    peek.refresh()
    assert peek.is_current
    await store.close()
    assert not peek.is_current or under_way(peek, "k1-1-ü")
    peek.refresh()
    assert under_way(peek, "k1-1-ü")
    assert abs(peek.written_at - (slot / "cache.db").stat().st_mtime) < 60
    peek.close()


async def test_nothing_is_read_again_that_did_not_change(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true_record = Peek._record

    def counted(self: Peek, connection: Any, name: str, parts: Any) -> Any:
        read.append(name)
        return true_record(self, connection, name, parts)

    monkeypatch.setattr(Peek, "_record", counted)
    peek = looked(slot)
    await store.commit([put_segment(1), put_marks(1)])
    peek.refresh()
    await store.commit([put_segment(2), put_marks(1, b"\0\0\1")])
    peek.refresh()
    peek.refresh()
    assert read == ["meta", "s1", "m1", "s2", "m1"]
    peek.close()


async def test_of_large_values_only_the_head_is_read_and_the_body_when_it_is_asked_for(
    store: DiskStore, slot: Path
) -> None:
    rows = [line(1, row, "x" * 3_000_000) for row in range(6)]
    bodies = [b"a" * 5_000_000, b"b" * 5_000_000]
    await store.commit([put_segment(1, rows), put_results(2, bodies)])
    peek = looked(slot)
    assert under_way(peek, *(f"k1-{row}-ü" for row in range(6))) == ["k1-1-ü", "k1-3-ü", "k1-5-ü"]
    assert peek.read("r2-1", place_of(2, 1)) == bodies[1]
    assert peek.cached(place_of(2, 0)) == bodies[0]
    peek.close()


async def test_a_head_that_is_longer_than_a_row_of_the_database_is_read_whole(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool._stores.database.ROW_BYTES", 70_000)
    await store.commit([put_segment(1, [line(1, row) for row in range(4_000)])])
    peek = looked(slot)
    assert under_way(peek, "k1-3999-ü") == ["k1-3999-ü"]
    peek.close()


async def test_a_slot_in_the_making_or_taken_away_knows_nothing(store: DiskStore, slot: Path, tmp_path: Path) -> None:
    for made in (tmp_path / "none", tmp_path / "empty"):
        if made.name == "empty":
            made.mkdir()
            (made / "cache.db").touch()
        assert not looked(made).is_unfinished
    await store.commit([put_segment(1)])
    await store.close()
    peek = looked(slot)
    assert peek.is_unfinished
    shutil.rmtree(slot)
    peek.refresh()
    assert (peek.is_unfinished, peek.written_at) == (False, 0.0)
    peek.close()


async def test_another_database_in_its_place_is_read_anew(store: DiskStore, slot: Path, tmp_path: Path) -> None:
    await store.commit([put_segment(1)])
    peek = looked(slot)
    await store.close()
    other = DiskStore(tmp_path / "other", store._settings)
    await other.open()
    await other.commit([put_segment(2)])
    await other.close()
    shutil.copy(other.path / "cache.db", slot / "new.db")
    for name in ("cache.db-wal", "cache.db-shm"):
        (slot / name).unlink(missing_ok=True)
    (slot / "new.db").replace(slot / "cache.db")
    peek.refresh()
    assert under_way(peek, "k1-1-ü", "k2-1-ü") == ["k2-1-ü"]
    peek.close()


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE Cache SET mode = 4 WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET filename = '/etc/passwd' WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET value = 'text' WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET value = x'00' WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET value = zeroblob(100000) WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET key = 'x1' WHERE key = 's1'", StoreCorrupt),
        ("UPDATE Cache SET key = 's1/01' WHERE key = 's1'", StoreCorrupt),
        ("DROP TABLE Cache", None),
    ],
)
async def test_planted_rows_are_refused_and_nothing_is_known_then(
    store: DiskStore, slot: Path, statement: str, kind: type[StoreError] | None
) -> None:
    await store.commit([put_segment(1)])
    await store.close()
    sql(slot, statement)
    peek = Peek(slot, ORIGIN)
    if kind is None:
        peek.refresh()
    else:
        with pytest.raises(kind, match="slot-0"):
            peek.refresh()
    assert (peek.find("k1-1-ü"), peek.is_unfinished) == (None, False)
    peek.close()


async def test_damage_that_comes_later_takes_back_what_was_known_until_it_is_mended(
    store: DiskStore, slot: Path
) -> None:
    await store.commit([put_segment(1), put_results(2, [b"x" * 100_000])])
    peek = looked(slot)
    ((good,),) = sql(slot, "SELECT value FROM Cache WHERE key = 'r2'")
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good[:-1] + b"y")
    peek.refresh()  # the head is as it was
    with pytest.raises(StoreCorrupt, match="checksum"):
        peek.read("r2-0", place_of(2, 0))
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good[:-1])
    peek.refresh()
    with pytest.raises(StoreCorrupt):
        peek.read("r2-0", place_of(2, 0))
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good)
    peek.refresh()
    assert peek.read("r2-0", place_of(2, 0)) == b"x" * 100_000
    peek.close()


async def test_a_database_that_is_none_is_damaged(store: DiskStore, slot: Path) -> None:
    await store.close()
    (slot / "cache.db").write_bytes(os.urandom(10_000))
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreCorrupt):
        peek.refresh()
    peek.close()


async def test_a_later_format_is_refused(store: DiskStore, slot: Path) -> None:
    meta = [record async for record in store.load() if isinstance(record, Meta)].pop()
    await store.commit([PutMeta(Meta(store_id=meta.store_id, format=FORMAT + 1))])
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreVersion, match="upgrade"):
        peek.refresh()
    peek.close()


async def test_a_database_that_cannot_be_read_for_the_moment_is_read_later(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([put_segment(1)])
    await store.close()
    monkeypatch.setattr(module, "BUSY_S", 0.0)
    holder = sqlite3.connect(slot / "cache.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("COMMIT")
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreLocked):
        peek.refresh()
    assert not peek.is_current
    holder.close()
    peek.refresh()
    assert under_way(peek, "k1-1-ü")
    peek.close()


async def test_the_owner_closes_in_order_while_others_look(store: DiskStore, slot: Path, home: Path) -> None:
    peek = looked(slot)
    await store.commit([put_segment(1), PutMarks(Marks(no=1, done=b"\0\0\0", attempts=bytes(3)))])
    peek.refresh()
    await store.close()
    assert (slot / "clean").exists()
    again = DiskStore(home, store._settings)
    await again.open()
    assert not again.checked
    await again.commit([put_segment(2)])
    peek.refresh()
    assert under_way(peek, "k1-1-ü", "k2-1-ü") == ["k1-1-ü", "k2-1-ü"]
    await again.close()
    peek.close()


async def test_looking_changes_no_file_of_a_slot_that_was_closed(store: DiskStore, slot: Path) -> None:
    await store.commit([put_segment(1)])
    await store.close()
    before = (slot / "cache.db").read_bytes()
    peek = looked(slot)
    assert under_way(peek, "k1-1-ü")
    peek.close()
    assert (slot / "cache.db").read_bytes() == before
    assert (slot / "clean").exists()


# -- locks and knocks


def test_a_slot_is_free_when_nobody_has_it_and_looking_takes_it_from_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    assert not is_free(home / "slot-0")
    slot = take_slot(home)
    assert not is_free(slot.path)
    slot.release()
    assert is_free(slot.path)
    # Somebody looks while it is being taken, and has looked the next time.
    looking = os.open(slot.path / "lock", os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("carpool._stores.slots.time.sleep", lambda _: os.close(looking))
    assert take_slot(home, 1).path == slot.path


def test_one_slot_can_be_taken_by_its_number(tmp_path: Path) -> None:
    third = take_slot(tmp_path, number=3)
    assert third.path.name == "slot-3"
    with pytest.raises(StoreLocked, match="slot 3"):
        take_slot(tmp_path, number=3)
    assert take_slot(tmp_path).path.name == "slot-0"


def test_a_knock_is_heard_once(tmp_path: Path) -> None:
    assert not was_knocked(tmp_path)
    knock(tmp_path)
    knock(tmp_path)
    assert (was_knocked(tmp_path), was_knocked(tmp_path)) == (True, False)
    knock(tmp_path / "none")
    assert not was_knocked(tmp_path / "none")
