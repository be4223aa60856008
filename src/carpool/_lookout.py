"""The lookout on the other slots of a home: which there are, and what was last seen in each.

Owns the thread in which they are read, and when that is needed. It must not know what is done about what is seen.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from carpool._runtime.awaiters import Answer
from carpool._runtime.loop import Runtime
from carpool._stores.peek import Peek, is_settled
from carpool._stores.slots import find_slots, slot_number
from carpool.errors import CarpoolError, ClientClosed, StoreError, StoreFull, StoreLocked
from carpool.types import Alarm

if TYPE_CHECKING:
    from carpool._ports import Provider

T = TypeVar("T")

FRESH_S: Final = 0.001
"""A turn of the loop that takes longer looks again: something may have waited for another process in it."""
_RETRY_MAX_S: Final = 86_400.0


class Vacancy:
    """When a slot with unfinished work may be adopted without being asked for. Pure: times are arguments.

    Args:
        adopt_after_s: how long it must have been free.
    """

    def __init__(self, adopt_after_s: float) -> None:
        self._adopt_after_s = adopt_after_s
        self._free_since: float | None = None
        self._not_before = 0.0
        self._retry_s = adopt_after_s

    def is_due(self, now: float, *, free: bool, age_s: float) -> bool:
        """Return whether it may be adopted now.

        Args:
            now: the time.
            free: whether no process has it.
            age_s: how long ago something was written there.
        """
        if not free:
            self._free_since = None
            return False
        if self._free_since is None:
            self._free_since = now
        # Nobody tells when a process ended. Where nothing was written for long it may have been long ago, and whoever
        # lives for less than that time could never adopt anything.
        wait_s = self._adopt_after_s / 10 if age_s >= self._adopt_after_s else self._adopt_after_s
        return now >= max(self._not_before, self._free_since + wait_s)

    def tried(self, now: float) -> None:
        """Note that an adoption ended: what it left undone is tried again ever more rarely, at last once a day."""
        self._free_since = None
        self._not_before = now + self._retry_s
        self._retry_s = min(max(_RETRY_MAX_S, self._adopt_after_s), 2 * self._retry_s)

    def finished(self) -> None:
        """Note that there is no unfinished work."""
        self._free_since, self._not_before, self._retry_s = None, 0.0, self._adopt_after_s


class Sibling:
    """Another slot of the home."""

    def __init__(self, number: int, peek: Peek, adopt_after_s: float, raise_alarm: Callable[[Alarm], None]) -> None:
        self.number = number
        self.peek = peek
        self.vacancy = Vacancy(adopt_after_s)
        self._raise_alarm = raise_alarm
        self.trouble: StoreError | None = None
        """Why it cannot be read."""
        self._reported = ""
        self.knock_at = 0.0
        self.adopting: asyncio.Future[None] | None = None
        """Ends when the slot is open, or cannot be adopted; there until the slot is handed back."""
        self.runtime: Runtime | None = None
        """Of an adopted slot, while it takes calls."""
        self.joined: set[asyncio.Future[Answer]] = set()
        """Calls that wait for an answer of the adopted slot."""

    @property
    def is_lost(self) -> bool:
        """Whether it cannot be read, and not only for the moment."""
        return self.trouble is not None and not isinstance(self.trouble, StoreLocked | StoreFull)

    def looked(self, trouble: StoreError | None) -> None:
        """Note whether it could be read."""
        self.trouble = trouble
        if trouble is None:
            self._reported = ""
        else:
            self.report(trouble)

    def report(self, error: CarpoolError) -> None:
        """Say what is wrong with a slot, once."""
        if str(error) != self._reported:
            self._reported = str(error)
            self._raise_alarm(Alarm("slot_unreadable", detail=str(error)))


class Lookout:
    """Looks at the other slots of a home. True if there are any.

    Args:
        runtime: the client's own.
        provider: tells whose records are of use.
        home: the folder of the slots.
    """

    def __init__(self, runtime: Runtime, provider: Provider, home: Path) -> None:
        self._runtime = runtime
        self._provider = provider
        self._home = home
        self._home_path = str(home)
        self._home_stamp_ns = -1
        self._others: dict[int, Sibling] = {}
        self.own: Path | None = None
        """The client's own slot, once that is open."""
        self._thread: ThreadPoolExecutor | None = None
        """Not the loop's own: threads of users who wait for an answer may take up all of those."""
        self._closed = False
        self._looking: asyncio.Future[list[StoreError | None]] | None = None
        self._looks = 0
        """How many were begun."""
        self._fresh_until = 0.0
        self._home_fresh_until = 0.0
        """Of the monotonic clock."""

    def __bool__(self) -> bool:
        if self.own is not None and time.monotonic() >= self._home_fresh_until:
            self._look_at_home(self.own)
        return bool(self._others)

    def _look_at_home(self, own_folder: Path) -> None:
        """Find slots that are new; once a turn: asked for each new key, a million would let go of the GIL as often."""
        with suppress(RuntimeError):  # where no loop runs, each question looks anew
            asyncio.get_running_loop().call_soon(self._turn_ended)
            self._home_fresh_until = time.monotonic() + FRESH_S
        try:
            stamp_ns = os.stat(self._home_path).st_mtime_ns  # noqa: PTH116 - as above
        except OSError:
            return
        if stamp_ns != self._home_stamp_ns:
            now_ns, own = time.time_ns(), slot_number(own_folder)
            for folder in find_slots(self._home):
                number = slot_number(folder)
                if number != own and number not in self._others:
                    peek = Peek(folder, self._provider.origin)
                    self._others[number] = Sibling(
                        number, peek, self._runtime.settings.adopt_after_s, self._runtime.raise_alarm
                    )
                    self._fresh_until = 0.0
            self._home_stamp_ns = stamp_ns if is_settled(stamp_ns, now_ns) else -1

    def siblings(self) -> list[Sibling]:
        """Return the other slots."""
        return list(self._others.values())

    async def refresh(self) -> None:
        """Make sure that what was written before now is seen. Nobody else reads on when this returns.

        Raises:
            CarpoolError: the client was left.
        """
        before, loop = self._looks, asyncio.get_running_loop()
        while self._looking is not None or loop.time() >= self._fresh_until:
            if self._looking is None:
                stale = [one for one in self._others.values() if one.adopting is None and not one.peek.is_current]
                if not stale:
                    self._fresh_until = loop.time() + FRESH_S
                    loop.call_soon(self._turn_ended)
                    return
                if self._looks > before:
                    return
                self._looks += 1
                self._looking = self.in_thread(_refreshed, [one.peek for one in stale])
                self._looking.add_done_callback(partial(self._looked, stale))
            await asyncio.wait((self._looking,))

    def _turn_ended(self) -> None:
        self._fresh_until = self._home_fresh_until = 0.0

    def _looked(self, siblings: list[Sibling], looking: asyncio.Future[list[StoreError | None]]) -> None:
        self._looking = None
        for sibling, trouble in zip(siblings, looking.result(), strict=True):
            sibling.looked(trouble)

    def in_thread(self, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Do what takes time: one after another.

        Raises:
            CarpoolError: the client was left.
        """
        if self._closed:
            raise self.reason()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "carpool-lookout")
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """Look no more. What is being read is read to its end, for nobody."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=False)

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


def _refreshed(peeks: Iterable[Peek]) -> list[StoreError | None]:
    return [_trouble(peek) for peek in peeks]


def _trouble(peek: Peek) -> StoreError | None:
    try:
        peek.refresh()
    except StoreError as error:
        return error
    return None
