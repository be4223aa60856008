"""A client before a service that takes only so many enqueued tokens, and changes its mind about how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import carpool
from carpool._core.model import Job
from carpool._ports import ProviderError
from carpool.types import ServerError

from .virtual import MODEL, Fault, Service, answer, client_of, run

HOUR_S = 3_600.0
LETTERS = 40_000


class Narrow(Service):
    """Takes jobs as long as their letters, a fourth of which are tokens, stay below a ceiling that changes."""

    def __init__(self, *changes: tuple[float, int]) -> None:
        super().__init__(latency_s=900.0)
        self.changes = changes
        self.refused: list[float] = []
        self.used: list[tuple[float, float]] = []
        """When a job was taken, and what share of the ceiling was used then."""

    async def create(self, job: Job, lines: AsyncIterator[bytes]) -> str:
        now = self._now()
        ceiling = [tokens for at, tokens in self.changes if at <= now][-1]
        held = sum(len(prompt) // 4 for other in self.jobs.values() if other.ends_at > now for _, prompt in other.rows)
        tokens = job.count * LETTERS // 4
        if held + tokens > ceiling:
            self.refused.append(now)
            raise ProviderError(Fault(kind="refused", error=ServerError(429, "Resource has been exhausted", "")))
        self.used.append((now, (held + tokens) / ceiling))
        return await super().create(job, lines)


def test_every_call_is_answered_once_below_a_ceiling_that_falls_and_rises() -> None:
    async def main() -> None:
        service = Narrow((0.0, 2_000_000), (1_800.0, 250_000), (3 * 1_800.0, 3_000_000))
        prompts = [f"{number:05}".ljust(LETTERS, "x") for number in range(1_200)]
        async with client_of(service, carpool.MemoryStore()) as client:
            answers = await asyncio.gather(*(client.generate(MODEL, prompt) for prompt in prompts))
        assert [one.text for one in answers] == [answer(prompt) for prompt in prompts]
        assert set(service.billed().values()) == {1}
        assert service.refused, "nothing was learned the hard way"
        pauses = [after - before for before, after in zip(service.refused, service.refused[1:], strict=False)]
        assert min(pauses) >= 0.8 * client.settings.quota_retry_min_s, "refused within the pause after a refusal"
        for at, _ in service.changes:
            shares = [share for when, share in service.used if at <= when <= at + 900.0 + 600.0]
            assert max(shares) >= 0.8, f"at {at} no more than {max(shares):.2f} of the ceiling is used"

    run(main())
