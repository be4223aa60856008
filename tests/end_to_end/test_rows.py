"""What single rows of an output can be: missing, doubled, unknown, garbled, cut, without key. A bad row fails alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import CarpoolError, GenerateResponse, RequestFailed, ResultMissing, SubmitAmbiguous
from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values

from .support import (
    EMBED_MODEL,
    FILE,
    FORMS,
    INLINE,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    billed,
    opened,
    prompts,
    rows_of_jobs,
    settled,
)

HARMLESS = ["row.doubled", "row.doubled_other", "row.unknown_key", "output.shuffled"]
"""What costs no row its answer."""
LOSSES = ["row.missing", "row.garbled", "row.key_dropped", "output.truncated"]
"""What costs a row its answer."""


@FORMS
@pytest.mark.parametrize("fault", HARMLESS)
async def test_rows_that_are_doubled_or_not_ours_change_no_answer(fault: str, form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={fault: Fault()})) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(30), await ask_all(client, prompts(30)))
            keyed = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(30)))
            assert_own(prompts(30), keyed)
        assert rows_of_jobs(emulator) == [30, 30]
        assert billed(emulator, prompts(30)) == [2] * 30


@FORMS
async def test_of_a_doubled_row_with_two_answers_the_first_counts_for_good(
    form: dict[str, Any], tmp_path: Path
) -> None:
    async with Emulator(Plan(faults={"row.doubled_other": Fault(), "output.shuffled": Fault()})) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            first = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(30)))
        async with opened(emulator, tmp_path, **form) as client:
            second = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in prompts(30)))
        assert_own(prompts(30), first)
        assert [answer.raw for answer in second] == [answer.raw for answer in first]
        assert rows_of_jobs(emulator) == [30]


@FORMS
async def test_missing_rows_are_sent_again_and_only_those(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"row.missing": Fault(every=5, count=6)})) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(30), await ask_all(client, prompts(30)))
        assert rows_of_jobs(emulator) == [30, 6]


@FORMS
async def test_a_row_that_is_always_missing_ends_as_such(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"row.missing": Fault()})) as emulator:
        async with opened(emulator, **form, attempts_max=3, output_grace_s=0.05) as client:
            outcomes = await settled(*(client.generate(MODEL, text, key=text) for text in prompts(4)))
        assert rows_of_jobs(emulator) == [4, 4, 4]
    assert [type(error) for error in outcomes] == [ResultMissing] * 4


async def test_garbled_lines_cost_only_their_own_rows() -> None:
    async with Emulator(Plan(faults={"row.garbled": Fault(every=3, count=10)})) as emulator:
        async with opened(emulator, **FILE) as client:
            assert_own(prompts(30), await ask_all(client, prompts(30)))
        assert rows_of_jobs(emulator) == [30, 10]


async def test_a_cut_last_line_costs_only_its_own_row() -> None:
    async with Emulator(Plan(faults={"output.truncated": Fault(count=1)})) as emulator:
        async with opened(emulator, **FILE) as client:
            assert_own(prompts(30), await ask_all(client, prompts(30)))
        assert rows_of_jobs(emulator) == [30, 1]
        assert billed(emulator, prompts(30)) == [1] * 29 + [2]


async def test_a_file_whose_only_line_is_always_cut_is_never_taken_for_complete() -> None:
    async with Emulator(Plan(faults={"output.truncated": Fault()})) as emulator:
        async with opened(emulator, **FILE, attempts_max=2) as client:
            (error,) = await settled(client.generate(MODEL, "prompt"))
        assert rows_of_jobs(emulator) == [1, 1]
    assert isinstance(error, ResultMissing | RequestFailed)


@FORMS
async def test_rows_without_their_keys_are_never_matched_by_guess(form: dict[str, Any]) -> None:
    plan = Plan(faults={"row.key_dropped": Fault(count=10), "output.shuffled": Fault()})
    async with Emulator(plan) as emulator:
        async with opened(emulator, **form) as client:
            assert_own(prompts(30), await ask_all(client, prompts(30)))
        assert rows_of_jobs(emulator) == [30, 10]


async def test_inline_rows_without_any_key_are_matched_by_position_where_the_setting_says_so() -> None:
    async with Emulator(Plan(faults={"row.key_dropped": Fault()})) as emulator:
        async with opened(emulator, **INLINE, match_by_position=True, attempts_max=1) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in prompts(30)))
        assert rows_of_jobs(emulator) == [30]
    assert_own(prompts(30), outcomes)


@FORMS
async def test_errors_missing_rows_and_answers_of_one_job_go_each_to_their_own_call(
    form: dict[str, Any], tmp_path: Path
) -> None:
    texts = [f"{text} [[error:400:no]]" if index % 7 == 0 else text for index, text in enumerate(prompts(100))]
    faults = {
        "row.error": Fault(every=9, count=5, code=14),
        "row.missing": Fault(every=11, count=4),
        "row.doubled": Fault(every=4),
        "row.unknown_key": Fault(every=13),
        "output.shuffled": Fault(),
    }
    async with Emulator(Plan(faults=faults)) as emulator, opened(emulator, tmp_path, **form) as client:
        outcomes = await settled(*(client.generate(MODEL, text) for text in texts))
    for index, (text, outcome) in enumerate(zip(texts, outcomes, strict=True)):
        if index % 7 == 0:
            assert isinstance(outcome, CarpoolError)
            assert outcome.code == 400
        else:
            assert_own([text], [outcome])


@pytest.mark.parametrize("fault", LOSSES + HARMLESS)
@FORMS
async def test_vectors_are_as_safe_as_texts(fault: str, form: dict[str, Any]) -> None:
    config = {"output_dimensionality": 5}
    async with Emulator(Plan(faults={fault: Fault(count=2)})) as emulator, opened(emulator, **form) as client:
        vectors = await asyncio.gather(*(client.embed(EMBED_MODEL, text, config=config) for text in prompts(20)))
    assert [vector.values for vector in vectors] == [expected_values(text, 5) for text in prompts(20)]


@FORMS
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_comes_together_every_call_ends_with_its_own_answer_or_a_typed_error(
    seed: int, form: dict[str, Any], tmp_path: Path
) -> None:
    faults = {
        "row.error": Fault(probability=0.1),
        "row.missing": Fault(probability=0.1),
        "row.doubled": Fault(probability=0.1),
        "row.unknown_key": Fault(probability=0.1),
        "row.garbled": Fault(probability=0.1),
        "row.key_dropped": Fault(probability=0.1),
        "output.shuffled": Fault(probability=0.5),
        "output.truncated": Fault(probability=0.3),
        "output.late": Fault(probability=0.3, seconds=0.05),
        "output.inline_from_file": Fault(probability=0.2),
        "job.failed": Fault(probability=0.1),
        "job.expired": Fault(probability=0.1),
        "job.cancelled": Fault(probability=0.1),
        "job.partially_succeeded": Fault(probability=0.1),
        "get.503": Fault(probability=0.1),
        "get.502_html": Fault(probability=0.1),
        "create.429": Fault(probability=0.1),
        "create.503": Fault(probability=0.1),
        "create.dropped_after_apply": Fault(probability=0.1),
        "upload.finalize.503_empty": Fault(probability=0.1),
        "download.503": Fault(probability=0.1),
    }
    texts = prompts(400)
    emulator = Emulator(Plan(latency_s=(0.0, 0.1), faults=faults), seed=seed)
    async with emulator, opened(emulator, tmp_path, **form, batch_requests_max=50) as client:
        outcomes = await settled(
            *(client.generate(MODEL, text, key=text if index % 2 else None) for index, text in enumerate(texts))
        )
        await client.drain()
        stats = client.stats()
    answered = failed = 0
    for text, outcome in zip(texts, outcomes, strict=True):
        match outcome:
            case GenerateResponse():
                answered += 1
                assert outcome.text == expected_text(text)
            case RequestFailed() | ResultMissing() | SubmitAmbiguous():
                failed += 1
            case _:
                raise AssertionError(f"{text}: {outcome!r}")
    assert answered > failed
    assert (stats.waiting, stats.sent, stats.jobs) == (0, 0, 0)
    assert (stats.answered, stats.failed) == (answered, failed)


async def test_a_job_s_own_results_can_be_read_by_whoever_knows_its_name(tmp_path: Path) -> None:
    texts = [*prompts(5), "bad [[error:400:no]]"]
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **FILE) as client:
            await settled(*(client.generate(MODEL, text, key=text) for text in texts))
            (job,) = [job async for job in client.jobs.list()]
            outcomes = {outcome.key: outcome async for outcome in client.jobs.results(job.name)}
            assert (await client.jobs.get(job.name)).state == "SUCCEEDED"
        assert_billed_once(emulator, prompts(5))
    assert sorted(outcomes) == sorted(texts)
    assert_own(prompts(5), [outcomes[text].response for text in prompts(5)])
    failed = outcomes[texts[-1]]
    assert not failed.ok
    assert failed.error is not None
    assert failed.error.code == 400
