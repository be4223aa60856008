"""Processes killed at every point, and anywhere: nothing accepted is lost, and nothing is paid for twice.

A selection of what ``python -m tests.kill`` does at length; and clients made worse on purpose, which must be noticed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

import msgspec
import pytest

from . import nursery as nurseries
from .nursery import Nursery
from .points import POINTS, Point
from .scenario import Told, story_anywhere, story_at, tell

Lanes = asyncio.Queue[Nursery]
LANES: Final = 2
PARTS: Final = 4
TRIES: Final = 8
"""How often a story is made up anew: until its process is killed where it was to be, or a worse client is noticed."""


class Worse(NamedTuple):
    """Where a worse client shows it, and what is said of it."""

    point: str
    words: str
    disk_pause_s: float = 0.0


WORSE: Final = {
    "creates_again": Worse("create.sent", "paid twice"),
    "acts_first": Worse("create.known", "paid twice|more than one answer|before it was on disk", 0.05),
    "forgets_results": Worse("closed.after", "lost|failed with|more than one answer"),
    "sends_unasked": Worse("accept.after", "unasked|paid for and lost"),
    "pays_again": Worse("closed.after", "more than one answer"),
    "leaves_callers_waiting": Worse("closed.after", "hangs"),
}


@pytest.fixture(scope="module")
async def lanes(anyio_backend: str) -> AsyncGenerator[Lanes]:
    """Nurseries that are free."""
    free: Lanes = asyncio.Queue()
    made = [Nursery() for _ in range(LANES)]
    for nursery in made:
        free.put_nowait(nursery)
    yield free
    for nursery in made:
        nursery.close()


async def at_point(point: Point, lanes: Lanes) -> Told:
    """Play stories of a point until a process was killed there."""
    nursery = await lanes.get()
    told = Told(title=point.title, seed=0)
    for seed in range(TRIES):
        told = await tell(story_at(point, seed), nursery)
        if told.violation or told.struck:
            break
    lanes.put_nowait(nursery)
    return told


async def anywhere(seed: int, lanes: Lanes) -> Told:
    nursery = await lanes.get()
    told = await tell(story_anywhere(seed), nursery)
    lanes.put_nowait(nursery)
    return told


@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_every_point(part: int, lanes: Lanes) -> None:
    told = await asyncio.gather(*(at_point(point, lanes) for point in POINTS[part::PARTS]))
    assert [one for one in told if one.violation or one.lost or one.doubled_in_files] == []
    assert [one.title for one in told if not one.struck] == []


async def test_killed_anywhere(lanes: Lanes) -> None:
    told = await asyncio.gather(*(anywhere(seed, lanes) for seed in range(8)))
    assert [one for one in told if one.violation or one.lost or one.doubled_in_files] == []


@pytest.mark.parametrize("spoil", WORSE)
async def test_a_worse_client_is_noticed(spoil: str, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nurseries, "PATIENCE_S", 3.0)
    worse = WORSE[spoil]
    point = next(point for point in POINTS if point.name == worse.point)
    nursery = await lanes.get()
    said: list[str] = []
    for seed in range(TRIES):
        story = msgspec.structs.replace(story_at(point, seed), spoil=spoil, disk_pause_s=worse.disk_pause_s)
        said.append((await tell(story, nursery)).violation)
        if re.search(worse.words, said[-1]):
            break
    lanes.put_nowait(nursery)
    assert re.search(worse.words, said[-1]), said
