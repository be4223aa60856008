"""Which form a batch takes, and that its bytes are counted exactly: the limits of the service are hard."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carpool import RequestRejected, RequestTooLarge
from carpool.emulator import Emulator, Plan

from .support import (
    EMBED_MODEL,
    FILE,
    INLINE,
    MODEL,
    assert_billed_once,
    assert_own,
    calls_of,
    jobs_of,
    opened,
    ops_of,
    prompts,
    rows_of_jobs,
    settled,
)

ROOMY_MODEL = "gemini-2.5-flash-lite"
"""A model of which 20 MB may be enqueued at once from the start."""
ODD_TEXTS = [
    "plain",
    'quotes " and \\ backslashes',
    "lines\nand\ttabs\r\x00\x1f\x7f",
    "Grüße, 世界, \U0001f697\u200d\U0001f4a8",
    "\u2028 and \u2029 and \u0085",
    '","request":{"contents":[]}}\n{"key":"fake"',
    "</script> & <b>",
]
ODD_KEYS = ["k", 'a"b', "a\\b", "a\nb", "schlüssel", "\U0001f511", 'x","request":', " ", "\u2028"]


def request_json(text: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": text}], "role": "user"}]}


def compact(value: Any, *, ascii_only: bool = False) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()


def predicted_row(key: str, text: str) -> bytes:
    return b'{"request":' + compact(request_json(text)) + b',"metadata":{"key":' + compact(key, ascii_only=True) + b"}}"


def predicted_create(display_name: str, rows: list[tuple[str, str]]) -> bytes:
    """Return the body of an inline create, as the documented wire has it and nothing more."""
    requests = b",".join(predicted_row(key, text) for key, text in rows)
    envelope = compact({"batch": {"displayName": display_name, "inputConfig": {"requests": {"requests": ["#"]}}}})
    return envelope.replace(b'"#"', requests)


def predicted_line(key: str, text: str) -> bytes:
    return b'{"key":' + compact(key, ascii_only=True) + b',"request":' + compact(request_json(text)) + b"}\n"


async def send(emulator: Emulator, rows: list[tuple[str, str]], home: Path | None = None, **settings: Any) -> None:
    """Send rows of explicit keys together, and insist on their answers."""
    async with opened(emulator, home, **settings, canary=False) as client:
        answers = await settled(*(client.generate(MODEL, text, key=key) for key, text in rows))
    assert_own([text for _, text in rows], answers)


async def forms_at_limits(rows: list[tuple[str, str]]) -> tuple[int, list[int], list[int]]:
    """Return the bytes of an inline create, and the uploads under a limit one byte above and under one at that size."""
    async with Emulator() as emulator:
        await send(emulator, rows, **INLINE)
        (create,) = calls_of(emulator, "create")
        (job,) = jobs_of(emulator)
        assert create.body_bytes == len(predicted_create(job.display_name, rows))
    uploads: list[list[int]] = []
    for limit in (create.body_bytes + 1, create.body_bytes):
        async with Emulator() as emulator:
            await send(emulator, rows, **{**INLINE, "inline_bytes_max": limit})
            uploads.append([call.body_bytes for call in calls_of(emulator, "upload.finalize")])
            assert len(calls_of(emulator, "create")) == 1
    return create.body_bytes, uploads[0], uploads[1]


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_the_bytes_of_an_inline_create_are_counted_exactly_whatever_the_text(text: str) -> None:
    rows = [(f"key {index}", f"{text}{index}") for index in range(3)]
    _, below, at = await forms_at_limits(rows)
    assert below == []
    assert at == [sum(len(predicted_line(*row)) for row in rows)]


async def test_the_bytes_of_an_inline_create_are_counted_exactly_whatever_the_keys() -> None:
    rows = [(key, f"prompt {index}") for index, key in enumerate(ODD_KEYS)]
    _, below, at = await forms_at_limits(rows)
    assert below == []
    assert at == [sum(len(predicted_line(*row)) for row in rows)]


@pytest.mark.parametrize("count", [1, 2, 1_000])
async def test_the_bytes_of_an_inline_create_are_counted_exactly_for_any_number_of_rows(count: int) -> None:
    size, below, at = await forms_at_limits([(f"k{index}", f"prompt {index}") for index in range(count)])
    assert size > count * 100
    assert (len(below), len(at)) == (0, 1)


@pytest.mark.parametrize("more", [{"label": "night-run"}, {"priority": 7}, {"priority": -7, "label": "x"}])
async def test_label_and_priority_are_counted_too(more: dict[str, Any]) -> None:
    rows = [(f"k{index}", f"prompt {index}") for index in range(5)]
    async with Emulator() as emulator:
        await send(emulator, rows, **INLINE, **more)
        size = calls_of(emulator, "create")[0].body_bytes
    for limit, uploads in ((size + 1, 0), (size, 1)):
        async with Emulator() as emulator:
            await send(emulator, rows, **{**INLINE, "inline_bytes_max": limit}, **more)
            assert ops_of(emulator)["upload.finalize"] == uploads


@pytest.mark.parametrize(("over_bytes", "form"), [(-1, "inline"), (0, "file"), (1, "file")])
async def test_the_service_s_limit_of_20_mb_is_exclusive_and_kept_to_the_byte(
    over_bytes: int, form: str, tmp_path: Path
) -> None:
    rows = [(f"k{index}", f"{index} " + "x" * 999_000) for index in range(20)]
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, inline_cost_max_usd=None, canary=False) as client:
            name_bytes = len("cp1.") + 8 + 1 + 26 + len(".1")
            missing = 20_000_000 + over_bytes - len(predicted_create("n" * name_bytes, rows))
            rows[-1] = (rows[-1][0], rows[-1][1] + "x" * missing)
            answers = await settled(*(client.generate(ROOMY_MODEL, text, key=key) for key, text in rows))
        (create,), (job,) = calls_of(emulator, "create"), jobs_of(emulator)
        assert len(predicted_create(job.display_name, rows)) == 20_000_000 + over_bytes
        if form == "inline":
            assert create.body_bytes == 19_999_999
            assert "upload.start" not in ops_of(emulator)
        else:
            assert create.body_bytes < 1_000
            sent = sum(call.body_bytes for call in calls_of(emulator, "upload.chunk", "upload.finalize"))
            assert sent == sum(len(predicted_line(*row)) for row in rows)
    assert_own([text for _, text in rows], answers)


async def test_a_batch_above_the_limit_of_a_file_is_split_and_one_at_it_is_not(tmp_path: Path) -> None:
    rows = [(f"k{index:03}", f"prompt {index:03}") for index in range(100)]
    size = sum(len(predicted_line(*row)) for row in rows)
    for limit, expected in ((size, [size]), (size - 1, [size // 100, size - size // 100])):
        async with Emulator() as emulator:
            await send(emulator, rows, tmp_path / str(limit), **FILE, file_bytes_max=limit)
            assert sorted(call.body_bytes for call in calls_of(emulator, "upload.finalize")) == expected
            assert_billed_once(emulator, [text for _, text in rows])


async def test_no_file_is_ever_above_its_limit(tmp_path: Path) -> None:
    rows = [(f"k{index}", f"prompt {index} " + "y" * (index * 37 % 900)) for index in range(500)]
    async with Emulator() as emulator:
        await send(emulator, rows, tmp_path, **FILE, file_bytes_max=10_000)
        sizes = [call.body_bytes for call in calls_of(emulator, "upload.finalize")]
        assert_billed_once(emulator, [text for _, text in rows])
    assert max(sizes) <= 10_000
    assert sum(sizes) == sum(len(predicted_line(*row)) for row in rows)
    assert len(sizes) <= sum(sizes) // 9_000 + 2


async def test_no_job_has_more_requests_than_its_limit(tmp_path: Path) -> None:
    texts = prompts(250)
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, batch_requests_max=100, canary=False) as client:
            assert_own(texts, await settled(*(client.generate(MODEL, text) for text in texts)))
        assert sorted(rows_of_jobs(emulator)) == [50, 100, 100]


async def test_a_request_above_the_limit_of_a_file_is_refused_at_the_call_and_one_at_it_is_sent(tmp_path: Path) -> None:
    empty = len(predicted_line("k", ""))
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **FILE, file_bytes_max=2_048, canary=False) as client:
            with pytest.raises(RequestTooLarge) as caught:
                await client.generate(MODEL, "x" * (2_049 - empty), key="k")
            assert caught.value.key == "k"
            text = "x" * (2_048 - empty)
            answer = await client.generate(MODEL, text, key="k")
        assert_own([text], [answer])
        assert [call.body_bytes for call in calls_of(emulator, "upload.finalize")] == [2_048]


@pytest.mark.parametrize(
    ("settings", "model", "count", "form"),
    [
        ({"inline_output_bytes_max": 80_000}, MODEL, 10, "inline"),
        ({"inline_output_bytes_max": 79_999}, MODEL, 10, "file"),
        ({"inline_cost_max_usd": Decimal("0.10")}, MODEL, 20, "inline"),
        ({"inline_cost_max_usd": Decimal("0.10")}, MODEL, 30, "file"),
        ({"inline_requests_max": 10}, "gemini-of-unknown-price", 10, "inline"),
        ({"inline_requests_max": 10}, "gemini-of-unknown-price", 11, "file"),
        ({"inline_requests_max": 0, "inline_cost_max_usd": None}, "gemini-of-unknown-price", 11, "inline"),
        ({}, "gemini-2.5-flash-image", 9, "file"),
    ],
)
async def test_output_cost_and_count_decide_over_the_form(
    settings: dict[str, Any], model: str, count: int, form: str
) -> None:
    texts = prompts(count)
    async with Emulator() as emulator:
        async with opened(emulator, **settings, canary=False) as client:
            answers = await settled(*(client.generate(model, text) for text in texts))
        assert not [answer for answer in answers if isinstance(answer, BaseException)]
        assert ops_of(emulator)["upload.start"] == (form == "file")
        assert rows_of_jobs(emulator) == [count]


async def test_a_batch_that_the_server_finds_too_large_inline_goes_as_a_file(tmp_path: Path) -> None:
    texts = prompts(50)
    async with Emulator(Plan(inline_bytes_max=2_000)) as emulator:
        async with opened(emulator, tmp_path, **INLINE, canary=False) as client:
            assert_own(texts, await settled(*(client.generate(MODEL, text) for text in texts)))
        assert [call.status for call in calls_of(emulator, "create")] == [400, 200]
        assert_billed_once(emulator, texts)


async def test_a_file_that_the_server_finds_too_large_is_halved_until_it_passes(tmp_path: Path) -> None:
    texts = prompts(40)
    async with Emulator(Plan(file_bytes_max=1_500)) as emulator:
        async with opened(emulator, tmp_path, **FILE, canary=False) as client:
            assert_own(texts, await settled(*(client.generate(MODEL, text) for text in texts)))
        assert_billed_once(emulator, texts)
        assert all(call.body_bytes <= 1_500 for call in calls_of(emulator, "upload.finalize"))


async def test_a_row_that_the_server_finds_too_large_as_a_file_fails_alone(tmp_path: Path) -> None:
    texts = [*prompts(5), "z" * 3_000]
    async with Emulator(Plan(file_bytes_max=1_500)) as emulator:
        async with opened(emulator, tmp_path, **FILE, canary=False) as client:
            *answers, failed = await settled(*(client.generate(MODEL, text) for text in texts))
        assert_own(texts[:-1], answers)
        assert_billed_once(emulator, texts[:-1])
    assert isinstance(failed, RequestTooLarge | RequestRejected)


async def test_embeds_are_counted_exactly_too() -> None:
    config = {"output_dimensionality": 8}

    async def embed_all(emulator: Emulator, **settings: Any) -> list[Any]:
        async with opened(emulator, **settings, canary=False) as client:
            return await settled(
                *(client.embed(EMBED_MODEL, f"text {index}", config=config, key=f"k{index}") for index in range(10))
            )

    async with Emulator() as emulator:
        await embed_all(emulator, **INLINE)
        size = calls_of(emulator, "create")[0].body_bytes
    for limit, uploads in ((size + 1, 0), (size, 1)):
        async with Emulator() as emulator:
            vectors = await embed_all(emulator, **{**INLINE, "inline_bytes_max": limit})
            assert ops_of(emulator)["upload.finalize"] == uploads
            assert all(len(vector.values) == 8 for vector in vectors)
