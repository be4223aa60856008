"""Verdicts of the engine, as exceptions: each awaiter gets an object of its own.

Owns the wording. Text of the request is left out of what ``str()`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, assert_never, cast

from carpool._core.model import Failure, Fault
from carpool.errors import (
    CarpoolError,
    DeadlineExceeded,
    RequestFailed,
    RequestRejected,
    RequestTooLarge,
    ResultMissing,
    SubmitAmbiguous,
    shown,
)
from carpool.responses import decode_json

ECHO_CHARS_MIN: Final = 32
_FATES: Final = {
    "not_sent": "the server cannot be reached",
    "refused": "the server refused",
    "unknown": "no clear answer came",
}


def exception_for(failure: Failure, key: str, line: bytes = b"") -> CarpoolError:
    """Return the exception that tells one awaiter of a verdict.

    Args:
        failure: the verdict.
        key: the request's key.
        line: the request as it was sent, so that its text can be left out of what is shown.
    """
    error = failure.error
    words = shown(error.message, request_text(line) if line else "")
    said = " ".join(str(part) for part in (error.code or "", error.status) if part)
    said = f"{said}: {words}" if said and words else said or words
    kind: type[CarpoolError]
    match failure.kind:
        case "rejected":
            kind, text = (
                RequestRejected,
                f"the server refused request {key!r} ({said}). Mend the request; sending it again is useless",
            )
        case "failed":
            kind, text = RequestFailed, f"request {key!r} failed after its last attempt ({said}). Send it again later"
        case "missing":
            kind, text = ResultMissing, f"no answer came back for request {key!r} ({said}). Send it again later"
        case "ambiguous":
            kind, text = (
                SubmitAmbiguous,
                f"nobody knows whether the last job of request {key!r} was created ({said}), and no other is. Sent again, "
                "it may be paid for twice",
            )
        case "too_large":
            kind, text = (
                RequestTooLarge,
                f"request {key!r} is too large for a batch ({said}). Upload its media as files",
            )
        case "credentials":
            kind, text = (
                RequestRejected,
                f"the server refused the API key ({said}). Nothing was sent; check the key and its rights",
            )
        case "unreachable":
            kind, text = (
                RequestFailed,
                f"the server cannot be reached ({said}). Check the base URL and the network, and call again",
            )
        case _:
            assert_never(failure.kind)
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


def fault_words(fault: Fault) -> str:
    """Return what became of a call that failed, and the server's words for it, fit to be shown."""
    error = fault.error
    said = " ".join(str(part) for part in (error.code or "", error.status, shown(error.message)) if part)
    return f"{_FATES[fault.kind]} ({said})"


def deadline_exceeded(key: str) -> DeadlineExceeded:
    """Return the error of an awaiter whose deadline has passed."""
    return DeadlineExceeded(
        f"the deadline of request {key!r} passed before its answer came. If it was sent, its answer is kept for "
        "whoever asks the same again",
        key=key,
    )


def request_text(line: bytes) -> str:
    """Return all strings of a request, joined, as a server would echo them."""
    found: list[str] = []
    _collect(decode_json(line), found)
    return "\n".join(found)


def _collect(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            _collect(item, found)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            _collect(item, found)
