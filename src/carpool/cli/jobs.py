"""``carpool jobs``: batch jobs as the server shows them, whoever created them.

Owns how jobs are listed, shown, cancelled and deleted. Nothing is kept here: the store of a running program is neither
read nor locked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, UsageError, fit, print_json, run, say, words_of_error
from carpool.cli.server import full_name, with_server

if TYPE_CHECKING:
    from rich.table import Table

    from carpool import BatchJob, Client

_Limit = Annotated[int, Parameter(validator=Number(gte=0))]


def list_jobs(*, limit: _Limit = 20, base_url: str | None = None, json: bool = False) -> int:
    """List jobs, newest first.

    Args:
        limit: how many; 0 for all.
        base_url: where to call, instead of Google.
        json: print a JSON array of jobs.
    """

    async def ask(client: Client) -> None:
        jobs: list[BatchJob] = []
        async with aclosing(client.jobs.list()) as listed:
            async for job in listed:
                jobs.append(job)
                if len(jobs) == limit:
                    break
        if json:
            print_json([fit(job) for job in jobs])
        else:
            print_table(table_of(jobs))

    return run(with_server(base_url, ask))


def show_job(name: str, /, *, base_url: str | None = None, json: bool = False) -> int:
    """Show one job.

    Args:
        name: of the job, with or without "batches/".
        base_url: where to call, instead of Google.
        json: print the job as one JSON object.
    """

    async def ask(client: Client) -> None:
        _print_job(await client.jobs.get(full_name(name)), as_json=json)

    return run(with_server(base_url, ask))


def cancel_job(name: str, /, *, base_url: str | None = None, json: bool = False) -> int:
    """Cancel a job, and show what became of it. What it has finished is paid for.

    Args:
        name: of the job, with or without "batches/".
        base_url: where to call, instead of Google.
        json: print the job as one JSON object.
    """

    async def ask(client: Client) -> None:
        await client.jobs.cancel(full_name(name))
        _print_job(await client.jobs.get(full_name(name)), as_json=json)

    return run(with_server(base_url, ask))


def remove_jobs(name: str, /, *more: str, yes: bool = False, base_url: str | None = None, json: bool = False) -> int:
    """Delete jobs and their output on the server.

    This does not cancel a job: one that has not ended goes on, is paid for, and its answers are lost. So you are asked
    about such a job first; to stop it, use "carpool jobs cancel".

    Args:
        name: of the job, with or without "batches/".
        more: names of other jobs.
        yes: delete jobs that have not ended without asking.
        base_url: where to call, instead of Google.
        json: print a JSON array of the names of the jobs that were deleted.
    """
    names = list(dict.fromkeys(map(full_name, (name, *more))))
    jobs: list[BatchJob] = []

    async def look(client: Client) -> None:
        jobs.extend([await client.jobs.get(each) for each in names])

    async def delete(client: Client) -> None:
        for job in doomed:
            await client.jobs.delete(job.name)
            if not json:
                print(f"deleted {job.name}")

    run(with_server(base_url, look))
    # Asked between two visits: a question must not hold up an event loop.
    doomed = [job for job in jobs if job.ended or yes or _is_confirmed(job)]
    run(with_server(base_url, delete))
    if json:
        print_json([job.name for job in doomed])
    return Exit.OK if len(doomed) == len(jobs) else Exit.FAILED


def _is_confirmed(job: BatchJob) -> bool:
    warning = f"{job.name} is {job.state}. Deleting does not cancel it: it is paid for, and its answers are lost"
    if not sys.stdin.isatty():
        raise UsageError(f"{warning}. Cancel it first, or give --yes; nothing was deleted")
    say(warning)
    print("delete it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say(f"kept {job.name}")
    return False


def _rows(job: BatchJob) -> list[tuple[str, str]]:
    stats = job.stats
    rows = [
        ("name", job.name),
        ("state", job.state),
        ("model", job.model.removeprefix("models/")),
        ("display name", job.display_name),
        ("created", job.created_at),
        ("updated", job.updated_at),
        ("ended", job.ended_at),
        ("requests", f"{stats.requests:,}"),
        ("pending", f"{stats.pending:,}"),
        ("succeeded", f"{stats.succeeded:,}"),
        ("failed", f"{stats.failed:,}"),
        ("output", job.output_file or ("inline" if job.inline_output else "")),
    ]
    if job.error is not None:
        rows.append(("error", words_of_error(job.error)))
    return [(label, value) for label, value in rows if value]


def _print_job(job: BatchJob, *, as_json: bool) -> None:
    if as_json:
        print_json(fit(job))
        return
    for label, value in _rows(job):
        print(f"{label + ':':<14}{' '.join(value.split())}")


def table_of(jobs: list[BatchJob]) -> Table:
    """Return jobs as a table, a line each."""
    rows = [
        (
            job.name,
            job.state,
            job.model.removeprefix("models/"),
            f"{job.stats.requests:,}" if job.stats.requests else "",
            job.created_at,
            job.display_name,
        )
        for job in jobs
    ]
    return make_table(("name", "state", "model", "requests", "created", "display name"), rows, right={"requests"})


def make_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: set[str]) -> Table:
    """Return a table of plain texts.

    Args:
        headings: of the columns.
        rows: the cells of each line.
        right: headings of the columns of numbers.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_table(table: Table) -> None:
    """Print a table. Where stdout is no terminal, nothing is cut to a width."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 1_000).print(table)
