"""An engine with more work than it may send, before a server whose ceiling of enqueued tokens is hidden and changes.

Time is virtual. ``play(seed)`` lives through a few hours of it and tells what came of it; by hand, over many seeds:
``python -m tests.core.quota_world 0 200``.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgspec

from carpool._core.engine import Engine
from carpool._core.messages import (
    CallFailed,
    Create,
    Created,
    Event,
    Fail,
    Fetch,
    FetchEnded,
    Poll,
    Polled,
    RowsFetched,
    Sweep,
    Swept,
    Upload,
    Uploaded,
    Woken,
)  # fmt: skip
from carpool._core.meter import Charge
from carpool._core.model import Fault, Job, Lane, Meta, RemoteFile
from carpool.settings import Settings
from carpool.types import BatchJob, ServerError

from .desk import FRAMING, ORIGIN, START, STORE_ID, digest_of

MODELS: Final = ("gemini-2.5-flash", "gemini-3-pro-preview", "gemini-embedding-001", "a-model-nobody-knows")
LOWEST: Final = 100_000
HIGHEST: Final = 5_000_000_000
RANGE: Final = 400
"""The highest ceiling of a play as a multiple of its lowest: bounds the number of requests."""
ROWS: Final = 150
"""Requests that fill the lowest ceiling."""
MINUTE_S: Final = 60.0
FULL: Final = 0.8
REFUSED: Final = Fault(kind="refused", error=ServerError(429, "Resource has been exhausted (e.g. check quota).", ""))


class Remote(msgspec.Struct):
    """A job on the server."""

    tokens: int
    ends_at: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a play."""

    seed: int
    creates: int
    refused: int
    early: int
    """Creates that were sent before the pause after a refusal was over."""
    longest_below_s: float
    """The longest time for which less than 80 % of the ceiling was used at a stretch."""
    used: float
    """Share of the ceiling that was used, over the whole time, no more than all of it at any time."""
    failed: int
    """Requests that ended with an error."""
    answered: int


class QuotaWorld:
    """One play.

    Args:
        seed: of everything.
        files: whether batches travel as files.
    """

    def __init__(self, seed: int, *, files: bool = False) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.now = START
        self.lane = Lane("embed", rng.choice(MODELS))
        forms: dict[str, Any] = {"inline_bytes_max": 0} if files else {}
        self.settings = Settings(sweep_s=604_800.0, ladder=("batch",), **forms)
        self.engine = Engine(self.settings, FRAMING, ORIGIN, Meta(store_id=STORE_ID))
        self.changes = self._draw_changes()
        self.ceiling = self.changes[0][1]
        self.highest = max(ceiling for _, ceiling in self.changes)
        self.row_tokens = max(1, min(ceiling for _, ceiling in self.changes) // ROWS)
        self.bias = rng.uniform(0.7, 1.3)
        self.job_s = 300.0 * 24.0 ** rng.random()
        self.remotes: dict[str, Remote] = {}
        self.due: list[tuple[float, int, Callable[[], Event | None]]] = []
        self._numbers = count(1)
        self.truth: dict[str, int] = {}
        self.creates = self.refused = self.early = self.failed = self.answered = 0
        self.below_since: float | None = START
        self.longest_below_s = self.used_s = 0.0

    def _draw_changes(self) -> list[tuple[float, int]]:
        """Return when the ceiling becomes what: by 2 to 20 times, up or down, within its range."""
        rng = self.rng
        low = LOWEST * (HIGHEST / RANGE / LOWEST) ** rng.random()
        ceiling = low * RANGE ** rng.random()
        at, changes = START, [(START, int(ceiling))]
        for _ in range(4):
            at += rng.uniform(25, 60) * MINUTE_S
            factor = 2.0 * 10.0 ** rng.random()
            up = ceiling * factor <= low * RANGE and (rng.random() < 0.5 or ceiling / factor < low)
            ceiling = max(low, ceiling * factor if up else ceiling / factor)
            changes.append((at, int(ceiling)))
        return [*changes, (at + 40 * MINUTE_S, changes[-1][1])]

    @property
    def used(self) -> int:
        """Tokens enqueued on the server now."""
        return sum(remote.tokens for remote in self.remotes.values() if remote.ends_at > self.now)

    def play(self) -> Outcome:
        """Live through it."""
        for at, ceiling in self.changes[1:]:
            self.at(at, lambda ceiling=ceiling: self._set(ceiling))  # type: ignore[misc]
        end = self.changes[-1][0]
        self._fill()
        while True:
            wakeup = self.engine.next_wakeup()
            at = min(self.due[0][0], wakeup if wakeup is not None else end)
            if at >= end:
                break
            self._pass(max(self.now, at))
            event: Event | None = Woken()
            if self.due[0][0] <= self.now:
                event = heapq.heappop(self.due)[2]()
            if event is not None:
                self._tell(event)
        self._pass(end)
        self._note()
        return Outcome(
            seed=self.seed,
            creates=self.creates,
            refused=self.refused,
            early=self.early,
            longest_below_s=self.longest_below_s,
            used=self.used_s / (end - START),
            failed=self.failed,
            answered=self.answered,
        )

    def at(self, at: float, what: Callable[[], Event | None]) -> None:
        """Let something happen."""
        heapq.heappush(self.due, (at, next(self._numbers), what))

    def _pass(self, now: float) -> None:
        self.used_s += min(1.0, self.used / self.ceiling) * (now - self.now)
        self.now = now

    def _note(self) -> None:
        """Look whether the ceiling is used."""
        if self.below_since is not None:
            self.longest_below_s = max(self.longest_below_s, self.now - self.below_since)
        if self.used >= FULL * self.ceiling:
            self.below_since = None
        elif self.below_since is None:
            self.below_since = self.now

    def _set(self, ceiling: int) -> None:
        self._note()
        self.ceiling = ceiling
        self._note()

    def _fill(self) -> None:
        """Let more wait than the highest ceiling takes."""
        waits = self.engine.book.waiting_requests * self.row_tokens
        while waits < 1.5 * self.highest:
            estimate = max(1, int(self.row_tokens * self.rng.uniform(0.7, 1.3)))
            key, digest = self.engine.new_key(digest_of("p")), digest_of("p")
            self.engine.admit(self.lane, key, digest, b"{}\n", estimate, 0, None, self.now)
            self.truth[key] = max(1, int(estimate * self.bias))
            waits += self.row_tokens
        self.engine.spilled.clear()

    def _tell(self, event: Event) -> None:
        self._fill()
        step = self.engine.step(event, self.now)
        for action in step.actions:
            match action:
                case Create():
                    self._create(action)
                case Upload():
                    job, op = action.job, action.op
                    self.later(5.0, lambda job=job, op=op: Uploaded(job.id, op, RemoteFile(name=job.file_name)))
                case Poll():
                    self.later(0.5, lambda action=action: self._polled(action))
                case Fetch():
                    self.later(2.0, lambda action=action: self._fetched(action))
                case Sweep():
                    self.later(0.5, lambda action=action: Swept(action.op, []))
                case Fail():
                    self.failed += len(action.places)
                case _:
                    pass

    def later(self, most_s: float, what: Callable[[], Event | None]) -> None:
        """Let something happen soon."""
        self.at(self.now + self.rng.uniform(0.2, 1.0) * most_s, what)

    # -- the server

    def _create(self, action: Create) -> None:
        self.creates += 1
        self.early += self.now < self.engine.book.pacing.ceiling(self.lane.model).blocked_until
        tokens = sum(self.truth[key] for key in self._keys(action.job))

        def arrive() -> Event | None:
            if self.used + tokens > self.ceiling:
                self.refused += 1
                self.later(2.0, lambda: CallFailed(action.job.id, action.op, REFUSED))
                return None
            name = f"batches/{next(self._numbers)}"
            ends_at = self.now + self.rng.uniform(0.3, 1.7) * self.job_s
            self.remotes[name] = Remote(tokens, ends_at)
            self._note()
            self.at(ends_at, self._note_end)
            self.later(2.0, lambda: Created(action.job.id, action.op, name))
            return None

        self.later(4.0, arrive)

    def _note_end(self) -> None:
        self._note()
        self.remotes = {name: remote for name, remote in self.remotes.items() if remote.ends_at > self.now - 3_600.0}

    def _polled(self, action: Poll) -> Event:
        job = action.job
        remote = self.remotes.get(job.name)
        over = remote is None or remote.ends_at <= self.now
        state = "SUCCEEDED" if over else "RUNNING"
        return Polled(job.id, action.op, BatchJob(name=job.name, state=state, inline_output=over))

    def _fetched(self, action: Fetch) -> Event:
        job = action.job
        index = self.engine.fetch_index(job.id)
        self.answered += len(index)
        charge = Charge(answers=len(index), prompt=sum(self.truth.pop(key) for key in index))
        self.at(self.now, lambda: FetchEnded(job.id, action.op, 0))
        return RowsFetched(job.id, action.op, list(index.values()), [], [], charge)

    def _keys(self, job: Job) -> list[str]:
        segments = self.engine.book.segments
        return [key for no, start, stop in job.spans for key in segments[no].keys[start:stop]]


def play(seed: int) -> Outcome:
    """Live through a play; every third with files."""
    return QuotaWorld(seed, files=seed % 3 == 0).play()


def main(first: int, last: int) -> None:
    """Play many, and tell of the worst."""
    outcomes: list[Outcome] = []
    for seed in range(first, last):
        outcomes.append(play(seed))
        sys.stdout.write(f"{outcomes[-1]}\n")
        sys.stdout.flush()
    count = len(outcomes)
    longest = sorted(outcome.longest_below_s for outcome in outcomes)
    used = sorted(outcome.used for outcome in outcomes)
    sys.stdout.write(
        f"{count} plays, {sum(one > 600.0 for one in longest)} of them more than 10 minutes below 80 % at a stretch "
        f"(longest {longest[-1]:.0f} s, median {longest[count // 2]:.0f} s)\n"
        f"creates {sum(one.creates for one in outcomes)}, refused {sum(one.refused for one in outcomes)}, sent within "
        f"a pause {sum(one.early for one in outcomes)}, requests failed {sum(one.failed for one in outcomes)}\n"
        f"used of the ceiling over all time: lowest {used[0]:.3f}, median {used[count // 2]:.3f}\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
