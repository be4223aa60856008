"""An emulator of the Gemini Developer API: live calls, files and batches, with answers that can be checked and faults.

It shares no code with the client, so that one misreading of the wire cannot pass on both sides: nothing in this package
may import from ``carpool`` outside of it.

* :class:`Emulator` serves it on a port; ``python -m carpool.emulator`` does so as a process of its own.
* :class:`Plan` and :class:`Fault` say how it behaves and which faults it plays.
* :class:`Ledger` says what it would have billed.
* :class:`World` is the service without a socket or a clock: feed it :class:`Call` objects and the time.
* :func:`expected_text`, :func:`expected_values` and :func:`request_digest` help to check answers and books.
"""

from __future__ import annotations

from .answers import expected_text, expected_values
from .batches import JobView
from .fields import request_digest
from .ledger import JobBill, Ledger
from .messages import Call, Op, Reply
from .plan import CALL_EFFECTS, FAULT_NAMES, JOB_FAULTS, Fault, Plan
from .server import Emulator, serve
from .world import Logged, World

__all__ = [
    "CALL_EFFECTS",
    "FAULT_NAMES",
    "JOB_FAULTS",
    "Call",
    "Emulator",
    "Fault",
    "JobBill",
    "JobView",
    "Ledger",
    "Logged",
    "Op",
    "Plan",
    "Reply",
    "World",
    "expected_text",
    "expected_values",
    "request_digest",
    "serve",
]
