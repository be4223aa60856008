"""Clients made worse on purpose: each breaks one promise, and the kill tests must notice.

Owns the ways. They change the process in which they are called, for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from carpool._core import shelf
from carpool._core.engine import Engine
from carpool._core.keys import Claim
from carpool._core.messages import PutResults
from carpool._core.model import ABANDONED, EXPLICIT, JobState, ResultsHead
from carpool._core.recovery import Recovery
from carpool._runtime.kept import KeptReads

from .killing import KillingStore


def creates_again() -> None:
    """After a crash in a create, create again without having looked."""
    finish = Recovery.finish

    def worse(self: Recovery, now: float) -> Any:
        for job in self._book.jobs.values():
            if job.state is JobState.CREATING:
                job.state = JobState.READY
        return finish(self, now)

    Recovery.finish = worse  # type: ignore[method-assign]


def acts_first() -> None:
    """Act before what is written down is on disk."""
    commit = KillingStore.commit

    def worse(self: KillingStore, writes: Any) -> Any:
        commit(self, writes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    KillingStore.commit = worse  # type: ignore[method-assign]


def forgets_results() -> None:
    """Deliver results that were never stored."""
    keep = shelf.keep_columns

    def worse(book: Any, *args: Any) -> ResultsHead:
        head = keep(book, *args)
        book.step.writes[:] = [write for write in book.step.writes if not isinstance(write, PutResults)]
        return head

    shelf.keep_columns = worse


def sends_unasked() -> None:
    """After a crash, send what was asked for without a key as if somebody had asked again."""
    sort_rows = Recovery._sort_rows

    def worse(self: Recovery, segment: Any) -> None:
        flags = bytes(segment.flags)
        segment.flags[:] = bytes(flag | EXPLICIT for flag in flags)
        sort_rows(self, segment)
        segment.flags[:] = bytes(flag & ~ABANDONED for flag in flags)

    Recovery._sort_rows = worse  # type: ignore[method-assign]


def pays_again() -> None:
    """Take a key whose result is stored for a new one."""
    claim = Engine.claim

    def worse(self: Engine, key: str, digest: bytes, now: float) -> Any:
        found, place = claim(self, key, digest, now)
        return (Claim.NEW, 0) if found is Claim.KEPT else (found, place)

    Engine.claim = worse  # type: ignore[method-assign]


def leaves_callers_waiting() -> None:
    """Forget, on leaving, who waits for a stored result."""

    async def worse(self: KeptReads) -> None:
        self._waiting = []

    KeptReads.serve = worse  # type: ignore[method-assign]


SPOILERS: Final[dict[str, Callable[[], None]]] = {
    spoil.__name__: spoil
    for spoil in (creates_again, acts_first, forgets_results, sends_unasked, pays_again, leaves_callers_waiting)
}
