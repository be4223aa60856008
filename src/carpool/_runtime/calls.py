"""The engine's questions about jobs, put to the provider; whatever goes wrong is an answer too.

Owns the mapping from actions to calls and from replies to events, and the reading of rows back from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias, TypeVar, assert_never, cast

from carpool._core.book import Book
from carpool._core.engine import Engine
from carpool._core.messages import (
    Action,
    Broken,
    CallFailed,
    Create,
    Created,
    Event,
    Fail,
    Fetch,
    FetchEnded,
    Find,
    Found,
    Poll,
    Polled,
    Revoke,
    Revoked,
    Sweep,
    SweepFailed,
    Swept,
    Upload,
    Uploaded,
)
from carpool._core.model import ROW_BITS, ROW_MASK, Fault, Job, Lane, Place, Span, place_of
from carpool._core.output import Block, Row
from carpool._ports import Provider, ProviderError, Store
from carpool._runtime.arrivals import Arrivals
from carpool._runtime.awaiters import Awaiters
from carpool._runtime.fetch import RowSorter, Sorted, StrangerSorter, name_by_position, take_back
from carpool._runtime.verdicts import ECHO_CHARS_MIN
from carpool._runtime.watch import log_bug
from carpool.errors import ClientClosed, StoreError
from carpool.settings import Route
from carpool.types import BatchJob, Facts, ServerError

logger: Final = logging.getLogger("carpool")
Question: TypeAlias = Upload | Create | Find | Revoke | Poll | Fetch
Settle: TypeAlias = Callable[[Sorted], asyncio.Future[None]]
"""Takes a block; what it returns is done once the block is settled, and stored where it must be."""
_T = TypeVar("_T")
BLOCKS_AHEAD: Final = 12
"""So many blocks of an output may be on their way to the disk while the next one is read: together they make one
commit, which takes hardly longer than that of a single one."""
SWEPT_JOBS_MAX: Final = 100_000
"""More jobs of one store than it can have made in the days for which a server keeps them."""
_ENDLESS: Final = ServerError(message="the list of jobs does not end")


class Calls:
    """Asks the provider."""

    def __init__(
        self,
        *,
        provider: Provider,
        store: Store,
        engine: Engine,
        awaiters: Awaiters,
        settle: Settle,
        heard: Callable[[Fault | None], None],
        now: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._store = store
        self._engine = engine
        self._awaiters = awaiters
        self._settle = settle
        self._heard = heard
        self._now = now
        self._charged: dict[str, set[str]] = {}
        """Keys of the answers that were read of jobs that the store did not know, while that goes on."""

    async def ask(self, question: Question) -> Event | None:
        """Return the reply as an event; ``None`` if the client was closed meanwhile.

        Raises:
            StoreError: the rows to be sent cannot be read.
        """
        job, op = question.job, question.op
        try:
            event = await self._reply(question)
        except ProviderError as error:
            fault = error.fault
        except ClientClosed:
            return None
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the job's requests are told of it
            log_bug(f"a bug of carpool in {type(question).__name__} of {job.display_name}", error)
            return Broken(job.id, op, f"a bug of carpool: {type(error).__name__}")
        else:
            self._heard(None)
            return event
        self._heard(fault)
        return CallFailed(job.id, op, fault)

    async def _reply(self, question: Question) -> Event:
        job, op, provider = question.job, question.op, self._provider
        match question:
            case Upload():
                file = await provider.upload(
                    job.file_name, job.line_bytes, lambda offset: self.read_lines(job.spans, offset)
                )
                return Uploaded(job.id, op, file)
            case Create():
                return Created(job.id, op, await provider.create(job, self.read_lines(job.spans, 0)))
            case Find():
                return Found(job.id, op, await provider.find(job.display_name))
            case Revoke():
                await provider.delete(job.file_name)
                return Revoked(job.id, op)
            case Poll():
                return Polled(job.id, op, await provider.poll(job.name))
            case Fetch():
                return await self._fetch(question)
            case _:
                assert_never(question)

    async def sweep(self, question: Sweep) -> Swept | SweepFailed:
        """Return all jobs whose display name begins as asked, or why they cannot be listed."""
        try:
            remotes = await self._listed(question.prefix)
        except ProviderError as error:
            fault = error.fault
        except Exception as error:  # noqa: BLE001 - whatever it is, there will be another sweep
            log_bug("a bug of carpool in Sweep", error)
            fault = Fault(kind="unknown", error=ServerError(message=f"a bug of carpool: {type(error).__name__}"))
        else:
            self._heard(None)
            return Swept(question.op, remotes)
        self._heard(fault)
        return SweepFailed(question.op, fault)

    async def _listed(self, prefix: str) -> list[BatchJob]:
        remotes: list[BatchJob] = []
        async with aclosing(_closable(self._provider.list_jobs())) as jobs:
            async for job in jobs:
                if job.display_name.startswith(prefix):
                    remotes.append(job)
                if len(remotes) > SWEPT_JOBS_MAX:
                    raise ProviderError(Fault(kind="unknown", error=_ENDLESS))
        return remotes

    async def _fetch(self, question: Fetch) -> Event:
        """Stream the output; when it has ended, all of it is settled, and durable where it must be."""
        job = question.job
        book, now = self._engine.book, self._now()
        text_only = not job.stranger and book.is_text_only(job.lane, job.spans)
        facts = facts_of(book, job.lane, job.name, now, text_only=text_only)
        meter = book.ledger.meter("batch", job.lane, now, text_only=text_only)
        sorter: RowSorter | StrangerSorter
        arrivals: Arrivals | None = None
        if job.stranger:
            index = self._engine.fetch_index(job.id)
            sorter = StrangerSorter(index, facts, meter, self._charged.setdefault(job.id, set()))
        else:
            self._engine.begin_fetch(job.id)
            arrivals = Arrivals(book, job.spans)
            overtaken = book.overtaken.get(job.id)
            sorter = RowSorter(book, self._awaiters, arrivals, facts, meter=meter, overtaken=overtaken)
        await self._read(question, sorter, arrivals)
        if isinstance(sorter, RowSorter) and sorter.doubled:
            logger.info("%s: %d keys came more than once: its output is read again", job.name, len(sorter.doubled))
            async with aclosing(self._blocks(question)) as blocks:
                async for block in blocks:
                    sorter.compare(block)
        self._charged.pop(job.id, None)
        return FetchEnded(job.id, question.op, sorter.strangers, sorter.aside)

    async def _read(self, question: Fetch, sorter: RowSorter | StrangerSorter, arrivals: Arrivals | None) -> None:
        """Sort the output block by block; while some are being settled, the next are read."""
        settling: deque[asyncio.Future[None]] = deque()
        try:
            async with aclosing(self._blocks(question)) as blocks:
                async for block in blocks:
                    if arrivals is not None and not arrivals.is_ready(block.keys):
                        for _ in arrivals.learn():
                            await asyncio.sleep(0)
                    found = sorter.sort(question.job.id, question.op, block)
                    try:
                        settling.append(self._settle(found))
                    except Exception:
                        take_back(self._awaiters.columns, found.handovers)
                        raise
                    if len(settling) > BLOCKS_AHEAD:
                        await settling.popleft()
            while settling:
                await settling.popleft()
        finally:
            for settled in settling:
                settled.cancel()  # the engine takes what it was given all the same, before it hears how this ended

    async def _blocks(self, question: Fetch) -> AsyncGenerator[Block]:
        async with aclosing(_closable(self._provider.fetch(question.remote))) as blocks:
            async for block in self._in_order(question.job, blocks):
                yield block

    def _keys(self, job: Job) -> list[str]:
        """Return the keys of all of a job's requests, in the order in which they were sent."""
        segments = self._engine.book.segments
        return [key for no, start, stop in job.spans for key in segments[no].keys[start:stop]]

    async def _in_order(self, job: Job, blocks: AsyncIterator[Block]) -> AsyncIterator[Block]:
        """Pass blocks on; keyless rows of an inline job, gathered, get keys by position if the setting says so."""
        book = self._engine.book
        if job.form == "file" or not book.settings.match_by_position:
            async for block in blocks:
                yield block
            return
        rows: list[Row] = []
        unreadable = 0
        async for block in blocks:
            rows += block.rows
            unreadable += block.unreadable
            if len(rows) > job.count:
                break  # they cannot fit any more, and there may be no end of them
        named = None if unreadable else name_by_position(rows, self._keys(job))
        if named is not None:
            logger.info("%s: %d answers without a key were matched by position", job.name, len(rows))
        yield Block.of(named or rows, unreadable)
        async for block in blocks:
            yield block

    async def read_lines(self, spans: Sequence[Span], offset: int) -> AsyncIterator[bytes]:
        """Iterate over the lines of some rows, from a byte on."""
        segments, left = self._engine.book.segments, list(spans)
        while left and offset >= (size := segments[left[0][0]].bytes_of(left[0][1], left[0][2])):
            offset -= size
            del left[0]
        async with aclosing(_closable(self._store.read(left))) as chunks:
            async for chunk in chunks:
                if offset < len(chunk):
                    yield chunk[offset:] if offset else chunk
                offset = max(0, offset - len(chunk))

    async def lines_of_failed(self, actions: Sequence[Action]) -> dict[Place, bytes]:
        """Read the requests whose server message may quote them, before the commit may drop them.

        What a budget forbids no server has spoken of; it may be told before the request is even on disk.
        """
        places = [
            place
            for action in actions
            if isinstance(action, Fail) and action.failure.kind != "budget"
            if len(action.failure.error.message) >= ECHO_CHARS_MIN
            for place in action.places
            if self._awaiters.has(place)
        ]
        lines: dict[Place, bytes] = {}
        for place in places:
            no, row = place >> ROW_BITS, place & ROW_MASK
            parts = [part async for part in self._store.read([(no, row, row + 1)])]
            lines[place_of(no, row)] = b"".join(parts)
        return lines


def facts_of(
    book: Book, lane: Lane, job_name: str, answered_at: float, route: Route = "batch", *, text_only: bool = False
) -> Facts:
    """Return what all answers of a job, or of a live call, share."""
    return Facts(
        route=route,
        job=job_name,
        kind=lane.kind,
        model=lane.model,
        answered_at=answered_at,
        cost=book.ledger.meter(route, lane, answered_at, text_only=text_only).cost,
    )


def _closable(iterator: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """Say what every provider and store returns: a generator, which must be closed when it is left early."""
    return cast("AsyncGenerator[_T, None]", iterator)
