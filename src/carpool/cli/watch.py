"""``carpool jobs watch``: jobs on the server until they have ended.

Owns how often is asked, what is told of a change, and what counts as success.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, counted, deadline_of, fit, print_json, run, say, words_of_error
from carpool.cli.server import full_name, with_server

if TYPE_CHECKING:
    from carpool import BatchJob, Client

_Show: TypeAlias = "Callable[[dict[str, BatchJob], list[BatchJob]], None]"
"""Shows all jobs as they stand, and those of them that have changed."""
_GOES_AWAY: Final = frozenset({None, 429, 500, 502, 503, 504})
"""Codes of errors that a later question may not have."""


def watch_jobs(
    *names: str,
    every: Annotated[float, Parameter(validator=Number(gte=0.01))] = 5.0,
    deadline: str | None = None,
    base_url: str | None = None,
    json: bool = False,
) -> int:
    """Watch jobs until they have ended.

    On a terminal this is a table that changes, elsewhere a line for each change. Ctrl-C ends the watching, not the
    jobs.

    Args:
        names: of jobs, with or without "batches/"; none: all jobs that have not ended.
        every: seconds between two questions.
        deadline: stop watching then: 90m, 4h, or 06:00.
        base_url: where to call, instead of Google.
        json: print a job as one JSON object a line, at each change.
    """
    wait_s = deadline_of(deadline)

    async def ask(client: Client) -> int:
        watched = [full_name(name) for name in dict.fromkeys(names)]
        if not watched:
            watched = [job.name async for job in client.jobs.list() if not job.ended]
        if not watched:
            say("no job is under way")
            return Exit.OK
        jobs: dict[str, BatchJob] = {}
        try:
            with _view(as_json=json) as show:
                async with asyncio.timeout(wait_s):
                    await _watch(client, watched, jobs, every, show)
        except TimeoutError:
            under_way = [name for name in watched if name not in jobs or not jobs[name].ended]
            say(f"{counted(len(under_way), 'job')} had not ended by the deadline: {', '.join(under_way)}")
            return Exit.LATE
        return Exit.OK if all(map(_is_well, jobs.values())) else Exit.FAILED

    return run(with_server(base_url, ask))


async def _watch(client: Client, names: list[str], jobs: dict[str, BatchJob], every_s: float, show: _Show) -> None:
    """Ask for jobs until all have ended; ``jobs`` holds the last word on each."""
    from carpool import JobError

    while True:
        changed: list[BatchJob] = []
        for name in names:
            before = jobs.get(name)
            if before is not None and before.ended:
                continue
            try:
                job = await client.jobs.get(name)
            except JobError as error:
                if before is None or error.code not in _GOES_AWAY:
                    raise
                say(f"{error}; asking again")
                continue
            jobs[name] = job
            if before is None or (job.state, job.stats) != (before.state, before.stats):
                changed.append(job)
        if changed:
            show(jobs, changed)
        if all(job.ended for job in jobs.values()):
            return
        await asyncio.sleep(every_s)


def _is_well(job: BatchJob) -> bool:
    return job.state == "SUCCEEDED" and not job.stats.failed


def words_of(job: BatchJob) -> str:
    """Return how a job stands, in a line."""
    stats = job.stats
    parts = [f"{stats.succeeded:,} of {stats.requests:,} answered"] if stats.requests else []
    if stats.failed:
        parts.append(f"{stats.failed:,} failed")
    if job.error is not None:
        parts.append(words_of_error(job.error))
    words = f"{job.name}: {job.state}" + (f": {', '.join(parts)}" if parts else "")
    return " ".join(words.split())


@contextlib.contextmanager
def _view(*, as_json: bool) -> Generator[_Show]:
    """Return what fits stdout: JSON lines, a table that changes, or a line a change."""
    if as_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":

        def show_lines(_: dict[str, BatchJob], changed: list[BatchJob]) -> None:
            for job in changed:
                if as_json:
                    print_json(fit(job))
                else:
                    print(words_of(job), flush=True)

        yield show_lines
        return
    from rich.live import Live

    from carpool.cli.jobs import make_table

    with Live(refresh_per_second=4) as live:

        def show_table(jobs: dict[str, BatchJob], _: list[BatchJob]) -> None:
            rows = [
                (
                    job.name,
                    job.state,
                    f"{job.stats.requests:,}",
                    f"{job.stats.pending:,}",
                    f"{job.stats.succeeded:,}",
                    f"{job.stats.failed:,}",
                    job.created_at,
                )
                for job in jobs.values()
            ]
            numbers = ("requests", "pending", "succeeded", "failed")
            live.update(make_table(("name", "state", *numbers, "created"), rows, right=set(numbers)), refresh=True)

        yield show_table
