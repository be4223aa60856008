"""A process that uses carpool against a server which cannot be trusted, and says what became of it.

Owns the client, the calls by which each attacked call comes about, and the measuring of memory. Orders come as lines of
JSON on standard input, reports go out the same way. ``python -m tests.hostile.child`` runs it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from carpool import CarpoolError, Client, Settings
from carpool._gemini.developer import DeveloperProvider
from carpool._gemini.http import Floor
from carpool.responses import Response
from carpool.settings import Ladder

from .server import answer_text

API_KEY: Final = "AIza-hostile-canary-0123456789"
MODEL: Final = "gemini-3.5-flash"
LADDERS: Final[dict[str, Ladder]] = {"generate": ("batch",), "live": ("standard",)}
"""Scenarios that ask for answers, and the routes that they take."""
LARGE_BYTES: Final = 1_000_000
PATIENCE_S: Final = 90.0
"""A net under every step: whatever takes so long hangs."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One attack to live through.

    ``scenario`` names what is called, ``rows`` how many requests share the job, ``deadline_s`` how long they wait.
    """

    base_url: str
    scenario: str
    text: str
    rows: int = 1
    deadline_s: float = 20.0
    settings: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    ``outcomes`` has an entry for each call: ``answer``, the name of a typed error, or something that must not be.
    """

    stage: str
    outcomes: list[str] = []
    said: str = ""
    seconds: float = 0.0
    peak_kb: int = 0
    bugs: list[str] = []


def settings_of(order: Order) -> Settings:
    """Return settings with small caps and short waits."""
    values: dict[str, Any] = {
        "linger_s": 0.02,
        "linger_max_s": 0.05,
        "inline_bytes_max": 0,
        "poll_min_s": 0.02,
        "poll_max_s": 0.1,
        "retry_min_s": 0.02,
        "retry_max_s": 0.2,
        "quota_retry_min_s": 0.05,
        "quota_retry_max_s": 0.2,
        "lookup_wait_s": 0.05,
        "output_grace_s": 0.5,
        "first_contact_s": 10.0,
        "unreachable_s": 10.0,
        "sweep_s": 3_600.0,
        "call_timeout_s": 3.0,
        "close_timeout_s": 5.0,
        "upload_chunk_bytes": 262_144,
    }
    return Settings(**(values | order.settings))


class Life:
    """One attack, from the first call to the reopened store."""

    def __init__(self, order: Order, home: Path) -> None:
        self._order = order
        self._home = home
        self._settings = settings_of(order)

    def client(self) -> Client:
        """Return a client on this life's home."""
        floor = Floor(window_s=0.5, bytes_per_s=4_096, total_s=10.0)
        provider = DeveloperProvider(
            api_key=API_KEY, base_url=self._order.base_url, settings=self._settings, floor=floor
        )
        return Client(provider=provider, home=self._home, settings=self._settings)

    async def attacked(self, client: Client) -> tuple[list[str], str]:
        """Make the calls that are attacked, and return what came of them."""
        name = self._order.scenario
        if name in LADDERS:
            found = await asyncio.gather(*(self._generate(client, key, LADDERS[name]) for key in self.keys()))
        else:
            found = [await _outcome(lambda: CALLS[name](client), "done")]
        return [outcome for outcome, _ in found], next((said for _, said in found if said), "")

    def keys(self) -> list[str]:
        """Return the keys of the calls, which are their texts too."""
        return [f"{self._order.text} {number}" for number in range(self._order.rows)]

    async def _generate(self, client: Client, text: str, ladder: Ladder = ("batch",)) -> tuple[str, str]:
        async def call() -> str:
            asked = client.generate(MODEL, text, key=text, deadline=self._order.deadline_s, ladder=ladder)
            return _text(await asked)

        return await _outcome(call, answer_text(text))

    async def again(self, client: Client) -> str:
        """Make one more call, which nobody attacks."""
        return (await self._generate(client, f"{self._order.text} again"))[0]

    async def kept(self) -> list[str]:
        """Return what a later client knows of every key."""
        keys = [*self.keys(), f"{self._order.text} again"]
        async with self.client() as client:
            return [(await _outcome(partial(_looked_up, client, key), answer_text(key)))[0] for key in keys]


async def _looked_up(client: Client, key: str) -> str:
    return _text(await client.result(key))


def _text(answer: Response) -> str:
    """Return the text of an answer; none where it is large, or nested to the edge of what can be decoded.

    What a caller makes of a large answer is the caller's: decoded, wide characters take up four times their size.
    """
    try:
        return str(getattr(answer, "text", "")) if len(answer.raw) <= LARGE_BYTES else ""
    except RecursionError:
        return ""


async def _outcome(call: Callable[[], Awaitable[str]], expected: str) -> tuple[str, str]:
    """Return how a call ended, and the words of its error."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await call()
    except CarpoolError as error:
        return type(error).__name__, str(error)
    except TimeoutError:
        return "HANGS", ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what must not be
        return f"UNTYPED {type(error).__name__}", traceback.format_exc()
    return ("answer", "") if found == expected else ("another answer", "")


async def _listed(items: Any) -> str:
    async for _ in items:
        pass
    return "done"


async def _done(call: Awaitable[object]) -> str:
    await call
    return "done"


CALLS: Final[dict[str, Callable[[Client], Awaitable[str]]]] = {
    "jobs.list": lambda client: _listed(client.jobs.list()),
    "jobs.get": lambda client: _done(client.jobs.get("batches/j0")),
    "jobs.cancel": lambda client: _done(client.jobs.cancel("batches/j0")),
    "jobs.delete": lambda client: _done(client.jobs.delete("batches/j0")),
    "jobs.results": lambda client: _listed(client.jobs.results("batches/j0")),
    "files.upload": lambda client: _done(client.files.upload(b"x" * 300_000, mime_type="text/plain")),
    "files.get": lambda client: _done(client.files.get("files/f")),
    "files.list": lambda client: _listed(client.files.list()),
    "files.delete": lambda client: _done(client.files.delete("files/f")),
    "caches.create": lambda client: _done(client.caches.create(MODEL, "text")),
    "caches.get": lambda client: _done(client.caches.get("cachedContents/c1")),
    "caches.list": lambda client: _listed(client.caches.list()),
    "caches.extend": lambda client: _done(client.caches.extend("cachedContents/c1", ttl_s=60)),
    "caches.delete": lambda client: _done(client.caches.delete("cachedContents/c1")),
}


class Bugs(logging.Handler):
    """Keeps what the log calls a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, with its traceback."""
        if record.levelno >= logging.ERROR or record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            self.found.append(f"{record.getMessage()} {trace}")


def settle_memory() -> int:
    """Give back what is free, forget the peak so far, and return what is in use, in KiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kb()


def peak_kb() -> int:
    """Return the highest memory use since it was last settled, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def say(report: Report) -> None:
    """Write a report."""
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


async def go_on() -> None:
    """Wait until the attack is over."""
    await asyncio.to_thread(sys.stdin.buffer.readline)


async def live(order: Order, bugs: Bugs) -> None:
    """Live through one attack."""
    bugs.found.clear()
    with tempfile.TemporaryDirectory() as home:
        life = Life(order, Path(home))
        base_kb, began = settle_memory(), time.monotonic()
        async with life.client() as client:
            outcomes, said = await life.attacked(client)
            seconds = time.monotonic() - began
            say(Report(stage="attacked", outcomes=outcomes, said=said[:2_000], seconds=seconds))
            await go_on()
            again = await life.again(client)
            began = time.monotonic()
        closed_s = time.monotonic() - began
        kept = await life.kept() if order.scenario in LADDERS else []
        peak = peak_kb() - base_kb
    say(Report(stage="over", outcomes=[again, *kept], seconds=closed_s, peak_kb=peak, bugs=bugs.found))


async def main() -> None:
    """Do what is ordered, until there are no more orders."""
    bugs = Bugs()
    logging.getLogger("carpool").addHandler(bugs)
    logging.getLogger("asyncio").addHandler(bugs)
    while order := await asyncio.to_thread(sys.stdin.buffer.readline):
        await live(msgspec.json.decode(order, type=Order), bugs)


if __name__ == "__main__":
    asyncio.run(main())
