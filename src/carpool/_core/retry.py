"""What an error means for the requests it concerns: send again, reject, back off, isolate.

Owns the reading of error codes and messages, and the pauses between tries. It must not know jobs or lanes.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final
from zlib import crc32

from carpool._core.model import Fault
from carpool.types import ServerError

_RPC_MAX: Final = 16
_RETRY_RPC: Final = frozenset({4, 8, 13, 14})
_RETRY_HTTP: Final = frozenset({429, 500, 502, 503, 504})
_LINE = re.compile(r"\bline (\d{1,9})\b")
_ROW = re.compile(r"\brequests\[(\d{1,9})\]")
_KEY_WORDS: Final = ("api key not valid", "api_key_invalid", "api key expired")
_SIZE_WORDS: Final = ("payload size exceeds", "too large", "exceeds the maximum file size", "exceeds the limit")
_FILE_WORDS: Final = "permission to access the file"


class Refusal(Enum):
    """What a refused create asks for."""

    BACK_OFF = "back_off"
    """Quota: the same again, later."""
    CREDENTIALS = "credentials"
    """The key is wrong or may not do this: nothing of ours will pass until it is mended."""
    FILE_GONE = "file_gone"
    """The input file is missing: upload again."""
    TOO_LARGE = "too_large"
    """Split, or send as a file."""
    ISOLATE = "isolate"
    """A row is bad: find it, fail it alone, send the rest again."""
    REJECT = "reject"
    """The model or the account cannot do this: every row is refused."""


def is_retryable(error: ServerError) -> bool:
    """Return whether a row that came back with this error is worth sending again (rpc codes up to 16, else HTTP)."""
    return error.code in (_RETRY_RPC if error.code <= _RPC_MAX else _RETRY_HTTP)


def is_turned_away(error: ServerError) -> bool:
    """Return whether the service itself says that it did not take a call: overloaded, which is not billed.

    A 503 without the service's status word may come from anything on the way, after the call had been taken.
    """
    return error.code in (503, 14) and error.status == "UNAVAILABLE"


def read_refusal(fault: Fault) -> Refusal:
    """Return what a refused create asks for, from its code and the service's wording."""
    error = fault.error
    words = f"{error.message} {error.details or ''}".lower()
    match error.code:
        case 429:
            return Refusal.BACK_OFF
        case 413:
            return Refusal.TOO_LARGE
        case 401:
            return Refusal.CREDENTIALS
        case 403:
            return Refusal.FILE_GONE if _FILE_WORDS in words else Refusal.CREDENTIALS
        case 400 | 422:
            if any(word in words for word in _KEY_WORDS):
                return Refusal.CREDENTIALS
            if any(word in words for word in _SIZE_WORDS):
                return Refusal.TOO_LARGE
            return Refusal.REJECT if error.status == "FAILED_PRECONDITION" else Refusal.ISOLATE
        case _:
            return Refusal.REJECT


def bad_rows(message: str, count: int) -> list[int]:
    """Return the rows that a refusal names (counted from 0), in order; empty if it names none that exists.

    The file form counts lines from 1 (``Error on line 3: ...``), the inline form rows from 0 (``requests[2]``).
    """
    rows = {int(n) for n in _ROW.findall(message)} or {int(n) - 1 for n in _LINE.findall(message)}
    return sorted(row for row in rows if 0 <= row < count)


def pause_s(low_s: float, high_s: float, failures: int, seed: str) -> float:
    """Return the pause after some failures in a row: doubling, capped, with 20 % jitter that follows from the seed."""
    base = min(high_s, low_s * 2.0 ** min(failures - 1, 60))
    jitter = crc32(f"{seed}/{failures}".encode()) / 0xFFFFFFFF
    return base * (0.8 + 0.2 * jitter)
