"""A bug anywhere in the runtime: each of its functions raises in turn, while calls of every kind are under way.

Nobody hangs: whoever does not get an answer gets a typed error (a bug in what runs in a caller's own task shows itself
to that caller), the client lives or says that it does not, leaving it ends, and the next process has what was promised,
each paid for once.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from types import ModuleType
from typing import Any, Final

import pytest

import carpool
from carpool import _runtime

from ..spots import Bug, Spot  # noqa: TID252 - no packages
from .virtual import DAY_S, MODEL, Service, answer, client_of, run, turns

SETTINGS: Final[dict[str, Any]] = {
    "inline_cost_max_usd": Decimal(0),
    "linger_s": 5.0,
    "poll_min_s": 200.0,
    "close_timeout_s": 20.0,
}
FATAL: Final = {
    # By these everybody is told of an end: if they never work, nobody can be.
    "Awaiters.clear",
    "Awaiters.take",
    "Awaiters._cell",
    "Gate.shut_down",
    "Handover.dismiss",
    "KeptReads.serve",
    "KeptReads.dismiss",
    "Milestones.dismiss",
    "Runtime._dismiss",
    "Runtime._fail",
    "Runtime._wake",
    "Runtime.now",
    "Runtime.is_over",
    "_refuse",
}


LAST: Final = {"Runtime.close", "Runtime._release"}
"""With these the test itself ends."""


def modules() -> list[ModuleType]:
    """Return the modules of the runtime, and the engine that it runs."""
    found = [module.name for module in pkgutil.iter_modules(_runtime.__path__, f"{_runtime.__name__}.")]
    return [importlib.import_module(name) for name in (*found, "carpool._core.engine")]


def spots() -> Iterator[Spot]:
    """Iterate over all functions of these modules."""
    for found in modules():
        for name, thing in vars(found).items():
            if getattr(thing, "__module__", "") != found.__name__:
                continue
            if inspect.isfunction(thing):
                yield Spot(found, name)
            elif inspect.isclass(thing):
                for inner, method in vars(thing).items():
                    if inspect.isfunction(method) and not inner.startswith("__"):
                        yield Spot(thing, inner)


SPOTS: Final = {spot.title: spot for spot in spots() if spot.title not in LAST}


class Trap:
    """Makes a function raise, once or always, from a moment on; knows in whose tasks it did."""

    def __init__(self, spot: Spot, monkeypatch: pytest.MonkeyPatch, *, once: bool) -> None:
        self._once = once
        self.armed = False
        self.sprung: list[asyncio.Task[Any] | None] = []
        inner = getattr(spot.owner, spot.name)
        replacement = self._around(inner)
        for found in modules():
            if inspect.ismodule(spot.owner) and vars(found).get(spot.name) is inner:
                monkeypatch.setattr(found, spot.name, replacement)
        if inspect.isclass(spot.owner):
            monkeypatch.setattr(spot.owner, spot.name, replacement)

    def _around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(inner):

            async def iterates(*args: Any, **more: Any) -> Any:
                self._spring()
                async for item in inner(*args, **more):
                    yield item

            return iterates
        if inspect.iscoroutinefunction(inner):

            async def waits(*args: Any, **more: Any) -> Any:
                self._spring()
                return await inner(*args, **more)

            return waits

        def returns(*args: Any, **more: Any) -> Any:
            self._spring()
            return inner(*args, **more)

        return returns

    def _spring(self) -> None:
        if self.armed and not (self._once and self.sprung):
            try:
                self.sprung.append(asyncio.current_task())
            except RuntimeError:
                self.sprung.append(None)
            raise Bug


class Callers:
    """Calls of every kind."""

    def __init__(self, client: carpool.Client) -> None:
        self.client = client
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def start(self) -> None:
        """Make them all."""
        client = self.client
        self._add("bare", client.generate(MODEL, "bare"))
        self._add("hurried", client.generate(MODEL, "hurried", deadline=300))
        self._add("keyed", client.generate(MODEL, "keyed", key="keyed"))
        self._add("keyed too", client.generate(MODEL, "keyed", key="keyed"))
        self._add("ticket", self._ticket())
        self._add("stored", client.result("stored"))
        self._add("gone", client.generate(MODEL, "gone"))
        self._add("queued", self._queued())
        self._add("flush", client.flush())

    def _add(self, name: str, call: Any) -> None:
        self.tasks[name] = asyncio.create_task(call, name=name)

    def start_late(self) -> None:
        """Make some more, while others are under way."""
        self._add("late ticket", self._ticket("late ticket"))
        self._add("stored too", self.client.result("stored"))

    async def _ticket(self, name: str = "ticket") -> Any:
        return await (await self.client.submit(carpool.Request(model=MODEL, contents=name, key=name)))

    async def _queued(self) -> Any:
        await asyncio.sleep(1)
        return await self.client.generate(MODEL, "queued")


async def go_through(trap: Trap, when: str, service: Service, store: carpool.MemoryStore) -> None:
    """Let calls meet the bug, and see that every one of them ends."""
    client = client_of(service, store, waiting_requests_max=8, **SETTINGS)
    trap.armed = when == "opening"
    try:
        await client.__aenter__()
    except (Bug, carpool.CarpoolError):
        await client.__aexit__(None, None, None)
        return
    callers = Callers(client)
    trap.armed = trap.armed or when == "accepting"
    callers.start()
    await turns()
    if when == "gathering":
        trap.armed = True
        callers.start_late()
    await asyncio.sleep(60)
    if when == "running":
        trap.armed = True
        callers.start_late()
    callers.tasks["gone"].cancel()
    await asyncio.sleep(3_000)
    trap.armed = trap.armed or when == "leaving"
    if when != "leaving":
        await asyncio.wait(callers.tasks.values())
        assert_told(callers, trap)
        await assert_lives_or_says_so(client, trap)
    else:
        callers.tasks["late"] = asyncio.create_task(client.generate(MODEL, "late", key="late"))
        await turns(2)
    with suppress(Bug, carpool.CarpoolError):
        await client.__aexit__(None, None, None)
    await asyncio.wait(callers.tasks.values())
    assert_told(callers, trap)


def assert_told(callers: Callers, trap: Trap) -> None:
    for name, task in callers.tasks.items():
        if task.cancelled():
            assert name == "gone", name
            continue
        error = task.exception()
        own = task in trap.sprung and isinstance(error, Bug)
        assert error is None or isinstance(error, carpool.CarpoolError) or own, (name, error)


async def assert_lives_or_says_so(client: carpool.Client, trap: Trap) -> None:
    if trap._once or not trap.sprung:
        trap.armed = False
        try:
            assert (await client.generate(MODEL, "later")).text == answer("later")
        except carpool.CarpoolError:
            assert client.health().status == "failed"
        trap.armed = True
        return
    trap.armed = False
    health = client.health()
    if health.status != "failed":
        assert (await client.generate(MODEL, "later")).text == answer("later")
    trap.armed = True


@pytest.mark.parametrize("title", SPOTS)
def test_a_bug_in(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for once in (True,) if title in FATAL else (True, False):
        for when in ("opening", "accepting", "gathering", "running", "leaving"):
            with monkeypatch.context() as patch:
                trap = Trap(SPOTS[title], patch, once=once)
                try:
                    run(one_life(trap, when))
                except Exception as error:
                    error.add_note(f"the bug was there when {when}, {'once' if once else 'always'}")
                    raise


async def one_life(trap: Trap, when: str) -> None:
    service, store = Service(), carpool.MemoryStore()
    async with client_of(service, store, **SETTINGS) as client:
        await client.generate(MODEL, "stored", key="stored")
        await client.drain()
    store = store.reopened()
    async with asyncio.timeout(2 * DAY_S):
        await go_through(trap, when, service, store)
    trap.armed = False
    await turns()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    if trap.sprung:
        await assert_goes_on(service, store)


async def assert_goes_on(service: Service, store: carpool.MemoryStore) -> None:
    async with asyncio.timeout(2 * DAY_S), client_of(service, store.reopened(), **SETTINGS) as client:
        assert (await client.generate(MODEL, "keyed", key="keyed")).text == answer("keyed")
        request = carpool.Request(model=MODEL, contents="ticket", key="ticket")
        assert (await (await client.submit(request))).text == answer("ticket")
        assert (await client.result("stored")).json()["candidates"]
        await client.drain()
    billed = service.billed()
    assert {name: billed[name] for name in ("keyed", "ticket", "stored")} == {"keyed": 1, "ticket": 1, "stored": 1}
