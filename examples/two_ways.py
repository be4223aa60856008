"""The live API when it is there, a batch when it is not; a batch while there is time, the live API when there is not.

::

    python examples/two_ways.py              # bundled emulator: no key, no network, no money; about twenty seconds
    python examples/two_ways.py --live       # Google's service, with ten calls; needs a key, and costs money

First, calls with ``carpool.FAST`` come in steadily while the live API refuses most calls for some seconds: the emulator
plays the storm. Every caller gets an answer, and none sees a 503; the log has an alarm. Then, calls with different
deadlines: each takes the cheapest way that may well be quick enough. That is guessed for a model of which nothing is
known yet, and learned for the one whose batches came back in seconds during the storm.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator

import carpool
from carpool.emulator import Emulator, Fault, Plan

MODEL = "gemini-3.5-flash"
NEW_MODEL = "gemini-2.5-flash"
"""No call of the storm is for it, so nothing was learned of it."""
CALLS_PER_S = 20
STORM_S = (2.0, 5.0)
LASTS_S = 16.0


@contextlib.asynccontextmanager
async def opened(*, live: bool) -> AsyncGenerator[carpool.Client]:
    """Open a client: of Google's service if asked, else of an emulator in this process and a home that goes away."""
    if live:
        async with carpool.Client() as client:
            yield client
        return
    storm = Fault(probability=0.8, from_s=STORM_S[0], until_s=STORM_S[1])
    plan = Plan(latency_s=1.0, faults={"generate.503": storm})
    quick = carpool.Settings(linger_s=0.2, poll_min_s=0.25, poll_max_s=1.0)  # jobs of the emulator take seconds
    with tempfile.TemporaryDirectory(prefix="carpool-example-") as home:
        async with (
            Emulator(plan, data_dir=home) as emulator,
            carpool.Client(api_key="none-needed", base_url=emulator.base_url, home=home, settings=quick) as client,
        ):
            yield client


async def through_the_storm(client: carpool.Client, calls: int) -> None:
    """Call steadily, and show which way the calls of each second were answered."""
    began = time.monotonic()
    ways: defaultdict[int, Counter[str]] = defaultdict(Counter)

    async def call(number: int) -> None:
        await asyncio.sleep(number / CALLS_PER_S)
        asked_s = int(time.monotonic() - began)
        try:
            answer = await client.generate(MODEL, f"What is {number} squared?", ladder=carpool.FAST)
            ways[asked_s][answer.receipt.route] += 1
        except carpool.CarpoolError as error:
            ways[asked_s][type(error).__name__] += 1

    await asyncio.gather(*map(call, range(calls)))
    print("asked in   live  in a batch  errors")
    for second, counts in sorted(ways.items()):
        errors = counts.total() - counts["standard"] - counts["batch"]
        print(f"second {second:>2}  {counts['standard']:>4}  {counts['batch']:>10}  {errors:>6}")


async def by_when(client: carpool.Client, model: str) -> None:
    """Ask the same with different deadlines, and show which way each took."""

    async def ask(deadline: str | None) -> str:
        answer = await client.generate(model, "Why is the sky blue?", deadline=deadline)
        return f"{deadline or 'none':>8}  {answer.receipt.route:<8}  {answer.receipt.paid_usd}"

    print(f"\n{model}\ndeadline  way       paid, USD")
    for line in await asyncio.gather(*map(ask, (None, "12h", "1h", "10m"))):
        print(line)


async def play(seconds: float, *, live: bool) -> None:
    """Show both."""
    async with opened(live=live) as client:
        await through_the_storm(client, 6 if live else int(CALLS_PER_S * seconds))
        await by_when(client, NEW_MODEL)
        if not live:
            await by_when(client, MODEL)
        receipt = client.receipt()
    routes = ", ".join(f"{totals.requests} by {route}" for route, totals in receipt.by_route.items())
    print(f"\n{receipt.requests} calls: {routes}. List price ${receipt.list_usd:f}, paid ${receipt.paid_usd:f}.")


def main() -> None:
    """Read the arguments and play."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=LASTS_S, help="how long calls come in (default: %(default)s)")
    service = parser.add_mutually_exclusive_group()
    service.add_argument("--emulator", action="store_true", help="use the bundled emulator (the default)")
    service.add_argument("--live", action="store_true", help="use Google's service, which costs money")
    arguments = parser.parse_args()
    if arguments.live and not (os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")):
        parser.error("--live needs a key: set GOOGLE_API_KEY or GEMINI_API_KEY")
    print("SERVICE: " + ("GOOGLE'S. THIS COSTS MONEY." if arguments.live else "the emulator that comes with carpool."))
    logging.basicConfig(stream=sys.stdout, format="  (%(message)s)")
    asyncio.run(play(arguments.seconds, live=arguments.live))


if __name__ == "__main__":
    main()
