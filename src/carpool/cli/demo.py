"""``carpool demo``: the library at work against the bundled emulator, in a home that goes away.

Owns the show and its checks. It uses what users use: single awaited calls, the client's own receipt.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from carpool.cli.console import Exit, UsageError, counted, print_json, run, say
from carpool.cli.progress import counts_of, display, jobs_in_words, ticking
from carpool.cli.receipt import print_receipt, receipt_data

if TYPE_CHECKING:
    from carpool import Client, Receipt, Settings
    from carpool.emulator import Emulator

MODEL: Final = "gemini-3.5-flash"
EMBED_MODEL: Final = "gemini-embedding-001"
_DIMENSIONS: Final = 256
_LATENCY_S: Final = (3.0, 7.0)
_JOBS: Final = 8
_BATCH_MIN: Final = 50
_CALLS_MAX: Final = 200_000

_NOTICE: Final = """\
This ran against the emulator that comes with carpool, in this process: no network, no key, and no money was spent.
Tokens are as the emulator counts them, prices are the list prices bundled with carpool."""


class _Result(msgspec.Struct, kw_only=True):
    """What a demonstration gave."""

    receipt: Receipt
    elapsed_s: float
    jobs_by_form: dict[str, int]
    wrong: int
    """Answers that do not belong to their prompt."""
    billed: int
    billed_twice: int

    @property
    def answers_right(self) -> bool:
        return self.wrong == 0

    @property
    def books_agree(self) -> bool:
        return self.billed == self.receipt.requests and self.billed_twice == 0


_Count = Annotated[int, Parameter(validator=Number(gte=0, lte=_CALLS_MAX))]


def demo(*, requests: _Count = 2_000, embeds: _Count = 500, json: bool = False) -> int:
    """See single calls share batch jobs: no key, no network, a home of its own that goes away.

    Starts the bundled emulator of the Gemini API in this process, awaits all calls at once, each with its own await,
    and prints the receipt. Takes about ten seconds.

    Args:
        requests: how many prompts to send.
        embeds: how many texts to embed.
        json: print one JSON object at the end instead of the receipt.
    """
    if requests + embeds == 0:
        raise UsageError("there is nothing to do: --requests and --embeds are both 0")
    return run(_show(requests, embeds, as_json=json))


async def _show(requests: int, embeds: int, *, as_json: bool) -> int:
    result = await _play(requests, embeds)
    if as_json:
        print_json(_data(result))
    else:
        _print(result)
    number = result.receipt.requests
    complete = number == requests + embeds
    if not complete:
        say(f"the receipt counts {number:,} of {requests + embeds:,} requests: this is a bug of carpool")
    return Exit.OK if complete and result.answers_right and result.books_agree else Exit.FAILED


async def _play(requests: int, embeds: int) -> _Result:
    from carpool import Client
    from carpool.emulator import Emulator, Plan

    settings = _settings(requests)
    with tempfile.TemporaryDirectory(prefix="carpool-demo-") as home:
        async with Emulator(Plan(latency_s=_LATENCY_S), data_dir=home) as emulator:
            began = time.monotonic()
            # Everything is given here: nothing of the environment, a key least of all, may reach a demonstration.
            async with Client(
                api_key="no-key-needed", base_url=emulator.base_url, home=Path(home) / "home", settings=settings
            ) as client:
                wrong = await _ask_all(client, requests, embeds)
                elapsed_s = time.monotonic() - began
                await client.drain()
                receipt = client.receipt()
            ledger = emulator.ledger()
            return _Result(
                receipt=receipt,
                elapsed_s=elapsed_s,
                jobs_by_form=_forms(emulator),
                wrong=wrong,
                billed=ledger.rows_billed + ledger.live_calls,
                billed_twice=len(ledger.twice),
            )


def _settings(requests: int) -> Settings:
    """Return settings in which a few jobs are under way at once, and nobody waits for the polls of a real job."""
    from carpool import Settings

    return Settings(
        linger_s=0.5,
        linger_max_s=2.0,
        poll_min_s=0.25,
        poll_max_s=1.0,
        batch_requests_max=max(_BATCH_MIN, -(-requests // _JOBS)),
    )


async def _ask_all(client: Client, requests: int, embeds: int) -> int:
    """Await every call, as one would write it without knowing of batches; return how many answers are wrong."""
    from carpool.emulator import expected_text, expected_values

    total = requests + embeds
    states: Counter[str] = Counter()
    verdicts: list[bool] = []

    async def ask(number: int) -> None:
        prompt = f"Question {number}: what is {number} times {number % 97}?"
        answer = await client.generate(MODEL, prompt)
        verdicts.append(answer.text == expected_text(prompt))

    async def embed(number: int) -> None:
        text = f"Passage {number} of a book about carpools"
        vector = await client.embed(EMBED_MODEL, text, config={"output_dimensionality": _DIMENSIONS})
        verdicts.append(vector.values == expected_values(text, _DIMENSIONS))

    with display() as shown:

        async def tick() -> None:
            states.clear()
            async for job in client.jobs.list():
                states[job.state] += 1
            stats = client.stats()
            done = len(verdicts)
            jobs, receipt = jobs_in_words(states), client.receipt()
            shown.show(
                counts_of(
                    stats, receipt, total=total, done=done, failed=stats.failed, outstanding=total - done, jobs=jobs
                )
            )

        async with ticking(tick):
            await asyncio.gather(*map(ask, range(requests)), *map(embed, range(embeds)))
    return verdicts.count(False)


def _forms(emulator: Emulator) -> dict[str, int]:
    """Return how many jobs got their requests in a file, and how many inline."""
    jobs = emulator.world.jobs(time.time())
    files = sum(bool(job.file_name) for job in jobs)
    return {"file": files, "inline": len(jobs) - files}


def _data(result: _Result) -> dict[str, Any]:
    return {
        "emulator": True,
        "elapsed_s": round(result.elapsed_s, 3),
        "jobs": sum(result.jobs_by_form.values()),
        "jobs_by_form": result.jobs_by_form,
        "receipt": receipt_data(result.receipt),
        "checks": {"answers": result.answers_right, "ledger": result.books_agree},
    }


def _print(result: _Result) -> None:
    jobs = sum(result.jobs_by_form.values())
    print_receipt(result.receipt, jobs=jobs, file=sys.stdout)
    forms = ", ".join(f"{number:,} {name}" for name, number in result.jobs_by_form.items())
    number = result.receipt.requests
    print(f"{counted(number, 'awaited call')} in {counted(jobs, 'job')} ({forms}), {result.elapsed_s:.1f} s.")
    print(
        f"ok: each of the {number:,} answers belongs to its own prompt"
        if result.answers_right
        else f"WRONG: {counted(result.wrong, 'answer')} do not belong to their prompt"
    )
    print(
        f"ok: the emulator billed {result.billed:,} requests, as many as the receipt, none of them twice"
        if result.books_agree
        else f"WRONG: the emulator billed {result.billed:,} requests, {result.billed_twice:,} of them twice"
    )
    print(_NOTICE, flush=True)
