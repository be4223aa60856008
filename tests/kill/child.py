"""A program that uses carpool, and may be killed at any moment: what a nursery's children run.

Owns the calls of an order, made with a client over a store and a provider that pass points, and what is said of them:
one JSON object a line, written at once, so that a killed process has said all that it knew.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec

from carpool import CarpoolError, Client, Request, Settings
from carpool._core.routing import Durations
from carpool._gemini.developer import DeveloperProvider
from carpool._stores.disk import DiskStore
from carpool.emulator import expected_text, expected_values

from .killing import Kill, Killer, KillingProvider, KillingStore, watch_the_disk, watch_the_wire

MODEL = "gemini-3.5-flash"
EMBED_MODEL = "gemini-embedding-001"
API_KEY = "AIza-kill-0123456789"
_DIMENSIONS = 8
How = Literal["bare", "keyed", "ticket", "row"]


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call: its text says it all, and is its key where it has one. ``pad`` is how many characters are added.

    ``ladder`` is empty for the batch route alone.
    """

    how: How
    text: str
    embed: bool = False
    pad: int = 0
    ladder: tuple[str, ...] = ()
    deadline_s: float | None = None

    @property
    def contents(self) -> str:
        """What is asked."""
        return self.text + "-" * self.pad


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one process does.

    First it looks up ``results`` and waits for them; if ``go_on``, it waits until nothing is under way. Then it makes
    its calls in ``waves``, and waits for them all and ``stay_s`` more, or leaves when so many are answered
    (``leave_after``).
    """

    base_url: str
    home: str
    settings: dict[str, Any]
    asks: list[Ask] = []
    results: list[str] = []
    go_on: bool = False
    waves: int = 1
    leave_after: int | None = None
    drain: bool = True
    stay_s: float = 0.0
    kill: Kill | None = None
    checkpoints: bool = False
    disk_pause_s: float = 0.0
    usual_s: dict[str, float] = {}
    """How long routes usually take; empty: as it is learned."""
    plain: bool = False
    """With a client as users make it, which passes no points and says nothing of its store."""
    spoil: str = ""
    """A way to make the client worse than it is, to see whether anybody notices."""


class Program:
    """One run."""

    def __init__(self, order: Order, words: int) -> None:
        self._order = order
        self._words = words
        self._killer = Killer(order.kill, self.say)
        self._answers = 0
        self._enough = asyncio.Event()

    def say(self, event: str, **more: Any) -> None:
        """Tell the parent, at once."""
        os.write(self._words, msgspec.json.encode({"event": event, "at": time.time(), **more}) + b"\n")

    async def run(self) -> None:
        order = self._order
        # As JSON has it.
        money = {name: Decimal(value) for name, value in order.settings.items() if name.endswith("_usd")}
        settings = Settings(**order.settings | money)
        client = self._client(settings)
        async with client:
            stats = client.stats()
            self.say("opened", parked=stats.parked)
            await asyncio.gather(*(self._look_up(client, key) for key in order.results))
            if order.go_on:
                await client.drain()
                self.say("went on")
            calls = await self._ask(client)
            await self._wait(client, calls)
            self._account(client, "waited")
            self._killer.passing("leave.start")
        await asyncio.gather(*calls)
        self._killer.passing("leave.end")
        self._account(client, "done")

    def _client(self, settings: Settings) -> Client:
        order = self._order
        if order.plain:
            return Client(api_key=API_KEY, base_url=order.base_url, home=order.home, settings=settings)
        if order.usual_s:  # whatever is learned
            Durations._within_s = lambda _self, _model, route, _share: order.usual_s[route]  # type: ignore[method-assign]
        watch_the_wire(self._killer)
        watch_the_disk(self._killer, self.say, checkpoints=order.checkpoints, pause_s=order.disk_pause_s)
        store = KillingStore(DiskStore(Path(order.home), settings), self._killer, self.say)
        real = DeveloperProvider(api_key=API_KEY, base_url=order.base_url, settings=settings)
        provider = KillingProvider(real, self._killer, self.say)
        return Client(settings=settings, store=store, provider=provider)

    async def _ask(self, client: Client) -> list[asyncio.Task[None]]:
        """Make the calls, some at a time; tickets are awaited like the others."""
        order = self._order
        calls: list[asyncio.Task[None]] = []
        size = max(1, -(-len(order.asks) // order.waves))
        for start in range(0, len(order.asks), size):
            wave = order.asks[start : start + size]
            for ask in wave:
                self.say("asked", how=ask.how, text=ask.text)
                calls.append(asyncio.create_task(self._call(client, ask)))
            await asyncio.sleep(0.02 if start + size < len(order.asks) else 0)
        self.say("asked all")
        return calls

    async def _wait(self, client: Client, calls: list[asyncio.Task[None]]) -> None:
        if self._order.leave_after is None:
            await asyncio.gather(*calls)
            if self._order.drain:
                await client.drain()
            await asyncio.sleep(self._order.stay_s)
        elif self._order.leave_after:
            enough = asyncio.create_task(self._enough.wait())
            await asyncio.wait((enough, asyncio.gather(*calls)), return_when=asyncio.FIRST_COMPLETED)
            enough.cancel()

    async def _call(self, client: Client, ask: Ask) -> None:
        try:
            response = await self._response(client, ask)
        except CarpoolError as error:
            self.say("failed", text=ask.text, error=type(error).__name__, words=str(error))
        else:
            self._answered(ask.text, ask, response)

    async def _response(self, client: Client, ask: Ask) -> Any:
        model = EMBED_MODEL if ask.embed else MODEL
        config = {"output_dimensionality": _DIMENSIONS} if ask.embed else None
        key = None if ask.how == "bare" else ask.text
        route: dict[str, Any] = {"ladder": ask.ladder or None, "deadline": ask.deadline_s}
        if ask.how in ("ticket", "row"):
            kind: Literal["embed", "generate"] = "embed" if ask.embed else "generate"
            request = Request(model=model, kind=kind, contents=ask.contents, config=config, key=key, **route)
            if ask.how == "row":
                (outcome,) = [outcome async for outcome in client.map([request])]
                if outcome.error is not None:
                    raise outcome.error
                return outcome.response
            ticket = await client.submit(request)
            self.say("acknowledged", key=key)
            return await ticket
        call = client.embed if ask.embed else client.generate
        return await call(model, ask.contents, config=config, key=key, **route)

    async def _look_up(self, client: Client, key: str) -> None:
        try:
            response = await client.result(key)
        except CarpoolError as error:
            self.say("failed", text=key, error=type(error).__name__, words=str(error))
        else:
            self._answered(key, None, response)

    def _answered(self, text: str, ask: Ask | None, response: Any) -> None:
        """Say what came: the bytes by their digest, and whether they are this call's own answer."""
        self._killer.passing("told.before")
        own = True
        if ask is not None and ask.embed:
            own = list(response.values) == expected_values(ask.contents, _DIMENSIONS)
        elif ask is not None:
            own = response.text == expected_text(ask.contents)
        receipt = response.receipt
        self.say(
            "answered",
            text=text,
            key=response.key,
            own=own,
            digest=hashlib.sha256(response.raw).hexdigest()[:16],
            job=receipt.job,
            reused=receipt.reused,
        )
        self._killer.passing("told.after")
        self._answers += 1
        if self._answers == self._order.leave_after:
            self._enough.set()

    def _account(self, client: Client, event: str) -> None:
        stats, receipt = client.stats(), client.receipt()
        self.say(
            event,
            waiting=stats.waiting,
            sent=stats.sent,
            parked=stats.parked,
            jobs_created=stats.jobs_created,
            doubles=receipt.doubles,
            requests=receipt.requests,
            live=sum(totals.requests for name, totals in receipt.by_route.items() if name != "batch"),
            lost_usd=str(receipt.lost_usd),
        )


def _show_tasks() -> None:
    """Write to standard error where each task waits, from its own call down to the last."""
    for task in asyncio.all_tasks():
        lines: list[str] = []
        inner: Any = task.get_coro()
        while inner is not None:
            kind = next((kind for kind in ("cr", "ag") if hasattr(inner, f"{kind}_frame")), "")
            frame = getattr(inner, f"{kind}_frame", None)
            if frame is not None:
                lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
            inner = getattr(inner, f"{kind}_await", None)
        sys.stderr.write("\n".join([task.get_name(), *lines, ""]))


def run(order: Order, words: int) -> None:
    """Do what an order says; return when it is done."""
    if order.spoil:
        from . import spoilt  # noqa: PLC0415 - only whoever asks for it gets a worse client

        spoilt.SPOILERS[order.spoil]()

    async def program() -> None:
        # Of a program that hangs, its parent wants to know where.
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, _show_tasks)
        await Program(order, words).run()

    asyncio.run(program())
