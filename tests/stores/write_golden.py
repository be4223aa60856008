"""Write the golden store of the record format that this version writes: ``python -m tests.stores.write_golden``.

Run it once when a format is released, and never again for that format: what lies there must be opened by all later
versions. ``format-<n>/records`` holds a record of each kind, ``format-<n>/client`` what a client leaves.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final
from unittest import mock

import msgspec

from carpool import Client, Request, RequestRejected, Settings
from carpool._core.messages import PutResults, PutSegment, PutTaken, Write
from carpool._core.model import FORMAT, Taken
from carpool._core.routing import LADDERS
from carpool._gemini.developer import DeveloperProvider
from carpool.emulator import Emulator, Fault, Plan

from ..contract.records import put_day, put_habit, put_results, put_seen, put_segment  # noqa: TID252 - test folders are no packages
from .helpers import filled, opened

GOLDEN: Final = Path(__file__).with_name("golden")
MODEL: Final = "gemini-3.5-flash"
TUNED: Final = "tunedModels/mine"
ORIGIN: Final = "https://golden.example|0123456789abcdef"
"""Takes the place of the provider's own, which has the emulator's port in it."""
LEFT_OUT: Final = frozenset({"ballast", "lock"})
FOREVER: Final = float("inf")


def client_of(base_url: str, home: Path, linger_s: float = 0.01) -> Client:
    """Return a client of the golden origin; within ``as_golden_origin``."""
    settings = Settings(
        linger_s=linger_s,
        linger_max_s=linger_s,
        poll_min_s=0.01,
        poll_max_s=0.02,
        keep_results_s=FOREVER,
        reuse_window_s=FOREVER,
    )
    return Client(api_key="AIza-golden-0123456789", base_url=base_url, home=home, settings=settings)


def as_golden_origin() -> mock._patch[str]:
    """Let every provider be of the golden origin meanwhile."""
    return mock.patch.object(DeveloperProvider, "origin", ORIGIN)


async def left_by_a_client(home: Path) -> None:
    """Leave answers, a verdict, a job that runs, and requests that were not sent."""
    with as_golden_origin():
        async with Emulator() as emulator:
            async with client_of(emulator.base_url, home) as client:
                await client.generate(MODEL, "a", key="answered")
                await client.embed("gemini-embedding-001", "v", key="vector")
                with suppress(RequestRejected):
                    await client.generate(MODEL, "x [[error:400:no]]", key="rejected")
                await client.generate(MODEL, "l", key="live", ladder=("flex",))
                emulator.plan = Plan(latency_s=86_400.0)
                await client.submit(Request(model=MODEL, contents="s", key="sent"))
                await client.flush()
            with suppress(ArithmeticError):
                async with client_of(emulator.base_url, home, linger_s=1_000.0) as client:
                    await client.submit(Request(model=MODEL, contents="t", key="ticket"))
                    emulator.plan = Plan(faults={"generate.503": Fault()})
                    await client.submit(Request(model=MODEL, contents="w", key="waits", ladder=("standard",)))
                    raise ArithmeticError  # so that it leaves without sending


def since_format_2() -> list[Write]:
    """Return what only stores of format 2 and later hold: routes, and what was learned and spent."""
    segment, results = put_segment(3), put_results(3)
    ladders, limits = bytes((0, 1, len(LADDERS) - 1)), array("Q", [0, 3, 2**40]).tobytes()
    return [
        PutSegment(msgspec.structs.replace(segment.head, ladders=ladders, limits=limits), segment.lines),
        PutResults(msgspec.structs.replace(results.head, job="", route="flex", text_only=True), results.bodies),
        put_day(20_000),
        put_habit(TUNED),
        put_seen(TUNED),
    ]


async def left_records(home: Path) -> None:
    """Leave a record of each kind."""
    await filled(home)
    store = await opened(home)
    await store.commit([PutTaken(Taken(no=2, rows=b"\x01\x00\x00"))])
    await store.commit(since_format_2())
    await store.close()


async def write(target: Path) -> None:
    """Write both stores into a new folder."""
    with tempfile.TemporaryDirectory() as work:
        for name, fill in (("records", left_records), ("client", left_by_a_client)):
            await fill(Path(work) / name)
            shutil.copytree(
                Path(work) / name, target / name, ignore=lambda _, names: [one for one in names if one in LEFT_OUT]
            )


if __name__ == "__main__":
    folder = GOLDEN / f"format-{FORMAT}"
    if folder.exists():
        sys.exit(f"{folder} is there already: a released format is never written again")
    asyncio.run(write(folder))
