"""Summarise and embed every public docstring of Python's standard library, then search it by meaning.

Some ten thousand awaited calls of two kinds, made as if each were alone, travel in a handful of batch jobs::

    python examples/stdlib_docs.py                                # bundled emulator: no key, no network, no money
    python examples/stdlib_docs.py --query "compress a file"
    python examples/stdlib_docs.py --live                         # Google's service; needs a key, and costs money

Only ``--live`` calls Google. A key in the environment alone does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import math
import os
import pkgutil
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import AsyncGenerator, Iterator
from operator import mul
from types import ModuleType
from typing import Any, NamedTuple

import carpool
from carpool.emulator import Emulator, Plan

MODEL = "gemini-2.5-flash-lite"
EMBED_MODEL = "gemini-embedding-001"
DIMENSIONS = 256
QUERY = "convert a string to a date and time"
NEAREST = 5
CHARS_MAX = 8_000
"""Longer docstrings are cut: an embedding model reads 2,048 tokens."""

INSTRUCTION = "Summarise the documentation of this Python object in one line of at most 80 characters."

# Importing these does more than define names (opens a browser, prints a poem, starts a program), or they are tests,
# or old tools that warn when they are touched.
LEFT_OUT = frozenset(
    ["__main__", "antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "test", "this", "turtledemo"]
)


class Doc(NamedTuple):
    """One docstring: the full name of what it documents, and its text."""

    name: str
    text: str


# ------------------------------------------------------------------------------------------------ the docstrings


def public_modules() -> Iterator[ModuleType]:
    """Import every public module of the standard library that this machine has, submodules included."""
    for top in sorted(sys.stdlib_module_names):
        if top.startswith("_") or top in LEFT_OUT:
            continue
        module = imported(top)
        if module is None:
            continue
        yield module
        yield from submodules(module)


def submodules(package: ModuleType) -> Iterator[ModuleType]:
    """Import the public modules of a package, at any depth."""
    for info in pkgutil.iter_modules(getattr(package, "__path__", None) or ()):
        if info.name.startswith("_") or info.name in LEFT_OUT or info.name in {"tests", "idle_test"}:
            continue
        module = imported(f"{package.__name__}.{info.name}")
        if module is not None:
            yield module
            if info.ispkg:
                yield from submodules(module)


def imported(name: str) -> ModuleType | None:
    """Import a module; ``None`` where this platform does not have what it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many are deprecated; their docstrings are good all the same
        try:
            return importlib.import_module(name)
        except Exception:  # noqa: BLE001 - modules of other systems fail in ways of their own: ImportError, AttributeError
            return None


def public_docs() -> Iterator[Doc]:
    """Find the docstrings of modules, functions, classes, and of what a class defines itself."""
    seen: set[int] = set()  # os.path.join is posixpath.join: each object once, under the name it is first found by
    for module in public_modules():
        top = module.__name__.partition(".")[0]
        yield from documented(module.__name__, module)
        for name in public_names(module):
            value = getattr(module, name, None)
            if not (inspect.isroutine(value) or inspect.isclass(value)) or id(value) in seen:
                continue
            home = str(getattr(value, "__module__", None) or top).partition(".")[0]
            if home.lstrip("_") != top.lstrip("_") and not hasattr(module, "__all__"):
                continue  # imported for the module's own use
            seen.add(id(value))
            yield from documented(f"{module.__name__}.{name}", value)
            if inspect.isclass(value):
                for member_name, member in vars(value).items():
                    if not member_name.startswith("_"):
                        yield from documented(f"{module.__name__}.{name}.{member_name}", member)


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module says are public or, where it says nothing, those without an underscore."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return sorted(names)


def documented(name: str, value: Any) -> Iterator[Doc]:
    """Give the docstring of an object, if it has one of its own."""
    value = getattr(value, "__func__", value)  # of a classmethod or staticmethod
    text = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    is_plain_value = not (
        inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value) or inspect.isdatadescriptor(value)
    )
    if isinstance(text, str) and text.strip() and not is_plain_value:
        yield Doc(name, inspect.cleandoc(text)[:CHARS_MAX])


# --------------------------------------------------------------------------------------------------- the service


@contextlib.asynccontextmanager
async def opened(*, live: bool) -> AsyncGenerator[carpool.Client]:
    """Open a client: of Google's service if asked, else of an emulator in this process and a home that goes away."""
    if live:
        async with carpool.Client() as client:
            yield client
        return
    quick = carpool.Settings(linger_s=1.0, poll_min_s=0.25, poll_max_s=1.0)  # jobs of the emulator take seconds
    with tempfile.TemporaryDirectory(prefix="carpool-example-") as home:
        async with (
            Emulator(Plan(latency_s=3.0), data_dir=home) as emulator,
            carpool.Client(api_key="none-needed", base_url=emulator.base_url, home=home, settings=quick) as client,
        ):
            yield client


# ---------------------------------------------------------------------------------------------------- the search


def nearest(query: array[float], vectors: list[array[float]], count: int) -> list[tuple[float, int]]:
    """Return the best cosine similarities to a query, each with the index of its vector, best first.

    Shortened vectors of gemini-embedding-001 are not of length one, so lengths are divided out.
    """
    scores = [sum(map(mul, query, vector)) / (math.hypot(*vector) or 1.0) for vector in vectors]
    length = math.hypot(*query) or 1.0
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
    return [(scores[index] / length, index) for index in best]


# ------------------------------------------------------------------------------------------------------ the show


class Answers:
    """What the calls gave, by docstring."""

    def __init__(self, count: int) -> None:
        self.summaries = [""] * count
        self.vectors: list[array[float]] = [array("f")] * count
        self.jobs: dict[str, set[str]] = {"generate": set(), "embed": set()}


async def ask_all(client: carpool.Client, docs: list[Doc], query: str) -> tuple[Answers, array[float]]:
    """Await two calls a docstring and one for the query, all at the same time, each as if it were the only one."""
    answers = Answers(len(docs))

    async def summarise(index: int, doc: Doc) -> None:
        config = {"system_instruction": INSTRUCTION, "max_output_tokens": 64}
        answer = await client.generate(MODEL, f"{doc.name}: {doc.text}", config=config)
        answers.summaries[index] = " ".join(answer.text.split())
        answers.jobs["generate"].add(answer.receipt.job)

    async def embed(text: str, task_type: str) -> array[float]:
        config = {"output_dimensionality": DIMENSIONS, "task_type": task_type}
        answer = await client.embed(EMBED_MODEL, text, config=config)
        answers.jobs["embed"].add(answer.receipt.job)
        return array("f", answer.values)

    async def embed_doc(index: int, doc: Doc) -> None:
        answers.vectors[index] = await embed(f"{doc.name}: {doc.text}", "RETRIEVAL_DOCUMENT")

    # The query goes with the others: on its own it would wait for a job of its own.
    asked = asyncio.ensure_future(embed(query, "RETRIEVAL_QUERY"))
    await asyncio.gather(
        *(summarise(index, doc) for index, doc in enumerate(docs)),
        *(embed_doc(index, doc) for index, doc in enumerate(docs)),
    )
    return answers, await asked


async def show(docs: list[Doc], query: str, *, live: bool) -> None:
    """Ask, search, print."""
    calls = 2 * len(docs) + 1
    began = time.monotonic()
    async with opened(live=live) as client:
        print(f"Awaiting {calls:,} calls: a summary and a vector for each docstring, and a vector for the query.")
        answers, asked = await ask_all(client, docs, query)
        took_s = time.monotonic() - began
        receipt = client.receipt()

    print(f"\nNearest to {query!r}:\n")
    for score, index in nearest(asked, answers.vectors, NEAREST):
        print(f"  {score:.3f}  {docs[index].name}\n         {answers.summaries[index]}")
    summaries, vectors = len(answers.jobs["generate"]), len(answers.jobs["embed"])
    print(f"\n{calls:,} awaited calls in {summaries + vectors} jobs ", end="")
    print(f"({summaries} of summaries, {vectors} of vectors), {took_s:.1f} s.")
    print(f"Receipt: {receipt.requests:,} requests, list price ${receipt.list_usd:.4f}, ", end="")
    print(f"paid ${receipt.paid_usd:.4f}, saved ${receipt.saved_usd:.4f}.")
    if not live:
        print("The emulator's: no money was spent. Its summaries only show which docstring they belong to.")


def main() -> None:
    """Read the arguments, collect the docstrings, and ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    service = parser.add_mutually_exclusive_group()
    service.add_argument("--emulator", action="store_true", help="use the bundled emulator (the default)")
    service.add_argument("--live", action="store_true", help="use Google's service, which costs money")
    parser.add_argument("--limit", type=int, help="use so many docstrings only, from all over the library")
    parser.add_argument("--query", default=QUERY, help="what to look for (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit must be at least 1")
    if arguments.live and not (os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")):
        parser.error("--live needs a key: set GOOGLE_API_KEY or GEMINI_API_KEY")

    print("SERVICE: " + ("GOOGLE'S. THIS COSTS MONEY." if arguments.live else "the emulator that comes with carpool."))
    docs: list[Doc] = list(public_docs())
    if arguments.limit is not None and arguments.limit < len(docs):
        docs = [docs[number * len(docs) // arguments.limit] for number in range(arguments.limit)]
    characters = sum(len(doc.text) for doc in docs)
    print(f"{len(docs):,} public docstrings, {characters:,} characters, Python {sys.version.split()[0]}.")
    asyncio.run(show(docs, arguments.query, live=arguments.live))


if __name__ == "__main__":
    main()
