"""When a call must be answered, found in what its client says of itself.

Owns the headers that are read, their order, and how much earlier than its caller gives up a call has to be answered.
It must not know what a deadline does to a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import TYPE_CHECKING, Final

from carpool._showing import in_short
from carpool.errors import ConfigurationError

if TYPE_CHECKING:
    from carpool.types import Deadline

OWN: Final = "x-carpool-deadline"
TOTAL: Final = "x-server-timeout"
"""Seconds that Google's SDKs give a call in all, rounded up to whole ones."""
READ: Final = "x-stainless-read-timeout"
"""Seconds of silence that OpenAI's SDKs bear; who sets it means the whole call."""
UNSET_READ_S: Final = 600.0
"""What they say where nobody has set it: no wish of anybody's. Callers are held by interim responses beyond it."""
_RESERVE_SHARE: Final = 0.05
_RESERVE_MAX_S: Final = 10.0


def deadline_of(headers: Mapping[str, str], default: Deadline | None) -> Deadline | None:
    """Return the deadline of a call: its own header, else its client's timeouts, else the default.

    Args:
        headers: of the call, names in lower case.
        default: of calls that say nothing.

    Returns:
        A deadline in any form that ``generate`` takes; ``None``: there is no hurry.

    Raises:
        ConfigurationError: the header of our own has none of the forms of a deadline.
    """
    own = headers.get(OWN, "").strip()
    if own:
        return _parsed(own)
    for name, unset_s in ((TOTAL, 0.0), (READ, UNSET_READ_S)):
        timeout_s = _seconds(headers.get(name, ""))
        if timeout_s > 0 and timeout_s != unset_s:
            timeout_s -= 1.0 if name == TOTAL and timeout_s > 1.0 else 0.0
            return timeout_s - min(_RESERVE_MAX_S, timeout_s * _RESERVE_SHARE)
    return default


def _parsed(text: str) -> Deadline:
    seconds = _seconds(text)
    if seconds:
        return seconds
    if "T" not in text and " " not in text:
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise ConfigurationError(
            f"the header {OWN} is {in_short(text)}; it must look like '4h', '90m', '06:00', be seconds, or a time with "
            "its zone such as '2030-01-01T06:00:00+00:00'"
        )
    return moment


def _seconds(text: str) -> float:
    """Return a number of seconds; 0 if the text is none."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if isfinite(seconds) else 0.0
