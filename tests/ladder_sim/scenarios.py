"""What the service is like, scenario by scenario: how long its routes take, when they refuse, and what is asked of it.

Owns the numbers. A scenario is a set of distributions; what a seed draws from them is for ``service``.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from math import exp, log
from statistics import NormalDist
from typing import Final, TypeAlias

import msgspec

from carpool.settings import Price

MINUTE: Final = 60.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0
HORIZON_S: Final = 3 * DAY
"""Requests arrive for so long."""

Quantile: TypeAlias = Callable[[float, float], float]
"""A share from 0 to 1 and seconds since the beginning to seconds."""

USUAL_PRICE: Final = Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))
_NORMAL: Final = NormalDist()


def around(median_s: float, spread: float, least_s: float, most_s: float) -> Quantile:
    """Return a log-normal distribution within limits."""

    def quantile(share: float, _since_s: float) -> float:
        wide = exp(log(median_s) + spread * _NORMAL.inv_cdf(min(1 - 1e-9, max(1e-9, share))))
        return min(most_s, max(least_s, wide))

    return quantile


def either(first: Quantile, second: Quantile, share_of_first: float) -> Quantile:
    """Return a mixture of two."""

    def quantile(share: float, since_s: float) -> float:
        if share < share_of_first:
            return first(share / share_of_first, since_s)
        return second((share - share_of_first) / (1 - share_of_first), since_s)

    return quantile


def drifting(first: Quantile, last: Quantile) -> Quantile:
    """Return what moves from one distribution to another, on a logarithmic scale."""

    def quantile(share: float, since_s: float) -> float:
        part = min(1.0, max(0.0, since_s / HORIZON_S))
        return exp(log(first(share, since_s)) * (1 - part) + log(last(share, since_s)) * part)

    return quantile


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """When a live route refuses: episodes, and single calls between them."""

    calm_s: float = 0.0
    """Mean time between two episodes; 0: there are none."""
    storm_s: float = 0.0
    """Mean length of an episode."""
    share: float = 1.0
    """Of the slots of an episode in which all calls are refused."""
    stray: float = 0.01
    """Of the seconds between episodes."""
    asks: float = 0.0
    """Of the refusals: with a RetryInfo."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of world is like."""

    name: str
    batch: Quantile = around(20 * MINUTE, 1.0, 2 * MINUTE, 30 * HOUR)
    stuck: float = 0.0
    """Of the jobs: neither end nor fail before they expire after 48 h."""
    failing: float = 0.0
    """Of the jobs: fail, after as long as they would have taken."""
    flex: Quantile = around(2 * MINUTE, 0.6, 20.0, 15 * MINUTE)
    flex_refuses: Refusals = Refusals()
    standard: Quantile = around(6.0, 0.5, 1.5, 45.0)
    standard_refuses: Refusals = Refusals()
    requests_per_minute: int = 0
    """Quota of the standard route; 0: none."""
    tokens_per_minute: int = 0
    flex_per_minute: int = 0
    requests: int = 150
    burst: int = 12
    """Largest number of requests that come together."""
    price: Price = USUAL_PRICE


SHED: Final = Refusals(calm_s=HOUR, storm_s=4 * HOUR, share=0.97, asks=0.3)
STORMS: Final = Refusals(calm_s=40 * MINUTE, storm_s=10 * MINUTE, asks=0.3)
PARTIAL: Final = Refusals(calm_s=40 * MINUTE, storm_s=10 * MINUTE, share=0.8, asks=0.3)
SLOW: Final = around(5 * HOUR, 0.8, 10 * MINUTE, 30 * HOUR)
TWO: Final = either(around(10 * MINUTE, 0.5, 2 * MINUTE, HOUR), around(18 * HOUR, 0.3, 8 * HOUR, 30 * HOUR), 0.7)

DRIFTING: Final = "drifting"
SCENARIOS: Final = (
    Scenario(name="calm"),
    Scenario(name="slow", batch=SLOW),
    Scenario(name="two humps", batch=TWO),
    Scenario(name=DRIFTING, batch=drifting(around(8 * MINUTE, 0.5, MINUTE, 30 * HOUR), SLOW)),
    Scenario(name="stuck", stuck=0.25),
    Scenario(name="failing", failing=0.25),
    Scenario(name="flex shed", flex_refuses=SHED),
    Scenario(name="flex shed, slow", batch=SLOW, flex_refuses=SHED),
    Scenario(name="flex slow", flex=around(9 * MINUTE, 0.8, MINUTE, 40 * MINUTE)),
    Scenario(name="storms", standard_refuses=STORMS, flex_refuses=SHED),
    Scenario(name="storms of four in five", standard_refuses=PARTIAL, flex_refuses=PARTIAL),
    Scenario(
        name="quotas", requests_per_minute=20, tokens_per_minute=40_000, flex_per_minute=10, burst=60, flex_refuses=SHED
    ),
    Scenario(name="dear", batch=SLOW, price=Price(input_usd=Decimal(30), output_usd=Decimal(250))),
    Scenario(
        name="everything",
        batch=TWO,
        stuck=0.1,
        failing=0.1,
        flex=around(5 * MINUTE, 0.8, 30.0, 40 * MINUTE),
        flex_refuses=SHED,
        standard_refuses=STORMS,
        requests_per_minute=60,
        burst=30,
    ),
)


def scenario_of(seed: int) -> Scenario:
    """Return the scenario that a seed belongs to."""
    return SCENARIOS[seed % len(SCENARIOS)]
