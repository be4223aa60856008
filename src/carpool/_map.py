"""Many requests in, outcomes out as they come.

Owns the window and the keys of rows that have none. No task a row: a callback on each future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeGuard

import anyio

from carpool._core.model import EXPLICIT
from carpool._runtime.awaiters import Answer, Asked
from carpool._runtime.loop import Runtime
from carpool._showing import in_short
from carpool.errors import CarpoolError, ConfigurationError, FileError, RequestError
from carpool.responses import Outcome
from carpool.types import Kind, Request

Row: TypeAlias = Request | Mapping[str, Any]
"""A request, or a row in the form of Google's own batch files."""


class Desk:
    """What ``map`` sees of a client.

    Args:
        ready: returns the runtime, or raises if no call can be taken now.
        ask: takes a row in, and returns it with the schema that its answer is read with.
    """

    def __init__(self, ready: Callable[[], Runtime], ask: Callable[..., Awaitable[tuple[Asked, Any]]]) -> None:
        self._ready = ready
        self._ask = ask

    async def wait_for_room(self) -> None:
        """Wait while too much is waiting."""
        runtime = self._ready()
        if runtime.crowded:
            await runtime.wait_turn()

    def ask_row(self, request: Request, occurred: dict[bytes, int]) -> Awaitable[tuple[Asked, Any]]:
        """Take a row in; return it with the schema that its answer is read with."""
        return self._ask(request, EXPLICIT, occurred)

    def row_gone(self, asked: Asked) -> None:
        """Note that nobody awaits a row any more."""
        self._ready().entrance.gone(asked)


class Form:
    """How rows in Google's own form become requests: ``{"key": ..., "request": {...}}``.

    Args:
        model: of all such rows.
        kind: of all such rows.
    """

    def __init__(self, model: str | None, kind: Kind) -> None:
        if kind not in ("generate", "embed"):
            raise ConfigurationError(f"kind is {in_short(kind)}; it must be 'generate' or 'embed'")
        self._model = model
        self._kind: Kind = kind

    def check(self, row: object) -> Row:
        """Return what may be a row; raise ``ConfigurationError`` for what makes every row useless."""
        if isinstance(row, Request):
            return row
        if not _is_row(row):
            raise ConfigurationError(f"map takes rows of type Request or dict, not {type(row).__name__}")
        if self._model is None:
            raise ConfigurationError("rows in the form of dicts do not name their model: call map(rows, model=...)")
        return row

    def request_of(self, row: Mapping[str, Any]) -> Request:
        """Return the request of a row.

        Raises:
            ConfigurationError: it has not the form of a row.
        """
        key, body = row.get("key"), row.get("request")
        known = key if isinstance(key, str) else None
        unknown = [name for name in row if name not in ("key", "request")]
        if body is None or unknown or not isinstance(key, str | None):
            wrong = (
                f"it has {in_short(unknown[0])}"
                if unknown
                else "it has no 'request'"
                if body is None
                else "its key is no string"
            )
            raise ConfigurationError(
                f'this is not a row: {wrong}. A row is {{"key": ..., "request": {{...}}}}; the key may be left out',
                key=known,
            )
        return Request(model=self._model or "", kind=self._kind, key=known, body=body)


def _is_row(row: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(row, Mapping)


class _Window:
    """Rows outstanding, and the outcomes that nobody has taken yet."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._occurred: dict[bytes, int] = {}
        self._asked: dict[int, Asked] = {}
        self._number = 0
        self.done: deque[Outcome] = deque()
        self.changed = asyncio.Event()
        self.room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._asked)

    async def ask(self, row: Row, form: Form) -> None:
        """Take a row in; one that cannot be sent gives its outcome at once."""
        self._number += 1
        number = self._number
        key = None
        try:
            request = row if isinstance(row, Request) else form.request_of(row)
            key = request.key
            asked, schema = await self._desk.ask_row(request, self._occurred)
        except (RequestError, ConfigurationError, FileError) as error:
            self.done.append(Outcome(key=error.key or key or f"row {number}", error=error))
            return
        kind = request.kind
        del row, request  # what is suspended or called back must not pin contents
        self._asked[number] = asked

        def settled(future: asyncio.Future[Answer]) -> None:
            if self._asked.pop(number, None) is not None and not future.cancelled():
                self.done.append(_outcome(kind, asked, schema, future))
                self.changed.set()

        asked.future.add_done_callback(settled)

    def withdraw(self) -> None:
        """Let go of what is outstanding: rows that were not sent are taken out."""
        outstanding, self._asked = list(self._asked.values()), {}
        for asked in outstanding:
            asked.future.cancel()
            self._desk.row_gone(asked)


async def map_requests(
    desk: Desk, requests: Iterable[Row] | AsyncIterable[Row], window_rows: int, form: Form
) -> AsyncGenerator[Outcome]:
    """Iterate over outcomes; see ``Client.map``."""
    window = _Window(desk)
    feeding = asyncio.get_running_loop().create_task(_feed(window, desk, requests, window_rows, form))
    try:
        while True:
            while window.done:
                yield window.done.popleft()
            window.room.set()
            if feeding.done() and (feeding.exception() is not None or not len(window)):
                break
            window.changed.clear()
            await window.changed.wait()
        feeding.result()
    finally:
        feeding.cancel()
        with anyio.CancelScope(shield=True):  # a scope that was cancelled would cancel this wait too
            await asyncio.wait((feeding,))
        window.withdraw()


async def _feed(
    window: _Window, desk: Desk, requests: Iterable[Row] | AsyncIterable[Row], window_rows: int, form: Form
) -> None:
    """Take rows in as long as there is room; outcomes that nobody has taken yet count too."""
    try:
        async for request in requests if isinstance(requests, AsyncIterable) else _aiter(requests):
            await desk.wait_for_room()
            await window.ask(form.check(request), form)
            while len(window) + len(window.done) >= window_rows:
                window.changed.set()
                window.room.clear()
                await window.room.wait()
            if window.done:
                window.changed.set()
    finally:
        window.changed.set()


async def _aiter(requests: Iterable[Row]) -> AsyncIterator[Row]:
    """Iterate over plain rows, letting the loop breathe now and then."""
    for number, request in enumerate(requests):
        if number % 1_000 == 0:
            await asyncio.sleep(0)
        yield request


def _outcome(kind: Kind, asked: Asked, schema: Any, future: asyncio.Future[Answer]) -> Outcome:
    error = future.exception()
    if isinstance(error, CarpoolError):
        return Outcome(key=asked.key, error=error)
    if error is not None:
        return Outcome(key=asked.key, error=CarpoolError(f"{type(error).__name__}: {error}", key=asked.key))
    return Outcome(key=asked.key, response=asked.response(kind, schema, future.result()))
