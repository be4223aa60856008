"""The store on disk: a slot of a home, a thread that owns its database, and the way to it from the event loop.

Owns the thread, the order in which things are done in it, and the grouping of commits: whatever is queued when the
thread comes to it goes into one transaction. Everything that takes time (framing, checksums, SQL, files) happens in the
thread. It must not know how values are laid out, nor SQL.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, assert_never

import msgspec

from carpool._core.messages import Record, Write
from carpool._core.model import ROW_BITS, ROW_MASK, Place, Span
from carpool._stores import segments
from carpool._stores.cache import again
from carpool._stores.database import Database
from carpool._stores.segments import Changes
from carpool._stores.slots import SLOTS_MAX, Slot, free_bytes, take_slot
from carpool.errors import ConfigurationError, StoreError, StoreFull
from carpool.settings import Settings

T = TypeVar("T")

GROUP_COMMITS_MAX: Final = 1_000
GROUP_BYTES_MAX: Final = 33_554_432
DISK_RESERVE_BYTES: Final = 33_554_432
"""What new requests leave free on the disk, so that the answers to old ones can still be written."""
LOOP_CHECK_S: Final = 1.0
"""How often an idle store looks whether its event loop is still there."""
LOAD_RECORDS: Final = 64
LOAD_BYTES: Final = 8_388_608


class _Commit(msgspec.Struct, frozen=True):
    """Writes that wait for the thread."""

    writes: Sequence[Write]
    done: asyncio.Future[None]


class _Call(msgspec.Struct, Generic[T], frozen=True):
    """A question to the database that waits for the thread."""

    function: Callable[[Database], T]
    done: asyncio.Future[T]


class _Stop(msgspec.Struct, frozen=True):
    """The last item; without ``done``, nobody waits for the end."""

    done: asyncio.Future[None] | None = None


_Item: TypeAlias = _Commit | _Call[Any] | _Stop
_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any, BaseException | None]


class DiskStore:
    """A durable store in one slot of a folder on a local disk, for one process and one event loop.

    Args:
        home: folder of the slots; made private to the user if it does not exist.
        settings: ``store_bytes_max`` limits how much is kept.
        slots_max: how many processes may share the home.
        number: of the slot to take; ``None``: the lowest free one.

    Raises:
        StoreError: or one of its kinds, from every method.
        ConfigurationError: ``open`` cannot use the home, or the path goes through something that is not a folder.
    """

    def __init__(
        self, home: Path, settings: Settings, *, slots_max: int = SLOTS_MAX, number: int | None = None
    ) -> None:
        # The process may change its folder later.
        self.home = home.absolute()
        self._settings = settings
        self._slots_max = slots_max
        self._number = number
        self._pid = os.getpid()
        self._writer: _Writer | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        if self._writer is None:
            return f"<DiskStore {self.home} not open>"
        return f"<DiskStore {self._writer.path} {'open' if self._closed is None else 'closed'}>"

    @property
    def path(self) -> Path:
        """The folder of the slot; the store must have been opened."""
        return self._opened().path

    @property
    def checked(self) -> bool:
        """Whether ``open`` found that the slot was not closed in order, and checked the whole database."""
        return self._opened().checked

    @property
    def room_bytes(self) -> int:
        """How much more new requests may take up: within ``Settings.store_bytes_max``, and on the disk."""
        writer = self._live()
        return min(writer.room_bytes, free_bytes(writer.path) - DISK_RESERVE_BYTES)

    async def open(self) -> None:
        """Take the lowest free slot of the home, and check it.

        Raises:
            ConfigurationError: the home cannot be used.
            StoreLocked: all slots are taken.
            StoreCorrupt: the slot does not hold what was written.
            StoreVersion: a later version of carpool wrote it.
            StoreFull: there is no room to open it.
        """
        self._check_process()
        if self._writer is not None:
            raise StoreError("the store was opened before: make a new one")
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        writer = _Writer(self.home, self._settings, partial(take_slot, self.home, self._slots_max, self._number))
        thread = threading.Thread(target=writer.run, args=(opened,), name="carpool-store", daemon=True)
        thread.start()
        try:
            await opened
        except BaseException:
            # Failed, or the caller was cancelled: then the thread lets go by itself.
            writer.queue.put(_Stop())
            raise
        self._writer, self._thread = writer, thread
        # A store that is dropped without being closed does not keep its slot.
        weakref.finalize(self, writer.queue.put, _Stop()).atexit = False

    async def close(self) -> None:
        """Finish what was committed and let go of the slot. Does nothing the second time."""
        if self._writer is None:
            return
        self._check_process()
        if self._closed is None:
            self._check_loop()
            self._closed = asyncio.get_running_loop().create_future()
            self._writer.queue.put(_Stop(self._closed))
        # Cancelled or not, the thread goes on to its end.
        await asyncio.shield(self._closed)
        if self._thread is not None:
            # It has nothing left to do but to return.
            self._thread.join()
            self._thread = None

    def commit(self, writes: Sequence[Write]) -> Awaitable[None]:
        """Queue writes; awaited, they are durable, all of them or none. Not awaiting takes nothing back.

        Raises:
            StoreFull: the disk or ``Settings.store_bytes_max`` is full.
            StoreCorrupt: the database is damaged.
        """
        writer = self._live()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.queue.put(_Commit(writes, done))
        return done

    def load(self) -> AsyncIterator[Record]:
        """Iterate over all records as they stood when it began: identity, segments, marks, jobs, results."""
        self._live()
        return self._load()

    async def _load(self) -> AsyncIterator[Record]:
        slices = await self._call(lambda database: database.slices(LOAD_RECORDS, LOAD_BYTES))
        async with aclosing(self._ahead(partial(Database.records, names=names) for names in slices)) as found:
            async for records in found:
                for record in records:
                    yield record

    def read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        """Iterate over the lines of these rows: one chunk a span. A segment is fetched while the one before is used."""
        self._live()
        return self._read(spans)

    async def _read(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        segment_rows = (
            partial(Database.lines, name=segments.segment_name(no), rows=[(start, stop) for _, start, stop in group])
            for no, group in groupby(spans, key=lambda span: span[0])
        )
        async with aclosing(self._ahead(segment_rows)) as found:
            async for chunks in found:
                for chunk in chunks:
                    yield chunk

    async def results(self, places: Sequence[Place]) -> list[bytes]:
        """Return the bodies of stored results; a place here is a results number and a row."""
        self._live()
        rows: dict[int, list[tuple[int, int]]] = {}
        for place in places:
            row = place & ROW_MASK
            rows.setdefault(place >> ROW_BITS, []).append((row, row + 1))
        fetch = (
            partial(Database.lines, name=segments.results_name(no), rows=some_rows) for no, some_rows in rows.items()
        )
        bodies = {no: iter(found) async for no, found in _zipped(rows, self._ahead(fetch))}
        return [next(bodies[place >> ROW_BITS]) for place in places]

    # -- the way to the thread

    def _call(self, function: Callable[[Database], T]) -> asyncio.Future[T]:
        writer = self._live()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        writer.queue.put(_Call(function, done))
        return done

    async def _ahead(self, functions: Iterable[Callable[[Database], T]]) -> AsyncGenerator[T]:
        """Iterate over what the functions return, the next one being under way while one is used."""
        waiting: Iterator[Callable[[Database], T]] = iter(functions)
        ahead: asyncio.Future[T] | None = None
        try:
            for function in waiting:
                current, ahead = ahead, self._call(function)
                if current is not None:
                    yield await current
            if ahead is not None:
                yield await ahead
        finally:
            # Whoever stops early leaves an answer behind; if that is an error, nobody is to be told.
            if ahead is not None and not ahead.cancel() and not ahead.cancelled():
                ahead.exception()

    def _opened(self) -> _Writer:
        self._check_process()
        if self._writer is None:
            raise StoreError("the store is not open")
        return self._writer

    def _live(self) -> _Writer:
        writer = self._opened()
        if self._closed is not None:
            raise StoreError("the store is closed")
        self._check_loop()
        return writer

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError("the store was made before this process was forked: make a new one in the child")

    def _check_loop(self) -> None:
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise StoreError("the store was opened on another event loop: make a new one on this one")


async def _zipped(numbers: Iterable[int], found: AsyncIterator[T]) -> AsyncIterator[tuple[int, T]]:
    waiting = iter(numbers)
    async for one in found:
        yield next(waiting), one


class _Writer:
    """What runs in the thread. It has no reference to the store, so that a forgotten store can be noticed."""

    def __init__(self, home: Path, settings: Settings, take: Callable[[], Slot]) -> None:
        self.queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self.path = home
        self.checked = False
        self.room_bytes = 0
        self._settings = settings
        self._take = take
        self._held: _Item | None = None
        self._taken: list[asyncio.Future[Any]] = []
        """Of what is being done, those who wait."""

    def run(self, opened: asyncio.Future[None]) -> None:
        """Own the slot until the end: open it, serve what is queued, close it."""
        try:
            slot, database = self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            _post([(opened, None, _typed(error))])
            return
        _post([(opened, None, None)])
        loop = opened.get_loop()
        while (stop := self._served(database, loop)) is None:
            pass
        outcome = _closing(slot, database)
        if stop.done is not None:
            _post([(stop.done, None, outcome)])

    def _open(self) -> tuple[Slot, Database]:
        slot = self._take()
        database = Database(slot, self._settings.store_bytes_max)
        try:
            database.open()
        except BaseException:
            slot.release()
            raise
        self.path, self.checked, self.room_bytes = slot.path, database.checked, database.room_bytes
        return slot, database

    def _served(self, database: Database, loop: asyncio.AbstractEventLoop) -> _Stop | None:
        """Do what is next. Whatever goes wrong with it, nobody waits for ever, and the slot is let go of in the end."""
        try:
            return self._serve(database, loop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            failure = _typed(error)
            if isinstance(failure, StoreError):
                database.broken = database.broken or failure  # nobody knows what was written
            _post([(done, None, _again(failure)) for done in self._taken])
            return None
        finally:
            self._taken = []

    def _serve(self, database: Database, loop: asyncio.AbstractEventLoop) -> _Stop | None:
        """Do what is next. Nothing of it is kept while waiting for more."""
        item = self._held if self._held is not None else self._next(loop)
        self._held = None
        match item:
            case _Commit():
                self._taken.append(item.done)
                outcomes = self._commit_group(database, item)
                self.room_bytes = database.room_bytes
                _post(outcomes)
            case _Call():
                self._taken.append(item.done)
                if not item.done.cancelled():
                    _post([_outcome(item, database)])
            case _Stop():
                return item
            case _:
                assert_never(item)
        return None

    def _next(self, loop: asyncio.AbstractEventLoop) -> _Item:
        while True:
            try:
                return self.queue.get(timeout=LOOP_CHECK_S)
            except queue.Empty:
                # Closed under the store: nobody can ask for anything, nor close it, and others want the slot.
                if loop.is_closed():
                    return _Stop()

    def _commit_group(self, database: Database, first: _Commit) -> list[_Outcome]:
        group: Changes = {}
        outcomes: list[_Outcome] = []
        staged: list[tuple[asyncio.Future[None], Changes]] = []
        size_bytes = 0
        for item in self._queued_commits(first):
            self._taken.append(item.done)
            try:
                changes = database.stage(item.writes)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                outcomes.append((item.done, None, _typed(error)))
                continue
            staged.append((item.done, changes))
            group.update(changes)
            size_bytes += sum(len(value or b"") for value in changes.values())
            if size_bytes >= GROUP_BYTES_MAX:
                break
        failure = _applied(database, group) if staged else None
        if failure is None or len(staged) == 1 or database.broken is not None:
            return outcomes + [(done, None, _again(failure)) for done, _ in staged]
        # One of them may be the reason: each for itself, in their order.
        return outcomes + [(done, None, _applied(database, changes)) for done, changes in staged]

    def _queued_commits(self, first: _Commit) -> Iterator[_Commit]:
        yield first
        for _ in range(GROUP_COMMITS_MAX - 1):
            try:
                item = self.queue.get_nowait()
            except queue.Empty:
                return
            if not isinstance(item, _Commit):
                self._held = item
                return
            yield item


def _applied(database: Database, changes: Changes) -> BaseException | None:
    try:
        database.apply(changes)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return _typed(error)
    return None


def _again(failure: BaseException | None) -> BaseException | None:
    return again(failure) if isinstance(failure, StoreError) else failure


def _outcome(call: _Call[Any], database: Database) -> _Outcome:
    try:
        return call.done, call.function(database), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return call.done, None, _typed(error)


def _closing(slot: Slot, database: Database) -> BaseException | None:
    try:
        database.close()
        if database.broken is None:
            slot.mark_clean()
    except StoreFull:
        # Without the mark, the next one to open the slot checks it: that is all.
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return _typed(error)
    finally:
        slot.release()
    return None


def _typed(error: Exception) -> StoreError | ConfigurationError:
    if isinstance(error, StoreError | ConfigurationError):
        return error
    # Not its text: that may be of a request.
    wrapped = StoreError(f"the store failed on a {type(error).__name__}, which is a bug or a lack of memory")
    wrapped.__cause__ = error
    return wrapped


def _post(outcomes: list[_Outcome]) -> None:
    """Tell those who wait, all in one turn of their loop."""
    if not outcomes:
        return
    try:
        outcomes[0][0].get_loop().call_soon_threadsafe(_settle, outcomes)
    except RuntimeError:
        # The loop was closed under the store: nobody is left to be told.
        return


def _settle(outcomes: list[_Outcome]) -> None:
    for done, value, error in outcomes:
        if done.done():
            continue
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)
