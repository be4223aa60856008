"""Deadlines as users give them.

Owns the forms, what a time of day means where clocks are put on and back, and the deadline of a block of calls; it must
not know what a deadline is for.

A deadline is a moment, in seconds since the epoch. Spans ("4h", seconds, ``timedelta``) are elapsed time: "24h" given
on the day before clocks are put on ends at another time of day. A time of day ("06:00") is the next moment at which a
clock on the wall shows it:

- shown twice, since clocks are put back: the first of the two, or the second if that one is next;
- not shown, since clocks are put on over it: the moment at which they are.

The clock is that of this machine, in its own time zone; whoever means another gives a ``datetime``. If the machine's
clock is set anew later on, the moment stays as it was computed.
"""

from __future__ import annotations

import math
import re
import time as machine
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from carpool._showing import in_short
from carpool.errors import ConfigurationError

if TYPE_CHECKING:
    from carpool.types import Deadline

_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LAST_S: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""No span reaches further: what lies beyond cannot be shown as a date."""
_DAYS_AHEAD: Final = 3
"""A clock shows each time of day within two days, even where one is left out to cross the date line."""
_FORMS: Final = (
    "'90s', '90m', '4h', '2d', '06:00' (the next time the local clock shows it), seconds, a timedelta, or a datetime "
    "with time zone"
)


def parse_deadline(value: Any, now_s: float, zone: tzinfo | None = None) -> float:
    """Return the deadline as seconds since the epoch.

    A ``datetime`` is returned as it is, also if it has passed: who asks knows what to make of that. All other forms lie
    in the future.

    Args:
        value: ``"4h"``, ``"90m"``, ``"06:00"``, seconds from now, ``timedelta`` or aware ``datetime``.
        now_s: the time, in seconds since the epoch.
        zone: whose clock a time of day is read from; the machine's own if not given.

    Raises:
        ConfigurationError: the value has none of these forms, or is a span of time that is not above zero.
    """
    match value:
        case bool():
            pass
        case int() | float():
            return _after(value, _number(value), now_s)
        case timedelta():
            return _after(value, value.total_seconds(), now_s)
        case datetime():
            if value.utcoffset() is None:
                raise ConfigurationError(
                    f"deadline {in_short(value)} has no time zone; use datetime.now(timezone.utc) or .astimezone()"
                )
            return value.timestamp()
        case str():
            return _parse_text(value.strip(), now_s, zone)
        case _:
            pass
    raise _unusable(value)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _after(value: Any, span_s: float, now_s: float) -> float:
    if math.isfinite(span_s) and span_s <= 0:
        raise ConfigurationError(f"deadline {in_short(value)} is not in the future; give {_FORMS}")
    if not now_s <= now_s + span_s <= _LAST_S:  # not so for what is no number, and for infinity on either side
        raise _unusable(value)
    return now_s + span_s


def _parse_text(text: str, now_s: float, zone: tzinfo | None) -> float:
    if span := _SPAN.fullmatch(text):
        return _after(text, float(span[1]) * _UNIT_S[span[2]], now_s)
    if clock := _CLOCK.fullmatch(text):
        return _next_of(time(int(clock[1]), int(clock[2])), now_s, zone)
    raise _unusable(text)


def _unusable(value: Any) -> ConfigurationError:
    return ConfigurationError(f"deadline {str(value)[:80]!r} cannot be used; give {_FORMS}")


# -- times of day


def _next_of(shown: time, now_s: float, zone: tzinfo | None) -> float:
    """Return the next moment at which a clock shows a time of day; looked up once a minute, since many calls ask it."""
    minute = now_s // 60 * 60
    until = _after_minute(shown, minute, zone, machine.tzname, machine.timezone)
    # A clock whose zone is off by seconds may have shown the time within this very minute.
    return until if until > now_s else _next_shown(shown, now_s, zone)


@lru_cache(maxsize=64)
def _after_minute(shown: time, minute: float, zone: tzinfo | None, *_machine: object) -> float:
    """Return ``_next_shown``. The machine's own zone is given too: it may be set anew."""
    return _next_shown(shown, minute, zone)


def _next_shown(shown: time, now_s: float, zone: tzinfo | None) -> float:
    """Return the next moment at which a clock shows a time of day."""
    today = datetime.fromtimestamp(now_s, zone).date()
    days = (today + timedelta(days=ahead) for ahead in range(-1, _DAYS_AHEAD))
    return min(at for day in days for at in _shown_on(day, shown, zone) if at > now_s)


def _shown_on(day: date, shown: time, zone: tzinfo | None) -> Iterator[float]:
    """Iterate over the moments of a day at which a clock shows a time: one, two, or that at which it is left out."""
    wall = datetime.combine(day, shown)
    first, second = (wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if _wall(first, zone) == wall:
        yield first
        if second != first:
            yield second
        return
    # Of a time that is left out, the two readings lie on either side of the moment at which clocks are put on.
    before, after = sorted((first, second))
    offset = _wall(before, zone) - _utc(before)
    while after - before > 1:
        middle = float((before + after) // 2)
        if _wall(middle, zone) - _utc(middle) == offset:
            before = middle
        else:
            after = middle
    if _wall(after, zone).date() == day:  # else the whole day is left out
        yield after


def _wall(at: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


# -- deadlines of whole blocks

_ambient: Final[ContextVar[datetime | None]] = ContextVar("carpool.deadline", default=None)
ambient: Final = _ambient.get
"""Return the deadline of the block that this runs in; ``None``: it has none."""


@contextmanager
def deadline(value: Deadline) -> Generator[None]:
    """Give a deadline to all calls that are awaited in a block and name none, also by way of other people's clients.

    It is one moment, reckoned when the block is entered. Within another block with a deadline, the earlier of the two
    counts. It goes with the context: tasks and threads (``asyncio.to_thread``) that are started in the block have it.

    Args:
        value: ``"4h"``, ``"06:00"``, seconds, ``timedelta`` or aware ``datetime``.

    Raises:
        ConfigurationError: the value is none of these.
    """
    until, outer = datetime.fromtimestamp(parse_deadline(value, machine.time()), UTC), ambient()
    token = _ambient.set(until if outer is None else min(until, outer))
    try:
        yield
    finally:
        _ambient.reset(token)
