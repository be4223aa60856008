"""``carpool gc``: what is past its time goes away, in the home and on the server.

Owns what on the server is nobody's any more. What is past its time in the home is for the store's own rules to say.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from carpool.cli.console import Exit, counted, print_json, run, say

if TYPE_CHECKING:
    from carpool import BatchJob, Client, File, Settings
    from carpool._upkeep import TidiedHome

_ORPHAN_S: Final = 86_400.0
"""Age from which an input file of no known job is nobody's: whoever uploaded it would have created its job by then."""
_JOB_PREFIX: Final = "cp1"
_FILE_PREFIX: Final = "files/cp-"


class _Remote(msgspec.Struct, kw_only=True):
    """What is to go on the server."""

    jobs: list[str] = []
    files: list[str] = []


def collect_garbage(
    *,
    remote: bool = False,
    dry_run: bool = False,
    home: Path | None = None,
    base_url: str | None = None,
    json: bool = False,
) -> int:
    """Delete what is past its time.

    In the home that is: results that were kept for as long as CARPOOL_KEEP_RESULTS_S says, and requests of killed
    programs that nobody asked for again within CARPOOL_REUSE_WINDOW_S. A running program does this by itself, and what
    it holds is left alone.

    With --remote, on the server: jobs of this home that have ended and of which all is fetched, with their output, and
    input files of carpool that no job needs any more.

    Args:
        remote: tidy up on the server too.
        dry_run: only say what would go.
        home: folder where state is kept, instead of the user's state folder.
        base_url: where to call, instead of Google.
        json: print one JSON object.
    """
    from carpool import Settings
    from carpool.client import home_path

    return run(_collect(home_path(home), Settings.from_env(), base_url, remote=remote, dry_run=dry_run, as_json=json))


async def _collect(
    home: Path, settings: Settings, base_url: str | None, *, remote: bool, dry_run: bool, as_json: bool
) -> int:
    from carpool._upkeep import tidy
    from carpool.cli.server import with_server

    now = time.time()
    tidied = await tidy(home, settings, now, dry_run=dry_run)
    found = _Remote()

    async def ask(client: Client) -> None:
        jobs = [job async for job in client.jobs.list()]
        files = [file async for file in client.files.list()]
        found.jobs = _finished(jobs, tidied)
        found.files = _unneeded(files, jobs, tidied, now)
        if dry_run:
            return
        for name in found.jobs:
            await client.jobs.delete(name)
        for name in found.files:
            await client.files.delete(name)

    if remote:
        await with_server(base_url, ask)
    if as_json:
        print_json(_told(home, tidied, found if remote else None, dry_run=dry_run))
    else:
        _print(home, tidied, found if remote else None, dry_run=dry_run)
    return Exit.OK


def _finished(jobs: list[BatchJob], tidied: TidiedHome) -> list[str]:
    """Return the names of ended jobs of this home that are settled."""
    unfinished = {slot.store_id: slot.unfinished for slot in tidied.slots}
    found: list[str] = []
    for job in jobs:
        parts = job.display_name.split(".")
        if len(parts) < 4 or parts[0] != _JOB_PREFIX or parts[1] not in unfinished:
            continue
        if job.ended and parts[2] not in unfinished[parts[1]]:
            found.append(job.name)
    return found


def _unneeded(files: list[File], jobs: list[BatchJob], tidied: TidiedHome, now: float) -> list[str]:
    """Return the names of input files of which the job has ended, or of which there was none for a day."""
    ended: dict[str, bool] = {}
    for job in jobs:
        parts = job.display_name.split(".")
        if len(parts) >= 4 and parts[0] == _JOB_PREFIX:
            ended[parts[2]] = ended.get(parts[2], True) and job.ended
    unfinished = {job_id for slot in tidied.slots for job_id in slot.unfinished}
    found: list[str] = []
    for file in files:
        job_id = file.name.removeprefix(_FILE_PREFIX).partition("-")[0]
        if not file.name.startswith(_FILE_PREFIX) or job_id in unfinished:
            continue
        if ended.get(job_id, now - _seconds(file.created_at, now) > _ORPHAN_S):
            found.append(file.name)
    return found


def _seconds(text: str, default: float) -> float:
    """Return a time as seconds since the epoch; the default where it cannot be read."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return default
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()


def _told(home: Path, tidied: TidiedHome, remote: _Remote | None, *, dry_run: bool) -> dict[str, Any]:
    data: dict[str, Any] = {
        "home": str(home),
        "dry_run": dry_run,
        "results": sum(slot.results for slot in tidied.slots),
        "requests": sum(slot.requests for slot in tidied.slots),
        "slots": len(tidied.slots),
        "slots_in_use": tidied.in_use,
    }
    return data if remote is None else data | {"remote": remote}


def _print(home: Path, tidied: TidiedHome, remote: _Remote | None, *, dry_run: bool) -> None:
    verb = "would be deleted" if dry_run else "deleted"
    results = sum(slot.results for slot in tidied.slots)
    requests = sum(slot.requests for slot in tidied.slots)
    print(f"{home}: {counted(results, 'result')} and {counted(requests, 'request')} past their time {verb}")
    for folder in tidied.in_use:
        say(f"{folder} is held by a running program, which tidies up by itself")
    if remote is None:
        return
    for name in (*remote.jobs, *remote.files):
        print(f"{name} {verb}")
    print(f"server: {counted(len(remote.jobs), 'job')} and {counted(len(remote.files), 'file')} {verb}")
