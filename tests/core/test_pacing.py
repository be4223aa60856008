"""Which job waits for room, and for what: jobs at once, enqueued tokens, stored files."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carpool._core.estimate import Habits
from carpool._core.model import Lane
from carpool._core.pacing import LONE_PATIENCE_S, Pacing
from carpool._core.quota import NEVER, SURE_TOKENS, usual_ceiling
from carpool.settings import Settings

from .desk import LANE, OTHER_LANE

NOW = 1_000.0


def taken(pacing: Pacing, job: str, tokens: int, lane: Lane = LANE) -> None:
    """Let a job be sealed, created and taken."""
    pacing.started(job, lane, tokens)
    pacing.creating(job)
    pacing.created(job)


def test_no_more_jobs_than_allowed() -> None:
    pacing = Pacing(Settings(jobs_max=2))
    assert (pacing.free_jobs, pacing.fill) == (2, 0.0)
    pacing.started("a", LANE, 1)
    pacing.started("b", OTHER_LANE, 1)
    assert (pacing.free_jobs, pacing.fill) == (0, 1.0)
    pacing.started("c", LANE, 1)  # recovered beyond the limit
    assert (pacing.free_jobs, pacing.fill) == (0, 1.0)
    pacing.ended("a")
    pacing.ended("b")
    pacing.ended("b")
    assert pacing.free_jobs == 1


def test_a_job_that_ended_on_the_server_makes_room_for_tokens_but_not_for_a_job_before_it_is_read() -> None:
    pacing = Pacing(Settings(jobs_max=1, enqueued_tokens_max=100))
    taken(pacing, "a", 100)
    assert pacing.offer(LANE, 1, 1).at == NEVER
    pacing.over("a")
    assert (pacing.offer(LANE, 1, 1000).tokens, pacing.free_jobs) == (100, 0)
    pacing.ended("a")
    assert pacing.free_jobs == 1


def test_tokens_are_counted_by_model_whatever_the_kind() -> None:
    pacing = Pacing(Settings(enqueued_tokens_max=100))
    taken(pacing, "a", 70)
    assert pacing.offer(Lane("embed", LANE.model), 1, 1000).tokens == 30
    assert pacing.offer(OTHER_LANE, 1, 1000).tokens == 100


def test_estimates_are_counted_in_the_light_of_what_came_back_and_offers_are_in_estimates_again() -> None:
    habits = Habits()
    habits.saw_input(LANE.model, estimated=100, counted=250)
    pacing = Pacing(Settings(enqueued_tokens_max=1_000), habits)
    pacing.started("a", LANE, 200)
    assert pacing.ceiling(LANE.model).held == 500
    assert pacing.offer(LANE, 1, 10_000).tokens == 200
    pacing.resized("a", 40, 1)
    assert pacing.ceiling(LANE.model).held == 100


def test_a_job_that_is_counted_no_more_says_nothing() -> None:
    pacing = Pacing(Settings())
    for tell in (pacing.over, pacing.creating, pacing.created, pacing.unsure, pacing.not_sent, pacing.wait):
        tell("gone")
    assert pacing.create_at("gone", NOW) == NOW
    assert list(pacing.waiting()) == ["gone"]
    pacing.go_on("gone")
    assert list(pacing.waiting()) == []


def test_while_a_job_waits_for_room_its_model_seals_no_other_and_other_models_do() -> None:
    pacing = Pacing(Settings())
    pacing.started("a", LANE, 10)
    pacing.wait("a")
    assert pacing.offer(LANE, 1, 1).at == NEVER
    assert pacing.offer(OTHER_LANE, 1, 1).at == 0.0
    pacing.ended("a")
    assert pacing.offer(LANE, 1, 1).at == 0.0


def test_a_large_request_that_is_refused_alone_for_an_hour_is_hopeless_and_a_small_one_never() -> None:
    pacing = Pacing(Settings())
    large = SURE_TOKENS + 1
    pacing.started("large", LANE, large)
    assert not pacing.is_hopeless("large", 7, NOW)
    assert not pacing.is_hopeless("large", 7, NOW + LONE_PATIENCE_S - 1)
    assert pacing.is_hopeless("large", 7, NOW + LONE_PATIENCE_S)
    assert not pacing.is_hopeless("large", 8, NOW + LONE_PATIENCE_S)
    taken(pacing, "other", 1)
    assert not pacing.is_hopeless("large", 7, NOW + LONE_PATIENCE_S)  # that one may take up the room
    pacing.started("small", OTHER_LANE, SURE_TOKENS)
    assert not pacing.is_hopeless("small", 9, NOW)
    assert not pacing.is_hopeless("small", 9, NOW + 2 * LONE_PATIENCE_S)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gemini-2.5-flash", 3_000_000),
        ("models/gemini-2.5-flash-lite", 10_000_000),
        ("gemini-3-pro-image-preview", 2_000_000),
        ("gemini-2.5-flash-preview-tts", 25_000),
        ("gemini-embedding-001", 500_000),
        ("something-else", 2_000_000),
    ],
)
def test_where_the_search_begins(model: str, tokens: int) -> None:
    assert usual_ceiling(model) == tokens


class PacingMachine(RuleBasedStateMachine):
    """Whatever is started, refused and ended, the counts are those of what is under way, and a pause is its model's."""

    def __init__(self) -> None:
        super().__init__()
        settings = Settings(jobs_max=3, enqueued_tokens_max=50, quota_retry_min_s=10, quota_retry_max_s=100)
        self.pacing = Pacing(settings)
        self.planned: dict[str, tuple[Lane, int]] = {}
        self.running: dict[str, tuple[Lane, int]] = {}
        self.number = 0
        self.now = NOW
        self.blocked: dict[str, float] = {}

    @rule(lane=st.sampled_from([LANE, OTHER_LANE]), tokens=st.integers(0, 60))
    def seal(self, lane: Lane, tokens: int) -> None:
        self.number += 1
        self.planned[str(self.number)] = lane, tokens
        self.pacing.started(str(self.number), lane, tokens)

    @precondition(lambda self: self.planned)
    @rule(data=st.data(), accepted=st.booleans())
    def create(self, data: st.DataObject, accepted: bool) -> None:
        job = data.draw(st.sampled_from(sorted(self.planned)))
        if self.pacing.create_at(job, self.now) > self.now:
            return
        model = self.planned[job][0].model
        assert self.now >= self.blocked.get(model, 0.0)
        self.pacing.creating(job)
        if accepted:
            self.pacing.created(job)
            self.running[job] = self.planned.pop(job)
        else:
            self.pacing.refused(job, self.now)
            self.blocked[model] = self.pacing.ceiling(model).blocked_until
            assert 8 <= self.blocked[model] - self.now <= 100

    @rule(seconds=st.floats(0, 150))
    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.running or self.planned)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        jobs = self.planned | self.running
        job = data.draw(st.sampled_from(sorted(jobs)))
        self.pacing.ended(job)
        self.planned.pop(job, None)
        self.running.pop(job, None)

    @invariant()
    def counts_what_runs(self) -> None:
        jobs = self.planned | self.running
        assert self.pacing.free_jobs == max(0, 3 - len(jobs))
        assert 0 <= self.pacing.fill <= 1
        for lane in (LANE, OTHER_LANE):
            ceiling = self.pacing.ceiling(lane.model)
            assert ceiling.held == sum(tokens for other, tokens in jobs.values() if other == lane)
            assert ceiling.taken == sum(tokens for other, tokens in self.running.values() if other == lane)
            assert 0 <= ceiling.tokens <= 50
            tokens, at = ceiling.offer(1, 1_000)
            assert at == NEVER or not ceiling.held or tokens + ceiling.held <= 50, "never beyond what the user allows"


TestPacing = PacingMachine.TestCase
