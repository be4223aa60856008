"""The service of one seed: when each route takes a call, and how long what it took will take.

Owns the draws. They depend on the seed, the route, the model and the time alone, not on who asks, so that two policies
can be compared on the same draws. Quotas apart, which depend on what was asked before.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from random import Random
from typing import Final, Literal
from zlib import crc32

import msgspec

from carpool.settings import Route

from .scenarios import DAY, HORIZON_S, Refusals, Scenario

START: Final = 1_790_000_000.0
JOB_LIFE_S: Final = 48 * 3_600.0
JOB_SLOT_S: Final = 60.0
"""Jobs of one model that are created within the same so many seconds fare alike."""
REFUSAL_SLOT_S: Final = 15.0
"""In an episode of refusals, calls of one route and model within the same so many seconds fare alike."""
MODELS: Final = ("model-one", "model-two")
TOKENS_IN: Final = 1_000
TOKENS_OUT: Final = 500


class Fate(msgspec.Struct, frozen=True):
    """What becomes of a job."""

    kind: Literal["SUCCEEDED", "FAILED", "EXPIRED"]
    ends_at: float


class Service:
    """Google's side of one seed."""

    def __init__(self, scenario: Scenario, seed: str) -> None:
        self.scenario = scenario
        self.seed = seed
        self._storms: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        self._taken: dict[tuple[Route, str], list[float]] = {}
        self._job_of = cache(self._job)
        self._refuses_in = cache(self._drawn_refusal)

    def _draw(self, *what: object) -> float:
        mixed = crc32(f"{self.seed}/{what}".encode())
        for _ in range(2):
            mixed = (mixed ^ mixed >> 16) * 0x45D9F3B & 0xFFFFFFFF
        return (mixed ^ mixed >> 16) / 2**32

    # -- batch

    def _job(self, model: str, slot: int) -> Fate:
        at = slot * JOB_SLOT_S
        lot = self._draw("lot", model, slot)
        takes_s = self.scenario.batch(self._draw("batch", model, slot), at - START)
        if lot < self.scenario.stuck:
            return Fate("EXPIRED", JOB_LIFE_S)
        return Fate("FAILED" if lot < self.scenario.stuck + self.scenario.failing else "SUCCEEDED", takes_s)

    def fate(self, model: str, at: float) -> Fate:
        """Return what becomes of a job that is created now; its end as a time."""
        fate = self._job_of(model, int(at // JOB_SLOT_S))
        return Fate(fate.kind, at + fate.ends_at)

    # -- live

    def takes_s(self, route: Route, request: int, at: float, *, shares: bool = False) -> float:
        """Return how long a live call for a request takes once it is accepted.

        Calls that several requests ``share`` take as long as any other of the same half minute.
        """
        quantile = self.scenario.flex if route == "flex" else self.scenario.standard
        return quantile(self._draw(route, int(at // 30) if shares else request), at - START)

    def refuses(self, route: Route, model: str, at: float) -> bool:
        """Return whether all calls are refused in this slot, quotas apart."""
        refusals = self._refusals(route)
        storm = self.is_storm(route, model, at)
        share, slot_s = (refusals.share, REFUSAL_SLOT_S) if storm else (refusals.stray, 1.0)
        return share > 0 and (share >= 1 or self._refuses_in(route, model, int(at // slot_s), share))

    def _drawn_refusal(self, route: Route, model: str, slot: int, share: float) -> bool:
        return self._draw("refuses", route, model, slot) < share

    def is_storm(self, route: Route, model: str, at: float) -> bool:
        """Return whether it is within an episode of refusals."""
        refusals = self._refusals(route)
        if not refusals.calm_s:
            return False
        starts, ends = self._episodes(route, model, refusals)
        number = bisect_right(starts, at) - 1
        return number >= 0 and at < ends[number]

    def asks_s(self, route: Route, model: str, at: float) -> float:
        """Return for how long a refusal asks to be left alone; 0: it does not say."""
        lot = self._draw("asks", route, model, int(at))
        return 1.0 + 40 * lot / self._refusals(route).asks if lot < self._refusals(route).asks else 0.0

    def _refusals(self, route: Route) -> Refusals:
        return self.scenario.flex_refuses if route == "flex" else self.scenario.standard_refuses

    def _episodes(self, route: Route, model: str, refusals: Refusals) -> tuple[list[float], list[float]]:
        known = self._storms.get((route, model))
        if known is None:
            rng = Random(f"{self.seed}/storms/{route}/{model}")
            starts: list[float] = []
            ends: list[float] = []
            at = START + rng.expovariate(1 / refusals.calm_s)
            while at < START + HORIZON_S + 4 * DAY:
                starts.append(at)
                at += rng.expovariate(1 / refusals.storm_s)
                ends.append(at)
                at += rng.expovariate(1 / refusals.calm_s)
            known = self._storms[route, model] = starts, ends
        return known

    # -- quotas

    def quota(self, route: Route) -> int:
        """Return how many requests a minute a route takes of one model; 0: any number."""
        s = self.scenario
        if route == "flex":
            return s.flex_per_minute
        by_tokens = s.tokens_per_minute // TOKENS_IN
        return min(s.requests_per_minute, by_tokens) if by_tokens and s.requests_per_minute else s.requests_per_minute

    def is_used_up(self, route: Route, model: str, at: float) -> bool:
        """Return whether a quota is used up by the calls of the last minute."""
        quota = self.quota(route)
        return bool(quota) and self._lately(route, model, at) >= quota

    def had_room(self, route: Route, model: str, at: float) -> bool:
        """Return whether one call more could have been taken then without keeping out one that was taken since."""
        quota, taken = self.quota(route), self._taken.get((route, model), [])
        if not quota:
            return True
        since = taken[bisect_right(taken, at) : bisect_right(taken, at + 60.0)]
        return all(self._lately(route, model, one) < quota for one in (at, *since))

    def _lately(self, route: Route, model: str, at: float) -> int:
        taken = self._taken.get((route, model), [])
        return bisect_right(taken, at) - bisect_right(taken, at - 60.0)

    def took(self, route: Route, model: str, at: float) -> None:
        """Note that a call was accepted."""
        self._taken.setdefault((route, model), []).append(at)
