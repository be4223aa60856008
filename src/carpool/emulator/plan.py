"""The plan: how the emulated service behaves, and which faults it plays.

Owns the settings, the closed set of fault names and the count of what fired. It must not know how a fault takes effect
on a job or a file: that is written where the job or the file is.

A fault is a name and a :class:`Fault` that says how often::

    Plan(latency_s=2.0, faults={
        "create.dropped_after_apply": Fault(count=1),        # the first create takes effect, nobody is told
        "get.503": Fault(probability=0.1),                   # one poll in ten
        "row.error": Fault(every=100, code=13),              # every hundredth row
    "generate.503": Fault(probability=0.8, from_s=60, until_s=180),  # a storm of two minutes over live calls
        "job.partially_succeeded": Fault(after=1, count=1, share=0.5),   # the second job delivers half
    })

Names of call faults are ``<operation>.<effect>``, with the operations of :class:`carpool.emulator.Op` and the effects
of ``CALL_EFFECTS``, which say what they do. Names of job, output and row faults are in ``JOB_FAULTS``. Adding a call
fault is one more entry of ``CALL_EFFECTS``, and a branch of ``effects.py`` if its effect is new; adding a job fault one
entry of ``JOB_FAULTS`` and the place in ``script.py`` that acts on it.

A plan travels as JSON: ``carpool emulate --plan FILE`` and ``POST /emulator/plan`` take what ``msgspec.json.encode``
makes of one. Unknown fields are refused.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

import msgspec

from .messages import Op, Quota


class Effect(StrEnum):
    """What a call fault does to a call."""

    REFUSE = "refuse"  # nothing takes effect, an error is answered
    REDIRECT = "redirect"  # nothing takes effect, the answer leads to the same path at `origin`
    DROP = "drop"  # nothing takes effect, the connection closes without an answer
    DROP_MIDWAY = "drop midway"  # half of the body takes effect, the connection closes without an answer
    TAKE_HALF = "take half"  # half of the body takes effect, the answer says so in its size header alone
    WRONG_OFFSET = "wrong offset"  # a chunk is refused, whatever its offset; a query tells half of what is there
    LOSE_FILE = "lose file"  # the input file of a create is gone just before it
    TWIN = "twin"  # the call takes effect twice, the first is answered
    ERROR_AFTER = "error after"  # the call takes effect, an error is answered
    DROP_AFTER = "drop after"  # the call takes effect, the connection closes without an answer
    LATE = "late"  # the connection closes without an answer (or `code` is answered), `seconds` (5) before the effect
    SLOW = "slow"  # the call takes effect, the answer comes `seconds` (30) later
    CUT = "cut"  # the call takes effect, the connection closes at `bytes` of the body (half of it)
    RESET = "reset"  # the call takes effect, the connection is reset at `bytes` of the body (half of it)
    DRIP = "drip"  # the call takes effect, the body comes `bytes` (1) at a time with `seconds` (1) between
    GZIP_BOMB = "gzip bomb"  # the call takes effect, the body comes as gzip that unpacks to `bytes` (1 GiB)
    FOREIGN_URL = "foreign url"  # the call takes effect, the URLs in the answer lead to `origin`


class CallFault(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the table of call faults.

    Attributes:
        effect: what happens.
        code: HTTP status of what is answered.
        body: answered in place of Google's envelope.
        content_type: of ``body``.
        ops: the operations that can have it.
        flex: whether only calls with ``serviceTier`` flex can have it.
    """

    effect: Effect
    code: int = 0
    body: bytes | None = None
    content_type: str = "text/html; charset=UTF-8"
    ops: frozenset[Op] = frozenset(Op)
    flex: bool = False


_CHUNKS: Final = frozenset({Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE})
_CREATE: Final = frozenset({Op.CREATE})
_LATE: Final = frozenset({Op.CREATE, Op.CANCEL, Op.DELETE, Op.FILES_DELETE})
_WITH_URLS: Final = frozenset({Op.UPLOAD_START, Op.UPLOAD_FINALIZE, Op.FILES_GET, Op.FILES_LIST})
FLEX_OPS: Final = frozenset({Op.GENERATE, Op.STREAM})
"""Calls that can ask for a service tier."""

# In this order: of several that would fire on one call, the first is played and the others wait for the next call.
CALL_EFFECTS: Final[dict[str, CallFault]] = {
    "400": CallFault(effect=Effect.REFUSE, code=400),
    "403": CallFault(effect=Effect.REFUSE, code=403),
    "404": CallFault(effect=Effect.REFUSE, code=404),
    "429": CallFault(effect=Effect.REFUSE, code=429),
    "500": CallFault(effect=Effect.REFUSE, code=500),
    "503": CallFault(effect=Effect.REFUSE, code=503),
    "504": CallFault(effect=Effect.REFUSE, code=504),
    "shed_flex": CallFault(effect=Effect.REFUSE, code=503, ops=FLEX_OPS, flex=True),
    "503_empty": CallFault(effect=Effect.REFUSE, code=503, body=b"", content_type="text/plain; charset=UTF-8"),
    "502_html": CallFault(effect=Effect.REFUSE, code=502, body=b"<html><h1>502 Bad Gateway</h1></html>"),
    "302": CallFault(effect=Effect.REDIRECT, code=302),
    "dropped": CallFault(effect=Effect.DROP),
    "dropped_midway": CallFault(effect=Effect.DROP_MIDWAY, ops=_CHUNKS),
    "taken_in_part": CallFault(effect=Effect.TAKE_HALF, ops=_CHUNKS),
    "wrong_offset": CallFault(effect=Effect.WRONG_OFFSET, code=400, ops=_CHUNKS | {Op.UPLOAD_QUERY}),
    "file_vanished": CallFault(effect=Effect.LOSE_FILE, ops=_CREATE),
    "twin": CallFault(effect=Effect.TWIN, ops=_CREATE),
    "500_after_apply": CallFault(effect=Effect.ERROR_AFTER, code=500),
    "dropped_after_apply": CallFault(effect=Effect.DROP_AFTER),
    "applied_later": CallFault(effect=Effect.LATE, ops=_LATE),
    "slow": CallFault(effect=Effect.SLOW),
    "cut": CallFault(effect=Effect.CUT),
    "reset": CallFault(effect=Effect.RESET),
    "drip": CallFault(effect=Effect.DRIP),
    "gzip_bomb": CallFault(effect=Effect.GZIP_BOMB),
    "foreign_url": CallFault(effect=Effect.FOREIGN_URL, ops=_WITH_URLS),
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
    "output.truncated": "an output file ends at `bytes`, else in the middle of its last line, as if it were whole",
    "output.vanished": "the job names its output file, but the file is not there (403); inline output is",
    "row.error": "the row has an error: `code` (13), `message`, `status`",
    "row.missing": "the row is done and billed but not in the output",
    "row.doubled": "the row is in the output twice, with the same bytes",
    "row.doubled_other": "the row is in the output twice, with different answers",
    "row.unknown_key": "a row with a key that nobody sent follows this row",
    "row.garbled": "the line of an output file is not JSON",
    "row.key_dropped": "the row comes without its key (file) or its metadata (inline)",
    "row.lone_surrogate": "the row's text ends in half of a surrogate pair, which is not Unicode",
    "row.line_separators": "the row's text ends in U+2028, U+2029 and U+0085, which only JSON takes for no line breaks",
    "row.huge": "the row is padded to `bytes` (100 MiB) with blanks that mean nothing in JSON",
}

FAULT_NAMES: Final[frozenset[str]] = frozenset(
    [f"{op}.{effect}" for effect, fault in CALL_EFFECTS.items() for op in Op if op in fault.ops]
) | frozenset(JOB_FAULTS)


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a fault fires, and with what.

    Of the occasions that its name stands for, only those from ``from_s`` on and before ``until_s`` count; the first
    ``after`` of them are spared; of the rest every ``every``-th fires with ``probability``, at most ``count`` times.
    ``Fault()`` fires always.

    Attributes:
        from_s: from when on, in seconds after the first call that comes while its plan is in force.
        until_s: until when, counted likewise; None is for ever.
        count: fires at most so many times; None is no limit.
        after: occasions spared at the start.
        every: only every so-many-th occasion.
        probability: 0 to 1, drawn from the world's seed.
        code: of the error, where the fault has one (at most 16: rpc code, else HTTP).
        message: of the error, where the fault has one.
        status: status word in a row's error; left out when None.
        seconds: how long, where the fault takes time; None is the fault's own default. Of the 429 of a live call, after
            how long it may be tried again.
        quota: which one the 429 of a live call says is used up.
        share: part of the rows, 0 to 1, where the fault has one.
        bytes: how much or where, where the fault has a size or a place; None is the fault's own default.
        origin: scheme and authority that a redirect or a foreign URL leads to.
    """

    from_s: float = 0.0
    until_s: float | None = None
    count: int | None = None
    after: int = 0
    every: int = 1
    probability: float = 1.0
    code: int | None = None
    message: str | None = None
    status: str | None = None
    seconds: float | None = None
    quota: Quota = "requests_minute"
    share: float = 0.5
    bytes: int | None = None
    origin: str = "https://elsewhere.invalid"

    def __post_init__(self) -> None:
        for name in ("probability", "share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Fault.{name} must be from 0 to 1, not {getattr(self, name)!r}")
        if (self.count is not None and self.count < 0) or self.after < 0 or self.every < 1:
            raise ValueError("Fault.count and Fault.after must be 0 or more, Fault.every 1 or more")
        if self.from_s < 0 or (self.until_s is not None and self.until_s < self.from_s):
            raise ValueError("Fault.from_s must be 0 or more, and Fault.until_s not below it")
        if self.seconds is not None and self.seconds < 0:
            raise ValueError(f"Fault.seconds must be 0 or more, not {self.seconds!r}")
        if self.bytes is not None and self.bytes < 0:
            raise ValueError(f"Fault.bytes must be 0 or more, not {self.bytes!r}")


_NOT_NEGATIVE: Final = (
    "list_lag_s",
    "delete_lag_s",
    "job_expiry_s",
    "file_life_s",
    "jobs_max",
    "inline_bytes_max",
    "file_bytes_max",
    "storage_bytes_max",
    "cache_tokens_min",
    "file_processing_s",
)


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the service behaves. Replacing the plan starts the counts of its faults anew.

    Attributes:
        latency_s: seconds from a job's creation to its end, or ``(low, high)`` to draw them from.
        pending_share: part of the latency that a job spends PENDING, 0 to 1; the rest it is RUNNING.
        list_lag_s: seconds after its creation during which a job is not listed.
        delete_lag_s: seconds after its deletion during which a file can still be seen and used.
        create_ignores_deleted_file: whether a create takes effect, and is billed, though its input file was deleted.
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
        storage_bytes_max: all files together, in bytes.
        enqueued_tokens_max: input tokens that the jobs of a model may hold while they wait or run, for all models alike
            or by model; one more job is refused with 429. None is no limit.
        enqueued_tokens_steps: ``(seconds, tokens)``, in the order of time: so long after the first call that comes
            while the plan is in force the limit of every model becomes that many tokens.
        live_requests_per_minute: live calls of a model that are answered within a minute, for all models alike or by
            model, whatever their tier; one more is refused with 429. None is no limit. Each content of a
            batchEmbedContents counts.
        live_tokens_per_minute: input tokens of the live calls of a model that are answered within a minute, likewise: a
            call is refused once they are used up.
        input_tokens_max: tokens that a prompt may have; None is as many as its model reads.
        cache_tokens_min: tokens that a cache must have.
        file_processing_s: seconds from a file's upload during which it is PROCESSING and cannot be used in prompts.
        failing_mime_types: files of these cannot be processed: they end up FAILED, with an error.
        tuned_models: ``tunedModels/...`` that exist.
        upload_granularity_bytes: chunks of an upload but the last must be multiples of this.
        faults: by name; the module docstring says how names are made.

    Raises:
        ValueError: unknown fault name, or a value out of range.
    """

    latency_s: float | tuple[float, float] = 0.0
    pending_share: float = 0.25
    list_lag_s: float = 0.0
    delete_lag_s: float = 0.0
    create_ignores_deleted_file: bool = False
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
    storage_bytes_max: int = 21_474_836_480
    enqueued_tokens_max: int | dict[str, int] | None = None
    enqueued_tokens_steps: tuple[tuple[float, int], ...] = ()
    live_requests_per_minute: int | dict[str, int] | None = None
    live_tokens_per_minute: int | dict[str, int] | None = None
    input_tokens_max: int | None = None
    cache_tokens_min: int = 1024
    file_processing_s: float = 0.0
    failing_mime_types: frozenset[str] = frozenset()
    tuned_models: frozenset[str] = frozenset()
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
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"Plan.{name} must be 0 or more, not {getattr(self, name)!r}")
        times = [at for at, _ in self.enqueued_tokens_steps]
        if times != sorted(times) or any(at < 0 or tokens < 0 for at, tokens in self.enqueued_tokens_steps):
            raise ValueError("Plan.enqueued_tokens_steps must be in the order of time, and 0 or more")
        if self.upload_granularity_bytes < 1:
            raise ValueError("Plan.upload_granularity_bytes must be 1 or more")

    def enqueued_tokens(self, model: str, passed_s: float) -> int | None:
        """Return how many tokens the jobs of a model may hold; None is no limit.

        Args:
            model: which.
            passed_s: seconds since the first call.
        """
        limit = self.enqueued_tokens_max
        steps = [tokens for at, tokens in self.enqueued_tokens_steps if at <= passed_s]
        return steps[-1] if steps else limit.get(model) if isinstance(limit, dict) else limit


class FaultBook:
    """Counts the occasions of a plan's faults and says which fire."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self._faults = plan.faults
        self._rng = rng
        self._seen: dict[str, int] = {}
        self._fired: dict[str, int] = {}
        self._began_at: float | None = None
        self._now = 0.0

    def advance(self, now: float) -> None:
        """Tell the time; the first time is that from which the faults count theirs."""
        if self._began_at is None:
            self._began_at = now
        self._now = now

    def planned(self, name: str) -> bool:
        """Return whether the plan has this fault at all."""
        return name in self._faults

    def draw(self, name: str) -> Fault | None:
        """Count one occasion of a fault; return the fault if it fires."""
        fault = self._faults.get(name)
        if fault is None or not self._is_time_of(fault):
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

    @property
    def passed_s(self) -> float:
        """Seconds since the first call."""
        return self._now - (self._now if self._began_at is None else self._began_at)

    def _is_time_of(self, fault: Fault) -> bool:
        return fault.from_s <= self.passed_s and (fault.until_s is None or self.passed_s < fault.until_s)

    def draw_for_call(self, op: Op, flex: Callable[[], bool] = lambda: False) -> tuple[CallFault, Fault] | None:
        """Count one call; return the first call fault that fires on it.

        Args:
            op: what the call asks for.
            flex: tells whether it asks for the tier flex; only called where a fault wants to know.
        """
        if not self._faults:
            return None
        for effect, call_fault in CALL_EFFECTS.items():
            name = f"{op}.{effect}"
            if call_fault.flex and not (name in self._faults and flex()):
                continue
            fault = self.draw(name)
            if fault is not None:
                return call_fault, fault
        return None
