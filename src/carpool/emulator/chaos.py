"""Plans that nobody wrote: a mix of faults out of a seed.

Owns which faults are fit to be mixed, how often each may fire, and how a plan is told to people. Nothing in such a plan
is for ever: a client that asks again, looks before it sends twice and judges each row by itself gets all of its answers
in the end, or a typed error. The assumptions under which nothing is paid for twice hold (deletions are immediate, a
create without its input file is refused), but for twins, which are the service's own doing.
"""

from __future__ import annotations

import random
from typing import Final, TypeVar

import msgspec

from .messages import Op
from .plan import Fault, Plan

T = TypeVar("T")

_UPLOADS: Final = (Op.UPLOAD_START, Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE, Op.UPLOAD_QUERY)
_CHUNKS: Final = (Op.UPLOAD_CHUNK, Op.UPLOAD_FINALIZE)
_READS: Final = (Op.GET, Op.LIST, Op.DOWNLOAD, Op.FILES_GET)
_LIVE: Final = (Op.GENERATE, Op.EMBED)
_ENDS: Final = (Op.CANCEL, Op.DELETE, Op.FILES_DELETE)
_ALL: Final = (Op.CREATE, *_UPLOADS, *_READS, *_LIVE, *_ENDS)

_OFTEN: Final = Fault(probability=0.15)
_ONCE: Final = Fault(count=1)
_TWICE: Final = Fault(count=2)

# Where each effect may be played so that a patient client comes through, and how often at most. What reads as a verdict
# (400, 403, 404) comes once and only where it is known to be none.
_CALLS: Final[dict[str, tuple[tuple[Op, ...], Fault]]] = {
    "400": ((Op.UPLOAD_CHUNK, Op.UPLOAD_QUERY), _ONCE),
    "403": ((Op.DOWNLOAD, Op.UPLOAD_QUERY), _ONCE),
    "404": ((Op.GET, Op.UPLOAD_QUERY), _ONCE),
    "429": (_ALL, _OFTEN),
    "500": (_ALL, _OFTEN),
    "503": (_ALL, _OFTEN),
    "504": (_ALL, _OFTEN),
    "shed_flex": ((Op.GENERATE,), Fault(probability=0.5)),
    "503_empty": (_ALL, _OFTEN),
    "502_html": (_ALL, _OFTEN),
    "302": (_READS, _TWICE),
    "dropped": (_ALL, _OFTEN),
    "dropped_midway": (_CHUNKS, _OFTEN),
    "taken_in_part": (_CHUNKS, _OFTEN),
    "wrong_offset": ((*_CHUNKS, Op.UPLOAD_QUERY), _TWICE),
    "file_vanished": ((Op.CREATE,), _ONCE),
    "twin": ((Op.CREATE,), _ONCE),
    "500_after_apply": ((Op.CREATE, *_CHUNKS, *_ENDS), _OFTEN),
    "dropped_after_apply": ((Op.CREATE, *_UPLOADS, *_ENDS), _OFTEN),
    "applied_later": ((Op.CREATE, *_ENDS), Fault(count=2, seconds=2.0)),
    "slow": (_ALL, Fault(probability=0.15, seconds=1.0)),
    "cut": ((Op.CREATE, *_READS, *_LIVE), _OFTEN),
    "reset": ((Op.CREATE, *_READS, *_LIVE), _OFTEN),
    "drip": (_READS, Fault(count=3, bytes=256, seconds=0.01)),
    "gzip_bomb": (_READS, Fault(count=2, bytes=64 * 1024 * 1024)),
    "foreign_url": ((Op.UPLOAD_START, Op.FILES_GET), _TWICE),
}
_JOBS: Final[dict[str, Fault]] = {
    "job.stuck_pending": _ONCE,
    "job.stuck_running": _ONCE,
    "job.failed": _ONCE,
    "job.expired": _ONCE,
    "job.cancelled": _ONCE,
    "job.partially_succeeded": _TWICE,
    "output.late": Fault(probability=0.3, seconds=2.0),
    "output.inline_from_file": Fault(probability=0.3),
    "output.shuffled": Fault(probability=0.5),
    "output.truncated": _TWICE,
    "output.vanished": _ONCE,
    "row.error": Fault(probability=0.02),
    "row.missing": Fault(probability=0.02),
    "row.doubled": Fault(probability=0.05),
    "row.doubled_other": Fault(probability=0.02),
    "row.unknown_key": Fault(probability=0.05),
    "row.garbled": Fault(probability=0.02),
    "row.key_dropped": Fault(probability=0.02),
    "row.lone_surrogate": Fault(probability=0.05),
    "row.line_separators": Fault(probability=0.05),
    "row.huge": Fault(count=2, bytes=4 * 1024 * 1024),
}
_CALL_SHARE: Final = 0.06  # of all that could be played on calls
_JOB_SHARE: Final = 0.2
_STUCK_EXPIRY_S: Final = 60.0


def chaos_plan(seed: int) -> Plan:
    """Return a plan with a mix of faults, the same for the same seed.

    Args:
        seed: any integer.
    """
    rng = random.Random(seed)
    faults: dict[str, Fault] = {}
    for effect, (ops, most) in _CALLS.items():
        for op in ops:
            name = f"{op}.{effect}"
            drawn = rng.random(), rng.random()
            if drawn[0] < _CALL_SHARE:
                faults[name] = _lessened(most, drawn[1])
    for name, most in _JOBS.items():
        drawn = rng.random(), rng.random()
        if drawn[0] < _JOB_SHARE:
            faults[name] = _lessened(most, drawn[1])
    high = round(0.5 + 2.0 * rng.random(), 2)
    lag = round(max(0.0, 2.0 * rng.random() - 1.0), 2)
    # As it comes: 8 MiB, or small enough for small files to take several chunks.
    granularity = 262_144 if rng.random() < 0.5 else 8_388_608
    stuck = any(name.startswith("job.stuck") for name in faults)
    return Plan(
        latency_s=(round(high / 4, 2), high),
        list_lag_s=lag,
        job_expiry_s=_STUCK_EXPIRY_S if stuck else 172_800.0,
        output_only_in=_chosen(rng, ("both", "both", "response", "metadata")),
        state_prefix=_chosen(rng, ("BATCH_STATE", "BATCH_STATE", "JOB_STATE")),
        upload_granularity_bytes=granularity,
        faults=faults,
    )


def _chosen(rng: random.Random, among: tuple[T, ...]) -> T:
    # Of all methods of a Random, only random() is promised to give the same in every version of Python.
    return among[int(rng.random() * len(among))]


def _lessened(most: Fault, share: float) -> Fault:
    """Return a fault that fires between a third as often and as often as ``most``; rounded, to be read by people."""
    if most.probability == 1.0:
        return most
    return msgspec.structs.replace(most, probability=max(0.01, round(most.probability * (1 + 2 * share) / 3, 2)))


def told(plan: Plan) -> list[str]:
    """Return a line for each fault of a plan that says how often it fires."""
    width = max((len(name) for name in plan.faults), default=0)
    return [f"{name:<{width}}  {_told(fault)}" for name, fault in sorted(plan.faults.items())]


def _told(fault: Fault) -> str:
    words = "always" if fault.probability == 1.0 else f"{fault.probability * 100:g} %"
    if fault.every > 1:
        words = f"every {fault.every}th" + ("" if fault.probability == 1.0 else f", {words} of these")
    if fault.after:
        words += f", after the first {fault.after}"
    if fault.count is not None:
        times = "once" if fault.count == 1 else f"{fault.count} times"
        words = times if words == "always" else f"{words}, {times} at most"
    usual = Fault()
    others = [
        f"{name}={getattr(fault, name)}"
        for name in ("code", "message", "status", "seconds", "share", "bytes", "origin")
        if getattr(fault, name) != getattr(usual, name)
    ]
    return ", ".join([words, *others])
