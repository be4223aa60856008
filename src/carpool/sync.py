"""The client for code without ``await``: scripts, notebooks, threads.

Owns the blocking face of ``carpool.Client``, method by method, so that types and documentation are there. What a call
does is the async client's business; how it gets there and back is the portal's.

    with carpool.sync.Client() as client:
        print(client.generate("gemini-3.5-flash", "Why is the sky blue?").text)

Each call waits for its answer, so calls share a job when several threads make them at the same time, or when they come
as the rows of one ``map``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from carpool import client as _async
from carpool._deadline import ambient
from carpool._portal import Portal
from carpool._showing import in_short
from carpool.errors import ConfigurationError
from carpool.responses import EmbedResponse, GenerateResponse, Outcome, R_co, Response
from carpool.responses import Ticket as _AsyncTicket
from carpool.settings import Settings
from carpool.types import Alarm, BatchJob, Cache, File, Health, Kind, Receipt, Request, Stats

if TYPE_CHECKING:
    from datetime import date

    from carpool._ports import Provider, Store
    from carpool.settings import Ladder
    from carpool.types import Deadline

__all__ = ["Caches", "Client", "Files", "Jobs", "Ticket"]

T = TypeVar("T")
_AHEAD_MAX: Final = 100
"""Rows and outcomes that cross between threads together."""


class Client:
    """``carpool.Client`` whose calls wait: for scripts, notebooks and threads.

    Use it as ``with carpool.sync.Client() as client:``, or ``open`` it and ``close`` it. It has an event loop in a
    thread of its own, so it works where a loop runs already, as in notebooks. Any number of threads may use it at the
    same time. Ctrl-C during a call withdraws the request, as far as it was not sent, and leaves the client usable.

    One that is never closed lives until the interpreter ends, and is then left as after an exception: what was sent
    stays in flight and on record, and nothing more is sent.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        api_version: str = "v1beta",
        home: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        store: Store | None = None,
        provider: Provider | None = None,
        on_alarm: Callable[[Alarm], object] | None = None,
    ) -> None:
        """Set a client up; nothing is opened before it is entered. Arguments and errors as ``carpool.Client``.

        ``on_alarm`` is called in the thread of the client's event loop.
        """
        self._client = _async.Client(
            api_key=api_key,
            base_url=base_url,
            api_version=api_version,
            home=home,
            settings=settings,
            store=store,
            provider=provider,
            on_alarm=on_alarm,
        )
        self._portal = Portal(partial(self.close, clean=False))
        self.settings = self._client.settings
        self.jobs = Jobs(self._client, self._portal)
        self.files = Files(self._client, self._portal)
        self.caches = Caches(self._client, self._portal)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(clean=kind is None)

    def open(self) -> Self:
        """Open the client, and return it.

        Raises:
            ConfigurationError: it was opened before, or its home cannot be used.
            StoreError: or one of its kinds, as the store says.
        """
        self._portal.open(self._client.__aenter__)
        return self

    def close(self, *, clean: bool = True) -> None:
        """Leave as ``Settings.on_close`` says; calls of other threads end with ``ClientClosed``. Twice does no harm.

        Args:
            clean: whether all went well: after an exception nothing more is sent.
        """
        kind = None if clean else Exception
        self._portal.close(partial(self._client.__aexit__, kind, None, None))

    # -- one call

    def generate(
        self,
        model: str,
        contents: Any,
        *,
        config: Any = None,
        key: str | None = None,
        deadline: Deadline | None = None,
        ladder: Ladder | None = None,
    ) -> GenerateResponse:
        """Return the answer to one prompt. Arguments and errors as ``carpool.Client.generate``."""
        deadline = ambient() if deadline is None else deadline  # the loop's own context has no such block
        return self._portal.call(
            partial(self._client.generate, model, contents, config=config, key=key, deadline=deadline, ladder=ladder)
        )

    def embed(
        self,
        model: str,
        content: Any,
        *,
        config: Any = None,
        key: str | None = None,
        deadline: Deadline | None = None,
        ladder: Ladder | None = None,
    ) -> EmbedResponse:
        """Return the vector of one content. Arguments and errors as ``carpool.Client.embed``."""
        deadline = ambient() if deadline is None else deadline  # the loop's own context has no such block
        return self._portal.call(
            partial(self._client.embed, model, content, config=config, key=key, deadline=deadline, ladder=ladder)
        )

    # -- tickets and rows

    def submit(self, request: Request) -> Ticket[Any]:
        """Take a request in, and return once it is on disk. Errors as ``carpool.Client.submit``."""
        return Ticket(self._portal.call(partial(self._client.submit, request)), self._portal)

    def result(self, key: str) -> Response:
        """Return the answer of a ticket or explicit key. Errors as ``carpool.Client.result``."""
        return self._portal.call(partial(self._client.result, key))

    def map(
        self,
        requests: Iterable[Request | Mapping[str, Any]],
        *,
        window: int = 10_000,
        model: str | None = None,
        kind: Kind = "generate",
    ) -> Iterator[Outcome]:
        """Iterate over the outcomes of many requests as they come, with at most ``window`` of them outstanding.

        The rows are read in the thread that takes the outcomes, a few ahead; while one is waited for, so are outcomes.
        Dropping the iterator takes rows out that were not sent. Arguments and errors as ``carpool.Client.map``.
        """
        if isinstance(requests, AsyncIterable):
            raise ConfigurationError("requests must be a plain iterable; an async one is for carpool.Client")
        if window < 1:
            raise ConfigurationError(f"window is {in_short(window)}; it must be at least 1")

        def outcomes(rows: AsyncIterator[Request | Mapping[str, Any]]) -> AsyncIterator[Outcome]:
            return self._client.map(rows, window=window, model=model, kind=kind)

        return self._portal.feed(requests, outcomes, min(window, _AHEAD_MAX))

    def start(self, function: Callable[[_async.Client], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine function with the client behind this one, on its event loop, without waiting for it.

        Args:
            function: called with the ``carpool.Client``.

        Returns:
            What waits for it, from any thread; cancelling it cancels the coroutine.

        Raises:
            ConfigurationError, ClientClosed: this client is not open.
        """
        return self._portal.start(partial(function, self._client))

    # -- the whole

    def flush(self) -> None:
        """Send what waits now, as soon as jobs may start."""
        self._portal.call(self._client.flush)

    def drain(self) -> None:
        """Send everything, and wait until every request is settled."""
        self._portal.call(self._client.drain)

    def stats(self) -> Stats:
        """Return a snapshot of what waits and what was done; also after leaving."""
        return self._portal.look(self._client.stats)

    def health(self) -> Health:
        """Return whether the client works, and what an operator should look at; also after leaving."""
        return self._portal.look(self._client.health)

    def receipt(self, *, day: date | None = None) -> Receipt:
        """Return this client's account since it was opened, or that of a UTC day; also after leaving.

        Argument and errors as ``carpool.Client.receipt``.
        """
        return self._portal.look(partial(self._client.receipt, day=day))

    def __repr__(self) -> str:
        return f"carpool.sync.Client({self._portal.state})"


class Ticket(Generic[R_co]):
    """A request that is on disk: take its ``result``, as often as wanted, or ask ``client.result(key)`` later."""

    __slots__ = ("_portal", "_ticket", "key")

    def __init__(self, ticket: _AsyncTicket[R_co], portal: Portal) -> None:
        self.key = ticket.key
        self._ticket = ticket
        self._portal = portal

    def done(self) -> bool:
        """Return whether the response or the error is there."""
        return self._ticket.done()

    def result(self, timeout_s: float | None = None) -> R_co:
        """Wait for the response.

        Args:
            timeout_s: how long, in seconds; the request goes on beyond it.

        Raises:
            TimeoutError: it is not there yet.
            RequestError: or another error of the request, as ``carpool.Client.generate``.
            ClientClosed: the client was closed first.
        """
        if self._ticket.done():
            return self._ticket.result()
        return self._portal.call(partial(_within, self._ticket, timeout_s))

    def __repr__(self) -> str:
        return f"Ticket(key={self.key!r}, done={self.done()})"


async def _within(ticket: _AsyncTicket[R_co], timeout_s: float | None) -> R_co:
    async with asyncio.timeout(timeout_s):
        return await ticket


class Jobs:
    """Batch jobs on the server, whoever created them; errors as in ``carpool.Client.jobs``."""

    def __init__(self, client: _async.Client, portal: Portal) -> None:
        self._client = client
        self._portal = portal

    def list(self) -> Iterator[BatchJob]:
        """Iterate over all jobs, newest first."""
        return self._portal.iterate(self._client.jobs.list, 1)

    def get(self, name: str) -> BatchJob:
        """Return a job by its name (``batches/...``)."""
        return self._portal.call(partial(self._client.jobs.get, name))

    def cancel(self, name: str) -> None:
        """Cancel a job. What it has finished is paid for, and may still be fetched."""
        self._portal.call(partial(self._client.jobs.cancel, name))

    def delete(self, name: str) -> None:
        """Delete a job and its output; this does not cancel it."""
        self._portal.call(partial(self._client.jobs.delete, name))

    def results(self, name: str) -> Iterator[Outcome]:
        """Iterate over the rows of an ended job's output, as they come."""
        return self._portal.iterate(partial(self._client.jobs.results, name), _AHEAD_MAX)


class Files:
    """Uploaded files; errors as in ``carpool.Client.files``."""

    def __init__(self, client: _async.Client, portal: Portal) -> None:
        self._client = client
        self._portal = portal

    def upload(
        self, source: str | os.PathLike[str] | bytes, *, mime_type: str | None = None, display_name: str | None = None
    ) -> File:
        """Upload a file, and wait until it can be used.

        Args:
            source: a path, or the bytes themselves.
            mime_type: what it is; guessed from the name where it can be.
            display_name: how to list it.
        """
        return self._portal.call(
            partial(self._client.files.upload, source, mime_type=mime_type, display_name=display_name)
        )

    def get(self, name: str) -> File:
        """Return a file by its name (``files/...``)."""
        return self._portal.call(partial(self._client.files.get, name))

    def list(self) -> Iterator[File]:
        """Iterate over all files."""
        return self._portal.iterate(self._client.files.list, 1)

    def delete(self, name: str) -> None:
        """Delete a file."""
        self._portal.call(partial(self._client.files.delete, name))


class Caches:
    """Cached content; errors as in ``carpool.Client.caches``."""

    def __init__(self, client: _async.Client, portal: Portal) -> None:
        self._client = client
        self._portal = portal

    def create(
        self,
        model: str,
        contents: Any = None,
        *,
        config: Any = None,
        ttl_s: float = 3600,
        display_name: str | None = None,
    ) -> Cache:
        """Store content that many requests share; name it in ``config={"cached_content": cache.name}``.

        Args:
            model: the model of those requests.
            contents: as ``generate`` takes them.
            config: ``system_instruction``, ``tools``, ``tool_config``.
            ttl_s: how long it lives, in seconds.
            display_name: how to list it.
        """
        return self._portal.call(
            partial(self._client.caches.create, model, contents, config=config, ttl_s=ttl_s, display_name=display_name)
        )

    def get(self, name: str) -> Cache:
        """Return a cache by its name (``cachedContents/...``)."""
        return self._portal.call(partial(self._client.caches.get, name))

    def list(self) -> Iterator[Cache]:
        """Iterate over all caches."""
        return self._portal.iterate(self._client.caches.list, 1)

    def extend(self, name: str, *, ttl_s: float) -> Cache:
        """Let a cache live for this many seconds from now, and return it."""
        return self._portal.call(partial(self._client.caches.extend, name, ttl_s=ttl_s))

    def delete(self, name: str) -> None:
        """Delete a cache."""
        self._portal.call(partial(self._client.caches.delete, name))
