"""Processes that share a home: killed, stopped and forked ones. What one of them has is not paid for by another."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carpool import Request
from carpool._stores.slots import is_free, take_slot
from carpool.emulator import Emulator, Plan, expected_text

from .support import (
    API_KEY,
    FORMS,
    MODEL,
    PATIENCE_S,
    TimedEmulator,
    assert_billed_once,
    assert_own,
    jobs_of,
    opened,
    prompts,
    rows_of_jobs,
    until,
)
from .test_siblings import SLOW, handed_back, seen

CHILD = Path(__file__).with_name("sibling_child.py")
QUICK = {"linger_s": 0.01, "linger_max_s": 100.0, "poll_min_s": 0.01, "poll_max_s": 0.02, "lookup_wait_s": 0.05}
Start = Callable[..., "subprocess.Popen[str]"]


# aiohttp's server forgets a connection whose client is killed at a bad moment, which is no news of ours.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def _forgotten_connections() -> Iterator[None]:
    """Collect what a killed client left in the server here, and not in some later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start children; none outlives the test."""
    children: list[subprocess.Popen[str]] = []

    def start(what: str, emulator: Emulator, home: Path, texts: list[str], **settings: Any) -> subprocess.Popen[str]:
        order = {
            "what": what,
            "api_key": API_KEY,
            "base_url": emulator.base_url,
            "home": str(home),
            "texts": texts,
            "settings": QUICK
            | ({"linger_s": 100.0} if what in {"submit", "accept"} else {})
            | {name: value for name, value in settings.items() if value is not None},
        }
        command = [sys.executable, str(CHILD), json.dumps(order, default=float)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


async def heard(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a child says next."""
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = await asyncio.to_thread(child.stdout.readline)
    assert line, "the child ended"
    told: dict[str, Any] = json.loads(line)
    return told


async def told_answers(child: subprocess.Popen[str], texts: list[str]) -> dict[str, Any]:
    while "answers" not in (told := await heard(child)):
        assert told["event"] == "opened"
    assert told["answers"] == [expected_text(text) for text in texts]
    return told


@FORMS
async def test_a_process_that_starts_again_in_another_slot_finds_what_it_had_sent(
    form: dict[str, Any], tmp_path: Path, start: Start
) -> None:
    texts = prompts(10)
    async with TimedEmulator(SLOW) as emulator:
        async with opened(emulator, tmp_path):
            child = start("submit", emulator, tmp_path, texts, **form)
            assert (await heard(child))["event"] == "sent"
            child.kill()
            child.wait()
        jobs = rows_of_jobs(emulator)
        # Slot 0 is free now, and what was sent is in slot 1.
        emulator.let_pass()
        child = start("generate", emulator, tmp_path, texts, **form)
        assert (await told_answers(child, texts))["jobs_created"] == 0
        assert rows_of_jobs(emulator) == jobs
        assert_billed_once(emulator, texts)


async def test_when_a_process_is_killed_those_who_wait_for_it_take_over(tmp_path: Path, start: Start) -> None:
    texts = prompts(10)
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path) as client:
        child = start("submit", emulator, tmp_path, texts)
        await heard(child)
        calls = [asyncio.ensure_future(client.generate(MODEL, text, key=text)) for text in texts]
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in calls)
        child.kill()
        child.wait()
        await until(lambda: not is_free(tmp_path / "slot-1"), "the adoption")
        emulator.let_pass()
        assert_own(texts, await asyncio.gather(*calls))
        assert client.stats().jobs_created == 0
        assert_billed_once(emulator, texts)


async def test_a_stopped_process_keeps_its_slot(tmp_path: Path, start: Start) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path, adopt_after_s=0.05) as client:
        child = start("submit", emulator, tmp_path, texts)
        await heard(child)
        os.kill(child.pid, signal.SIGSTOP)
        calls = [asyncio.ensure_future(client.generate(MODEL, text, key=text)) for text in texts]
        emulator.let_pass()
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)
        os.kill(child.pid, signal.SIGCONT)
        assert_own(texts, await asyncio.gather(*calls))
        assert client.stats().jobs_created == 0
        assert_billed_once(emulator, texts)


async def test_what_a_killed_process_left_is_ended_by_a_sibling_that_nobody_asked(tmp_path: Path, start: Start) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path, adopt_after_s=0.2) as client:
        child = start("submit", emulator, tmp_path, texts)
        await heard(child)
        child.kill()
        child.wait()
        await until(lambda: not is_free(tmp_path / "slot-1"), "the adoption")
        emulator.let_pass()
        await until(partial(handed_back, tmp_path / "slot-1"), "the slot is handed back")
        assert_billed_once(emulator, texts)
        assert_own(texts, [await client.result(text) for text in texts])


async def test_when_an_adopter_is_killed_the_next_one_takes_over(tmp_path: Path, start: Start) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path, adopt_after_s=86_400.0) as client:
        child = start("submit", emulator, tmp_path, texts)  # in slot 1
        await heard(child)
        adopter = start("generate", emulator, tmp_path, texts)  # in slot 2
        await heard(adopter)
        child.kill()
        child.wait()
        # Nobody in this process asks yet: it is the other one that takes over.
        await until(lambda: not is_free(tmp_path / "slot-1"), "the adoption")
        calls = [asyncio.ensure_future(client.generate(MODEL, text, key=text)) for text in texts]
        await until(lambda: len(client._siblings._waiters) == len(texts), "all wait for the adopter")
        adopter.kill()
        adopter.wait()
        await until(lambda: (tmp_path / "slot-1").exists() and not is_free(tmp_path / "slot-1"), "the next adoption")
        emulator.let_pass()
        assert_own(texts, await asyncio.gather(*calls))
        assert client.stats().jobs_created == 0
        assert_billed_once(emulator, texts)


async def test_a_process_that_comes_back_while_its_slot_is_adopted_gets_another_and_its_answers(
    tmp_path: Path, start: Start
) -> None:
    texts = prompts(5)
    async with TimedEmulator(SLOW) as emulator, opened(emulator, tmp_path, adopt_after_s=0.2) as client:
        child = start("submit", emulator, tmp_path, texts)
        await heard(child)
        child.kill()
        child.wait()
        await until(lambda: not is_free(tmp_path / "slot-1"), "the adoption")
        back = start("generate", emulator, tmp_path, texts)
        assert (await heard(back))["event"] == "opened"
        assert (tmp_path / "slot-2").exists()
        emulator.let_pass()
        assert (await told_answers(back, texts))["jobs_created"] == 0
        assert client.stats().jobs_created == 0
        assert_billed_once(emulator, texts)


async def test_what_another_process_does_while_the_loop_is_blocked_is_seen_in_the_same_turn(
    tmp_path: Path, start: Start
) -> None:
    async with Emulator() as emulator, opened(emulator, tmp_path, linger_s=100.0) as client:
        child = start("accept", emulator, tmp_path, ["a"])
        assert (await heard(child))["event"] == "opened"

        async def ask_after_the_other() -> None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["event"] == "accepted"
            await client.submit(Request(model=MODEL, contents="a", key="a"))

        await seen(client)
        await asyncio.gather(client.submit(Request(model=MODEL, contents="b", key="b")), ask_after_the_other())
        assert client.stats().waiting == 1


async def test_a_forked_child_cannot_use_the_client_and_the_parent_goes_on(tmp_path: Path, start: Start) -> None:
    async with Emulator() as emulator:
        child = start("fork", emulator, tmp_path, prompts(3))
        refused = await heard(child)
        assert refused["event"] == "child"
        assert "fork" in refused["error"]
        await told_answers(child, prompts(3))
        assert_billed_once(emulator, prompts(3))


async def test_preforked_workers_share_a_home_and_what_it_knows(tmp_path: Path, start: Start) -> None:
    texts = prompts(3)
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path):  # so that the workers are not in the lowest slot
            child = start("prefork", emulator, tmp_path, texts)
            for number in range(3):
                await told_answers(child, [*texts, f"worker {number}"])
        assert_billed_once(emulator, [*texts, *(f"worker {number}" for number in range(3))])


@pytest.mark.parametrize("seed", range(2))
@FORMS
async def test_whichever_slot_a_killed_process_gets_next_nothing_is_paid_twice(
    seed: int, form: dict[str, Any], tmp_path: Path, start: Start
) -> None:
    rng = random.Random(seed)
    texts = prompts(20)
    async with Emulator(Plan(latency_s=(0.0, 0.3))) as emulator:
        for _ in range(3):
            taken = [take_slot(tmp_path / "home") for _ in range(rng.randrange(3))]
            child = start("generate", emulator, tmp_path / "home", texts, **form, poll_min_s=0.002, adopt_after_s=0.2)
            await heard(child)
            for slot in taken:
                slot.release()
            seen = len(emulator.requests) + rng.randrange(8)
            await until(lambda seen=seen, child=child: len(emulator.requests) >= seen or child.poll() is not None, "it")
            await asyncio.sleep(rng.random() / 50)
            child.kill()
            child.wait()
        taken = [take_slot(tmp_path / "home") for _ in range(rng.randrange(3))]
        child = start("generate", emulator, tmp_path / "home", texts, **form)
        await heard(child)
        for slot in taken:
            slot.release()
        await told_answers(child, texts)
        await until(lambda: all(job.state not in ("PENDING", "RUNNING") for job in jobs_of(emulator)), "their ends")
        assert_billed_once(emulator, texts)
