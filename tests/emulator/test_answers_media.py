"""Answers that are more than a text: pictures, sound, searches, calls, refusals; and what they cost."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from carpool.emulator import expected_text

from .driver import EMBED_MODEL, MODEL, Driver, content, prompt, text_of

IMAGE = "gemini-3-pro-image"
SPEECH = "gemini-2.5-flash-preview-tts"


def ask(request: Any, model: str = MODEL) -> Any:
    return Driver().ok("POST", f"/v1beta/models/{model}:generateContent", request)


def parts_of(response: Any) -> Any:
    return response["candidates"][0]["content"]["parts"]


def size_of(part: Any) -> tuple[int, int]:
    raw = base64.b64decode(part["inlineData"]["data"])
    assert raw.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", raw[16:24])
    return width, height


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({}, (1024, 1024)),
        ({"aspectRatio": "16:9"}, (1344, 768)),
        ({"aspect_ratio": "9:16", "image_size": "2K"}, (1536, 2688)),
        ({"imageSize": "4K"}, (4096, 4096)),
    ],
)
def test_pictures_have_the_size_that_was_asked_for(config: Any, size: tuple[int, int]) -> None:
    response = ask(prompt("a cat", generationConfig={"responseModalities": ["IMAGE"], "imageConfig": config}), IMAGE)
    (part,) = parts_of(response)
    assert size_of(part) == size


def test_a_strange_shape_of_picture_is_refused() -> None:
    request = prompt("x", generationConfig={"imageConfig": {"aspectRatio": "7:5"}})
    assert Driver().error("POST", f"/v1beta/models/{IMAGE}:generateContent", request)["code"] == 400


def test_pictures_and_thoughts_are_billed_as_such() -> None:
    world = Driver()
    thinking = prompt("x", generationConfig={"thinkingConfig": {"thinkingBudget": 9}})
    world.ok("POST", f"/v1beta/models/{IMAGE}:generateContent", thinking)
    world.create({"request": thinking}, {"request": prompt("[[error:13:no]]")}, model=IMAGE)
    ledger = world.ledger()
    (live,), (job,) = ledger.live, ledger.jobs

    assert (live.model, live.tier, live.calls) == (IMAGE, "standard", 1)
    assert (live.thought_tokens, live.image_tokens) == (job.thought_tokens, job.image_tokens) == (9, 1290)
    assert (live.prompt_tokens, live.output_tokens) == (job.prompt_tokens, job.output_tokens)
    assert (ledger.thought_tokens, ledger.image_tokens, ledger.cached_tokens) == (9, 1290, 0)


def test_speech_is_raw_sound_that_counts_as_audio() -> None:
    world = Driver()
    response = world.ok("POST", f"/v1beta/models/{SPEECH}:generateContent", prompt("Say it."))
    (part,) = parts_of(response)
    assert part["inlineData"]["mimeType"] == "audio/L16;codec=pcm;rate=24000"
    samples = base64.b64decode(part["inlineData"]["data"])
    (detail,) = response["usageMetadata"]["candidatesTokensDetails"]
    assert detail["modality"] == "AUDIO"
    assert len(samples) == detail["tokenCount"] * 2 * 960, "40 ms a token"
    assert world.ledger().live[0].audio_tokens == detail["tokenCount"]


def test_thoughts_may_use_up_all_the_tokens() -> None:
    config = {"thinkingConfig": {"thinkingBudget": -1}, "maxOutputTokens": 10}
    response = ask(prompt("x", generationConfig=config))
    (candidate,) = response["candidates"]
    assert candidate["content"] == {"role": "model"}
    assert candidate["finishReason"] == "MAX_TOKENS"
    usage = response["usageMetadata"]
    assert (usage["thoughtsTokenCount"], usage["totalTokenCount"]) == (10, 11)
    assert "candidatesTokenCount" not in usage


def test_a_seed_changes_the_words_and_the_same_seed_does_not() -> None:
    one, same, other = (text_of(ask(prompt("x", generationConfig={"seed": seed}))) for seed in (1, 1, 2))
    assert one == same != other
    assert one.partition("]")[0] == other.partition("]")[0] == expected_text("x").partition("]")[0]


def test_a_search_is_shown_with_the_answer() -> None:
    response = ask(prompt("Who won?", tools=[{"google_search": {}}]))
    grounding = response["candidates"][0]["groundingMetadata"]
    assert grounding["webSearchQueries"] == ["Who won?"]
    assert grounding["groundingSupports"][0]["segment"]["text"] == text_of(response) == expected_text("Who won?")
    assert grounding["groundingChunks"][0]["web"]["uri"].startswith("https://")
    pages = ask(prompt("read https://example.com/a", tools=[{"urlContext": {}}]))["candidates"][0]["urlContextMetadata"]
    assert [page["retrievedUrl"] for page in pages["urlMetadata"]] == ["https://example.com/a"]


@pytest.mark.parametrize(
    ("text", "mode", "called"),
    [
        ("use weather_in now", None, True),
        ("use weather_in now", "AUTO", True),
        ("use weather_in now", "VALIDATED", True),
        ("use weather_in now", "NONE", False),
        ("use weather_info now", "AUTO", False),
        ("anything", "ANY", True),
    ],
)
def test_a_function_is_called_if_its_name_is_a_word_of_the_prompt(text: str, mode: str | None, called: bool) -> None:
    tools = [{"functionDeclarations": [{"name": "weather_in", "parameters": {"type": "OBJECT"}}]}]
    config = {"toolConfig": {"functionCallingConfig": {"mode": mode}}} if mode else {}
    (part,) = parts_of(ask(prompt(text, tools=tools, **config)))
    assert ("functionCall" in part) is called


def test_a_function_that_returned_is_not_called_again() -> None:
    tools = [{"functionDeclarations": [{"name": "weather_in"}]}]
    turns = [
        *prompt("use weather_in now")["contents"],
        {"role": "model", "parts": [{"functionCall": {"name": "weather_in", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "weather_in", "response": {"sky": "blue"}}}]},
    ]
    answer = text_of(ask({"contents": turns, "tools": tools}))
    assert answer.startswith('Answer to "use weather_in now" [')


def test_a_blocked_prompt_costs_its_tokens_and_has_no_candidates() -> None:
    world = Driver()
    request = prompt("x [[blocked:PROHIBITED_CONTENT]]")
    live = world.ok("POST", f"/v1beta/models/{MODEL}:generateContent", request)
    (item,) = world.inline(world.create({"request": request}))
    assert live == item["response"]
    assert live["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in live
    usage = live["usageMetadata"]
    assert usage["promptTokenCount"] == usage["totalTokenCount"] == world.ledger().live_prompt_tokens
    assert world.ledger().live_output_tokens == 0


def test_an_answer_can_end_without_a_text() -> None:
    (candidate,) = ask(prompt("x [[finish:SAFETY]]"))["candidates"]
    assert candidate == {"content": {"role": "model"}, "finishReason": "SAFETY", "index": 0}


@pytest.mark.parametrize(
    ("sent", "tier"), [("flex", "flex"), ("SERVICE_TIER_PRIORITY", "priority"), ("standard", "standard")]
)
def test_live_calls_are_answered_and_billed_in_their_tier(sent: str, tier: str) -> None:
    world = Driver()
    reply = world.call("POST", f"/v1beta/models/{MODEL}:generateContent", prompt("x", serviceTier=sent))
    assert (reply.status, reply.headers["x-gemini-service-tier"]) == (200, tier)
    assert [(bill.tier, bill.calls) for bill in world.ledger().live] == [(tier, 1)]


def test_a_tier_that_does_not_exist_is_refused() -> None:
    error = Driver().error("POST", f"/v1beta/models/{MODEL}:generateContent", prompt("x", service_tier="cheap"))
    assert error["code"] == 400
    assert "service_tier" in error["message"]


def test_prompts_that_are_too_long_are_refused_live_and_by_row() -> None:
    world = Driver()
    long = prompt("x" * 40_000)
    error = world.error("POST", f"/v1beta/models/{SPEECH}:generateContent", long)
    words = "The input token count (10000) exceeds the maximum number of tokens allowed (8192)."
    assert (error["code"], error["message"]) == (400, words)
    bad, good = world.inline(world.create({"request": long}, {"request": prompt("x")}, model=SPEECH))
    assert (bad["error"], "response" in good) == ({"code": 3, "message": words}, True)


def test_parts_of_one_content_make_one_vector() -> None:
    world = Driver()
    both = {"content": {"parts": [{"text": "a"}, {"text": "b"}]}}
    path = "/v1beta/models/gemini-embedding-2:batchEmbedContents"
    answer = world.ok("POST", path, {"requests": [both, content("a"), content("b")]})
    vectors = [tuple(one["values"]) for one in answer["embeddings"]]
    assert len(set(vectors)) == 3
    assert answer["usageMetadata"] == {"promptTokenCount": 3}
    assert "usageMetadata" not in world.ok(
        "POST", f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents", {"requests": [both]}
    )
