"""The same request over each route: the same answer, byte for byte, and a receipt that says which way it came."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from carpool import FAST, RequestRejected
from carpool.emulator import Emulator, Fault, Plan

from .support import EMBED_MODEL, MODEL, calls_of, opened, ops_of, prompts, refused, settled
from .test_features import IMAGE_MODEL, png

BATCH: Any = ("batch",)
LIVE: Any = ("standard",)
FLEX: Any = ("flex",)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
}
TOOL = {"function_declarations": [{"name": "weather", "parameters": {"type": "OBJECT", "properties": {}}}]}
PICTURE = {"inline_data": {"data": png(), "mime_type": "image/png"}}
CALLS: dict[str, tuple[str, Any, dict[str, Any] | None]] = {
    "text": (MODEL, "Why is the sky blue?", None),
    "wide characters": (MODEL, 'Grüße \u2028 😀 "quoted" \\ \n', None),
    "settings": (
        MODEL,
        "x",
        {"temperature": 0.1, "max_output_tokens": 7, "candidate_count": 2, "stop_sequences": ["z"]},
    ),
    "system instruction": (MODEL, "x", {"system_instruction": "Be brief.", "labels": {"a": "b"}}),
    "JSON by a schema": (MODEL, "x", {"response_schema": SCHEMA}),
    "JSON by a JSON schema": (MODEL, "x", {"response_json_schema": SCHEMA}),
    "tools": (
        MODEL,
        "How is the weather?",
        {"tools": [TOOL], "tool_config": {"function_calling_config": {"mode": "ANY"}}},
    ),
    "search": (MODEL, "What is new?", {"tools": [{"google_search": {}}]}),
    "thinking": (MODEL, "x", {"thinking_config": {"include_thoughts": True, "thinking_budget": 100}}),
    "pictures in": (MODEL, ["What is this?", PICTURE, PICTURE], None),
    "pictures out": (IMAGE_MODEL, "a cat", {"response_modalities": ["TEXT", "IMAGE"]}),
}


def without_ids(raw: bytes) -> Any:
    """Return an answer without what says when and as which answer it was given."""
    answer = json.loads(raw)
    for name in ("responseId", "createTime"):
        answer.pop(name, None)
    answer.get("usageMetadata", {}).pop("serviceTier", None)
    return answer


@pytest.mark.parametrize("name", CALLS)
async def test_an_answer_is_the_same_over_each_route(name: str) -> None:
    model, contents, config = CALLS[name]
    async with Emulator() as emulator, opened(emulator) as client:
        ladders = [BATCH, LIVE, *([FLEX] if model == MODEL else [])]
        answers = await asyncio.gather(
            *(client.generate(model, contents, config=config, ladder=ladder) for ladder in ladders)
        )
        first = answers[0]
        for answer, ladder in zip(answers, ladders, strict=True):
            assert (answer.receipt.route, bool(answer.receipt.job)) == (ladder[0], ladder == BATCH)
            assert without_ids(answer.raw) == without_ids(first.raw)
            assert (answer.text, answer.usage, answer.finish_reason) == (first.text, first.usage, first.finish_reason)
            assert [image.data for image in answer.images] == [image.data for image in first.images]
            assert b"\n" not in answer.raw
            if name.startswith("JSON"):
                assert answer.parsed == first.parsed
                assert set(answer.parsed) == {"name", "count"}


async def test_cached_content_is_used_over_each_route() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        cache = await client.caches.create(MODEL, "a long document " * 2_000, ttl_s=3_600)
        config = {"cached_content": cache.name}
        answers = [await client.generate(MODEL, "x", config=config, ladder=one) for one in (BATCH, LIVE, FLEX)]
        assert [answer.usage.cached_tokens for answer in answers] == [cache.tokens] * 3
        assert len({answer.text for answer in answers}) == 1


async def test_a_vector_is_the_same_alone_shared_and_in_a_batch() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        config = {"output_dimensionality": 16, "task_type": "RETRIEVAL_QUERY"}
        batch = await client.embed(EMBED_MODEL, "a", config=config, ladder=BATCH)
        alone = await client.embed(EMBED_MODEL, "a", config=config, ladder=LIVE)
        shared, *_ = await asyncio.gather(
            *(client.embed(EMBED_MODEL, text, config=config, ladder=LIVE) for text in "abc")
        )
        assert batch.values == alone.values == shared.values
        assert len(batch.values) == 16
        assert ops_of(emulator)["embed_many"] == 1


async def test_of_a_hundred_embeddings_a_bad_one_fails_alone_and_the_others_are_paid_for_once() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        texts = prompts(99)
        config = {"output_dimensionality": 10**6}
        calls = [client.embed(EMBED_MODEL, text, ladder=LIVE) for text in texts]
        calls.insert(50, client.embed(EMBED_MODEL, "bad", config=config, ladder=LIVE))
        outcomes = await settled(*calls)
        assert type(outcomes.pop(50)) is RequestRejected
        assert all(len(outcome.values) for outcome in outcomes)
        assert emulator.ledger().live_calls == 99


async def test_a_large_request_goes_live_in_pieces() -> None:
    picture = {"inline_data": {"data": bytes(range(256)) * 32_768, "mime_type": "image/png"}}
    async with Emulator() as emulator, opened(emulator) as client:
        answers = [await client.generate(MODEL, ["look", picture], ladder=one) for one in (LIVE, BATCH)]
        assert without_ids(answers[0].raw) == without_ids(answers[1].raw)
        assert calls_of(emulator, "generate")[0].status == 200


async def test_a_model_without_flex_goes_on_to_the_next_rung_and_without_one_is_refused() -> None:
    plan = Plan(faults={"generate.400": Fault(count=2)})
    async with Emulator(plan) as emulator, opened(emulator) as client:
        await refused(RequestRejected, client.generate(MODEL, "x", ladder=FLEX))
        answer = await client.generate(MODEL, "x", ladder=("flex", "standard"))
        assert answer.receipt.route == "standard"
        assert [call.status for call in calls_of(emulator, "generate")] == [400, 400, 200]


async def test_what_the_live_route_refuses_as_bad_is_not_sent_to_a_batch() -> None:
    plan = Plan(faults={"generate.400": Fault()})
    async with Emulator(plan) as emulator, opened(emulator) as client:
        await refused(RequestRejected, client.generate(MODEL, "x", ladder=FAST))
        assert ops_of(emulator)["create"] == 0
