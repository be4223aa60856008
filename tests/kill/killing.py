"""How a process ends itself: points that it passes, and a SIGKILL at the n-th passing of one of them.

Owns the names of the points and the places where they are: around the store's commits, in its transactions and files,
around the provider's questions and on the wire. What is wrapped is passed through unchanged. It must not know what the
process is for.

Points of a commit are ``<what it records>.before`` (nothing of it is on disk) and ``.after`` (it is durable, and nobody
was told). Points of a call are ``<operation>.calling``, ``.sent`` (the whole request is written), ``.answered`` (the
status has come) and ``.known`` (the provider has made sense of it). The others are named where they are.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import msgspec
from aiohttp.http_writer import StreamWriter

from carpool._core.messages import (
    DropJob,
    DropResults,
    DropSegments,
    PutJob,
    PutMarks,
    PutMeta,
    PutResults,
    PutSegment,
    PutTaken,
    Record,
    Write,
)
from carpool._core.model import Job, JobState, Lane, Marks, RemoteFile, ResultsHead, SegmentHead
from carpool._core.output import Block
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.http import Http
from carpool._ports import Answers, OpenAt, ProviderError
from carpool._stores.cache import SETTINGS
from carpool._stores.database import Database
from carpool._stores.disk import DiskStore
from carpool._stores.slots import Slot
from carpool.emulator import request_digest
from carpool.settings import Route
from carpool.types import BatchJob

ANY: Final = "any"
LOG: Final = "cache.db-wal"
ROWS_AT_ONCE: Final = 3
"""Downloads are cut into blocks so small, so that they have a middle."""
_OP: ContextVar[str] = ContextVar("op", default="")
_SENDING: ContextVar[str] = ContextVar("sending", default="")
Say = Callable[..., None]
T = TypeVar("T")


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """When a process ends itself.

    Attributes:
        point: the name of a point, or ``ANY``.
        nth: at which passing, counted from 1.
        delay_s: how much later, measured by a thread of its own; 0 is on the spot.
    """

    point: str
    nth: int = 1
    delay_s: float = 0.0


class Killer:
    """Counts what is passed, and ends the process when it is time."""

    def __init__(self, kill: Kill | None, say: Say) -> None:
        self._kill = kill
        self._say = say
        self._left = kill.nth if kill is not None else 0

    def passing(self, point: str) -> None:
        """Note that a point is passed; it may be the last thing that this process does."""
        kill = self._kill
        if kill is None or kill.point not in (point, ANY):
            return
        self._left -= 1
        if self._left == 0:
            self._say("killed", point=point)
            if kill.delay_s:
                threading.Thread(target=_die, args=(kill.delay_s,), daemon=True).start()
            else:
                _die(0.0)


def _die(delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(os.getpid(), signal.SIGKILL)


class KillingStore:
    """A store on disk that passes points, and says what became durable."""

    def __init__(self, store: DiskStore, killer: Killer, say: Say) -> None:
        self._store = store
        self._killer = killer
        self._say = say
        self._watched = _Watched(say)
        self._jobs: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open(self) -> None:
        self._killer.passing("open.before")
        await self._store.open()
        self._killer.passing("open.after")

    async def load(self) -> AsyncIterator[Record]:
        async for record in self._store.load():
            self._killer.passing("load.record")
            self._watched.loaded(record)
            if isinstance(record, Job):
                self._jobs.add(record.id)
            yield record
        self._killer.passing("load.end")

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        points = [point for write in writes for point in self._points(write)]
        self._watched.ending(writes)
        for point in points:
            self._killer.passing(f"{point}.before")
        queued = writes.copy()  # the store empties the list
        done = self._store.commit(writes)
        # Before whoever waits for it: callbacks run in the order in which they were added.
        done.add_done_callback(lambda done: self._durable(done, points, queued))  # type: ignore[attr-defined]
        return done

    def _durable(self, done: Any, points: list[str], writes: Sequence[Write]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        self._watched.durable(writes)
        for point in points:
            self._killer.passing(f"{point}.after")

    def _points(self, write: Write) -> Iterable[str]:
        match write:
            case PutMeta():
                yield "meta"
            case PutSegment():
                yield "accept"
            case PutJob(job):
                yield from self._points_of_job(job)
            case PutResults():
                yield "rows"
            case PutMarks():
                yield "marks"
            case PutTaken() | DropResults():
                yield "taken"
            case DropJob():
                yield "closed"
            case DropSegments():
                yield "dropped"

    def _points_of_job(self, job: Job) -> Iterable[str]:
        if job.id not in self._jobs:
            self._jobs.add(job.id)
            yield "seal"
        elif job.attempt > 1 and job.state in (JobState.UPLOADING, JobState.CREATING):
            yield "again"
        match job.state:
            case JobState.CREATING:
                yield "intent"
            case JobState.LOOKING if job.revoked:
                yield "revoked"
            case JobState.LOOKING if job.looks:
                yield "looked"
            case JobState.LOOKING:
                yield "doubt"
            case JobState.RUNNING:
                yield "named"
            case _:
                pass


class _Watched:
    """Says which keys became durable, and of which nothing is left to be had."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._keys: dict[int, list[str]] = {}
        self._over: dict[int, bytearray] = {}
        self._results: dict[int, list[str]] = {}

    def loaded(self, record: Record) -> None:
        """Say what was on disk: whoever wrote it may not have lived to say so."""
        match record:
            case SegmentHead():
                self._took(record.no, record.keys)
                self._say("durable", keys=record.keys)
            case Marks() if record.no in self._over:
                self._over[record.no] = bytearray(record.done)
            case ResultsHead():
                self._results[record.no] = record.keys
                self._say("found", keys=record.keys)
            case _:
                pass

    def durable(self, writes: Sequence[Write]) -> None:
        """Say which requests are on disk now."""
        keys = [key for write in writes if isinstance(write, PutSegment) for key in write.head.keys]
        if keys:
            self._say("durable", keys=keys)

    def ending(self, writes: Sequence[Write]) -> None:
        """Say what may be on disk from now on: rows that ended, results kept and dropped, jobs to be created."""
        ended: list[str] = []
        for write in writes:
            match write:
                case PutSegment(head):
                    self._took(head.no, head.keys)
                case PutMarks(marks) if marks.no in self._keys:
                    over, keys = self._over[marks.no], self._keys[marks.no]
                    ended += [key for row, key in enumerate(keys) if marks.done[row] and not over[row]]
                    self._over[marks.no] = bytearray(marks.done)
                case DropSegments(numbers):
                    for no in numbers:
                        keys, over = self._keys.pop(no, []), self._over.pop(no, bytearray())
                        ended += [key for row, key in enumerate(keys) if not over[row]]
                case PutResults(head):
                    self._results[head.no] = head.keys
                    self._say("kept", keys=head.keys)
                case PutTaken(taken):
                    found = self._results[taken.no]
                    self._say("taken", keys=[key for row, key in enumerate(found) if taken.rows[row]])
                case DropResults(numbers):
                    self._say("taken", keys=[key for no in numbers for key in self._results.pop(no, [])])
                case PutJob(job) if job.state is JobState.CREATING:
                    self._say("intends", job=job.display_name)
                case _:
                    pass
        if ended:
            self._say("ended", keys=ended)

    def _took(self, no: int, keys: list[str]) -> None:
        self._keys[no] = keys
        self._over[no] = bytearray(len(keys))


class KillingProvider:
    """The Developer API, with points around every question."""

    def __init__(self, provider: DeveloperProvider, killer: Killer, say: Say) -> None:
        self._provider = provider
        self._killer = killer
        self._say = say

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def upload(self, name: str, size_bytes: int, open_at: OpenAt) -> RemoteFile:
        return await self._asked("upload", self._provider.upload(name, size_bytes, open_at))

    async def create(self, job: Job, lines: AsyncIterator[bytes]) -> str:
        return await self._asked("create", self._provider.create(job, lines))

    async def find(self, display_name: str) -> list[BatchJob]:
        return await self._asked("find", self._provider.find(display_name))

    async def poll(self, name: str) -> BatchJob:
        job = await self._asked("poll", self._provider.poll(name))
        if job.ended:
            self._killer.passing("poll.ended")
        return job

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        _OP.set("download")
        async for block in self._provider.fetch(job):
            rows, unreadable = block.rows, block.unreadable
            while rows or unreadable:
                self._killer.passing("download.block")
                yield Block.of(rows[:ROWS_AT_ONCE], unreadable=unreadable)
                rows, unreadable = rows[ROWS_AT_ONCE:], 0
        self._killer.passing("download.end")

    async def list_jobs(self) -> AsyncIterator[BatchJob]:
        _OP.set("list")
        async for job in self._provider.list_jobs():
            yield job
        self._killer.passing("list.known")

    async def send(
        self, route: Route, lane: Lane, lines: Sequence[bytes], *, timeout_s: float | None = None
    ) -> Answers:
        rows = [msgspec.json.decode(line) for line in lines]
        keys = [row["key"] for row in rows]
        self._say("sends", keys=keys, digests=[request_digest(lane.model, row["request"]) for row in rows])
        answers = await self._asked("send", self._provider.send(route, lane, lines, timeout_s=timeout_s), keys)
        self._say("heard", keys=keys)
        self._killer.passing("send.known")
        return answers

    async def cancel(self, name: str) -> None:
        await self._asked("cancel", self._provider.cancel(name))

    async def delete(self, name: str) -> None:
        await self._asked("delete", self._provider.delete(name))

    async def _asked(self, op: str, question: Awaitable[T], keys: Sequence[str] = ()) -> T:
        _OP.set(op)
        try:
            found = await question
        except ProviderError as error:
            if keys and error.fault.kind == "unknown":
                self._say("reply lost", keys=keys)
            self._killer.passing(f"{op}.{'lost' if error.fault.kind == 'unknown' else 'refused'}")
            raise
        if not keys:
            self._killer.passing(f"{op}.known")
        return found


def _named(headers: Any) -> str:
    """Return the operation under way, the command of an upload included."""
    command = dict(headers or {}).get("X-Goog-Upload-Command", "")
    if not command:
        return _OP.get()
    return f"{_OP.get()}.{'chunk' if command == 'upload' else command.rpartition(' ')[2]}"


def watch_the_wire(killer: Killer) -> None:
    """Put points into the HTTP client of this process."""
    request, write_eof = Http._request, StreamWriter.write_eof

    async def watched_request(self: Http, method: str, url: Any, body: Any, headers: Any, **more: Any) -> Any:
        name = _named(headers)
        killer.passing(f"{name}.calling")
        _SENDING.set(name)
        response = await request(self, method, url, body, headers, **more)
        killer.passing(f"{name}.answered")
        return response

    async def watched_eof(self: StreamWriter, chunk: bytes = b"") -> None:
        await write_eof(self, chunk)
        if _SENDING.get():
            killer.passing(f"{_SENDING.get()}.sent")

    Http._request = watched_request  # type: ignore[method-assign]
    StreamWriter.write_eof = watched_eof  # type: ignore[method-assign]


def watch_the_disk(killer: Killer, say: Say, *, checkpoints: bool, pause_s: float) -> None:
    """Put points into the thread that owns the database, and into the files beside it.

    Args:
        killer: passes them.
        say: is told how long the database's log is whenever all of it is on disk.
        checkpoints: whether each commit is followed by a checkpoint, which is rare otherwise.
        pause_s: how much longer a transaction takes, as on a slow disk: half before it is written, half until it is
            known to be on the disk.
    """
    if checkpoints:
        SETTINGS["sqlite_wal_autocheckpoint"] = 1

    def around(owner: type, name: str, point: str) -> None:
        inner = getattr(owner, name)

        def watched(*args: Any, **more: Any) -> Any:
            killer.passing(f"{point}.start")
            found = inner(*args, **more)
            killer.passing(f"{point}.end")
            return found

        setattr(owner, name, watched)

    transact = Database._transact

    def watched_transact(self: Database, changes: Any) -> None:
        killer.passing("transaction.start")
        time.sleep(pause_s / 2)
        transact(self, changes)
        killer.passing("transaction.written")
        time.sleep(pause_s / 2)
        say("synced", log_bytes=(self._slot.path / LOG).stat().st_size)
        killer.passing("transaction.end")

    Database._transact = watched_transact  # type: ignore[method-assign]
    around(Database, "_change", "change")
    around(Database, "_identify", "identify")
    around(Slot, "write_store_id", "store_id")
    around(Slot, "keep_ballast", "ballast")
    around(Slot, "mark_in_use", "in_use")
    around(Slot, "mark_clean", "clean")
