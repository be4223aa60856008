"""Limits that learn: calls in the air, and requests or tokens of a minute."""

from __future__ import annotations

import heapq
import random
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool._core.concurrency import CALLS_MAX, NEVER, RESTART, START, TAKEN_AFTER_S, InFlight, Rate

NOW = 1_800_000_000.0

# -- calls in the air


def fly(flying: InFlight, count: int, at: float) -> None:
    for _ in range(count):
        assert flying.next_send(at) == at
        flying.sent(at)


def test_the_limit_begins_small_and_doubles_with_each_round_that_is_answered() -> None:
    flying = InFlight()
    limits = []
    for number in range(6):
        at = NOW + number
        limits.append(flying.limit)
        fly(flying, flying.limit, at)
        assert flying.next_send(at) > at
        for _ in range(flying.count):
            flying.succeeded(at + 0.5, at)
    assert limits[0] == START
    assert all(8 / 5 <= b / a <= 2 for a, b in pairwise(limits))
    assert flying.limit <= CALLS_MAX


def test_it_grows_only_while_it_is_used() -> None:
    flying = InFlight()
    for number in range(1_000):
        flying.sent(NOW + number)
        flying.succeeded(NOW + number + 0.5, NOW + number)
    assert flying.limit == START


def test_calls_that_were_not_refused_within_5_s_are_taken_though_their_answers_take_minutes() -> None:
    flying = InFlight(100)
    at = NOW
    while flying.count < 100:
        while flying.next_send(at) == at:
            flying.sent(at)
        if flying.count < 100:
            assert flying.next_send(at) == at + TAKEN_AFTER_S
        at += TAKEN_AFTER_S
    assert at - NOW <= 5 * TAKEN_AFTER_S, "slow start"
    assert flying.next_send(at) == NEVER, "one has to end first"
    flying.succeeded(at + 600, NOW)
    assert flying.next_send(at + 600) == at + 600


def test_a_round_of_refusals_lowers_it_once() -> None:
    flying = InFlight()
    fly(flying, 8, NOW)
    for _ in range(8):
        flying.refused(NOW + 1, NOW)
    assert flying.limit == 5
    fly(flying, 5, NOW + 2)
    flying.refused(NOW + 3, NOW + 2)
    assert flying.limit == 3
    assert flying.count == 4


def test_it_never_falls_below_one() -> None:
    flying = InFlight()
    for number in range(50):
        flying.sent(NOW + number)
        flying.refused(NOW + number, NOW + number)
    assert flying.limit == 1
    assert flying.next_send(NOW + 50) == NOW + 50


def test_after_a_refusal_it_grows_by_one_a_round_or_a_tenth() -> None:
    flying = InFlight()
    flying.sent(NOW)
    flying.refused(NOW, NOW)
    for number in range(1, 11):
        before = flying.limit
        fly(flying, before, NOW + number)
        for _ in range(before):
            flying.succeeded(NOW + number + 0.5, NOW + number)
        assert before <= flying.limit <= before + 2
    assert 12 <= flying.limit <= 18


def test_it_begins_small_again_and_is_quick_up_to_where_it_was() -> None:
    flying = InFlight()
    fly(flying, 8, NOW)
    for _ in range(8):
        flying.refused(NOW + 1, NOW)
    for number in range(5):
        flying.sent(NOW + 2 + number)
        flying.refused(NOW + 2 + number, NOW + 2 + number)
    assert flying.limit == 1
    flying.restart()
    assert flying.limit == RESTART
    fly(flying, 2, NOW + 10)
    for _ in range(2):
        flying.succeeded(NOW + 11, NOW + 10)
    assert flying.limit == 4


def test_after_a_restart_it_is_quick_to_grow_even_where_it_had_not_grown_before() -> None:
    flying = InFlight()
    fly(flying, 1, NOW)
    flying.refused(NOW + 1, NOW)
    flying.restart()
    limits = [flying.limit]
    for at in range(5):
        fly(flying, limits[-1], NOW + 10 + at)
        for _ in range(limits[-1]):
            flying.succeeded(NOW + 10.5 + at, NOW + 10 + at)
        limits.append(flying.limit)
    assert limits == [2, 4, 8, 16, 32, 64]


def test_calls_that_tell_nothing_make_room() -> None:
    flying = InFlight(1)
    flying.sent(NOW)
    assert flying.next_send(NOW) == NEVER
    flying.dropped(NOW)
    assert flying.next_send(NOW) == NOW
    flying.dropped(NOW)
    assert flying.count == 0
    assert repr(flying) == "InFlight(0 of 1, 0 of 1 untaken)"


def test_a_clock_that_is_set_back_does_not_close_the_gate() -> None:
    flying = InFlight()
    fly(flying, 8, NOW)
    early = NOW - 86_400
    assert flying.next_send(early) <= early + TAKEN_AFTER_S
    flying.refused(early, NOW)
    flying.refused(early, early - 1)
    assert flying.limit == 5


# -- a minute's requests and tokens


def test_nothing_is_limited_before_the_first_refusal() -> None:
    rate = Rate()
    for _ in range(10_000):
        assert rate.next_send(NOW) == NOW
        rate.sent(NOW)
        rate.accepted(NOW)
    assert rate.per_minute == NEVER
    assert repr(rate) == "Rate(inf/min)"


def test_a_known_quota_spreads_calls_over_the_minute() -> None:
    rate = Rate(60.0)
    sent = 0
    for tenth in range(6_000):
        at = NOW + tenth / 10
        while rate.next_send(at) <= at:
            rate.sent(at)
            sent += 1
    assert 595 <= sent <= 606


def test_the_first_refusal_sets_nine_tenths_of_the_quota_that_it_names() -> None:
    rate = Rate()
    rate.refused(NOW, NOW, 1_000.0)
    assert rate.per_minute == 900.0


def test_without_a_name_nine_tenths_of_what_was_accepted_within_a_minute() -> None:
    rate = Rate()
    for second in range(100):
        rate.accepted(NOW + second, 10.0)
    rate.refused(NOW + 100, NOW + 100)
    assert rate.per_minute == pytest.approx(0.9 * 600, rel=0.1)


def test_what_was_accepted_long_ago_does_not_count() -> None:
    rate = Rate(least=3.0)
    rate.accepted(NOW, 1_000.0)
    rate.accepted(NOW + 62, 31.0)
    rate.refused(NOW + 63, NOW + 63)
    assert rate.per_minute == pytest.approx(27.9)


def test_a_refusal_before_there_was_much_to_refuse_teaches_nothing() -> None:
    rate = Rate()
    for _ in range(9):
        rate.accepted(NOW)
        rate.refused(NOW, NOW)
    assert rate.per_minute == NEVER


def test_refusals_within_the_minute_after_a_cut_do_not_cut_again() -> None:
    rate = Rate(1_000.0)
    for second in range(30):
        rate.refused(NOW + 1 + second, NOW + second)
    assert rate.per_minute == 450.0, "nothing was accepted at all: half of it, and a tenth less"
    rate.refused(NOW + 62, NOW)
    assert rate.per_minute == 450.0, "sent before the cut"
    rate.refused(NOW + 62, NOW + 62, 100.0)
    assert rate.per_minute == 90.0, "a quota that has become smaller counts at once"


def test_it_grows_only_when_it_held_calls_back() -> None:
    rate = Rate(600.0)
    for tenth in range(600):
        rate.accepted(NOW + tenth / 10)
    rate.refused(NOW + 60, NOW + 60)
    assert rate.per_minute == pytest.approx(540.0)
    for second in range(61, 200):
        rate.accepted(NOW + second)
    assert rate.per_minute == pytest.approx(540.0)
    for second in range(200, 300):
        while rate.next_send(NOW + second) <= NOW + second:
            rate.sent(NOW + second)
        rate.accepted(NOW + second)
    assert 600 < rate.per_minute <= 1_500, "carefully beyond where it was refused"


def test_a_call_that_costs_more_than_can_be_saved_up_waits_for_a_full_purse() -> None:
    rate = Rate(1_200.0)
    at = rate.next_send(NOW, 5_000.0)
    rate.sent(at, 5_000.0)
    wait_s = rate.next_send(at, 5_000.0) - at
    assert wait_s == pytest.approx(5_000 / 1_200 * 60)


def test_an_estimate_that_was_wrong_is_put_right() -> None:
    rate = Rate(1_200.0)
    rate.next_send(NOW)
    rate.sent(NOW, 100.0)
    rate.accepted(NOW, 500.0, 100.0)
    late = rate.next_send(NOW, 1.0)
    rate.accepted(NOW, 0.0, 400.0)
    assert rate.next_send(NOW, 1.0) == pytest.approx(late - 400 / 1_200 * 60)


def test_clocks_that_jump_give_and_take_no_more_than_a_purse() -> None:
    rate = Rate(60.0)
    for jump_s in (-86_400.0, 86_400.0):
        at = NOW + jump_s
        sent = 0
        while rate.next_send(at) <= at:
            rate.sent(at)
            sent += 1
        assert sent <= 6
        assert rate.next_send(at) <= at + 1.5
        rate.accepted(at)
    rate.refused(NOW, NOW)
    rate.refused(NOW - 86_400, NOW - 86_400)
    lowered = rate.per_minute
    assert 60.0 * 0.45 * 0.45 <= lowered <= 60.0 * 0.5 * 0.5
    for second in range(0, 300, 5):
        rate.next_send(NOW - 86_400 + second, 10.0)
        rate.accepted(NOW - 86_400 + second)
    assert rate.per_minute > lowered


class Quota:
    """A server that takes so much in any minute, or refills steadily; the second has a burst of a second."""

    def __init__(self, per_minute: float, sliding: bool) -> None:
        self.per_minute = per_minute
        self.sliding = sliding
        self.taken: deque[float] = deque()
        self.level = per_minute / 60
        self.at = NOW

    def takes(self, now: float) -> bool:
        if self.sliding:
            while self.taken and now - self.taken[0] >= 60.0:
                self.taken.popleft()
            if len(self.taken) < self.per_minute:
                self.taken.append(now)
                return True
            return False
        self.level = min(max(1.0, self.per_minute / 60), self.level + (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("quota", [60.0, 1_000.0])
@pytest.mark.parametrize("named", [True, False])
def test_a_quota_that_changes_is_found_again_and_used(sliding: bool, quota: float, named: bool) -> None:
    rng = random.Random(3)
    rate, server = Rate(), Quota(quota, sliding)
    ends: list[tuple[float, float, bool]] = []
    accepted: list[float] = []
    refused: list[float] = []
    hold = at = NOW
    while at < NOW + 3_600:
        if at >= NOW + 1_800:
            server.per_minute = quota / 2
        while ends and ends[0][0] <= at:
            ended_at, sent_at, ok = heapq.heappop(ends)
            if ok:
                rate.accepted(ended_at)
            else:
                rate.refused(ended_at, sent_at, server.per_minute if named else 0.0)
                hold = ended_at + 5.0
        start = max(hold, rate.next_send(at))
        if start > at:
            at = min(start, at + 1.0, *([ends[0][0]] if ends else []))
            continue
        rate.sent(at)
        ok = server.takes(at)
        (accepted if ok else refused).append(at)
        heapq.heappush(ends, (at + rng.uniform(0.1, 0.5), at, ok))
        at += 0.01
    for low, high, full in ((900, 1_800, quota), (2_700, 3_600, quota / 2)):
        used = sum(NOW + low <= at < NOW + high for at in accepted) / ((high - low) / 60) / full
        lost = sum(NOW + low <= at < NOW + high for at in refused)
        assert used >= 0.75, f"{used:.2f} of the quota was used"
        assert lost <= 0.12 * used * full * (high - low) / 60 + 20, f"{lost} were refused"


@settings(max_examples=200)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["next", "sent", "accepted", "refused"]),
            st.floats(-1e5, 1e5),
            st.floats(0, 1e9),
        ),
        max_size=60,
    ),
    known=st.sampled_from([NEVER, 1.0, 1_000.0]),
)
def test_whatever_happens_a_rate_stays_sane(events: list[tuple[str, float, float]], known: float) -> None:
    rate = Rate(known)
    at = NOW
    for what, step_s, amount in events:
        at += step_s
        call: dict[str, Any] = {
            "next": lambda at=at, amount=amount: rate.next_send(at, amount),
            "sent": lambda at=at, amount=amount: rate.sent(at, amount),
            "accepted": lambda at=at, amount=amount: rate.accepted(at, amount, amount / 2),
            "refused": lambda at=at, amount=amount: rate.refused(at, at, amount),
        }
        call[what]()
        assert rate.per_minute >= 1.0
        assert at <= rate.next_send(at) < NEVER
        assert len(rate._accepted) <= 31
