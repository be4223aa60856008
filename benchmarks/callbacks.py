"""How long single callbacks of the event loop take while N calls are made, carried and answered by carpool.

    python benchmarks/callbacks.py 1000000 --base-url http://127.0.0.1:8711 [--keys explicit] [--retention]

Whatever runs on the loop is timed, each turn of a task being a callback: carpool's own tasks, aiohttp's reading of
sockets, and the callers, which do nothing but call. Only the program's main task is left out. What counts of a callback
is its CPU time without garbage collections, which are reported apart; its wall time is told too, which holds whatever
else the machine did meanwhile, and waits for the interpreter's lock. The phases are "accept" (until all is durable),
"job" (until the first answer reaches a caller) and "results" (until the last). With `--retention` the results, which
explicit keys have stored, are then dropped by a client for which they are too old: phase "retention", from entering it.

Timing slows each callback by a microsecond or so; the product knows nothing of it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import carpool
import carpool_client
import harness
from carpool._stores.disk import DiskStore

WORST = 5
LONG_S = 0.02
QUIET_S = 1.0
DROPPED_WITHIN_S = 60.0
LOOK_S = 0.01


class Pauses:
    """Garbage collections: how long they held the loop's thread up."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.longest_s = 0.0
        self.count = 0
        self._loop_thread = threading.get_ident()
        self._began = (0.0, 0.0)
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter(), time.thread_time()
            return
        took_s = time.perf_counter() - self._began[0]
        self.wall_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        self.count += 1
        if threading.get_ident() == self._loop_thread:
            self.cpu_s += time.thread_time() - self._began[1]


class Phase:
    """The longest callbacks of a phase, by CPU and by wall time."""

    def __init__(self) -> None:
        self.count = self.long = 0
        self.by_cpu: list[tuple[float, str]] = [(0.0, "")]
        self.by_wall: list[tuple[float, str]] = [(0.0, "")]

    def read(self) -> dict[str, Any]:
        return {
            "callbacks": self.count,
            "long": self.long,
            "cpu_ms": max(self.by_cpu)[0] * 1e3,
            "wall_ms": max(self.by_wall)[0] * 1e3,
            "worst_by_cpu": [(round(s * 1e3, 3), name) for s, name in sorted(self.by_cpu, reverse=True)],
            "worst_by_wall": [(round(s * 1e3, 3), name) for s, name in sorted(self.by_wall, reverse=True)],
        }


def keep_worst(worst: list[tuple[float, str]], took_s: float, handle: asyncio.Handle) -> None:
    """Keep a callback if it is one of the worst; what is worst is asked first, since naming takes time."""
    if len(worst) < WORST:
        heapq.heappush(worst, (took_s, name_of(handle)))
    else:
        heapq.heapreplace(worst, (took_s, name_of(handle)))


def task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    owner = getattr(handle._callback, "__self__", None)  # noqa: SLF001 - there is no other way to see it
    return owner if isinstance(owner, asyncio.Task) else None


def name_of(handle: asyncio.Handle) -> str:
    """Return whose turn a callback is."""
    if (task := task_of(handle)) is not None:
        name = task.get_name()
        return str(getattr(task.get_coro(), "__qualname__", name)) if name.startswith("Task-") else name
    callback = handle._callback  # noqa: SLF001 - as above
    callback = getattr(callback, "func", callback)
    return str(getattr(callback, "__qualname__", type(callback).__name__))


class Watch:
    """Times every callback of the loop of this process, except the main task's."""

    def __init__(self) -> None:
        self.pauses = Pauses()
        self.phases: dict[str, Phase] = {}
        self._phase = Phase()
        main = asyncio.current_task()
        plain = asyncio.Handle._run  # noqa: SLF001 - as above
        pauses, cpu, wall = self.pauses, time.thread_time, time.perf_counter

        def timed(handle: asyncio.Handle) -> None:
            paused_wall, paused_cpu, began_cpu, began = pauses.wall_s, pauses.cpu_s, cpu(), wall()
            plain(handle)
            took = wall() - began - (pauses.wall_s - paused_wall)
            took_cpu = cpu() - began_cpu - (pauses.cpu_s - paused_cpu)
            phase = self._phase
            phase.count += 1
            longest = took_cpu > phase.by_cpu[0][0] or took > phase.by_wall[0][0]
            if (longest or took_cpu > LONG_S) and task_of(handle) is not main:
                phase.long += took_cpu > LONG_S
                if took_cpu > phase.by_cpu[0][0]:
                    keep_worst(phase.by_cpu, took_cpu, handle)
                if took > phase.by_wall[0][0]:
                    keep_worst(phase.by_wall, took, handle)

        asyncio.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001 - as above

    def begin(self, phase: str) -> None:
        """Count what comes from now on under another name."""
        self._phase = self.phases[phase] = Phase()

    def read(self) -> dict[str, Any]:
        return {
            "phases": {name: phase.read() for name, phase in self.phases.items()},
            "gc_longest_ms": self.pauses.longest_s * 1e3,
            "gc_s": self.pauses.wall_s,
            "gc_pauses": self.pauses.count,
        }


async def carry(watch: Watch, options: harness.Options, home: Path, *, explicit_keys: bool) -> dict[str, Any]:
    """Make the calls and wait for their answers, watched."""
    async with carpool_client.open_client(options, home) as client:
        call = carpool_client.make_call(client, options, explicit_keys=explicit_keys)
        clock = harness.Stopwatch()
        answered = False

        def read(response: Any) -> int:
            nonlocal answered
            if not answered:
                answered = True
                watch.begin("results")
            return len(response.raw)

        async def durable() -> None:
            await client.flush()
            watch.begin("job")

        async with asyncio.TaskGroup() as group:
            watch.begin("accept")
            await harness.await_all(options.n, call, read, clock, lambda: group.create_task(durable()) and None)
        watch.begin("leaving")
    return clock.read()


async def drop(watch: Watch, options: harness.Options, home: Path) -> float:
    """Open a client for which all that is stored is too old; return what its store held less, in MB, once quiet."""
    settings = carpool_client.make_settings(options.n, keep_results_s=0.0)
    store = DiskStore(home, settings)
    watch.begin("opening")
    await store.open()
    full = store.room_bytes
    await store.close()
    store = DiskStore(home, settings)
    async with carpool.Client(api_key="benchmark", base_url=options.base_url, store=store, settings=settings):
        watch.begin("retention")
        quiet_since = time.monotonic()
        room = store.room_bytes
        while time.monotonic() - quiet_since < (QUIET_S if room > full else DROPPED_WITHIN_S):
            await asyncio.sleep(LOOK_S)
            if store.room_bytes != room:
                quiet_since, room = time.monotonic(), store.room_bytes
        watch.begin("leaving again")
    return (room - full) / 1e6


async def run(options: harness.Options, args: argparse.Namespace) -> dict[str, Any]:
    """Watch a run, and return what was seen."""
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        measured = await carry(watch, options, Path(folder), explicit_keys=args.keys == "explicit")
        if args.retention:
            measured["dropped_mb"] = await drop(watch, options, Path(folder))
    return measured | watch.read() | {"keys": args.keys}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", choices=["automatic", "explicit"], default="automatic")
    parser.add_argument("--retention", action="store_true", help="watch how stored results are dropped too")


def main() -> None:
    args = harness.parse("How long single callbacks of the event loop take.", add_options)
    harness.measure(harness.options_of(args), "callbacks", lambda options: run(options, args))


if __name__ == "__main__":
    main()
