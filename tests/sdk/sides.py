"""What every driven call needs: a client of either kind behind one spelling, and the book of the calls.

Owns the register of the calls and how one is run. It imports google.genai and the standard library alone, since it runs
in environments that hold nothing else. It must not know what is at the other end of the wire.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google import genai
from google.genai import errors, types

MODEL = "gemini-3.5-flash"
IMAGE_MODEL = "gemini-3-pro-image"
SPEECH_MODEL = "gemini-2.5-flash-preview-tts"
EMBED_MODEL = "gemini-embedding-001"
EMBED_MODEL_2 = "gemini-embedding-2"
GIVE_UP_S = 30.0
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
}


class Side:
    """A client, blocking or not, of one version of the API.

    Args:
        mode: ``sync`` or ``async``.
        version: ``v1`` or ``v1beta``.
        url: where the service is.
        slow_url: where a service is whose jobs do not end by themselves.
        shaky_url: where a service is that answers every other chunk of an upload with an empty 503.
    """

    def __init__(self, mode: str, version: str, url: str, slow_url: str, shaky_url: str) -> None:
        self.mode = mode
        self.version = version
        self.url = url
        self._clients = [
            genai.Client(api_key="any-key", http_options=types.HttpOptions(base_url=where, api_version=version))
            for where in (url, slow_url, shaky_url)
        ]
        fast, slow, shaky = [client.aio if mode == "async" else client for client in self._clients]
        self.client: Any = fast
        self.slow: Any = slow
        self.shaky: Any = shaky

    async def do(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """Call a method of the client, and wait for it where it is to be waited for."""
        result = method(**arguments)
        return await result if inspect.isawaitable(result) else result

    async def every(self, items: Any) -> list[Any]:
        """Return all items of a pager or a stream."""
        if hasattr(items, "__aiter__"):
            return [item async for item in items]
        return list(items)

    async def ended(self, job: Any) -> Any:
        """Poll a job until it is over."""
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            job = await self.do(self.client.batches.get, name=job.name)
            if job.done:
                return job
            await asyncio.sleep(0.01)
        raise AssertionError(f"{job.name} never ended: {job.state}")

    async def close(self) -> None:
        for client in self._clients:
            await client.aio.aclose()
            client.close()


Run = Callable[[Side], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One way of calling one method.

    Attributes:
        method: such as ``models.generate_content``.
        what: what is particular about this way.
        run: makes the call and checks the answer.
        why_not: why the call cannot succeed; ``run`` then checks how it is refused.
    """

    method: str
    what: str
    run: Run
    why_not: str


CASES: list[Case] = []


def drives(method: str, what: str, *, why_not: str = "") -> Callable[[Run], Run]:
    """Enter a case into the book."""

    def entered(run: Run) -> Run:
        CASES.append(Case(method, what, run, why_not))
        return run

    return entered


def same(got: object, wanted: object) -> None:
    """Insist on equality, and say what was there instead."""
    if got != wanted:
        raise AssertionError(f"got {got!r:.300}, wanted {wanted!r:.300}")


def holds(truth: object, otherwise: object) -> None:
    """Insist on a truth, and say what was there instead."""
    if not truth:
        raise AssertionError(f"got {otherwise!r:.300}")


@contextmanager
def refused(code: int, words: str = "") -> Iterator[None]:
    """Insist on an answer in Google's error envelope."""
    try:
        yield
    except errors.APIError as error:
        same((error.code, error.status), (code, STATUS[code]))
        holds(words in (error.message or ""), error.message)
    else:
        raise AssertionError(f"was not refused with {code}")


@contextmanager
def refused_by_the_client(words: str) -> Iterator[None]:
    """Insist on an error before anything is sent."""
    try:
        yield
    except ValueError as error:
        holds(words in " ".join(str(error).split()), str(error))
    else:
        raise AssertionError("was not refused by the client")


def counted(answer: Any) -> None:
    """Insist on usage that adds up."""
    usage = answer.usage_metadata
    parts = (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count)
    same(usage.total_token_count, sum(part or 0 for part in parts))
    holds(usage.prompt_token_count, usage)


def spoke(answer: Any, model: str = MODEL) -> str:
    """Insist on an answer in words, and return them."""
    holds(answer.text, answer)
    same(answer.candidates[0].finish_reason, types.FinishReason.STOP)
    same(answer.candidates[0].content.role, "model")
    same(answer.model_version, model)
    holds(answer.response_id, answer)
    counted(answer)
    text: str = answer.text
    return text
