"""What the store on disk does not take on trust: how it is set up, and what was planted or went bad under it."""

from __future__ import annotations

import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import msgspec
import pytest

from carpool._core.messages import DropJob, DropSegments, PutMeta
from carpool._core.model import FORMAT
from carpool._stores import cache as caches
from carpool._stores.database import Database
from carpool._stores.disk import DiskStore
from carpool.errors import StoreCorrupt, StoreError, StoreFull, StoreVersion
from carpool.settings import Settings

from ..contract.records import line, lines, put_job, put_marks, put_results, put_segment  # noqa: TID252 - no packages
from .helpers import FILLED_CHUNKS, FILLED_RECORDS, everything, filled, modes, opened, refused, sql

# -- how it is set up


async def test_a_new_database_has_large_pages_and_an_older_one_keeps_its_own(store: DiskStore, home: Path) -> None:
    def page_bytes(database: Database) -> int:
        cache: Any = database._opened
        return int(cache._sql("PRAGMA page_size").fetchone()[0])

    assert await store._call(page_bytes) == caches.PAGE_BYTES > 4_096
    older = home.parent / "older"
    shutil.copytree(Path(__file__).parent / "golden" / "format-2" / "records", older)
    for path in (older, older / "slot-0"):
        path.chmod(0o700)
    reopened = await opened(older)
    await reopened.commit([put_segment(7)])
    assert await reopened._call(page_bytes) == 4_096
    await reopened.close()


async def test_every_setting_is_what_it_was_asked_to_be(store: DiskStore) -> None:
    def pragmas(database: Database) -> dict[str, Any]:
        cache: Any = database._opened
        names = ("journal_mode", "synchronous", "auto_vacuum", "mmap_size", "secure_delete")
        return {name: cache._sql(f"PRAGMA {name}").fetchall()[0][0] for name in names}

    def settings(database: Database) -> dict[str, Any]:
        cache: Any = database._opened
        return dict(cache._sql("SELECT key, value FROM Settings").fetchall())

    expected = {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 0, "mmap_size": 0, "secure_delete": 1}
    assert await store._call(pragmas) == expected
    stored = await store._call(settings)
    assert {name: stored[name] for name in caches.SETTINGS} == caches.SETTINGS
    assert stored.keys() == {*caches.SETTINGS, "count", "size", "hits", "misses"}
    assert stored["eviction_policy"] == "none"
    assert (stored["cull_limit"], stored["size_limit"], stored["disk_min_file_size"]) == (0, 2**62, 2**62)


async def test_what_is_committed_is_on_the_drive_itself(store: DiskStore) -> None:
    """On macOS, fsync alone leaves it in the drive's cache."""

    def pragmas(database: Any) -> list[int]:
        names = ("synchronous", "fullfsync", "checkpoint_fullfsync")
        return [database._opened._sql(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await store._call(pragmas) == [2, 1, 1]


async def test_a_setting_that_is_not_taken_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(caches.SETTINGS, "sqlite_max_page_count", 2**40)
    assert "does not take the setting sqlite_max_page_count" in str(await refused(home))


async def test_every_connection_is_closed_whatever_happens(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []
    closed: list[sqlite3.Connection] = []
    connecting = sqlite3.connect

    class Connection(sqlite3.Connection):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        made.append(connecting(*args, **kwargs, factory=Connection))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    await filled(home)
    await filled(home)
    monkeypatch.setitem(caches.SETTINGS, "sqlite_max_page_count", 20)
    store = await opened(home)
    with pytest.raises(StoreFull):
        await store.commit([put_segment(1, [b"x" * 1_000_000])])
    await store.close()
    monkeypatch.setitem(caches.SETTINGS, "sqlite_max_page_count", 2**40)
    await refused(home)
    monkeypatch.setitem(caches.SETTINGS, "sqlite_nonsense\0", 1)
    await refused(home)
    monkeypatch.undo()
    sql(slot, "INSERT INTO Settings VALUES ('planted', 1)")
    monkeypatch.setattr(sqlite3, "connect", connect)
    await refused(home)
    assert len(made) > 10
    assert set(map(id, made)) == set(map(id, closed))


async def test_nothing_but_the_slots_own_files_is_made_and_all_are_private(
    store: DiskStore, home: Path, slot: Path
) -> None:
    await store.commit([put_segment(1, [b"x" * 9_000_000]), put_results(1, [b"y" * 100_000])])
    files = ["ballast", "cache.db", "cache.db-shm", "cache.db-wal", "lock", "store-id"]
    assert modes(slot) == dict.fromkeys(files, 0o600)
    assert modes(home) == {"slot-0": 0o700}
    assert modes(home.parent) == {"home": 0o700}


async def test_a_disk_for_files_or_objects_cannot_be_had() -> None:
    disk = caches.BytesDisk("unused", min_file_size=1, pickle_protocol=0)
    assert disk.put("name") == ("name", True)
    assert disk.get("name", raw=True) == "name"
    assert disk.fetch(caches.MODE_RAW, None, b"value", False) == b"value"
    for call in (
        lambda: disk.put(1),
        lambda: disk.put(b"name"),
        lambda: disk.get("name", raw=False),
        lambda: disk.get(b"name", raw=True),
        lambda: disk.store({"an": "object"}, read=False),
        lambda: disk.store(b"bytes that were not cut", read=False),
        lambda: disk.store(memoryview(b""), read=True),
        lambda: disk.fetch(caches.MODE_RAW, None, "text", False),
        lambda: disk.fetch(caches.MODE_RAW, "file", b"", False),
        lambda: disk.fetch(caches.MODE_RAW, None, b"", True),
        lambda: disk.fetch(2, "file", None, False),
        disk.filename,
        lambda: disk.remove("file"),
    ):
        with pytest.raises(StoreError):
            call()


# -- what is planted


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


INSERT = "INSERT INTO Cache (key, raw, access_count, size, mode, filename, value) VALUES (?, ?, 0, 0, ?, ?, ?)"


async def test_a_planted_pickle_is_refused_and_not_run(home: Path, slot: Path, tmp_path: Path) -> None:
    await filled(home)
    sql(slot, INSERT, "s7", 1, 4, None, pickle.dumps(Planted(tmp_path / "run")))
    error = await refused(home)
    assert isinstance(error, StoreCorrupt)
    assert "did not write" in str(error)
    assert not (tmp_path / "run").exists()


async def test_a_planted_pickle_as_a_name_is_refused_and_not_run(home: Path, slot: Path, tmp_path: Path) -> None:
    await filled(home)
    sql(slot, INSERT, pickle.dumps(Planted(tmp_path / "run")), 0, 1, None, b"value")
    assert isinstance(await refused(home), StoreCorrupt)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["s7", "s1"])
async def test_a_planted_path_is_neither_read_nor_deleted(
    home: Path, slot: Path, tmp_path: Path, mode: int, name: str
) -> None:
    await filled(home)
    victim = tmp_path / "victim"
    victim.write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    sql(slot, "DELETE FROM Cache WHERE key = ?", name)
    sql(slot, INSERT, name, 1, mode, str(victim), None)
    assert isinstance(await refused(home), StoreCorrupt)
    assert victim.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", ["mode = 4", "filename = '../../victim'", "value = 'text'", "mode = 2, filename = 'v'"]
)
async def test_what_is_planted_while_the_store_is_open_is_refused_too(
    store: DiskStore, home: Path, slot: Path, change: str
) -> None:
    victim = home.parent / "victim"
    victim.write_text("mine")
    await store.commit([put_segment(1), put_segment(2)])
    sql(slot, f"UPDATE Cache SET {change} WHERE key = 's1'")  # noqa: S608 - the test's own words
    with pytest.raises(StoreCorrupt):
        [chunk async for chunk in store.read([(1, 0, 3)])]
    assert [chunk async for chunk in store.read([(2, 0, 3)])] == [b"".join(lines(2, 3))]
    assert victim.read_text() == "mine"


async def test_of_a_row_that_names_a_file_only_the_row_is_replaced_or_dropped(
    store: DiskStore, home: Path, slot: Path
) -> None:
    victim = home.parent / "victim"
    victim.write_text("mine")
    await store.commit([put_segment(1), put_segment(2)])
    sql(slot, "UPDATE Cache SET filename = '../../victim', tag = 'planted', expire_time = 1 WHERE key IN ('s1', 's2')")
    await store.commit([DropSegments([1]), put_segment(2)])
    assert victim.read_text() == "mine"
    kept = sql(slot, "SELECT key, filename, tag, expire_time, mode, size FROM Cache WHERE key IN ('s1', 's2')")
    assert kept == [("s2", None, None, None, caches.MODE_RAW, 0)]


async def test_what_is_written_is_what_diskcache_would_have_written(store: DiskStore, slot: Path) -> None:
    await store.commit([put_segment(1, [b"x" * 20_000_000]), put_job("a"), put_job("b")])
    await store.commit([put_segment(1), put_job("a"), DropJob("b"), DropJob("c")])
    await store.close()
    value = sql(slot, "SELECT value FROM Cache WHERE key = 's1'")[0][0]
    with closing(diskcache.Cache(str(slot), disk=caches.BytesDisk, eviction_policy="none")) as cache:
        assert sorted(cache) == ["ja", "meta", "s1"]
        assert (len(cache), cache.reset("size")) == (sql(slot, "SELECT count(*) FROM Cache")[0][0], 0)
        assert cache["s1"] == value
        assert cache.get("s1", expire_time=True, tag=True) == (value, None, None)
    columns = "raw, expire_time, access_count, tag, size, mode, filename, store_time = access_time"
    assert set(sql(slot, f"SELECT {columns} FROM Cache")) == {(1, None, 0, None, 0, caches.MODE_RAW, None, 1)}  # noqa: S608 - names of ours


@pytest.mark.parametrize("setting", ["sqlite_writable_schema", "disk_evil", "anything", "_disk"])
async def test_planted_settings_are_refused(home: Path, slot: Path, setting: str) -> None:
    await filled(home)
    sql(slot, "INSERT INTO Settings VALUES (?, ?)", setting, 1)
    error = await refused(home)
    assert isinstance(error, StoreCorrupt)
    assert "settings" in str(error)


async def test_other_values_of_settings_do_not_count(home: Path, slot: Path) -> None:
    await filled(home)
    sql(slot, "UPDATE Settings SET value = 'least-recently-used' WHERE key = 'eviction_policy'")
    sql(slot, "UPDATE Settings SET value = 1 WHERE key IN ('size_limit', 'sqlite_synchronous', 'disk_min_file_size')")
    store = await opened(home)
    assert len(await everything(store)) == FILLED_RECORDS + FILLED_CHUNKS
    await store.close()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM Cache WHERE key = 's1/1'",
        "DELETE FROM Cache WHERE key = 's1'",
        "UPDATE Cache SET key = 's1/2' WHERE key = 's1/1'",
        "UPDATE Cache SET key = 's1/x' WHERE key = 's1/1'",
        "UPDATE Cache SET key = 's1/01' WHERE key = 's1/1'",
        "UPDATE Cache SET value = x'' WHERE key = 's1/1'",
        "UPDATE Cache SET value = x'00' WHERE key = 's1/1'",
        "UPDATE Cache SET expire_time = 1 WHERE key = 's1'",
        "UPDATE Cache SET key = 'x1' WHERE key = 's2'",
    ],
)
async def test_rows_that_are_gone_or_changed_are_noticed(home: Path, slot: Path, change: str) -> None:
    store = await opened(home)
    await store.commit([put_segment(1, [b"x" * 9_000_000]), put_segment(2)])
    await store.close()
    sql(slot, change)
    assert isinstance(await refused(home), StoreCorrupt)


async def test_a_row_that_goes_while_the_store_is_open_is_noticed(store: DiskStore, slot: Path) -> None:
    await store.commit([put_segment(1)])
    sql(slot, "DELETE FROM Cache WHERE key = 's1'")
    with pytest.raises(StoreCorrupt, match="a part of it is gone"):
        [chunk async for chunk in store.read([(1, 0, 3)])]


# -- damage


async def test_a_flipped_byte_in_a_segment_is_noticed_and_nothing_is_deleted(home: Path, slot: Path) -> None:
    await filled(home)
    ((value,),) = sql(slot, "SELECT value FROM Cache WHERE key = 's1'")
    damaged = bytearray(value)
    damaged[-5] ^= 1
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 's1'", bytes(damaged))
    for _ in range(2):
        error = await refused(home)
        assert isinstance(error, StoreCorrupt)
        assert str(error).startswith(f"{slot}: s1 is damaged: its checksum does not fit.")
        assert "restore the folder from a backup, or name another home" in str(error)
    assert sql(slot, "SELECT count(*) FROM Cache") == [(11,)]
    assert sql(slot, "SELECT value FROM Cache WHERE key = 's1'") == [(bytes(damaged),)]


async def test_other_segments_stay_readable_beside_a_damaged_one(home: Path, slot: Path) -> None:
    await filled(home)
    ((value,),) = sql(slot, "SELECT value FROM Cache WHERE key = 's1'")
    sql(slot, "UPDATE Cache SET value = ? WHERE key = 's1'", value[:-1] + b"?")
    store = await opened(home)
    with pytest.raises(StoreCorrupt):
        [chunk async for chunk in store.read([(0, 0, 3), (1, 0, 1)])]
    assert [chunk async for chunk in store.read([(0, 0, 1), (2, 2, 3)])] == [line(0, 0), line(2, 2)]
    await store.close()


@pytest.mark.parametrize("seed", range(40))
async def test_a_page_that_went_bad_never_gives_wrong_data(home: Path, slot: Path, seed: int) -> None:
    store = await opened(home)
    await store.commit([put_segment(no, lines(no, 40, "x" * 30 * no)) for no in range(6)])
    await store.commit([put_marks(no) for no in range(6)])
    before = await everything(store)
    await store.close()
    content = bytearray((slot / "cache.db").read_bytes())
    at = seed * len(content) // 40 + seed
    content[at : at + 16] = random.Random(seed).randbytes(16)
    (slot / "cache.db").write_bytes(content)
    if seed % 2:
        (slot / "clean").unlink()
    store = DiskStore(home, Settings())
    found: object = None
    try:
        await store.open()
        found = await everything(store)
    except StoreError as error:
        found = error
    finally:
        await store.close()
    # A page may hold nothing of worth; then it does not matter.
    assert isinstance(found, StoreError) or found == before


async def test_what_only_a_check_of_the_whole_database_finds_is_found_after_an_unclean_stop(
    home: Path, slot: Path
) -> None:
    store = await opened(home)
    await store.commit([put_segment(1, [b"x" * 100_000])])
    await store.commit([DropSegments([1])])
    await store.close()
    content = bytearray((slot / "cache.db").read_bytes())
    # The count of free pages, in the header: nothing else depends on it.
    content[36:40] = (5).to_bytes(4, "big")
    (slot / "cache.db").write_bytes(content)
    (slot / "clean").unlink()
    error = await refused(home)
    assert isinstance(error, StoreCorrupt)
    assert "the database is damaged: " in str(error)
    assert "reelist" in str(error)


async def test_a_damaged_identity_is_noticed_and_told_once(home: Path, slot: Path) -> None:
    await filled(home)
    sql(slot, "UPDATE Cache SET value = x'00' WHERE key = 'meta'")
    error = await refused(home)
    assert isinstance(error, StoreCorrupt)
    assert str(error).count(str(slot)) == 1
    assert str(error).count("restore") == 1


async def test_a_file_that_is_no_database_is_noticed(home: Path, slot: Path) -> None:
    await filled(home)
    (slot / "cache.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    error = await refused(home)
    assert isinstance(error, StoreCorrupt)
    assert "damaged" in str(error)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda slot: (slot / "cache.db").unlink(), "the database is gone"),
        (lambda slot: (slot / "cache.db").write_bytes(b""), "the database is gone"),
        (lambda slot: sql(slot, "DELETE FROM Cache"), "the database was emptied"),
        (lambda slot: sql(slot, "DELETE FROM Cache WHERE key = 'meta'"), "the database was emptied"),
        (lambda slot: sql(slot, "DROP TABLE Cache"), "the database was emptied"),
        (lambda slot: (slot / "store-id").unlink(), "store-id is gone"),
        (lambda slot: (slot / "store-id").write_text("abcdefgh"), "store-id says 'abcdefgh'"),
    ],
    ids=["deleted", "zeroed", "emptied", "without meta", "without table", "without store-id", "another's store-id"],
)
async def test_a_database_that_is_not_the_slots_is_noticed(
    home: Path, slot: Path, damage: Callable[[Path], object], words: str
) -> None:
    await filled(home)
    damage(slot)
    for _ in range(2):
        error = await refused(home)
        assert isinstance(error, StoreCorrupt)
        assert words in str(error)


@pytest.mark.parametrize("left", ["nothing", "an empty file", "an empty database", "no store-id"])
async def test_a_slot_whose_making_was_cut_short_is_made_anew(home: Path, slot: Path, left: str) -> None:
    store = await opened(home)
    await store.close()
    (slot / "store-id").unlink()
    (slot / "clean").unlink()
    if left == "nothing":
        (slot / "cache.db").unlink()
    elif left == "an empty file":
        (slot / "cache.db").write_bytes(b"")
    elif left == "an empty database":
        sql(slot, "DELETE FROM Cache")
    store = await opened(home)
    (meta,) = await everything(store)
    assert (slot / "store-id").read_text() == meta.store_id
    await store.close()


async def test_a_store_of_a_later_format_is_not_touched(home: Path) -> None:
    store = await opened(home)
    (meta,) = await everything(store)
    await store.commit([PutMeta(msgspec.structs.replace(meta, format=FORMAT + 1))])
    await store.close()
    error = await refused(home)
    assert isinstance(error, StoreVersion)
    assert "upgrade" in str(error)


async def test_an_unclean_stop_is_noticed_and_the_database_checked(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(home)
    assert store.checked is False
    assert not (slot / "clean").exists()
    await store.commit([put_segment(1)])
    shutil.copytree(home, home.parent / "copy")
    await store.close()
    assert (slot / "clean").exists()

    for folder, checked in ((home, False), (home.parent / "copy", True), (home.parent / "copy", False)):
        store = DiskStore(folder, Settings())
        await store.open()
        assert (folder.name, store.checked) == (folder.name, checked)
        assert len(await everything(store)) == 3
        await store.close()


async def test_why_a_store_cannot_be_opened_is_told_even_if_it_cannot_be_closed_either(
    home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(home)
    sql(slot, "DELETE FROM Cache WHERE key = 'meta'")

    def fails(*_: object) -> None:
        raise StoreError("there is no ballast")

    monkeypatch.setattr("carpool._stores.slots.Slot.keep_ballast", fails)
    assert "emptied" in str(await refused(home))
