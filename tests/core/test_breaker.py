"""A route that refuses is left alone and probed; what refusals say is read whatever they hold."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.breaker import (
    ASKED_MAX_S,
    CLOSES_AFTER,
    PAUSE_MAX_S,
    RETRY_AFTER_MAX_S,
    Breaker,
    Pushback,
    State,
    read_pushback,
)
from carpool.types import ServerError

NOW = 1_800_000_000.0

# -- what a refusal says

QUOTA_TEXT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 15\n"
)


def retry_info(delay: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota_failure(*ids: str, value: Any = "1000") -> dict[str, Any]:
    violations = [
        {"quotaMetric": "generativelanguage.googleapis.com/x", "quotaId": i, "quotaValue": value} for i in ids
    ]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


@pytest.mark.parametrize(
    ("ids", "scope"),
    [
        (["GenerateRequestsPerMinutePerProjectPerModel-PaidTier"], "requests_minute"),
        (["GenerateContentInputTokensPerModelPerMinute-FreeTier"], "tokens_minute"),
        (["GenerateRequestsPerDayPerProjectPerModel-FreeTier"], "requests_day"),
        (["GenerateContentPaidTierInputTokensPerModelPerDay"], "tokens_day"),
        (["GenerateRequestsPerMinutePerProjectPerModel", "GenerateRequestsPerDayPerProjectPerModel"], "requests_day"),
        (["GenerateContentInputTokensPerModelPerMinute", "GenerateRequestsPerMinutePerProject"], "requests_minute"),
        (["SomethingNew"], "quota"),
    ],
)
def test_the_quota_that_ran_out_is_read_from_its_name(ids: list[str], scope: str) -> None:
    error = ServerError(429, QUOTA_TEXT, "RESOURCE_EXHAUSTED", [quota_failure(*ids), retry_info("12s")])
    assert read_pushback(error) == Pushback(retry_after_s=12.0, scope=scope, quota=1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "scope", "seconds"),
    [
        (QUOTA_TEXT + "Please retry in 12.94s.", "quota", 12.94),
        ("Quota exceeded for requests per minute. Please retry in 250ms.", "requests_minute", 0.25),
        ("Quota exceeded: input tokens per day. Please retry in 13h2m5.5s.", "tokens_day", 46_925.5),
        ("requests_per_day: retry in 3m", "requests_day", 180.0),
        ("Please retry in 999999h.", "quota", RETRY_AFTER_MAX_S),
        ("Please retry in a while.", "quota", 0.0),
        ("Resource has been exhausted (e.g. check quota).", "quota", 0.0),
    ],
)
def test_words_tell_where_details_do_not(message: str, scope: str, seconds: float) -> None:
    pushback = read_pushback(ServerError(429, message))
    assert (pushback.scope, pushback.retry_after_s) == (scope, seconds)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("12s", 12.0),
        ("0.5s", 0.5),
        ("1000000000s", RETRY_AFTER_MAX_S),
        ("-5s", 0.0),
        ("nans", 0.0),
        ("1e9s", 0.0),
        ("9" * 4_000 + "s", 0.0),
        (12, 0.0),
        (None, 0.0),
        ({"seconds": 5}, 0.0),
    ],
)
def test_delays_are_believed_within_reason(delay: Any, seconds: float) -> None:
    for code in (429, 503):
        assert read_pushback(ServerError(code, "x", "", [retry_info(delay)])).retry_after_s == seconds


@pytest.mark.parametrize(("value", "quota"), [("60", 60), (60, 60), ("-1", 0), ("9" * 20, 0), (None, 0), ("٣", 0)])
def test_quotas_are_believed_within_reason(value: Any, quota: int) -> None:
    assert read_pushback(ServerError(429, "x", "", [quota_failure("RequestsPerMinute", value=value)])).quota == quota


@pytest.mark.parametrize(
    "details",
    ["x", {}, [1, None, []], [{"violations": 1}], [{"violations": [1, None]}], [{"violations": {}, "retryDelay": []}]],
)
def test_details_of_any_shape_are_read(details: Any) -> None:
    assert read_pushback(ServerError(429, "", "", details)) == Pushback(scope="quota")


@pytest.mark.parametrize("code", [0, 408, 500, 502, 503, 504])
def test_a_server_that_fails_is_overloaded(code: int) -> None:
    assert read_pushback(ServerError(code, "x")) == Pushback(scope="overload")
    assert read_pushback(ServerError(code, "x")).refuses


def test_an_overload_can_come_as_429() -> None:
    assert read_pushback(ServerError(429, "The model is overloaded. Please try again later.")).scope == "overload"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 501])
def test_what_is_wrong_with_the_request_says_nothing_of_the_route(code: int) -> None:
    assert not read_pushback(ServerError(code, "Please retry in 5s.")).refuses


@given(
    code=st.sampled_from([0, 200, 400, 429, 500, 503, 504, 999]),
    message=st.text(max_size=60),
    details=st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["violations", "retryDelay", "quotaId", "quotaValue", "@type"]), inner)
        ),
        max_leaves=9,
    ),
)
def test_nothing_that_a_server_says_breaks_the_reading(code: int, message: str, details: Any) -> None:
    pushback = read_pushback(ServerError(code, message, "", details))
    assert 0 <= pushback.retry_after_s <= RETRY_AFTER_MAX_S
    assert 0 <= pushback.quota < 10**15


# -- opening


def used(outcomes: str, *, every_s: float = 1.0, now: float = NOW) -> Breaker:
    """Return a breaker that saw some calls, answered at once: ``.`` passed, ``x`` was refused."""
    breaker = Breaker("s")
    for number, outcome in enumerate(outcomes):
        at = now + number * every_s
        breaker.sent(at)
        if outcome == "x":
            breaker.refused(at, at)
        else:
            breaker.succeeded(at, at)
    return breaker


@pytest.mark.parametrize("outcomes", ["xx", ".xx", "...xx", ".x.xx"])
def test_where_calls_are_rare_two_refusals_in_a_row_open(outcomes: str) -> None:
    assert not used(outcomes[:-1]).is_open
    assert used(outcomes).is_open


def test_refusals_that_are_long_past_do_not_count() -> None:
    assert not used("xx", every_s=31.0).is_open


@pytest.mark.parametrize(("outcomes", "opens"), [("xxx", True), ("x.x.x", True), ("x..x..x", False), ("xx.xx", True)])
def test_a_little_above_that_three_of_five_open(outcomes: str, opens: bool) -> None:
    assert used(outcomes, every_s=0.4).is_open == opens


def test_where_there_are_many_calls_a_few_refusals_are_nothing() -> None:
    rng = random.Random(7)
    outcomes = "".join("x" if rng.random() < 0.1 else "." for _ in range(5_000))
    assert not used(outcomes, every_s=0.005).is_open


def test_calls_in_the_air_are_held_in_favour_of_the_route() -> None:
    breaker = Breaker("s")
    for number in range(20):
        breaker.sent(NOW + number * 0.01)
    for number in range(10):
        breaker.refused(NOW + 1, NOW + number * 0.01)
    assert not breaker.is_open, "half are still in the air, and may well be answered"
    breaker.refused(NOW + 1, NOW + 0.1)
    breaker.refused(NOW + 1, NOW + 0.11)
    assert breaker.is_open


def test_refusals_of_calls_that_nobody_remembers_do_not_count() -> None:
    breaker = used("." * 200, every_s=1.0)
    for _ in range(5):
        breaker.refused(NOW + 200, NOW)
    assert not breaker.is_open
    assert len(breaker._slices) <= 128


# -- probing


def opened() -> tuple[Breaker, float]:
    """Return a breaker that is open, and the time of its first probe."""
    breaker = used("xx")
    assert breaker.state(NOW + 1) is State.OPEN
    return breaker, breaker.next_send(NOW + 1)


def test_after_a_pause_one_probe_goes() -> None:
    breaker, at = opened()
    assert NOW + 1 + 1.6 <= at <= NOW + 1 + 2.0
    assert not breaker.may_send(at - 0.001)
    assert breaker.may_send(at)
    assert breaker.state(at) is State.HALF_OPEN
    breaker.sent(at)
    assert not breaker.may_send(at)
    assert breaker.next_send(at) == at + 5.0, "unless it is heard of before"
    assert repr(breaker) == "Breaker('s', open=True, failures=1)"


def test_probes_that_pass_close_it() -> None:
    breaker, at = opened()
    for number in range(CLOSES_AFTER):
        assert breaker.is_open
        assert breaker.may_send(at + number), "a probe that passed is followed by another at once"
        breaker.sent(at + number)
        breaker.succeeded(at + number, at + number)
    assert breaker.state(at + 9) is State.CLOSED
    assert breaker.next_send(at + 9) == at + 9


def test_a_probe_that_is_refused_makes_the_next_pause_longer() -> None:
    breaker, at = opened()
    pauses = []
    for _ in range(6):
        breaker.sent(at)
        breaker.refused(at, at)
        pauses.append(breaker.next_send(at) - at)
        at += pauses[-1]
    assert 6.4 <= pauses[0] <= 8.0
    assert all(0.8 * PAUSE_MAX_S <= pause <= PAUSE_MAX_S for pause in pauses[1:])


def test_a_late_failure_of_a_recovery_costs_a_short_pause() -> None:
    breaker, at = opened()
    for _ in range(4):
        breaker.sent(at)
        breaker.refused(at, at)
        at = breaker.next_send(at)
    for _ in range(CLOSES_AFTER - 1):
        breaker.sent(at)
        breaker.succeeded(at, at)
    breaker.sent(at)
    breaker.refused(at, at)
    assert breaker.next_send(at) - at <= 2.0


def test_a_server_that_asks_for_more_time_gets_it_up_to_a_limit() -> None:
    breaker, at = opened()
    breaker.sent(at)
    breaker.refused(at, at, 100.0)
    assert 100.0 <= breaker.next_send(at) - at <= 110.0
    at = breaker.next_send(at)
    breaker.sent(at)
    breaker.refused(at, at, 80_000.0)
    assert ASKED_MAX_S <= breaker.next_send(at) - at <= ASKED_MAX_S * 1.1


def test_probes_that_stay_in_the_air_count_as_passed() -> None:
    breaker, at = opened()
    for number in range(CLOSES_AFTER):
        assert breaker.may_send(at + number * 5.0)
        breaker.sent(at + number * 5.0)
    assert breaker.is_open
    assert breaker.next_send(at + CLOSES_AFTER * 5.0) == at + CLOSES_AFTER * 5.0
    assert not breaker.is_open
    breaker.succeeded(at + 300.0, at)
    assert not breaker.is_open, "its answer comes when nobody asks any more"


def test_late_outcomes_of_calls_of_before_are_no_probes() -> None:
    breaker = Breaker("s")
    for at in (NOW, NOW + 0.01, NOW + 0.02, NOW + 0.03):
        breaker.sent(at)
    breaker.refused(NOW + 0.1, NOW)
    breaker.refused(NOW + 0.1, NOW + 0.01)
    breaker.refused(NOW + 0.1, NOW + 0.02)
    assert breaker.is_open
    at = breaker.next_send(NOW + 1)
    for _ in range(CLOSES_AFTER):
        breaker.succeeded(NOW + 1, NOW + 0.03)
    assert breaker.is_open
    breaker.refused(NOW + 1, NOW + 0.03)
    assert breaker.next_send(NOW + 1) == at
    breaker.refused(NOW + 1, NOW + 0.03, 60.0)
    assert breaker.next_send(NOW + 1) == NOW + 61, "but what the server asks for counts, whoever is told"


def test_a_probe_that_was_dropped_makes_room_for_another() -> None:
    breaker, at = opened()
    breaker.sent(at)
    breaker.dropped(at)
    assert breaker.may_send(at)
    breaker.dropped(at - 100)
    used("..").dropped(NOW)
    assert breaker.is_open


def test_pauses_go_on_growing_when_it_opens_again_soon_and_begin_anew_after_calm() -> None:
    for calm_s, low, high in ((10.0, 6.4, 8.0), (61.0, 1.6, 2.0)):
        breaker, at = opened()
        for _ in range(CLOSES_AFTER):
            breaker.sent(at)
            breaker.succeeded(at, at)
        breaker.open(at + calm_s)
        assert low <= breaker.next_send(at + calm_s) - at - calm_s <= high


def test_a_clock_that_is_set_back_does_not_block_the_route() -> None:
    breaker, at = opened()
    assert breaker.next_send(NOW - 86_400) <= NOW - 86_400 + PAUSE_MAX_S
    breaker, at = opened()
    breaker.sent(at)
    early = at - 86_400
    assert breaker.next_send(early) <= early + PAUSE_MAX_S


def test_what_it_keeps_is_bounded() -> None:
    breaker, at = opened()
    for number in range(1_000):
        breaker.sent(at + number * 0.001)
    assert len(breaker._probes) <= 16


# -- storms


def storm(
    rate: float,
    seed: int,
    *,
    share: float = 0.8,
    refused_in_s: float = 0.05,
    answered_in_s: tuple[float, float] = (0.5, 2.0),
    noise: float = 0.0,
    retry_after_s: float = 0.0,
) -> tuple[float, float, float]:
    """Offer calls for 60 s, then two minutes of a storm that refuses a share of them, then 90 s of calm.

    Returns:
        Shares of the offered calls that were sent: before the storm, in it after its first 5 s, and from 60 s after
        it on.
    """
    rng = random.Random(seed)
    breaker = Breaker(f"standard/{seed}")
    ends: list[tuple[float, int, float, bool]] = []
    offered, sent = [0, 0, 0], [0, 0, 0]
    spans = ((0.0, 60.0), (65.0, 180.0), (240.0, 270.0))
    at, number = 0.0, 0
    while at < 270.0:
        at += rng.expovariate(rate)
        while ends and ends[0][0] <= at:
            ended_at, _, sent_at, refused = heapq.heappop(ends)
            if refused:
                breaker.refused(ended_at, sent_at, retry_after_s)
            else:
                breaker.succeeded(ended_at, sent_at)
        span = next((no for no, (low, high) in enumerate(spans) if low <= at < high), None)
        may = breaker.may_send(at)
        if span is not None:
            offered[span] += 1
            sent[span] += may
        if may:
            number += 1
            breaker.sent(at)
            refused = rng.random() < (share if 60.0 <= at < 180.0 else noise)
            heapq.heappush(ends, (at + (refused_in_s if refused else rng.uniform(*answered_in_s)), number, at, refused))
    before, during, after = (some / all_ for some, all_ in zip(sent, offered, strict=True))
    return before, during, after


@pytest.mark.parametrize("rate", [2.0, 20.0, 200.0])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"retry_after_s": 12.0},
        {"answered_in_s": (5.0, 30.0)},
        {"refused_in_s": 0.01, "answered_in_s": (0.02, 0.02)},
    ],
    ids=["plain", "retry-info", "slow-answers", "emulator"],
)
def test_after_5_s_of_a_storm_at_most_a_tenth_of_the_calls_go_through(rate: float, more: dict[str, Any]) -> None:
    for seed in range(8 if rate <= 20 else 1):
        before, during, after = storm(rate, seed, **more)
        assert before == 1.0
        assert during <= 0.1, f"seed {seed}"
        assert after == 1.0, f"seed {seed}"


def test_at_one_call_a_second_so_it_is_but_for_a_few_unlucky_beginnings() -> None:
    """Of five calls in 5 s not even two in a row need be refused: 1 storm in 17 has begun before it can be seen."""
    shares = sorted(storm(1.0, seed)[1] for seed in range(200))
    assert sum(shares) / len(shares) <= 0.065
    assert shares[int(0.9 * len(shares))] <= 0.1
    assert shares[-1] <= 0.2


@pytest.mark.parametrize("rate", [1.0, 20.0, 200.0])
def test_one_refusal_in_twenty_does_not_close_a_route(rate: float) -> None:
    shares = [storm(rate, seed, share=0.05, noise=0.05)[1] for seed in range(5 if rate <= 20 else 1)]
    assert sum(shares) / len(shares) >= 0.95
