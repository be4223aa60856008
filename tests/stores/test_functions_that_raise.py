"""A bug anywhere in the store on disk: each of its functions raises in turn, while it is used.

Nobody waits for ever, everybody is told with a typed error (a bug in what runs in a caller's own turn shows itself
there), the slot is let go of, and what was acknowledged is there afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from carpool._core.model import SegmentHead
from carpool._stores import cache, database, disk, segments, slots
from carpool._stores.disk import DiskStore
from carpool._stores.slots import take_slot
from carpool.errors import ConfigurationError, StoreError
from carpool.settings import Settings

from ..contract.records import put_results, put_segment  # noqa: TID252 - no packages
from ..spots import Bug, Spot  # noqa: TID252

MODULES: Final[list[ModuleType]] = [cache, database, disk, segments, slots]
LAST: Final = {
    # With these everybody is told, the thread ends, and the slot is let go of.
    "_post",
    "_settle",
    "_typed",
    "again",
    "_again",
    "_Writer.run",
    "_Writer._served",
    "_closing",
    "Slot.release",
}
NOT_ALWAYS: Final = {"_Writer._next", "_Writer._serve"}
"""What is called at a stage or just before it, as the thread is quick or slow."""
PATIENCE_S: Final = 20.0


def spots() -> Iterator[Spot]:
    """Iterate over all functions of the store."""
    for module in MODULES:
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != module.__name__ or getattr(thing, "_is_protocol", False):
                continue
            if inspect.isfunction(thing):
                yield Spot(module, name)
            elif inspect.isclass(thing):
                for inner, method in vars(thing).items():
                    if inspect.isfunction(method) and not inner.startswith("__"):
                        yield Spot(thing, inner)


SPOTS: Final = {spot.title: spot for spot in spots() if spot.title not in LAST}


class Trap:
    """Makes a function raise once, from a moment on; until then it counts its calls."""

    def __init__(self, spot: Spot, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.calls = 0
        self.sprung_in: threading.Thread | None = None
        inner: Callable[..., Any] = getattr(spot.owner, spot.name)

        def raising(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.armed and self.sprung_in is None:
                self.sprung_in = threading.current_thread()
                raise Bug
            return inner(*args, **more)

        owners = [spot.owner] if inspect.isclass(spot.owner) else MODULES
        for owner in owners:
            if vars(owner).get(spot.name) is inner:
                monkeypatch.setattr(owner, spot.name, raising)


async def use(store: DiskStore, acknowledged: list[int], begin: Callable[[str], None]) -> list[BaseException]:
    """Use a store in every way, telling the stage that begins, and return what went wrong."""
    wrong: list[BaseException] = []

    async def step(work: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await work()
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - it is what the test is about
            wrong.append(error)

    async def commit(number: int) -> None:
        await store.commit([put_segment(number), put_results(number)])
        acknowledged.append(number)

    async def read() -> None:
        assert [chunk async for chunk in store.read([(1, 0, 1)])]
        assert await store.results([1 << 20])
        assert [record async for record in store.load()]

    begin("opening")
    await step(store.open)
    if store._writer is None:
        return wrong
    await step(lambda: commit(1))
    begin("using")
    await step(lambda: asyncio.gather(*(commit(number) for number in (2, 3, 4)), return_exceptions=False))
    await step(read)
    await step(lambda: commit(5))
    begin("closing")
    await step(store.close)
    return wrong


Stages = dict[str, list[str]]


@pytest.fixture(scope="module")
async def stages(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stages in which each function is called."""
    called: Stages = {title: [] for title in SPOTS}
    with pytest.MonkeyPatch.context() as patch:
        traps = {title: Trap(spot, patch) for title, spot in SPOTS.items()}
        now = ""

        def begin(stage: str) -> None:
            nonlocal now
            end()
            now = stage

        def end() -> None:
            for title, trap in traps.items():
                if trap.calls:
                    called[title].append(now)
                trap.calls = 0

        assert not await use(DiskStore(tmp_path_factory.mktemp("stages") / "home", Settings()), [], begin)
        end()
    return called


@pytest.mark.parametrize("title", SPOTS)
async def test_a_bug_in(title: str, stages: Stages, tmp_path: Path) -> None:
    for stage in stages[title]:
        await go_through(SPOTS[title], stage, tmp_path / stage)


async def go_through(spot: Spot, stage: str, home: Path) -> None:
    before, acknowledged = set(threading.enumerate()), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        trap = Trap(spot, patch)

        def begin(now: str) -> None:
            trap.armed = trap.armed or now == stage

        store = DiskStore(home, Settings())
        wrong = await use(store, acknowledged, begin)
    assert trap.sprung_in is not None or spot.title in NOT_ALWAYS
    told = (StoreError, ConfigurationError, *([Bug] if trap.sprung_in is threading.current_thread() else []))
    assert all(isinstance(error, told) for error in wrong), (stage, wrong)
    del store, wrong
    gc.collect()
    await let_go(home, before)
    after = DiskStore(home, Settings())
    await after.open()
    found = [record.no async for record in after.load() if isinstance(record, SegmentHead)]
    await after.close()
    assert set(acknowledged) <= set(found), stage


async def let_go(home: Path, before: set[threading.Thread]) -> None:
    """Insist that the thread ends, and that the slot can be taken."""
    give_up_at = time.monotonic() + PATIENCE_S
    while any(thread.name == "carpool-store" for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < give_up_at, "the store's thread lives on"
        await asyncio.sleep(0.01)
    take_slot(home, 1).release()
