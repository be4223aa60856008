"""``carpool map``: a file of rows in, a file of answers out; run again, it goes on where it was.

Owns the order of things: look at all that can be wrong before anything is sent, ask what has no answer yet, write
answers as they come. What was asked and what was answered is kept by the library's store, under the keys of the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, UsageError, counted, deadline_of, ladder_of, print_json, run, say
from carpool.cli.progress import Display, counts_of, display, jobs_open, ticking

if TYPE_CHECKING:
    from carpool import Client, Outcome, Receipt, Request, Settings, Stats
    from carpool.cli.output import Output
    from carpool.cli.rows import RowReader
    from carpool.settings import Ladder
    from carpool.types import Kind

_CLOSE_S: Final = 5.0


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    source: str
    target: str
    model: str
    kind: Kind
    home: Path | None
    base_url: str | None
    window: int
    deadline: datetime | None
    ladder: Ladder | None


class _Tally(msgspec.Struct, kw_only=True):
    """How the run goes."""

    total: int | None = None
    skipped: int = 0
    asked: int = 0
    answered: int = 0
    failed: int = 0
    late: int = 0
    """Of those that failed: for want of time."""
    bad_row: str | None = None

    @property
    def done(self) -> int:
        return self.skipped + self.answered + self.failed


def map_rows(
    source: Annotated[str, Parameter(name="IN", allow_leading_hyphen=True)],
    target: Annotated[str, Parameter(name="OUT", allow_leading_hyphen=True)],
    /,
    *,
    model: str,
    kind: Annotated[str, Parameter(choices=("generate", "embed"))] = "generate",
    home: Path | None = None,
    base_url: str | None = None,
    window: Annotated[int, Parameter(validator=Number(gte=1))] = 10_000,
    deadline: str | None = None,
    ladder: str | None = None,
    json: bool = False,
) -> int:
    """Answer every row of a file through batch jobs.

    Rows are JSON lines: {"key": ..., "request": {...}}, as Google's own batch files have them, or {"key": ...,
    "prompt": "..."}. A row without a key gets one from its content. Output rows are {"key": ..., "response": {...}}
    with the server's answer, or {"key": ..., "error": {...}}, in the order in which they come.

    Run the same command again after a kill, a crash or Ctrl-C: rows that have their response stay, rows with an error
    are asked again, and what was sent already is waited for, not sent twice.

    Args:
        source: file of rows, or - for standard input.
        target: file of answers, or - for standard output.
        model: name of the model, such as gemini-3.5-flash.
        kind: what the rows are.
        home: folder where state is kept, instead of the user's state folder.
        base_url: where to call, instead of Google.
        window: how many rows may be under way at once.
        deadline: give up then on rows that have no answer: 90m, 4h, or 06:00. What was sent is kept for the next run.
        ladder: routes that a row may take, in order: batch, flex, standard, with commas between them; cheap for all
            three, fast for standard,batch. Without it: cheap with a deadline, else batch.
        json: print one JSON object at the end (to stderr where the rows go to stdout).
    """
    order = _Order(
        source=source,
        target=target,
        model=model,
        kind=cast("Kind", kind),
        home=home,
        base_url=base_url,
        window=window,
        deadline=None if (wait_s := deadline_of(deadline)) is None else datetime.now(UTC) + timedelta(seconds=wait_s),
        ladder=ladder_of(ladder),
    )
    tally = _Tally()
    try:
        return run(_run(order, tally, as_json=json))
    except KeyboardInterrupt:
        say(
            f"interrupted after {counted(tally.answered, 'answer')}. What was sent stays on record: "
            "run the same command again to go on, and nothing is paid twice"
        )
        return Exit.INTERRUPTED


async def _run(order: _Order, tally: _Tally, *, as_json: bool) -> int:
    from carpool import Client, Settings
    from carpool.cli.output import Output

    settings = Settings.from_env()
    tally.total = _check(order, settings)
    client = Client(base_url=order.base_url, home=order.home, settings=settings)
    output = Output.open(order.target)
    if output.retried:
        say(f"{counted(output.retried, 'row')} of {order.target} with an error will be asked again")
    try:
        async with client:
            await _answer(client, order, output, tally)
            with contextlib.suppress(TimeoutError):
                # All is answered; what is left is to close jobs and delete inputs, unless others use this home.
                async with asyncio.timeout(_CLOSE_S):
                    await client.drain()
            stats, receipt = client.stats(), client.receipt()
    finally:
        output.close()
    _tell(order, tally, stats, receipt, as_json=as_json)
    if tally.bad_row is not None:
        return Exit.USAGE
    if tally.late:
        return Exit.LATE
    return Exit.FAILED if tally.failed else Exit.OK


def _check(order: _Order, settings: Settings) -> int | None:
    """Look for all that can be wrong with the input before anything is sent; return how many rows it has.

    A stream can be read only once: its rows are looked at as they come, and ``None`` is returned.
    """
    from carpool.cli.rows import check_input
    from carpool.cli.source import file_of

    try:
        path = file_of(order.source)
        if path is None:
            return None
        if order.target != "-" and Path(order.target).exists() and path.samefile(order.target):
            raise UsageError(f"{order.source} is both input and output")
        return check_input(path, order.model, order.kind, settings.line_bytes_max)
    except OSError as error:
        raise UsageError(f"{order.source} cannot be read: {error.strerror}") from None


async def _answer(client: Client, order: _Order, output: Output, tally: _Tally) -> None:
    """Ask for all rows that have no response yet, and write outcomes as they come."""
    from carpool.cli.rows import RowReader

    source = "standard input" if order.source == "-" else order.source
    reader = RowReader(source, order.model, order.kind, client.settings.line_bytes_max)
    requests = _requests(reader, order, output, tally)
    outcomes = client.map(requests, window=order.window)
    with display() as shown:

        async def tick() -> None:
            output.flush()
            _show(shown, client, tally)

        async with ticking(tick), contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                _take(outcome, output, tally)


async def _requests(reader: RowReader, order: _Order, output: Output, tally: _Tally) -> AsyncIterator[Request]:
    """Iterate over the requests that have no response yet. A line that is no row ends the input."""
    from carpool.cli.fingerprints import Fingerprints
    from carpool.cli.rows import BadRow
    from carpool.cli.source import lines_of

    given = Fingerprints()
    try:
        async for line in lines_of(order.source, reader.line_bytes_max):
            request = reader.read(line)
            if request is None:
                continue
            key = request.key or ""
            if not given.add(key):
                raise reader.bad(f"its key {key[:80]!r} was there before")
            if key in output.done:
                tally.skipped += 1
            else:
                tally.asked += 1
                yield msgspec.structs.replace(request, deadline=order.deadline, ladder=order.ladder)
    except BadRow as error:
        tally.bad_row = str(error)
        say(f"{error}. Nothing behind this line is asked; the rows before it are")


def _take(outcome: Outcome, output: Output, tally: _Tally) -> None:
    """Write an outcome down.

    Raises:
        CarpoolError: the client itself has failed: this is no verdict on a row.
    """
    from carpool import BudgetExceeded, ConfigurationError, DeadlineExceeded, FileError, JobError, RequestError

    error = outcome.error
    if error is None:
        tally.answered += 1
    elif isinstance(error, RequestError | JobError | FileError | ConfigurationError | BudgetExceeded):
        tally.failed += 1
        tally.late += isinstance(error, DeadlineExceeded)
        if tally.failed == 1:
            say(f"the first row with an error: {error}")
    else:
        raise error
    output.write(outcome)


def _show(shown: Display, client: Client, tally: _Tally) -> None:
    stats = client.stats()
    shown.show(
        counts_of(
            stats,
            client.receipt(),
            total=tally.total,
            done=tally.done,
            failed=tally.failed,
            outstanding=tally.asked - tally.answered - tally.failed,
            jobs=jobs_open(stats.jobs, stats.jobs_created),
        )
    )


def _tell(order: _Order, tally: _Tally, stats: Stats, receipt: Receipt, *, as_json: bool) -> None:
    """Print how the run ended: a receipt, or one JSON object."""
    from carpool.cli.receipt import print_receipt, receipt_data

    if as_json:
        data: dict[str, Any] = {
            "rows": tally.done,
            "answered": tally.answered,
            "failed": tally.failed,
            "skipped": tally.skipped,
            "reused": stats.reused,
            "jobs": stats.jobs_created,
            "receipt": receipt_data(receipt),
        }
        print_json(data, to_stderr=order.target == "-")
        return
    where = "standard output" if order.target == "-" else order.target
    say(
        f"{counted(tally.done, 'row')} in {where}: {tally.answered:,} answered now, {tally.skipped:,} before, "
        f"{tally.failed:,} with an error"
    )
    print_receipt(receipt, jobs=stats.jobs_created, file=sys.stderr)
    if tally.failed:
        say("run the same command again to ask the rows with an error once more")
