"""The adoption of slots whose process is gone: their unfinished work is run to its end, and they are handed back.

Owns when a slot is adopted, and the runtime that it gets. It must not know keys, nor who waits for which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

from carpool._core.model import PARKED, ROW_BITS, ROW_MASK
from carpool._lookout import Lookout, Sibling
from carpool._runtime.loop import Runtime
from carpool._stores.disk import DiskStore
from carpool._stores.slots import is_free, knock, was_knocked
from carpool.errors import CarpoolError, StoreLocked
from carpool.types import Alarm, Receipt

if TYPE_CHECKING:
    from carpool._ports import Provider
    from carpool._runtime.entrance import Line
    from carpool._runtime.watch import OnAlarm


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


class Adopter:
    """Adopts slots for one client. What it starts runs beside the client's own runtime, and ends with it.

    Args:
        runtime: the client's own.
        provider: which that opens and closes.
        home: the folder of the slots.
        line: makes the row of a request.
        on_alarm: as the client's.
        lookout: on the other slots.
    """

    def __init__(  # noqa: PLR0917 - as the client has them
        self,
        runtime: Runtime,
        provider: Provider,
        home: Path,
        line: Line,
        on_alarm: OnAlarm | None,
        lookout: Lookout,
    ) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._provider = provider
        self._home = home
        self._line = line
        self._on_alarm = on_alarm
        self._lookout = lookout
        self._account: Receipt | None = None
        """Of slots that were adopted and handed back."""

    async def look_after(self, siblings: list[Sibling]) -> None:
        """Adopt a slot that was left with unfinished work long enough ago: one at a time. They were just looked at."""
        if any(sibling.adopting is not None for sibling in siblings):
            return
        due = [sibling for sibling in siblings if self._is_due(sibling)]
        if not due:
            return
        try:
            await self.adopt(due[0])
        except StoreLocked:
            return
        except CarpoolError as error:
            due[0].report(error)

    def _is_due(self, sibling: Sibling) -> bool:
        peek, vacancy = sibling.peek, sibling.vacancy
        if not peek.is_unfinished:
            vacancy.finished()
            return False
        age_s = self._runtime.now() - peek.written_at
        return vacancy.is_due(asyncio.get_running_loop().time(), free=is_free(peek.folder), age_s=age_s)

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
        for key, place in engine.book.keys.all_live():
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

    async def _run(self, sibling: Sibling, adopting: asyncio.Future[None]) -> None:
        """Run a slot until its work is done, and hand it back."""
        loop, jobs = asyncio.get_running_loop(), sibling.peek.jobs
        store = DiskStore(self._home, self._settings, number=sibling.number)
        runtime = Runtime(self._settings, cast("Provider", _Lent(self._provider)), store, self._line, self._on_alarm)
        try:
            await self._lookout.in_thread(int)  # whoever reads there has ended then
            await runtime.open()
            sibling.runtime = runtime
            adopting.set_result(None)
            words = f"{sibling.peek.folder} was left by its process; its unfinished work goes on here"
            self._runtime.raise_alarm(Alarm("slot_adopted", count=jobs, detail=words))
            await self._run_to_end(sibling, runtime)
        except CarpoolError as error:
            if not adopting.done():
                adopting.set_exception(error)
            else:
                self._runtime.raise_alarm(Alarm("slot_left", detail=f"{sibling.peek.folder}: {error}"))
        finally:
            sibling.adopting = sibling.runtime = None
            sibling.vacancy.tried(loop.time())
            if not adopting.done():
                adopting.set_exception(self._lookout.reason())
            if adopting.exception() is None:  # looked at: if nobody waits for it any more, that is no news
                receipt = runtime.engine.receipt()
                self._account = receipt if self._account is None else self._account + receipt
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

    # -- the account

    def receipt(self, total: Receipt, siblings: Iterable[Sibling]) -> Receipt:
        """Return the client's own account with that of the slots that it adopted."""
        running = [one.runtime for one in siblings if one.runtime is not None]
        for receipt in (self._account, *(runtime.engine.receipt() for runtime in running)):
            if receipt is not None:
                total += receipt
        return total
