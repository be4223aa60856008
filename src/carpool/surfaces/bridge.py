"""The way to a client's event loop, from whichever thread or loop a call comes.

Owns that way, and the client of a surface that was given none. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from carpool import sync
from carpool.client import Client
from carpool.errors import ConfigurationError
from carpool.surfaces.exchange import Exchange

T = TypeVar("T")
Given = Client | sync.Client | None
Work = Callable[[Exchange], Coroutine[Any, Any, T]]
_NOT_OPEN: Final = "this client is not open; use 'async with carpool.Client() as client:'"


class Bridge:
    """Runs coroutine functions with the exchange of one client, on its loop.

    Args:
        client: a client of the caller's own, which it opens and closes; ``None``: one of this bridge's own, opened with
            the first call, in a thread of its own, so that any number of event loops and threads may share it.
        make: makes that client.
        options: of the exchange.
    """

    def __init__(self, client: Given, make: Callable[[], sync.Client], **options: Any) -> None:
        given: Any = client
        if not isinstance(given, Client | sync.Client | None):
            raise ConfigurationError(
                f"client must be a carpool.Client or a carpool.sync.Client, not {type(given).__name__}"
            )
        self._given = client
        self._make = make
        self._options = options
        self._own: sync.Client | None = None
        self._exchange: tuple[Client, Exchange] | None = None
        self._under_way = 0
        self._lock = threading.Lock()

    async def run(self, work: Work[T]) -> T:
        """Await what a coroutine function returns."""
        if isinstance(self._given, Client) and self._given.loop is asyncio.get_running_loop():
            return await self._work(work, self._given)
        return await asyncio.wrap_future(self._start(work))

    def wait(self, work: Work[T]) -> T:
        """Wait for what a coroutine function returns.

        Raises:
            ConfigurationError: this is the thread of the client's own loop, which cannot wait for itself.
        """
        if isinstance(self._given, Client) and self._given.loop is _running_loop():
            raise ConfigurationError(
                "a blocking call on the event loop of its carpool.Client would wait for ever: call 'client.aio' and "
                "await it, use another thread, or give carpool.sync.Client"
            )
        future = self._start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C here; after the end it does nothing
            raise

    def close(self) -> None:
        """Close the client if it is this bridge's own and nobody uses it; the next call opens another."""
        with self._lock:
            if self._under_way:
                return
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _start(self, work: Work[T]) -> Future[T]:
        given = self._given
        if isinstance(given, Client):
            if given.loop is None or given.loop.is_closed():
                raise ConfigurationError(_NOT_OPEN)
            return asyncio.run_coroutine_threadsafe(self._work(work, given), given.loop)
        if given is not None:
            return given.start(partial(self._work, work))
        with self._lock:
            if self._own is None:
                self._own = self._make().open()
            future = self._own.start(partial(self._work, work))
            self._under_way += 1
        future.add_done_callback(self._ended)
        return future

    async def _work(self, work: Work[T], client: Client) -> T:
        """Run on the client's loop."""
        if self._exchange is None or self._exchange[0] is not client:
            self._exchange = client, Exchange(client, **self._options)
        return await work(self._exchange[1])

    def _ended(self, _: object) -> None:
        with self._lock:
            self._under_way -= 1


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
