"""An event loop in a thread of its own: calls into it that wait, and iterators of it that are plain ones here.

Owns the thread, the way across, and what Ctrl-C does on it. It must not know what is called.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar, cast

from anyio.from_thread import BlockingPortal, start_blocking_portal

from carpool.errors import CarpoolError, ClientClosed, ConfigurationError

T = TypeVar("T")
R = TypeVar("R")

_LEFTOVERS_S: Final = 1.0
"""How long calls that were dismissed may take to return, before they are cancelled."""
_LEAVE_S: Final = 10.0
"""How long a close that was cut short may take to let go of what it holds."""
_GATHER_S: Final = 0.01
"""How long rows are gathered before they are handed over together."""


class Portal:
    """Runs coroutines on a loop of its own, for any number of threads.

    Args:
        leave: called at the end of an interpreter that was never told to ``close``.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._state: Literal["new", "opening", "open", "closed"] = "new"
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._thread: AbstractContextManager[BlockingPortal] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._pid = 0
        self._ident: int | None = None

    @property
    def state(self) -> str:
        """How far it is: new, opening, open, or closed."""
        return self._state

    def open(self, first: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the loop, and run a first call on it; if that fails, nothing was opened.

        Raises:
            ConfigurationError: it was opened before.
        """
        with self._lock:
            if self._state != "new":
                raise ConfigurationError("this client was entered before; make a new one")
            self._state = "opening"
        try:
            thread = start_blocking_portal("asyncio", name="carpool-sync")
            portal = thread.__enter__()
            self._thread, self._pid = thread, os.getpid()
            self._loop, self._ident = portal.call(_here)
            _result(self._submit(first))
        except BaseException:
            self._state = "closed"
            self._stop()
            raise
        self._state = "open"
        atexit.register(self._end_of_interpreter)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take no more calls, run a last one, wait until all others have returned, and end the loop.

        Does nothing the second time.
        """
        if self._state == "open":
            self._check()
            self._check_thread()
        left = threading.Event()

        async def leave() -> None:
            try:
                await last()
            finally:
                left.set()

        with self._lock:
            if self._state != "open":
                return
            self._state = "closed"
            others = list(self._calls)
            future = self._submit(leave)
        atexit.unregister(self._end_of_interpreter)
        try:
            _result(future)
        finally:
            left.wait(_LEAVE_S)  # also where Ctrl-C cut it short: then it still has to let go of what it holds
            wait(others, _LEFTOVERS_S)
            for other in others:
                other.cancel()
            self._stop()

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function on the loop, and wait for what it returns or raises.

        A ``KeyboardInterrupt`` that ends the wait cancels the call.

        Raises:
            ClientClosed: there is no loop any more, or it ended first.
            ConfigurationError: it was never started, or not in this process, or this is its own thread.
        """
        self._check_thread()
        return _result(self.start(function))

    def start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine function on the loop, and return what waits for it.

        Raises:
            ClientClosed, ConfigurationError: as ``call``.
        """
        self._check()
        with self._lock:
            if self._state != "open":
                raise _closed()
            return self._submit(function)

    def look(self, function: Callable[[], T]) -> T:
        """Return what a plain function says, between turns of the loop while there is one."""

        async def ask() -> T:
            return function()

        with self._lock:
            ended = self._state == "closed"
        return function() if ended else self.call(ask)

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the loop call a plain function soon, without waiting; from any thread. Nothing happens after the end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: what was to be done is done
            self._loop.call_soon_threadsafe(function, *arguments)

    def iterate(self, source: Callable[[], AsyncIterator[T]], ahead_max: int) -> Iterator[T]:
        """Iterate over what an async iterator on the loop gives; dropping the iterator ends that one.

        Args:
            source: makes the async iterator.
            ahead_max: how many items may be taken from it ahead.
        """
        stream = Stream(source, ahead_max)
        try:
            while block := self.call(stream.take):
                yield from block
        finally:
            self.post(stream.stop)

    def feed(
        self, rows: Iterable[R], source: Callable[[AsyncIterator[R]], AsyncIterator[T]], ahead_max: int
    ) -> Iterator[T]:
        """Iterate over what an async iterator makes of rows, which are read here, in the caller's thread.

        Args:
            rows: read when the async iterator asks for more, a few at a time.
            source: makes the async iterator out of the rows.
            ahead_max: how many rows, and how many items, may be ahead.
        """
        trough: Trough[R] = Trough()
        stream = Stream(partial(source, trough), ahead_max)
        trough.on_hunger = stream.wake
        waiting = iter(rows)
        try:
            while True:
                block, hungry = self.call(partial(_served, stream, trough))
                if hungry:
                    self.post(trough.fill, *_gathered(waiting, ahead_max))
                elif not block:
                    return
                yield from block
        finally:
            self.post(stream.stop)

    def _submit(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        future = asyncio.run_coroutine_threadsafe(function(), self._loop)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def _check(self) -> None:
        if self._state == "closed":
            raise _closed()
        if self._state != "open":
            raise ConfigurationError("this client is not open; use 'with carpool.sync.Client() as client:'")
        if self._pid != os.getpid():
            raise ConfigurationError("this client was opened before a fork; open one in the child")

    def _check_thread(self) -> None:
        if self._ident == threading.get_ident():
            raise ConfigurationError("this is the client's own thread, which cannot wait for itself")

    def _stop(self) -> None:
        if self._thread is not None:
            self._thread.__exit__(None, None, None)

    def _end_of_interpreter(self) -> None:
        if self._pid == os.getpid():
            self._leave()


class Stream(Generic[T]):
    """An async iterator on the loop, taken from in blocks. All but making it happens on the loop."""

    def __init__(self, source: Callable[[], AsyncIterator[T]], ahead_max: int) -> None:
        self._source = source
        self._ahead_max = ahead_max
        self._items: list[T] = []
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def take(self, until: Callable[[], bool] = lambda: False) -> list[T]:
        """Return what there is, as soon as there is anything or a condition holds; nothing else is the end.

        Raises:
            Exception: whatever ended the iterator, once all before it was taken.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(_look_at)
        while not self._items and not self._task.done() and not until():
            self._changed.clear()
            await self._changed.wait()
        items, self._items = self._items, []
        self._room.set()
        if not items and self._task.done():
            if self._task.cancelled():
                raise _closed()
            self._task.result()
        return items

    def wake(self) -> None:
        """Let ``take`` look at its condition."""
        self._changed.set()

    def stop(self) -> None:
        """End the iterator where it is."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            async with aclosing(cast("AsyncGenerator[T]", self._source())) as items:
                async for item in items:
                    self._items.append(item)
                    self._changed.set()
                    while len(self._items) >= self._ahead_max:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._changed.set()


class Trough(Generic[R]):
    """Rows from another thread, as an async iterator. All of it happens on the loop."""

    def __init__(self) -> None:
        self.hungry = False
        self.on_hunger: Callable[[], None] = lambda: None
        self._rows: deque[R] = deque()
        self._ended = False
        self._filled = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        while not self._rows:
            if self._ended:
                raise StopAsyncIteration
            self.hungry = True
            self.on_hunger()
            self._filled.clear()
            await self._filled.wait()
        return self._rows.popleft()

    def fill(self, rows: list[R], ended: bool) -> None:  # noqa: FBT001 - called across threads, by position
        """Add rows; ``ended``: they are the last."""
        self._rows.extend(rows)
        self._ended = ended
        self._filled.set()


async def _served(stream: Stream[T], trough: Trough[Any]) -> tuple[list[T], bool]:
    """Return what there is, and whether more rows are wanted."""
    block = await stream.take(lambda: trough.hungry)
    hungry, trough.hungry = trough.hungry, False
    return block, hungry


def _gathered(rows: Iterator[R], count_max: int) -> tuple[list[R], bool]:
    """Return some rows, as many as come quickly but at least one, and whether they are the last."""
    found: list[R] = []
    until = time.monotonic() + _GATHER_S
    for row in rows:
        found.append(row)
        if len(found) == count_max or time.monotonic() >= until:
            return found, False
    return found, True


def _result(future: Future[T]) -> T:
    """Wait for a call, and return or raise what came of it."""
    try:
        error = future.exception()
    except CancelledError:
        raise _closed() from None
    except BaseException:
        future.cancel()
        raise
    if error is None:
        return future.result()
    try:
        # What the loop's frames would tell is how carpool works; the way from the caller to here is what is wanted.
        raise error.with_traceback(None) if isinstance(error, CarpoolError) else error
    finally:
        del error  # it holds this frame


def _closed() -> ClientClosed:
    return ClientClosed("the client is closed; make a new one")


def _look_at(task: asyncio.Task[None]) -> None:
    """Look at how an iterator ended, so that one that nobody takes from any more does not complain about it."""
    if not task.cancelled():
        task.exception()


def _here() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), threading.get_ident()
