"""A mixed run: calls of every kind that has a price of its own, over every route, and the bill that they come to.

Owns the calls, and what a receipt has to say of them. ``python -m tests.end_to_end.mixed --count 5000`` makes so many
by hand, and prints account and bill. With ``--base-url`` it makes them at a server that is there, for a parent that
may kill it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from tests.end_to_end.support import make_client
from tests.end_to_end.test_features import png

from carpool import (
    CHEAP,
    FAST,
    Blob,
    Client,
    EmbedResponse,
    GenerateResponse,
    Receipt,
    RequestFailed,
    RequestRejected,
)
from carpool.emulator import Emulator, Fault, Ledger, Plan

PICO: Final = 10**12
EMBED_OLD: Final = "gemini-embedding-001"
EMBED_NEW: Final = "gemini-embedding-2"
EMBED_MEDIA: Final = "gemini-embedding-2-preview"
"""Here embeddings of pictures, so that their bill stands apart."""
UNTOLD: Final = (EMBED_OLD, EMBED_MEDIA)
"""Models of which a live answer does not say what it took, or not of which kind that was."""
STANDARD: Final = ("standard",)
FLEX: Final = ("flex", "standard")
THINKS: Final = {"thinking_config": {"thinking_budget": 50}}
SEARCHES: Final = {"tools": [{"google_search": {}}]}
READS: Final = {"tools": [{"url_context": {}}]}
LONG: Final = 200_200 * 4
FAULTS: Final = {
    "generate.429": Fault(after=20, count=2, seconds=0.01),
    "generate.503": Fault(after=30, count=4, seconds=0.01),
    "generate.shed_flex": Fault(after=5, count=4, seconds=0.01),
    "embed_many.429": Fault(count=1, seconds=0.01),
    "row.error": Fault(probability=0.02, code=13),
    "job.partially_succeeded": Fault(after=1, count=1),
    "download.cut": Fault(count=2),
}
"""Whatever makes a request be sent again, and costs nothing. Few live calls are refused: a route that refuses many is
left alone for a while, and this is not about that."""
SETTINGS: Final[dict[str, Any]] = {"attempts_max": 12}


def sound() -> bytes:
    """Return half a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(8_000)
        wav.writeframes(b"\0" * 8_000)
    return file.getvalue()


class Calls:
    """Makes the calls of a mixed run.

    Args:
        client: makes them.
        caches: names of cached contents of gemini-3.5-flash and gemini-2.5-flash.
        mark: a word that is in every prompt.
        keyed: whether each call has a key of its own; else only some have one.
    """

    def __init__(self, client: Client, caches: tuple[str, str], mark: str = "", *, keyed: bool = False) -> None:
        self._client = client
        self._live, self._batch = caches
        self._mark = mark
        self._keyed = keyed
        picture, tone = Blob(png(), "image/png"), Blob(sound(), "audio/wav")
        ask, embed = self._ask, self._embed
        self._kinds: tuple[Callable[[str, str], Awaitable[Any]], ...] = (
            lambda text, _: ask("gemini-2.5-flash-lite", text, {"max_output_tokens": 20}),
            lambda text, _: ask("gemini-3.5-flash", text, THINKS, ladder=STANDARD),
            lambda text, _: ask("gemini-2.5-flash", text, SEARCHES),
            lambda text, key: ask("gemini-3.5-flash", text, SEARCHES, key=key, ladder=FLEX),
            lambda text, _: embed(EMBED_OLD, text),
            lambda text, key: ask("gemini-4-argon", text * 50, key=key),
            lambda text, _: ask("gemini-2.5-pro", text + " [[blocked:SAFETY]]", ladder=STANDARD),
            lambda text, _: ask("gemini-flash-latest", text, ladder=FAST),
            lambda text, _: ask("gemini-2.5-flash", [text, picture], ladder=FAST),
            lambda text, _: ask(
                "gemini-3.1-flash-image", text, {"response_modalities": ["TEXT", "IMAGE"]}, ladder=FLEX
            ),
            lambda text, _: embed(EMBED_NEW, text, ladder=FAST),
            lambda text, key: embed(EMBED_NEW, text, key=key),
            lambda text, _: ask("gemini-3.5-flash", text, {"cached_content": self._live}, ladder=STANDARD),
            lambda text, _: ask("gemini-2.5-flash", text, {"cached_content": self._batch}),
            lambda text, _: ask("gemini-2.5-flash-lite", [text, tone], ladder=("flex", "batch")),
            lambda text, _: ask("gemini-3.1-pro-preview", text, {"candidate_count": 2}, ladder=FLEX),
            lambda text, _: ask("gemini-3.5-flash", text + " [[error:3:no]]"),
            lambda text, key: ask("gemini-3.5-flash", text + " [[error:400:no]]", key=key, ladder=FAST),
            lambda text, _: ask("gemini-3.7-flash", text, ladder=CHEAP, deadline=900.0),
            lambda text, _: embed(EMBED_OLD, text, ladder=FAST),
            lambda text, _: embed(EMBED_MEDIA, {"parts": [{"text": text}, picture]}, ladder=STANDARD),
            lambda text, key: ask("gemini-2.5-flash", text + " https://example.org/", READS, key=key, ladder=FAST),
            lambda text, _: ask("gemini-2.5-flash", [text, tone, picture]),
        )

    def _ask(self, model: str, contents: Any, config: Any = None, **more: Any) -> Awaitable[GenerateResponse]:
        return self._client.generate(model, contents, config=config, **self._with_key(contents, more))

    def _embed(self, model: str, content: Any, **more: Any) -> Awaitable[EmbedResponse]:
        config = {"output_dimensionality": 8}
        return self._client.embed(model, content, config=config, **self._with_key(content, more))

    def _with_key(self, contents: Any, more: dict[str, Any]) -> dict[str, Any]:
        if not self._keyed:
            return more
        contents = contents["parts"][0]["text"] if isinstance(contents, dict) else contents
        return {"key": (contents if isinstance(contents, str) else contents[0])[:60], **more}

    def unseen(self, count: int) -> Iterable[Awaitable[Any]]:
        """Return live calls with keys, which a parent kills before their replies come."""
        for number in range(count):
            text = f"{self._mark} unseen {number}"
            yield self._ask("gemini-3.5-flash-lite", text, ladder=STANDARD, key=text)

    def some(self, count: int) -> Iterable[Awaitable[Any]]:
        """Return so many calls, each of them another request; two of them with a long prompt."""
        for number in range(count):
            text = f"{self._mark} number {number}"
            if number in (7, 33):
                yield self._ask("gemini-2.5-pro", text + "-" * LONG, ladder=STANDARD if number == 7 else None)
            else:
                yield self._kinds[number % len(self._kinds)](text, f"key {text}")


async def caches_of(client: Client) -> tuple[str, str]:
    """Create cached contents."""
    made = [
        await client.caches.create(model, "what many share " * 400)
        for model in ("gemini-3.5-flash", "gemini-2.5-flash")
    ]
    return made[0].name, made[1].name


async def run(
    client: Client, count: int, *, caches: tuple[str, str] | None = None, keyed: bool = False, unseen: int = 0
) -> list[Any]:
    """Make so many calls at once, and return what came of each: answers, and errors that cost nothing."""
    calls = Calls(client, caches or await caches_of(client), keyed=keyed)
    found = await asyncio.gather(*calls.some(count), *calls.unseen(unseen), return_exceptions=True)
    await client.drain()
    strange = [one for one in found if isinstance(one, BaseException) and not isinstance(one, _MAY_END)]
    assert not strange, strange[0]
    return found


_MAY_END: Final = (RequestRejected, RequestFailed)


def whole(client: Client) -> Receipt:
    """Return the account of all days and processes of a client's slot."""
    return client._runtime.engine.book.ledger.receipt_of(0, 10**6)


def untold(ledger: Ledger) -> tuple[int, int]:
    """Return how many live answers did not say what they took, and what they were billed."""
    bills = [bill for bill in ledger.live if bill.model in UNTOLD]
    return sum(bill.calls for bill in bills), sum(bill.picousd for bill in bills)


def equal(receipt: Receipt, ledger: Ledger, *, unseen: int = 0, unseen_picousd: int = 0) -> None:
    """Insist that an account is the service's bill to the last digit, in all and by route.

    What is not in its sums is counted there: answers that did not tell what they took are ``unknown_cost``. Calls of
    which nobody saw the reply are in neither; what was reserved for them is in ``lost_usd``.

    Args:
        receipt: the account.
        ledger: the service's books.
        unseen: how many live calls were billed of which nobody saw the reply.
        unseen_picousd: what they were billed.
    """
    count, bill = untold(ledger)
    assert receipt.paid_usd * PICO == ledger.picousd - bill - unseen_picousd
    assert receipt.requests == ledger.rows_billed + ledger.live_calls - unseen
    assert receipt.unknown_cost == ledger.unpriced + count
    if unseen:
        return
    jobs = {"batch": (ledger.rows_billed, sum(job.picousd for job in ledger.jobs))}
    for tier in ("flex", "standard"):
        bills = [one for one in ledger.live if one.tier == tier]
        told = sum(one.picousd for one in bills if one.model not in UNTOLD)
        jobs[tier] = (sum(one.calls for one in bills), told)
    found = {route: (totals.requests, totals.paid_usd * PICO) for route, totals in receipt.by_route.items()}
    assert found == {route: totals for route, totals in jobs.items() if totals[0]}


def plan(faults: Mapping[str, Fault] = FAULTS, **more: Any) -> Plan:
    """Return a plan with faults that cost nothing, and caches as small as these."""
    return Plan(**{"latency_s": 0.05, "faults": dict(faults), "cache_tokens_min": 100} | more)


async def by_hand(count: int) -> None:
    """Make a mixed run, and print how it went."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with Emulator(plan()) as emulator, make_client(emulator, Path(folder), **SETTINGS) as client:
            found = await run(client, count)
            receipt, ledger = client.receipt(), emulator.ledger()
            equal(receipt, ledger)
            equal(whole(client), ledger)
    failed = sum(isinstance(one, BaseException) for one in found)
    routes = {route: (totals.requests, str(totals.paid_usd)) for route, totals in receipt.by_route.items()}
    bill, apart = Decimal(ledger.picousd) / PICO, Decimal(untold(ledger)[1]) / PICO
    sys.stdout.write(
        f"{count} requests, {failed} refused, in {time.monotonic() - began:.0f} s\n"
        f"account {receipt.paid_usd} in {routes}, of unknown cost {receipt.unknown_cost}\n"
        f"bill    {bill}, of it {apart} for answers that do not tell\n"
    )


async def as_child(base_url: str, home: Path, caches: tuple[str, str], count: int, unseen: int) -> None:
    """Make a mixed run, say so, and make some more live calls; be killed sooner or later."""
    async with make_client(SimpleNamespace(base_url=base_url), home, **SETTINGS) as client:
        await run(client, count, caches=caches, keyed=True)
        sys.stdout.write("done\n")
        sys.stdout.flush()
        await asyncio.gather(*Calls(client, caches).unseen(unseen))
        await asyncio.Event().wait()


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.mixed", description=__doc__)
    parser.add_argument("--count", type=int, default=5_000, help="how many requests")
    parser.add_argument("--base-url", default="", help="of a server that is there")
    parser.add_argument("--home", type=Path, help="where state is kept")
    parser.add_argument("--caches", nargs=2, help="cached contents")
    parser.add_argument("--unseen", type=int, default=0, help="live calls afterwards")
    args = parser.parse_args()
    if args.base_url:
        asyncio.run(as_child(args.base_url, args.home, tuple(args.caches), args.count, args.unseen))
    else:
        asyncio.run(by_hand(args.count))


if __name__ == "__main__":
    main()
