"""The receipt of a run over every route is the service's bill to the last digit, over kills and restarts too.

What a receipt cannot have in its sums it counts: answers that do not tell what they took are ``unknown_cost``; of a
live call whose reply nobody saw, since its process was killed, what was reserved for it is in ``lost_usd``.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.runtime import virtual

from carpool import Client
from carpool.emulator import Emulator, Fault, Ledger

from .mixed import EMBED_NEW, FAULTS, PICO, SETTINGS, STANDARD, caches_of, equal, plan, run, untold, whole
from .support import HOUR_S, MODEL, TimedEmulator, jobs_of, make_client, opened, prompts, until

COUNT: Final = 368
"""Sixteen of each kind."""
ROOT: Final = Path(__file__).parents[2]
STEADY: Final = {name: fault for name, fault in FAULTS.items() if "429" not in name}
"""After a 429 a route pauses for seconds, in which a kill strikes nothing."""


async def test_the_receipt_of_a_run_over_all_routes_is_the_bill(tmp_path: Path) -> None:
    async with Emulator(plan()) as emulator, opened(emulator, tmp_path, **SETTINGS) as client:
        found = await run(client, COUNT)
        receipt, ledger = client.receipt(), emulator.ledger()
        equal(receipt, ledger)
        equal(whole(client), ledger)
        assert set(receipt.by_route) == {"batch", "flex", "standard"}
        assert receipt.double_usd == receipt.doubles == 0
        single = [answer.receipt for answer in found if not isinstance(answer, BaseException)]
        assert sum(one.paid_usd or 0 for one in single) == receipt.paid_usd - gathered(ledger)
        assert receipt.saved_usd == receipt.list_usd - receipt.paid_usd > 0
        assert len(single) == receipt.requests


def gathered(ledger: Ledger) -> Decimal:
    """Return what live embeddings cost that share a call: they tell one sum."""
    return Decimal(sum(bill.picousd for bill in ledger.live if bill.model == "gemini-embedding-2")) / PICO


async def test_a_live_call_of_which_nobody_saw_the_reply_is_lost_money_and_in_no_sum() -> None:
    faults = {"generate.dropped_after_apply": Fault(count=5)}
    async with Emulator(plan(faults)) as emulator, opened(emulator, **SETTINGS) as client:
        await asyncio.gather(*(client.generate(MODEL, text, ladder=STANDARD) for text in prompts(20)))
        receipt, ledger = client.receipt(), emulator.ledger()
        assert (receipt.requests, ledger.live_calls) == (20, 25)
        paid = receipt.paid_usd * PICO
        assert ledger.picousd - paid <= receipt.lost_usd * PICO
        assert receipt.lost_usd > 0
        equal(receipt, ledger, unseen=5, unseen_picousd=ledger.picousd - int(paid))


@pytest.mark.parametrize("op", ["429", "503"])
def test_a_call_that_is_turned_away_costs_nothing_and_keeps_no_money(op: str) -> None:
    faults = {f"generate.{op}": Fault(count=2, seconds=0.01)}

    async def story() -> None:
        async with Emulator(plan(faults)) as emulator, opened(emulator, **SETTINGS) as client:
            await asyncio.gather(*(client.generate(MODEL, text, ladder=STANDARD) for text in prompts(20)))
            assert [call.status for call in emulator.requests if call.op == "generate"].count(int(op)) == 2
            equal(client.receipt(), emulator.ledger())
            assert client.receipt().lost_usd == 0

    virtual.run(story())  # after a refusal the client pauses


async def test_requests_that_a_job_and_a_live_call_both_answer_are_paid_for_twice_and_told(tmp_path: Path) -> None:
    """A job takes longer than ever; one of its requests has no deadline, so that it is not cancelled.

    The others leave it a second after they came: until then it has to be on the server.
    """
    async with Emulator(plan({}, latency_s=2.5)) as emulator, opened(emulator, tmp_path) as client:
        durations = client._runtime.engine.book.durations
        for route, usual_s in (("batch", 0.01), ("standard", 0.1)):
            for _ in range(20):
                durations.saw(MODEL, route, usual_s)  # type: ignore[arg-type]
        hurried = [
            client.generate(MODEL, text, ladder=("batch", "standard"), deadline=11.15)
            for text in prompts(10, "hurried")
        ]
        answers = await asyncio.gather(*hurried, client.generate(MODEL, "at ease"))
        await client.drain()
        receipt = client.receipt()
        assert [answer.receipt.route for answer in answers] == ["standard"] * 10 + ["batch"]
        assert receipt.doubles == 10
        live = receipt.by_route["standard"].paid_usd
        assert receipt.double_usd == live > 0
        equal(receipt, emulator.ledger())
        equal(whole(client), emulator.ledger())


# -- over kills


async def child(emulator: Emulator, home: Path, caches: tuple[str, str], *, unseen: int = 0) -> Any:
    """Start a process that makes a mixed run, and calls of which nobody is to see the replies."""
    more = ("--count", str(COUNT), "--home", str(home), "--unseen", str(unseen), "--base-url", emulator.base_url)
    words = ("-m", "tests.end_to_end.mixed", *more, "--caches", *caches)
    return await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


async def kill(process: Any) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


def live_picousd(ledger: Ledger) -> int:
    return sum(bill.picousd for bill in ledger.live)


async def test_after_a_kill_the_account_is_the_bill_less_what_nobody_saw(tmp_path: Path) -> None:
    unseen = 7
    async with Emulator(plan(STEADY)) as emulator:
        async with make_client(emulator) as client:
            caches = await caches_of(client)
        process = await child(emulator, tmp_path, caches, unseen=unseen)
        assert await process.stdout.readline() == b"done\n"
        # The child's next calls wait for this process: their first byte is read after this line.
        emulator.plan = plan({"generate.slow": Fault(seconds=600.0)})
        before = emulator.ledger()
        await until(lambda: emulator.ledger().live_calls == before.live_calls + unseen, "calls that are billed")
        await kill(process)
        missed = live_picousd(emulator.ledger()) - live_picousd(before)
        emulator.plan = plan(STEADY)
        async with opened(emulator, tmp_path, **SETTINGS) as client:
            assert client._runtime.engine.book.ledger.receipt_of(0, 10**6).lost_usd * PICO >= missed > 0
            await run(client, COUNT, caches=caches, keyed=True, unseen=unseen)
            equal(whole(client), emulator.ledger(), unseen=unseen, unseen_picousd=missed)
            assert client.receipt().requests == unseen, "all else was answered before"


@pytest.mark.parametrize("seed", range(3))
async def test_after_kills_at_any_time_only_what_was_in_the_air_is_missing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with Emulator(plan(STEADY, latency_s=0.3)) as emulator:
        async with make_client(emulator) as client:
            caches = await caches_of(client)
        for _ in range(2):
            process = await child(emulator, tmp_path, caches)
            wanted = len(emulator.requests) + rng.randint(20, 200)
            # What earlier processes had answered is not asked again: it may be done with fewer.
            done = asyncio.ensure_future(process.stdout.readline())
            await until(
                lambda wanted=wanted, done=done: len(emulator.requests) >= wanted or done.done(), "calls, or the end"
            )
            await asyncio.sleep(rng.uniform(0.0, 0.2))  # to strike anywhere
            await kill(process)
            assert await done in {b"", b"done\n"}
        async with opened(emulator, tmp_path, **SETTINGS) as client:
            await run(client, COUNT, caches=caches, keyed=True)
            receipt, ledger = whole(client), emulator.ledger()
            batch = receipt.by_route["batch"]
            assert (batch.requests, batch.paid_usd * PICO) == (
                ledger.rows_billed,
                sum(job.picousd for job in ledger.jobs),
            )
            missing = ledger.rows_billed + ledger.live_calls - receipt.requests
            missed = ledger.picousd - untold(ledger)[1] - int(receipt.paid_usd * PICO)
            assert missing >= 0
            assert 0 <= missed <= receipt.lost_usd * PICO
            if not missing:
                equal(receipt, ledger)


async def test_after_a_home_was_put_back_the_sweep_books_the_jobs_that_it_does_not_know(tmp_path: Path) -> None:
    """Of live calls that the home forgot nothing can be known; of embeddings in such a job, not which kind they are."""
    home, backup = tmp_path / "home", tmp_path / "backup"
    async with TimedEmulator(plan({}, latency_s=HOUR_S)) as emulator:
        async with make_client(emulator, home, **SETTINGS) as client:
            caches = await caches_of(client)
        shutil.copytree(home, backup)
        async with make_client(emulator, home, **SETTINGS) as client:
            calls = asyncio.ensure_future(run(client, COUNT, caches=caches, keyed=True))
            await until(lambda: idle(client), "all of them are answered, or in a job")
            calls.cancel()
        shutil.rmtree(home)
        backup.rename(home)
        before, unknown = emulator.ledger(), {job.name for job in jobs_of(emulator)}
        assert (before.rows_billed, before.live_calls > 0, len(unknown) > 1) == (0, True, True)
        emulator.let_pass()
        emulator.plan = plan({})
        async with opened(emulator, home, **SETTINGS) as client:
            await run(client, COUNT, caches=caches, keyed=True)
            receipt, ledger = whole(client), emulator.ledger()
        embeddings = [job for job in ledger.jobs if job.name in unknown and job.model == EMBED_NEW]
        dark, dark_picousd = sum(job.rows_ok for job in embeddings), sum(job.picousd for job in embeddings)
        batch = receipt.by_route["batch"]
        paid = sum(job.picousd for job in ledger.jobs) - dark_picousd
        assert (batch.requests, batch.paid_usd * PICO) == (ledger.rows_billed, paid)
        live = live_picousd(ledger) - live_picousd(before) - untold(ledger)[1] + untold(before)[1]
        assert receipt.paid_usd * PICO == paid + live
        assert receipt.requests == ledger.rows_billed + ledger.live_calls - before.live_calls
        count = ledger.unpriced - before.unpriced + untold(ledger)[0] - untold(before)[0]
        assert receipt.unknown_cost == count + dark
        assert dark > 0


def idle(client: Client) -> bool:
    """Return whether nothing waits, and no call is in the air."""
    stats = client.stats()
    return stats.answered > 0 and not stats.waiting and not stats.live
