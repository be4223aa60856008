"""N awaited httpx posts inside batchling's `batchify`, carried by one Gemini job.

batchling recognises a provider by its host name and always speaks https to it. That is not configurable, so what is
exchanged here is the factory of the httpx client with which it talks to the provider, and its transport does nothing
but send every request to the stub instead. The posts themselves are intercepted before they reach a transport.

It also asks whether an enumeration contains a string, which Python 3.11, though supported, answers with a TypeError:
there, the provider gets the same states as a set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Awaitable
from typing import Any

import httpx
from batchling import batchify
from batchling.providers import PROVIDERS

import harness

POLL_S = 0.02
NEVER_S = 86_400.0
URL = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
GENERATION = {"temperature": 0.2, "maxOutputTokens": 256}


class ToStub(httpx.AsyncHTTPTransport):
    """Send every request to the stub, whatever host it was meant for."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._stub = httpx.URL(base_url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host=self._stub.host, port=self._stub.port)
        return await super().handle_async_request(request)


def mend_states() -> None:
    for provider in PROVIDERS:
        provider.batch_terminal_states = frozenset(map(str, provider.batch_terminal_states))


def read(answer: httpx.Response) -> int:
    response = answer.json()
    text = response["candidates"][0]["content"]["parts"][0]["text"]
    return len(text) + response["usageMetadata"]["totalTokenCount"]


async def run(options: harness.Options) -> dict[str, Any]:
    prompts = harness.make_prompts(options.size)
    with tempfile.TemporaryDirectory(prefix="carpool-bench-") as folder:
        os.environ["BATCHLING_CACHE_PATH"] = f"{folder}/cache.sqlite3"
        batching = batchify(
            batch_size=options.n,
            batch_window_seconds=NEVER_S,
            batch_poll_interval_seconds=POLL_S,
            live_display=False,
        )
        batching._self_batcher._client_factory = lambda: httpx.AsyncClient(  # noqa: SLF001 - see above
            timeout=30.0, transport=ToStub(options.base_url)
        )
        async with batching, httpx.AsyncClient(headers={"x-goog-api-key": "benchmark"}) as http:

            def call(i: int) -> Awaitable[httpx.Response]:
                content = {"role": "user", "parts": [{"text": prompts[i % harness.PROMPTS]}]}
                return http.post(URL, json={"contents": [content], "generationConfig": GENERATION})

            clock = harness.Stopwatch()
            received = await harness.await_all(options.n, call, read, clock, lambda: clock.lap("called"))
        return clock.read() | {"received_mb": received / 1e6}


if __name__ == "__main__":
    if sys.version_info < (3, 12):
        mend_states()
    harness.measure(harness.options_of(harness.parse("Awaited posts inside batchling.")), "batchling", run)
