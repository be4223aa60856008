"""A server that stumbles: calls that fail, or that take effect without telling. One live job comes of it, never two."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import RequestFailed, RequestRejected, SubmitAmbiguous
from carpool.emulator import Emulator, Fault, Plan

from .support import (
    API_KEY,
    FILE,
    FORMS,
    INLINE,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    calls_of,
    jobs_of,
    opened,
    ops_of,
    prompts,
    refused,
    rows_of_jobs,
    settled,
    until,
)

CHUNKED: dict[str, Any] = {**FILE, "upload_chunk_bytes": 262_144}
LARGE = [f"{text} {'words ' * 9_000}" for text in prompts(15)]
"""Prompts whose file takes four chunks."""


async def answered_by_one_job(plan: Plan, home: Path | None, texts: list[str], **settings: Any) -> Emulator:
    """Ask for all under a plan; insist on own answers, one job and one bill; return the emulator, stopped."""
    async with Emulator(plan) as emulator:
        async with opened(emulator, home, **settings) as client:
            assert_own(texts, await ask_all(client, texts))
        assert rows_of_jobs(emulator) == [len(texts)]
        assert_billed_once(emulator, texts)
    return emulator


# -- get


@FORMS
@pytest.mark.parametrize("effect", ["503", "500", "429", "504", "503_empty", "502_html", "dropped"])
async def test_a_poll_that_fails_is_no_verdict(effect: str, form: dict[str, Any]) -> None:
    plan = Plan(faults={f"get.{effect}": Fault(count=4)})
    emulator = await answered_by_one_job(plan, None, prompts(20), **form)
    assert ops_of(emulator)["get"] > 4


@FORMS
async def test_a_job_that_vanishes_from_sight_is_found_again_by_its_name(form: dict[str, Any], tmp_path: Path) -> None:
    plan = Plan(latency_s=0.3, faults={"get.404": Fault(count=1)})
    emulator = await answered_by_one_job(plan, tmp_path, prompts(20), **form)
    assert ops_of(emulator)["list"] >= 1


@FORMS
async def test_a_job_that_was_deleted_by_others_is_sent_again(form: dict[str, Any]) -> None:
    async with Emulator(Plan(latency_s=0.5)) as emulator:
        async with opened(emulator, **form) as client:
            calls = settled(*(client.generate(MODEL, text) for text in prompts(5)))

            async def delete_first() -> None:
                while not client.stats().jobs_created:
                    await client.flush()
                await client.jobs.delete(jobs_of(emulator)[0].name)
                emulator.plan = Plan()

            outcomes, _ = await calls_and(calls, delete_first())
        assert_own(prompts(5), outcomes)
        assert rows_of_jobs(emulator)[-1] == 5


async def calls_and(calls: Any, other: Any) -> tuple[list[Any], Any]:
    """Await calls and something beside them."""
    first, second = await settled(calls, other)
    assert isinstance(first, list), first
    assert not isinstance(second, BaseException), second
    return first, second


# -- create


@FORMS
@pytest.mark.parametrize("count", [1, 3])
async def test_a_create_refused_for_quota_is_tried_again_later(count: int, form: dict[str, Any]) -> None:
    plan = Plan(faults={"create.429": Fault(count=count)})
    emulator = await answered_by_one_job(plan, None, prompts(20), **form)
    assert [call.status for call in calls_of(emulator, "create")] == [429] * count + [200]
    assert ops_of(emulator)["upload.start"] == (form is FILE), "the file that is there already was sent again"
    assert ops_of(emulator)["list"] == 0


@FORMS
async def test_a_create_above_the_server_s_limit_of_jobs_waits_its_turn(form: dict[str, Any]) -> None:
    async with Emulator(Plan(latency_s=0.05, jobs_max=1)) as emulator:
        async with opened(emulator, **form, batch_requests_max=5) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert sorted(rows_of_jobs(emulator)) == [5] * 4
        assert_billed_once(emulator, prompts(20))


@FORMS
@pytest.mark.parametrize("effect", ["503", "500", "504", "503_empty", "502_html", "dropped"])
async def test_a_create_of_unknown_fate_that_took_no_effect_is_looked_for_before_it_is_sent_again(
    effect: str, form: dict[str, Any]
) -> None:
    plan = Plan(faults={f"create.{effect}": Fault(count=1)})
    emulator = await answered_by_one_job(plan, None, prompts(20), **form)
    ops = [call.op for call in emulator.requests if call.op in ("create", "list", "files.delete")]
    looks = ["list"] * 2 if form is INLINE else ["list", "list", "files.delete", "list"]
    assert ops[: len(looks) + 2] == ["create", *looks, "create"]
    assert jobs_of(emulator)[0].display_name.endswith(".2")


@FORMS
@pytest.mark.parametrize("effect", ["dropped_after_apply", "500_after_apply"])
async def test_a_create_that_took_effect_without_telling_is_adopted(
    effect: str, form: dict[str, Any], tmp_path: Path
) -> None:
    plan = Plan(faults={f"create.{effect}": Fault(count=1)})
    emulator = await answered_by_one_job(plan, tmp_path, prompts(20), **form)
    assert (ops_of(emulator)["create"], ops_of(emulator)["list"]) == (1, 1)


@FORMS
async def test_a_create_that_took_effect_and_is_listed_late_is_adopted_too(form: dict[str, Any]) -> None:
    plan = Plan(list_lag_s=0.2, faults={"create.dropped_after_apply": Fault(count=1)})
    emulator = await answered_by_one_job(plan, None, prompts(20), **form, lookup_wait_s=0.5)
    assert ops_of(emulator)["create"] == 1


@FORMS
async def test_the_list_is_read_to_its_last_page_and_asked_again_when_it_fails(form: dict[str, Any]) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, batch_requests_max=1, jobs_max=150) as others:
            assert_own(prompts(130, "other"), await ask_all(others, prompts(130, "other")))
        emulator.plan = Plan(
            faults={
                "create.dropped_after_apply": Fault(count=1),
                "list.503": Fault(count=1),
                "list.502_html": Fault(count=1),
                "list.dropped": Fault(after=1, count=1),
            }
        )
        async with opened(emulator, **form) as client:
            assert_own(prompts(5), await ask_all(client, prompts(5)))
        assert rows_of_jobs(emulator) == [1] * 130 + [5]
        assert_billed_once(emulator, [*prompts(130, "other"), *prompts(5)])


@FORMS
async def test_creates_that_never_work_end_in_an_error_after_the_attempts(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"create.503": Fault()})) as emulator:
        async with opened(emulator, **form, job_attempts_max=2) as client:
            errors = await refused(SubmitAmbiguous, *(client.generate(MODEL, text) for text in prompts(3)))
        assert ops_of(emulator)["create"] == 2
        assert rows_of_jobs(emulator) == []
    assert all(str(error) for error in errors)


@FORMS
async def test_a_create_refused_for_good_rejects_its_calls(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"create.403": Fault(message="Batch is disabled for this project.")})) as emulator:
        async with opened(emulator, **form) as client:
            errors = await refused(RequestRejected, *(client.generate(MODEL, text) for text in prompts(3)))
        assert ops_of(emulator)["create"] == 1
    assert {(error.code, error.message) for error in errors} == {(403, "Batch is disabled for this project.")}


async def test_a_create_whose_input_is_gone_uploads_it_again() -> None:
    words = "You do not have permission to access the File x or it may not exist."
    plan = Plan(faults={"create.403": Fault(count=1, message=words)})
    emulator = await answered_by_one_job(plan, None, prompts(20), **FILE)
    assert (ops_of(emulator)["create"], ops_of(emulator)["upload.start"]) == (2, 2)


async def test_an_upload_whose_file_lapses_before_the_create_is_sent_again() -> None:
    plan = Plan(file_life_s=0.15, faults={"create.429": Fault(count=3)})
    async with Emulator(plan) as emulator:
        async with opened(emulator, **FILE, quota_retry_min_s=0.1) as client:
            calls = settled(*(client.generate(MODEL, text) for text in prompts(5)))

            async def mend() -> None:
                while ops_of(emulator)["create"] < 3:
                    await client.flush()
                emulator.world.plan = Plan(file_life_s=60.0)

            outcomes, _ = await calls_and(calls, mend())
        assert_own(prompts(5), outcomes)
        assert_billed_once(emulator, prompts(5))


# -- upload


@pytest.mark.parametrize("effect", ["503", "500", "429", "503_empty", "502_html", "dropped", "dropped_after_apply"])
@pytest.mark.parametrize("call", ["start", "chunk", "finalize"])
async def test_an_upload_goes_on_where_it_broke(call: str, effect: str) -> None:
    plan = Plan(upload_granularity_bytes=262_144, faults={f"upload.{call}.{effect}": Fault(count=1)})
    emulator = await answered_by_one_job(plan, None, LARGE, **CHUNKED)
    ops = ops_of(emulator)
    assert ops["create"] == 1
    assert ops["upload.start"] == (2 if call == "start" else 1)
    assert (ops["upload.query"] > 0) == (call != "start")


@pytest.mark.parametrize("call", ["chunk", "finalize"])
async def test_a_chunk_that_breaks_off_in_the_middle_is_not_sent_again_from_its_start(call: str) -> None:
    plan = Plan(upload_granularity_bytes=262_144, faults={f"upload.{call}.dropped_midway": Fault(count=1)})
    emulator = await answered_by_one_job(plan, None, LARGE, **CHUNKED)
    chunks = calls_of(emulator, "upload.chunk", "upload.finalize")
    broken = next(chunk for chunk in chunks if chunk.status == 0)
    whole = await answered_by_one_job(Plan(upload_granularity_bytes=262_144), None, LARGE, **CHUNKED)
    size = sum(chunk.body_bytes for chunk in calls_of(whole, "upload.chunk", "upload.finalize"))
    assert size < sum(chunk.body_bytes for chunk in chunks) <= size + broken.body_bytes // 2 + 1
    assert ops_of(emulator)["upload.query"] == 1


@pytest.mark.parametrize("every", [2, 3])
async def test_an_upload_that_breaks_again_and_again_gets_through_as_long_as_it_gets_further(
    every: int, tmp_path: Path
) -> None:
    texts = [f"{index} {'words ' * 9_000}" for index in range(60)]
    faults = {
        "upload.chunk.dropped_midway": Fault(every=every),
        "upload.query.503": Fault(every=3),
        "upload.finalize.dropped_after_apply": Fault(count=1),
    }
    plan = Plan(upload_granularity_bytes=262_144, faults=faults)
    emulator = await answered_by_one_job(plan, tmp_path, texts, **CHUNKED)
    assert ops_of(emulator)["upload.start"] == 1


async def test_an_upload_that_never_works_ends_in_an_error() -> None:
    async with Emulator(Plan(faults={"upload.start.503": Fault()})) as emulator:
        async with opened(emulator, **FILE, unreachable_s=0.3) as client:
            await refused(RequestFailed, *(client.generate(MODEL, text) for text in prompts(3)))
        assert rows_of_jobs(emulator) == []


async def test_the_inputs_of_jobs_are_deleted_from_the_server_once_they_are_done() -> None:
    async with Emulator() as emulator:
        async with opened(emulator, **FILE) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
            await client.drain()
            while not ops_of(emulator)["files.delete"]:
                await client.flush()
        (deleted,) = calls_of(emulator, "files.delete")
        assert deleted.status == 200


# -- output


@pytest.mark.parametrize("effect", ["503", "500", "429", "503_empty", "502_html", "dropped"])
async def test_a_download_that_fails_is_tried_again(effect: str) -> None:
    plan = Plan(faults={f"download.{effect}": Fault(count=3)})
    emulator = await answered_by_one_job(plan, None, prompts(200), **FILE)
    assert ops_of(emulator)["download"] > 3


async def test_output_that_has_vanished_for_good_is_sent_again(tmp_path: Path) -> None:
    async with Emulator(Plan(faults={"download.403": Fault()})) as emulator:
        async with opened(emulator, tmp_path, **FILE, output_grace_s=0.05) as client:
            answers = asyncio.create_task(ask_all(client, prompts(10)))
            await until(lambda: len(rows_of_jobs(emulator)) >= 2, "another job")
            emulator.plan = Plan()
            assert_own(prompts(10), await answers)
        assert len(rows_of_jobs(emulator)) >= 2


# -- all at once


@FORMS
@pytest.mark.parametrize("seed", range(4))
async def test_a_server_that_stumbles_at_every_step_gives_every_answer_once(
    seed: int, form: dict[str, Any], tmp_path: Path
) -> None:
    often = Fault(probability=0.25)
    faults = {
        f"{call}.{effect}": often
        for call in ("get", "list", "download", "upload.start", "upload.chunk", "upload.finalize", "upload.query")
        for effect in ("503", "502_html", "dropped")
    }
    faults |= {
        "create.429": often,
        "create.dropped": often,
        "create.dropped_after_apply": often,
        "create.500_after_apply": often,
        "upload.chunk.dropped_midway": often,
        "upload.finalize.dropped_after_apply": often,
        "files.delete.503": often,
    }
    plan = Plan(latency_s=(0.0, 0.05), upload_granularity_bytes=262_144, faults=faults)
    texts = prompts(200)
    async with Emulator(plan, seed=seed) as emulator:
        settings = {**form, "batch_requests_max": 50, "job_attempts_max": 50, "upload_chunk_bytes": 262_144}
        async with opened(emulator, tmp_path, **settings) as client:
            assert_own(texts, await ask_all(client, texts))
        assert_billed_once(emulator, texts)
        assert rows_of_jobs(emulator) == [50] * 4


@FORMS
async def test_what_the_server_says_about_the_key_never_shows_it(form: dict[str, Any]) -> None:
    words = f"The key {API_KEY} may not do this."
    async with (
        Emulator(
            Plan(faults={"create.403": Fault(message=words), "upload.start.403": Fault(message=words)})
        ) as emulator,
        opened(emulator, **form) as client,
    ):
        (error,) = await refused(RequestRejected, client.generate(MODEL, "a"))
    assert API_KEY not in f"{error} {error!r} {error.message} {error.details}"
    assert "may not do this" in str(error)
