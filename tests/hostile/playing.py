"""Attacks, played against a client in a process of its own, and what must hold after each of them.

Owns the process that holds the server, the child's orders, and the judgement:

- every call ends with its right answer or a typed error, and not by a net of the test's;
- peak memory stays below ``PEAK_FACTOR`` times the cap that stands against the attack (``Settings.body_bytes_max`` or
  ``line_bytes_max``, which are the same here) plus ``PEAK_BASE_KB``;
- nobody but the configured origin hears of anything, and nobody at all of the key;
- the same client then makes another call and gets the right answer, and leaves within its time;
- a later client still knows every key, with an answer or a verdict; but for those of live calls whose deadline passed
  between two tries, of which nothing is under way;
- the log tells of no bug.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

import carpool.errors

from .attacks import Attack
from .child import Order, Report
from .server import Listener, World

ROOT: Final = Path(__file__).parents[2]
CERTIFICATE: Final = Path(__file__).parent / "localhost.pem"
"""A certificate for localhost that signs itself, and its key, which protects nothing."""
CAP_BYTES: Final = 4_194_304
PEAK_FACTOR: Final = 6
PEAK_BASE_KB: Final = 32_768
PEAK_KB_MAX: Final = PEAK_FACTOR * CAP_BYTES // 1024 + PEAK_BASE_KB
CLOSE_S: Final = 30.0
CANARY: Final = "hostile-canary"
TYPED: Final = frozenset(
    name
    for name, kind in vars(carpool.errors).items()
    if isinstance(kind, type) and issubclass(kind, carpool.errors.CarpoolError)
)


@dataclass(frozen=True)
class Result:
    """What became of one attack."""

    attack: Attack
    outcomes: list[str]
    said: str
    seconds: float
    peak_kb: int
    hits: int
    faults: list[str]


class Child:
    """The client's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def order(self, order: Order) -> Report:
        """Give an order, and return what is said once the attack was lived through."""
        return await self._ask(msgspec.json.encode(order))

    async def go_on(self) -> Report:
        """Say that the attack is over, and return what is said then."""
        return await self._ask(b"{}")

    async def _ask(self, line: bytes) -> Report:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()
        said = await self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the client's process ended with {await self._process.wait()}")
        return msgspec.json.decode(said, type=Report)


class Stage:
    """A server, another origin that nobody should call, and a client's process."""

    def __init__(self, world: World, elsewhere: World, child: Child) -> None:
        self._world = world
        self._elsewhere = elsewhere
        self._child = child
        self._number = 0

    async def warm_up(self) -> None:
        """Let the client make honest calls of every kind, so that what is loaded once is not counted."""
        for scenario in ("generate", "generate", "live", "jobs.list", "files.upload", "files.list", "caches.create"):
            await self._play(Attack("none", "", _nothing, scenario=scenario, rows=20))

    async def play(self, attack: Attack) -> Result:
        """Play one attack, and judge it."""
        self._elsewhere.asked.clear()
        lived, over, hits = await self._play(attack)
        return Result(
            attack,
            sorted(set(lived.outcomes)),
            lived.said,
            lived.seconds,
            over.peak_kb,
            hits,
            self._faults(attack, lived, over, hits),
        )

    async def _play(self, attack: Attack) -> tuple[Report, Report, int]:
        world = self._world
        self._number += 1
        world.jobs.clear()
        world.files.clear()
        world.inline_output = attack.inline
        world.arm(attack.call, attack.play, attack.hits, **attack.breaks)
        order = Order(
            base_url=world.url,
            scenario=attack.scenario,
            text=f"t{self._number}",
            rows=attack.rows,
            deadline_s=attack.deadline_s,
            settings={"body_bytes_max": CAP_BYTES, "line_bytes_max": CAP_BYTES} | attack.settings,
        )
        lived = await self._child.order(order)
        for _ in range(500):  # what goes on in the background may come later
            if world.hits or not attack.call:
                break
            await asyncio.sleep(0.01)
        hits = world.hits
        world.arm("", None, 0)
        return lived, await self._child.go_on(), hits

    def _faults(self, attack: Attack, lived: Report, over: Report, hits: int) -> list[str]:
        good = TYPED | ({"answer", "another answer"} if attack.speaks else {"answer"})
        faults = [f"a call ended as {outcome}" for outcome in sorted(set(lived.outcomes) - good)]
        faults += [f"afterwards: {outcome}" for outcome in sorted({over.outcomes[0]} - {"answer"})]
        unfinished = attack.scenario == "live" and "DeadlineExceeded" in lived.outcomes
        # By a ``RequestError`` a later client says that it does not know a key.
        known = good | {"RequestError"} if unfinished else good - {"RequestError"}
        faults += [f"looked up later: {outcome}" for outcome in sorted(set(over.outcomes[1:]) - known)]
        faults += [f"a bug: {bug[-1_500:]}" for bug in over.bugs]
        if not hits:
            faults.append("the attacked call was never made")
        if over.seconds > CLOSE_S:
            faults.append(f"leaving took {over.seconds:.0f} s")
        if over.peak_kb > PEAK_KB_MAX:
            faults.append(f"{over.peak_kb} KiB were used above the base; {PEAK_KB_MAX} are allowed")
        if self._elsewhere.asked:
            faults.append(f"another origin was called: {[asked.path[:80] for asked in self._elsewhere.asked]}")
        if any(CANARY in asked.path + asked.query for asked in self._world.asked):
            faults.append("the key stands in a URL")
        if any("canary" in asked.headers.get("cookie", "") for asked in self._world.asked):
            faults.append("a cookie came back")
        if CANARY in lived.said:
            faults.append("the key stands in an error")
        return faults


async def _nothing(*_: Any) -> None: ...


@asynccontextmanager
async def stage(*, secure: bool = False) -> AsyncIterator[Stage]:
    """Set a stage up; ``secure``: the client's origin is https, the other one is not."""
    world, elsewhere = World(), World()
    async with Listener(world, _tls() if secure else None) as server, Listener(elsewhere) as other:
        world.url, world.elsewhere = server.url, other.url
        # What is freed goes back at once, so that one attack's memory is not taken for the next one's base.
        env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        env["SSL_CERT_FILE"] = str(CERTIFICATE)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.hostile.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=env,
            limit=1 << 24,
        )
        try:
            played = Stage(world, elsewhere, Child(process))
            await played.warm_up()
            yield played
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def play_all(attacks: Sequence[Attack], *, secure: bool = False) -> AsyncIterator[Result]:
    """Play attacks one after the other."""
    async with stage(secure=secure) as played:
        for attack in attacks:
            yield await played.play(attack)
