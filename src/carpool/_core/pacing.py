"""How fast we may go: jobs at once, enqueued tokens a model, and pauses after a refusal for quota.

Owns the room that is left. First form: fixed ceilings and a doubling pause; learning them is its place too.
"""

from __future__ import annotations

from carpool._core.model import Lane
from carpool._core.retry import pause_s
from carpool.settings import Settings


class Pacing:
    """Room for new jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.jobs = 0
        self._tokens: dict[str, int] = {}
        self._refusals: dict[Lane, int] = {}
        self._blocked_until: dict[Lane, float] = {}

    @property
    def free_jobs(self) -> int:
        """Jobs that may be started now."""
        return max(0, self._settings.jobs_max - self.jobs)

    @property
    def fill(self) -> float:
        """Jobs at once as a share of the ceiling, 0 to 1."""
        return min(1.0, self.jobs / self._settings.jobs_max)

    def token_room(self, lane: Lane) -> int | None:
        """Return how many more tokens the model's jobs may hold; ``None``: no ceiling.

        A model with nothing enqueued always has room for one request, however large.
        """
        ceiling = self._settings.enqueued_tokens_max
        if ceiling is None:
            return None
        return max(0, ceiling - self._tokens.get(lane.model, 0))

    def idle(self, lane: Lane) -> bool:
        """Return whether no job of this model is under way."""
        return not self._tokens.get(lane.model)

    def blocked_until(self, lane: Lane) -> float:
        """Return until when the lane must not start a job."""
        return self._blocked_until.get(lane, 0.0)

    def started(self, lane: Lane, tokens: int) -> None:
        """Count a job in."""
        self.jobs += 1
        self._tokens[lane.model] = self._tokens.get(lane.model, 0) + tokens

    def ended(self, lane: Lane, tokens: int) -> None:
        """Count a job out."""
        self.jobs -= 1
        self._tokens[lane.model] -= tokens

    def refused(self, lane: Lane, now: float) -> float:
        """Note a refusal for quota, and return when the lane may try again."""
        if now >= self._blocked_until.get(lane, 0.0):
            self._refusals[lane] = self._refusals.get(lane, 0) + 1
            s = self._settings
            pause = pause_s(s.quota_retry_min_s, s.quota_retry_max_s, self._refusals[lane], f"{lane.kind}/{lane.model}")
            self._blocked_until[lane] = now + pause
        return self._blocked_until[lane]

    def accepted(self, lane: Lane) -> None:
        """Note that the server took a job of this lane."""
        self._refusals.pop(lane, None)
        self._blocked_until.pop(lane, None)
