"""The thread that owns the database of a slot: what is queued for it is done in order.

Owns the order, and the grouping of commits: whatever is queued when the thread comes to it goes into one transaction.
Everything that takes time (framing, checksums, SQL, files) happens here. It must not know how values are laid out, nor
SQL.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, assert_never

import msgspec

from carpool._core.messages import PutResults, PutSegment, Write
from carpool._stores.cache import again
from carpool._stores.database import Database
from carpool._stores.segments import Changes
from carpool._stores.slots import Slot
from carpool.errors import ConfigurationError, StoreError, StoreFull
from carpool.settings import Settings

T = TypeVar("T")

_END_BYTES: Final = 8
GROUP_COMMITS_MAX: Final = 1_000
GROUP_BYTES_MAX: Final = 8_388_608
BEHIND_BYTES_MAX: Final = 8_388_608
"""How many bytes of rows may wait for the thread before whoever commits more waits for it a little."""
BEHIND_PAUSE_S: Final = 0.02
LOOP_CHECK_S: Final = 1.0
"""How often an idle store looks whether its event loop is still there."""


class Commit(msgspec.Struct, frozen=True):
    """Writes that wait for the thread."""

    writes: list[Write]
    done: asyncio.Future[None]
    size_bytes: int


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A question to the database that waits for the thread."""

    function: Callable[[Database], T]
    done: asyncio.Future[T]


class Stop(msgspec.Struct, frozen=True):
    """The last item; without ``done``, nobody waits for the end."""

    done: asyncio.Future[None] | None = None


Item: TypeAlias = Commit | Call[Any] | Stop
_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any, BaseException | None]


class Writer:
    """What runs in the thread. It has no reference to the store, so that a forgotten store can be noticed."""

    def __init__(self, home: Path, settings: Settings, take: Callable[[], Slot]) -> None:
        self.queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.path = home
        self.checked = False
        self.room_bytes = 0
        self._settings = settings
        self._take = take
        self._held: Item | None = None
        self._taken: list[asyncio.Future[Any]] = []
        """Of what is being done, those who wait."""
        self._taken_bytes = 0
        self._asked_bytes = self._done_bytes = 0
        """Rows of all commits: each is counted by one thread, in the turn in which it is queued, or done."""
        self._progress = threading.Event()

    def commit(self, writes: list[Write], done: asyncio.Future[None]) -> None:
        """Queue writes. The list is emptied once they are durable.

        A turn of the loop may take in a million requests, and the thread comes to its work only when the loop lets
        go of the interpreter: who is far ahead of it lets it work for a moment, instead of filling the memory.
        """
        size_bytes = sum(_size_of(write) for write in writes)
        self._asked_bytes += size_bytes
        self.queue.put(Commit(writes, done, size_bytes))
        if self._asked_bytes - self._done_bytes > BEHIND_BYTES_MAX and size_bytes:
            self._progress.clear()
            self._progress.wait(BEHIND_PAUSE_S)

    def run(self, opened: asyncio.Future[None]) -> None:
        """Own the slot until the end: open it, serve what is queued, close it."""
        try:
            slot, database = self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            _post([(opened, None, _typed(error))])
            return
        _post([(opened, None, None)])
        loop = opened.get_loop()
        while (stop := self._served(database, loop)) is None:
            pass
        outcome = _closing(slot, database)
        if stop.done is not None:
            _post([(stop.done, None, outcome)])

    def _open(self) -> tuple[Slot, Database]:
        slot = self._take()
        database = Database(slot, self._settings.store_bytes_max)
        try:
            database.open()
        except BaseException:
            slot.release()
            raise
        self.path, self.checked, self.room_bytes = slot.path, database.checked, database.room_bytes
        return slot, database

    def _served(self, database: Database, loop: asyncio.AbstractEventLoop) -> Stop | None:
        """Do what is next. Whatever goes wrong with it, nobody waits for ever, and the slot is let go of in the end."""
        try:
            return self._serve(database, loop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            failure = _typed(error)
            if isinstance(failure, StoreError):
                database.broken = database.broken or failure  # nobody knows what was written
            _post([(done, None, _again(failure)) for done in self._taken])
            return None
        finally:
            self._taken = []
            self._done_bytes += self._taken_bytes
            self._taken_bytes = 0
            self._progress.set()

    def _serve(self, database: Database, loop: asyncio.AbstractEventLoop) -> Stop | None:
        """Do what is next. Nothing of it is kept while waiting for more."""
        item = self._held if self._held is not None else self._next(loop)
        self._held = None
        match item:
            case Commit():
                self._taken.append(item.done)
                outcomes = self._commit_group(database, item)
                self.room_bytes = database.room_bytes
                _post(outcomes)
            case Call():
                self._taken.append(item.done)
                if not item.done.cancelled():
                    _post([_outcome(item, database)])
            case Stop():
                return item
            case _:
                assert_never(item)
        return None

    def _next(self, loop: asyncio.AbstractEventLoop) -> Item:
        while True:
            try:
                return self.queue.get(timeout=LOOP_CHECK_S)
            except queue.Empty:
                # Closed under the store: nobody can ask for anything, nor close it, and others want the slot.
                if loop.is_closed():
                    return Stop()

    def _commit_group(self, database: Database, first: Commit) -> list[_Outcome]:
        group: Changes = {}
        outcomes: list[_Outcome] = []
        staged: list[tuple[Commit, Changes]] = []
        size_bytes = 0
        for item in self._queued_commits(first):
            self._taken.append(item.done)
            self._taken_bytes += item.size_bytes
            try:
                changes = database.stage(item.writes)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                outcomes.append((item.done, None, _typed(error)))
                continue
            staged.append((item, changes))
            group.update(changes)
            size_bytes += sum(len(value or b"") for value in changes.values())
            if size_bytes >= GROUP_BYTES_MAX:
                break
        failure = _applied(database, group) if staged else None
        if failure is None or len(staged) == 1 or database.broken is not None:
            return outcomes + [_ended(item, _again(failure)) for item, _ in staged]
        # One of them may be the reason: each for itself, in their order.
        return outcomes + [_ended(item, _applied(database, changes)) for item, changes in staged]

    def _queued_commits(self, first: Commit) -> Iterator[Commit]:
        yield first
        for _ in range(GROUP_COMMITS_MAX - 1):
            try:
                item = self.queue.get_nowait()
            except queue.Empty:
                return
            if not isinstance(item, Commit):
                self._held = item
                return
            yield item


def _size_of(write: Write) -> int:
    """Return how many bytes the rows of a write have."""
    if isinstance(write, PutSegment | PutResults):
        return int.from_bytes(write.head.ends[-_END_BYTES:], sys.byteorder)
    return 0


def _ended(item: Commit, failure: BaseException | None) -> _Outcome:
    if failure is None:
        # Whoever queued it may hear of it much later, and holds the list until then.
        item.writes.clear()
    return item.done, None, failure


def _applied(database: Database, changes: Changes) -> BaseException | None:
    try:
        database.apply(changes)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return _typed(error)
    return None


def _again(failure: BaseException | None) -> BaseException | None:
    return again(failure) if isinstance(failure, StoreError) else failure


def _outcome(call: Call[Any], database: Database) -> _Outcome:
    try:
        return call.done, call.function(database), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return call.done, None, _typed(error)


def _closing(slot: Slot, database: Database) -> BaseException | None:
    try:
        database.close()
        if database.broken is None:
            slot.mark_clean()
    except StoreFull:
        # Without the mark, the next one to open the slot checks it: that is all.
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return _typed(error)
    finally:
        slot.release()
    return None


def _typed(error: Exception) -> StoreError | ConfigurationError:
    if isinstance(error, StoreError | ConfigurationError):
        return error
    # Not its text: that may be of a request.
    wrapped = StoreError(f"the store failed on a {type(error).__name__}, which is a bug or a lack of memory")
    wrapped.__cause__ = error
    return wrapped


def _post(outcomes: list[_Outcome]) -> None:
    """Tell those who wait, all in one turn of their loop."""
    if not outcomes:
        return
    try:
        outcomes[0][0].get_loop().call_soon_threadsafe(_settle, outcomes)
    except RuntimeError:
        # The loop was closed under the store: nobody is left to be told.
        return


def _settle(outcomes: list[_Outcome]) -> None:
    for done, value, error in outcomes:
        if done.done():
            continue
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)
