"""Storms: the real client calls the bundled emulator over real HTTP, in virtual time, while the live API refuses.

Owns the run of one storm and its figures. ``python -m tests.end_to_end.storms [SEEDS]`` prints the table of all of
them; it leaves with 1 if a call did not end as it should, or the live API was called more often than is promised.

Client and emulator share one event loop. Its clock stands still while anything can be read from a socket, and jumps to
the next timer where nothing can: the system delivers what is sent to the machine itself before ``send`` returns.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from tests.canary import API_KEY
from tests.runtime import virtual

from carpool import FAST, Client, MemoryStore, Settings
from carpool.emulator import Emulator, Fault, Plan, expected_text

from .support import MODEL

EPOCH_S: Final = 1_800_000_000.0
GRACE_S: Final = 5.0
"""From the beginning of a storm; after it the live API receives little."""
SHARE_MAX: Final = 0.1
"""Of the offered rate: what it receives at most."""
BACK_S: Final = 45.0
"""After the end of a storm at the latest all calls are answered live again."""
LIVE_S: Final = 1.0
"""How long a live answer takes."""
NAMED_PER_S: Final = 1_000 / 60
"""What the emulator's refusals say that a model may be called."""
_SPAN_S: Final = 10.0
_NEARLY: Final = 0.8
AFTER_S: Final = 80.0
"""How long calls go on coming when all is over."""
SETTINGS: Final = Settings(ladder=FAST)
RATES: Final = (2.0, 5.0, 20.0, 100.0)


@dataclass(frozen=True)
class Storm:
    """What the live API does, and when."""

    name: str
    faults: dict[str, Fault]
    windows: tuple[tuple[float, float], ...] = ((0.0, 120.0),)
    """From when until when it refuses, in seconds after the first call."""
    taken_after: float = float("inf")
    """Calls a second that are taken afterwards: refusals that name a quota are believed, and it is kept to."""

    @property
    def ends_at(self) -> float:
        """When all is over."""
        return self.windows[-1][1]


def refusing(begin_s: float = 0.0, end_s: float = 120.0, share: float = 0.8, **more: Any) -> Fault:
    """Return a fault that refuses a share of the calls for some time."""
    return Fault(from_s=begin_s, until_s=end_s, probability=share, **more)


STORMS: Final = (
    Storm("429 that names a quota, 80 %", {"generate.429": refusing()}, taken_after=NAMED_PER_S),
    Storm("429 without a word, 80 %", {"generate.429": refusing(message="Resource has been exhausted.")}),
    Storm("429 of tokens, 80 %", {"generate.429": refusing(quota="tokens_minute", seconds=30.0)}),
    Storm("503, 80 %", {"generate.503": refusing()}),
    Storm("503, all", {"generate.503": refusing(share=1.0)}),
    Storm("504 at once, 80 %", {"generate.504": refusing()}),
    Storm("connections dropped, 80 %", {"generate.dropped": refusing()}),
    Storm("502 in HTML, 80 %", {"generate.502_html": refusing()}),
    Storm("503 from the middle on, 80 %", {"generate.503": refusing(60.0, 180.0)}, ((60.0, 180.0),)),
    Storm(
        "429, then 503, 80 %",
        {"generate.429": refusing(0.0, 120.0), "generate.503": refusing(200.0, 320.0)},
        ((0.0, 120.0), (200.0, 320.0)),
        taken_after=NAMED_PER_S,
    ),
)


@dataclass
class Call:
    """One call of a caller."""

    at: float
    """When it was made, in seconds after the first."""
    text: str
    route: str = ""
    """Over which its answer came."""
    took_s: float = 0.0
    error: str = ""


@dataclass
class Figures:
    """What became of a storm."""

    storm: Storm
    rate: float
    calls: list[Call]
    received: list[tuple[float, int]]
    """When the live API was called, and the status of its reply."""

    @property
    def bad(self) -> list[str]:
        """How calls ended that did not end with their own answer."""
        return sorted({call.error for call in self.calls if call.error})

    def shares(self) -> list[float]:
        """Return what the live API received of the offered calls in each window, its beginning apart."""
        return [
            self._received(begin + GRACE_S, end) / max(1, self._offered(begin + GRACE_S, end))
            for begin, end in self.storm.windows
        ]

    def worst_share(self, span_s: float = 30.0) -> float:
        """Return the highest share of any such span within the windows, their beginnings apart."""
        return max(
            self._received(low, low + span_s) / max(1.0, self.rate * span_s)
            for begin, end in self.storm.windows
            for low in _steps(begin + GRACE_S, end - span_s)
        )

    def beginnings(self) -> list[int]:
        """Return how often the live API was called in the first seconds of each window."""
        return [self._received(begin, begin + GRACE_S) for begin, _ in self.storm.windows]

    def back_s(self) -> list[float]:
        """Return after how long, from the end of each window, live is used as before.

        That is when the first call was made from which on all were answered live; where less than that is taken, the
        beginning of the first ten seconds in which nearly so much was.
        """
        ends = [*(begin for begin, _ in self.storm.windows[1:]), self.storm.ends_at + AFTER_S]
        return [self._back_s(end, until) for (_, end), until in zip(self.storm.windows, ends, strict=True)]

    def _back_s(self, end: float, until: float) -> float:
        if self.storm.taken_after >= self.rate:
            return max((c.at for c in self.calls if end <= c.at < until and c.route != "standard"), default=end) - end
        live = [call.at for call in self.calls if call.route == "standard"]
        for low in _steps(end, until - _SPAN_S):
            if sum(low <= at < low + _SPAN_S for at in live) >= _NEARLY * self.storm.taken_after * _SPAN_S:
                return low - end
        return until - end

    @property
    def waited_s(self) -> float:
        """How long the caller waited who waited longest for a live answer."""
        return max((call.took_s for call in self.calls if call.route == "standard"), default=0.0)

    def _received(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at, _ in self.received)

    def _offered(self, begin: float, end: float) -> int:
        return sum(begin <= call.at < end for call in self.calls)


def _steps(begin: float, end: float) -> list[float]:
    return [begin + 1.0 * step for step in range(max(1, int(end - begin)))]


async def offered(
    calls: Sequence[Call], ask: Callable[[str], Awaitable[Any]], *, sees: Callable[[Any, Call], None]
) -> None:
    """Make each call at its time, and write down what became of it."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(call: Call) -> None:
        await asyncio.sleep(began + call.at - loop.time())
        at = loop.time()
        try:
            answer = await ask(call.text)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a figure
            call.error = f"{type(error).__name__}: {error}"
            return
        call.took_s = loop.time() - at
        sees(answer, call)

    await asyncio.gather(*(one(call) for call in calls))


def sees(answer: Any, call: Call) -> None:
    """Write down an answer."""
    call.route = answer.receipt.route
    if answer.text != expected_text(call.text):
        call.error = "the answer to another prompt"


def arrivals(rate: float, seconds: float, seed: int) -> list[Call]:
    """Return calls that come by chance, so many a second."""
    rng, at, calls = random.Random(f"{rate}/{seed}"), 0.0, []
    while at < seconds:
        calls.append(Call(at, f"prompt {len(calls)}"))
        at += rng.expovariate(rate)
    return calls


async def live_through(storm: Storm, rate: float, seed: int, **plan_of: Any) -> Figures:
    """Offer calls from before the storm until well after it."""
    loop = asyncio.get_running_loop()
    faults = {"generate.slow": Fault(seconds=LIVE_S), **storm.faults}
    plan = Plan(latency_s=60.0, faults=faults, **plan_of)
    calls = arrivals(rate, storm.ends_at + AFTER_S, seed)
    async with (
        Emulator(plan, seed=seed, clock=lambda: EPOCH_S + loop.time()) as emulator,
        Client(api_key=API_KEY, base_url=emulator.base_url, store=MemoryStore(), settings=SETTINGS) as client,
    ):
        began = loop.time()
        await offered(calls, lambda text: client.generate(MODEL, text), sees=sees)
        received = [(call.at - EPOCH_S - began, call.status) for call in emulator.requests if call.op == "generate"]
    return Figures(storm, rate, calls, received)


def run(storm: Storm, rate: float, seed: int, **plan_of: Any) -> Figures:
    """Live through a storm in virtual time; ``plan_of`` is what else the emulator plans."""
    return virtual.run(live_through(storm, rate, seed, **plan_of))


# -- the table


def row(storm: Storm, rate: float, found: Sequence[Figures]) -> str:
    """Return a line of the table: of all seeds together."""
    shares = sorted(chain.from_iterable(figures.shares() for figures in found))
    back = sorted(chain.from_iterable(figures.back_s() for figures in found))
    begin = max(chain.from_iterable(figures.beginnings() for figures in found))
    ends = sum(len(figures.calls) for figures in found)
    good = sum(not call.error for figures in found for call in figures.calls)
    over = sum(share > SHARE_MAX for share in shares)
    return (
        f"| {storm.name} | {rate:g} | {good}/{ends} | {begin} | {_median(shares):.1%} | {shares[-1]:.1%} | {over} "
        f"| {max(figures.worst_share() for figures in found):.1%} | {_median(back):.0f} | {back[-1]:.0f} "
        f"| {max(figures.waited_s for figures in found):.0f} |"
    )


def _median(values: Sequence[float]) -> float:
    return values[len(values) // 2]


def main(seeds: int) -> int:
    """Print the table, and return the exit code."""
    sys.stdout.write(
        "| storm | calls/s | ended well | calls of the first 5 s, most | share afterwards, median | most | above 10 % "
        "| share of any 30 s, most | live again after s, median | most | longest wait for live |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    )
    bad = False
    for storm in STORMS:
        for rate in RATES:
            found = [run(storm, rate, seed) for seed in range(seeds if rate < RATES[-1] else max(1, seeds // 3))]
            sys.stdout.write(row(storm, rate, found) + "\n")
            sys.stdout.flush()
            for seed, figures in enumerate(found):
                if figures.bad or max(figures.shares()) > SHARE_MAX or max(figures.back_s()) > BACK_S:
                    bad = True
                    sys.stdout.write(
                        f"  !! seed {seed}: {figures.bad[:2]} shares {figures.shares()} back {figures.back_s()}\n"
                    )
    return bad


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
