"""The loop: events in, one step, one commit, then the actions.

Owns the engine, the inbox, the clock and the awaiters. It sees the ports, never an adapter: what calls mean on the wire
or on disk is not its business, and what to do about them is the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from copy import copy
from typing import Any, Final

import anyio
import msgspec

from carpool._core.alarms import standing
from carpool._core.engine import Engine
from carpool._core.messages import Action, Closing, Event, Flushed
from carpool._core.model import Place
from carpool._ports import Provider, Store
from carpool._runtime.awaiters import Awaiters
from carpool._runtime.calls import Calls
from carpool._runtime.commits import Commits
from carpool._runtime.deeds import Deeds, guarded
from carpool._runtime.entrance import Entrance, Line
from carpool._runtime.errand import Errand
from carpool._runtime.fetch import Sorted
from carpool._runtime.gate import NOBODY, Gate
from carpool._runtime.handover import Handover
from carpool._runtime.kept import KeptReads
from carpool._runtime.livecalls import LiveCalls
from carpool._runtime.milestones import Milestones
from carpool._runtime.opening import recover
from carpool._runtime.watch import OnAlarm, Watch, log_bug
from carpool.errors import CarpoolError, ClientClosed, ConfigurationError, StoreError, StoreFull
from carpool.settings import Settings
from carpool.types import Alarm, Health, Stats

logger: Final = logging.getLogger("carpool")


class Runtime:
    """Runs one engine over one provider and one store."""

    def __init__(
        self, settings: Settings, provider: Provider, store: Store, line: Line, on_alarm: OnAlarm | None = None
    ) -> None:
        self.settings = settings
        self.engine: Engine
        self.entrance: Entrance
        self._provider = provider
        self._store = store
        self._line = line
        self._awaiters = Awaiters()
        self.gate = Gate(settings.waiting_requests_max, settings.waiting_bytes_max)
        self._inbox: list[Event] = []
        self._watch = Watch(on_alarm, settings.store_bytes_max)
        self.raise_alarm = self._watch.raise_alarm
        self._commits = Commits(store, self._pass_time, self._expire_overdue, self._watch.saw_full)
        self._milestones = Milestones()
        self._undone: list[Action] = []
        """What opening leaves to be done."""
        self._drains = 0
        self._stopping = False
        self._failed: CarpoolError | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closing = self._closed = self._released = False

    @property
    def is_opened(self) -> bool:
        """Whether there is, or was, an engine to ask."""
        return self._runner is not None

    @property
    def is_over(self) -> bool:
        """Whether it ended, and let go of everything."""
        return self._runner is None or self._runner.done()

    async def open(self) -> None:
        """Take hold of store and provider, recover what an earlier process left, and start the loop.

        Raises:
            StoreError, ConfigurationError: as the store says.
        """
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._wall_s = time.time() - self._loop.time()
        self._wake_event = asyncio.Event()
        await self._store.open()
        try:
            await self._provider.open()
            await self._recover()
            ready = self._loop.create_future()
            self._runner = self._loop.create_task(self._run(ready), name="carpool")
            await asyncio.wait((ready, self._runner), return_when=asyncio.FIRST_COMPLETED)
            self.check()
        except BaseException:
            self._closed = self._closing = self._stopping = True
            with anyio.CancelScope(shield=True):  # which would cancel at each await: nothing would be let go
                if self._runner is not None:
                    self._runner.cancel()
                    await asyncio.wait((self._runner,))
                await self._release()
            raise
        self._wake()

    async def _recover(self) -> None:
        self.engine, step = await recover(self._store, self._provider, self.settings, self.now)
        self._kept = KeptReads(self.engine, self._store)
        self.entrance = Entrance(
            engine=self.engine,
            awaiters=self._awaiters,
            kept=self._kept,
            line=self._line,
            now=self.now,
            wake=self._wake,
            spill=self._spill,
            room=lambda: self._commits.room_bytes,
            gate=self.gate,
        )
        self._handover = Handover(self.engine, self.entrance, self._awaiters, self.now)
        self._calls = Calls(
            provider=self._provider,
            store=self._store,
            engine=self.engine,
            awaiters=self._awaiters,
            settle=self._settle,
            heard=lambda fault: self._watch.heard(fault, self.now()),
            now=self.now,
        )
        live_calls = LiveCalls(
            provider=self._provider,
            store=self._store,
            engine=self.engine,
            awaiters=self._awaiters,
            heard=lambda fault: self._watch.heard(fault, self.now()),
            now=self.now,
        )
        self._deeds = Deeds(
            provider=self._provider,
            calls=self._calls,
            live_calls=live_calls,
            awaiters=self._awaiters,
            handover=self._handover,
            watch=self._watch,
            start=self._start_vital,
            tell=self._tell,
            fail=self._fail,
        )
        await self._commits.begin(step.writes)
        self.entrance.grant(self._commits.room_bytes)
        self._undone = step.actions
        if self.engine.book.foreign:
            logger.warning("%d records of another base URL or API key were left alone", self.engine.book.foreign)

    async def close(self, on_close: str, *, clean: bool) -> None:
        """Leave: send, drain or cancel as asked. Whoever still waits gets ``ClientClosed``.

        Args:
            on_close: ``Settings.on_close``.
            clean: whether the block was left without an exception.
        """
        if self._closing or self._runner is None or self._pid != os.getpid():
            return  # after a fork, nothing of it is the child's
        if asyncio.get_running_loop() is not self._loop:
            if self._loop.is_closed():
                return  # and the store has noticed
            raise ConfigurationError("this client was opened on another event loop; leave it there")
        self._closing = True
        self.gate.serves = NOBODY
        try:
            if self._failed is None:
                with anyio.CancelScope(shield=not clean):  # what is left behind is put on record even so
                    await self._settle_down(on_close, clean=clean)
        except CarpoolError:
            if clean:  # else whoever left has an error already, and the log has this one
                raise
        finally:
            self._closed = True
            self._stopping = True
            self._wake()
            self.gate.shut_down()
            with anyio.CancelScope(shield=True):  # which would cancel at each await: nothing would be let go
                try:
                    await asyncio.wait((self._runner,))
                finally:
                    self._dismiss()
                    await self._release()

    async def _release(self) -> None:
        """Let go of provider and store, once. Of a client that has failed already, what fails here goes to the log."""
        if self._released:
            return
        self._released = True
        try:
            try:
                await self._provider.close()
            finally:
                await self._store.close()
        except CarpoolError as error:
            if self._failed is None:
                raise
            logger.error("the store could not be closed in order: %s", error)  # noqa: TRY400 - words will do

    async def _settle_down(self, on_close: str, *, clean: bool) -> None:
        if on_close == "drain" and clean:
            await self.drain()
            await self._reach(lambda: not self.engine.book.disposal.goes_on)
            return
        self.gate.shut_down()
        self._inbox.append(Closing(send=clean and on_close == "keep"))
        await self.turn()
        if on_close == "cancel":
            names = [job.name for job in self.engine.book.jobs.values() if job.name]
            await self._deeds.cancel_all(names, self.settings.close_timeout_s)
        elif clean:
            with anyio.move_on_after(self.settings.close_timeout_s):
                await self._reach(lambda: not self.engine.unsent)

    def _dismiss(self) -> None:
        """Tell everybody who still waits that nothing more will come."""
        reason = self._failed or ClientClosed(
            "the client was closed before the answer came. What was sent stays on record: ask the same again, "
            "or for the key's result"
        )
        self._handover.dismiss()
        for waiter in self._awaiters.clear():
            waiter.set_exception(copy(reason))
        self._kept.dismiss(reason)
        self._milestones.dismiss(reason)

    def now(self) -> float:
        """Return the time in seconds since the epoch: the wall clock at opening, carried on steadily."""
        return self._wall_s + self._loop.time()

    def check(self) -> None:
        """Raise if a call cannot be taken now."""
        if self._runner is None:
            raise ConfigurationError("this client is not open; use 'async with carpool.Client() as client:'")
        if (gone := self._gone()) is not None:
            raise copy(gone)
        if self._closing or self._stopping:
            raise ClientClosed("the client is closed; make a new one")
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("this client was opened on another event loop; open one on this loop")

    @property
    def crowded(self) -> bool:
        """Whether a caller must wait its turn before encoding."""
        book = self.engine.book
        return self.gate.is_shut(book.waiting_requests, book.waiting_bytes)

    async def wait_turn(self) -> None:
        """Wait until there is room: first come, first served."""
        try:
            await self.gate.wait()
        finally:
            self._wake()
        self._check_running()  # between the word and its hearing, the client may have come to its end

    async def turn(self) -> None:
        """Wait until everything asked for so far is on disk."""
        self._check_running()
        done = self._milestones.after_turn()
        self._wake()
        await done

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run something beside the loop until it ends, or the client is closed. What it raises goes to the log."""
        self._start_vital(guarded, self._watch, work, *args)

    def is_open(self, place: Place) -> bool:
        """Return whether a request still waits for its answer."""
        return self.engine.book.is_open(place)

    async def flush(self) -> None:
        """Let what waits now go as soon as jobs may start."""
        self._inbox.append(Flushed())
        await self.turn()

    async def drain(self) -> None:
        """Send everything, and wait until nothing is under way."""
        self._drains += 1
        try:
            await self._reach(lambda: self.engine.idle and not self._inbox and not self.gate.expects)
        finally:
            self._drains -= 1

    def _check_running(self) -> None:
        """Raise if no turn will come any more."""
        if self._failed is not None:
            raise copy(self._failed)
        if self._stopping:
            raise ClientClosed("the client was closed")

    async def _reach(self, state: Callable[[], bool]) -> None:
        """Wait until a turn ends in a state."""
        self._check_running()
        reached = self._milestones.when(state)
        self._wake()
        await reached

    def stats(self) -> Stats:
        """Return a snapshot."""
        return msgspec.structs.replace(self.engine.stats(), queued_callers=self.gate.queued)

    def health(self) -> Health:
        """Return whether the client works, and what is wrong with it."""
        gone, room_bytes = self._gone(), 0
        if gone is None:
            try:
                room_bytes = self._commits.room_bytes
            except StoreError as error:
                gone = error
        return self._watch.health(
            gone=gone,
            leaving=self._closing,
            full=self._commits.full,
            room_bytes=room_bytes,
            standing=standing(self.engine.book, self.now()),
            now=self.now(),
        )

    def _gone(self) -> CarpoolError | None:
        """Return why the client takes no calls any more, if so."""
        if self._failed is not None or self._closed or self.is_over:
            return self._failed or ClientClosed("the client was left; make a new one")
        if self._pid != os.getpid():
            return ConfigurationError("this client was opened before a fork; open one in the child")
        if self._loop.is_closed():
            return ClientClosed("the event loop of this client was closed; make a new one on another")
        return None

    def _wake(self) -> None:
        self._wake_event.set()

    def _spill(self) -> None:
        self._commits.spill(list(self.engine.spilled))
        self.engine.spilled.clear()

    async def _run(self, ready: asyncio.Future[None]) -> None:
        """Run until stopped; whatever ends it, nobody is left waiting."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                ready.set_result(None)
                await self._drive()
                group.cancel_scope.cancel()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, nobody is left waiting
            log_bug("carpool stopped on a bug of its own", error)
            words = f"carpool stopped on a bug of its own ({type(error).__name__}); what was accepted is on disk"
            self._fail(CarpoolError(words))
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit) as error:
            # Not of ours: an event loop is being torn down, or somebody cancels whatever runs on it.
            words = f"the client was ended from outside ({type(error).__name__}); what was accepted is on disk"
            self._failed = self._failed or ClientClosed(words)
            raise
        finally:
            self._stopping = True
            if not self._loop.is_closed():
                self.gate.shut_down()
                self._dismiss()
                if not self._closing:  # then nobody else does it, and a successor would find the store taken
                    await self._release()

    async def _drive(self) -> None:
        try:
            while not self._stopping:
                await self._sleep()
                await self._turn()
        except StoreError as error:
            self._fail(error)

    def _fail(self, error: CarpoolError) -> None:
        """Stop for good: everybody who waits is told why, and so is whoever calls later."""
        if self._failed is not None:
            return
        self._failed = error
        self._stopping = True
        self.gate.shut_down()
        self._dismiss()
        self._wake()
        self.raise_alarm(Alarm("stopped", detail=str(error)))

    async def _sleep(self) -> None:
        due = self.engine.next_wakeup()
        if due is None:
            await self._wake_event.wait()
            return
        with anyio.move_on_after(max(0.0, due - self.now())):
            await self._wake_event.wait()

    async def _pass_time(self, full: StoreFull, pause_s: float) -> None:
        """Wait for room: deadlines pass and stored results are read meanwhile; a client that is left does not wait."""
        self.entrance.grant(0)
        until = self.now() + pause_s
        while (left_s := until - self.now()) > 0:
            if self._closing or self._stopping:
                raise full
            self._wake_event.clear()
            if self._kept:
                self.start(self._kept.serve)
            self._expire_overdue()
            deadlines = self.engine.book.deadlines
            if deadlines:
                left_s = min(left_s, deadlines[0][0] - self.now())
            with anyio.move_on_after(max(0.0, left_s)):
                await self._wake_event.wait()

    def _expire_overdue(self) -> None:
        """Tell those whose deadline has passed."""
        for action in self.engine.book.overdue(self.now()):
            self._handover.expire(action)

    async def _turn(self) -> None:
        """Take everything that came since the last turn: one step, one commit, then the actions."""
        self._wake_event.clear()
        events, self._inbox = self._inbox, []
        events += self.entrance.begin_turn()
        if self._drains:
            events.append(Flushed())  # after the events: what they queue again is not to linger
        after = self._milestones.begin_turn()
        now = self.now()
        undone, self._undone = self._undone, []
        try:
            step = self.engine.turn(events, now)
            actions = undone + step.actions
            self._handover.booked()
            await self._handover.give()
            lines = await self._calls.lines_of_failed(actions)
            await self._commits.commit(step.writes)
            self.entrance.end_turn(room_bytes := self._commits.room_bytes)
            self._watch.saw_room(room_bytes)
            for action in actions:
                self._deeds.do(action, lines)
            await self._handover.give()
            self._finish_turn(after)
        except BaseException:
            self._milestones.break_off(after)
            raise

    def _finish_turn(self, after: list[asyncio.Future[None]]) -> None:
        if self._kept:
            self.start(self._kept.serve)
        self._milestones.end_turn(after)
        book = self.engine.book
        self.gate.release(book.waiting_requests, book.waiting_bytes)
        if not (self._closing or self._stopping or self.crowded):
            self.gate.serves = self._loop
        self._milestones.look()

    def _start_vital(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run something that must not end with a bug of ours unnoticed: callers wait for what it brings."""
        self._group.start_soon(Errand, work, *args, name=getattr(work, "__qualname__", None))

    def _tell(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake()

    def _settle(self, block: Sorted) -> asyncio.Future[None]:
        """Let the engine take a block, then hand over what goes straight to awaiters. Awaited, the rest is stored."""
        self._check_running()
        self._handover.add(block)
        self._inbox.append(block.event)
        settled = self._milestones.after_turn()
        self._wake()
        return settled
