"""N awaited runs of a pydantic-ai agent with its capability `BatchModelRequests`, carried by one Gemini job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable
from typing import Any

from pydantic_ai import Agent, AgentRunResult
from pydantic_ai.capabilities import BatchModelRequests
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.providers.google import GoogleProvider

import harness

POLL = dt.timedelta(seconds=0.02)
MODEL = "gemini-2.5-flash"


def read(answer: AgentRunResult[str]) -> int:
    return len(answer.output) + answer.usage.total_tokens


async def run(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    provider = GoogleProvider(api_key="benchmark", base_url=options.base_url)
    batching = BatchModelRequests(max_requests=options.n, max_wait=None, poll_interval=POLL, max_poll_interval=POLL)
    agent = Agent(
        GoogleModel(MODEL, provider=provider),
        model_settings={"temperature": 0.2, "max_tokens": 256},
        capabilities=[batching],
    )

    def call(i: int) -> Awaitable[AgentRunResult[str]]:
        return agent.run(prompts[i % harness.PROMPTS])

    async with batching:
        clock = harness.Stopwatch()
        received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


if __name__ == "__main__":
    harness.measure(harness.options_of(harness.parse("Awaited runs of a pydantic-ai agent.")), "pydantic_ai", run)
