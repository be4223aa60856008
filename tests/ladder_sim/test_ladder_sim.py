"""Seeds of the ladder under virtual time: deadlines, doubles, and what was paid.

Many more, with a table: ``python -m tests.ladder_sim --seeds 1000 --jobs 2``.
"""

from __future__ import annotations

import pytest

from carpool._core.breaker import Breaker
from carpool.settings import CHEAP

from .asked import NEVER
from .policy import clairvoyant, play, prepare, reserve_s
from .scenarios import SCENARIOS, Scenario
from .service import START, Service
from .world import Result, World, simulate

pytestmark = pytest.mark.timeout(600)  # on a busy machine; a few seconds on an idle one
SEEDS = 2 * len(SCENARIOS)
RATIO_MAX = 1.10


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """What two seeds of each scenario came to; a promise that is broken fails here."""
    return [simulate(seed) for seed in range(SEEDS)]


def test_no_deadline_is_missed_while_a_lower_rung_accepts_work(results: list[Result]) -> None:
    assert [(result.seed, result.scenario) for result in results if result.unexcused] == []
    assert all(result.in_time + result.excused + result.held_back == result.timed for result in results)


def test_where_nothing_refuses_no_deadline_is_missed(results: list[Result]) -> None:
    quiet = [result for result in results if result.scenario in {"calm", "slow", "drifting", "stuck", "flex shed"}]
    assert quiet
    assert [result.seed for result in quiet if result.in_time < result.timed] == []


def test_the_bill_is_at_most_a_tenth_above_that_of_who_knows_the_distributions(results: list[Result]) -> None:
    paid = sum(result.paid // result.price_scale for result in results)
    best = sum(result.clairvoyant // result.price_scale for result in results)
    assert paid <= RATIO_MAX * best
    owed = sum(result.owed // result.price_scale for result in results)
    assert owed <= RATIO_MAX * sum(result.clairvoyant_owed // result.price_scale for result in results)


def test_the_seeds_show_what_they_are_meant_to_show(results: list[Result]) -> None:
    """Otherwise all promises could hold because nothing happens."""
    assert sum(result.excused for result in results) > 0
    assert sum(result.held_back for result in results) > 0
    assert sum(result.paid_twice for result in results) > 0
    assert all({"batch", "flex", "standard"} <= result.routes.keys() for result in results)


def test_a_miss_is_not_excused_where_the_last_rung_accepts_all_the_time() -> None:
    """The excuse itself is tried: a client that never calls has none."""
    world = World(0, Scenario(name="calm", requests=20))
    world._call = lambda _call: None  # type: ignore[method-assign] # every live call vanishes
    world.run()
    late = [excused for asked, excused in world.misses if asked.deadline - asked.at > 60]
    assert late
    assert not any(late)


@pytest.mark.parametrize(("on_flex", "seed"), [(True, 349), (False, 109)])
def test_a_client_that_does_not_use_its_last_reserve_is_noticed(
    on_flex: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for its breaker, however little time is left."""
    tried = Breaker.next_urgent
    monkeypatch.setattr(Breaker, "next_urgent", lambda self, now: NEVER if self._obeys is on_flex else tried(self, now))
    assert World(seed).run().result().unexcused > 0


def test_a_seed_tells_the_same_story_each_time() -> None:
    assert simulate(3) == simulate(3)


def test_who_knows_the_distributions_pays_half_where_there_is_time() -> None:
    scenario = SCENARIOS[0]
    prepare(scenario)
    service = Service(scenario, "s")
    played = [
        clairvoyant(service, n, "model-one", ("batch", "flex", "standard"), START + n, START + n + 30 * 3_600.0)
        for n in range(50)
    ]
    assert {one.halves for one in played} == {1}


def test_who_knows_the_distributions_does_not_pay_for_flex_where_it_would_hardly_be_in_time() -> None:
    scenario = SCENARIOS[0]
    service = Service(scenario, "s")
    for more_s, halves in ((-1.0, {2}), (1.0, {1, 3})):
        left_s = reserve_s(scenario) + scenario.flex(0.5, 0.0) + more_s
        last_s = left_s - reserve_s(scenario)
        times = [START + 9 * n for n in range(50)]
        played = [play(service, n, "model-one", CHEAP, at, at + left_s, 0.0, at + last_s) for n, at in enumerate(times)]
        assert {one.halves for one in played} == halves
