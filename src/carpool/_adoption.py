"""The adoption of slots whose process is gone: their unfinished work is run to its end, and they are handed back.

Owns when a slot is adopted, and the runtime that it gets. It must not know keys, nor who waits for which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from carpool._core.model import PARKED, ROW_BITS, ROW_MASK
from carpool._runtime.awaiters import Answer
from carpool._runtime.loop import Runtime
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Peek
from carpool._stores.slots import is_free, knock, was_knocked
from carpool._waiting import Waiter
from carpool.errors import CarpoolError, ClientClosed, StoreError, StoreLocked
from carpool.types import Alarm, Receipt, RouteTotals

if TYPE_CHECKING:
    from carpool._ports import Provider
    from carpool._runtime.entrance import Line
    from carpool._runtime.watch import OnAlarm

_RETRY_MAX_S: Final = 86_400.0


class _Lent:
    """A provider that its owner opens and closes."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def open(self) -> None:
        """Do nothing: it is open."""

    async def close(self) -> None:
        """Do nothing: it is needed."""


class Sibling:
    """Another slot of the home."""

    def __init__(self, number: int, peek: Peek, retry_s: float, raise_alarm: Callable[[Alarm], None]) -> None:
        self.number = number
        self.peek = peek
        self._raise_alarm = raise_alarm
        self._refreshing: asyncio.Future[None] | None = None
        self._refreshes = 0
        """How many were begun."""
        self.trouble: StoreError | None = None
        """Why it cannot be read."""
        self._reported = ""
        self.waiting: dict[str, list[Waiter]] = {}
        """Those who wait for what its process has under way."""
        self.pause_s = 0.0
        """Until the next look at it on their behalf."""
        self.is_polled = False
        self.knock_at = 0.0
        self.adopting: asyncio.Future[Runtime] | None = None
        """The runtime of an adopted slot, once it is open."""
        self.joined: set[asyncio.Future[Answer]] = set()
        """Calls that wait for an answer of the adopted slot."""
        self.free_since: float | None = None
        self.not_before = 0.0
        """When it may be adopted without being asked for; after an adoption that did not end the work, ever later."""
        self.retry_s = retry_s

    @property
    def is_adopted(self) -> bool:
        """Whether this client has it, or is about to."""
        return self.adopting is not None

    @property
    def runtime(self) -> Runtime | None:
        """The runtime of an adopted slot, while it takes calls."""
        adopting = self.adopting
        if adopting is None or not adopting.done() or adopting.cancelled() or adopting.exception() is not None:
            return None
        return adopting.result()

    async def refresh(self) -> None:
        """Make sure that what was written before now is seen. Nobody else reads on when this returns."""
        before = self._refreshes
        while True:
            if self._refreshing is None:
                if self.peek.is_current or self._refreshes > before:
                    return
                self._refreshes += 1
                self._refreshing = asyncio.get_running_loop().run_in_executor(None, self.peek.refresh)
                self._refreshing.add_done_callback(self._refreshed)
            await asyncio.wait((self._refreshing,))

    def _refreshed(self, reading: asyncio.Future[None]) -> None:
        self._refreshing = None
        error = None if reading.cancelled() else reading.exception()
        self.trouble = error if isinstance(error, StoreError) or error is None else StoreError(type(error).__name__)
        if self.trouble is None:
            self._reported = ""
        else:
            self.report(self.trouble)

    def report(self, error: CarpoolError) -> None:
        """Say what is wrong with a slot, once."""
        if str(error) != self._reported:
            self._reported = str(error)
            self._raise_alarm(Alarm("slot_unreadable", detail=str(error)))


class Adopter:
    """Adopts slots for one client. What it starts runs beside the client's own runtime, and ends with it.

    Args:
        runtime: the client's own.
        provider: which that opens and closes.
        home: the folder of the slots.
        line: makes the row of a request.
        on_alarm: as the client's.
    """

    def __init__(self, runtime: Runtime, provider: Provider, home: Path, line: Line, on_alarm: OnAlarm | None) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._provider = provider
        self._home = home
        self._line = line
        self._on_alarm = on_alarm
        self._account: Receipt | None = None
        """Of slots that were adopted and handed back."""

    async def look_after(self, sibling: Sibling, others: Iterable[Sibling]) -> None:
        """Adopt a slot if it was left with unfinished work long enough ago: one at a time."""
        if any(other.adopting is not None for other in others):
            return
        await sibling.refresh()
        if sibling.adopting is not None:
            return
        now, adopt_after_s = asyncio.get_running_loop().time(), self._settings.adopt_after_s
        if not sibling.peek.is_unfinished:
            sibling.retry_s, sibling.not_before, sibling.free_since = adopt_after_s, 0.0, None
            return
        if not is_free(sibling.peek.folder):
            sibling.free_since = None
            return
        if sibling.free_since is None:
            sibling.free_since = now
        # Nobody tells when a process ended. Where nothing was written for long it may have been long ago, and whoever
        # lives for less than that time could never adopt anything.
        is_old = self._runtime.now() - sibling.peek.written_at >= adopt_after_s
        if now < max(sibling.not_before, sibling.free_since + (adopt_after_s / 10 if is_old else adopt_after_s)):
            return
        try:
            await self.adopt(sibling)
        except StoreLocked:
            return
        except CarpoolError as error:
            sibling.report(error)

    def knock(self, sibling: Sibling) -> None:
        """Let a living process know that others wait for its answers, now and then.

        It may hold back what nobody of its own asks for any more, since the server could not be reached.
        """
        now = asyncio.get_running_loop().time()
        if now >= sibling.knock_at:
            sibling.knock_at = now + self._settings.adopt_after_s / 10
            knock(sibling.peek.folder)

    async def hear(self, folder: Path) -> None:
        """Send what is held back, if another process waits for answers of this client's own slot."""
        if not was_knocked(folder):
            return
        engine, woken = self._runtime.engine, False
        for key, place in list(engine.book.keys.live.items()):
            states = engine.book.segments[place >> ROW_BITS].states
            if states and states[place & ROW_MASK] == PARKED:
                engine.find(key)
                woken = True
        if woken:
            await self._runtime.flush()

    async def adopt(self, sibling: Sibling) -> None:
        """Go on with the work of a slot that nobody has, and return once it takes calls.

        Raises:
            StoreLocked: somebody has it.
            StoreError, ConfigurationError: it cannot be opened.
        """
        adopting = sibling.adopting
        if adopting is None:
            self._runtime.check()
            adopting = sibling.adopting = asyncio.get_running_loop().create_future()
            self._runtime.start(self._run, sibling, adopting)
        await asyncio.wait((adopting,))
        error = adopting.exception()
        if error is not None:
            raise copy(error)

    async def _run(self, sibling: Sibling, adopting: asyncio.Future[Runtime]) -> None:
        """Run a slot until its work is done, and hand it back."""
        loop, jobs = asyncio.get_running_loop(), sibling.peek.jobs
        store = DiskStore(self._home, self._settings, number=sibling.number)
        runtime = Runtime(self._settings, cast("Provider", _Lent(self._provider)), store, self._line, self._on_alarm)
        try:
            await loop.run_in_executor(None, sibling.peek.close)
            await runtime.open()
            adopting.set_result(runtime)
            words = f"{sibling.peek.folder} was left by its process; its unfinished work goes on here"
            self._runtime.raise_alarm(Alarm("slot_adopted", count=jobs, detail=words))
            await self._run_to_end(sibling, runtime)
        except CarpoolError as error:
            if not adopting.done():
                adopting.set_exception(error)
                return
            self._runtime.raise_alarm(Alarm("slot_left", detail=f"{sibling.peek.folder}: {error}"))
        finally:
            sibling.adopting = sibling.free_since = None
            # What is left undone, since the server could not be reached or the store failed, is not tried at once.
            sibling.not_before = loop.time() + sibling.retry_s
            sibling.retry_s = min(_RETRY_MAX_S, 2 * sibling.retry_s)
            if not adopting.done():
                adopting.set_exception(self.reason())
            if adopting.exception() is None:  # looked at: if nobody waits for it any more, that is no news
                receipt = runtime.engine.receipt()
                self._account = receipt if self._account is None else _sum(self._account, receipt)
            if not loop.is_closed():
                await self._hand_back(sibling, runtime)

    async def _hand_back(self, sibling: Sibling, runtime: Runtime) -> None:
        with anyio.CancelScope(shield=True):  # also when the client is being left
            try:
                await runtime.close("keep", clean=False)
            except CarpoolError as error:
                self._runtime.raise_alarm(Alarm("slot_left", detail=f"{sibling.peek.folder}: {error}"))

    async def _run_to_end(self, sibling: Sibling, runtime: Runtime) -> None:
        while True:
            await runtime.drain()
            joined = [future for future in sibling.joined if not future.done()]
            if joined:
                await asyncio.wait(joined)
            elif runtime.engine.idle:
                return

    @property
    def is_ending(self) -> bool:
        """Whether the client is being left, or cannot go on."""
        try:
            self._runtime.check()
        except CarpoolError:
            return True
        return False

    def reason(self) -> CarpoolError:
        """Return why nothing more will come."""
        try:
            self._runtime.check()
        except CarpoolError as error:
            if not isinstance(error, ClientClosed):
                return error
        return ClientClosed(
            "the client was closed before the answer came. What was sent stays on record: ask the same again, "
            "or for the key's result"
        )

    # -- the account

    def receipt(self, total: Receipt, siblings: Iterable[Sibling]) -> Receipt:
        """Return the client's own account with that of the slots that it adopted."""
        running = [one.runtime for one in siblings if one.runtime is not None]
        for receipt in (self._account, *(runtime.engine.receipt() for runtime in running)):
            if receipt is not None:
                total = _sum(total, receipt)
        return total


def _sum(one: Receipt, other: Receipt) -> Receipt:
    by_route = dict(one.by_route)
    for route, totals in other.by_route.items():
        mine = by_route.get(route)
        by_route[route] = (
            totals
            if mine is None
            else RouteTotals(
                requests=mine.requests + totals.requests,
                list_usd=mine.list_usd + totals.list_usd,
                paid_usd=mine.paid_usd + totals.paid_usd,
            )
        )
    return Receipt(
        by_route=by_route,
        doubles=one.doubles + other.doubles,
        overrun_usd=one.overrun_usd + other.overrun_usd,
        unknown_cost=one.unknown_cost + other.unknown_cost,
    )
