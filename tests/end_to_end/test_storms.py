"""Storms of the live API under ``FAST``: nobody notices, it is left alone while it refuses, and used again afterwards.

A selection, small; ``python -m tests.end_to_end.storms`` prints the whole table.
"""

from __future__ import annotations

import pytest

from carpool._core.live import WAIT_MAX_S
from carpool.emulator import Fault

from .storms import BACK_S, LIVE_S, SHARE_MAX, STORMS, Storm, run


@pytest.mark.parametrize(
    ("storm", "rate", "seed"),
    [
        *((storm, 2.0, 0) for storm in STORMS),
        (STORMS[0], 5.0, 1),
        (STORMS[4], 20.0, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Storm) else str(value),
)
def test_every_call_ends_with_its_answer_and_the_live_api_is_left_alone(storm: Storm, rate: float, seed: int) -> None:
    figures = run(storm, rate, seed)
    assert figures.bad == [], "a call ended with an error, a 429 perhaps"
    assert max(figures.shares()) <= SHARE_MAX
    assert max(figures.back_s()) <= BACK_S
    assert {call.route for call in figures.calls} == {"standard", "batch"}


def test_of_a_quota_of_a_minute_all_is_used_and_what_would_wait_long_goes_to_a_batch() -> None:
    figures = run(Storm("quota", {}, ((0.0, 300.0),)), 5.0, 0, live_requests_per_minute=60)
    assert figures.bad == []
    live = [call for call in figures.calls if call.route == "standard"]
    minutes = figures.calls[-1].at / 60
    assert len(live) >= 0.8 * 60 * minutes
    assert sum(status == 429 for _, status in figures.received) <= 4 * minutes
    assert max(call.took_s for call in live) <= WAIT_MAX_S + LIVE_S + 1.0, "who waits longer goes to a batch"


def test_of_a_quota_that_takes_all_everything_goes_live() -> None:
    figures = run(Storm("quota", {}, ((0.0, 120.0),)), 5.0, 0, live_requests_per_minute=600)
    assert {call.route for call in figures.calls} == {"standard"}
    assert {status for _, status in figures.received} == {200}


def test_a_live_api_that_hangs_holds_nobody_up_but_those_whose_calls_it_has() -> None:
    """Of those a server that thinks for minutes cannot be told from one that hangs."""
    storm = Storm("hangs", {"generate.slow": Fault(seconds=300.0, until_s=120.0)}, ((0.0, 120.0),))
    figures = run(storm, 5.0, 0)
    assert figures.bad == []
    assert max(call.took_s for call in figures.calls) < 400.0
    assert sum(call.route == "batch" for call in figures.calls) > 100


def test_calls_that_are_cut_off_in_the_middle_of_their_answers_end_with_one_all_the_same() -> None:
    storm = Storm("cut", {"generate.cut": Fault(until_s=60.0, probability=0.5)}, ((0.0, 60.0),))
    assert run(storm, 5.0, 0).bad == []
