"""Cached content in use is kept alive: when it is asked for, when it is extended, and when that ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from carpool._core.model import Fault
from carpool._keeper import Keeper
from carpool._ports import ProviderError
from carpool.errors import ClientClosed
from carpool.types import Cache, ServerError

LEAD_S = 7_200.0
START_S = 1_800_000_000.0


class World:
    """Caches of a server, a clock that jumps, and the requests that are open."""

    def __init__(self, **ttl_s: float) -> None:
        self.now_s = START_S
        self.expires_at = {f"cachedContents/{name}": START_S + ttl for name, ttl in ttl_s.items()}
        self.calls: list[tuple[str, str, float]] = []
        self.open: set[int] = set()
        self.error: BaseException | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.keeper = Keeper(self, LEAD_S, lambda: self.now_s, self.open.__contains__, self.start)  # type: ignore[arg-type]

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work(*args)))

    def use(self, name: str, place: int) -> None:
        self.open.add(place)
        self.keeper.hold(f"cachedContents/{name}", place)

    async def get(self, name: str) -> Cache:
        self.calls.append(("get", name, self.now_s))
        return self._cache(name)

    async def extend(self, name: str, ttl_s: float) -> Cache:
        self.calls.append(("extend", name, ttl_s))
        self.expires_at[name] = self.now_s + ttl_s
        return self._cache(name)

    def _cache(self, name: str) -> Cache:
        if self.error is not None:
            raise self.error
        if name not in self.expires_at:
            raise ProviderError(Fault(kind="refused", error=ServerError(403, "secret words", "PERMISSION_DENIED")))
        return Cache(name=name, expires_at=datetime.fromtimestamp(self.expires_at[name], UTC).isoformat())

    def left_s(self, name: str) -> float:
        return self.expires_at[f"cachedContents/{name}"] - self.now_s

    async def pass_time(self, seconds: float, step_s: float = 60.0) -> None:
        """Let time pass in steps; the keeper's own timer, which follows real time, is replaced by a nudge."""
        for _ in range(int(seconds / step_s)):
            self.now_s += step_s
            await self.settle()

    async def settle(self) -> None:
        changed = self.keeper._changed
        if changed is not None:
            changed.set()
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def runs(self) -> bool:
        return any(not task.done() for task in self.tasks)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_cache_in_use_never_has_less_than_the_lead_to_live() -> None:
    world = World(a=60.0)
    world.use("a", 1)
    await world.settle()
    least = []
    for _ in range(48):
        await world.pass_time(1_800)
        least.append(world.left_s("a"))
    assert min(least) >= LEAD_S
    extensions = [call for call in world.calls if call[0] == "extend"]
    assert len(extensions) <= 24 * 3_600 / (LEAD_S / 2) + 1, "it is extended more often than it needs"
    await world.end()


async def test_a_cache_that_lives_long_enough_is_left_alone_and_never_made_to_live_shorter() -> None:
    world = World(a=48 * 3_600.0)
    world.use("a", 1)
    await world.pass_time(3_600)
    assert [call[0] for call in world.calls] == ["get"]
    world.expires_at["cachedContents/a"] += 24 * 3_600  # by somebody else, who is not told off
    await world.pass_time(44.5 * 3_600, step_s=600)
    assert [call[0] for call in world.calls] == ["get", "get"]
    await world.end()


async def test_nobody_looks_after_a_cache_once_all_is_answered() -> None:
    world = World(a=60.0, b=60.0)
    world.use("a", 1)
    world.use("b", 2)
    await world.settle()
    world.open.discard(2)
    await world.pass_time(6 * 3_600)
    assert world.left_s("a") >= LEAD_S
    assert world.left_s("b") < 0
    world.open.clear()
    await world.pass_time(6 * 3_600)
    assert not world.runs
    assert world.left_s("a") < 0
    world.expires_at["cachedContents/a"] = world.now_s + 60
    world.use("a", 3)  # and it begins anew
    await world.settle()
    assert world.left_s("a") >= LEAD_S
    assert len(world.tasks) == 2
    await world.end()


async def test_many_requests_of_one_cache_cost_one_look_and_no_room_for_long() -> None:
    world = World(a=48 * 3_600.0)
    for place in range(10_000):
        world.use("a", place)
        world.open.discard(place - 5)
    await world.settle()
    assert [call[0] for call in world.calls] == ["get"]
    assert len(world.keeper._held["cachedContents/a"].places) <= 1_024
    await world.end()


@pytest.mark.parametrize(
    "error",
    [
        None,
        ProviderError(Fault(kind="unknown", error=ServerError(0, "secret words"))),
        ClientClosed("secret words"),
        RuntimeError("a bug"),
    ],
    ids=["gone", "no answer", "closed", "bug"],
)
async def test_what_cannot_be_kept_is_told_once_and_tried_again(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.error = error
    with caplog.at_level(logging.WARNING, logger="carpool"):
        world.use("a", 1)
        await world.pass_time(1_800)
    looks = len(world.calls)
    assert 5 <= looks <= 31
    assert world.runs
    if not isinstance(error, RuntimeError):
        assert len(caplog.records) == 1
        assert "cachedContents/a could not be kept alive" in caplog.text
    assert "secret words" not in caplog.text
    world.error = None
    world.expires_at["cachedContents/a"] = world.now_s + 60
    await world.pass_time(120)
    assert world.left_s("a") >= LEAD_S
    await world.end()


async def test_a_cache_whose_end_cannot_be_read_is_looked_at_once_and_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(a=60.0)
    monkeypatch.setattr(world, "_cache", lambda name: Cache(name=name, expires_at="soon"))
    world.use("a", 1)
    await world.pass_time(6 * 3_600)
    assert [call[0] for call in world.calls] == ["get"]
    assert world.runs
    assert not caplog.records
    world.open.clear()
    world.use("b", 2)  # whatever wakes it
    await world.settle()
    assert [call[:2] for call in world.calls[1:]] == [("get", "cachedContents/b")]
    await world.end()


async def test_without_a_provider_that_has_caches_nothing_is_kept() -> None:
    def start(*_: object) -> None:
        raise AssertionError("there is nothing to do")

    Keeper(None, LEAD_S, lambda: START_S, lambda _: True, start).hold("cachedContents/a", 1)
