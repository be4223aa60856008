"""The plan: how the emulated service behaves, and which faults it plays.

Owns the settings, the closed set of fault names and the count of what fired. It must not know how a fault takes effect
on a job or a file: that is written where the job or the file is.

A fault is a name and a :class:`Fault` that says how often::

    Plan(latency_s=2.0, faults={
        "create.dropped_after_apply": Fault(count=1),        # the first create takes effect, nobody is told
        "get.503": Fault(probability=0.1),                   # one poll in ten
        "row.error": Fault(every=100, code=13),              # every hundredth row
        "job.partially_succeeded": Fault(after=1, count=1, share=0.5),   # the second job delivers half
    })

Names of call faults are ``<operation>.<effect>``, with the operations of :class:`carpool.emulator.Op` and the effects
of ``CALL_EFFECTS``. Names of job, output and row faults are in ``JOB_FAULTS``. Adding a call fault is one more entry of
``CALL_EFFECTS``; adding a job fault one entry of ``JOB_FAULTS`` and the place in ``script.py`` that acts on it.
"""

from __future__ import annotations

import difflib
import random
from enum import StrEnum
from typing import Final, Literal

import msgspec

from .messages import Op


class Effect(StrEnum):
    """What a call fault does to a call."""

    REFUSE = "refuse"  # nothing takes effect, an error is answered
    DROP = "drop"  # nothing takes effect, the connection closes without an answer
    DROP_MIDWAY = "drop midway"  # half of the body takes effect, the connection closes without an answer
    ERROR_AFTER = "error after"  # the call takes effect, an error is answered
    DROP_AFTER = "drop after"  # the call takes effect, the connection closes without an answer
    SLOW = "slow"  # the call takes effect, the answer comes `seconds` later


class CallFault(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the table of call faults.

    Attributes:
        effect: what happens.
        code: HTTP status of what is answered.
        body: answered in place of Google's envelope.
        content_type: of ``body``.
        ops: the operations that can have it.
    """

    effect: Effect
    code: int = 0
    body: bytes | None = None
    content_type: str = "text/html; charset=UTF-8"
    ops: frozenset[Op] = frozenset(Op)


_CHUNKS: Final = frozenset({Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE})

# In this order: of several that would fire on one call, the first is played and the others wait for the next call.
CALL_EFFECTS: Final[dict[str, CallFault]] = {
    "400": CallFault(effect=Effect.REFUSE, code=400),
    "403": CallFault(effect=Effect.REFUSE, code=403),
    "404": CallFault(effect=Effect.REFUSE, code=404),
    "429": CallFault(effect=Effect.REFUSE, code=429),
    "500": CallFault(effect=Effect.REFUSE, code=500),
    "503": CallFault(effect=Effect.REFUSE, code=503),
    "504": CallFault(effect=Effect.REFUSE, code=504),
    "503_empty": CallFault(effect=Effect.REFUSE, code=503, body=b"", content_type="text/plain; charset=UTF-8"),
    "502_html": CallFault(effect=Effect.REFUSE, code=502, body=b"<html><h1>502 Bad Gateway</h1></html>"),
    "dropped": CallFault(effect=Effect.DROP),
    "dropped_midway": CallFault(effect=Effect.DROP_MIDWAY, ops=_CHUNKS),
    "500_after_apply": CallFault(effect=Effect.ERROR_AFTER, code=500),
    "dropped_after_apply": CallFault(effect=Effect.DROP_AFTER),
    "slow": CallFault(effect=Effect.SLOW),
}

# What becomes of a job is drawn when it is created, so that the same calls give the same history however often a job is
# polled. "job" faults meet every created job once, "output" faults every job that will have output, "row" faults
# every row in the order of the input.
JOB_FAULTS: Final[dict[str, str]] = {
    "job.stuck_pending": "never leaves PENDING; expires after `job_expiry_s`",
    "job.stuck_running": "never leaves RUNNING; expires after `job_expiry_s`",
    "job.failed": "ends FAILED with `code` (13) and `message`; nothing is billed, there is no output",
    "job.expired": "ends EXPIRED; nothing is billed, there is no output",
    "job.cancelled": "ends CANCELLED unasked, with `share` (0.5) of its rows done and billed",
    "job.partially_succeeded": "ends PARTIALLY_SUCCEEDED with the first `share` (0.5) of its rows",
    "output.late": "the job ends in time, its output appears `seconds` (5) later",
    "output.inline_from_file": "a job with a file as input answers with inline responses",
    "output.shuffled": "rows come in a random order",
    "output.truncated": "the last line of an output file is cut in the middle",
    "row.error": "the row has an error: `code` (13), `message`, `status`",
    "row.missing": "the row is done and billed but not in the output",
    "row.doubled": "the row is in the output twice, with the same bytes",
    "row.doubled_other": "the row is in the output twice, with different answers",
    "row.unknown_key": "a row with a key that nobody sent follows this row",
    "row.garbled": "the line of an output file is not JSON",
    "row.key_dropped": "the row comes without its key (file) or its metadata (inline)",
}

FAULT_NAMES: Final[frozenset[str]] = frozenset(
    [f"{op}.{effect}" for effect, fault in CALL_EFFECTS.items() for op in Op if op in fault.ops]
) | frozenset(JOB_FAULTS)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """How often a fault fires, and with what.

    Of the occasions that its name stands for, the first ``after`` are spared; of the rest every ``every``-th fires
    with ``probability``, at most ``count`` times. ``Fault()`` fires always.

    Attributes:
        count: fires at most so many times; None is no limit.
        after: occasions spared at the start.
        every: only every so-many-th occasion.
        probability: 0 to 1, drawn from the world's seed.
        code: of the error, where the fault has one (at most 16: rpc code, else HTTP).
        message: of the error, where the fault has one.
        status: status word in a row's error; left out when None.
        seconds: how long, where the fault takes time; None is the fault's own default.
        share: part of the rows, 0 to 1, where the fault has one.
    """

    count: int | None = None
    after: int = 0
    every: int = 1
    probability: float = 1.0
    code: int | None = None
    message: str | None = None
    status: str | None = None
    seconds: float | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("probability", "share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Fault.{name} must be from 0 to 1, not {getattr(self, name)!r}")
        if (self.count is not None and self.count < 0) or self.after < 0 or self.every < 1:
            raise ValueError("Fault.count and Fault.after must be 0 or more, Fault.every 1 or more")
        if self.seconds is not None and self.seconds < 0:
            raise ValueError(f"Fault.seconds must be 0 or more, not {self.seconds!r}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How the service behaves. Replacing the plan starts the counts of its faults anew.

    Attributes:
        latency_s: seconds from a job's creation to its end, or ``(low, high)`` to draw them from.
        pending_share: part of the latency that a job spends PENDING, 0 to 1; the rest it is RUNNING.
        list_lag_s: seconds after its creation during which a job is not listed.
        job_expiry_s: seconds after which a job that has not ended is EXPIRED.
        file_life_s: seconds from a file's upload, and from the end of a job for its output, to its disappearance.
        output_only_in: where a finished operation shows its output.
        state_prefix: ``BATCH_STATE`` as the Developer API has it, or ``JOB_STATE``.
        cancelled_output: whether a cancelled job shows the rows that were done.
        batch_ignores_json_schema: answer ``responseJsonSchema`` in batches with text that is no JSON, as the live
            service was seen to do; ``responseSchema`` is honoured anyway.
        api_keys: the keys that are taken; None takes any, though none at all is refused.
        unknown_models: models to refuse besides those whose name does not start with ``gemini-``.
        inline_bytes_max: largest body of a create, in bytes.
        live_bytes_max: largest body of any other call, in bytes.
        file_bytes_max: largest file, in bytes.
        jobs_max: jobs that may wait or run at once; one more is refused with 429.
        upload_granularity_bytes: chunks of an upload but the last must be multiples of this.
        faults: by name; the module docstring says how names are made.

    Raises:
        ValueError: unknown fault name, or a value out of range.
    """

    latency_s: float | tuple[float, float] = 0.0
    pending_share: float = 0.25
    list_lag_s: float = 0.0
    job_expiry_s: float = 172_800.0
    file_life_s: float = 172_800.0
    output_only_in: Literal["both", "response", "metadata"] = "both"
    state_prefix: Literal["BATCH_STATE", "JOB_STATE"] = "BATCH_STATE"
    cancelled_output: bool = True
    batch_ignores_json_schema: bool = True
    api_keys: frozenset[str] | None = None
    unknown_models: frozenset[str] = frozenset()
    inline_bytes_max: int = 20_971_520
    live_bytes_max: int = 104_857_600
    file_bytes_max: int = 2_147_483_648
    jobs_max: int = 100
    upload_granularity_bytes: int = 8_388_608
    faults: dict[str, Fault] = {}

    def __post_init__(self) -> None:
        for name in self.faults:
            if name not in FAULT_NAMES:
                near = difflib.get_close_matches(name, FAULT_NAMES, n=3, cutoff=0.5)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"unknown fault {name!r}{hint}")
        low, high = self.latency_s if isinstance(self.latency_s, tuple) else (self.latency_s, self.latency_s)
        if not 0 <= low <= high:
            raise ValueError(f"Plan.latency_s must be 0 or more, and low not above high, not {self.latency_s!r}")
        if not 0.0 <= self.pending_share <= 1.0:
            raise ValueError(f"Plan.pending_share must be from 0 to 1, not {self.pending_share!r}")
        for name in ("list_lag_s", "job_expiry_s", "file_life_s", "jobs_max", "inline_bytes_max", "file_bytes_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"Plan.{name} must be 0 or more, not {getattr(self, name)!r}")
        if self.upload_granularity_bytes < 1:
            raise ValueError("Plan.upload_granularity_bytes must be 1 or more")


class FaultBook:
    """Counts the occasions of a plan's faults and says which fire."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self._faults = plan.faults
        self._rng = rng
        self._seen: dict[str, int] = {}
        self._fired: dict[str, int] = {}

    def planned(self, name: str) -> bool:
        """Return whether the plan has this fault at all."""
        return name in self._faults

    def draw(self, name: str) -> Fault | None:
        """Count one occasion of a fault; return the fault if it fires."""
        fault = self._faults.get(name)
        if fault is None:
            return None
        seen = self._seen[name] = self._seen.get(name, 0) + 1
        fired = self._fired.get(name, 0)
        if seen <= fault.after or (seen - fault.after) % fault.every:
            return None
        if fault.count is not None and fired >= fault.count:
            return None
        if fault.probability < 1.0 and self._rng.random() >= fault.probability:
            return None
        self._fired[name] = fired + 1
        return fault

    def draw_for_call(self, op: Op) -> tuple[CallFault, Fault] | None:
        """Count one call; return the first call fault that fires on it."""
        if not self._faults:
            return None
        for effect, call_fault in CALL_EFFECTS.items():
            fault = self.draw(f"{op}.{effect}")
            if fault is not None:
                return call_fault, fault
        return None
