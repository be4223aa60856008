"""Google's own SDK in batches, by way of carpool in the same process, against its own live calls.

    python benchmarks/drop_in.py [--calls 1500] [--pairs 5] [--json FILE]

Both sides make the same calls, all at once, with google-genai against one emulator in a process of its own, which
answers at once: live with the SDK as it is, and with `carpool.genai_client(client)`, where they become one batch. Each
run has a process of its own; reported are medians over pairs of neighbouring runs: the wall time as a multiple of the
live calls', and what memory grows by a waiting caller. The SDK's own work (types, validation) is most of either side.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import carpool
from carpool.emulator import expected_text

MODEL = "gemini-3.5-flash"
SIDES = ("live", "carpool")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_BYTES


@contextlib.asynccontextmanager
async def client_of(side: str, base_url: str) -> AsyncGenerator[tuple[Any, Any]]:
    """Yield the SDK's client, and carpool's if there is one."""
    if side == "live":
        from google import genai

        yield genai.Client(api_key="benchmark", http_options={"base_url": base_url}), None
        return
    settings = carpool.Settings(linger_s=0.25, poll_min_s=0.05, poll_max_s=0.1)
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as home:
        async with carpool.Client(api_key="benchmark", base_url=base_url, home=home, settings=settings) as client:
            yield carpool.genai_client(client), client


async def run(side: str, calls: int, base_url: str) -> dict[str, Any]:
    """Make all calls at once, and tell what they took."""
    async with client_of(side, base_url) as (sdk, client):

        async def ask(prompt: str) -> bool:
            answer = await sdk.aio.models.generate_content(model=MODEL, contents=prompt)
            return bool(answer.text == expected_text(prompt))

        await ask("the first call loads what is loaded late")
        jobs = client.stats().jobs_created if client else 0
        gc.collect()
        before, most = memory_bytes(), 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, memory_bytes())
                await asyncio.sleep(0.02)

        watching = asyncio.ensure_future(watch())
        began, busy = time.perf_counter(), time.process_time()
        right = await asyncio.gather(*(ask(f"question {number}") for number in range(calls)))
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - busy
        watching.cancel()
        await sdk.aio.aclose()
        return {
            "side": side,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "right": sum(right),
            "batches": client.stats().jobs_created - jobs if client else 0,
            "kb_per_waiter": (most - before) / calls / 1_000,
        }


@contextlib.contextmanager
def emulator() -> Any:
    """Run the emulator in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "carpool", "emulate", "--port", "0", "--latency", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["base_url"]
        finally:
            process.terminate()


def run_apart(side: str, calls: int, base_url: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--calls", str(calls), "--base-url", base_url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout)
    assert line["right"] == calls, f"{calls - line['right']} answers are wrong"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1_500)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--side", choices=SIDES, help="one run in this process")
    parser.add_argument("--base-url", default="")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(asyncio.run(run(args.side, args.calls, args.base_url))))
        return
    with emulator() as base_url:
        runs = [run_apart(side, args.calls, base_url) for _ in range(args.pairs) for side in SIDES]
    ratios = [ours["wall_s"] / live["wall_s"] for live, ours in zip(runs[::2], runs[1::2], strict=True)]
    waiters = [line["kb_per_waiter"] for line in runs if line["side"] == "carpool"]
    print(f"{args.calls} calls at once, {args.pairs} pairs; batches: {[line['batches'] for line in runs[1::2]]}")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"wall time as a multiple of live calls: {statistics.median(ratios):.2f} ({spread})")
    print(f"memory per waiting caller: {statistics.median(waiters):.1f} kB")
    if args.json is not None:
        args.json.write_text(json.dumps(runs, indent=1), "utf-8")


if __name__ == "__main__":
    main()
