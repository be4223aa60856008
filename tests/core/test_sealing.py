"""Names of jobs and files, and the choice between inline and file."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.accumulator import Batch
from carpool._core.ledger import Ledger
from carpool._core.messages import Create, Upload
from carpool._core.model import Lane
from carpool._core.sealing import choose_form, display_name, file_name, ulid
from carpool.settings import Settings

from .desk import FRAMING, LANE, OTHER_LANE, Desk, only

CHEAP = Lane("generate", "gemini-2.5-flash")


def form(
    lane: Lane = LANE, count: int = 1, line_bytes: int = 100, tokens: int = 1, *, as_file: bool = False, **settings: Any
) -> str:
    batch = Batch(lane=lane, spans=(), count=count, line_bytes=line_bytes, tokens=tokens, as_file=as_file)
    return choose_form(Settings(**settings), FRAMING, Ledger({}), batch, name_bytes=40)


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=50), st.floats(0, 10**10))
def test_ulids_differ_sort_by_time_and_fit_into_names(counts: list[int], now: float) -> None:
    ids = [ulid(now, "store", 1, count, 0.0) for count in counts]
    assert len(set(ids)) == len(counts)
    assert all(re.fullmatch("[0-7][0-9a-hjkmnp-tv-z]{25}", name) for name in ids)
    assert ulid(now, "a", 2, 7, 0.0)[:10] <= ulid(now + 1, "b", 1, 3, 0.0)[:10]
    assert all(re.fullmatch("files/[a-z0-9-]{1,40}", file_name(name, 100, 99)) for name in ids)


def test_ulids_hold_the_time_in_milliseconds() -> None:
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    number = 0
    for letter in ulid(1_790_000_000.123, "x", 1, 1, 0.0)[:10]:
        number = number * 32 + alphabet.index(letter)
    assert number == 1_790_000_000_123


def test_display_names_tell_store_job_attempt_and_label() -> None:
    assert display_name("store", "job", 2, "") == "cp1.store.job.2"
    assert display_name("store", "job", 2, "nightly") == "cp1.store.job.2.nightly"


def test_jobs_of_one_process_and_of_the_next_have_names_of_their_own() -> None:
    first = Desk(linger_s=0)
    first.admit()
    first.wait()
    second = first.restart(after_s=0.0)
    second.admit(lane=OTHER_LANE)
    second.wait(1.0)
    assert len({job.id for job in second.jobs}) == 2


@pytest.mark.parametrize(("missing", "expected"), [(1, "inline"), (0, "file")])
def test_the_inline_limit_is_exact_and_counts_the_envelope(missing: int, expected: str) -> None:
    size = FRAMING.inline_envelope_bytes + 40 + 1_000 + 3 * FRAMING.inline_row_bytes
    assert form(count=3, line_bytes=1_000, inline_bytes_max=size + missing) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "inline"),
        ({"as_file": True}, "file"),
        ({"count": 1_000}, "inline"),
        ({"count": 1_001}, "file"),
        ({"count": 1_001, "inline_requests_max": 2_000}, "inline"),
        ({"count": 1_001, "inline_cost_max_usd": None}, "inline"),
        ({"count": 2_001, "inline_requests_max": 10_000}, "file"),  # 8 kB of answer each are more than 16 MB
        ({"count": 9, "lane": Lane("generate", "some-image-model")}, "file"),
        ({"lane": CHEAP, "count": 690, "tokens": 690_000}, "inline"),  # 0.15 * 0.69 + 1.25 * 0.707 USD
        ({"lane": CHEAP, "count": 800, "tokens": 800_000}, "file"),
        ({"lane": CHEAP, "count": 800, "tokens": 800_000, "inline_cost_max_usd": Decimal(2)}, "inline"),
        ({"lane": CHEAP, "inline_cost_max_usd": Decimal(0)}, "file"),
    ],
)
def test_each_limit_of_the_inline_form_decides_alone(facts: dict[str, Any], expected: str) -> None:
    assert form(**facts) == expected


@pytest.mark.parametrize(("below", "action"), [(1, Create), (0, Upload)])
def test_a_sealed_job_is_inline_exactly_as_long_as_its_create_call_stays_below_the_limit(
    below: int, action: type[Create | Upload]
) -> None:
    name_bytes = len("cp1.abcd1234..1") + 26
    size = FRAMING.inline_envelope_bytes + name_bytes + 500 + 2 * FRAMING.inline_row_bytes
    desk = Desk(inline_bytes_max=size + below)
    desk.admit(size_bytes=200)
    desk.admit(size_bytes=300)
    asked = only(desk.wait().actions, action)
    assert len(asked.job.display_name) == name_bytes
    assert asked.job.line_bytes == 500
