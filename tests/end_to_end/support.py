"""What the end-to-end tests share: quick settings, a client at an emulator, conditions to wait for, and counts.

Owns the spelling of what many tests do. It must not know what any of them promises.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.canary import API_KEY, PROMPT

from carpool import Client, MemoryStore, Settings
from carpool._gemini.encode import Encoded, Encoder
from carpool.emulator import Emulator, JobView, Logged, Plan, expected_text, request_digest

MODEL: Final = "gemini-3.5-flash"
EMBED_MODEL: Final = "gemini-embedding-001"
_LABELS: Final = b',"labels":{"canary":"' + PROMPT.encode() + b'"}}'
PATIENCE_S: Final = 30.0
"""A net under every wait: whatever takes so long hangs. No test measures anything by it."""

INLINE: Final[dict[str, Any]] = {"inline_cost_max_usd": None, "inline_output_bytes_max": 1_000_000_000}
"""Settings by which a batch goes inline up to its exact limit of bytes."""
FILE: Final[dict[str, Any]] = {"inline_cost_max_usd": Decimal(0)}
"""Settings by which every batch goes as a file."""
FORMS: Final = pytest.mark.parametrize("form", [pytest.param(INLINE, id="inline"), pytest.param(FILE, id="file")])

HOUR_S: Final = 3_600.0

_QUICK: Final[dict[str, Any]] = {
    "linger_s": 0.002,
    "linger_max_s": 0.02,
    "poll_min_s": 0.002,
    "poll_max_s": 0.02,
    "retry_min_s": 0.002,
    "retry_max_s": 0.01,
    "quota_retry_min_s": 0.002,
    "quota_retry_max_s": 0.01,
    "lookup_wait_s": 0.03,
    "output_grace_s": 3.0,
    "first_contact_s": 30.0,
    "ladder": ("batch",),
}


def quick(**changes: Any) -> Settings:
    """Return settings that wait for next to nothing."""
    values = _QUICK | changes
    values["linger_max_s"] = max(values["linger_max_s"], values["linger_s"])
    values["poll_max_s"] = max(values["poll_max_s"], values["poll_min_s"])
    return Settings(**values)


class TimedEmulator(Emulator):
    """An emulator for which time also passes when a test says so: what takes an hour is over when the test is ready."""

    def __init__(self, plan: Plan | None = None, **more: Any) -> None:
        self._ahead_s = 0.0
        super().__init__(plan, clock=lambda: time.time() + self._ahead_s, **more)

    def let_pass(self, seconds: float = HOUR_S) -> None:
        self._ahead_s += seconds


class _CanaryEncoder(Encoder):
    def generate(self, model: str, contents: Any, config: Any) -> Encoded:
        encoded = super().generate(model, contents, config)
        return msgspec.structs.replace(encoded, payload=encoded.payload[:-1] + _LABELS)


def with_canary(client: Client) -> Client:
    """Have a client hide words in each request, where they change no answer: they are to be seen nowhere else."""
    client._encoder = client._asking.encoder = _CanaryEncoder()
    return client


def make_client(
    emulator: Emulator,
    home: Path | None = None,
    *,
    api_key: str = API_KEY,
    store: MemoryStore | None = None,
    canary: bool = True,
    **settings: Any,
) -> Client:
    """Return a client that is not open yet: over a store on disk, or in memory where there is no home.

    Without a canary (see ``with_canary``) a request has no byte that the test does not know of.
    """
    if home is None and store is None:
        store = MemoryStore()
    client = Client(api_key=api_key, base_url=emulator.base_url, home=home, store=store, settings=quick(**settings))
    return with_canary(client) if canary else client


@asynccontextmanager
async def opened(emulator: Emulator, home: Path | None = None, **more: Any) -> AsyncGenerator[Client]:
    """Open a client; whatever hangs inside, or on the way out, ends as a ``TimeoutError``."""
    async with asyncio.timeout(PATIENCE_S), make_client(emulator, home, **more) as client:
        yield client


async def until(condition: Callable[[], object], what: str, *, pause_s: float = 0.002) -> None:
    """Let others run until a condition holds.

    Args:
        condition: looked at between turns of the loop.
        what: named if it never does.
        pause_s: between two looks; 0 looks at every turn.
    """
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"never came: {what}"
        await asyncio.sleep(pause_s)


async def settled(*calls: Awaitable[Any]) -> list[Any]:
    """Await calls together; what comes of each, value or exception, is at its place in the list. None may hang."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def refused(kind: type[BaseException], *calls: Awaitable[Any]) -> list[Any]:
    """Insist that each call ends with an error of exactly this type, and return the errors."""
    outcomes = await settled(*calls)
    assert [type(outcome) for outcome in outcomes] == [kind] * len(calls), outcomes
    return outcomes


# -- what came out


def prompts(count: int, about: str = "prompt") -> list[str]:
    """Return distinct prompts."""
    return [f"{about} {index}" for index in range(count)]


async def ask_all(client: Client, texts: Iterable[str], **more: Any) -> list[Any]:
    """Ask for all prompts at once, and insist on an answer to each."""
    return await asyncio.gather(*(client.generate(MODEL, text, **more) for text in texts))


def assert_own(texts: Iterable[str], answers: Iterable[Any]) -> None:
    """Insist that each answer is the one to its own prompt."""
    wrong = [
        (text, answer)
        for text, answer in zip(texts, answers, strict=True)
        if getattr(answer, "text", None) != expected_text(text)
    ]
    assert not wrong, f"{len(wrong)} answers are not those to their prompts, such as {wrong[0]}"


# -- what the server saw


def calls_of(emulator: Emulator, *ops: str) -> list[Logged]:
    """Return the calls of some operations, oldest first."""
    return [call for call in emulator.requests if call.op in ops]


def ops_of(emulator: Emulator) -> Counter[str]:
    """Return how often each operation was called."""
    return Counter(call.op for call in emulator.requests)


def asked_for(emulator: Emulator) -> list[Logged]:
    """Return the calls that were not just the look at the list with which a client begins."""
    return [call for call in emulator.requests if call.op != "list"]


def jobs_of(emulator: Emulator) -> list[JobView]:
    """Return all jobs that the server ever made, oldest first."""
    return emulator.world.jobs(emulator._clock())


def rows_of_jobs(emulator: Emulator) -> list[int]:
    """Return how many rows each job has, oldest first."""
    return [job.rows for job in jobs_of(emulator)]


def prompt_digests(text: str, model: str = MODEL) -> list[str]:
    """Return the digests under which the emulator's books may hold a plain prompt: with the canary and without."""
    plain = {"contents": [{"parts": [{"text": text}], "role": "user"}]}
    return [request_digest(model, request) for request in (plain, {**plain, "labels": {"canary": PROMPT}})]


def billed(emulator: Emulator, texts: Iterable[str]) -> list[int]:
    """Return how often each prompt was billed, however it was keyed."""
    books: Mapping[str, int] = emulator.ledger().billed_by_request
    return [sum(books.get(digest, 0) for digest in prompt_digests(text)) for text in texts]


def assert_billed_once(emulator: Emulator, texts: Iterable[str]) -> None:
    """Insist that each prompt was paid for exactly once, and nothing else was or will be."""
    texts = list(texts)
    under_way = [job.state for job in jobs_of(emulator) if job.state in ("PENDING", "RUNNING")]
    assert not under_way, f"{len(under_way)} jobs are under way, whose bill is still to come"
    wrong = [(text, times) for text, times in zip(texts, billed(emulator, texts), strict=True) if times != 1]
    assert not wrong, f"not billed once: {wrong[:3]}"
    assert emulator.ledger().rows_billed == len(texts)
