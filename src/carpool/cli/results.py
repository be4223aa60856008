"""``carpool results`` and ``carpool jobs results``: answers that are there, or will be.

Owns how answers are printed. Keys are looked up in all slots of the home; a job's rows come from the server, whoever
created it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from carpool._showing import shown
from carpool.cli.console import Exit, UsageError, counted, deadline_of, print_json, run, say
from carpool.cli.server import full_name, with_server

if TYPE_CHECKING:
    from carpool import Client, Outcome, Settings
    from carpool._upkeep import KnownKey

_ERROR_FIELDS: Final = ("code", "status", "message", "details")


def show_results(
    *keys: str,
    deadline: str | None = None,
    home: Path | None = None,
    base_url: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 20,
    json: bool = False,
) -> int:
    """Print the answers of keys; without keys, list the keys that are known.

    A key is that of a ticket, of a call that was given one, or of a row of "carpool map". What has no answer yet is
    sent if need be, and waited for. Text is printed as text, a vector as JSON.

    Without keys nothing is sent, and no API key is needed. What a running program holds is not listed.

    Args:
        keys: print their answers, in this order.
        deadline: wait until then at most: 90m, 4h, or 06:00.
        home: folder where state is kept, instead of the user's state folder.
        base_url: where to call, instead of Google.
        limit: how many keys to list, newest first; 0 for all.
        json: print an answer as one JSON object a line, or the list as a JSON array.
    """
    from carpool import Settings
    from carpool.client import home_path

    settings, folder = Settings.from_env(), home_path(home)
    if not keys:
        return run(_list(folder, settings, limit, as_json=json))
    wait_s = deadline_of(deadline)
    return run(_print_all(list(dict.fromkeys(keys)), folder, settings, base_url, wait_s, as_json=json))


async def _list(home: Path, settings: Settings, limit: int, *, as_json: bool) -> int:
    from carpool._upkeep import known_keys

    known = await known_keys(home, settings, time.time())
    listed = known[: limit or None]
    if as_json:
        print_json([_told(one) for one in listed])
        return Exit.OK
    from carpool.cli.jobs import make_table, print_table

    rows = [(one.key, one.state, one.kind, one.model, _time(one.since), one.job) for one in listed]
    print_table(make_table(("key", "state", "kind", "model", "since", "job"), rows, right=set()))
    if len(listed) < len(known):
        say(f"not shown: {counted(len(known) - len(listed), 'older key')}; --limit 0 shows all")
    return Exit.OK


def _told(known: KnownKey) -> dict[str, Any]:
    return msgspec.structs.asdict(known) | {"since": _time(known.since)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def _print_all(
    keys: list[str], home: Path, settings: Settings, base_url: str | None, wait_s: float | None, *, as_json: bool
) -> int:
    """Print outcomes in the order of their keys, each as soon as it and those before it are there."""
    late: list[str] = []
    failed = 0
    until = time.monotonic() + wait_s if wait_s is not None else None
    async with AsyncExitStack() as stack:
        asked = await _ask(stack, keys, home, settings, base_url)
        for key in keys:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            await asyncio.wait((asked[key],), timeout=left_s)
            if not asked[key].done():
                late.append(key)
                continue
            outcome = asked[key].result()
            failed += not outcome.ok
            _print(outcome, with_key=len(keys) > 1, as_json=as_json)
    if late:
        say(
            f"{counted(len(late), 'answer')} had not come by the deadline: {', '.join(late)}. "
            "What was sent goes on: ask again later"
        )
        return Exit.LATE
    return Exit.FAILED if failed else Exit.OK


async def _ask(
    stack: AsyncExitStack, keys: list[str], home: Path, settings: Settings, base_url: str | None
) -> dict[str, asyncio.Task[Outcome]]:
    """Ask for keys, and go on asking until the stack is left."""
    from carpool import Client

    client = await stack.enter_async_context(Client(home=home, base_url=base_url, settings=settings))
    asked: dict[str, asyncio.Task[Outcome]] = {}
    for key in keys:
        asked[key] = asyncio.create_task(_outcome(client, key))
        stack.push_async_callback(_end, asked[key])
    return asked


async def _outcome(client: Client, key: str) -> Outcome:
    from carpool import CarpoolError, Outcome

    try:
        return Outcome(key=key, response=await client.result(key))
    except CarpoolError as error:
        return Outcome(key=key, error=error)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _print(outcome: Outcome, *, with_key: bool, as_json: bool) -> None:
    from carpool import EmbedResponse, GenerateResponse

    if as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(_row(outcome))
        sys.stdout.buffer.flush()
        return
    if outcome.error is not None:
        error = outcome.error
        # A stored error leaves the server's words to ``message``; whoever asks for a key's result asks for them.
        said = shown(error.message or "")
        say(f"{outcome.key}: {error}" + (f" (the server: {said})" if said and said not in str(error) else ""))
        return
    if with_key:
        print(f"== {outcome.key}")
    match outcome.response:
        case EmbedResponse() as response:
            print_json(response.values)
        case GenerateResponse() as response:
            if response.text:
                print(response.text, flush=True)
            if response.images:
                say(f"{outcome.key}: {counted(len(response.images), 'image')}, to be had with --json")
        case None:
            return


def job_results(
    name: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    base_url: str | None = None,
    json: bool = False,
) -> int:
    """Print the rows of a job that has ended, whoever created it.

    Rows are JSON lines as Google's own result files have them: {"key": ..., "response": {...}}, or {"key": ...,
    "error": {...}}.

    Args:
        name: of the job, with or without "batches/".
        output: file to write them to, instead of standard output; it appears once it is whole.
        base_url: where to call, instead of Google.
        json: print one JSON object with the numbers of rows at the end (to stderr where the rows go to stdout).
    """

    async def ask(client: Client) -> int:
        rows = failed = 0
        with _written(output) as file:
            async with aclosing(client.jobs.results(full_name(name))) as outcomes:
                async for outcome in outcomes:
                    rows += 1
                    failed += not outcome.ok
                    file.write(_row(outcome))
        if json:
            print_json({"rows": rows, "failed": failed}, to_stderr=output is None)
        elif output is not None or failed:
            say(f"{counted(rows, 'row')}, {failed:,} with an error")
        return Exit.FAILED if failed else Exit.OK

    return run(with_server(base_url, ask))


def _row(outcome: Outcome) -> bytes:
    """Return a row as Google's result files have it."""
    from carpool.cli.output import row_of

    error = outcome.error
    if error is None or error.code is None:
        return row_of(outcome)
    told = {name: value for name in _ERROR_FIELDS if (value := getattr(error, name)) is not None}
    return b'{"key":%b,"error":%b}\n' % (msgspec.json.encode(outcome.key), msgspec.json.encode(told))


@contextlib.contextmanager
def _written(path: Path | None) -> Generator[BinaryIO]:
    """Return standard output, or a file that takes its place once it is whole.

    Raises:
        UsageError: it cannot be written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.", suffix=".new")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path.resolve())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
