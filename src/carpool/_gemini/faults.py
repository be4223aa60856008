"""What the server says of errors: HTTP's own words, the JSON envelope, the error of a row or a job.

Owns every shape that errors were seen in, and how much of one is kept: an error is copied for each request that it
concerns. It is pure, and knows nothing of sockets.
"""

from __future__ import annotations

from http import HTTPStatus
from math import isfinite
from typing import Any, Final

import msgspec

from carpool._gemini import scan
from carpool._gemini.plain import is_object, is_sequence
from carpool.types import ServerError

MESSAGE_CHARS_MAX: Final = 4_096
"""What is kept of a message."""
DETAILS_BYTES_MAX: Final = 16_384
"""Details beyond this are left out."""
_ERROR_BYTES_MAX: Final = 65_536
"""Size of an error in JSON beyond which no details are decoded."""
_DEPTH_MAX: Final = 32
_STATUS_CHARS_MAX: Final = 64
_CODE_MAX: Final = 2**31 - 1
_INT_MAX: Final = 2**63 - 1
_DIGITS_MAX: Final = 9
_NOTHING: Final = ServerError(13, "the server's description of the error cannot be read", "INTERNAL")

_encode: Final = msgspec.json.Encoder().encode


class _Brief(msgspec.Struct, frozen=True, gc=False):
    code: msgspec.Raw = msgspec.Raw()
    message: str | None = None
    status: str | None = None


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    error: msgspec.Raw = msgspec.Raw()


_envelope: Final = msgspec.json.Decoder(_Envelope)
_brief: Final = msgspec.json.Decoder(_Brief)


def http_error(status: int, body: bytes) -> ServerError:
    """Return the error that an HTTP reply tells: its JSON envelope, in a list or not, else the status's own phrase."""
    raw = _enveloped(body)
    if raw.startswith(b'"'):
        return ServerError(status, read_error(raw).message, phrase(status))
    if not raw.startswith(b"{"):
        return ServerError(status, phrase(status), "")
    found = read_error(raw)
    return ServerError(found.code or status, found.message or phrase(status), found.status, found.details)


def _enveloped(body: bytes) -> bytes:
    """Return the error in an envelope, in a list or not; empty if there is none."""
    try:
        if body.lstrip()[:1] == b"[":
            body = next(scan.elements_of(body), b"")
        return bytes(_envelope.decode(body).error)
    except (ValueError, RecursionError):
        return b""


def phrase(status: int) -> str:
    """Return the usual words for an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def read_error(raw: bytes) -> ServerError:
    """Return the error that some JSON tells, whatever its types and its size."""
    try:
        if len(raw) > _ERROR_BYTES_MAX:
            brief = _brief.decode(raw)
            code = msgspec.json.decode(brief.code) if 0 < len(bytes(brief.code)) <= _DIGITS_MAX else 0
            return lenient_error({"code": code, "message": brief.message, "status": brief.status})
        return lenient_error(_value(raw))
    except (ValueError, RecursionError):
        return _NOTHING


def lenient_error(value: Any) -> ServerError:
    """Return the error that some JSON value tells, whatever its types."""
    if not is_object(value):
        return ServerError(13, str(value)[:1_000], "")
    code = value.get("code")
    if isinstance(code, str) and code.isdecimal() and len(code) <= _DIGITS_MAX:
        code = int(code)
    return tamed(
        ServerError(
            code if isinstance(code, int) and not isinstance(code, bool) else 0,
            str(value.get("message") or ""),
            str(value.get("status") or ""),
            value.get("details"),
        )
    )


def tamed(error: ServerError) -> ServerError:
    """Return an error of which no part is larger, or of another kind, than what can be kept for each request."""
    details = error.details
    if details is not None:
        details = _plain(details)
        if len(_encode(details)) > DETAILS_BYTES_MAX:
            details = None
    return ServerError(
        error.code if -_CODE_MAX <= error.code <= _CODE_MAX else 0,
        error.message[:MESSAGE_CHARS_MAX],
        error.status[:_STATUS_CHARS_MAX],
        details,
    )


def _value(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except ValueError:
        return scan.value_of(raw, (0, len(raw)))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return decoded JSON without what records and other encoders do not take: huge numbers, NaN, deep nesting."""
    if isinstance(value, int):
        return value if -_INT_MAX <= value <= _INT_MAX else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if depth > _DEPTH_MAX:
        return None
    if is_object(value):
        return {name: _plain(item, depth + 1) for name, item in value.items()}
    if is_sequence(value):
        return [_plain(item, depth + 1) for item in value]
    return value
