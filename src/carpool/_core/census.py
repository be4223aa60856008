"""Which jobs on the server are this store's, which of them were doubled, and how far behind its lists are.

Owns what the sweep remembers from one answer to the next, and what of it goes into the store's identity record. It must
not know rows, nor what is done about what it tells.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from carpool._core.model import Meta
from carpool._core.sealing import JobName, read_id, ulid
from carpool.settings import Settings

LAG_MAX_S: Final = 1_800.0
"""A job that is missing from a list longer than this is not late, but gone."""
LOOSE_MAX: Final = 1_000
DOUBLED_MAX: Final = 200
CLOSED_MAX: Final = 1_000
PATIENCE: Final = 3
"""Sweeps that may fail before recovered requests are sent without having seen the list."""


class Origin(Enum):
    """Where a job of our name comes from."""

    FOREIGN = "foreign"
    """It was sealed with another base URL or key, which is left alone."""
    CLOSED = "closed"
    """This store sealed it, and is done with it."""
    STRANGE = "strange"
    """This store does not know it: it was restored from a backup."""


class Closed(msgspec.Struct, frozen=True, gc=False):
    """A job that this process closed."""

    name: str
    """The server's name; empty if none was known."""
    sweep: int
    """Number of the last sweep that was asked for before."""


class Census:
    """What is known of the jobs that carry this store's name."""

    def __init__(self, meta: Meta) -> None:
        self._known = meta.jobs
        self._loose_at_open = frozenset(meta.loose)
        self._first_job = self.next_job = meta.jobs
        self.meta = meta
        self.opened_at = 0.0
        self.foreign: set[str] = set()
        self.closed: dict[str, Closed] = {}
        self.doubled: dict[str, None] = dict.fromkeys(meta.doubled)
        """Names of doubled jobs that were counted."""
        self.lag_s = meta.lag_s
        """The longest time for which a list was seen to lack a job that was there."""
        self.fresh = meta.epoch <= 1
        """Whether no earlier process can have created anything."""
        self.settled = self.fresh
        """Whether every job that an earlier process can have left behind is in the book, or ended."""
        self.holding = not self.fresh
        """Whether requests of earlier processes wait: they may be inside a job that this store does not know."""
        self.held_jobs: list[str] = []
        """Jobs of earlier processes that wait for the same reason."""
        self.stranger_keys: set[str] = set()
        """Keys that a job unknown to this store has answered."""
        self.stranger_number = 0
        self.op = 0
        self.asked_at = 0.0
        self.asking = False
        self.answered = False
        """Whether a sweep was answered in this process."""
        self.blind = False
        """Whether it must do without: the list was refused, or failed too often."""
        self.absent: dict[str, float] = {}
        """Running jobs that the last list lacked, and their age then, in seconds."""
        self.failures = 0
        self.wake_at = 0.0

    def open(self, now: float, settings: Settings) -> None:
        """Begin: sweep at once, unless nothing can have been created before."""
        self.opened_at = now
        self.wake_at = now + settings.sweep_s if self.fresh else now

    def note(self, job_id: str) -> None:
        """Never give the number of a job on record again."""
        name = read_id(job_id)
        if name is not None and name.epoch <= self.meta.epoch:
            self.next_job = self._first_job = max(self.next_job, name.number)

    def seal_id(self, store_id: str, now: float) -> str:
        """Return the id of a new job, and remember in the identity record that it is ours."""
        self.next_job += 1
        job_id = ulid(now, store_id, self.meta.epoch, self.next_job, self.opened_at)
        if self.settled:
            self.meta = msgspec.structs.replace(self.meta, jobs=self.next_job)
        else:
            self.meta = msgspec.structs.replace(self.meta, loose=[*self.meta.loose, job_id][-LOOSE_MAX:])
        return job_id

    def settle(self) -> bool:
        """Note that no unknown job is left; return whether this changed the identity record."""
        if self.settled:
            return False
        self.settled = True
        self.stranger_keys.clear()
        self.next_job = max(self.next_job, self.stranger_number)
        self.meta = msgspec.structs.replace(self.meta, jobs=self.next_job, loose=[])
        return True

    def close(self, job_id: str, name: str) -> None:
        """Remember a job that was closed a little longer: its twins may be seen later."""
        self.closed[job_id] = Closed(name, self.op)
        if len(self.closed) > CLOSED_MAX:
            del self.closed[next(iter(self.closed))]

    def count(self, name: str) -> bool:
        """Count a doubled job; return whether it was not counted before."""
        if name in self.doubled:
            return False
        self.doubled[name] = None
        if len(self.doubled) > DOUBLED_MAX:
            del self.doubled[next(iter(self.doubled))]
        self.meta = msgspec.structs.replace(self.meta, doubled=list(self.doubled))
        return True

    def origin_of(self, name: JobName, store_id: str) -> Origin:
        """Return where a job that is not in the book comes from."""
        if name.job_id in self.foreign:
            return Origin.FOREIGN
        mine = (
            name.epoch == self.meta.epoch
            and self._first_job < name.number <= self.next_job
            and name.job_id == ulid(name.sealed_at, store_id, name.epoch, name.number, self.opened_at)
        )
        known = mine or name.number <= self._known or name.job_id in self._loose_at_open or name.job_id in self.closed
        return Origin.CLOSED if known else Origin.STRANGE

    def note_lag(self, lag_s: float) -> None:
        """Learn from a job that a list lacked though it was there."""
        if self.lag_s < lag_s <= LAG_MAX_S:
            self.lag_s = lag_s
            self.meta = msgspec.structs.replace(self.meta, lag_s=lag_s)

    def look_wait_s(self, settings: Settings) -> float:
        """Return the wait between two looks at the list: longer than any lag seen."""
        return max(settings.lookup_wait_s, 2 * self.lag_s)
