"""Each awaited call gets its own answer, however many there are, in whatever order the rows come back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from carpool import EmbedResponse, GenerateResponse, RequestFailed, RequestRejected
from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values

from .support import (
    EMBED_MODEL,
    FORMS,
    INLINE,
    MODEL,
    ask_all,
    assert_billed_once,
    assert_own,
    opened,
    ops_of,
    prompts,
    rows_of_jobs,
    settled,
)

SHUFFLED = {"output.shuffled": Fault()}


def with_marks(count: int, mark: str) -> list[str]:
    """Return prompts of which every tenth asks for an error."""
    return [f"prompt {index} {mark}" if index % 10 == 9 else f"prompt {index}" for index in range(count)]


@FORMS
async def test_20_000_concurrent_calls_get_each_its_own_answer(form: dict[str, Any], tmp_path: Path) -> None:
    texts = prompts(20_000)
    async with Emulator(Plan(faults=SHUFFLED)) as emulator:
        async with opened(emulator, tmp_path, **form, batch_requests_max=4_000) as client:
            answers = await ask_all(client, texts)
            await client.drain()
            stats = client.stats()
        assert_own(texts, answers)
        assert_billed_once(emulator, texts)
        assert rows_of_jobs(emulator) == [4_000] * 5
        assert ops_of(emulator)["upload.start"] == (0 if form is INLINE else 5)
    assert (stats.waiting, stats.sent, stats.jobs) == (0, 0, 0)
    assert (stats.answered, stats.failed, stats.retried, stats.jobs_created) == (20_000, 0, 0, 5)
    assert len({answer.key for answer in answers}) == 20_000


@FORMS
async def test_5_000_concurrent_embeds_get_each_its_own_vector(form: dict[str, Any], tmp_path: Path) -> None:
    texts = prompts(5_000)
    async with Emulator(Plan(faults=SHUFFLED)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            config = {"output_dimensionality": 8}
            vectors = await asyncio.gather(*(client.embed(EMBED_MODEL, text, config=config) for text in texts))
        assert rows_of_jobs(emulator) == [5_000]
        assert ops_of(emulator)["upload.start"] == (0 if form is INLINE else 1)
    assert all(vector.values == expected_values(text, 8) for text, vector in zip(texts, vectors, strict=True))


@FORMS
@pytest.mark.parametrize("code", [400, 3])
async def test_of_1_000_rows_with_100_refused_900_are_answered_and_nothing_is_sent_twice(
    code: int, form: dict[str, Any], tmp_path: Path
) -> None:
    texts = with_marks(1_000, f"[[error:{code}:the words are bad]]")
    async with Emulator(Plan(faults=SHUFFLED)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in texts))
        good = [(text, outcome) for text, outcome in zip(texts, outcomes, strict=True) if "[[" not in text]
        bad = [outcome for text, outcome in zip(texts, outcomes, strict=True) if "[[" in text]
        assert_own(*zip(*good, strict=True))
        assert len(bad) == 100
        assert all(type(error) is RequestRejected for error in bad)
        assert {(error.code, error.message) for error in bad} == {(code, "the words are bad")}
        assert len({error.key for error in bad}) == len({id(error) for error in bad}) == 100
        assert rows_of_jobs(emulator) == [1_000]
        assert_billed_once(emulator, [text for text, _ in good])


@FORMS
async def test_rows_with_a_passing_error_are_sent_again_and_answered(form: dict[str, Any], tmp_path: Path) -> None:
    texts = prompts(1_000)
    faults = {**SHUFFLED, "row.error": Fault(every=10, count=100, code=13)}
    async with Emulator(Plan(faults=faults)) as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            assert_own(texts, await ask_all(client, texts))
            await client.drain()
            stats = client.stats()
        assert rows_of_jobs(emulator) == [1_000, 100]
        assert_billed_once(emulator, texts)
    assert (stats.answered, stats.retried, stats.failed) == (1_000, 100, 0)


@FORMS
@pytest.mark.parametrize("code", [13, 8, 14, 429, 500, 503])
async def test_rows_with_a_lasting_error_fail_after_their_attempts(code: int, form: dict[str, Any]) -> None:
    texts = with_marks(100, f"[[error:{code}:try again]]")
    async with Emulator(Plan(faults=SHUFFLED)) as emulator:
        async with opened(emulator, **form, attempts_max=3) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in texts))
            await client.drain()
            stats = client.stats()
        assert rows_of_jobs(emulator) == [100, 10, 10]
    failed: list[Any] = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(failed) == 10
    assert all(type(error) is RequestFailed for error in failed)
    assert {(error.code, error.message) for error in failed} == {(code, "try again")}
    assert (stats.answered, stats.failed, stats.retried) == (90, 10, 20)


async def test_generate_and_embed_calls_of_several_models_share_a_client_and_no_job(tmp_path: Path) -> None:
    models = ("gemini-3.5-flash", "gemini-2.5-flash", "models/gemini-3.5-flash-lite")
    async with Emulator(Plan(faults=SHUFFLED)) as emulator:
        async with opened(emulator, tmp_path) as client:
            calls: list[Any] = []
            for text in prompts(50):
                calls += [client.generate(model, text) for model in models]
                calls.append(client.embed(EMBED_MODEL, text, config={"output_dimensionality": 4}))
            outcomes = await settled(*calls)
        assert rows_of_jobs(emulator) == [50] * 4
    for index, text in enumerate(prompts(50)):
        *answers, vector = outcomes[index * 4 : index * 4 + 4]
        assert_own([text] * 3, answers)
        assert isinstance(vector, EmbedResponse)
        assert vector.values == expected_values(text, 4)


async def test_an_answer_tells_its_text_usage_job_and_cost() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            answer = await client.generate(MODEL, "Why is the sky blue?")
            await client.drain()
            account = client.receipt()
        job = emulator.ledger().jobs[0]
    assert isinstance(answer, GenerateResponse)
    assert answer.text == expected_text("Why is the sky blue?")
    assert answer.finish_reason == "STOP"
    assert answer.json()["modelVersion"] == MODEL
    usage, receipt = answer.usage, answer.receipt
    assert (usage.prompt_tokens, usage.answer_tokens) == (job.prompt_tokens, job.output_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.answer_tokens
    assert (receipt.route, receipt.job, receipt.reused) == ("batch", job.name, False)
    assert receipt.list_usd is not None
    assert receipt.paid_usd == receipt.list_usd / 2
    assert receipt.list_usd * 1_000_000 == usage.prompt_tokens * 3 / 2 + usage.answer_tokens * 9
    assert (account.requests, account.list_usd, account.paid_usd) == (1, receipt.list_usd, receipt.paid_usd)
    assert account.saved_usd == receipt.paid_usd


async def test_the_account_holds_an_answer_as_soon_as_its_caller_does() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        await ask_all(client, prompts(10))
        assert client.receipt().requests == 10
        assert client.stats().answered == 10
