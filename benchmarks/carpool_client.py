"""The library, doing what floor.py does: N awaited calls, durable on disk as they are accepted, carried by one job.

    python benchmarks/carpool_client.py 100000 --base-url http://127.0.0.1:8711

The settings leave no freedom that the floor has not: all calls go into one job, as a file, sealed when the last of them
has been accepted, and polls are as close together as the floor's. What is measured runs from the first call to the last
result; opening the client and leaving it are reported apart as `open_s` and `close_s`. The lap "called" ends when every
call has been made, "durable" when all of them are on disk: both together are what the floor's lap "accept" is.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import carpool
import harness

_ = carpool.Client  # it is loaded when it is named: not part of what calls take
POLL_S = 0.02
NEVER_S = 86_400.0
WEEK_S = 7 * 86_400.0
MODEL = "gemini-2.5-flash"
EMBED_MODEL = "gemini-embedding-001"
CONFIG = {"temperature": 0.2, "max_output_tokens": 256}
EMBED_CONFIG = {"output_dimensionality": 256}


def make_settings(n: int, *, poll_s: float = POLL_S, keep_results_s: float = WEEK_S) -> carpool.Settings:
    """Return settings for one job of `n` requests, asked about every `poll_s`."""
    return carpool.Settings(
        batch_requests_max=n,
        linger_s=NEVER_S,
        linger_max_s=NEVER_S,
        inline_bytes_max=0,
        enqueued_tokens_max=10**15,
        poll_min_s=poll_s,
        poll_max_s=poll_s,
        keep_results_s=keep_results_s,
    )


def open_client(options: harness.Options, home: Path, **settings_of_run: float) -> carpool.Client:
    """Return a client that is yet to be entered."""
    settings = make_settings(options.n, **settings_of_run)
    return carpool.Client(api_key="benchmark", base_url=options.base_url, home=home, settings=settings)


async def all_in_jobs(client: carpool.Client, n: int) -> None:
    """Return when `n` requests are in jobs that have been created."""
    await client.flush()
    while (stats := client.stats()).sent < n or stats.jobs_created < stats.jobs:  # noqa: ASYNC110 - as a user sees it
        await asyncio.sleep(POLL_S)


def make_call(
    client: carpool.Client, options: harness.Options, *, explicit_keys: bool
) -> Callable[[int], Awaitable[carpool.GenerateResponse | carpool.EmbedResponse]]:
    """Return what makes the i-th call."""
    prompts = harness.make_prompts(options.size)

    def generate(i: int) -> Awaitable[carpool.GenerateResponse]:
        return client.generate(
            MODEL, prompts[i % harness.PROMPTS], config=CONFIG, key=f"k{i}" if explicit_keys else None
        )

    def embed(i: int) -> Awaitable[carpool.EmbedResponse]:
        return client.embed(
            EMBED_MODEL, prompts[i % harness.PROMPTS], config=EMBED_CONFIG, key=f"k{i}" if explicit_keys else None
        )

    return embed if options.embed else generate


def read_raw(response: carpool.GenerateResponse | carpool.EmbedResponse) -> int:
    """Take the bytes and decode nothing."""
    return len(response.raw)


def read_typed(response: carpool.GenerateResponse | carpool.EmbedResponse) -> int:
    """Read what most callers read: the text or the vector, and the usage."""
    usage = response.usage
    size = len(response.text) if isinstance(response, carpool.GenerateResponse) else len(response.values)
    return size + usage.total_tokens


async def run(options: harness.Options, *, explicit_keys: bool, typed: bool) -> dict[str, Any]:
    """Make the calls and return the measured times."""
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as home:
        opening = time.perf_counter()
        async with open_client(options, Path(home)) as client:
            opened = time.perf_counter()
            call = make_call(client, options, explicit_keys=explicit_keys)
            clock = harness.Stopwatch()
            async with asyncio.TaskGroup() as group:

                async def durable() -> None:
                    await client.flush()  # which returns when all is on disk; the batch was full, and sealed, before
                    clock.lap("durable")

                def started() -> None:
                    clock.lap("called")
                    group.create_task(durable())

                received = await harness.await_all(options.n, call, read_typed if typed else read_raw, clock, started)
            closing = time.perf_counter()
        return clock.read() | {
            "received_mb": received / 1e6,
            "open_s": opened - opening,
            "close_s": time.perf_counter() - closing,
            "keys": "explicit" if explicit_keys else "automatic",
            "read": "typed" if typed else "raw",
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", choices=["automatic", "explicit"], default="automatic")
    parser.add_argument("--read", choices=["raw", "typed"], default="raw", help="what each caller reads of its answer")


def main() -> None:
    args = harness.parse("N awaited calls of carpool.", add_options)
    explicit_keys, typed = args.keys == "explicit", args.read == "typed"
    harness.measure(
        harness.options_of(args), "carpool", lambda options: run(options, explicit_keys=explicit_keys, typed=typed)
    )


if __name__ == "__main__":
    main()
