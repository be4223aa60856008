"""The client: where adapters are named and put together, and what users call.

Owns how a call becomes a request (key, deadline, ladder, encoding) and how an answer becomes a response. Everything
between is the runtime's.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage] - asyncio lists it for libraries
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import platformdirs

from carpool._arguments import checked_hook, checked_key, day_number
from carpool._asking import Asking, Begun
from carpool._caches import Caches
from carpool._core.model import EXPLICIT, TICKET
from carpool._deadline import ambient
from carpool._files import Files
from carpool._filewatch import FileWatch
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.encode import Encoder, line
from carpool._jobs import Jobs
from carpool._keeper import Keeper
from carpool._map import Desk, Form, Row, map_requests
from carpool._runtime.forgotten import look_after
from carpool._runtime.loop import Runtime
from carpool._showing import in_short
from carpool._siblings import Siblings
from carpool._stores.disk import DiskStore
from carpool._upstream import Upstream
from carpool.errors import CarpoolWarning, ConfigurationError, RequestError
from carpool.responses import EmbedResponse, GenerateResponse, Response, Ticket
from carpool.settings import Settings
from carpool.types import Alarm, Health, Kind, Receipt, Request, Stats

if TYPE_CHECKING:
    from datetime import date
    from weakref import finalize

    from carpool._ports import CacheService, FileService, Provider, Store
    from carpool.responses import Outcome
    from carpool.settings import Ladder
    from carpool.types import Deadline

GOOGLE_URL: Final = "https://generativelanguage.googleapis.com"
_PLACEHOLDER_KEY: Final = "none"
"""Sent to a base URL of the user's own where no key was given: whoever answers there decides whether it wants one."""


class Client:
    """Single awaited calls, sent through the Gemini Batch API.

    Use it as ``async with carpool.Client() as client:``; entering and leaving may happen in different tasks of a loop.
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
        """Set a client up; nothing is opened before it is entered.

        Args:
            api_key: Gemini API key; else ``GOOGLE_API_KEY``, else ``GEMINI_API_KEY``.
            base_url: where to call; else ``CARPOOL_BASE_URL``, else Google.
            api_version: path segment of the REST API.
            home: directory of the store; else ``CARPOOL_HOME``, else the user's state directory.
            settings: limits and waiting times; else from ``CARPOOL_*`` variables and defaults.
            store: a store of one's own instead of ``home``.
            provider: a provider of one's own instead of key and URL.
            on_alarm: called on the event loop with each alarm that is logged; it must not block. What it raises goes to
                the log.

        Raises:
            ConfigurationError: there is no key and no base URL, or a value cannot be used.
        """
        self.settings = Settings.from_env() if settings is None else settings
        if provider is None:
            provider = _provider(api_key, base_url, api_version, self.settings)
        if store is None:
            store = DiskStore(home_path(home), self.settings)
        self._encoder = Encoder()
        runtime = self._runtime = Runtime(self.settings, provider, store, line, checked_hook(on_alarm))
        self._entered = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that it was entered on."""
        self._finalizer: finalize[..., object] | None = None
        files: FileService | None = getattr(provider, "files", None)
        caches: CacheService | None = getattr(provider, "caches", None)
        self._watch = FileWatch(files, self.settings.file_margin_s, runtime.now, runtime.start)
        self._keeper = Keeper(caches, self.settings.cache_lead_s, runtime.now, runtime.is_open, runtime.start)
        self._siblings = Siblings(runtime, provider, store, line, on_alarm)
        self._asking = Asking(
            runtime=runtime,
            encoder=self._encoder,
            watch=self._watch,
            keeper=self._keeper,
            siblings=self._siblings,
            ready=self._ready,
        )
        self._ask = self._asking.ask
        self.jobs = Jobs(provider, self._ready)
        self.files = Files(files, self._ready, self._watch)
        self.caches = Caches(caches, self._ready)
        self.upstream = Upstream(getattr(provider, "passing", None), self._ready)

    async def __aenter__(self) -> Self:
        if sys.modules.get("trio") is not None and _under_trio():
            raise ConfigurationError(
                "carpool runs on asyncio only (aiohttp); under trio, run it in a thread of its own"
            )
        if self._entered:
            raise ConfigurationError("this client was entered before; make a new one")
        self._entered = True
        await self._runtime.open()
        self.loop = asyncio.get_running_loop()
        self._siblings.start()
        self._finalizer = look_after(self, self._runtime)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
        try:
            await self._siblings.settle_down(self.settings.on_close, clean=kind is None)
        finally:
            await self._runtime.close(self.settings.on_close, clean=kind is None)

    # -- awaiting one call

    async def generate(
        self,
        model: str,
        contents: Any,
        *,
        config: Any = None,
        key: str | None = None,
        deadline: Deadline | None = None,
        ladder: Ladder | None = None,
    ) -> GenerateResponse:
        """Await the answer to one prompt.

        Args:
            model: model name, with or without ``models/``.
            contents: a string, a part or content, a list of them, or google-genai's own types. A part may also be a
                ``carpool.Blob``, a ``pathlib.Path`` (read at the call, and sent inline), or a ``carpool.File``.
            config: fields of google-genai's ``GenerateContentConfig``, flat: a dict in snake_case or camelCase, or that
                type.
            key: identity of the request; the same key gives the same answer, also in later processes.
            deadline: ``"4h"``, ``"06:00"``, seconds, ``timedelta`` or aware ``datetime``; else that of the block
                (``with carpool.deadline("4h"):``), if it has one.
            ladder: routes to try in order, such as ``carpool.CHEAP`` and ``carpool.FAST``; see ``Settings.ladder``.

        Raises:
            ConfigurationError: an argument cannot be used, or a file that it names will be gone before a batch could
                run; nothing was sent.
            FileError: a file that was too old could not be uploaded again; nothing was sent.
            RequestRejected, RequestFailed, ResultMissing, SubmitAmbiguous, RequestTooLarge, NotBatchable, KeyConflict,
                StoreFull, StoreError, BudgetExceeded: as they say.
            DeadlineExceeded, ClientClosed: no answer came in time, or the client was closed first.
        """
        runtime = self._runtime
        if _get_running_loop() is not runtime.gate.serves:
            await self._come_in()
        encoded = self._encoder.generate(model, contents, config)
        schema = encoded.schema
        if deadline is None:
            deadline = ambient()
        if encoded.uses is None and (key is None or not self._siblings):
            until = None if deadline is None else self._asking.until(deadline, key)
            asked = self._ask("generate", model, encoded, key, 0, until, ladder)
        else:
            asked = await self._asking.ask_around("generate", model, encoded, key, 0, deadline, ladder)
        del contents, config, encoded  # a suspended frame would pin them: bodies live on disk, not here
        try:
            answer = await asked.future
        except asyncio.CancelledError:
            runtime.entrance.gone(asked)
            raise
        return GenerateResponse(asked.key, answer.raw, answer.facts, asked.accepted_at, asked.reused, schema)

    async def embed(
        self,
        model: str,
        content: Any,
        *,
        config: Any = None,
        key: str | None = None,
        deadline: Deadline | None = None,
        ladder: Ladder | None = None,
    ) -> EmbedResponse:
        """Await the vector of one content; a list of several is refused. Arguments and errors as ``generate``."""
        runtime = self._runtime
        if _get_running_loop() is not runtime.gate.serves:
            await self._come_in()
        encoded = self._encoder.embed(model, content, config)
        if deadline is None:
            deadline = ambient()
        if encoded.uses is None and (key is None or not self._siblings):
            until = None if deadline is None else self._asking.until(deadline, key)
            asked = self._ask("embed", model, encoded, key, 0, until, ladder)
        else:
            asked = await self._asking.ask_around("embed", model, encoded, key, 0, deadline, ladder)
        del content, config, encoded
        try:
            answer = await asked.future
        except asyncio.CancelledError:
            runtime.entrance.gone(asked)
            raise
        return EmbedResponse(asked.key, answer.raw, answer.facts, asked.accepted_at, asked.reused)

    async def ask(self, request: Request) -> Response:
        """Await the answer to a ``Request``, as ``generate`` or ``embed``: for adapters, which have finished ones.

        A body with ``responseJsonSchema``, which batches ignore, is sent with ``responseSchema`` in its place.

        Raises:
            ConfigurationError, NotBatchable, DeadlineExceeded, CarpoolError: as ``generate``.
        """
        begun = await self.begin(request)
        del request
        try:
            await begun.future
        except asyncio.CancelledError:
            begun.leave()
            raise
        return begun.response()

    async def begin(self, request: Request) -> Begun:
        """Take a request in as ``ask``, and return before its answer is there: for adapters that ask for several.

        Raises:
            ConfigurationError, NotBatchable, KeyConflict, StoreError: it is not taken in, as ``generate``.
        """
        await self._come_in()
        return await self._asking.begin(request)

    # -- tickets and rows

    async def submit(self, request: Request) -> Ticket[Any]:
        """Take a request in, and return once it is on disk. ``await`` the ticket, or ask ``result(ticket.key)`` later.

        Raises:
            ConfigurationError, FileError, RequestTooLarge, NotBatchable, KeyConflict, StoreError: as ``generate``.
        """
        await self._come_in()
        runtime = self._runtime
        asked, schema = await self._asking.ask_request(request, EXPLICIT | TICKET, None)
        asked.future.add_done_callback(_retrieve)
        await runtime.turn()
        return Ticket(asked.key, asked.future, partial(asked.response, request.kind, schema))

    async def result(self, key: str) -> Response:
        """Await the answer of a ticket or explicit key, given now or by an earlier process.

        Raises:
            RequestError: nobody ever gave this key, or its result is past its time.
            RequestRejected, RequestFailed, ResultMissing, SubmitAmbiguous, StoreError: the verdict, or unreadable.
            DeadlineExceeded: its deadline passed while nothing of it was under way, and it was withdrawn.
        """
        runtime = self._ready()
        asked = None
        if self._siblings and runtime.entrance.has_failed(checked_key(key)):
            asked = await self._siblings.find(key)  # it may have been asked again there
        asked = asked or runtime.entrance.find(checked_key(key)) or await self._siblings.find(key)
        if asked is None:
            raise RequestError(
                f"nothing is known of key {key!r}: it was never submitted here, or its result is past its time", key=key
            )
        try:
            answer = await asked.future
        except asyncio.CancelledError:
            runtime.entrance.gone(asked)
            raise
        return asked.response(answer.facts.kind, None, answer)

    def map(
        self,
        requests: Iterable[Row] | AsyncIterable[Row],
        *,
        window: int = 10_000,
        model: str | None = None,
        kind: Kind = "generate",
    ) -> AsyncGenerator[Outcome]:
        """Iterate over the outcomes of many requests as they come, with at most ``window`` of them outstanding.

        Rows without a key get one from their content and how often it occurred before, so that the same rows in a later
        process cost nothing again. A row that cannot be sent gives an outcome with its error, and costs no other row.

        Args:
            requests: rows, from any iterable: each a ``Request``, or a dict in the form of Google's own batch files,
                ``{"key": ..., "request": {...}}``.
            window: how many rows may be outstanding; bounds memory.
            model: of the rows that are dicts.
            kind: of the rows that are dicts.

        Raises:
            ConfigurationError: an argument cannot be used, or what is iterated over are no rows.
        """
        if window < 1:
            raise ConfigurationError(f"window is {in_short(window)}; it must be at least 1")
        return map_requests(Desk(self._ready, self._asking.ask_request), requests, window, Form(model, kind))

    # -- the whole

    async def flush(self) -> None:
        """Send what waits now, as soon as jobs may start."""
        await self._ready().flush()

    async def drain(self) -> None:
        """Send everything, and wait until every request is settled."""
        await self._ready().drain()

    def stats(self) -> Stats:
        """Return a snapshot of what waits and what was done; also after leaving."""
        return self._opened().stats()

    def health(self) -> Health:
        """Return whether the client works, and what an operator should look at; also after leaving."""
        return self._opened().health()

    def receipt(self, *, day: date | None = None) -> Receipt:
        """Return this client's account since it was opened, or that of a day; also after leaving.

        Args:
            day: a UTC day: the account of all processes that used this home for the same base URL, dead or alive. Money
                is on the day of its reservation; what another process's job costs is there once that is settled.

        Raises:
            ConfigurationError: ``day`` is no date.
            StoreError: or one of its kinds: another process's account cannot be read.
        """
        own = self._opened().engine.receipt()
        return self._siblings.receipt(own) if day is None else self._siblings.receipt_of(day_number(day))

    def __repr__(self) -> str:
        return f"Client(entered={self._entered})"

    # -- how a call becomes a request

    def _opened(self) -> Runtime:
        if not self._runtime.is_opened:
            raise ConfigurationError("this client is not open; use 'async with carpool.Client() as client:'")
        return self._runtime

    def _ready(self) -> Runtime:
        if not self._entered:
            raise ConfigurationError("this client is not open; use 'async with carpool.Client() as client:'")
        self._runtime.check()
        return self._runtime

    async def _come_in(self) -> None:
        """Look closer at whether a call can be taken: it cannot, or has to wait its turn."""
        runtime = self._ready()
        if runtime.crowded:
            await runtime.wait_turn()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at a ticket's error, so that a ticket that nobody awaits does not complain when it is collected."""
    if not future.cancelled():
        future.exception()


def _provider(api_key: str | None, base_url: str | None, api_version: str, settings: Settings) -> DeveloperProvider:
    base_url = base_url or os.environ.get("CARPOOL_BASE_URL") or None
    google, gemini = os.environ.get("GOOGLE_API_KEY"), os.environ.get("GEMINI_API_KEY")
    if api_key is None:
        if google and gemini:
            warnings.warn(
                "both GOOGLE_API_KEY and GEMINI_API_KEY are set; GOOGLE_API_KEY is used", CarpoolWarning, stacklevel=3
            )
        api_key = google or gemini
    if not api_key:
        if base_url is None:
            raise ConfigurationError(
                "there is no API key: pass api_key=..., or set GOOGLE_API_KEY or GEMINI_API_KEY. "
                "To see carpool work without one, run 'carpool demo'"
            )
        api_key = _PLACEHOLDER_KEY
    return DeveloperProvider(
        api_key=api_key, base_url=base_url or GOOGLE_URL, api_version=api_version, settings=settings
    )


def home_path(home: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the store: the argument, else ``CARPOOL_HOME``, else the user's state directory."""
    return Path(home or os.environ.get("CARPOOL_HOME") or platformdirs.user_state_dir("carpool", appauthor=False))


def _under_trio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
