"""N awaited calls of llmfleet's `FleetDispatcher`, carried by one job on Anthropic's wire.

The client is Anthropic's blocking one: of the asynchronous one llmfleet does not await the results.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from anthropic import Anthropic
from anthropic.types.messages import MessageBatchSucceededResult
from llmfleet import FleetDispatcher, RoutingPolicy

import harness

POLL_S = 0.02
NEVER_MS = 86_400_000
MODEL = "claude-haiku-4-5"


def read(answer: MessageBatchSucceededResult) -> int:
    return len(answer.message.content[0].text) + answer.message.usage.output_tokens


async def run(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    client = Anthropic(api_key="benchmark", base_url=options.base_url)
    policy = RoutingPolicy(batch_window_ms=NEVER_MS, batch_max_size=options.n, poll_interval_s=POLL_S)
    async with FleetDispatcher(client, policy) as fleet:

        def call(i: int) -> Awaitable[MessageBatchSucceededResult]:
            return fleet.submit(
                model=MODEL,
                max_tokens=256,
                temperature=0.2,
                messages=[{"role": "user", "content": prompts[i % harness.PROMPTS]}],
            )

        clock = harness.Stopwatch()
        received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


if __name__ == "__main__":
    harness.measure(harness.options_of(harness.parse("Awaited calls of llmfleet.")), "llmfleet", run)
