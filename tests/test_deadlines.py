"""Deadlines in every form, and what is none: what moment they mean, also where clocks are put on and back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carpool._deadline import parse_deadline
from carpool.errors import ConfigurationError

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # half an hour
SAMOA = ZoneInfo("Pacific/Apia")  # left out 30 December 2011
KATHMANDU = ZoneInfo("Asia/Kathmandu")
ZONES = [UTC, BERLIN, NEW_YORK, LORD_HOWE, SAMOA, KATHMANDU, timezone(timedelta(hours=-9, minutes=-30))]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


def at(text: str, zone: Any = UTC, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


# -- spans


@pytest.mark.parametrize(
    ("value", "span_s"),
    [
        ("90s", 90),
        ("1.5m", 90),
        ("90m", 5_400),
        ("4h", 14_400),
        ("1.5h", 5_400),
        ("2d", 172_800),
        (" 4h ", 14_400),
        (7, 7),
        (60, 60),
        (0.25, 0.25),
        (0.5, 0.5),
        (timedelta(minutes=3), 180),
        (timedelta(hours=1), 3_600),
        (timedelta(days=365), 31_536_000),
    ],
)
@pytest.mark.parametrize("now_s", [NOW, 1_000.0])
def test_spans_are_counted_from_now(value: Any, span_s: float, now_s: float) -> None:
    assert parse_deadline(value, now_s) == now_s + span_s


def test_a_span_is_elapsed_time_also_across_a_change_of_clocks() -> None:
    before = at("2026-03-28T12:00", BERLIN)
    assert parse_deadline("24h", before, BERLIN) == at("2026-03-29T13:00", BERLIN)


@pytest.mark.parametrize("value", [0, -1, -0.5, "0s", "0h", timedelta(0), timedelta(seconds=-1)])
def test_a_span_that_has_passed_says_so(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not in the future; give '90s', '90m', '4h'"):
        parse_deadline(value, NOW)


UNUSABLE: list[Any] = [
    "", "4", "h", "soon", "1h30m", "06:00Z", "06:00 Europe/Berlin",
    "2030-01-31T06:00Z", "4 h", "4x", "-4h", "1e3s", "4h4", "h4", "25:00", "24:00", "12:60", "6:0", "06:00:00", "6am",
    "noon", "tomorrow", "٣h", "2030-01-31", "9" * 400 + "d", "9" * 5_000 + "h",
    "99999999d", timedelta.max, 10**12, True, False, None, object(), b"4h", [], [1],
    date(2100, 1, 1), float("nan"), float("inf"), float("-inf"), 10**400, -(10**400),
]  # fmt: skip


@pytest.mark.parametrize("value", UNUSABLE, ids=lambda value: str(value)[:20])
def test_what_is_no_deadline_is_told_with_the_forms(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used; give '90s', '90m', '4h'") as caught:
        parse_deadline(value, NOW)
    assert "'06:00'" in str(caught.value)
    assert len(str(caught.value)) < 500


@given(value=st.text(max_size=20) | st.floats() | st.integers() | st.timedeltas() | st.none() | st.binary(max_size=3))
@example("1" * 20 + "h")
def test_whatever_is_given_it_is_a_moment_to_come_or_an_error(value: Any) -> None:
    try:
        until = parse_deadline(value, NOW)
    except ConfigurationError:
        return
    assert until >= NOW, "a span can be too short for a float to show"
    assert datetime.fromtimestamp(until, UTC), "it can be shown as a date"


# -- moments


def test_a_moment_is_taken_as_it_is_whether_it_has_passed_or_not() -> None:
    moment = datetime(2026, 11, 21, 9, tzinfo=timezone(timedelta(hours=9)))
    assert parse_deadline(moment, NOW) == datetime(2026, 11, 21, tzinfo=UTC).timestamp() < NOW
    assert parse_deadline(moment, 0.0) == moment.timestamp()
    assert parse_deadline(datetime(9999, 12, 31, tzinfo=UTC), NOW) > NOW
    assert parse_deadline(datetime(1, 1, 1, tzinfo=UTC), NOW) < NOW


def test_a_moment_given_in_the_hour_that_comes_twice_is_the_one_that_its_fold_says() -> None:
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1))
    assert parse_deadline(second, NOW) - parse_deadline(first, NOW) == 3_600


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        parse_deadline(datetime(2100, 1, 1), NOW)  # noqa: DTZ001


# -- times of day


@pytest.mark.parametrize(
    ("now", "text", "until"),
    [
        ("2026-11-21T05:59:59", "06:00", "2026-11-21T06:00"),
        ("2026-11-21T06:00:00", "06:00", "2026-11-22T06:00"),
        ("2026-11-21T06:00:01", "6:00", "2026-11-22T06:00"),
        ("2026-12-31T23:59", "0:00", "2027-01-01T00:00"),
        ("2028-02-28T12:00", "11:59", "2028-02-29T11:59"),
    ],
)
@pytest.mark.parametrize("zone", [UTC, BERLIN, KATHMANDU], ids=str)
def test_a_time_of_day_is_the_next_moment_at_which_the_clock_shows_it(
    now: str, text: str, until: str, zone: Any
) -> None:
    assert parse_deadline(text, at(now, zone), zone) == at(until, zone)


def test_a_time_that_is_left_out_means_the_moment_at_which_clocks_are_put_on() -> None:
    before = at("2026-03-29T00:00", BERLIN)
    for text in ("02:00", "02:01", "02:30", "02:59"):
        assert parse_deadline(text, before, BERLIN) == at("2026-03-29T01:00") == at("2026-03-29T03:00", BERLIN)
    assert parse_deadline("01:59", before, BERLIN) == at("2026-03-29T00:59")
    assert parse_deadline("03:00", before, BERLIN) == at("2026-03-29T01:00")
    assert parse_deadline("02:30", at("2026-03-29T03:00", BERLIN), BERLIN) == at("2026-03-30T02:30", BERLIN)
    half = at("2026-10-04T00:00", LORD_HOWE)
    assert parse_deadline("02:15", half, LORD_HOWE) == at("2026-10-04T02:30", LORD_HOWE)


def test_a_time_that_comes_twice_means_the_next_of_both() -> None:
    first, second = at("2026-10-25T02:30", BERLIN), at("2026-10-25T02:30", BERLIN, fold=1)
    assert second - first == 3_600
    assert parse_deadline("02:30", at("2026-10-25T00:00", BERLIN), BERLIN) == first
    assert parse_deadline("02:30", first - 1, BERLIN) == first
    assert parse_deadline("02:30", first, BERLIN) == second
    assert parse_deadline("02:30", second, BERLIN) == at("2026-10-26T02:30", BERLIN)


def test_a_day_that_is_left_out_has_no_times() -> None:
    before = at("2011-12-29T23:00", SAMOA)
    assert parse_deadline("06:00", before, SAMOA) == at("2011-12-31T06:00", SAMOA)
    assert parse_deadline("23:30", before, SAMOA) == before + 1_800


@given(
    now_s=st.floats(0.0, 4e9),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    zone=st.sampled_from(ZONES),
)
@example(now_s=at("2026-03-29T00:30"), hour=2, minute=30, zone=BERLIN)
@example(now_s=at("2026-10-25T00:30"), hour=2, minute=30, zone=BERLIN)
@example(now_s=at("2026-10-25T00:30:00.5"), hour=2, minute=30, zone=BERLIN)
@example(now_s=at("2011-12-30T09:59:59"), hour=12, minute=0, zone=SAMOA)
def test_a_time_of_day_is_never_missed(now_s: float, hour: int, minute: int, zone: Any) -> None:
    """At the deadline the clock shows the time, or has just been put on over it; between now and then it never did."""
    until = parse_deadline(f"{hour}:{minute:02}", now_s, zone)
    assert now_s < until <= now_s + 3 * 86_400
    there = datetime.fromtimestamp(until, zone)
    if (there.hour, there.minute) != (hour, minute):
        just_before = datetime.fromtimestamp(until - 1, zone)
        assert there.utcoffset() != just_before.utcoffset(), "clocks are put on"
        assert just_before.strftime("%H:%M") < f"{hour:02}:{minute:02}" < there.strftime("%H:%M")
    for steps in range(1, 200):
        passed = datetime.fromtimestamp(until - steps * 900, zone)
        if passed.timestamp() <= now_s:
            break
        assert (passed.hour, passed.minute) != (hour, minute)


@pytest.mark.parametrize("seconds", [59, 60, 61])
def test_it_is_the_next_one_also_within_the_minute_that_was_looked_up(seconds: int) -> None:
    """Asked again in the same minute, and in the next."""
    noon, odd = at("2026-11-21T12:00"), timezone(timedelta(seconds=30))
    for zone, shown in ((UTC, noon + 60), (odd, noon + 30)):
        later = noon + seconds
        assert parse_deadline("12:01", noon, zone) == shown
        assert parse_deadline("12:01", later, zone) == (shown if later < shown else shown + 86_400)


# -- the machine's own clock


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """The machine's clock is that of Berlin; gives the noon before the night in which it is put back at 3:00."""
    monkeypatch.setitem(os.environ, "TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield at("2026-10-24T12:00", BERLIN)
    monkeypatch.undo()
    time.tzset()


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


def test_a_clock_that_is_set_to_another_zone_is_believed_at_once(
    berlin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_deadline("12:01", berlin) == berlin + 60
    monkeypatch.setitem(os.environ, "TZ", "UTC0")
    time.tzset()
    assert parse_deadline("12:01", berlin) == berlin + 7_260


CHILD = """
import sys
from carpool._deadline import parse_deadline
for line in sys.stdin:
    now_s, text = line.split(" ", 1)
    print(parse_deadline(text.strip(), float(now_s)))
"""


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"])
def test_without_a_zone_it_is_the_clock_of_this_machine(zone: str) -> None:
    asked = [
        (at(moment) + hours * 3_600 + 0.25, text)
        for moment in (
            "2026-03-28T12:00",
            "2026-10-24T12:00",
            "2026-11-01T00:00",
            "2026-10-03T12:00",
            "2026-07-01T00:00",
        )
        for hours in range(0, 30, 3)
        for text in ("00:00", "01:30", "02:00", "02:15", "02:30", "03:00", "23:59")
    ]
    told = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(f"{now_s!r} {text}" for now_s, text in asked),
        env=os.environ | {"TZ": zone},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [float(line) for line in told.stdout.split()] == [
        parse_deadline(text, now_s, ZoneInfo(zone)) for now_s, text in asked
    ]
