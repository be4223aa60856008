"""Other slots of the home: keys that they know, answers that they hold, work that their processes left behind.

Owns the way from a key to whoever has it. It must not know how requests travel: an adopted slot gets a runtime of its
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from carpool._adoption import Adopter
from carpool._core.keys import Claim
from carpool._core.ledger import receipt_of_days
from carpool._core.model import UNKNOWN_DIGEST, Failure
from carpool._lookout import Lookout, Sibling
from carpool._runtime.awaiters import Answer, Asked
from carpool._runtime.calls import facts_of
from carpool._runtime.loop import Runtime
from carpool._runtime.verdicts import deadline_exceeded, exception_for
from carpool._stores.disk import DiskStore
from carpool._stores.peek import Bodies, Stored, UnderWay, accounts_of
from carpool._stores.slots import is_free
from carpool.errors import CarpoolError, KeyConflict, RequestError, StoreCorrupt, StoreError, StoreLocked
from carpool.types import Receipt

if TYPE_CHECKING:
    from carpool._ports import Provider, Store
    from carpool._runtime.entrance import Line
    from carpool._runtime.watch import OnAlarm
    from carpool.settings import Settings

Again: TypeAlias = Callable[[], Awaitable[Asked]]
"""Asks in this client's own slot."""

PAUSE_MIN_S: Final = 0.05
"""First pause between two looks at the slots of siblings for whose answers somebody waits; grows by half."""
PAUSE_MAX_S: Final = 5.0
LOOK_MIN_S: Final = 0.01
_NOWHERE: Final = -1
"""The place of a request that is not in this client's slot."""
_TRIES: Final = 3

_verdict: Final = msgspec.json.Decoder(Failure)


class _MovedError(Exception):
    """What was seen in a slot is not there any more."""


class _Question(msgspec.Struct, frozen=True, gc=False):
    """What a caller asks for."""

    key: str
    digest: bytes | None
    """``None``: whatever the request is."""
    deadline: float | None
    again: Again

    def fits(self, digest: bytes) -> bool:
        """Return whether a request with the key is the one that is asked for."""
        return self.digest is None or digest in (self.digest, UNKNOWN_DIGEST)


class _Waiter(msgspec.Struct):
    """Somebody who waits for what another process has under way."""

    question: _Question
    sibling: Sibling | None
    """Which has it; ``None`` once it has not, and somebody else is being asked."""


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
        self._store = store if isinstance(store, DiskStore) else None
        home = Path() if self._store is None else self._store.home
        self._lookout = Lookout(runtime, provider, home)
        self._adopter = Adopter(runtime, provider, home, line, on_alarm, self._lookout)
        self._bodies: Bodies | None = None
        """What was read last: others who ask often want what lies beside it."""
        self._waiters: dict[asyncio.Future[Answer], _Waiter] = {}
        self._pause_s = PAUSE_MIN_S
        self._is_polling = False

    def start(self) -> None:
        """Begin to look after them; the runtime has just been opened."""
        if self._store is not None:
            self._lookout.own = self._store.path
            self._runtime.start(self._watch, self._store.path)

    def __bool__(self) -> bool:
        """Whether the home has other slots."""
        return bool(self._lookout)

    def receipt(self, own: Receipt) -> Receipt:
        """Return the client's own account with that of the slots that it adopted."""
        return self._adopter.receipt(own, self._lookout.siblings())

    def receipt_of(self, day: int) -> Receipt:
        """Return the account of a UTC day (days since 1970-01-01) with this service, of all slots of the home.

        Those of other processes are read from the disk.

        Raises:
            StoreError: or one of its kinds: one of them cannot be read.
        """
        book = self._runtime.engine.book
        total = book.ledger.receipt_of(day, day)
        for sibling in self._lookout.siblings() if self._lookout else ():
            if sibling.runtime is not None:
                total += sibling.runtime.engine.book.ledger.receipt_of(day, day)
            else:
                accounts = accounts_of(sibling.peek)
                total += receipt_of_days(one for one in accounts if (one.day, one.base_url) == (day, book.base_url))
        return total

    async def settle_down(self, on_close: str, *, clean: bool) -> None:
        """Before the client is left to drain, wait until nobody waits for another slot any more."""
        while on_close == "drain" and clean and (futures := [*self._waiters, *self._joined()]):
            await asyncio.wait(futures)

    def _joined(self) -> list[asyncio.Future[Answer]]:
        return [future for sibling in self._lookout.siblings() for future in sibling.joined if not future.done()]

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
            StoreError: another slot has the request, and cannot be adopted; or it cannot be read for the moment.
        """
        return await self._seek(_Question(key, digest, deadline, again)) if self._lookout else None

    async def find(self, key: str) -> Asked | None:
        """Return where the answer to an explicit key will come from, whatever its request is; as ``ask``."""

        async def withdrawn() -> Asked:
            raise RequestError(f"the process that had request {key!r} withdrew it", key=key)

        return await self._seek(_Question(key, None, None, withdrawn)) if self._lookout else None

    async def _seek(self, question: _Question) -> Asked | None:
        for _ in range(_TRIES):
            try:
                return await self._look_for(question)
            except _MovedError:
                continue
        key = question.key
        raise StoreError(f"request {key!r} is in another slot of the home, where it cannot be read", key=key)

    async def _look_for(self, question: _Question) -> Asked | None:
        while opening := [one.adopting for one in self._lookout.siblings() if one.adopting and not one.adopting.done()]:
            await asyncio.wait(opening)
        self._runtime.check()  # time has passed
        await self._lookout.refresh()
        trouble: StoreError | None = None
        under_way: tuple[Sibling, UnderWay] | None = None
        verdict: tuple[Sibling, Stored] | None = None
        for sibling in self._lookout.siblings():
            if sibling.adopting is not None:
                if sibling.runtime is None:
                    raise _MovedError  # its database may have been let go of while it was looked at
                joined = self._join(sibling, question)
                if joined is not None:
                    return joined
                continue
            if not sibling.is_lost:  # that was reported, and does not stop anybody
                trouble = sibling.trouble or trouble
            sighting = self._sight(sibling, question)
            if isinstance(sighting, UnderWay):
                under_way = sibling, sighting
            elif sighting is not None and sighting.failed:
                verdict = sibling, sighting  # what failed in one slot may have been asked again in another
            elif sighting is not None:
                return await self._give(sibling, question.key, sighting)
        if under_way is not None:
            return await self._wait(*under_way, question)
        if verdict is not None:
            return await self._give(verdict[0], question.key, verdict[1])
        if trouble is not None:
            raise copy(trouble)
        return None

    def _sight(self, sibling: Sibling, question: _Question) -> Stored | UnderWay | None:
        """Return what a slot knows of a key, as far as it is of use.

        Raises:
            KeyConflict: it was given there with another request.
        """
        sighting = sibling.peek.find(question.key)
        if isinstance(sighting, Stored):
            too_old = self._runtime.now() - sighting.head.kept_at > self._settings.keep_results_s
            if too_old or (sighting.failed and question.digest is not None):
                return None
        if sighting is not None and not question.fits(sighting.digest):
            key, words = question.key, "was given before with a different request, by another process of this home"
            raise KeyConflict(f"key {key!r} {words}; use another key", key=key)
        return sighting

    async def _give(self, sibling: Sibling, key: str, stored: Stored) -> Asked:
        """Hand over an answer, or a verdict, that a slot holds.

        Raises:
            _MovedError: it is gone by now.
            StoreError: it cannot be read.
        """
        body = None if self._bodies is None else self._bodies.of(key, stored)
        if body is None:
            self._bodies = bodies = await self._lookout.in_thread(sibling.peek.read, stored.place)
            body = None if bodies is None else bodies.of(key, stored)
            if body is None:
                raise _MovedError
        book, head = self._runtime.engine.book, stored.head
        book.reused += 1
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not stored.failed:
            facts = facts_of(book, head.lane, head.job, head.kept_at, head.route, text_only=head.text_only)
            future.set_result(Answer(body, facts))
        else:
            try:
                future.set_exception(exception_for(_verdict.decode(body), key))
            except msgspec.MsgspecError:
                raise StoreCorrupt(f"{sibling.peek.folder}: the verdict on {key!r} cannot be read", key=key) from None
        return Asked(key, _NOWHERE, future, head.kept_at, reused=True, kept=True, explicit=True)

    def _join(self, sibling: Sibling, question: _Question) -> Asked | None:
        """Await a request of an adopted slot; ``None`` if it has none of this key."""
        runtime, key = sibling.runtime, question.key
        if runtime is None:
            return None
        if question.digest is None:
            inner = runtime.entrance.find(key)
        else:
            claim, place = runtime.engine.claim(key, question.digest, runtime.now())
            inner = None if claim is Claim.NEW else runtime.entrance.join(claim, place, key, question.deadline)
        if inner is None:
            return None
        sibling.joined.add(inner.future)
        inner.future.add_done_callback(sibling.joined.discard)
        # A caller who leaves takes nothing back: the request is that of another process, and goes on.
        outer = asyncio.shield(inner.future)
        return Asked(key, _NOWHERE, outer, inner.accepted_at, reused=True, kept=True, explicit=True)

    async def _watch(self, own: Path) -> None:
        """Look for slots that were left, until the client is left."""
        loop, period_s = asyncio.get_running_loop(), max(LOOK_MIN_S, self._settings.adopt_after_s / 10)
        try:
            while True:
                await asyncio.sleep(period_s)
                if self._lookout:
                    self._runtime.start(self._look_after, own)
        finally:
            self._lookout.close()
            if not loop.is_closed():
                self._dismiss()

    async def _look_after(self, own: Path) -> None:
        try:
            self._runtime.check()
            await self._adopter.hear(own)
            await self._lookout.refresh()
            await self._adopter.look_after(self._lookout.siblings())
        except CarpoolError:
            return  # the client cannot go on, which is told elsewhere

    def _dismiss(self) -> None:
        """Tell everybody who waits that nothing more will come: tasks that never began cannot do it."""
        reason = self._lookout.reason()
        for future in list(self._waiters):
            _fail(future, reason)
        for sibling in self._lookout.siblings():
            if sibling.adopting is not None and not sibling.adopting.done():
                sibling.adopting.set_exception(copy(reason))
                sibling.adopting.exception()

    # -- what another process has under way

    async def _wait(self, sibling: Sibling, found: UnderWay, question: _Question) -> Asked:
        """Wait for the process that has a request; if it is gone, adopt its slot.

        Raises:
            _MovedError: it is no longer there.
        """
        if is_free(sibling.peek.folder):
            try:
                await self._adopter.adopt(sibling)
            except StoreLocked:
                pass  # another process was quicker
            else:
                joined = self._join(sibling, question)
                if joined is None:
                    raise _MovedError
                return joined
        self._runtime.check()  # time has passed
        loop, key = asyncio.get_running_loop(), question.key
        future: asyncio.Future[Answer] = loop.create_future()
        if question.deadline is not None:
            left_s = max(0.0, question.deadline - self._runtime.now())
            timer = loop.call_later(left_s, _fail, future, deadline_exceeded(key))
            future.add_done_callback(lambda _: timer.cancel())
        self._waiters[future] = _Waiter(question, sibling)
        future.add_done_callback(self._waiters.__delitem__)
        self._pause_s = PAUSE_MIN_S
        if not self._is_polling:
            self._is_polling = True
            self._runtime.start(self._poll)
        return Asked(key, _NOWHERE, future, found.accepted_at, reused=True, kept=True, explicit=True)

    async def _poll(self) -> None:
        """Look at other slots until nobody waits for one."""
        try:
            while holders := {waiter.sibling for waiter in self._waiters.values() if waiter.sibling is not None}:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(PAUSE_MAX_S, 1.5 * self._pause_s)
                # Before the look: what is stored then is all that its process stored.
                left = {sibling for sibling in holders if is_free(sibling.peek.folder)}
                await self._lookout.refresh()
                for sibling in holders - left:
                    if sibling.adopting is None:
                        self._adopter.knock(sibling)
                self._tell_waiters(left)
        finally:
            self._is_polling = False

    def _tell_waiters(self, left: set[Sibling]) -> None:
        """See what became of the keys that somebody waits for."""
        for future, waiter in list(self._waiters.items()):
            sibling, question = waiter.sibling, waiter.question
            if sibling is None or future.done():
                continue
            if sibling.is_lost:
                # Nobody can tell what became of the request: it is not sent again.
                _fail(future, sibling.trouble)
            elif (
                sibling in left
                or sibling.adopting is not None
                or (sibling.trouble is None and not isinstance(sibling.peek.find(question.key), UnderWay))
            ):
                waiter.sibling = None
                self._runtime.start(self._ask_anew, future, question)

    async def _ask_anew(self, future: asyncio.Future[Answer], question: _Question) -> None:
        """Ask for what another process has answered, let go of, or left, on behalf of somebody who waits."""
        try:
            asked = await self._seek(question)
            if asked is None:
                asked = await question.again()
        except CarpoolError as error:
            _fail(future, error)
            return
        except Exception:
            _fail(future, self._lookout.reason())
            raise
        _chain(asked.future, future)
        future.add_done_callback(partial(self._left, asked))

    def _left(self, asked: Asked, future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            asked.future.cancel()
            self._runtime.entrance.gone(asked)


def _fail(future: asyncio.Future[Answer], error: CarpoolError | None) -> None:
    """Tell somebody why nothing will come; each gets an object of its own."""
    if error is not None and not future.done():
        future.set_exception(copy(error))


def _chain(inner: asyncio.Future[Answer], outer: asyncio.Future[Answer]) -> None:
    """Let one future end as another does."""

    def ended(_: asyncio.Future[Answer]) -> None:
        error = None if inner.cancelled() else inner.exception()
        if outer.done():
            return
        if inner.cancelled():
            outer.cancel()
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    inner.add_done_callback(ended)
