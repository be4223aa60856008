"""Room for jobs and tokens, and pauses after a refusal for quota."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carpool._core.model import Lane
from carpool._core.pacing import Pacing
from carpool.settings import Settings

from .desk import LANE, OTHER_LANE


def test_no_more_jobs_than_allowed() -> None:
    pacing = Pacing(Settings(jobs_max=2))
    assert (pacing.free_jobs, pacing.fill) == (2, 0.0)
    pacing.started(LANE, 1)
    pacing.started(OTHER_LANE, 1)
    assert (pacing.free_jobs, pacing.fill) == (0, 1.0)
    pacing.started(LANE, 1)  # recovered beyond the limit
    assert (pacing.free_jobs, pacing.fill) == (0, 1.0)
    pacing.ended(LANE, 1)
    pacing.ended(LANE, 1)
    assert pacing.free_jobs == 1


def test_tokens_are_counted_by_model_whatever_the_kind() -> None:
    pacing = Pacing(Settings(enqueued_tokens_max=100))
    pacing.started(LANE, 70)
    assert pacing.token_room(Lane("embed", LANE.model)) == 30
    assert pacing.token_room(OTHER_LANE) == 100
    assert not pacing.idle(LANE)
    pacing.started(LANE, 50)
    assert pacing.token_room(LANE) == 0
    pacing.ended(LANE, 120)
    assert pacing.idle(LANE)
    assert Pacing(Settings()).token_room(LANE) is None


def test_refusals_for_quota_double_the_pause_of_their_lane_and_a_job_taken_ends_it() -> None:
    pacing = Pacing(Settings(quota_retry_min_s=10, quota_retry_max_s=100))
    now, pauses = 1_000.0, []
    for _ in range(6):
        until = pacing.refused(LANE, now)
        assert pacing.blocked_until(LANE) == until
        pauses.append(until - now)
        now = until
    assert all(0.8 * low <= pause <= low for low, pause in zip([10, 20, 40, 80, 100, 100], pauses, strict=True))
    assert pacing.blocked_until(OTHER_LANE) == 0
    pacing.accepted(LANE)
    assert pacing.blocked_until(LANE) == 0
    assert pacing.refused(LANE, now) - now <= 10


def test_jobs_refused_together_count_as_one_refusal() -> None:
    pacing = Pacing(Settings(quota_retry_min_s=10, quota_retry_max_s=100))
    until = pacing.refused(LANE, 1_000.0)
    assert pacing.refused(LANE, 1_001.0) == until == pacing.refused(LANE, 1_002.0)
    assert pacing.refused(LANE, until) - until > 10 * 0.8 * 1.5


class PacingMachine(RuleBasedStateMachine):
    """Whatever is started, refused and ended, the counts are those of what is under way, and a pause is its lane's."""

    def __init__(self) -> None:
        super().__init__()
        settings = Settings(jobs_max=3, enqueued_tokens_max=50, quota_retry_min_s=10, quota_retry_max_s=100)
        self.pacing = Pacing(settings)
        self.running: list[tuple[Lane, int]] = []
        self.now = 1_000.0
        self.blocked: dict[Lane, float] = {}

    @rule(lane=st.sampled_from([LANE, OTHER_LANE]))
    def refuse(self, lane: Lane) -> None:
        until = self.pacing.refused(lane, self.now)
        if self.now < self.blocked.get(lane, 0.0):
            assert until == self.blocked[lane], "one that was on its way does not make the pause longer"
        else:
            assert 8 <= until - self.now <= 100
        self.blocked[lane] = until

    @rule(lane=st.sampled_from([LANE, OTHER_LANE]))
    def accept(self, lane: Lane) -> None:
        self.pacing.accepted(lane)
        self.blocked.pop(lane, None)

    @rule(seconds=st.floats(0, 150))
    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(lane=st.sampled_from([LANE, OTHER_LANE]), tokens=st.integers(0, 60))
    def start(self, lane: Lane, tokens: int) -> None:
        self.pacing.started(lane, tokens)
        self.running.append((lane, tokens))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        lane, tokens = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.pacing.ended(lane, tokens)

    @invariant()
    def each_lane_has_its_own_pause(self) -> None:
        for lane in (LANE, OTHER_LANE):
            assert self.pacing.blocked_until(lane) == self.blocked.get(lane, 0.0)

    @invariant()
    def counts_what_runs(self) -> None:
        assert self.pacing.free_jobs == max(0, 3 - len(self.running))
        assert 0 <= self.pacing.fill <= 1
        for lane in (LANE, OTHER_LANE):
            held = sum(tokens for other, tokens in self.running if other == lane)
            assert self.pacing.token_room(lane) == max(0, 50 - held)
            assert self.pacing.idle(lane) is (held == 0)


TestPacing = PacingMachine.TestCase
