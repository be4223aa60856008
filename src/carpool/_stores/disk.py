"""The store on disk: a slot of a home, a thread that owns its database, and the way to it from the event loop.

Owns what a store is asked, and what belongs to its loop; the thread itself is in ``writer``. It must not know how
values are laid out, nor SQL.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from carpool._core.messages import Record, Write
from carpool._core.model import ROW_BITS, ROW_MASK, Place, Span
from carpool._stores import segments
from carpool._stores.database import Database
from carpool._stores.slots import SLOTS_MAX, free_bytes, take_slot
from carpool._stores.writer import Call, Stop, Writer
from carpool.errors import StoreError
from carpool.settings import Settings

T = TypeVar("T")

DISK_RESERVE_BYTES: Final = 33_554_432
"""What new requests leave free on the disk, so that the answers to old ones can still be written."""
LOAD_RECORDS: Final = 64
LOAD_BYTES: Final = 8_388_608


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
        self._writer: Writer | None = None
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
        writer = Writer(self.home, self._settings, partial(take_slot, self.home, self._slots_max, self._number))
        thread = threading.Thread(target=writer.run, args=(opened,), name="carpool-store", daemon=True)
        thread.start()
        try:
            await opened
        except BaseException:
            # Failed, or the caller was cancelled: then the thread lets go by itself.
            writer.queue.put(Stop())
            raise
        self._writer, self._thread = writer, thread
        # A store that is dropped without being closed does not keep its slot.
        weakref.finalize(self, writer.queue.put, Stop()).atexit = False

    async def close(self) -> None:
        """Finish what was committed and let go of the slot. Does nothing the second time."""
        if self._writer is None:
            return
        self._check_process()
        if self._closed is None:
            self._check_loop()
            self._closed = asyncio.get_running_loop().create_future()
            self._writer.queue.put(Stop(self._closed))
        # Cancelled or not, the thread goes on to its end.
        await asyncio.shield(self._closed)
        if self._thread is not None:
            # It has nothing left to do but to return.
            self._thread.join()
            self._thread = None

    def commit(self, writes: list[Write]) -> Awaitable[None]:
        """Queue writes; awaited, they are durable, all of them or none. Not awaiting takes nothing back.

        The list is emptied once they are durable: nobody holds bodies that are on disk.

        Raises:
            StoreFull: the disk or ``Settings.store_bytes_max`` is full.
            StoreCorrupt: the database is damaged.
        """
        writer = self._live()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.commit(writes, done)
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
        writer.queue.put(Call(function, done))
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

    def _opened(self) -> Writer:
        self._check_process()
        if self._writer is None:
            raise StoreError("the store is not open")
        return self._writer

    def _live(self) -> Writer:
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
