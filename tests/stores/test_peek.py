"""The look into a slot of somebody else: what it finds, that it is never behind, and that it trusts nothing."""

from __future__ import annotations

import fcntl
import os
import resource
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
from carpool._stores import segments
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Peek, Stored, UnderWay, is_settled
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


def body_of(peek: Peek, key: str) -> bytes | None:
    found = peek.find(key)
    assert isinstance(found, Stored)
    bodies = peek.read(found.place)
    return None if bodies is None else bodies.of(key, found)


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


async def test_a_result_counts_before_its_request_is_marked_and_after_it_is_dropped(
    store: DiskStore, slot: Path
) -> None:
    peek = looked(slot)
    head = put_results(1, [b"x", b"body"])
    head = PutResults(msgspec.structs.replace(head.head, keys=["k", "k1-1-ü"]), head.bodies)
    await store.commit([put_segment(1), head])
    peek.refresh()
    found, other = peek.find("k1-1-ü"), peek.find("k")
    assert isinstance(found, Stored)
    assert isinstance(other, Stored)
    assert (found.place, found.failed, found.head.job) == (place_of(1, 1), True, "batches/abc123")
    assert not peek.is_unfinished
    bodies = peek.read(found.place)
    assert bodies is not None
    assert (bodies.of("k1-1-ü", found), bodies.of("k", other), bodies.of("another", found)) == (b"body", b"x", None)
    await store.commit([DropSegments([1])])
    peek.refresh()
    assert isinstance(peek.find("k1-1-ü"), Stored)
    await store.commit([PutTaken(Taken(no=1, rows=b"\0\1"))])
    peek.refresh()
    assert (peek.find("k1-1-ü"), isinstance(peek.find("k"), Stored)) == (None, True)
    await store.commit([DropResults([1])])
    peek.refresh()
    assert (peek.find("k"), peek.read(place_of(1, 0))) == (None, None)


async def test_a_number_that_is_used_again_is_not_mistaken_for_what_it_was(store: DiskStore, slot: Path) -> None:
    peek = looked(slot)
    await store.commit([put_results(1, [b"old"])])
    peek.refresh()
    old = peek.find("r1-0")
    assert isinstance(old, Stored)
    bodies = peek.read(old.place)
    assert bodies is not None
    assert bodies.of("r1-0", old) == b"old"
    await store.commit([DropResults([1])])
    head = put_results(1, [b"new"])
    await store.commit([PutResults(msgspec.structs.replace(head.head, kept_at=head.head.kept_at + 1), head.bodies)])
    found = peek.read(old.place)  # it was not looked at since
    assert found is None or found.of("r1-0", old) is None
    peek.refresh()
    assert body_of(peek, "r1-0") == b"new"
    new = peek.find("r1-0")
    assert isinstance(new, Stored)
    assert bodies.of("r1-0", new) is None


async def test_jobs_are_unfinished_work_of_their_origin_alone(store: DiskStore, slot: Path) -> None:
    await store.commit([put_job("01a"), put_job("01b"), put_segment(1), put_results(2)])
    mine, other = looked(slot), looked(slot, "another")
    assert (mine.is_unfinished, mine.jobs) == (True, 2)
    assert (other.is_unfinished, other.jobs) == (False, 0)
    assert (other.find("k1-1-ü"), other.find("r2-0")) == (None, None)
    await store.commit([DropJob("01a"), DropJob("01b"), put_marks(1, b"\1\1\1")])
    mine.refresh()
    assert (mine.is_unfinished, mine.jobs) == (False, 0)


async def test_it_is_current_only_if_nothing_can_have_been_written_since(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_settled", lambda written_ns, now_ns: False)
    peek = looked(slot)
    assert not peek.is_current, "it was written a moment ago, and may be again within a tick of the clock"
    monkeypatch.setattr(module, "is_settled", lambda written_ns, now_ns: True)
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


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


MS_NS = 1_000_000


@pytest.mark.parametrize(
    ("ago_ns", "tick_ns", "settled"),
    [
        (10 * MS_NS, 1, False),  # may be written again within a tick of the kernel's clock
        (31 * MS_NS, 1, True),
        (-3_600_000 * MS_NS, 1, False),  # the clock was set back
        (1_500 * MS_NS, 1_000 * MS_NS, False),  # the file system counts whole seconds, and FAT every other one
        (500 * MS_NS, 2_000 * MS_NS, False),
        (4_500 * MS_NS, 2_000 * MS_NS, True),
    ],
)
def test_a_stamp_tells_only_if_a_later_change_would_give_another(ago_ns: int, tick_ns: int, settled: bool) -> None:
    now_ns = 1_795_000_001_600_000_007
    written_ns = now_ns - ago_ns
    assert is_settled(written_ns - written_ns % tick_ns, now_ns) is settled


async def test_nothing_is_read_again_that_did_not_change(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true_record = module._record

    def counted(connection: Any, name: str, parts: Any) -> Any:
        read.append(name)
        return true_record(connection, name, parts)

    monkeypatch.setattr(module, "_record", counted)
    peek = looked(slot)
    await store.commit([put_segment(1), put_marks(1)])
    peek.refresh()
    await store.commit([put_segment(2), put_marks(1, b"\0\0\1")])
    peek.refresh()
    peek.refresh()
    assert read == ["meta", "meta", "s1", "m1", "s2", "m1"]


async def test_of_large_values_only_the_head_is_read_and_the_body_when_it_is_asked_for(
    store: DiskStore, slot: Path
) -> None:
    rows = [line(1, row, "x" * 3_000_000) for row in range(6)]
    bodies = [b"a" * 5_000_000, b"b" * 5_000_000]
    await store.commit([put_segment(1, rows), put_results(2, bodies)])
    peek = looked(slot)
    assert under_way(peek, *(f"k1-{row}-ü" for row in range(6))) == ["k1-1-ü", "k1-3-ü", "k1-5-ü"]
    assert [body_of(peek, key) for key in ("r2-0", "r2-1")] == bodies


async def test_a_head_that_is_longer_than_a_row_of_the_database_is_read_whole(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool._stores.database.ROW_BYTES", 70_000)
    await store.commit([put_segment(1, [line(1, row) for row in range(4_000)])])
    peek = looked(slot)
    assert under_way(peek, "k1-3999-ü") == ["k1-3999-ü"]


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


async def test_damage_that_comes_later_takes_back_what_was_known_until_it_is_mended(
    store: DiskStore, slot: Path
) -> None:
    await store.commit([put_segment(1), put_results(2, [b"x" * 100_000])])
    peek = looked(slot)
    ((good,),) = sql(slot, "SELECT value FROM Cache WHERE key = 'r2'")
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good[:-1] + b"y")
    peek.refresh()  # the head is as it was
    with pytest.raises(StoreCorrupt, match="checksum"):
        peek.read(place_of(2, 0))
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good[:-1])
    peek.refresh()
    with pytest.raises(StoreCorrupt):
        peek.read(place_of(2, 0))
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 'r2'", good)
    peek.refresh()
    assert body_of(peek, "r2-0") == b"x" * 100_000


def with_columns(slot: Path, name: str, **columns: Any) -> None:
    """Give a record other columns, checksum and all: a bug of another version, or somebody's own work."""
    ((value,),) = sql(slot, "SELECT value FROM Cache WHERE key = ?", name)
    found = segments.decode(name, value)
    record = msgspec.structs.replace(segments.record(name, found.head), **columns)
    sql(slot, "UPDATE Cache SET value = ? WHERE key = ?", segments.encode(name, record, [bytes(found.body)]), name)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("s1", "flags", b""),
        ("s1", "digests", b"short"),
        ("r2", "flags", b"\1"),
        ("r2", "digests", b""),
        ("r2", "failed", b""),
        ("r2", "places", []),
        ("r2", "ends", b"1234567"),
        ("r2", "keys", ["r2-0", "r2-1", "r2-2"]),
    ],
)
async def test_columns_of_different_lengths_are_damage_and_no_accident_of_whoever_asks(
    store: DiskStore, slot: Path, name: str, column: str, value: Any
) -> None:
    await store.commit([put_segment(1), put_results(2, [b"a", b"b"])])
    await store.close()
    with_columns(slot, name, **{column: value})
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreCorrupt, match=f"slot-0: {name} is damaged"):
        peek.refresh()
    assert (peek.find("k1-1-ü"), peek.find("r2-0"), peek.is_unfinished) == (None, None, False)


async def test_marks_that_are_too_short_mark_nothing(store: DiskStore, slot: Path) -> None:
    await store.commit(
        [put_segment(1), put_marks(1), put_results(2, [b"a", b"b"]), PutTaken(Taken(no=2, rows=b"\0\1"))]
    )
    await store.close()
    with_columns(slot, "m1", done=b"\1")
    with_columns(slot, "t2", rows=b"")
    peek = looked(slot)
    assert under_way(peek, "k1-1-ü") == ["k1-1-ü"]
    assert body_of(peek, "r2-1") == b"b"


async def test_a_body_that_lies_outside_of_its_value_is_damage(store: DiskStore, slot: Path) -> None:
    await store.commit([put_results(2, [b"a", b"b"])])
    await store.close()
    with_columns(slot, "r2", ends=(1).to_bytes(8, "little") + (9).to_bytes(8, "little"))
    peek = looked(slot)
    assert body_of(peek, "r2-0") == b"a"
    with pytest.raises(StoreCorrupt, match="row 1 lies outside"):
        body_of(peek, "r2-1")


async def test_a_result_that_is_written_anew_while_it_is_read_is_not_given_for_the_old_one(
    store: DiskStore, slot: Path
) -> None:
    await store.commit([put_results(1, [b"old a", b"old b"])])
    peek = looked(slot)
    old = peek.find("r1-1")
    assert isinstance(old, Stored)
    head = put_results(1, [b"new a", b"new b"])
    later = msgspec.structs.replace(head.head, kept_at=head.head.kept_at + 1)
    await store.commit([PutResults(later, head.bodies)])
    bodies = peek.read(old.place)
    assert bodies is not None
    assert bodies.of("r1-1", old) is None
    peek.refresh()
    assert body_of(peek, "r1-1") == b"new b"


async def test_a_database_that_is_none_is_damaged(store: DiskStore, slot: Path) -> None:
    await store.close()
    (slot / "cache.db").write_bytes(os.urandom(10_000))
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreCorrupt):
        peek.refresh()


async def test_a_later_format_is_refused(store: DiskStore, slot: Path) -> None:
    meta = [record async for record in store.load() if isinstance(record, Meta)].pop()
    await store.commit([PutMeta(Meta(store_id=meta.store_id, format=FORMAT + 1))])
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreVersion, match="upgrade"):
        peek.refresh()


async def test_what_a_later_version_wrote_is_told_as_such_whatever_else_is_there(store: DiskStore, slot: Path) -> None:
    meta = [record async for record in store.load() if isinstance(record, Meta)].pop()
    await store.commit([PutMeta(Meta(store_id=meta.store_id, format=FORMAT + 1)), put_segment(1)])
    await store.close()
    sql(slot, "UPDATE Cache SET key = 'x1' WHERE key = 's1'")
    peek = Peek(slot, ORIGIN)
    with pytest.raises(StoreVersion, match="upgrade"):
        peek.refresh()


async def test_a_process_that_has_too_many_files_open_looks_again_later(
    store: DiskStore, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([put_segment(1)])
    peek = Peek(slot, ORIGIN)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(StoreLocked, match=r"slot-0: the database cannot be opened now"):
            peek.refresh()
        assert not peek.is_current
        # Where it is not for us, that is no matter of the moment.
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(StoreError) as forbidden:
            peek.refresh()
        assert not isinstance(forbidden.value, StoreLocked)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    peek.refresh()
    assert under_way(peek, "k1-1-ü")


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


async def test_who_looks_keeps_nothing_open_and_does_not_keep_the_owner_from_tidying_up(
    store: DiskStore, slot: Path
) -> None:
    await store.commit([put_segment(1, [b"a secret prompt\n"])])
    peek = looked(slot)
    await store.commit([DropSegments([1])])
    peek.refresh()
    await store.close()
    # What was deleted is overwritten in the database itself: nothing of it is left in its log, nor waits there.
    assert not (slot / "cache.db-wal").exists()
    assert b"a secret prompt" not in (slot / "cache.db").read_bytes()
    before = open_files()
    peek.refresh()
    assert open_files() == before


async def test_a_log_that_only_a_look_made_does_not_count_as_written(store: DiskStore, slot: Path) -> None:
    await store.commit([put_segment(1)])
    await store.close()
    os.utime(slot / "cache.db", (1_000_000_000.0, 1_000_000_000.0))
    peek = looked(slot)
    assert (slot / "cache.db-wal").exists()
    assert peek.written_at == 1_000_000_000.0


async def test_looking_changes_no_file_of_a_slot_that_was_closed(store: DiskStore, slot: Path) -> None:
    await store.commit([put_segment(1)])
    await store.close()
    before = (slot / "cache.db").read_bytes()
    peek = looked(slot)
    assert under_way(peek, "k1-1-ü")
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
