"""Kill many processes: ``python -m tests.kill --points --rounds 40`` and ``python -m tests.kill --random 500``.

Owns the command and its table. It prints each story that went wrong, with what it says, and leaves with 1 if there was
one.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Final

from .nursery import Nursery
from .points import POINTS
from .scenario import Told, story_anywhere, story_at, tell

TRIES: Final = 8
"""How often a story is made up anew if its process ended before it was killed."""
ANYWHERE: Final = -1


def play(task: tuple[int, int]) -> Told:
    """Play one story, given by the number of its point (or ANYWHERE) and of its round."""
    index, seed = task
    try:
        return asyncio.run(play_until_killed(index, seed, _nursery()))
    except Exception:  # noqa: BLE001 - whatever it is, it is the story's report
        title = "anywhere" if index == ANYWHERE else POINTS[index].title
        return Told(title=title, seed=seed, violation=traceback.format_exc())


@cache
def _nursery() -> Nursery:
    """Return this worker's nursery: it ends with it."""
    return Nursery()


async def play_until_killed(index: int, seed: int, nursery: Nursery) -> Told:
    """Play a story; one in which its point was not passed is made up anew."""
    if index == ANYWHERE:
        return await tell(story_anywhere(seed), nursery)
    told = Told(title="", seed=seed)
    for number in range(TRIES):
        told = await tell(story_at(POINTS[index], seed + number * 1_000_000), nursery)
        if told.violation or told.struck:
            break
    return told


def _row(title: str, stories: list[Told]) -> str:
    """Return a line: how many were killed where meant to, kills, lost, paid twice in files, inline, counted, wrong."""
    counts = (
        sum(told.struck for told in stories),
        sum(len(told.kills) for told in stories),
        sum(told.lost for told in stories),
        sum(told.doubled_in_files for told in stories),
        sum(told.doubled_inline for told in stories),
        sum(told.doubles_counted for told in stories),
        sum(bool(told.violation) for told in stories),
    )
    return f"{title:62}" + "".join(f"{count:8}" for count in counts) + "\n"


def report(told: list[Told], took_s: float) -> str:
    """Return the table of what happened."""
    names = ("struck", "kills", "lost", "files", "inline", "counted", "wrong")
    head = f"{'point':62}" + "".join(f"{name:>8}" for name in names) + "\n"
    titles = dict.fromkeys(point.title for point in POINTS) | {"anywhere": None}
    rows = [_row(title, mine) for title in titles if (mine := [one for one in told if one.title == title])]
    killed_at = Counter(point for one in told if one.title == "anywhere" for point in one.kills)
    spread = f"random kills struck at {len(killed_at)} points: {dict(killed_at.most_common())}\n" if killed_at else ""
    processes = sum(one.processes for one in told)
    total = f"{len(told)} stories, {processes} processes in {took_s:.0f} s\n"
    return head + "".join(rows) + _row("all", told) + spread + total


def main() -> int:
    """Play what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--points", action="store_true", help="kill at every point")
    parser.add_argument("--only", default="", help="of these, those with this in their name or title")
    parser.add_argument("--rounds", type=int, default=40, help="stories a point")
    parser.add_argument("--random", type=int, default=0, help="how many stories with kills anywhere")
    parser.add_argument("--start", type=int, default=0, help="the first round")
    parser.add_argument("--jobs", type=int, default=2, help="stories at once")
    args = parser.parse_args()
    rounds = range(args.start, args.start + args.rounds)
    indices = [index for index, point in enumerate(POINTS) if args.only in point.title or args.only in point.name]
    tasks = [(index, seed) for seed in rounds for index in indices] if args.points else []
    tasks += [(ANYWHERE, seed) for seed in range(args.start, args.start + args.random)]
    began = time.monotonic()
    told: list[Told] = []
    with multiprocessing.Pool(args.jobs) as pool, suppress(KeyboardInterrupt):
        # Interrupted, it shows what it has.
        for one in pool.imap_unordered(play, tasks, chunksize=4):
            told.append(one)
            if not len(told) % 200:
                sys.stderr.write(f"{len(told)} of {len(tasks)} stories after {time.monotonic() - began:.0f} s\n")
            if one.violation:
                sys.stdout.write(f"--- {one.title!r}, seed {one.seed}, killed at {one.kills}\n{one.violation}\n")
                sys.stdout.flush()
    sys.stdout.write(report(told, time.monotonic() - began))
    return 1 if any(one.violation for one in told) else 0


if __name__ == "__main__":
    sys.exit(main())
