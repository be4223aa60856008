"""``carpool jobs``: batch jobs as the server shows them, whoever created them.

Owns how jobs are shown. Nothing is kept here: the store of a running program is neither read nor locked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, print_json, run

if TYPE_CHECKING:
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
        async with aclosing(cast("AsyncGenerator[BatchJob]", client.jobs.list())) as listed:
            async for job in listed:
                jobs.append(job)
                if len(jobs) == limit:
                    break
        if json:
            print_json(jobs)
        else:
            _print_table(jobs)

    return run(_with_client(base_url, ask))


def show_job(name: str, /, *, base_url: str | None = None, json: bool = False) -> int:
    """Show one job.

    Args:
        name: of the job, with or without "batches/".
        base_url: where to call, instead of Google.
        json: print the job as one JSON object.
    """

    async def ask(client: Client) -> None:
        _print_job(await client.jobs.get(_full(name)), as_json=json)

    return run(_with_client(base_url, ask))


def cancel_job(name: str, /, *, base_url: str | None = None, json: bool = False) -> int:
    """Cancel a job, and show what became of it. What it has finished is paid for.

    Args:
        name: of the job, with or without "batches/".
        base_url: where to call, instead of Google.
        json: print the job as one JSON object.
    """

    async def ask(client: Client) -> None:
        await client.jobs.cancel(_full(name))
        _print_job(await client.jobs.get(_full(name)), as_json=json)

    return run(_with_client(base_url, ask))


async def _with_client(base_url: str | None, ask: Callable[[Client], Awaitable[None]]) -> int:
    from carpool import Client, MemoryStore

    # In memory: a look at the server must not need a place in the store that running programs share.
    async with Client(base_url=base_url, store=MemoryStore()) as client:
        await ask(client)
    return Exit.OK


def _full(name: str) -> str:
    return name if "/" in name else f"batches/{name}"


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
        rows.append(("error", f"{job.error.code} {job.error.status} {job.error.message}".strip()))
    return [(label, value) for label, value in rows if value]


def _print_job(job: BatchJob, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    for label, value in _rows(job):
        print(f"{label + ':':<14}{' '.join(value.split())}")


def _print_table(jobs: list[BatchJob]) -> None:
    """Print a job a line. Where stdout is no terminal, nothing is cut to a width."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for heading in ("name", "state", "model", "requests", "created", "display name"):
        table.add_column(heading, justify="right" if heading == "requests" else "left", overflow="fold")
    for job in jobs:
        requests = f"{job.stats.requests:,}" if job.stats.requests else ""
        cells = (job.name, job.state, job.model.removeprefix("models/"), requests, job.created_at, job.display_name)
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else 1_000).print(table)
