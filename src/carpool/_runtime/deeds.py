"""What the engine wants done, once its writes are durable.

Owns the mapping from actions to those who do them. A task that fails costs what it carried, never the client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeAlias, assert_never

import anyio

from carpool._core.messages import (
    Action,
    Call,
    CancelRemote,
    Create,
    DeleteRemote,
    Deliver,
    Event,
    Expire,
    Fail,
    Fetch,
    Find,
    Forget,
    Poll,
    Report,
    Revoke,
    Sweep,
    Upload,
)
from carpool._core.model import Place
from carpool._ports import Provider, ProviderError
from carpool._runtime.awaiters import Awaiters
from carpool._runtime.calls import Calls, Question
from carpool._runtime.errand import Crew, Errand
from carpool._runtime.fetch import Sorted
from carpool._runtime.handover import Handover
from carpool._runtime.livecalls import LiveCalls
from carpool._runtime.watch import Watch
from carpool._showing import status_word
from carpool.errors import StoreError
from carpool.types import Alarm

logger: Final = logging.getLogger("carpool")
Start: TypeAlias = Callable[..., None]


class Deeds:
    """Does what the engine wants.

    Args:
        provider: whom to tell.
        calls: asks about jobs.
        live_calls: makes live calls.
        awaiters: who awaits which request.
        handover: tells them.
        watch: takes what an operator should know.
        start: runs a task beside the loop.
        tell: takes replies.
        fail: ends the client, since the store does not work.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        calls: Calls,
        live_calls: LiveCalls,
        awaiters: Awaiters,
        handover: Handover,
        watch: Watch,
        start: Start,
        tell: Callable[[Event], None],
        fail: Callable[[StoreError], None],
    ) -> None:
        self._provider = provider
        self._calls = calls
        self._live_calls = live_calls
        self._callers = Crew(self._call, start)
        self._awaiters = awaiters
        self._handover = handover
        self._watch = watch
        self._start = start
        self._tell = tell
        self._fail = fail

    def do(self, action: Action, lines: dict[Place, bytes]) -> None:
        """Do it, or start it.

        Args:
            action: what to do.
            lines: the requests that a verdict is about, so that their text is not echoed.
        """
        match action:
            case Upload() | Create() | Find() | Revoke() | Poll() | Fetch():
                self._start(self._ask, action)
            case Call():
                self._callers.do(action)
            case Sweep():
                self._start(self._sweep, action)
            case CancelRemote():
                self._start(guarded, self._watch, self._cancel, action)
            case DeleteRemote():
                self._start(guarded, self._watch, self._delete, action)
            case Deliver():
                self._handover.deliver(action)
            case Fail():
                self._handover.fail(action, lines)
            case Expire():
                self._handover.expire(action)
            case Forget():
                self._awaiters.forget(action.numbers)
            case Report():
                self._watch.raise_alarm(Alarm(action.event, action.job, action.count, action.detail))
            case _:
                assert_never(action)

    async def _ask(self, question: Question) -> None:
        try:
            event = await self._calls.ask(question)
        except StoreError as error:
            self._fail(error)
            return
        if event is not None:
            self._tell(event)

    async def _call(self, call: Call) -> None:
        try:
            told = await self._live_calls.make(call)
        except StoreError as error:
            self._fail(error)
            return
        if isinstance(told, Sorted):
            self._handover.add(told)
        self._tell(told.event if isinstance(told, Sorted) else told)

    async def _sweep(self, question: Sweep) -> None:
        self._tell(await self._calls.sweep(question))

    async def cancel_all(self, names: Iterable[str], timeout_s: float) -> None:
        """Cancel jobs on the server, as far as that works in time."""
        with anyio.move_on_after(timeout_s):
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(Errand, guarded, self._watch, self._cancel, CancelRemote(name=name))

    async def _cancel(self, action: CancelRemote) -> None:
        try:
            await self._provider.cancel(action.name)
        except ProviderError as error:
            logger.warning("%s could not be cancelled: %s", action.name, status_word(error.fault.error.status))

    async def _delete(self, action: DeleteRemote) -> None:
        try:
            await self._provider.delete(action.name)
        except ProviderError as error:
            status = status_word(error.fault.error.status)
            logger.info("%s could not be deleted, it goes away by itself: %s", action.name, status)


async def guarded(watch: Watch, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
    """Run work beside the loop: a bug in it ends it, and nothing else."""
    try:
        await work(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is of no use to anybody but the log
        watch.bug(error, getattr(work, "__qualname__", type(work).__name__))
