"""Verdicts of the engine, as exceptions: each awaiter gets an object of its own.

Owns the wording. Text of the request is left out of what ``str()`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from carpool._core.model import Failure, Fault
from carpool._showing import shown, status_word
from carpool.errors import (
    BudgetExceeded,
    CarpoolError,
    DeadlineExceeded,
    QuotaExceeded,
    RequestFailed,
    RequestRejected,
    RequestTooLarge,
    ResultMissing,
    SubmitAmbiguous,
)
from carpool.responses import decode_json

ECHO_CHARS_MIN: Final = 8
"""Words shorter than this hold nothing of a request that is worth hiding."""
_FATES: Final = {
    "not_sent": "the server cannot be reached",
    "refused": "the server refused",
    "unknown": "no clear answer came",
}
VERDICTS: Final[dict[str, tuple[type[CarpoolError], str]]] = {
    "rejected": (
        RequestRejected,
        "the server refused request {key} ({said}). Mend the request; sending it again is useless",
    ),
    "failed": (RequestFailed, "request {key} failed after its last attempt ({said}). Send it again later"),
    "missing": (ResultMissing, "no answer came back for request {key} ({said}). Send it again later"),
    "ambiguous": (
        SubmitAmbiguous,
        (
            "nobody knows whether the last job of request {key} was created ({said}), and no other is. "
            "Sent again, it may be paid for twice"
        ),
    ),
    "too_large": (RequestTooLarge, "request {key} is too large for a batch ({said}). Upload its media as files"),
    "quota": (
        QuotaExceeded,
        (
            "the server refused request {key} for want of quota ({said}), again and again, although nothing else "
            "of its model was enqueued. It is likely larger than the quota of enqueued tokens: split it, or call "
            "the live API"
        ),
    ),
    "credentials": (
        RequestRejected,
        "the server refused the API key ({said}). Nothing was sent; check the key and its rights",
    ),
    "unreachable": (
        RequestFailed,
        "the server cannot be reached ({said}). Check the base URL and the network, and call again",
    ),
}
"""For each kind of verdict its error, and what that says."""


def exception_for(failure: Failure, key: str, line: bytes = b"") -> CarpoolError:
    """Return the exception that tells one awaiter of a verdict.

    Args:
        failure: the verdict.
        key: the request's key.
        line: the request as it was sent, so that its text can be left out of what is shown; without it the server's
            words are left out.
    """
    error = failure.error
    # What the server says of a request that is not at hand (any more) may quote it: ``message`` has it, nobody else.
    known = line or len(error.message) < ECHO_CHARS_MIN
    words = shown(error.message, *request_texts(line) if line else ()) if known else ""
    said = " ".join(str(part) for part in (error.code or "", status_word(error.status)) if part)
    said = f"{said}: {words}" if said and words else said or words
    if failure.kind == "budget":
        return BudgetExceeded(f"request {key!r}: {error.message}", key=key)
    if failure.kind == "overdue":
        return deadline_exceeded(key, error.message, withdrawn=True)
    kind, wording = VERDICTS[failure.kind]
    text = wording.format(key=repr(key), said=said)
    if failure.job:
        text += f" [{failure.job}]"
    return kind(
        text,
        key=key,
        code=error.code or None,
        status=error.status or None,
        message=error.message or None,
        details=error.details,
        job=failure.job or None,
    )


def fault_words(fault: Fault, body: bytes = b"") -> str:
    """Return what became of a call that failed, and the server's words for it, fit to be shown.

    Args:
        fault: what became of it.
        body: JSON that was sent, so that its text can be left out.
    """
    error = fault.error
    words = shown(error.message, *request_texts(body) if body else ())
    said = " ".join(str(part) for part in (error.code or "", status_word(error.status), words) if part)
    return f"{_FATES[fault.kind]} ({said})"


def deadline_exceeded(key: str, why: str = "", *, withdrawn: bool = False) -> DeadlineExceeded:
    """Return the error of an awaiter whose deadline has passed.

    Args:
        key: the request's.
        why: what forbade to send it over another route in time, if anything did.
        withdrawn: whether nothing of it was under way then, and it was taken out.
    """
    held = f" It waited for its job alone, since another route was not allowed: {why}." if why else ""
    fate = (
        "Nothing of it was under way then, and it was withdrawn: ask the same again, and it is sent"
        if withdrawn
        else "If it was sent, its answer is kept for whoever asks the same again"
    )
    return DeadlineExceeded(f"the deadline of request {key!r} passed before its answer came.{held} {fate}", key=key)


def request_texts(body: bytes) -> tuple[list[str], list[str]]:
    """Return the texts of a request, and its other strings, as a server may echo them."""
    prompts: list[str] = []
    others: list[str] = []
    _collect(decode_json(body), prompts, others)
    return prompts, others


def _collect(value: Any, prompts: list[str], others: list[str]) -> None:
    if isinstance(value, str):
        others.append(value)
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            if name == "text" and isinstance(item, str):
                prompts.append(item)
            else:
                _collect(item, prompts, others)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            _collect(item, prompts, others)
