"""Memory of N calls that wait for a job under way: by hand (the floor) or with carpool.

    python benchmarks/memory.py 1000000 --subject carpool --base-url http://127.0.0.1:8711

Every call has been made and awaits its answer in a task of its own, the requests are uploaded, and with carpool they
are durable and their job has been created; nobody asks about it. `held_mb` is the resident size then, `memory_mb` the
most on the way there, both over what the process had before the first call. The process ends without taking its calls
down.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import harness

LOOK_S = 0.05


class Side(NamedTuple):
    """What makes a call, and what returns when all that were made are uploaded."""

    call: Callable[[int], Awaitable[Any]]
    sent: Callable[[], Awaitable[None]]


@asynccontextmanager
async def by_hand(options: harness.Options, folder: Path) -> AsyncIterator[Side]:
    """Make calls as the floor does."""
    import floor  # noqa: PLC0415 - each side does without the other's libraries

    path = folder / "rows.jsonl"
    waiting = floor.Waiting(options, path)

    async def sent() -> None:
        waiting.seal()
        async with floor.session(options) as http:
            await floor.upload(http, path)

    yield Side(waiting.call, sent)


@asynccontextmanager
async def by_carpool(options: harness.Options, folder: Path) -> AsyncIterator[Side]:
    """Make calls with carpool."""
    import carpool_client  # noqa: PLC0415 - as above

    async with carpool_client.open_client(options, folder, poll_s=carpool_client.NEVER_S) as client:

        async def sent() -> None:
            await carpool_client.all_in_jobs(client, options.n)

        yield Side(carpool_client.make_call(client, options, explicit_keys=False), sent)


SIDES = {"floor": by_hand, "carpool": by_carpool}
MODULES = {"floor": "floor", "carpool": "carpool_client"}


async def run(options: harness.Options, subject: str) -> None:
    """Make the calls, tell what they take, and end the process."""
    base_mb = harness.peak_rss_mb()
    folder = tempfile.TemporaryDirectory(prefix="carpool-bench-")
    async with SIDES[subject](options, Path(folder.name)) as side:
        called = asyncio.Event()
        clock = harness.Stopwatch()
        everybody = asyncio.create_task(harness.await_all(options.n, side.call, lambda _: 0, clock, called.set))
        await called.wait()
        await side.sent()
        harness.tell(
            {
                "subject": subject,
                "n": options.n,
                "size": options.size,
                "gc": options.gc,
                "base_rss_mb": base_mb,
                "held_mb": harness.held_rss_mb() - base_mb,
                "memory_mb": harness.peak_rss_mb() - base_mb,
            }
        )
        folder.cleanup()
        os._exit(int(everybody.done()))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subject", choices=sorted(SIDES), required=True)


def main() -> None:
    args = harness.parse("Memory of N calls that wait for a job under way.", add_options)
    options = harness.options_of(args)
    importlib.import_module(MODULES[args.subject])  # not part of what calls take
    harness.prepare(options)
    asyncio.run(run(options, args.subject))


if __name__ == "__main__":
    main()
