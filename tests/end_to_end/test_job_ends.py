"""Every way in which a job can end: each await ends with the right value or a typed error, and nothing hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import DeadlineExceeded, RequestFailed, RequestRejected, ResultMissing
from carpool.emulator import Emulator, Fault, Plan, expected_text

from .support import (
    FORMS,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    billed,
    jobs_of,
    opened,
    ops_of,
    prompts,
    rows_of_jobs,
    settled,
    until,
)


async def errors_of(emulator: Emulator, count: int, home: Path | None = None, **settings: Any) -> list[BaseException]:
    """Ask for some prompts, insist that each fails, and return why."""
    async with opened(emulator, home, **settings) as client:
        outcomes = await settled(*(client.generate(MODEL, text) for text in prompts(count)))
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(errors) == count
    assert len({id(error) for error in errors}) == count
    return errors


@FORMS
async def test_a_succeeded_job_answers_every_call(form: dict[str, Any], tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.1)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert_billed_once(emulator, prompts(20))


@FORMS
async def test_of_a_partially_succeeded_job_the_rest_is_sent_again(form: dict[str, Any]) -> None:
    plan = Plan(faults={"job.partially_succeeded": Fault(count=1, share=0.6)})
    async with Emulator(plan) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert rows_of_jobs(emulator) == [20, 8]
        assert_billed_once(emulator, prompts(20))


@FORMS
async def test_jobs_that_only_ever_succeed_in_part_end_in_errors_after_the_attempts(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"job.partially_succeeded": Fault(share=0.5)})) as emulator:
        async with opened(emulator, **form, attempts_max=3) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in prompts(8)))
        assert rows_of_jobs(emulator) == [8, 4, 2]
        assert_billed_once(emulator, prompts(7))
    assert_own(prompts(7), outcomes[:7])
    assert type(outcomes[7]) is RequestFailed


@FORMS
@pytest.mark.parametrize("end", ["failed", "expired", "cancelled"])
async def test_a_job_that_is_lost_is_sent_again(end: str, form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={f"job.{end}": Fault(count=1, share=0.0)})) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
            await client.drain()
            assert (client.stats().retried, client.stats().jobs_created) == (20, 2)
        assert [job.state for job in jobs_of(emulator)] == [end.upper(), "SUCCEEDED"]
        assert_billed_once(emulator, prompts(20))


@FORMS
@pytest.mark.parametrize("end", ["failed", "expired", "cancelled"])
async def test_calls_whose_jobs_are_always_lost_fail_after_their_attempts(end: str, form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={f"job.{end}": Fault(share=0.0)})) as emulator:
        errors = await errors_of(emulator, 10, **form, attempts_max=3)
        assert rows_of_jobs(emulator) == [10, 10, 10]
        names = {job.name for job in jobs_of(emulator)}
        assert emulator.ledger().rows_billed == 0
    for error in errors:
        assert type(error) is RequestFailed
        assert error.code == 13
        assert error.job in names
        assert error.message is not None
        assert "failed without error" in error.message


@FORMS
async def test_of_a_cancelled_job_what_was_done_is_taken_and_the_rest_sent_again(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(faults={"job.cancelled": Fault(count=1, share=0.25)})) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert rows_of_jobs(emulator) == [20, 15]
        assert_billed_once(emulator, prompts(20))


@FORMS
async def test_a_cancelled_job_that_shows_no_output_is_sent_again_as_a_whole(form: dict[str, Any]) -> None:
    plan = Plan(cancelled_output=False, faults={"job.cancelled": Fault(count=1, share=0.25)})
    async with Emulator(plan) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        assert rows_of_jobs(emulator) == [20, 20]
        assert billed(emulator, prompts(20)) == [2] * 5 + [1] * 15


@FORMS
@pytest.mark.parametrize(
    "words", ["Error on line 4: bad", "Unknown name \"x\" at 'batch.input_config.requests.requests[3]'"]
)
async def test_a_job_that_failed_for_one_named_row_fails_that_row_and_sends_the_rest(
    words: str, form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(faults={"job.failed": Fault(count=1, code=3, message=words)})) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            outcomes = await settled(*(client.generate(MODEL, text, key=text) for text in prompts(10)))
        assert rows_of_jobs(emulator) == [10, 9]
        rejected = outcomes.pop(3)
        assert type(rejected) is RequestRejected
        assert (rejected.code, rejected.message) == (3, words)
        assert_own([text for text in prompts(10) if text != "prompt 3"], outcomes)
        assert emulator.ledger().rows_billed == 9


@FORMS
async def test_a_job_that_failed_for_a_row_it_does_not_name_is_halved(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"job.failed": Fault(count=3, code=3, message="a row is bad")})) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(8), await ask_all(client, prompts(8)))
        assert sorted(rows_of_jobs(emulator)) == [2, 2, 2, 2, 4, 4, 8]
        assert_billed_once(emulator, prompts(8))


@FORMS
async def test_jobs_that_always_fail_for_bad_input_reject_each_row_in_the_end(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"job.failed": Fault(code=3, message="all are bad")})) as emulator:
        errors = await errors_of(emulator, 4, **form)
        assert sorted(rows_of_jobs(emulator)) == [1, 1, 1, 1, 2, 2, 4]
    assert all(type(error) is RequestRejected and error.code == 3 for error in errors)


@FORMS
async def test_output_that_comes_late_is_waited_for(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"output.late": Fault(count=1, seconds=0.3)})) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(10), await ask_all(client, prompts(10)))
        assert rows_of_jobs(emulator) == [10]
        assert_billed_once(emulator, prompts(10))


@FORMS
async def test_output_that_never_comes_is_missing_after_its_grace(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"output.late": Fault(seconds=3_600.0)})) as emulator:
        errors = await errors_of(emulator, 5, **form, output_grace_s=0.1, attempts_max=2)
        assert rows_of_jobs(emulator) == [5, 5]
    assert all(type(error) is ResultMissing for error in errors)


@FORMS
@pytest.mark.parametrize("stuck", ["stuck_pending", "stuck_running"])
async def test_a_call_with_a_deadline_ends_at_it_while_its_job_is_stuck(stuck: str, form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={f"job.{stuck}": Fault()})) as emulator, opened(emulator, **form) as client:
        outcomes = await settled(*(client.generate(MODEL, text, key=f"k {text}", deadline=0.4) for text in prompts(5)))
        assert ops_of(emulator)["create"] == 1
    for text, error in zip(prompts(5), outcomes, strict=True):
        assert type(error) is DeadlineExceeded
        assert isinstance(error, TimeoutError)
        assert error.key == f"k {text}"


async def test_a_deadline_ends_its_own_call_and_no_other() -> None:
    async with Emulator(Plan(latency_s=1.0)) as emulator:
        async with opened(emulator, jobs_max=1) as client:
            hurried, patient, joined_hurried, joined = await settled(
                client.generate(MODEL, "one", deadline=0.3),
                client.generate(MODEL, "two"),
                client.generate(MODEL, "three", key="three", deadline=0.3),
                client.generate(MODEL, "three", key="three"),
            )
        assert rows_of_jobs(emulator) == [3]
    assert type(hurried) is type(joined_hurried) is DeadlineExceeded
    assert_own(["two", "three"], [patient, joined])


async def test_a_deadline_ends_a_call_that_was_never_sent_and_takes_it_out() -> None:
    async with Emulator(Plan(faults={"job.stuck_running": Fault()})) as emulator:
        async with opened(emulator, jobs_max=1) as client:
            first = asyncio.create_task(client.generate(MODEL, "holds the only job", deadline=0.5))
            await until(lambda: rows_of_jobs(emulator) == [1], "the only job")
            late = [client.generate("gemini-2.5-flash", text, deadline=0.3, key=text) for text in prompts(3)]
            outcomes = await settled(first, *late)
            await until(lambda: client.stats().waiting == 0, "overdue calls are taken out")
        assert rows_of_jobs(emulator) == [1]
    assert all(type(error) is DeadlineExceeded for error in outcomes)


async def test_a_result_that_missed_its_deadline_can_be_picked_up_by_its_key(tmp_path: Path) -> None:
    async with Emulator(Plan(latency_s=0.8)) as emulator:
        async with opened(emulator, tmp_path) as client:
            with pytest.raises(DeadlineExceeded) as caught:
                await client.generate(MODEL, "slow", key="mine", deadline=0.3)
            assert caught.value.key == "mine"
            answer = await client.result("mine")
        assert_own(["slow"], [answer])
        assert_billed_once(emulator, ["slow"])


@FORMS
async def test_a_stuck_job_that_expires_is_sent_again(form: dict[str, Any]) -> None:
    plan = Plan(job_expiry_s=0.3, faults={"job.stuck_running": Fault(count=1)})
    async with Emulator(plan) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(5), await ask_all(client, prompts(5)))
        assert [job.state for job in jobs_of(emulator)] == ["EXPIRED", "SUCCEEDED"]


@FORMS
@pytest.mark.parametrize("prefix", ["BATCH_STATE", "JOB_STATE"])
@pytest.mark.parametrize("where", ["both", "response", "metadata"])
async def test_states_and_outputs_are_read_wherever_the_server_puts_them(
    where: Any, prefix: Any, form: dict[str, Any]
) -> None:
    plan = Plan(output_only_in=where, state_prefix=prefix, faults={"job.partially_succeeded": Fault(count=1)})
    async with Emulator(plan) as emulator, opened(emulator, **form) as client:
        assert_own(prompts(6), await ask_all(client, prompts(6)))


async def test_a_file_job_that_answers_inline_is_read_all_the_same() -> None:
    async with Emulator(Plan(faults={"output.inline_from_file": Fault()})) as emulator:
        async with opened(emulator, inline_cost_max_usd=0) as client:
            assert_own(prompts(600), await ask_all(client, prompts(600)))
        assert (ops_of(emulator)["upload.start"], ops_of(emulator)["download"]) == (1, 0)
        assert_billed_once(emulator, prompts(600))


async def test_jobs_run_beside_each_other() -> None:
    async with Emulator(Plan(latency_s=0.5)) as emulator:
        async with opened(emulator, batch_requests_max=2, jobs_max=10) as client:
            assert_own(prompts(20), await ask_all(client, prompts(20)))
        starts = [job.created_at for job in jobs_of(emulator)]
        assert len(starts) == 10
        assert max(starts) < min(starts) + 0.5, "the last job began after the first had ended"


async def test_no_more_jobs_than_allowed_run_at_once() -> None:
    async with Emulator(Plan(latency_s=0.1, jobs_max=2)) as emulator:
        async with opened(emulator, batch_requests_max=1, jobs_max=2) as client:
            assert_own(prompts(8), await ask_all(client, prompts(8)))
        assert ops_of(emulator)["create"] == 8, "the server refused a job"


async def test_what_a_long_text_says_survives_the_way_there_and_back(tmp_path: Path) -> None:
    texts = [
        f"{index}\u2028\u2029\u0085\r\n\x1e '\"\\ \U0001f9d1\u200d\U0001f680 {'long ' * index * 50}"
        for index in range(40)
    ]
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, inline_cost_max_usd=0, segment_bytes=4_096) as client:
            answers = await ask_all(client, texts)
        assert [answer.text for answer in answers] == [expected_text(text) for text in texts]


@FORMS
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"job.failed": Fault()}, id="failed"),
        pytest.param({"job.failed": Fault(code=3, message="Error on line 1: bad")}, id="failed for a row"),
        pytest.param({"job.expired": Fault()}, id="expired"),
        pytest.param({"output.late": Fault(seconds=3_600.0)}, id="missing"),
        pytest.param({"row.error": Fault(code=13)}, id="row failed"),
        pytest.param({"row.error": Fault(code=400)}, id="row refused"),
        pytest.param({"create.400": Fault(message="requests[0] is bad")}, id="create refused for a row"),
        pytest.param({"create.404": Fault()}, id="create refused"),
    ],
)
async def test_an_error_names_the_key_of_its_call(faults: dict[str, Fault], form: dict[str, Any]) -> None:
    settings = {**form, "attempts_max": 2, "output_grace_s": 0.05}
    async with Emulator(Plan(faults=faults)) as emulator, opened(emulator, **settings) as client:
        outcomes = await settled(*(client.generate(MODEL, text, key=text) for text in prompts(3)))
        (unkeyed,) = await settled(client.generate(MODEL, "no key"))
    assert [getattr(error, "key", None) for error in outcomes] == prompts(3)
    assert all(text in str(error) for text, error in zip(prompts(3), outcomes, strict=True))
    assert getattr(unkeyed, "key", None)
