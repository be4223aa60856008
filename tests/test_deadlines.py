"""Deadlines in every form that users may give, and what is no deadline."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from carpool import ConfigurationError
from carpool._deadline import parse_deadline

# Saturday noon in Berlin, the day before the clock is set back at 3:00.
NOON = datetime(2026, 10, 24, 10, 0, tzinfo=UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """The local clock is that of Berlin; returns the time there at noon."""
    monkeypatch.setitem(os.environ, "TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield NOON.timestamp()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "span_s"),
    [
        ("90s", 90.0),
        ("1.5m", 90.0),
        (" 4h ", 14_400.0),
        ("2d", 172_800.0),
        (7, 7.0),
        (0.25, 0.25),
        (timedelta(minutes=3), 180.0),
    ],
)
def test_spans_of_time_begin_now(value: Any, span_s: float) -> None:
    assert parse_deadline(value, 1_000.0) == 1_000.0 + span_s


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("12:01", 1 / 60),  # later today
        ("23:30", 11.5),
        ("12:00", 25.0),  # it is just that: the next time, behind the hour that comes twice
        ("11:59", 25.0 - 1 / 60),
        ("1:30", 13.5),
    ],
)
def test_a_time_of_day_is_the_next_one_of_the_local_clock(berlin: float, text: str, hours: float) -> None:
    assert parse_deadline(text, berlin) == pytest.approx(berlin + hours * 3_600)


def test_a_datetime_is_what_it_says_in_its_zone() -> None:
    then = datetime(2026, 11, 21, 12, 0, tzinfo=timezone(timedelta(hours=5)))
    assert parse_deadline(then, 0.0) == datetime(2026, 11, 21, 7, 0, tzinfo=UTC).timestamp()
    with pytest.raises(ConfigurationError, match="has no time zone"):
        parse_deadline(then.replace(tzinfo=None), 0.0)


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "4", "4 h", "h", "-4h", "24:00", "12:60", "1e3s", "0s", "9" * 400 + "d"),
        *(0, -1, 10**400, math.nan, math.inf, True, False, None, b"4h", [1], timedelta(0), timedelta(seconds=-1)),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_what_is_no_deadline_is_refused_with_the_forms_that_are(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used; give '90s', '90m', '4h'"):
        parse_deadline(value, 1_000.0)
