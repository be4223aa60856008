"""What every program of the matrix shares: what it asks, fifty times at once, and how it tells what it was answered.

Owns the questions and the form of the report. It imports the standard library alone, since it runs in environments that
hold nothing but the library under test. It must not know which library asks, nor who answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

CALLS = 50
MODEL = "gemini-3.5-flash"
EMBED_MODEL = "gemini-embedding-001"
REFUSED_MODEL = "gemini-2.5-flash"
"""Asked nothing but what is refused, so that its attempts can be counted."""
REFUSAL = "the matrix refuses this prompt"
REFUSED = f"Please fail: [[error:400:{REFUSAL}]]"
"""The emulator takes the error from the prompt."""
IMPATIENCE_S = 2
"""A library's limit, in the part that waits for longer than it."""
PATIENT = {"x-carpool-deadline": "24h"}
"""What a caller says who sets such a limit, and still has the time: the limit is one of silence."""
SENDERS = ("aiohttp", "httpx", "httpx2", "requests")
PATIENCE_S = 86_400
"""Given to libraries that have a limit of their own for a call: a batch may take a day."""


def questions(what: str = "a question") -> list[str]:
    """Return fifty prompts that differ."""
    return [f"{number} of {CALLS}: {what} about the number {number * number}" for number in range(1, CALLS + 1)]


class Told:
    """What a program has to say at its end."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        """``sync`` or ``async``."""
        self.stack = ""
        """What the library sends with."""
        self.versions: dict[str, str] = {}
        self._answers: list[dict[str, Any]] = []
        self._vectors: list[dict[str, Any]] = []
        self._refusals: list[dict[str, Any]] = []

    def answer(self, asked: str, got: Any, *, what: str = "answer", alone: bool = False) -> None:
        """Tell an answer.

        Args:
            asked: what the user said last.
            got: the text of the answer, or a text in it.
            what: the feature that was used.
            alone: whether the prompt was all that was asked, so that the whole answer is known.
        """
        self._answers.append({"asked": asked, "got": got, "what": what, "alone": alone})

    def vector(self, asked: str, got: Sequence[float]) -> None:
        """Tell an embedding."""
        self._vectors.append({"asked": asked, "got": list(got)})

    def refusal(self, error: BaseException, words: str = "") -> None:
        """Tell the error that a refused request ended with, and its words where ``str`` does not show them."""
        kind = type(error)
        self._refusals.append({"kind": f"{kind.__module__}.{kind.__qualname__}", "words": words or str(error)})

    def refused(self, ask: Callable[[], Any]) -> None:
        """Ask what is refused."""
        try:
            got = ask()
        except Exception as error:  # noqa: BLE001 - which one it is, the report tells
            self.refusal(error)
        else:
            raise AssertionError(f"was not refused: {got!r:.200}")

    async def refused_async(self, ask: Callable[[], Awaitable[Any]]) -> None:
        """Ask what is refused."""
        try:
            got = await ask()
        except Exception as error:  # noqa: BLE001 - which one it is, the report tells
            self.refusal(error)
        else:
            raise AssertionError(f"was not refused: {got!r:.200}")

    def show(self, libraries: Sequence[str]) -> None:
        """Print the report, one JSON object."""
        sender = self.stack.split(" ")[0]
        told = {
            "versions": self.versions | {name: version(name) for name in libraries},
            "stack": f"{self.stack} {version(sender)}" if sender in SENDERS else self.stack,
            "answers": self._answers,
            "vectors": self._vectors,
            "refusals": self._refusals,
        }
        sys.stdout.write(json.dumps(told) + "\n")


def in_threads(ask: Callable[[str], Any], prompts: Sequence[str]) -> list[Any]:
    """Ask all prompts at once, each in a thread of its own; answers in the order of the prompts."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(ask, prompts))


async def at_once(ask: Callable[[str], Awaitable[Any]], prompts: Sequence[str]) -> list[Any]:
    """Ask all prompts at once; answers in the order of the prompts."""
    return await asyncio.gather(*map(ask, prompts))


def same(got: object, wanted: object) -> None:
    """Insist on equality, and say what was there instead."""
    if got != wanted:
        raise AssertionError(f"got {got!r:.300}, wanted {wanted!r:.300}")


def words(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read what the driver wants of a program: part, way and mode."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["gather", "features", "waits", "returns", "fails", "hurries"])
    parser.add_argument("way", choices=["sidecar", "in-process"])
    parser.add_argument("mode", choices=["sync", "async"])
    return parser.parse_args(args)


def run(
    libraries: Sequence[str], made: Callable[[argparse.Namespace], Any], *parts: Callable[[Told, Any], Any]
) -> None:
    """Do what the driver wants, and print the report.

    Args:
        libraries: distributions whose versions are told.
        made: makes the library's client, given what the driver wants.
        parts: functions that are named as the parts are, those for an event loop with ``_async`` behind it. ``gather``
            asks fifty times at once, ``features`` uses what the library has besides, ``waits`` asks once, and is
            answered later than the library's limit for silence; ``returns`` as well, and lets the library ask again;
            ``fails`` asks once, and no job ever succeeds; ``hurries`` tells a story of its own, in scaled time.
    """
    wanted = words()
    told = Told(wanted.mode)
    named = {part.__name__: part for part in parts}
    if wanted.mode == "sync":
        named[wanted.part](told, made(wanted))
    else:

        async def inside() -> None:
            await named[f"{wanted.part}_async"](told, made(wanted))

        asyncio.run(inside())
    told.show(libraries)
