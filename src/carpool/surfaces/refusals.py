"""Errors as answers that other people's clients understand, and leave alone where trying again is useless.

Owns the status of each error. SDKs repeat a call on 408, 409, 429 and 5xx by themselves, six times and more: only what
trying again can mend has such a status here. What the service itself refused keeps its code, its words and its details.
It must not know how calls are answered.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from carpool.errors import (
    BudgetExceeded,
    CarpoolError,
    ClientClosed,
    ConfigurationError,
    DeadlineExceeded,
    KeyConflict,
    NotBatchable,
    QuotaExceeded,
    RequestError,
    RequestRejected,
    RequestTooLarge,
    ResultMissing,
    StoreFull,
    SubmitAmbiguous,
)
from carpool.surfaces.openai.answers import error_body

RETRY_AFTER_S: Final = 5
_HTTP_OF_RPC: Final = {3: 400, 5: 404, 7: 403, 9: 400, 11: 400, 12: 400, 16: 401}
"""Of rows, which carry codes of google.rpc; others are final here, and would be repeated as what HTTP has for them."""
_REPEATED: Final = frozenset({408, 409, 425, 429})
_OWN: Final[tuple[tuple[type[CarpoolError], int, str], ...]] = (
    (ConfigurationError, 400, "INVALID_ARGUMENT"),
    (NotBatchable, 400, "INVALID_ARGUMENT"),
    (KeyConflict, 400, "ALREADY_EXISTS"),
    (RequestTooLarge, 413, "INVALID_ARGUMENT"),
    (DeadlineExceeded, 400, "DEADLINE_EXCEEDED"),
    (BudgetExceeded, 402, "RESOURCE_EXHAUSTED"),
    (QuotaExceeded, 403, "RESOURCE_EXHAUSTED"),
    (ResultMissing, 400, "DATA_LOSS"),
    (SubmitAmbiguous, 400, "ABORTED"),
    (RequestError, 400, "FAILED_PRECONDITION"),
    (StoreFull, 503, "UNAVAILABLE"),
    (ClientClosed, 503, "UNAVAILABLE"),
)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it is answered."""

    code: int
    """HTTP status."""
    status: str
    message: str
    details: Any = None
    """As the service sent them: a list, if it kept to its own rules."""
    param: str | None = None
    """The field of OpenAI's shape that is at fault."""
    retry_after_s: int = 0

    def __repr__(self) -> str:
        return f"Refusal({self.code}, {self.status!r})"


def refusal_of(error: CarpoolError) -> Refusal:
    """Return how an error is answered."""
    if isinstance(error, RequestRejected):
        return _rejected(error)
    for kind, code, status in _OWN:
        if isinstance(error, kind):
            retry_after_s = RETRY_AFTER_S if code == 503 else 0
            return Refusal(
                code=code, status=status, message=str(error), details=error.details, retry_after_s=retry_after_s
            )
    return Refusal(code=500, status="INTERNAL", message=str(error))


def google_body(refusal: Refusal) -> bytes:
    """Return the JSON that Google's API answers an error with."""
    error: dict[str, Any] = {"code": refusal.code, "message": refusal.message, "status": refusal.status}
    if refusal.details:
        error["details"] = refusal.details
    return msgspec.json.encode({"error": error})


def openai_body(refusal: Refusal) -> bytes:
    """Return the JSON that OpenAI's API answers an error with."""
    return error_body(refusal.code, refusal.message, param=refusal.param, code=refusal.status.lower())


def _rejected(error: RequestRejected) -> Refusal:
    """Return what the service said, to the caller whose request it is about."""
    sent = error.code or 400
    code = _HTTP_OF_RPC.get(sent, 400) if sent <= 16 else sent
    if not 400 <= code < 500 or code in _REPEATED:
        code = 400
    return Refusal(
        code=code,
        status=error.status or "INVALID_ARGUMENT",
        message=error.message or str(error),
        details=error.details,
    )
