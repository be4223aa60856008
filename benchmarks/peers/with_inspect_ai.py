"""N awaited calls of inspect_ai, carried by one Gemini job.

`--through model` goes the public way, `get_model().generate()`. `--through batcher` calls the batcher under it, which
is no public interface, with requests that are ready: what is then measured is the batching alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable
from typing import Any

from google.genai import Client
from google.genai.types import GenerateContentResponse, HttpOptions
from inspect_ai.model import BatchConfig, GenerateConfig, ModelOutput, get_model
from inspect_ai.model._providers._google_batch import GoogleBatcher
from inspect_ai.model._retry import batch_admin_retry_config

import harness

POLL_S = 0.02
NEVER_S = 86_400.0
MODEL = "gemini-2.5-flash"
GENERATION = {"temperature": 0.2, "max_output_tokens": 256}


def batch_config(options: harness.Options) -> BatchConfig:
    return BatchConfig(size=options.n, max_size=options.n, send_delay=NEVER_S, tick=POLL_S)


async def through_model(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    model = get_model(
        f"google/{MODEL}",
        base_url=options.base_url,
        api_key="benchmark",
        config=GenerateConfig(batch=batch_config(options), max_connections=options.n, temperature=0.2, max_tokens=256),
    )

    def call(i: int) -> Awaitable[ModelOutput]:
        return model.generate(prompts[i % harness.PROMPTS])

    def read(answer: ModelOutput) -> int:
        return len(answer.completion) + (answer.usage.total_tokens if answer.usage else 0)

    clock = harness.Stopwatch()
    received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


async def through_batcher(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    client = Client(api_key="benchmark", http_options=HttpOptions(base_url=options.base_url))
    retries = batch_admin_retry_config(MODEL, GenerateConfig(), lambda _: False)
    batcher = GoogleBatcher(client, batch_config(options), retries, MODEL)

    def call(i: int) -> Awaitable[GenerateContentResponse]:
        content = {"role": "user", "parts": [{"text": prompts[i % harness.PROMPTS]}]}
        return batcher.generate_for_request({"contents": [content], "generation_config": GENERATION})

    def read(answer: GenerateContentResponse) -> int:
        usage = answer.usage_metadata
        return len(answer.text or "") + (usage.total_token_count or 0 if usage else 0)

    clock = harness.Stopwatch()
    received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
    return clock.read() | {"received_mb": received / 1e6}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--through", choices=["model", "batcher"], default="model")


def main() -> None:
    args = harness.parse("Awaited calls of inspect_ai.", add_options)
    run = through_model if args.through == "model" else through_batcher
    harness.measure(harness.options_of(args), f"inspect_ai_{args.through}", run)


if __name__ == "__main__":
    main()
