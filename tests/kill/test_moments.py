"""Processes killed at moments that their server or their own words tell: who gets what, and how often it was sent.

The clients are made as users make them. What is killed at a point of the code is in ``test_kills``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from carpool.emulator import Emulator, Fault, Plan

from ..end_to_end.support import (  # noqa: TID252 - test folders are no packages
    HOUR_S,
    TimedEmulator,
    assert_billed_once,
    billed,
    jobs_of,
    ops_of,
    prompts,
)
from .child import Ask, How, Order
from .nursery import Ended, Nursery, Said
from .scenario import BY_FORM, QUICK

FORMS: Final = pytest.mark.parametrize("form", ["inline", "file"])
SLOW: Final = Fault(count=1, seconds=60.0)
"""The call takes effect, and its answer comes too late for whoever is killed meanwhile."""
WAITING: Final[dict[str, Any]] = {"linger_s": 60.0, "linger_max_s": 60.0}
ROOMY: Final[dict[str, Any]] = {"inline_output_bytes_max": 1_000_000_000, "batch_requests_max": 5_000}

Moment = Callable[[Said], object]


@pytest.fixture(scope="module")
async def nursery(anyio_backend: str) -> AsyncGenerator[Nursery]:
    async with Nursery() as nursery:
        yield nursery


def asks(how: How, texts: list[str]) -> list[Ask]:
    return [Ask(how=how, text=text) for text in texts]


def order(emulator: Emulator, home: Path, form: str, *calls: Ask, **more: Any) -> Order:
    settings = QUICK | BY_FORM[form] | more.pop("settings", {})
    return Order(base_url=emulator.base_url, home=str(home), settings=settings, asks=[*calls], plain=True, **more)


def answered(life: Ended) -> list[str]:
    """Return the texts whose own answers the child had, sorted; it must have ended well, and had no others."""
    assert not life.status, life.errors
    assert all(word["own"] for word in life.of("answered"))
    return sorted(word["text"] for word in life.of("answered"))


def count_of(said: Said, event: str) -> int:
    return sum(word["event"] == event for word in said)


def rows_sent(emulator: Emulator) -> int:
    """Return how many rows all jobs together have: one for each request, if none was sent twice."""
    return sum(job.rows for job in jobs_of(emulator))


def called(emulator: Emulator, op: str, times: int = 1) -> Moment:
    """Return the moment at which an operation was called so often."""
    return lambda _: ops_of(emulator)[op] >= times


async def killed_and_run_again(
    nursery: Nursery,
    home: Path,
    plan: Plan,
    form: str,
    moment: Callable[[Emulator], Moment],
    *,
    count: int = 30,
    **settings: Any,
) -> Emulator:
    """Kill a process of explicit keys and tickets at a moment, and run it again: all answers, and one bill each."""
    keyed, tickets = prompts(count, "keyed"), prompts(count, "ticket")
    calls = asks("keyed", keyed) + asks("ticket", tickets)
    async with TimedEmulator(plan) as emulator:
        first = order(emulator, home, form, *calls, settings=settings)
        assert (await nursery.run(first, moment(emulator))).killed
        emulator.let_pass()
        emulator.plan = Plan(latency_s=0.05)
        later = {key: value for key, value in settings.items() if not key.endswith("_s")}
        life = await nursery.run(order(emulator, home, form, *calls, settings=later))
        assert answered(life) == sorted(keyed + tickets)
        assert emulator.ledger().twice == []
        assert_billed_once(emulator, keyed + tickets)
    return emulator


# -- explicit keys and tickets


@FORMS
async def test_killed_while_requests_wait(form: str, nursery: Nursery, tmp_path: Path) -> None:
    def moment(_: Emulator) -> Moment:
        return lambda said: count_of(said, "acknowledged") == 30

    emulator = await killed_and_run_again(nursery, tmp_path, Plan(), form, moment, **WAITING)
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize("op", ["upload.start", "upload.finalize"])
async def test_killed_in_an_upload(op: str, nursery: Nursery, tmp_path: Path) -> None:
    plan = Plan(faults={f"{op}.slow": SLOW})
    await killed_and_run_again(nursery, tmp_path, plan, "file", lambda emulator: called(emulator, op))


@FORMS
async def test_killed_before_the_answer_to_a_create(form: str, nursery: Nursery, tmp_path: Path) -> None:
    plan = Plan(faults={"create.slow": SLOW})
    emulator = await killed_and_run_again(nursery, tmp_path, plan, form, lambda emulator: called(emulator, "create"))
    assert rows_sent(emulator) == 60
    assert ops_of(emulator)["list"] >= 1


@FORMS
async def test_killed_while_it_looks_for_a_job_that_was_created_without_telling(
    form: str, nursery: Nursery, tmp_path: Path
) -> None:
    plan = Plan(faults={"create.dropped_after_apply": Fault(count=1), "list.503": Fault()})
    emulator = await killed_and_run_again(nursery, tmp_path, plan, form, lambda emulator: called(emulator, "list"))
    assert rows_sent(emulator) == 60


@FORMS
async def test_killed_while_it_looks_for_a_job_that_was_never_created(
    form: str, nursery: Nursery, tmp_path: Path
) -> None:
    plan = Plan(faults={"create.503": Fault(count=1), "list.503": Fault(after=1)})
    emulator = await killed_and_run_again(nursery, tmp_path, plan, form, lambda emulator: called(emulator, "list", 2))
    assert rows_sent(emulator) == 60


async def test_killed_between_the_revocation_of_an_input_and_the_last_look(nursery: Nursery, tmp_path: Path) -> None:
    plan = Plan(faults={"create.503": Fault(count=1), "files.delete.slow": SLOW})
    revoked: Callable[[Emulator], Moment] = partial(called, op="files.delete")
    emulator = await killed_and_run_again(nursery, tmp_path, plan, "file", revoked)
    assert rows_sent(emulator) == 60


@FORMS
async def test_killed_while_a_job_runs(form: str, nursery: Nursery, tmp_path: Path) -> None:
    plan = Plan(latency_s=HOUR_S)
    emulator = await killed_and_run_again(nursery, tmp_path, plan, form, lambda emulator: called(emulator, "get"))
    assert rows_sent(emulator) == 60


@pytest.mark.parametrize(("form", "answers"), [("inline", 1), ("file", 1), ("file", 1_000)])
async def test_killed_while_results_stream(form: str, answers: int, nursery: Nursery, tmp_path: Path) -> None:
    def moment(_: Emulator) -> Moment:
        return lambda said: count_of(said, "answered") >= answers

    settings = ROOMY | ({"inline_cost_max_usd": "1000"} if form == "inline" else {})
    emulator = await killed_and_run_again(nursery, tmp_path, Plan(), form, moment, count=1_500, **settings)
    assert rows_sent(emulator) == 3_000


# -- a create that takes effect after it was looked for


@pytest.mark.parametrize("killed", [False, True])
async def test_a_doubled_job_is_counted_and_only_inline_is_there_any(
    killed: bool, nursery: Nursery, tmp_path: Path
) -> None:
    keyed = prompts(5, "keyed")
    late = Plan(faults={"create.applied_later": Fault(count=1, seconds=0.4)})
    for form, doubles in (("inline", 1), ("file", 0)):
        home = tmp_path / form
        async with Emulator(late) as emulator:
            calls = order(
                emulator, home, form, *asks("keyed", keyed), settings={"sweep_s": 1.0}, stay_s=1.5 if doubles else 0.5
            )
            if killed:
                assert (await nursery.run(calls, called(emulator, "list"))).killed
            life = await nursery.run(calls)
            assert answered(life) == keyed
            assert life.of("done")[0]["doubles"] == doubles
            assert emulator.ledger().twice == (keyed if doubles else [])


# -- bare awaits


@FORMS
async def test_bare_calls_of_a_killed_process_are_adopted_by_the_same_calls_again(
    form: str, nursery: Nursery, tmp_path: Path
) -> None:
    bare = prompts(30)
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        again = order(emulator, tmp_path, form, *asks("bare", bare))
        assert (await nursery.run(again, called(emulator, "get"))).killed
        emulator.let_pass()
        life = await nursery.run(again)
        assert answered(life) == sorted(bare)
        assert all(word["reused"] for word in life.of("answered"))
        assert_billed_once(emulator, bare)


async def test_bare_calls_of_a_process_killed_before_they_were_sent_wait_to_be_claimed(
    nursery: Nursery, tmp_path: Path
) -> None:
    bare = prompts(30)
    async with Emulator() as emulator:
        first = order(
            emulator, tmp_path, "inline", *asks("bare", bare), Ask(how="ticket", text="ticket"), settings=WAITING
        )
        await nursery.run(first, lambda said: count_of(said, "acknowledged"))
        assert ops_of(emulator)["create"] == 0
        life = await nursery.run(order(emulator, tmp_path, "inline"))
        assert life.of("opened")[0]["parked"] == life.of("done")[0]["parked"] == 30
        assert_billed_once(emulator, ["ticket"])
        life = await nursery.run(order(emulator, tmp_path, "inline", *asks("bare", bare[:20])))
        assert answered(life) == sorted(bare[:20])
        assert life.of("done")[0]["parked"] == 10
        assert_billed_once(emulator, ["ticket", *bare[:20]])


async def test_bare_calls_of_a_process_killed_while_results_stream_are_paid_again_only_where_they_were_given(
    nursery: Nursery, tmp_path: Path
) -> None:
    bare = prompts(3_000)
    async with Emulator() as emulator:
        again = order(emulator, tmp_path, "file", *asks("bare", bare), settings=ROOMY)
        first = await nursery.run(again, lambda said: count_of(said, "answered"))
        assert answered(await nursery.run(again)) == sorted(bare)
        times = billed(emulator, bare)
        assert max(times) <= 2
        assert min(times) == 1
        # Given by carpool to its caller, which may have been killed before it could say so.
        assert sum(count > 1 for count in times) <= len(first.of("answered")) + 1_000


async def test_what_the_first_form_of_a_batch_was_is_no_matter_for_the_process_that_goes_on(
    nursery: Nursery, tmp_path: Path
) -> None:
    keyed = prompts(10)
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        await nursery.run(order(emulator, tmp_path, "file", *asks("keyed", keyed)), called(emulator, "get"))
        emulator.let_pass()
        assert answered(await nursery.run(order(emulator, tmp_path, "inline", *asks("keyed", keyed)))) == keyed
        assert_billed_once(emulator, keyed)


async def test_a_killed_process_leaves_its_home_to_the_next_one_at_once(nursery: Nursery, tmp_path: Path) -> None:
    home, tickets = tmp_path / "home", prompts(3, "ticket")
    async with Emulator() as emulator:
        for text in tickets:
            once = order(emulator, home, "inline", Ask(how="ticket", text=text), settings=WAITING)
            await nursery.run(once, lambda said: count_of(said, "acknowledged"))
        assert [path.name for path in home.glob("slot-*")] == ["slot-0"]
        life = await nursery.run(order(emulator, home, "inline", results=tickets))
        assert answered(life) == tickets
