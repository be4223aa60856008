"""The store on disk against its twin in memory: any sequence of commits, closes and crashes leaves both the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carpool._core.messages import DropDays, DropJob, DropResults, DropSegments, PutMeta, Write
from carpool._core.model import Meta, ResultsHead, SegmentHead, place_of
from carpool._ports import Store
from carpool._stores import cache, database
from carpool._stores.disk import DiskStore
from carpool._stores.memory import MemoryStore
from carpool.settings import ROUTES, Settings

from ..contract.records import (  # noqa: TID252 - test folders are no packages
    BASE_URL,
    put_day,
    put_habit,
    put_job,
    put_marks,
    put_results,
    put_seen,
    put_segment,
)

ROWS = st.lists(st.binary(max_size=30), max_size=5)
NUMBERS = st.integers(0, 6)
SERVICES = st.sampled_from([BASE_URL, "http://127.0.0.1"])
WRITES: st.SearchStrategy[Write] = st.one_of(
    st.builds(put_segment, NUMBERS, ROWS),
    st.builds(put_segment, NUMBERS, st.just([b"x" * 700, b"y" * 3_000])),
    st.builds(put_results, NUMBERS, ROWS),
    st.builds(put_marks, NUMBERS, st.binary(max_size=4)),
    st.builds(put_job, st.sampled_from("abc"), attempt=st.integers(1, 3)),
    st.builds(DropSegments, st.lists(NUMBERS, max_size=4)),
    st.builds(DropResults, st.lists(NUMBERS, max_size=4)),
    st.builds(DropJob, st.sampled_from("abc")),
    st.builds(put_day, NUMBERS, st.integers(0, 2**62), SERVICES),
    st.builds(DropDays, st.lists(NUMBERS, max_size=4), SERVICES),
    st.builds(put_habit, st.sampled_from(["m", "tunedModels/m"]), st.integers(0, 9), SERVICES),
    st.builds(put_seen, st.sampled_from(["m", "tunedModels/m"]), st.sampled_from(ROUTES), base_url=SERVICES),
)
COMMITS = st.lists(st.lists(WRITES, max_size=5), max_size=5)


async def everything(store: Store) -> list[Any]:
    """Return all that a store holds, bodies included."""
    records = [record async for record in store.load()]
    bodies = [
        [chunk async for chunk in store.read([(head.no, row, row + 1) for row in range(len(head.keys))])]
        for head in records
        if isinstance(head, SegmentHead)
    ]
    results = [
        await store.results([place_of(head.no, row) for row in range(len(head.keys))])
        for head in records
        if isinstance(head, ResultsHead)
    ]
    return [records, bodies, results]


class Twins(RuleBasedStateMachine):
    """Both stores see the same commits. Values take several rows from 1,000 bytes on, so that this happens too."""

    def __init__(self) -> None:
        super().__init__()
        self.row_bytes = cache.ROW_BYTES
        cache.ROW_BYTES = database.ROW_BYTES = 1_000  # type: ignore[misc]
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.homes = 0
        self.disk = DiskStore(self.folder / "0", Settings())
        self.run(self.disk.open())
        (meta,) = self.run(everything(self.disk))[0]
        self.memory = MemoryStore(meta)
        self.run(self.memory.open())
        self.meta: Meta = meta

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        self.run(self.disk.close())
        self.loop.close()
        shutil.rmtree(self.folder)
        cache.ROW_BYTES = database.ROW_BYTES = self.row_bytes  # type: ignore[misc]

    @rule(commits=COMMITS)
    def commit(self, commits: list[list[Write]]) -> None:
        async def both() -> None:
            waiting = [self.disk.commit(writes) for writes in commits]
            for writes in commits:
                await self.memory.commit(writes)
            await asyncio.gather(*waiting)

        self.run(both())

    @rule()
    def close(self) -> None:
        self.run(self.disk.close())
        self.opened_anew(self.folder / str(self.homes), checked=False)

    @rule(commits=COMMITS)
    def crash(self, commits: list[list[Write]]) -> None:
        self.commit(commits)
        before, self.homes = self.folder / str(self.homes), self.homes + 1
        shutil.copytree(before, self.folder / str(self.homes))
        self.run(self.disk.close())
        self.opened_anew(self.folder / str(self.homes), checked=True)

    def opened_anew(self, home: Path, *, checked: bool) -> None:
        self.disk = DiskStore(home, Settings())
        self.run(self.disk.open())
        assert self.disk.checked is checked
        self.memory = self.memory.reopened()
        self.run(self.memory.open())
        self.meta = msgspec.structs.replace(self.meta, epoch=self.meta.epoch + 1)
        self.commit([[PutMeta(self.meta)]])

    @invariant()
    def both_hold_the_same(self) -> None:
        assert self.run(everything(self.disk)) == self.run(everything(self.memory))


TestTwins = Twins.TestCase
TestTwins.settings = settings(settings.get_profile("default"), max_examples=25, stateful_step_count=12)
