"""How long an accepted request takes to be durable on an idle loop, against one append and fsync on the same disk.

    python benchmarks/latency.py 300 --base-url http://127.0.0.1:8711

In turn, each after a pause in which nothing happens: `client.submit`, which returns when the request is on disk, and a
plain append of as many bytes to a file beside the store, with an fsync. `submit_p50_us` and `fsync_p50_us` are medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import carpool
import carpool_client
import harness

PAUSE_S = 0.003
WARM_UP = 20


def append(file: int, row: bytes) -> None:
    os.write(file, row)
    os.fsync(file)


async def run(options: harness.Options) -> dict[str, Any]:
    """Take both in turn and return their times."""
    prompts = harness.make_prompts(options.size)
    row = b"x" * (options.size + 100)
    submits, appends = [], []
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        file = os.open(Path(folder) / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        async with carpool_client.open_client(options, Path(folder) / "home") as client:
            for i in range(WARM_UP + options.n):
                request = carpool.Request(
                    model=carpool_client.MODEL, contents=prompts[i % harness.PROMPTS], config=carpool_client.CONFIG
                )
                await asyncio.sleep(PAUSE_S)
                began = time.perf_counter()
                await client.submit(request)
                submits.append(time.perf_counter() - began)
                await asyncio.sleep(PAUSE_S)
                began = time.perf_counter()
                append(file, row)
                appends.append(time.perf_counter() - began)
        os.close(file)
    return {
        "submit_p50_us": statistics.median(submits[WARM_UP:]) * 1e6,
        "submit_p99_us": statistics.quantiles(submits[WARM_UP:], n=100)[98] * 1e6,
        "fsync_p50_us": statistics.median(appends[WARM_UP:]) * 1e6,
        "fsync_p99_us": statistics.quantiles(appends[WARM_UP:], n=100)[98] * 1e6,
    }


def main() -> None:
    options = harness.options_of(harness.parse("Accept to durable on an idle loop, against one fsync."))
    harness.prepare(options)
    harness.tell({"subject": "latency", "n": options.n, "size": options.size, **harness.in_loop(options, run)})


if __name__ == "__main__":
    main()
