"""N awaited calls of autobatcher's `BatchOpenAI`, carried by one job on OpenAI's wire."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from autobatcher import BatchOpenAI
from openai.types.chat import ChatCompletion

import harness

POLL_S = 0.02
NEVER_S = 86_400.0
MODEL = "gpt-4o-mini"


def read(answer: ChatCompletion) -> int:
    return len(answer.choices[0].message.content or "") + (answer.usage.total_tokens if answer.usage else 0)


async def run(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    client = BatchOpenAI(
        api_key="benchmark",
        base_url=f"{options.base_url}/v1",
        batch_size=options.n,
        batch_window_seconds=NEVER_S,
        poll_interval_seconds=POLL_S,
        completion_window="24h",
    )

    def call(i: int) -> Awaitable[ChatCompletion]:
        return client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompts[i % harness.PROMPTS]}],
            temperature=0.2,
            max_completion_tokens=256,
        )

    clock = harness.Stopwatch()
    received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    await client.close()
    return clock.read() | {"received_mb": received / 1e6}


if __name__ == "__main__":
    harness.measure(harness.options_of(harness.parse("Awaited calls of autobatcher.")), "autobatcher", run)
