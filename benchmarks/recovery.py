"""How long a client takes to open on N requests that an earlier process left behind when it was killed.

    python benchmarks/recovery.py 1000000 --state waiting|under-way --base-url http://127.0.0.1:8711

A child takes N calls with keys of their own and is killed with SIGKILL: `waiting` as soon as all are durable and none
was sent, `under-way` when all are in a job that has been created. Another child opens the same home: `recovery_s` is
the time until the client was entered, the check of a store that was not closed in order included. Files are in the
page cache, as they are after a kill. It must find all N; else this ends with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

STATES = ("waiting", "under-way")
READY = "ready"


async def fill(options: harness.Options, home: Path, state: str) -> None:
    """Take the calls, say that they are there, and wait for the end."""
    import carpool  # noqa: PLC0415 - the parent does without
    import carpool_client as side  # noqa: PLC0415

    prompts = harness.make_prompts(options.size)
    # Two models are two lanes, neither of which is ever full: nothing is sent.
    models = (side.MODEL, "gemini-2.5-pro") if state == "waiting" else (side.MODEL, side.MODEL)
    async with side.open_client(options, home, poll_s=side.NEVER_S) as client:

        def call(i: int) -> Any:
            return client.generate(models[i & 1], prompts[i % harness.PROMPTS], config=side.CONFIG, key=f"k{i}")

        called = asyncio.Event()
        everybody = harness.await_all(options.n, call, lambda _: 0, harness.Stopwatch(), called.set)
        task = asyncio.create_task(everybody)
        await called.wait()
        if state == "waiting":
            await client.submit(carpool.Request(model=side.MODEL, contents="the last one", key="last"))
        else:
            await side.all_in_jobs(client, options.n)
        print(READY, flush=True)
        await task


async def reopen(options: harness.Options, home: Path) -> dict[str, Any]:
    """Open what was left, and return what that took."""
    import carpool_client as side  # noqa: PLC0415 - the parent does without

    base_mb, cpu_s, began = harness.peak_rss_mb(), harness.cpu_s(), time.perf_counter()
    async with side.open_client(options, home, poll_s=side.NEVER_S) as client:
        took = {
            "recovery_s": time.perf_counter() - began,
            "recovery_cpu_s": harness.cpu_s() - cpu_s,
            "memory_mb": harness.peak_rss_mb() - base_mb,
        }
        stats = client.stats()
    return took | {"found": stats.waiting + stats.sent + stats.parked}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fill, kill, open again."""
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        command = [sys.executable, *sys.argv, "--home", folder]
        with subprocess.Popen([*command, "--role", "fill"], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = child.stdout.readline().strip()
            child.kill()
        if said != READY:
            raise SystemExit(f"the child that takes the calls said {said!r}")
        store_mb = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        opened = subprocess.run([*command, "--role", "open"], stdout=subprocess.PIPE, text=True, check=True)
    line: dict[str, Any] = json.loads(opened.stdout)
    expected = args.n + (args.state == "waiting")
    if line["found"] != expected:
        raise SystemExit(f"{line['found']} of {expected} requests were found again")
    return line | {"store_mb": store_mb}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", choices=STATES, default="waiting")
    parser.add_argument("--role", choices=["fill", "open"], help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)


def main() -> None:
    args = harness.parse("How long a client takes to open after a kill.", add_options)
    options = harness.options_of(args)
    if args.role == "fill":
        asyncio.run(fill(options, args.home, args.state))
    elif args.role == "open":
        harness.set_up_gc(options.gc)
        harness.tell(asyncio.run(reopen(options, args.home)))
    else:
        harness.prepare(options)
        harness.tell({"subject": "recovery", "state": args.state, "n": options.n, "size": options.size, **run(args)})


if __name__ == "__main__":
    main()
