"""What the measured programs share, so that they differ in nothing but what is measured.

Owns the options, the prompts, the callers, the clocks and the one JSON line that a measured program prints. A program
is one run in a fresh process: it connects to a stub server that is already there, makes its calls, prints its line.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import resource
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")
PROMPTS = 64
WORDS = "the stub answers every question with the same sentence whatever it was asked "


@dataclass(frozen=True)
class Options:
    """One run: how many calls of which kind, on which interpreter settings."""

    n: int
    size: int
    gc: str
    uvloop: bool
    embed: bool
    base_url: str


def parse(description: str, extend: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """Read the command line; `extend` may add options of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("n", type=int, help="calls")
    parser.add_argument("--size", type=int, default=300, help="bytes of a prompt")
    parser.add_argument(
        "--gc", choices=["on", "freeze"], default="on", help="on: Python's default; freeze: `set_up_gc`"
    )
    parser.add_argument("--uvloop", action="store_true", help="needs uvloop installed")
    parser.add_argument("--embed", choices=["no", "yes"], default="no", help="embed instead of generate")
    parser.add_argument("--base-url", required=True, help="of a running stub_server.py")
    if extend is not None:
        extend(parser)
    return parser.parse_args()


def options_of(args: argparse.Namespace) -> Options:
    return Options(args.n, args.size, args.gc, args.uvloop, args.embed == "yes", args.base_url)


def make_prompts(size: int) -> list[str]:
    """Return a pool of prompts of `size` bytes: a caller's own text is not the library's memory."""
    return [(f"{i:04d} " + WORDS * (size // len(WORDS) + 1))[:size] for i in range(PROMPTS)]


def cpu_s() -> float:
    """Return the CPU seconds of this process so far, all threads, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_mb() -> float:
    per_mb = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb


def held_rss_mb() -> float:
    """Return the resident size now, or where the system does not tell it the peak, which is more."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except FileNotFoundError:
        return peak_rss_mb()
    return pages * resource.getpagesize() / (1 << 20)


def ask_stub(base_url: str, path: str, method: str = "GET") -> dict[str, Any]:
    request = urllib.request.Request(base_url + path, method=method)  # noqa: S310 - the stub's own address
    with urllib.request.urlopen(request) as response:  # noqa: S310 - as above
        answer: dict[str, Any] = json.load(response)
    return answer


class Stopwatch:
    """Wall and CPU seconds of a run, in laps that follow each other from the first call to the last result."""

    def __init__(self) -> None:
        self._start = self._lap = (time.perf_counter(), cpu_s())
        self._laps: dict[str, tuple[float, float]] = {}

    def lap(self, name: str) -> None:
        """End a lap; the next begins."""
        now = (time.perf_counter(), cpu_s())
        self._laps[name] = (round(now[0] - self._lap[0], 4), round(now[1] - self._lap[1], 4))
        self._lap = now

    def read(self) -> dict[str, Any]:
        """Return the time from the start to the end of the last lap."""
        return {
            "wall_s": self._lap[0] - self._start[0],
            "cpu_s": self._lap[1] - self._start[1],
            "laps_wall_cpu_s": self._laps,
        }


async def await_all(
    n: int,
    call: Callable[[int], Awaitable[Answer]],
    read: Callable[[Answer], int],
    clock: Stopwatch,
    started: Callable[[], None],
) -> int:
    """Make `n` calls, each awaited by a task of its own, and return the sum of what `read` makes of their answers.

    `started` is called once every task has run up to its first wait. The lap "results" ends when the last task has.
    """
    received = 0

    async def caller(i: int) -> None:
        nonlocal received
        answer = await call(i)  # not inside the addition: that reads the sum before it waits
        received += read(answer)

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(caller(i)) for i in range(n)]
    await asyncio.sleep(0)
    started()
    for task in tasks:
        await task
    clock.lap("results")  # here, not in the caller: what follows is the end of a hundred thousand tasks
    return received


def set_up_gc(mode: str) -> None:
    """Leave the collector alone ("on"), or keep it from walking over what lives long anyway ("freeze")."""
    if mode == "freeze":
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 1_000)


def prepare(options: Options) -> None:
    """Let the stub forget what was, and set the collector up."""
    ask_stub(options.base_url, "/reset", "POST")
    set_up_gc(options.gc)


def in_loop(options: Options, run: Callable[[Options], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    """Run a coroutine in the loop that was asked for."""
    if options.uvloop:
        import uvloop  # noqa: PLC0415 - only for those who ask for it

        return uvloop.run(run(options))
    return asyncio.run(run(options))


def tell(line: dict[str, Any]) -> None:
    """Print the one JSON line of a measured program."""
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
    print(json.dumps(rounded), flush=True)


def measure(options: Options, subject: str, run: Callable[[Options], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """Run a measured coroutine in a loop of its own and print one JSON line.

    The coroutine returns what it measured: `wall_s` from the first call to the last result, `cpu_s` likewise, and
    whatever else it knows. Added here: `net_wall_s`, which is `wall_s` without the time that jobs spent in the stub's
    hands, the same per call, memory, and the circumstances.
    """
    base = peak_rss_mb()
    prepare(options)
    before = ask_stub(options.base_url, "/stats")
    measured = in_loop(options, run)
    peak = peak_rss_mb()
    after = ask_stub(options.base_url, "/stats")
    ask_stub(options.base_url, "/reset", "POST")
    net_wall_s = measured["wall_s"] - after["provider_s"]
    line = {
        "subject": subject,
        "n": options.n,
        "size": options.size,
        "gc": options.gc,
        "loop": "uvloop" if options.uvloop else "asyncio",
        "embed": options.embed,
        "python": platform.python_version(),
        **measured,
        "provider_s": after["provider_s"],
        "net_wall_s": net_wall_s,
        "net_us_per_call": net_wall_s / options.n * 1e6,
        "cpu_us_per_call": measured["cpu_s"] / options.n * 1e6,
        "base_rss_mb": base,
        "peak_rss_mb": peak,
        "memory_mb": peak - base,
        "jobs": after["jobs"],
        "stub_cpu_s": after["cpu_s"] - before["cpu_s"],
    }
    tell(line)
