"""How far a command is: a bar on a terminal, one line a change elsewhere. All of it on stderr.

Owns the wording and how often something is said. It must not know clients; it is told counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

import msgspec

from carpool._tables import usd
from carpool.cli.console import say

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.text import Text

    from carpool import Receipt, Stats

_TICK_S = 0.25
_PAUSE_MIN_S = 1.0
_PAUSE_MAX_S = 60.0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the requests of a command are."""

    total: int | None
    """``None``: not known before the end."""
    done: int
    """With an answer or an error, earlier runs included."""
    failed: int
    waiting: int
    """Neither in a job nor on a live route."""
    in_jobs: int
    live: int = 0
    """On a live route."""
    jobs: str
    """What is known of the jobs, in words."""
    paid_usd: dict[str, Decimal] = {}
    """So far, by route."""

    def words(self) -> str:
        """Return all but the number done."""
        parts = [f"{self.waiting:,} waiting", f"{self.in_jobs:,} in jobs"]
        if self.live:
            parts.append(f"{self.live:,} live")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.jobs:
            parts.append(f"jobs: {self.jobs}")
        if self.paid_usd:
            parts.append(f"paid: {self._paid()}")
        return ", ".join(parts)

    def _paid(self) -> str:
        whole = sum(self.paid_usd.values(), Decimal(0))
        if len(self.paid_usd) == 1:
            return f"{usd(whole, whole)} ({next(iter(self.paid_usd))})"
        routes = " + ".join(f"{route} {usd(amount, whole)}" for route, amount in self.paid_usd.items())
        return f"{usd(whole, whole)} ({routes})"


def counts_of(
    stats: Stats, receipt: Receipt, *, total: int | None, done: int, failed: int, outstanding: int, jobs: str
) -> Counts:
    """Return where the requests of a command are.

    Args:
        stats: of the client.
        receipt: of the client.
        total: requests, if that is known.
        done: of them, those with an answer or an error.
        failed: of those, the ones with an error.
        outstanding: requests that the client was given and has not answered; it may have others too.
        jobs: what is known of the jobs, in words.
    """
    in_jobs = max(0, min(stats.sent, outstanding - stats.waiting))
    live = min(stats.live, outstanding - in_jobs)
    return Counts(
        total=total,
        done=done,
        failed=failed,
        waiting=outstanding - in_jobs - live,
        in_jobs=in_jobs,
        live=live,
        jobs=jobs,
        paid_usd={route: totals.paid_usd for route, totals in receipt.by_route.items()},
    )


class Display(Protocol):
    """Shows counts."""

    def show(self, counts: Counts) -> None:
        """Show the counts as they are now."""
        ...


class Lines:
    """A line for a change: at most one a second, and in a run of hours at most one a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._next_at = self._began
        self._last: str | None = None

    def show(self, counts: Counts) -> None:
        """Print a line, if it says something new and the last one was long enough ago; the end is always told."""
        now = self._clock()
        ended = counts.done == counts.total
        begun = counts.done or counts.waiting or counts.in_jobs or counts.live
        if (now < self._next_at and not ended) or not begun:
            return
        of = "" if counts.total is None else f" of {counts.total:,}"
        line = f"{counts.done:,}{of} done, {counts.words()}"
        if line == self._last:
            return
        say(line)
        self._last = line
        self._next_at = now + min(_PAUSE_MAX_S, max(_PAUSE_MIN_S, (now - self._began) / 60))


class Bar:
    """A bar, and a line of counts below it."""

    def __init__(self, progress: Progress, words: Text) -> None:
        self._progress = progress
        self._words = words
        self._task = progress.add_task("", total=None)

    def show(self, counts: Counts) -> None:
        """Move the bar."""
        self._progress.update(self._task, total=counts.total, completed=counts.done)
        self._words.plain = f"  {counts.words()}"


@contextlib.contextmanager
def display() -> Generator[Display]:
    """Return what fits stderr: a bar on a terminal, else lines."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines()
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn
    from rich.text import Text

    progress = Progress(SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    words = Text()
    with Live(Group(progress, words), console=Console(stderr=True), refresh_per_second=8):
        yield Bar(progress, words)


@contextlib.asynccontextmanager
async def ticking(tick: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Call something four times a second as long as the block runs, and once at its end.

    Raises:
        Exception: whatever ``tick`` raised, at the end of a block that went well.
    """

    async def repeat() -> None:
        while True:
            await tick()
            await asyncio.sleep(_TICK_S)

    task = asyncio.get_running_loop().create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    await tick()


def jobs_in_words(states: dict[str, int]) -> str:
    """Return counts of jobs by state, most common first."""
    order = sorted(states.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {state.lower().replace('_', ' ')}" for state, number in order)


def jobs_open(jobs: int, created: int) -> str:
    """Return how many jobs there are, in words."""
    return f"{jobs:,} open, {created:,} created" if jobs or created else ""
