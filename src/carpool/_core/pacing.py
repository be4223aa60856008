"""How fast we may go: jobs at once, enqueued tokens a model, stored files, and pauses after a refusal for quota.

Owns which job waits for room, and for what. How ceilings are found is for ``quota``. It must not know what a job holds.

Tokens are counted as they are estimated in the light of what came back (``Habits``), as of when the job was sealed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from carpool._core.estimate import Habits
from carpool._core.model import Lane
from carpool._core.quota import Ceiling, Flight, Pauses, Storage, usual_ceiling
from carpool.settings import Settings

LONE_PATIENCE_S: Final = 3_600.0
"""For how long a request that is refused although nothing else is enqueued is sent again, before its caller is told."""


class Offer(NamedTuple):
    """Room for the next job of a lane."""

    tokens: int
    """As they are estimated at first; no more than one above what waits."""
    at: float
    """From when on; infinity: something has to happen first."""


class _Held(NamedTuple):
    """A job that is counted."""

    model: str
    flight: Flight


class Pacing:
    """Room for new jobs, for creates, and for uploads.

    Args:
        settings: the limits.
        habits: how far estimates are off, by model.
    """

    def __init__(self, settings: Settings, habits: Habits | None = None) -> None:
        self._settings = settings
        self._habits = habits or Habits()
        self._ceilings: dict[str, Ceiling] = {}
        self._held: dict[str, _Held] = {}
        self._waiting: dict[str, str] = {}
        """Jobs that wait for room, the longest first, and their models."""
        self._lone: dict[int, float] = {}
        """Requests that were refused although nothing else was enqueued, and since when."""
        self.storage = Storage(settings.file_storage_bytes_max, self._pauses("storage"))

    # -- jobs

    @property
    def jobs(self) -> int:
        """Jobs at once."""
        return len(self._held)

    @property
    def free_jobs(self) -> int:
        """Jobs that may be started now."""
        return max(0, self._settings.jobs_max - self.jobs)

    @property
    def fill(self) -> float:
        """Jobs at once as a share of the ceiling, 0 to 1."""
        return min(1.0, self.jobs / self._settings.jobs_max)

    def started(self, job: str, lane: Lane, tokens: int, rows: int = 1, *, sent: bool = False) -> None:
        """Count a job in.

        Args:
            job: its id.
            lane: its lane.
            tokens: estimate of its input.
            rows: requests in it.
            sent: whether it may be on the server already, from an earlier process.
        """
        ceiling = self.ceiling(lane.model)
        tokens = self._habits.input_tokens(lane.model, tokens)
        self._held[job] = _Held(lane.model, (ceiling.adopt if sent else ceiling.plan)(tokens, rows))

    def resized(self, job: str, tokens: int, rows: int) -> None:
        """Note that a job that is not sent holds less than before."""
        model = self._entry(job).model
        self.over(job)
        tokens = self._habits.input_tokens(model, tokens)
        self._held[job] = _Held(model, self.ceiling(model).plan(tokens, rows))

    def over(self, job: str) -> None:
        """Note that a job is not enqueued on the server any more; told twice it does nothing."""
        ceiling, flight = self._of(job)
        ceiling.over(flight)

    def ended(self, job: str) -> None:
        """Count a job out; told twice it does nothing."""
        self.over(job)
        self._held.pop(job, None)
        self._waiting.pop(job, None)
        self.storage.deleted(job)

    # -- enqueued tokens

    def ceiling(self, model: str) -> Ceiling:
        """Return what is known of a model's ceiling."""
        ceiling = self._ceilings.get(model)
        if ceiling is None:
            most = self._settings.enqueued_tokens_max
            start = usual_ceiling(model) if most is None else most
            looks = self._pauses(f"{model}/look")
            ceiling = self._ceilings[model] = Ceiling(start, most, self._pauses(model), looks)
        return ceiling

    def offer(self, lane: Lane, first: int, whole: int) -> Offer:
        """Return the room for the lane's next job. While a job of its model waits for room, that goes first.

        Args:
            lane: the lane.
            first: estimated tokens of what has to go first.
            whole: of all that waits, not less.
        """
        if lane.model in self._waiting.values():
            return _NO_OFFER
        counted = self._habits.input_tokens(lane.model, whole)
        tokens, at = self.ceiling(lane.model).offer(self._habits.input_tokens(lane.model, first), counted)
        return Offer(whole + 1 if tokens > counted else tokens * whole // max(1, counted), at)

    def create_at(self, job: str, now: float) -> float:
        """Return when a job may be created; infinity: something has to happen first."""
        ceiling, flight = self._of(job)
        return ceiling.create_at(flight, now)

    def is_too_large(self, job: str) -> bool:
        """Return whether a job that waits had better be made into smaller ones."""
        ceiling, flight = self._of(job)
        return ceiling.is_too_large(flight)

    def creating(self, job: str) -> None:
        """Note that a job's create goes out."""
        ceiling, flight = self._of(job)
        self._waiting.pop(job, None)
        ceiling.sent(flight)

    def created(self, job: str) -> None:
        """Note that a job was taken."""
        ceiling, flight = self._of(job)
        ceiling.accepted(flight)

    def unsure(self, job: str) -> None:
        """Note that nobody knows whether a job was taken."""
        ceiling, flight = self._of(job)
        self._waiting.pop(job, None)
        ceiling.unsure(flight)

    def not_sent(self, job: str) -> None:
        """Note that a job's create did not reach the server, or is to be made anew."""
        ceiling, flight = self._of(job)
        ceiling.not_sent(flight)

    def refused(self, job: str, now: float, *, named: bool = False, asked_s: float = 0.0) -> None:
        """Note that a job was refused for quota; see ``Ceiling.refused``."""
        ceiling, flight = self._of(job)
        ceiling.refused(flight, now, named=named, asked_s=asked_s)

    def is_hopeless(self, job: str, place: int, now: float) -> bool:
        """Note that the only request of a job was refused, and return whether to try on is in vain.

        It is where the request is larger than any known ceiling, and was refused for an hour although nothing else of
        its model was enqueued. Smaller ones are sent again for as long as anybody waits.
        """
        ceiling, flight = self._of(job)
        if ceiling.taken or flight.is_small:
            return False
        self._lone = {other: since for other, since in self._lone.items() if now - since < _LONE_FORGET_S}
        return now - self._lone.setdefault(place, now) >= LONE_PATIENCE_S

    # -- jobs that wait

    def wait(self, job: str) -> None:
        """Let a job wait for room, behind those that do already."""
        self._waiting.setdefault(job, self._entry(job).model)

    def waits(self, job: str) -> bool:
        """Return whether a job waits for room."""
        return job in self._waiting

    def waiting(self) -> Iterator[str]:
        """Iterate over the jobs that wait for room; they may stop waiting meanwhile."""
        return iter(list(self._waiting))

    def go_on(self, job: str) -> None:
        """Let a job wait no more."""
        self._waiting.pop(job, None)

    def _entry(self, job: str) -> _Held:
        """Return what is counted of a job: nothing if it was counted out."""
        return self._held.get(job) or _Held("", Flight(0, 1))

    def _of(self, job: str) -> tuple[Ceiling, Flight]:
        model, flight = self._entry(job)
        return self.ceiling(model), flight

    def _pauses(self, seed: str) -> Pauses:
        return Pauses(self._settings.quota_retry_min_s, self._settings.quota_retry_max_s, seed)


_NO_OFFER: Final = Offer(0, float("inf"))
_LONE_FORGET_S: Final = 24 * LONE_PATIENCE_S
