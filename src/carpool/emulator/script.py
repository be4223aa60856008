"""The script of a job: what will become of it.

Owns the one place where a job's fate is drawn: when it starts and ends, in which state, with how many rows, and what
happens to single rows. All is drawn when the job is created, so the same calls have the same history however often the
job is looked at. It must not know how anything is shown.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from .plan import Fault, Plan
from .prompts import RowError
from .state import State

_ROW_FAULTS: Final = (
    "missing",
    "doubled",
    "doubled_other",
    "unknown_key",
    "garbled",
    "key_dropped",
    "lone_surrogate",
    "line_separators",
    "huge",
)
_HUGE_BYTES: Final = 100 * 1024 * 1024

OUTPUT_STATES: Final = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED"})


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What will become of a job if nobody cancels it.

    Attributes:
        starts_at: when it leaves PENDING; infinite if never.
        ends_at: when it ends.
        state: how it ends, without prefix.
        error: the job's error, None if it has output.
        done: rows that are done at the end.
        late_s: seconds from the end until the output can be seen.
        inline: whether the output is inline.
        order: of the rows in the output.
        edits: by row, what happens to its place in the output: the names of the ``row.*`` faults without ``row.``.
        errors: rows that fail though they could be answered.
        truncated: whether the last line of an output file is cut.
        cut_bytes: where an output file ends, None where its rows do.
        vanished: whether the output file is not there, though the job names it.
        padding_bytes: of a row that is padded.
    """

    starts_at: float
    ends_at: float
    state: str
    error: RowError | None
    done: int
    late_s: float
    inline: bool
    order: list[int] | range
    edits: dict[int, tuple[str, ...]]
    errors: dict[int, RowError]
    truncated: bool
    cut_bytes: int | None
    vanished: bool
    padding_bytes: int


def ended_without_error(name: str) -> RowError:
    """Return the error of a job that ended without a reason of its own: what the service was seen to say.

    Args:
        name: of the job, ``batches/...``.
    """
    return RowError(code=13, message=f"Batch {name.removeprefix('batches/')} failed without error.")


def draw_script(state: State, *, name: str, count: int, from_file: bool, now: float) -> Script:
    """Draw the fate of a job.

    Args:
        state: plan, faults and chance.
        name: of the job.
        count: rows of the job.
        from_file: whether its input is a file.
        now: when it is created, in seconds.
    """
    plan = state.plan
    latency = plan.latency_s if isinstance(plan.latency_s, float | int) else state.rng.uniform(*plan.latency_s)
    starts_at, ends_at, end_state, error, done = (
        now + latency * plan.pending_share,
        now + latency,
        "SUCCEEDED",
        None,
        count,
    )
    # Every name is drawn for every job, so that one fault does not move the occasions of another. The first that fires
    # decides.
    drawn = {fault: state.faults.draw(f"job.{fault}") for fault in _JOB_ENDS}
    fate = next((fault for fault in _JOB_ENDS if drawn[fault] is not None), None)
    fault = drawn[fate] if fate is not None else None
    stuck = fate in {"stuck_pending", "stuck_running"}
    if fate is not None and fault is not None:
        end_state, error, done = _end(fate, fault, name, count)
    expiry = now + plan.job_expiry_s
    if stuck or expiry < ends_at:
        ends_at, end_state, error, done = expiry, "EXPIRED", ended_without_error(name), 0
        starts_at = math.inf if fate == "stuck_pending" else min(starts_at, expiry)
    late = state.faults.draw("output.late")
    inlined = state.faults.draw("output.inline_from_file") if from_file else None
    shuffled = state.faults.draw("output.shuffled")
    truncated = state.faults.draw("output.truncated")
    vanished = state.faults.draw("output.vanished")
    edits, errors = _draw_rows(state, count)
    order: list[int] | range = range(count)
    if shuffled is not None:
        order = list(range(count))
        state.rng.shuffle(order)
    return Script(
        starts_at=starts_at,
        ends_at=ends_at,
        state=end_state,
        error=error,
        done=done,
        late_s=0.0 if late is None else 5.0 if late.seconds is None else late.seconds,
        inline=not from_file or inlined is not None,
        order=order,
        edits=edits,
        errors=errors,
        truncated=truncated is not None,
        cut_bytes=None if truncated is None else truncated.bytes,
        vanished=vanished is not None,
        padding_bytes=_padding_bytes(state.plan),
    )


_JOB_ENDS: Final = ("stuck_pending", "stuck_running", "failed", "expired", "cancelled", "partially_succeeded")


def _end(fate: str, fault: Fault, name: str, count: int) -> tuple[str, RowError | None, int]:
    """Return state, error and number of rows done of a job with a fault."""
    share = int(count * fault.share)
    usual = ended_without_error(name)
    match fate:
        case "failed":
            code = 13 if fault.code is None else fault.code
            return "FAILED", RowError(code=code, message=fault.message or usual.message), 0
        case "expired":
            return "EXPIRED", usual, 0
        case "cancelled":
            return "CANCELLED", usual, share
        case "partially_succeeded":
            return "PARTIALLY_SUCCEEDED", None, share
        case _:
            return "EXPIRED", usual, 0


def _padding_bytes(plan: Plan) -> int:
    huge = plan.faults.get("row.huge")
    return 0 if huge is None else _HUGE_BYTES if huge.bytes is None else huge.bytes


def _draw_rows(state: State, count: int) -> tuple[dict[int, tuple[str, ...]], dict[int, RowError]]:
    edits: dict[int, tuple[str, ...]] = {}
    errors: dict[int, RowError] = {}
    for kind in _ROW_FAULTS:
        if not state.faults.planned(f"row.{kind}"):
            continue
        for index in range(count):
            if state.faults.draw(f"row.{kind}") is not None:
                edits[index] = (*edits.get(index, ()), kind)
    if state.faults.planned("row.error"):
        for index in range(count):
            fault = state.faults.draw("row.error")
            if fault is not None:
                code = 13 if fault.code is None else fault.code
                message = "An internal error has occurred." if fault.message is None else fault.message
                errors[index] = RowError(code=code, message=message, status=fault.status)
    return edits, errors
