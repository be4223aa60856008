"""An emulator of the Gemini Developer API: live calls, files, caches and batches, with checkable answers and faults.

It shares no code with the client, so that one misreading of the wire cannot pass on both sides: nothing in this package
may import from ``carpool`` outside of it.

* :class:`Emulator` serves it on a port; ``python -m carpool.emulator`` does so as a process of its own.
* :class:`EmulatorThread` serves it from a thread, for code that has no event loop; the pytest fixture
  ``gemini_emulator`` is one.
* :class:`Plan` and :class:`Fault` say how it behaves and which faults it plays; :func:`chaos_plan` makes one up.
* :class:`Ledger` says what it would have billed.
* :class:`World` is the service without a socket or a clock: feed it :class:`Call` objects and the time.
* :func:`expected_text`, :func:`expected_values` and :func:`request_digest` help to check answers and books.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answers import expected_text, expected_values
    from .chaos import chaos_plan
    from .fields import request_digest
    from .jobs import JobView
    from .ledger import JobBill, Ledger, LiveBill
    from .messages import Call, Op, Reply
    from .plan import CALL_EFFECTS, FAULT_NAMES, JOB_FAULTS, Fault, Plan
    from .server import Emulator, serve
    from .thread import EmulatorThread
    from .world import Logged, World

__all__ = [
    "CALL_EFFECTS",
    "FAULT_NAMES",
    "JOB_FAULTS",
    "Call",
    "Emulator",
    "EmulatorThread",
    "Fault",
    "JobBill",
    "JobView",
    "Ledger",
    "LiveBill",
    "Logged",
    "Op",
    "Plan",
    "Reply",
    "World",
    "chaos_plan",
    "expected_text",
    "expected_values",
    "request_digest",
    "serve",
]

# pytest loads this package in every run, for its plugin: nothing in here is loaded before it is asked for.
_HOMES = {
    "CALL_EFFECTS": "plan",
    "FAULT_NAMES": "plan",
    "JOB_FAULTS": "plan",
    "Call": "messages",
    "Emulator": "server",
    "EmulatorThread": "thread",
    "Fault": "plan",
    "JobBill": "ledger",
    "JobView": "jobs",
    "Ledger": "ledger",
    "LiveBill": "ledger",
    "Logged": "world",
    "Op": "messages",
    "Plan": "plan",
    "Reply": "messages",
    "World": "world",
    "chaos_plan": "chaos",
    "expected_text": "answers",
    "expected_values": "answers",
    "request_digest": "fields",
    "serve": "server",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module 'carpool.emulator' has no attribute {name!r}"
        raise AttributeError(message)
    found: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found
    return found
