"""Processes that are killed, and started again: everything accepted is answered, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from carpool.emulator import Emulator, Fault, Plan, expected_text

from .support import (
    API_KEY,
    FILE,
    FORMS,
    HOUR_S,
    TimedEmulator,
    assert_billed_once,
    billed,
    jobs_of,
    ops_of,
    prompts,
    until,
)

CHILD = Path(__file__).with_name("child.py")
QUICK: dict[str, Any] = {
    "linger_s": 0.01,
    "poll_min_s": 0.01,
    "poll_max_s": 0.05,
    "retry_min_s": 0.01,
    "retry_max_s": 0.05,
    "quota_retry_min_s": 0.01,
    "lookup_wait_s": 0.1,
}
BY_FILE: dict[str, Any] = {"inline_cost_max_usd": 0}
BY_FORM: dict[str, dict[str, Any]] = {"inline": {"inline_cost_max_usd": None}, "file": BY_FILE}
SLOW = Fault(count=1, seconds=60.0)
"""The call takes effect, and its answer comes too late for whoever is killed meanwhile."""

Said = list[dict[str, Any]]


def kill(process: asyncio.subprocess.Process) -> None:
    """End a process for good, if it has not ended; its own method may take the exit code away from its watcher."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


class Child:
    """A process of ``child.py``."""

    def __init__(self, emulator: Emulator, home: Path, **order: Any) -> None:
        settings = QUICK | order.pop("settings", {})
        empty: dict[str, Any] = {"keyed": [], "bare": [], "tickets": [], "results": [], "drain": True}
        more = {"api_key": API_KEY, "base_url": emulator.base_url, "home": str(home), "settings": settings}
        self._order = json.dumps(empty | order | more)
        self.said: Said = []

    async def run(self, kill_when: Callable[[Said], object] | None = None, *, may_end: bool = False) -> Said:
        """Run it, and return what it said.

        Args:
            kill_when: it is killed as soon as this holds; not given, it runs to its end.
            may_end: it may also end before it is killed.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), self._order, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        listener = asyncio.create_task(self._listen(process))
        errors = asyncio.create_task(process.stderr.read() if process.stderr else asyncio.sleep(0, b""))
        try:
            if kill_when is not None:
                await until(lambda: kill_when(self.said) or listener.done(), "the moment of the kill")
                assert may_end or not listener.done(), f"it ended before it was killed: {(await errors).decode()}"
                kill(process)
            async with asyncio.timeout(60):
                await listener
                code = await process.wait()
        finally:
            kill(process)
            words = (await errors).decode()
            await listener
            await process.wait()
        assert code in ([0] if kill_when is None else [-9, 0] if may_end else [-9]), words
        return self.said

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):
                self.said.append(json.loads(line))


def answered(said: Said) -> list[str]:
    """Return the prompts whose own answers the child had, sorted; it must have had no others."""
    answers = [(event["text"], event["answer"]) for event in said if event["event"] == "answered"]
    assert all(answer == expected_text(text) for text, answer in answers)
    return sorted(text for text, _ in answers)


def heard(said: Said, event: str) -> bool:
    return any(line["event"] == event for line in said)


def rows_sent(emulator: Emulator) -> int:
    """Return how many rows all jobs together have: one for each request, if none was sent twice."""
    return sum(job.rows for job in jobs_of(emulator))


def called(emulator: Emulator, op: str, times: int = 1) -> Callable[[Said], bool]:
    """Return the moment at which an operation was called so often."""
    return lambda _: ops_of(emulator)[op] >= times


async def killed_and_run_again(
    plan: Plan, moment: Callable[[Emulator], Callable[[Said], object]], home: Path, count: int = 30, **settings: Any
) -> Emulator:
    """Kill a process of explicit keys and tickets at a moment, and run it again: all answers, and one bill each."""
    keyed, tickets = prompts(count, "keyed"), prompts(count, "ticket")
    async with TimedEmulator(plan) as emulator:
        order: dict[str, Any] = {"keyed": keyed, "tickets": tickets}
        await Child(emulator, home, **order, settings=settings).run(moment(emulator))
        emulator.let_pass()
        emulator.plan = Plan(latency_s=0.05)
        later = {key: value for key, value in settings.items() if not key.endswith("_s")}
        said = await Child(emulator, home, **order, results=tickets, settings=later).run()
        assert answered(said) == sorted(keyed + tickets)
        assert emulator.ledger().twice == []
        assert_billed_once(emulator, keyed + tickets)
    return emulator


def some_time_after_opening(rng: random.Random) -> Callable[[Said], bool]:
    """Return a moment at random, up to 0.3 s after the store is open."""
    pause_s = rng.uniform(0.0, 0.3)
    opened_at: list[float] = []

    def strikes(said: Said) -> bool:
        now = asyncio.get_running_loop().time()
        if heard(said, "opened") and not opened_at:
            opened_at.append(now)
        return bool(opened_at) and now >= opened_at[0] + pause_s

    return strikes


# -- explicit keys and tickets


@pytest.mark.parametrize("form", BY_FORM)
async def test_killed_while_requests_wait(form: str, tmp_path: Path) -> None:
    def moment(_: Emulator) -> Callable[[Said], object]:
        return lambda said: heard(said, "accepted")

    emulator = await killed_and_run_again(Plan(), moment, tmp_path, **BY_FORM[form], linger_s=60.0, linger_max_s=60.0)
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize("op", ["upload.start", "upload.finalize"])
async def test_killed_in_an_upload(op: str, tmp_path: Path) -> None:
    plan = Plan(faults={f"{op}.slow": SLOW})
    await killed_and_run_again(plan, lambda emulator: called(emulator, op), tmp_path, **BY_FILE)


@pytest.mark.parametrize("form", BY_FORM)
async def test_killed_before_the_answer_to_a_create(form: str, tmp_path: Path) -> None:
    plan = Plan(faults={"create.slow": SLOW})
    emulator = await killed_and_run_again(plan, lambda emulator: called(emulator, "create"), tmp_path, **BY_FORM[form])
    assert rows_sent(emulator) == 60
    assert ops_of(emulator)["list"] >= 1


@pytest.mark.parametrize("form", BY_FORM)
async def test_killed_while_it_looks_for_a_job_that_was_created_without_telling(form: str, tmp_path: Path) -> None:
    plan = Plan(faults={"create.dropped_after_apply": Fault(count=1), "list.503": Fault()})
    emulator = await killed_and_run_again(plan, lambda emulator: called(emulator, "list"), tmp_path, **BY_FORM[form])
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize("form", BY_FORM)
async def test_killed_while_it_looks_for_a_job_that_was_never_created(form: str, tmp_path: Path) -> None:
    plan = Plan(faults={"create.503": Fault(count=1), "list.503": Fault(after=1)})
    emulator = await killed_and_run_again(plan, lambda emulator: called(emulator, "list", 2), tmp_path, **BY_FORM[form])
    assert rows_sent(emulator) == 60


async def test_killed_between_the_revocation_of_an_input_and_the_last_look(tmp_path: Path) -> None:
    plan = Plan(faults={"create.503": Fault(count=1), "files.delete.slow": SLOW})
    emulator = await killed_and_run_again(plan, lambda emulator: called(emulator, "files.delete"), tmp_path, **BY_FILE)
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize("form", BY_FORM)
async def test_killed_while_a_job_runs(form: str, tmp_path: Path) -> None:
    emulator = await killed_and_run_again(
        Plan(latency_s=HOUR_S), lambda emulator: called(emulator, "get"), tmp_path, **BY_FORM[form]
    )
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize(("form", "answers"), [("inline", 1), ("file", 1), ("file", 1_000)])
async def test_killed_while_results_stream(form: str, answers: int, tmp_path: Path) -> None:
    def moment(_: Emulator) -> Callable[[Said], object]:
        return lambda said: sum(line["event"] == "answered" for line in said) >= answers

    settings = {**BY_FORM[form], "inline_output_bytes_max": 1_000_000_000, "batch_requests_max": 5_000}
    emulator = await killed_and_run_again(Plan(), moment, tmp_path, count=1_500, **settings)
    assert rows_sent(emulator) == 3_000


async def test_killed_when_all_is_answered_and_the_server_is_being_tidied(tmp_path: Path) -> None:
    plan = Plan(faults={"files.delete.slow": SLOW})
    await killed_and_run_again(plan, lambda emulator: called(emulator, "files.delete"), tmp_path, **BY_FILE)


@pytest.mark.parametrize(("form", "seed"), [("inline", 0), ("file", 1)])
async def test_killed_again_and_again_at_any_moment(form: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    keyed, tickets = prompts(60, "keyed"), prompts(60, "ticket")
    faults = {
        "create.dropped_after_apply": Fault(count=2),
        "create.503": Fault(after=1, count=1),
        "get.503": Fault(probability=0.2),
        "download.503": Fault(probability=0.2),
        "upload.finalize.dropped_after_apply": Fault(probability=0.2),
    }
    order: dict[str, Any] = {
        "keyed": keyed,
        "tickets": tickets,
        "settings": {**BY_FORM[form], "batch_requests_max": 25},
    }
    async with Emulator(Plan(latency_s=(0.0, 0.3), faults=faults), seed=seed) as emulator:
        for _ in range(4):
            said = await Child(emulator, tmp_path, **order).run(some_time_after_opening(rng), may_end=True)
            answered(said)
        runs = [await Child(emulator, tmp_path, **order, results=tickets).run() for _ in range(2)]
        assert [answered(said) for said in runs] == [sorted(keyed + tickets)] * 2
        assert runs[-1][-1]["jobs_created"] == 0
        assert emulator.ledger().twice == []
        assert_billed_once(emulator, keyed + tickets)


def slots_in(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("slot-*"))


# -- bare awaits


@FORMS
async def test_bare_calls_of_a_killed_process_are_adopted_by_the_same_calls_again(
    form: dict[str, Any], tmp_path: Path
) -> None:
    bare, settings = prompts(30), BY_FORM["file" if form is FILE else "inline"]
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        await Child(emulator, tmp_path, bare=bare, settings=settings).run(called(emulator, "get"))
        emulator.let_pass()
        said = await Child(emulator, tmp_path, bare=bare, settings=settings).run()
        assert answered(said) == sorted(bare)
        assert all(line["reused"] for line in said if line["event"] == "answered")
        assert_billed_once(emulator, bare)


async def test_bare_calls_of_a_process_killed_before_they_were_sent_wait_to_be_claimed(tmp_path: Path) -> None:
    bare = prompts(30)
    waits = {"linger_s": 60.0, "linger_max_s": 60.0}
    async with Emulator() as emulator:
        await Child(emulator, tmp_path, bare=bare, tickets=["ticket"], settings=waits).run(
            lambda said: heard(said, "accepted")
        )
        assert not emulator.requests
        said = await Child(emulator, tmp_path).run()
        assert said[0]["parked"] == said[-1]["parked"] == 30
        assert_billed_once(emulator, ["ticket"])
        said = await Child(emulator, tmp_path, bare=bare[:20]).run()
        assert answered(said) == sorted(bare[:20])
        assert said[-1]["parked"] == 10
        assert_billed_once(emulator, ["ticket", *bare[:20]])


async def test_bare_calls_of_a_process_killed_while_results_stream_are_paid_again_only_where_they_were_given(
    tmp_path: Path,
) -> None:
    bare = prompts(3_000)
    settings = {**BY_FILE, "batch_requests_max": 5_000}
    async with Emulator() as emulator:
        child = Child(emulator, tmp_path, bare=bare, settings=settings)
        first = await child.run(lambda said: heard(said, "answered"))
        given = set(answered(first))
        said = await Child(emulator, tmp_path, bare=bare, settings=settings).run()
        assert answered(said) == sorted(bare)
        times = billed(emulator, bare)
        paid_again = {text for text, count in zip(bare, times, strict=True) if count > 1}
        assert max(times) <= 2
        assert min(times) == 1
        # Given by carpool to its caller, which may have been killed before it could say so.
        assert len(paid_again) <= len(given) + 1_000


async def test_what_the_first_form_of_a_batch_was_is_no_matter_for_the_process_that_goes_on(tmp_path: Path) -> None:
    keyed = prompts(10)
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        by_file, inline = {"keyed": keyed, "settings": BY_FILE}, {"keyed": keyed, "settings": BY_FORM["inline"]}
        await Child(emulator, tmp_path, **by_file).run(called(emulator, "get"))
        emulator.let_pass()
        assert answered(await Child(emulator, tmp_path, **inline).run()) == keyed
        assert_billed_once(emulator, keyed)


async def test_a_killed_process_leaves_its_home_to_the_next_one_at_once(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        for number in range(3):
            waits = {"linger_s": 60.0, "linger_max_s": 60.0}
            tickets = [f"ticket {number}"]
            await Child(emulator, tmp_path, tickets=tickets, settings=waits).run(lambda said: heard(said, "accepted"))
        assert slots_in(tmp_path) == ["slot-0"]
        said = await Child(emulator, tmp_path, results=[f"ticket {number}" for number in range(3)]).run()
        assert len(answered(said)) == 3
