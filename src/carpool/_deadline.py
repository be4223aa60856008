"""Deadlines as users give them.

Owns the forms; it must not know what a deadline is for.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any, Final

from carpool._showing import in_short
from carpool.errors import ConfigurationError

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN_MAX_S: Final = 1e18
_FORMS: Final = (
    "'90s', '90m', '4h', '2d', '06:00' (the next time the local clock shows it), seconds, a timedelta, or a datetime "
    "with time zone"
)


def parse_deadline(value: Any, now_s: float) -> float:
    """Return the deadline as seconds since the epoch.

    Args:
        value: ``"4h"``, ``"90m"``, ``"06:00"``, seconds from now, ``timedelta`` or aware ``datetime``.
        now_s: the time, in seconds since the epoch.

    Raises:
        ConfigurationError: the value has none of these forms, or is not in the future where it is a span of time.
    """
    match value:
        case bool():
            span_s = math.nan
        case int() | float():
            span_s = float(value) if abs(value) < _SPAN_MAX_S else math.inf  # an int may be too large for a float
        case timedelta():
            span_s = value.total_seconds()
        case datetime():
            if value.utcoffset() is None:
                raise ConfigurationError(
                    f"deadline {in_short(value)} has no time zone; use datetime.now(timezone.utc) or .astimezone()"
                )
            return value.timestamp()
        case str():
            span_s = _parse_text(value.strip(), now_s)
        case _:
            span_s = math.nan
    if not (math.isfinite(span_s) and span_s > 0):
        raise ConfigurationError(f"deadline {in_short(value)} cannot be used; give {_FORMS}")
    return now_s + span_s


def _parse_text(text: str, now_s: float) -> float:
    if span := _SPAN.fullmatch(text):
        return float(span[1]) * _UNIT_S[span[2]]
    if clock := _CLOCK.fullmatch(text):
        local = datetime.fromtimestamp(now_s).astimezone()
        then = local.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
        if then <= local:
            then = (then.replace(tzinfo=None) + timedelta(days=1)).astimezone()
        return then.timestamp() - now_s
    return math.nan
