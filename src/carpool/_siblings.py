"""Other slots of the home: keys that they know, answers that they hold, work that their processes left behind.

Owns the way from a key to whoever has it, and the adoption of slots whose process is gone. It must not know how
requests travel: an adopted slot gets a runtime of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from carpool._adoption import Adopter, Sibling
from carpool._core.keys import Claim
from carpool._core.model import UNKNOWN_DIGEST, Failure
from carpool._runtime.awaiters import Answer, Asked
from carpool._runtime.calls import facts_of
from carpool._runtime.loop import Runtime
from carpool._runtime.verdicts import exception_for
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Peek, Sighting, Stored, UnderWay
from carpool._stores.slots import find_slots, is_free, slot_number
from carpool._waiting import Again, Waiter, chain, expire, fail
from carpool.errors import CarpoolError, KeyConflict, RequestError, StoreError, StoreLocked
from carpool.types import Receipt

if TYPE_CHECKING:
    from carpool._ports import Provider, Store
    from carpool._runtime.entrance import Line
    from carpool._runtime.watch import OnAlarm
    from carpool.settings import Settings

PAUSE_MIN_S: Final = 0.05
"""First pause between two looks at the database of a sibling whose answers somebody waits for; grows by half."""
PAUSE_MAX_S: Final = 5.0
LOOK_MIN_S: Final = 0.01
_NOWHERE: Final = -1
"""The place of a request that is not in this client's slot."""
_RACY_NS: Final = 100_000_000
"""A folder that was changed so short a time before it was read may change again without its stamp telling."""
_TRIES: Final = 3

_verdict: Final = msgspec.json.Decoder(Failure)


class _MovedError(Exception):
    """What was seen in a slot is not there any more."""


class Siblings:
    """What a client does with the other slots of its home.

    Everything runs beside the client's own runtime, and ends with it: slots that were adopted are handed back then.
    Costs one look at the home for each new explicit key while the home has no other slot.

    Args:
        runtime: the client's own.
        provider: which it opens and closes.
        store: of the runtime; without a home, there are no siblings.
        line: makes the row of a request.
        on_alarm: as the client's.
    """

    def __init__(
        self, runtime: Runtime, provider: Provider, store: Store, line: Line, on_alarm: OnAlarm | None = None
    ) -> None:
        self._runtime = runtime
        self._settings: Settings = runtime.settings
        self._provider = provider
        self._store = store if isinstance(store, DiskStore) else None
        home = Path() if self._store is None else self._store.home
        self._home = str(home)
        self._adopter = Adopter(runtime, provider, home, line, on_alarm)
        self._home_stamp_ns = -1
        self._others: dict[int, Sibling] = {}
        self._folder = home
        """Of the client's own slot, once that is open."""
        self._started = False

    def start(self) -> None:
        """Begin to look after them; the runtime has just been opened."""
        if self._store is not None:
            self._started = True
            self._folder = self._store.path
            self._runtime.start(self._watch)

    def __bool__(self) -> bool:
        """Whether the home has other slots."""
        if not self._started or self._store is None:
            return False
        try:
            stamp_ns = os.stat(self._home).st_mtime_ns  # noqa: PTH116 - asked for each new key
        except OSError:
            return bool(self._others)
        if stamp_ns != self._home_stamp_ns:
            own = slot_number(self._folder)
            for folder in find_slots(self._store.home):
                number = slot_number(folder)
                if number != own and number not in self._others:
                    peek = Peek(folder, self._provider.origin)
                    retry_s, alarm = self._settings.adopt_after_s, self._runtime.raise_alarm
                    self._others[number] = Sibling(number, peek, retry_s, alarm)
            self._home_stamp_ns = stamp_ns if stamp_ns < time.time_ns() - _RACY_NS else -1
        return bool(self._others)

    # -- keys

    async def ask(self, key: str, digest: bytes, deadline: float | None, again: Again) -> Asked | None:
        """Return where the answer to an explicit key will come from, if it is in another slot.

        Args:
            key: not known in the client's own slot.
            digest: of its request.
            deadline: of this caller.
            again: asks in the client's own slot, should the other process let go of the request.

        Raises:
            KeyConflict: the key was given there with another request.
            StoreError: another slot has the request, and cannot be read or adopted.
        """
        return await self._seek(key, digest, deadline, again) if self else None

    async def find(self, key: str) -> Asked | None:
        """Return where the answer to an explicit key will come from, whatever its request is; as ``ask``."""
        return await self._seek(key, None, None, None) if self else None

    async def settle_down(self, on_close: str, *, clean: bool) -> None:
        """Before the client is left to drain, wait until nobody waits for another slot any more."""
        while (
            on_close == "drain"
            and clean
            and (futures := [waiter.future for waiter in self._waiters()] + self._joined())
        ):
            await asyncio.wait(futures)

    async def _seek(self, key: str, digest: bytes | None, deadline: float | None, again: Again | None) -> Asked | None:
        for _ in range(_TRIES):
            under_way: tuple[Sibling, UnderWay] | None = None
            try:
                for sibling in list(self._others.values()):
                    found = await self._look_in(sibling, key, digest, deadline)
                    if isinstance(found, Asked):
                        return found
                    if found is not None:
                        under_way = sibling, found
                if under_way is None:
                    return None
                return await self._wait(*under_way, key, Waiter(self._future(), digest, deadline, again))
            except _MovedError:
                continue
        raise StoreError(f"request {key!r} is in another slot of the home, where it cannot be read", key=key)

    async def _look_in(
        self, sibling: Sibling, key: str, digest: bytes | None, deadline: float | None
    ) -> Asked | UnderWay | None:
        """Return what one slot has of a key.

        Raises:
            _MovedError: it has something else by now.
        """
        if sibling.adopting is not None:
            await asyncio.wait((sibling.adopting,))
            if sibling.runtime is not None:
                return self._join(sibling, key, digest, deadline)
        sighting = await self._sight(sibling, key, digest)
        if sibling.is_adopted:
            raise _MovedError  # its database may have been let go of while it was looked at
        if not isinstance(sighting, Stored):
            return sighting
        body = await self._body(sibling, key, sighting)
        if body is None:
            raise _MovedError
        future = self._future()
        self._hand(key, sighting, body, future)
        self._runtime.engine.book.reused += 1
        return Asked(key, _NOWHERE, future, sighting.head.kept_at, reused=True, kept=True, explicit=True)

    async def _sight(self, sibling: Sibling, key: str, digest: bytes | None) -> Sighting:
        """Return what a slot knows of a key now, as far as it is of use.

        Raises:
            KeyConflict: it was given there with another request.
            StoreLocked: it cannot be read for the moment.
        """
        await sibling.refresh()
        if isinstance(sibling.trouble, StoreLocked):
            raise copy(
                sibling.trouble
            )  # for the moment; whatever else is wrong was reported, and does not stop anybody
        sighting = sibling.peek.find(key)
        if isinstance(sighting, Stored):
            too_old = self._runtime.now() - sighting.head.kept_at > self._settings.keep_results_s
            if too_old or (sighting.failed and digest is not None):
                return None
        if sighting is not None and not _fits(sighting.digest, digest):
            raise _conflict(key)
        return sighting

    async def _body(self, sibling: Sibling, key: str, stored: Stored) -> bytes | None:
        body = sibling.peek.cached(stored.place)
        if body is None:
            read = partial(sibling.peek.read, key, stored.place)
            body = await asyncio.get_running_loop().run_in_executor(None, read)
        return body

    def _hand(self, key: str, stored: Stored, body: bytes, future: asyncio.Future[Answer]) -> None:
        if future.done():
            return
        if stored.failed:
            future.set_exception(exception_for(_verdict.decode(body), key))
        else:
            head = stored.head
            future.set_result((body, facts_of(self._runtime.engine.book, head.lane, head.job, head.kept_at)))

    def _future(self) -> asyncio.Future[Answer]:
        return asyncio.get_running_loop().create_future()

    # -- what another process has under way

    async def _wait(self, sibling: Sibling, found: UnderWay, key: str, waiter: Waiter) -> Asked:
        """Wait for the process that has a request; if it is gone, adopt its slot.

        Raises:
            _MovedError: it is no longer there.
        """
        if is_free(sibling.peek.folder) or sibling.is_adopted:
            try:
                await self._adopter.adopt(sibling)
            except StoreLocked:
                pass  # another process was quicker
            else:
                joined = self._join(sibling, key, waiter.digest, waiter.deadline)
                if joined is None:
                    raise _MovedError
                return joined
        self._runtime.check()  # time has passed
        future = waiter.future
        if waiter.deadline is not None:
            timer = asyncio.get_running_loop().call_later(
                max(0.0, waiter.deadline - self._runtime.now()), expire, future, key
            )
            future.add_done_callback(lambda _: timer.cancel())
        sibling.waiting.setdefault(key, []).append(waiter)
        sibling.pause_s = PAUSE_MIN_S
        if not sibling.is_polled:
            sibling.is_polled = True
            self._runtime.start(self._poll, sibling)
        return Asked(key, _NOWHERE, future, found.accepted_at, reused=True, kept=True, explicit=True)

    async def _poll(self, sibling: Sibling) -> None:
        """Look at a slot until nobody waits for it."""
        loop = asyncio.get_running_loop()
        try:
            while sibling.waiting:
                await asyncio.sleep(sibling.pause_s)
                sibling.pause_s = min(PAUSE_MAX_S, 1.5 * sibling.pause_s)
                for key, waiters in list(sibling.waiting.items()):
                    left = [waiter for waiter in waiters if not waiter.future.done()]
                    if left:
                        sibling.waiting[key] = left
                    else:
                        del sibling.waiting[key]
                if sibling.waiting:
                    await self._look_for(sibling)
        finally:
            sibling.is_polled = False
            if not loop.is_closed():
                fail([waiter for waiters in sibling.waiting.values() for waiter in waiters], self._adopter.reason())
            sibling.waiting.clear()

    async def _look_for(self, sibling: Sibling) -> None:
        """See what became of the keys that somebody waits for."""
        is_left = is_free(sibling.peek.folder)  # before the look: what is stored then is all that its process stored
        if not sibling.is_adopted:
            await self._collect(sibling)
            self._adopter.knock(sibling)
        if sibling.waiting and (is_left or sibling.is_adopted):
            await self._take_over(sibling)

    async def _collect(self, sibling: Sibling) -> None:
        """Hand over what the other process has stored by now."""
        await sibling.refresh()
        if sibling.is_adopted or sibling.trouble is not None:
            return  # what cannot be read now is not gone
        for key, sighting in [(key, sibling.peek.find(key)) for key in sibling.waiting]:
            if not isinstance(sighting, UnderWay):
                await self._settle(sibling, key, sighting)

    async def _take_over(self, sibling: Sibling) -> None:
        """Let those who waited for a process that is gone wait for what it left."""
        try:
            await self._adopter.adopt(sibling)
        except StoreLocked:
            return  # another process was quicker
        except CarpoolError as error:
            for key in list(sibling.waiting):
                fail(sibling.waiting.pop(key), error)
            return
        if sibling.runtime is not None:  # else its work has ended already, and the next look tells how
            for key in list(sibling.waiting):
                for waiter in sibling.waiting.pop(key):
                    self._pass_on(sibling, key, waiter)

    async def _settle(self, sibling: Sibling, key: str, stored: Stored | None) -> None:
        """Hand an answer to those who wait for it; ``None``: the process let go of the request."""
        if stored is None:
            for waiter in sibling.waiting.pop(key, []):
                self._ask_again(key, waiter)
            return
        try:
            body = await self._body(sibling, key, stored)
        except StoreError as error:
            fail(sibling.waiting.pop(key, []), error)
            return
        if body is None:
            return  # the next look will tell
        for waiter in sibling.waiting.pop(key, []):
            if not _fits(stored.digest, waiter.digest):
                fail([waiter], _conflict(key))
            else:
                self._hand(key, stored, body, waiter.future)

    def _pass_on(self, sibling: Sibling, key: str, waiter: Waiter) -> None:
        """Let somebody who waited for another process wait for the slot that it left."""
        try:
            asked = self._join(sibling, key, waiter.digest, waiter.deadline)
        except CarpoolError as error:
            fail([waiter], error)
            return
        if asked is None:
            self._ask_again(key, waiter)
        else:
            chain(asked.future, waiter.future)

    def _ask_again(self, key: str, waiter: Waiter) -> None:
        """Ask in the client's own slot, since the process that had the request let go of it."""
        if waiter.again is None:
            fail([waiter], RequestError(f"the process that had request {key!r} withdrew it", key=key))
        else:
            self._runtime.start(self._ask_here, waiter.again, waiter)

    async def _ask_here(self, again: Again, waiter: Waiter) -> None:
        try:
            asked = await again()
        except CarpoolError as error:
            fail([waiter], error)
            return
        chain(asked.future, waiter.future)
        waiter.future.add_done_callback(partial(self._left, asked))

    def _left(self, asked: Asked, future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            asked.future.cancel()
            self._runtime.entrance.gone(asked)

    def _waiters(self) -> list[Waiter]:
        waiters = [waiter for one in self._others.values() for some in one.waiting.values() for waiter in some]
        return [waiter for waiter in waiters if not waiter.future.done()]

    def _joined(self) -> list[asyncio.Future[Answer]]:
        return [future for sibling in self._others.values() for future in sibling.joined if not future.done()]

    # -- adoption

    def _join(self, sibling: Sibling, key: str, digest: bytes | None, deadline: float | None) -> Asked | None:
        """Await a request of an adopted slot; ``None`` if it has none of this key."""
        runtime = sibling.runtime
        if runtime is None:
            return None
        if digest is None:
            inner = runtime.entrance.find(key)
        else:
            claim, place = runtime.engine.claim(key, digest, runtime.now())
            inner = None if claim is Claim.NEW else runtime.entrance.join(claim, place, key, deadline)
        if inner is None:
            return None
        # A caller who leaves takes nothing back: the request is that of another process, and goes on.
        outer = self._future()
        chain(inner.future, outer)
        sibling.joined.add(inner.future)
        inner.future.add_done_callback(sibling.joined.discard)
        return Asked(key, _NOWHERE, outer, inner.accepted_at, reused=True, kept=True, explicit=True)

    async def _watch(self) -> None:
        """Look for slots that were left, until the client is left."""
        loop, period_s = asyncio.get_running_loop(), max(LOOK_MIN_S, self._settings.adopt_after_s / 10)
        try:
            while True:
                await asyncio.sleep(period_s)
                if self and not self._adopter.is_ending:
                    await self._adopter.hear(self._folder)
                    for sibling in list(self._others.values()):
                        await self._adopter.look_after(sibling, self._others.values())
        finally:
            for sibling in self._others.values():
                sibling.peek.close()
            if not loop.is_closed():
                self._dismiss()

    def _dismiss(self) -> None:
        """Tell everybody who waits that nothing more will come: tasks that never began cannot do it."""
        reason = self._adopter.reason()
        fail(self._waiters(), reason)
        for sibling in self._others.values():
            if sibling.adopting is not None and not sibling.adopting.done():
                sibling.adopting.set_exception(copy(reason))
                sibling.adopting.exception()

    def receipt(self, own: Receipt) -> Receipt:
        """Return the client's own account with that of the slots that it adopted."""
        return self._adopter.receipt(own, self._others.values())


def _fits(digest: bytes, asked: bytes | None) -> bool:
    """Return whether a key names the request that is asked for."""
    return asked is None or digest in (asked, UNKNOWN_DIGEST)


def _conflict(key: str) -> KeyConflict:
    words = "was given before with a different request, by another process of this home; use another key"
    return KeyConflict(f"key {key!r} {words}", key=key)
