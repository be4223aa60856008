"""One job.

Owns what a job is and what can be told of it at a moment: its state, how far it is, whether it has output. It must not
know about other jobs, nor how a job is shown.
"""

from __future__ import annotations

import math

import msgspec

from .prompts import RowError
from .rows import Rows
from .script import OUTPUT_STATES, Script, ended_without_error


class Job(msgspec.Struct, kw_only=True, eq=False):
    """A job.

    Attributes:
        serial: grows from job to job.
        name: ``batches/...``.
        display_name: as sent, may be empty.
        file_name: of the input file, empty for inline requests.
        rows: what was asked.
        script: what becomes of it.
        created_at: seconds since the epoch.
        updated_at: when somebody changed it, None if nobody did.
        priority: as it was asked for; shown, and nothing else.
        cancelled_at: when somebody cancelled it, None if nobody did.
        deleted: whether nobody can see it any more.
        billed: whether its end is in the books.
    """

    serial: int
    name: str
    display_name: str
    file_name: str
    rows: Rows
    script: Script
    created_at: float
    updated_at: float | None = None
    priority: int = 0
    cancelled_at: float | None = None
    deleted: bool = False
    billed: bool = False

    def ended_at(self) -> float:
        """Return when it ends or has ended."""
        return self.script.ends_at if self.cancelled_at is None else self.cancelled_at

    def state(self, now: float) -> str:
        """Return its state, without prefix."""
        if now < self.ended_at():
            return "PENDING" if now < self.script.starts_at else "RUNNING"
        return self.script.state if self.cancelled_at is None else "CANCELLED"

    def error(self) -> RowError | None:
        """Return the error that it ends with."""
        return self.script.error if self.cancelled_at is None else ended_without_error(self.name)

    def done(self, now: float) -> int:
        """Return how many rows are done: the first ones, in step with the time since it started."""
        if now >= self.script.ends_at and self.cancelled_at is None:
            return self.script.done
        if now < self.script.starts_at or self.script.state == "EXPIRED":
            return 0
        span = self.script.ends_at - self.script.starts_at
        share = (min(now, self.ended_at()) - self.script.starts_at) / span if span > 0 else 1.0
        return max(0, min(self.script.done, math.floor(len(self.rows) * share)))

    def failed_rows(self, done: int) -> set[int]:
        """Return which of the first ``done`` rows have an error."""
        return {index for errors in (self.rows.errors, self.script.errors) for index in errors if index < done}

    def answered_at(self, index: int) -> float:
        """Return when a row is or was answered, if it is done at all."""
        starts_at, ends_at = self.script.starts_at, self.script.ends_at
        return min(self.ended_at(), starts_at + (ends_at - starts_at) * (index + 1) / len(self.rows))

    def has_output(self, now: float, *, cancelled: bool) -> bool:
        """Return whether its output can be seen. ``cancelled``: whether cancelled jobs show theirs."""
        state = self.state(now)
        if state == "CANCELLED":
            return cancelled and self.done(now) > 0
        return state in OUTPUT_STATES and now >= self.ended_at() + self.script.late_s

    @property
    def output_name(self) -> str:
        """The name of its output file."""
        return f"files/batch-{self.name.removeprefix('batches/')}"


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job for whoever watches the emulator."""

    name: str
    display_name: str
    model: str
    kind: str
    state: str
    rows: int
    rows_done: int
    file_name: str
    created_at: float
    deleted: bool
