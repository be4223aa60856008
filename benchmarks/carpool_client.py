"""The library, doing what floor.py does: N awaited calls, durable on disk as they are accepted, carried by one job.

    python benchmarks/carpool_client.py 100000 --base-url http://127.0.0.1:8711

The settings leave no freedom that the floor has not: all calls go into one job, as a file, sealed when the last of them
has been accepted, and polls are as close together as the floor's. What is measured runs from the first call to the last
result; opening the client and leaving it are reported apart as `open_s` and `close_s`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import carpool
import harness

POLL_S = 0.02
NEVER_S = 86_400.0
MODEL = "gemini-2.5-flash"
EMBED_MODEL = "gemini-embedding-001"
CONFIG = {"temperature": 0.2, "max_output_tokens": 256}
EMBED_CONFIG = {"output_dimensionality": 256}


def make_settings(n: int) -> carpool.Settings:
    return carpool.Settings(
        batch_requests_max=n,
        linger_s=NEVER_S,
        linger_max_s=NEVER_S,
        inline_bytes_max=0,
        enqueued_tokens_max=10**15,
        poll_min_s=POLL_S,
        poll_max_s=POLL_S,
    )


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
        client = carpool.Client(
            api_key="benchmark", base_url=options.base_url, home=Path(home), settings=make_settings(options.n)
        )
        async with client:
            opened = time.perf_counter()
            call = make_call(client, options, explicit_keys=explicit_keys)
            clock = harness.Stopwatch()
            received = await harness.await_all(
                options.n, call, read_typed if typed else read_raw, clock, lambda: clock.lap("called")
            )
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
    _ = carpool.Client  # its import is not part of what the calls take
    args = harness.parse("N awaited calls of carpool.", add_options)
    explicit_keys, typed = args.keys == "explicit", args.read == "typed"
    harness.measure(
        harness.options_of(args), "carpool", lambda options: run(options, explicit_keys=explicit_keys, typed=typed)
    )


if __name__ == "__main__":
    main()
