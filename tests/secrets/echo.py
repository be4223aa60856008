"""An emulator that says in its errors all that it was told, and more.

Owns which calls fail, and the words. It must not know who listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from tests.canary import PROMPT

from carpool.emulator import Call, Emulator, Plan, Reply
from carpool.emulator.routes import target_of

from .disguises import DISGUISES, OTHER_DISGUISES, UPLOAD_ID


class EchoEmulator(Emulator):
    """Fails calls of some operations with an error that quotes the key, the URL, the body and a disguised prompt.

    Args:
        plan: how it behaves otherwise.
        fails: HTTP status by operation.
        disguise: name of what is said besides.
    """

    def __init__(self, plan: Plan | None = None, *, fails: Mapping[str, int] | None = None, disguise: str = "") -> None:
        super().__init__(plan)
        self.fails = dict(fails or {})
        self.disguise = disguise
        self.failed: list[str] = []

    async def _reply_to(self, call: Call) -> Reply:
        op = target_of(call).op.value
        if op not in self.fails:
            return await super()._reply_to(call)
        await asyncio.sleep(0)
        self.failed.append(op)
        return Reply(status=self.fails[op], body=msgspec.json.encode({"error": self.error(op, call)}))

    def error(self, op: str, call: Call) -> dict[str, Any]:
        """Return what is said of a call."""
        known = DISGUISES if PROMPT.encode() in call.body else OTHER_DISGUISES  # it cannot tell what it was not told
        said = [known.get(self.disguise, "")] if self.disguise else list(known.values())
        told = f"{call.headers} {call.origin}{call.path}?{call.query} {call.body[:2_000]!r}"
        words = f"{op} of {' '.join(said)} failed: {told}"
        return {
            "code": self.fails[op],
            "message": words,
            "status": f"{UPLOAD_ID} {words}",
            "details": [{"reason": words}],
        }
