"""Live calls through carpool against the same calls made by hand with aiohttp, as many of them in the air.

    python benchmarks/live.py [--n 5000] [--calls 64] [--pairs 5] [--store disk|memory] [--json FILE]
    python benchmarks/live.py --smoke

Both sides make the same calls of one stub server, each awaited by a task of its own, `--calls` of them in the air at
once: by hand a semaphore sees to that, here `Settings.live_calls_max`. By hand a call is encoded, sent, read and
decoded; nothing is durable, nothing is limited or counted. Reported is what carpool reaches of the calls a second by
hand, and its CPU time as a multiple of theirs: medians over pairs of neighbouring runs, each in a process of its own.
The first tenth of the calls is not measured: connections come about then, and carpool begins with few calls in the air.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

import carpool
import harness
from stage import circumstances, stub_server

MODEL = "gemini-2.5-flash"
CONFIG = {"temperature": 0.2, "max_output_tokens": 256}
GENERATION = {"temperature": 0.2, "maxOutputTokens": 256}
SIZE_BYTES = 300
SMOKE_CALLS = 300
WARM_SHARE = 10


@contextlib.asynccontextmanager
async def by_hand(base_url: str, calls: int, _store: str) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
    """Yield what makes a call with aiohttp alone."""
    prompts = harness.make_prompts(SIZE_BYTES)
    turn = asyncio.Semaphore(calls)
    url = f"{base_url}/v1beta/models/{MODEL}:generateContent"
    headers = {"x-goog-api-key": "benchmark", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=calls), headers=headers) as session:

        async def call(i: int) -> int:
            contents = [{"parts": [{"text": prompts[i % harness.PROMPTS]}], "role": "user"}]
            body = json.dumps({"contents": contents, "generationConfig": GENERATION}).encode()
            async with turn, session.post(url, data=body) as response:
                answer = json.loads(await response.read())
            return len(answer["candidates"][0]["content"]["parts"][0]["text"])

        yield call


@contextlib.asynccontextmanager
async def by_carpool(base_url: str, calls: int, store: str) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
    """Yield what makes a call with carpool."""
    prompts = harness.make_prompts(SIZE_BYTES)
    settings = carpool.Settings(live_calls_max=calls)
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as home:
        where: Any = {"home": Path(home)} if store == "disk" else {"store": carpool.MemoryStore()}
        async with carpool.Client(api_key="benchmark", base_url=base_url, settings=settings, **where) as client:

            async def call(i: int) -> int:
                prompt = prompts[i % harness.PROMPTS]
                answer = await client.generate(MODEL, prompt, config=CONFIG, ladder=("standard",))
                return len(answer.text)

            yield call


SUBJECTS = {"hand": by_hand, "carpool": by_carpool}


async def run(subject: str, base_url: str, n: int, calls: int, store: str) -> dict[str, float]:
    """Make the calls, and return what they took."""
    async with SUBJECTS[subject](base_url, calls, store) as call:
        await harness.await_all(n // WARM_SHARE, call, int, harness.Stopwatch(), lambda: None)
        clock = harness.Stopwatch()
        received = await harness.await_all(n, call, int, clock, lambda: clock.lap("called"))
    took = clock.read()
    assert received == n * len("All work and no play makes the stub a dull server. " * 4)
    return {"calls_per_s": n / took["wall_s"], "cpu_us_per_call": took["cpu_s"] / n * 1e6}


def run_once(subject: str, base_url: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--n", str(args.n), "--calls", str(args.calls), "--store", args.store]
    done = subprocess.run(
        [*command, "--subject", subject, "--base-url", base_url], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{subject} ended with {done.returncode}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def summary(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return, for each metric, the medians of both sides, and median and extremes of carpool's share or multiple."""
    found: dict[str, dict[str, float]] = {}
    for metric in ("calls_per_s", "cpu_us_per_call"):
        ratios = [own[metric] / hand[metric] for hand, own in pairs]
        found[metric] = {
            "hand": statistics.median(hand[metric] for hand, _ in pairs),
            "carpool": statistics.median(own[metric] for _, own in pairs),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5_000, help="calls")
    parser.add_argument("--calls", type=int, default=64, help="calls in the air")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs")
    parser.add_argument("--store", choices=["disk", "memory"], default="disk")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--smoke", action="store_true", help="run small, to see that it runs")
    parser.add_argument("--subject", choices=sorted(SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subject:
        print(json.dumps(asyncio.run(run(args.subject, args.base_url, args.n, args.calls, args.store))))
        return
    if args.smoke:
        args.n, args.pairs = SMOKE_CALLS, 1
    with stub_server() as base_url:
        pairs = [(run_once("hand", base_url, args), run_once("carpool", base_url, args)) for _ in range(args.pairs)]
    found = summary(pairs)
    print(f"{args.n:,} calls, {args.calls} in the air, store: {args.store}, pairs: {args.pairs}")
    for metric, label in (("calls_per_s", "calls a second"), ("cpu_us_per_call", "CPU time, us a call")):
        one = found[metric]
        print(
            f"{label:>20}: {one['hand']:8.0f} by hand, {one['carpool']:8.0f} carpool, "
            f"ratio {one['ratio']:.2f} ({one['ratio_min']:.2f} to {one['ratio_max']:.2f})"
        )
    if args.json:
        args.json.write_text(json.dumps({"circumstances": circumstances(), "summary": found, "runs": pairs}, indent=1))


if __name__ == "__main__":
    main()
