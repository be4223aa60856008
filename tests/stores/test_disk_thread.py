"""The store on disk and its thread: what is done together, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from carpool._core.messages import DropResults, DropSegments, PutMeta, Write
from carpool._core.model import Marks, Meta, SegmentHead
from carpool._stores import segments
from carpool._stores.cache import ROW_BYTES, STATEMENT_ROWS_MAX, Cache, drop, put
from carpool._stores.database import Database
from carpool._stores.disk import DiskStore
from carpool._stores.slots import Slot, take_slot
from carpool.errors import ConfigurationError, StoreError, StoreFull, StoreLocked
from carpool.settings import Settings

from ..contract.records import put_job, put_marks, put_results, put_segment  # noqa: TID252 - no packages
from .helpers import blocked, everything, modes, opened, sql

# -- the thread and the loop


async def test_commits_that_wait_together_are_one_transaction(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    applying = Database.apply

    def apply(database: Database, changes: segments.Changes) -> None:
        sizes.append(len(changes))
        applying(database, changes)

    monkeypatch.setattr(Database, "apply", apply)
    go_on = blocked(store)
    waiting = [store.commit([put_segment(no)]) for no in range(60)]
    reading = asyncio.ensure_future(store.results([]))
    waiting += [store.commit([put_marks(no)]) for no in range(5)]
    go_on()
    await asyncio.gather(*waiting, reading)
    assert sizes == [65]


async def test_groups_are_bounded(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    applying = Database.apply

    def apply(database: Database, changes: segments.Changes) -> None:
        sizes.append(len(changes))
        applying(database, changes)

    monkeypatch.setattr(Database, "apply", apply)
    monkeypatch.setattr("carpool._stores.writer.GROUP_BYTES_MAX", 10_000)
    monkeypatch.setattr("carpool._stores.writer.GROUP_COMMITS_MAX", 4)
    go_on = blocked(store)
    waiting = [store.commit([put_segment(no, [b"x" * 6_000])]) for no in range(4)]
    waiting += [store.commit([put_marks(no)]) for no in range(10)]
    go_on()
    await asyncio.gather(*waiting)
    assert sizes == [2, 2, 4, 4, 2]
    assert len(await everything(store)) == 1 + 4 + 10 + 4


async def test_nobody_holds_what_is_durable_before_the_loop_hears_of_it(store: DiskStore) -> None:
    """A turn of the loop may take in a million requests."""
    stored: list[Write] = [put_segment(1)]
    refused: list[Write] = [put_segment(2), PutMeta(Meta(store_id="another"))]
    store.commit(stored)
    failing = store.commit(refused)
    asked = threading.Event()
    store._call(lambda _: asked.set())
    asked.wait(20)  # and the loop with it: it hears nothing meanwhile
    assert stored == []
    with pytest.raises(StoreError, match="cannot become"):
        await failing
    assert len(refused) == 2, "it may be committed again"
    assert [record.no for record in await everything(store) if isinstance(record, SegmentHead)] == [1]


class Pauses:
    """Notes when the loop waits for the thread, and lets the thread go on then."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self.made = 0
        self._go_on = go_on

    def clear(self) -> None:
        pass

    def set(self) -> None:
        pass

    def wait(self, _: float) -> None:
        self.made += 1
        self._go_on()


async def test_who_is_far_ahead_of_the_thread_waits_for_it_a_little(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool._stores.writer.BEHIND_BYTES_MAX", 10_000)
    assert store._writer is not None
    writer = store._writer
    for round_no in range(2):  # what was done in the first does not count in the second
        pauses = Pauses(blocked(store))
        monkeypatch.setattr(writer, "_progress", pauses)
        waiting = [store.commit([put_segment(no, [b"x" * 4_000])]) for no in (1, 2)]
        waiting.append(store.commit([put_marks(1)]))
        assert pauses.made == 0, round_no
        waiting.append(store.commit([put_results(1, [b"y" * 4_000])]))
        assert pauses.made == 1
        await asyncio.gather(*waiting)
        await store._call(lambda _: None)


async def test_a_question_between_commits_is_answered_between_them(store: DiskStore) -> None:
    go_on = blocked(store)
    waiting = [store.commit([put_segment(no)]) for no in range(10)]
    asked = store._call(lambda database: len(database.slices(100, 10**9)[0]))
    waiting += [store.commit([put_segment(no)]) for no in range(10, 20)]
    go_on()
    assert await asked == 11
    await asyncio.gather(*waiting)


async def test_a_bug_in_the_thread_is_told_and_does_not_end_it(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("with a SECRET in it")

    with pytest.raises(StoreError, match="ZeroDivisionError") as caught:
        await store._call(fails)
    assert "SECRET" not in str(caught.value)
    monkeypatch.setattr(Database, "stage", fails)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        await store.commit([put_segment(1)])
    monkeypatch.undo()
    monkeypatch.setattr(Database, "apply", fails)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        await store.commit([put_segment(1)])
    monkeypatch.undo()
    await store.commit([put_segment(2)])
    assert [record.no for record in await everything(store) if isinstance(record, SegmentHead)] == [2]


async def test_a_bug_around_a_group_of_commits_leaves_nobody_waiting_and_lets_go_of_the_slot(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what was written: nothing more is, and what is readable stays so."""

    def fails(*_: object) -> None:
        raise ZeroDivisionError("with a SECRET in it")

    store = await opened(home)
    await store.commit([put_segment(1)])
    go_on = blocked(store)
    with monkeypatch.context() as patch:
        patch.setattr("carpool._stores.writer._applied", fails)
        waiting = [asyncio.ensure_future(store.commit([put_segment(no)])) for no in (2, 3, 4)]
        go_on()
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in outcomes} == {StoreError}
    assert len({id(one) for one in outcomes}) == 3
    assert "SECRET" not in str(outcomes)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        await store.commit([put_segment(5)])
    assert [record.no for record in await everything(store) if isinstance(record, SegmentHead)] == [1]
    await store.close()
    take_slot(home, 1).release()
    assert not (home / "slot-0" / "clean").exists(), "the next one is to check it"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "carpool-store"]


async def test_one_thread_of_its_own_name_lives_as_long_as_the_store_is_open(home: Path) -> None:
    before = len(threads())
    store = DiskStore(home, Settings())
    assert len(threads()) == before
    await store.open()
    assert len(threads()) == before + 1
    assert all(thread.daemon for thread in threads())
    await store.close()
    assert len(threads()) == before


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is a thread that makes it true
            await asyncio.sleep(0.005)


async def test_a_store_that_is_forgotten_lets_go_by_itself(home: Path, slot: Path) -> None:
    before = len(threads())
    store = await opened(home)
    await store.commit([put_segment(1)])
    del store
    gc.collect()
    await settled(lambda: len(threads()) == before)
    assert (slot / "clean").exists()


async def test_an_open_that_is_cancelled_lets_go_by_itself(home: Path) -> None:
    before = len(threads())
    opening = asyncio.ensure_future(DiskStore(home, Settings()).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await settled(lambda: len(threads()) == before)
    store = DiskStore(home, Settings(), slots_max=1)
    await store.open()
    await store.close()


async def test_closing_on_a_full_disk_is_no_error_but_leaves_the_slot_to_be_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Slot) -> None:
        raise StoreFull("no room for a mark")

    store = await opened(home)
    monkeypatch.setattr(Slot, "mark_clean", full)
    await store.close()
    monkeypatch.undo()
    store = await opened(home)
    assert store.checked
    await store.close()


async def test_what_else_goes_wrong_when_closing_is_told_and_the_slot_let_go(home: Path, slot: Path) -> None:
    store = await opened(home)
    (slot / "clean").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        await store.close()
    take_slot(home, 1).release()


async def test_a_question_that_nobody_asks_any_more_is_not_answered(store: DiskStore) -> None:
    asked: list[object] = []
    go_on = blocked(store)
    question = store._call(asked.append)
    question.cancel()
    go_on()
    await store.commit([])
    assert asked == []


async def test_a_close_that_is_cancelled_goes_on(home: Path) -> None:
    store = await opened(home)
    go_on = blocked(store)
    written = store.commit([put_segment(1)])
    closing_task = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_task
    go_on()
    await written
    await store.close()
    assert repr(store).endswith("closed>")


async def test_what_is_queued_before_close_is_written(home: Path) -> None:
    store = await opened(home)
    go_on = blocked(store)
    for no in range(30):
        store.commit([put_segment(no)])
    reading = asyncio.ensure_future(everything(store))
    await asyncio.sleep(0)
    closing_task = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    go_on()
    await closing_task
    with pytest.raises(StoreError, match="closed"):
        await reading
    store = await opened(home)
    assert len(await everything(store)) == 61
    await store.close()


def test_a_loop_that_is_closed_under_the_store_does_not_end_the_thread_noisily(home: Path, slot: Path) -> None:
    loop = asyncio.new_event_loop()
    store = DiskStore(home, Settings())
    loop.run_until_complete(store.open())
    go_on = blocked_outside(loop, store)
    loop.run_until_complete(queued(store))
    loop.close()
    go_on()
    del store
    gc.collect()
    deadline = threading.Event()
    for _ in range(6_000):
        if (slot / "clean").exists():
            break
        deadline.wait(0.005)
    assert (slot / "clean").exists()
    assert sql(slot, "SELECT count(*) FROM Cache WHERE key = 's1'") == [(1,)]


def blocked_outside(loop: asyncio.AbstractEventLoop, store: DiskStore) -> Callable[[], None]:
    async def block() -> Callable[[], None]:
        return blocked(store)

    return loop.run_until_complete(block())


async def queued(store: DiskStore) -> None:
    store.commit([put_segment(1)])


async def test_a_store_belongs_to_the_loop_that_opened_it(store: DiskStore) -> None:
    def elsewhere() -> str:
        async def use() -> None:
            await store.commit([put_segment(1)])

        with pytest.raises(StoreError) as caught:
            asyncio.run(use())
        return str(caught.value)

    assert "another event loop" in await asyncio.to_thread(elsewhere)
    with pytest.raises(StoreError, match="another event loop"):
        await asyncio.to_thread(lambda: store.commit([]))


async def test_a_home_that_cannot_be_used_is_told_by_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="CARPOOL_HOME"):
        await DiskStore(tmp_path / "file", Settings()).open()
    with pytest.raises(ConfigurationError):
        await DiskStore(Path("/proc/carpool"), Settings()).open()


async def test_when_no_slot_is_free_open_says_so(store: DiskStore, home: Path) -> None:
    with pytest.raises(StoreLocked, match="all 1 slots"):
        await DiskStore(home, Settings(), slots_max=1).open()
    second = DiskStore(home, Settings(), slots_max=2)
    await second.open()
    assert (store.path.name, second.path.name) == ("slot-0", "slot-1")
    await second.close()


async def test_prompts_do_not_outlive_their_use(home: Path, slot: Path) -> None:
    secret = b"SECRET-PROMPT-" * 500
    store = await opened(home)
    await store.commit([put_segment(1, [secret + b"\n"]), put_results(1, [secret])])
    await store.commit([put_marks(1), DropSegments([1])])
    await store.commit([DropResults([1])])
    await store.close()
    assert modes(slot).keys() == {"ballast", "cache.db", "clean", "lock", "store-id"}
    assert b"SECRET-PROMPT" not in (slot / "cache.db").read_bytes()


async def test_a_store_says_where_it_is_and_how_it_stands(home: Path, slot: Path) -> None:
    store = DiskStore(home, Settings())
    assert repr(store) == f"<DiskStore {home} not open>"
    with pytest.raises(StoreError, match="not open"):
        _ = store.path
    await store.open()
    assert repr(store) == f"<DiskStore {slot} open>"
    await store.close()
    assert repr(store) == f"<DiskStore {slot} closed>"


async def test_a_relative_home_stays_where_it_was(
    tmp_path: Path, home: Path, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DiskStore(Path("home"), Settings())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.open()
    await store.commit([put_segment(1)])
    assert store.path == slot
    await store.close()


async def test_loading_goes_in_slices(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.commit([put_marks(no) for no in range(150)])
    await store.commit([put_segment(no, [b"x" * 3_000_000]) for no in range(4)])
    slices = await store._call(lambda database: database.slices(64, 8_388_608))
    assert [len(names) for names in slices] == [3, 64, 64, 24]
    assert slices[0] == ["meta", "s0", "s1"]
    seen: list[int] = []
    records = Database.records

    def counted(database: Database, names: list[str]) -> Any:
        seen.append(len(names))
        return records(database, names)

    monkeypatch.setattr(Database, "records", counted)
    assert sum(isinstance(record, Marks) for record in [record async for record in store.load()]) == 150
    assert seen == [3, 64, 64, 24]


async def test_meta_comes_first_whatever_was_written_before(store: DiskStore) -> None:
    await store.commit([put_job("a"), put_segment(0)])
    assert isinstance(await anext(store.load()), Meta)


class Statements:
    """A connection that only notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[Any]]] = []

    def _sql(self, statement: str, values: Any) -> None:
        assert statement.count("?") == len(values)
        self.asked.append((statement.split(maxsplit=1)[0], list(values)))


def test_rows_share_statements_up_to_a_number_and_a_size() -> None:
    many, large = Statements(), Statements()
    rows = [(f"s{no}", memoryview(b"x")) for no in range(2 * STATEMENT_ROWS_MAX + 1)]
    put(cast("Cache", many), rows)
    assert [name for _, values in many.asked for name in values[::4]] == [name for name, _ in rows]
    assert [len(values) // 4 for _, values in many.asked] == [STATEMENT_ROWS_MAX, STATEMENT_ROWS_MAX, 1]
    half = memoryview(bytes(ROW_BYTES // 2))
    put(cast("Cache", large), [("s1", half), ("s2", half), ("s3", half), ("s4", memoryview(bytes(ROW_BYTES)))])
    assert [values[::4] for _, values in large.asked] == [["s1", "s2"], ["s3"], ["s4"]]
    drop(cast("Cache", many), [name for name, _ in rows])
    assert [(what, len(values)) for what, values in many.asked[3:]] == [("DELETE", 16), ("DELETE", 16), ("DELETE", 1)]


def test_nothing_is_asked_where_nothing_changes() -> None:
    nothing = Statements()
    put(cast("Cache", nothing), [])
    drop(cast("Cache", nothing), [])
    assert nothing.asked == []


async def test_a_commit_of_many_values_is_read_back_whole(store: DiskStore) -> None:
    await store.commit([put_segment(no) for no in range(1, 41)])
    await store.commit([DropSegments(numbers=list(range(2, 40))), put_results(1)])
    left = [one.no for one in await everything(store) if isinstance(one, SegmentHead)]
    assert left == [1, 40]
    assert b"".join([part async for part in store.read([(40, 0, 3)])]) == b"".join(put_segment(40).lines)
