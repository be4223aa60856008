"""When a call must be answered: the order in which that is looked for, and what each header means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from carpool import ConfigurationError
from carpool.surfaces.deadlines import OWN, READ, TOTAL, deadline_of


def test_the_order_is_own_header_then_total_then_read_then_the_default() -> None:
    headers = {OWN: "4h", TOTAL: "1200", READ: "60"}
    assert deadline_of(headers, "1d") == "4h"
    del headers[OWN]
    assert deadline_of(headers, "1d") == 1_189.0
    del headers[TOTAL]
    assert deadline_of(headers, "1d") == 57.0
    del headers[READ]
    assert deadline_of(headers, "1d") == "1d"
    assert deadline_of(headers, None) is None


def test_a_call_is_to_be_answered_a_little_before_its_caller_gives_up() -> None:
    assert deadline_of({READ: "20"}, None) == 19.0
    assert deadline_of({READ: "200"}, None) == 190.0
    assert deadline_of({READ: "86400"}, None) == 86_390.0


def test_seconds_in_all_are_rounded_up_by_who_tells_them() -> None:
    """1.2 seconds are told as 2."""
    assert deadline_of({TOTAL: "2"}, None) == 0.95
    assert deadline_of({TOTAL: "21"}, None) == 19.0
    assert deadline_of({TOTAL: "1"}, None) == 0.95


def test_a_read_timeout_that_nobody_chose_says_nothing() -> None:
    assert deadline_of({READ: "600"}, "1d") == "1d"
    assert deadline_of({READ: "600.0"}, None) is None
    assert deadline_of({READ: "601"}, None) == 591.0
    assert deadline_of({TOTAL: "600"}, None) == 589.0


@pytest.mark.parametrize("text", ["", "none", "0", "-5", "nan", "inf", "1e999"])
def test_timeouts_that_are_none_are_passed_over(text: str) -> None:
    assert deadline_of({TOTAL: text, READ: text}, "1d") == "1d"


@pytest.mark.parametrize(
    ("text", "deadline"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("90m", "90m"),
        ("06:00", "06:00"),
        ("2030-01-01T06:00:00+00:00", datetime(2030, 1, 1, 6, tzinfo=UTC)),
        ("2030-01-01 06:00:00Z", datetime(2030, 1, 1, 6, tzinfo=UTC)),
    ],
)
def test_forms_of_the_own_header(text: str, deadline: object) -> None:
    assert deadline_of({OWN: text}, None) == deadline


@pytest.mark.parametrize("text", ["2030-01-01T06:00:00", "T", "2030-13-01T06:00:00Z"])
def test_a_moment_that_is_none_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=OWN):
        deadline_of({OWN: text}, None)
