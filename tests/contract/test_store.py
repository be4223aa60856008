"""The contract of every store, in the words of ``carpool._ports.Store``: one suite over both, in memory and on disk."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from abc import ABC, abstractmethod
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
from carpool._core.messages import (
    DropDays,
    DropJob,
    DropResults,
    DropSegments,
    PutMeta,
    PutSegment,
    PutTaken,
    Record,
    Write,
)
from carpool._core.model import Job, JobState, Marks, Meta, ResultsHead, SegmentHead, Span, Taken, place_of
from carpool._core.routing import Seen
from carpool._ports import Store
from carpool._stores.disk import DiskStore
from carpool._stores.memory import MemoryStore
from carpool.errors import StoreCorrupt, StoreError
from carpool.settings import Settings

from .records import (
    BASE_URL,
    line,
    lines,
    put_day,
    put_habit,
    put_job,
    put_marks,
    put_results,
    put_seen,
    put_segment,
)


class World(ABC):
    """A store, and what happens to it."""

    store: Store

    @abstractmethod
    def another(self) -> Store:
        """Return a store, not open, that has nothing to do with this one."""

    @abstractmethod
    async def reopen(self) -> Store:
        """Close the store in order, and open what it left."""

    @abstractmethod
    async def crash(self) -> Store:
        """Open what would be left if the process ended now."""


class MemoryWorld(World):
    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()

    def another(self) -> Store:
        return MemoryStore()

    async def reopen(self) -> Store:
        await self.store.close()
        return await self.crash()

    async def crash(self) -> Store:
        self.store = self.store.reopened()
        await self.store.open()
        return self.store


class DiskWorld(World):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._homes = 0
        self._left: list[DiskStore] = []
        self.store: DiskStore = self.another()

    def another(self) -> DiskStore:
        self._homes += 1
        return DiskStore(self._folder / f"home-{self._homes}", Settings())

    async def reopen(self) -> Store:
        await self.store.close()
        self.store = DiskStore(self._folder / f"home-{self._homes}", Settings())
        await self.store.open()
        return self.store

    async def crash(self) -> Store:
        # The old one is still open: what lies on disk now is what a process leaves that ends without a word.
        self._left.append(self.store)
        before = self._folder / f"home-{self._homes}"
        self.store = self.another()
        shutil.copytree(before, self._folder / f"home-{self._homes}")
        await self.store.open()
        assert self.store.checked
        return self.store

    async def end(self) -> None:
        for store in [*self._left, self.store]:
            await store.close()


@pytest.fixture(params=["memory", "disk"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        memory = MemoryWorld()
        await memory.store.open()
        yield memory
        await memory.store.close()
        return
    disk = DiskWorld(tmp_path)
    await disk.store.open()
    yield disk
    await disk.end()


@pytest.fixture
def store(world: World) -> Store:
    return world.store


@pytest.fixture(params=["closed", "crashed"])
def after(request: pytest.FixtureRequest, world: World) -> Any:
    return world.reopen if request.param == "closed" else world.crash


async def loaded(store: Store) -> list[Record]:
    return [record async for record in store.load()]


async def bodies(store: Store, spans: Sequence[Span]) -> list[bytes]:
    return [chunk async for chunk in store.read(spans)]


# -- what is written is there again


async def test_a_new_store_holds_its_identity_and_nothing_else(world: World) -> None:
    other = world.another()
    await other.open()
    first, second = (await loaded(world.store)), (await loaded(other))
    await other.close()
    assert [type(record) for record in first] == [Meta]
    assert isinstance(first[0], Meta)
    assert isinstance(second[0], Meta)
    assert first[0].epoch == 0
    assert len(first[0].store_id) == 8
    assert first[0].store_id != second[0].store_id


async def test_every_kind_of_record_survives(store: Store, after: Any) -> None:
    (meta,) = await loaded(store)
    assert isinstance(meta, Meta)
    meta = msgspec.structs.replace(meta, epoch=5)
    segment, marks, job, results = put_segment(1), put_marks(1), put_job("01abc"), put_results(4)
    taken = PutTaken(Taken(no=4, rows=b"\0\1\0"))
    day, habit, seen = put_day(20_000), put_habit("tunedModels/mine"), put_seen("tunedModels/mine")
    await store.commit([seen, habit, day, PutMeta(meta), segment, marks, job, results, taken])
    again = await after()
    heads = [meta, segment.head, marks.marks, job.job, results.head, taken.taken, day.account, habit.habit]
    heads.append(seen.seen)
    assert await loaded(again) == heads
    assert await bodies(again, [(1, 0, 3)]) == [b"".join(segment.lines)]
    assert await again.results([place_of(4, row) for row in range(3)]) == results.bodies


async def test_records_come_by_kind_and_number_whatever_the_order_of_writing(store: Store, after: Any) -> None:
    numbers = [10, 2, 0, 100, 9]
    for no in numbers:
        await store.commit([put_results(no), put_job(f"job{no}"), put_marks(no), put_segment(no)])
    records = await loaded(await after())
    kinds = [SegmentHead, Marks, Job, ResultsHead]
    assert [type(record) for record in records] == [Meta, *(kind for kind in kinds for _ in numbers)]
    for kind in (SegmentHead, Marks, ResultsHead):
        assert [record.no for record in records if isinstance(record, kind)] == sorted(numbers)
    assert [record.id for record in records if isinstance(record, Job)] == sorted(f"job{no}" for no in numbers)


async def test_a_later_write_takes_the_place_of_an_earlier_one(store: Store, after: Any) -> None:
    await store.commit([put_segment(1), put_marks(1, b"\0\0\0"), put_job("a", state=JobState.UPLOADING)])
    await store.commit([put_marks(1, b"\1\0\0"), put_job("a", state=JobState.CREATING)])
    await store.commit([put_marks(1, b"\1\0\1"), put_marks(1, b"\1\1\1"), put_job("a", state=JobState.CLOSED)])
    _, segment, marks, job = await loaded(await after())
    assert isinstance(segment, SegmentHead)
    assert isinstance(marks, Marks)
    assert marks.done == b"\1\1\1"
    assert isinstance(job, Job)
    assert job.state is JobState.CLOSED


async def test_dropped_records_are_gone_and_segments_take_their_marks_along(store: Store, after: Any) -> None:
    await store.commit([write for no in range(4) for write in (put_segment(no), put_marks(no), put_results(no))])
    await store.commit([put_job("a"), put_job("b")])
    await store.commit([DropSegments([0, 2]), DropJob("a"), DropResults([1, 3])])
    records = await loaded(await after())
    assert [record.no for record in records if isinstance(record, SegmentHead)] == [1, 3]
    assert [record.no for record in records if isinstance(record, Marks)] == [1, 3]
    assert [record.id for record in records if isinstance(record, Job)] == ["b"]
    assert [record.no for record in records if isinstance(record, ResultsHead)] == [0, 2]


async def test_what_was_taken_of_results_is_replaced_and_goes_with_them(store: Store, after: Any) -> None:
    await store.commit([write for no in (1, 2) for write in (put_results(no), PutTaken(Taken(no=no, rows=b"\0\0\1")))])
    await store.commit([PutTaken(Taken(no=2, rows=b"\1\0\1"))])
    await store.commit([DropResults([1])])
    records = await loaded(await after())
    assert [record for record in records if isinstance(record, Taken)] == [Taken(no=2, rows=b"\1\0\1")]
    assert [record.no for record in records if isinstance(record, ResultsHead)] == [2]


async def test_days_and_habits_are_replaced_and_days_are_dropped(store: Store, after: Any) -> None:
    await store.commit([put_day(9), put_day(10), put_day(100), put_habit("b"), put_habit("a")])
    await store.commit([put_day(10, 8), put_habit("a", 12), DropDays([9, 11], BASE_URL), put_habit("tunedModels/a")])
    records = await loaded(await after())
    days = [put_day(10, 8).account, put_day(100).account]
    assert [record for record in records if isinstance(record, DayAccount)] == days
    habits = [put_habit("a", 12).habit, put_habit("b").habit, put_habit("tunedModels/a").habit]
    assert [record for record in records if isinstance(record, Habit)] == habits


async def test_durations_are_replaced_by_route_and_model(store: Store, after: Any) -> None:
    await store.commit([put_seen("b"), put_seen("a", "standard"), put_seen("a", "batch"), put_seen("a")])
    await store.commit([put_seen("a", "batch", 8.0), put_seen("tunedModels/a", "standard"), put_seen("b", "flex", 9.0)])
    seen = [record for record in await loaded(await after()) if isinstance(record, Seen)]
    assert seen == [
        put_seen("a", "batch", 8.0).seen,
        put_seen("a").seen,
        put_seen("b", "flex", 9.0).seen,
        put_seen("a", "standard").seen,
        put_seen("tunedModels/a", "standard").seen,
    ]


async def test_what_was_learned_and_spent_with_two_services_lies_side_by_side(store: Store, after: Any) -> None:
    here, there = BASE_URL, f"{BASE_URL}/tunedModels"  # with a model's name behind it, what is here looks like there

    def of(base_url: str, number: int) -> list[Any]:
        day = put_day(9, number, base_url=base_url)
        return [day, put_habit("tunedModels/a", number, base_url), put_seen("a", "batch", 1.0 * number, base_url)]

    await store.commit([*of(here, 1), *of(there, 2), put_habit("a", 3, there)])
    await store.commit([*of(there, 4), DropDays([9], here), put_day(10, 5, here)])
    records = await loaded(await after())
    days = [(one.base_url, one.day, one.spent_picousd) for one in records if isinstance(one, DayAccount)]
    assert days == [(there, 9, 4), (here, 10, 5)]
    habits = {(one.base_url, one.model): one.counted for one in records if isinstance(one, Habit)}
    assert habits == {(here, "tunedModels/a"): 1, (there, "tunedModels/a"): 4, (there, "a"): 3}
    assert {one.base_url: one.durations_s[-1] for one in records if isinstance(one, Seen)} == {here: 1.0, there: 4.0}


async def test_dropping_what_is_not_there_changes_nothing(store: Store, after: Any) -> None:
    await store.commit([put_segment(1)])
    await store.commit(
        [DropSegments([7, 8]), DropJob("never"), DropResults([9]), DropSegments([]), DropDays([1], BASE_URL)]
    )
    assert [type(record) for record in await loaded(await after())] == [Meta, SegmentHead]


async def test_within_a_commit_the_order_of_writes_counts(store: Store, after: Any) -> None:
    await store.commit([put_segment(1), DropSegments([1]), put_job("a"), DropJob("a")])
    await store.commit([DropSegments([2]), put_segment(2), DropResults([3]), put_results(3)])
    records = await loaded(await after())
    assert [type(record) for record in records] == [Meta, SegmentHead, ResultsHead]


async def test_a_number_can_be_used_again_after_a_drop(store: Store, after: Any) -> None:
    await store.commit([put_segment(1, lines(1, 9, "old"))])
    await store.commit([DropSegments([1])])
    await store.commit([put_segment(1, lines(1, 2, "new"))])
    assert await bodies(await after(), [(1, 0, 2)]) == [line(1, 0, "new") + line(1, 1, "new")]


async def test_an_empty_commit_is_fine(store: Store) -> None:
    await store.commit([])
    assert [type(record) for record in await loaded(store)] == [Meta]


async def test_what_is_loaded_can_be_changed_without_changing_the_store(store: Store) -> None:
    await store.commit([put_job("a", attempt=1), put_segment(1)])
    _, segment, job = await loaded(store)
    assert isinstance(job, Job)
    assert isinstance(segment, SegmentHead)
    job.attempt = 99
    segment.keys.clear()
    _, segment, job = await loaded(store)
    assert isinstance(job, Job)
    assert isinstance(segment, SegmentHead)
    assert (job.attempt, len(segment.keys)) == (1, 3)


# -- reading


async def test_spans_are_read_in_the_order_asked(store: Store) -> None:
    await store.commit([put_segment(no, lines(no, 10)) for no in range(3)])
    spans = [(1, 0, 10), (0, 3, 5), (0, 9, 10), (2, 0, 1), (0, 3, 5), (2, 4, 4), (1, 9, 10)]
    assert await bodies(store, spans) == [
        b"".join(line(no, row) for row in range(start, stop)) for no, start, stop in spans
    ]


async def test_bytes_of_any_kind_come_back_as_they_were(store: Store, after: Any) -> None:
    rows = ['"\u2028 \u0085 🚗 ü"\n'.encode(), b"\x00\xff\n", b'"\\ud83d"\n', b"\n", b"", b"no newline"]
    await store.commit([put_segment(1, rows), put_results(1, rows), put_segment(2, []), put_results(2, [])])
    again = await after()
    assert await bodies(again, [(1, row, row + 1) for row in range(6)]) == rows
    assert await again.results([place_of(1, row) for row in range(6)]) == rows
    assert await bodies(again, [(2, 0, 0)]) == [b""]


async def test_nothing_asked_for_is_nothing_read(store: Store) -> None:
    assert await bodies(store, []) == []
    assert await store.results([]) == []


async def test_lines_larger_than_a_database_row_come_back(store: Store, after: Any) -> None:
    huge = [bytes([65 + row]) * size + b"\n" for row, size in enumerate((9_000_000, 10, 8_388_608, 17_000_000))]
    await store.commit([put_segment(1, huge), put_results(1, huge), put_segment(2)])
    again = await after()
    assert await bodies(again, [(1, 1, 2), (2, 0, 1), (1, 3, 4), (1, 0, 1)]) == [huge[1], line(2, 0), huge[3], huge[0]]
    assert await again.results([place_of(1, 2)]) == [huge[2]]
    await again.commit([put_segment(1), DropResults([1])])
    assert await bodies(again, [(1, 0, 1)]) == [line(1, 0)]
    await again.commit([DropSegments([1])])
    assert [record.no for record in await loaded(await after()) if isinstance(record, SegmentHead)] == [2]


async def test_results_come_in_the_order_asked_and_as_often(store: Store) -> None:
    await store.commit([put_results(no, [b"%d-%d" % (no, row) for row in range(5)]) for no in (3, 8)])
    places = [(8, 4), (3, 0), (8, 0), (3, 0), (3, 4)]
    found = await store.results([place_of(no, row) for no, row in places])
    assert found == [b"%d-%d" % place for place in places]


@pytest.mark.parametrize("span", [(2, 0, 1), (1, 0, 4), (1, 2, 1), (1, -1, 1)])
async def test_rows_that_are_not_there_are_an_error_and_not_less(store: Store, span: Span) -> None:
    await store.commit([put_segment(1)])
    with pytest.raises(StoreCorrupt):
        await bodies(store, [(1, 0, 3), span])
    assert len(await bodies(store, [(1, 0, 3)])) == 1


@pytest.mark.parametrize("place", [place_of(2, 0), place_of(1, 3)])
async def test_results_that_are_not_there_are_an_error(store: Store, place: int) -> None:
    await store.commit([put_results(1)])
    with pytest.raises(StoreCorrupt):
        await store.results([place_of(1, 0), place])


async def test_a_reader_that_stops_early_leaves_the_store_usable(store: Store) -> None:
    await store.commit([put_segment(no) for no in range(6)])
    spans = [(no, 0, 3) for no in range(6)]
    reader = store.read(spans)
    assert await anext(reader) == b"".join(lines(0, 3))
    assert hasattr(reader, "aclose")
    await reader.aclose()
    loader = store.load()
    await anext(loader)
    assert hasattr(loader, "aclose")
    await loader.aclose()
    assert len(await bodies(store, spans)) == 6


async def test_commits_may_come_while_records_are_loaded(store: Store) -> None:
    await store.commit([put_segment(no) for no in range(200)])
    seen = 0
    async for record in store.load():
        if isinstance(record, SegmentHead):
            seen += 1
            await store.commit([put_segment(1_000 + seen)])
    assert seen == 200


# -- commits


async def test_commits_take_effect_in_the_order_of_the_calls(store: Store, after: Any) -> None:
    waiting = [store.commit([put_marks(1, bytes([no % 256]) * 3), put_marks(2 + no)]) for no in range(300)]
    await waiting[-1]
    await asyncio.gather(*waiting)
    records = [record for record in await loaded(await after()) if isinstance(record, Marks)]
    assert len(records) == 301
    assert records[0].done == bytes([299 % 256]) * 3


async def test_what_a_caller_does_not_await_is_written_all_the_same(world: World) -> None:
    for no in range(20):
        world.store.commit([put_segment(no)])
    again = await world.reopen()
    assert len(await loaded(again)) == 21


async def test_a_read_sees_the_commits_called_before_it(store: Store) -> None:
    store.commit([put_segment(1)])
    reading = asyncio.ensure_future(bodies(store, [(1, 0, 1)]))
    store.commit([put_results(1, [b"body"])])
    assert await store.results([place_of(1, 0)]) == [b"body"]
    assert await reading == [line(1, 0)]


async def test_a_cancelled_caller_takes_nothing_back(store: Store, after: Any) -> None:
    async def commit() -> None:
        await store.commit([put_segment(1)])

    task = asyncio.ensure_future(commit())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await store.commit([put_segment(2)])
    assert len(await loaded(await after())) == 3


def bad_writes() -> list[Any]:
    good = put_segment(7)
    ends = array("Q", [1, 2, 3]).tobytes()
    return [
        pytest.param(PutSegment(good.head, ["text"] * 3), id="a line that is text"),  # type: ignore[list-item]
        pytest.param(PutSegment(good.head, good.lines[:2]), id="a line less than the head says"),
        pytest.param(PutSegment(good.head, [b"longer", *good.lines[1:]]), id="lines of other sizes"),
        pytest.param(PutSegment(msgspec.structs.replace(good.head, ends=ends[:16]), good.lines), id="ends of fewer"),
        pytest.param(PutSegment(msgspec.structs.replace(good.head, keys=["\ud800"] * 3), good.lines), id="a surrogate"),
        pytest.param(PutSegment(msgspec.structs.replace(good.head, origin=object()), good.lines), id="an odd object"),
        pytest.param(put_job("a/1"), id="a job id that is no word"),
        pytest.param(PutMeta(Meta(store_id="stranger")), id="another store's identity"),
    ]


@pytest.mark.parametrize("bad", bad_writes())
async def test_a_commit_that_cannot_be_stored_fails_whole_and_alone(store: Store, after: Any, bad: Write) -> None:
    before = store.commit([put_job("before")])
    failing = store.commit([put_segment(1), put_job("x"), bad, put_segment(2)])
    behind = store.commit([put_job("behind")])
    await before
    with pytest.raises(StoreError) as caught:
        await failing
    assert not isinstance(caught.value, StoreCorrupt)
    await behind
    records = await loaded(await after())
    assert [type(record) for record in records] == [Meta, Job, Job]


# -- life


CALLS: dict[str, Callable[[Store], Any]] = {
    "commit": lambda store: store.commit([]),
    "load": lambda store: anext(store.load()),
    "read": lambda store: anext(store.read([(1, 0, 1)])),
    "results": lambda store: store.results([]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_before_open_and_after_close_every_call_says_so(world: World, call: Callable[[Store], Any]) -> None:
    new = world.another()
    await world.store.close()
    for store, words in ((new, "not open"), (world.store, "closed")):
        with pytest.raises(StoreError, match=words):
            await call(store)
        assert words in repr(store)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_in_a_forked_child_every_call_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: Callable[[Store], Any]
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match="forked"):
        await call(store)
    monkeypatch.undo()
    await store.commit([put_segment(1)])


async def test_errors_of_what_was_read_ahead_are_nobodys(store: Store) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    reader = store.read([(7, 0, 1), (8, 0, 1), (9, 0, 1)])
    with pytest.raises(StoreCorrupt, match="s7"):
        await anext(reader)
    # By now the answer about the next one is there as well.
    await store.commit([])
    del reader
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


async def test_closing_twice_is_fine_and_opening_twice_is_not(world: World) -> None:
    with pytest.raises(StoreError, match="opened before"):
        await world.store.open()
    await world.store.commit([put_segment(1)])
    await world.store.close()
    await world.store.close()
    with pytest.raises(StoreError, match="opened before"):
        await world.store.open()


async def test_a_store_that_was_never_opened_can_be_closed(world: World) -> None:
    await world.another().close()
    await world.store.commit([put_segment(1)])
    assert len(await loaded(world.store)) == 2
