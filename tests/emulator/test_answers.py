"""Answers: deterministic, recognisable, and as the request wants them."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import pytest

from carpool.emulator import Fault, Plan, expected_text, expected_values

from .driver import EMBED_MODEL, MODEL, Driver, content, prompt, text_of

JSON_CONFIG = {"responseMimeType": "application/json"}


def ask(request: dict[str, Any], model: str = MODEL) -> Any:
    return Driver().ok("POST", f"/v1/models/{model}:generateContent", request)


# -- text


def test_an_answer_shows_which_prompt_it_belongs_to() -> None:
    long = "Why is the sky blue? " * 10
    assert text_of(ask(prompt("Why?"))) == expected_text("Why?")
    assert text_of(ask(prompt(long))) == expected_text(long)
    assert expected_text(long).startswith(f'Answer to "{long[:60]}" [')
    assert len({expected_text(f"{long}{index}") for index in range(100)}) == 100
    assert text_of(ask(prompt("x", systemInstruction={"parts": [{"text": "brief"}]}))) != expected_text("x")


def test_the_same_request_has_the_same_answer_everywhere() -> None:
    request = prompt("x", generationConfig={"candidateCount": 2, "thinkingConfig": {"includeThoughts": True}})
    world = Driver(seed=99)
    (item,) = world.inline(world.create({"request": request}))
    assert item["response"] == ask(request) == ask(request)


def test_a_response_has_the_fields_of_the_real_one() -> None:
    response = ask(prompt("12345678"))
    (candidate,) = response["candidates"]
    usage = response["usageMetadata"]
    assert (candidate["finishReason"], candidate["index"], candidate["content"]["role"]) == ("STOP", 0, "model")
    assert usage["promptTokenCount"] == 2
    assert usage["candidatesTokenCount"] == len(text_of(response)) // 4
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]
    assert usage["promptTokensDetails"] == [{"modality": "TEXT", "tokenCount": 2}]
    assert "thoughtsTokenCount" not in usage
    assert response["modelVersion"] == MODEL
    assert response["responseId"]


def test_the_last_user_text_is_the_one_that_is_echoed() -> None:
    turns = [
        {"role": "user", "parts": [{"text": "first"}]},
        {"role": "model", "parts": [{"text": "answered"}]},
        {"role": "user", "parts": [{"text": "second"}, {"text": "and more"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
    ]
    assert text_of(ask({"contents": turns})).startswith('Answer to "second\nand more" [')


def test_candidates_and_token_limits_are_honoured() -> None:
    response = ask(prompt("x", generationConfig={"candidateCount": 3, "maxOutputTokens": 5}))
    texts = [candidate["content"]["parts"][0]["text"] for candidate in response["candidates"]]
    assert [candidate["index"] for candidate in response["candidates"]] == [0, 1, 2]
    assert [candidate["finishReason"] for candidate in response["candidates"]] == ["MAX_TOKENS"] * 3
    assert {len(text) for text in texts} == {20}
    assert response["usageMetadata"]["candidatesTokenCount"] == 15
    three = ask(prompt("x", generationConfig={"candidateCount": 3}))["candidates"]
    assert len({candidate["content"]["parts"][0]["text"] for candidate in three}) == 3


def test_stop_sequences_end_the_text() -> None:
    response = ask(prompt("x", generationConfig={"stopSequences": [" [", ""]}))
    assert (text_of(response), response["candidates"][0]["finishReason"]) == ('Answer to "x"', "STOP")


def test_thinking_costs_tokens_and_can_be_shown() -> None:
    hidden = ask(prompt("x", generationConfig={"thinkingConfig": {"thinkingBudget": 10}}))
    assert hidden["usageMetadata"]["thoughtsTokenCount"] == 10
    assert hidden["usageMetadata"]["totalTokenCount"] == 11 + hidden["usageMetadata"]["candidatesTokenCount"]
    assert text_of(hidden) == expected_text("x")
    shown = ask(prompt("x", generation_config={"thinking_config": {"include_thoughts": True}}))
    thought, answer = shown["candidates"][0]["content"]["parts"]
    assert (thought["thought"], answer) == (True, {"text": expected_text("x")})
    none = ask(prompt("x", generationConfig={"thinkingConfig": {"thinkingBudget": 0}}))
    assert "thoughtsTokenCount" not in none["usageMetadata"]


def test_media_count_and_change_the_answer() -> None:
    parts = [{"text": "look"}, {"inline_data": {"mime_type": "image/png", "data": "AP_-"}}]
    response = ask({"contents": [{"parts": parts}]})
    assert response["usageMetadata"]["promptTokensDetails"] == [
        {"modality": "TEXT", "tokenCount": 1},
        {"modality": "IMAGE", "tokenCount": 258},
    ]
    document = {"fileData": {"fileUri": "https://x/files/y", "mimeType": "application/pdf"}}
    other = ask({"contents": [{"parts": [{"text": "look"}, document]}]})
    assert text_of(other) != text_of(response) != expected_text("look")
    assert other["usageMetadata"]["promptTokensDetails"][1]["modality"] == "DOCUMENT"


def test_tokens_are_counted_as_they_are_billed() -> None:
    request = prompt("a text of some length")
    counted = Driver().ok("POST", f"/v1/models/{MODEL}:countTokens", request)
    wrapped = {"generateContentRequest": {"model": f"models/{MODEL}", **request}}
    assert counted["totalTokens"] == ask(request)["usageMetadata"]["promptTokenCount"]
    assert Driver().ok("POST", f"/v1/models/{MODEL}:countTokens", wrapped) == counted
    assert Driver().error("POST", f"/v1/models/{MODEL}:countTokens", {"content": 1})["code"] == 400


# -- errors


@pytest.mark.parametrize(
    ("code", "http", "status"), [(13, 500, "INTERNAL"), (8, 429, "RESOURCE_EXHAUSTED"), (503, 503, "UNAVAILABLE")]
)
def test_a_marked_prompt_has_that_error(code: int, http: int, status: str) -> None:
    error = Driver().error("POST", f"/v1/models/{MODEL}:generateContent", prompt(f"a [[error:{code}:no: really]] b"))
    assert (error["code"], error["status"], error["message"]) == (http, status, "no: really")


@pytest.mark.parametrize(
    "body",
    [
        {"contents": []},
        {},
        prompt("x", generationConfig={"candidateCount": 0}),
        prompt("x", safetySetting=[]),
        prompt("x", generationConfig={"cachedContent": "cachedContents/x"}),
        prompt(
            "x", generationConfig={**JSON_CONFIG, "responseSchema": {"type": "INTEGER", "minimum": 2, "maximum": 1}}
        ),
        b"no json",
    ],
)
def test_bad_live_requests_are_refused(body: Any) -> None:
    error = Driver().error("POST", f"/v1/models/{MODEL}:generateContent", body)
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


def test_unknown_fields_are_named_as_google_names_them() -> None:
    error = Driver().error(
        "POST", f"/v1/models/{MODEL}:generateContent", prompt("x", foo=1, generationConfig={"bar": 1})
    )
    assert error["message"] == (
        'Invalid JSON payload received. Unknown name "foo": Cannot find field.\n'
        "Invalid JSON payload received. Unknown name \"bar\" at 'generation_config': Cannot find field."
    )
    assert [violation.get("field") for violation in error["details"][0]["fieldViolations"]] == [
        None,
        "generation_config",
    ]


# -- tools


def declaration(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "description": "does it", **schema}


def test_a_function_is_called_when_the_request_insists() -> None:
    parameters = {"type": "OBJECT", "properties": {"home_city": {"type": "STRING"}}, "required": ["home_city"]}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [
        {"googleSearch": {}},
        {"functionDeclarations": [declaration("first", parameters=parameters)]},
        {"function_declarations": [declaration("second", parameters_json_schema=schema), declaration("third")]},
    ]

    def called(**calling: Any) -> Any:
        request = prompt("x", tools=tools, toolConfig={"functionCallingConfig": calling})
        (part,) = ask(request)["candidates"][0]["content"]["parts"]
        return part.get("functionCall")

    first = called(mode="ANY", allowedFunctionNames=["first"])
    assert (first["name"], list(first["args"])) == ("first", ["home_city"])
    assert isinstance(called(mode="ANY", allowed_function_names=["second"])["args"]["n"], int)
    assert called(mode="ANY", allowedFunctionNames=["third"]) == {"name": "third", "args": {}}
    assert called(mode="ANY")["name"] in {"first", "second", "third"}
    assert called(mode="ANY", allowedFunctionNames=["nobody"]) is None
    assert called(mode="AUTO") is None


# -- images


def png_size(raw: bytes) -> tuple[int, int]:
    """Decode a PNG as far as its checksums and pixels allow."""
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    offset, chunks = 8, {}
    while offset < len(raw):
        (size,) = struct.unpack(">I", raw[offset : offset + 4])
        body = raw[offset + 4 : offset + 8 + size]
        assert struct.unpack(">I", raw[offset + 8 + size : offset + 12 + size]) == (zlib.crc32(body),)
        chunks[body[:4]] = body[4:]
        offset += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + width // 8)  # two colours
    assert b"IEND" in chunks
    return width, height


def test_image_models_return_a_real_picture() -> None:
    response = ask(prompt("a cat"), "gemini-3-pro-image")
    text, image = response["candidates"][0]["content"]["parts"]
    other = ask(prompt("a dog"), "gemini-3-pro-image")["candidates"][0]["content"]["parts"][1]
    assert text == {"text": expected_text("a cat")}
    assert image["inlineData"]["mimeType"] == "image/png"
    assert png_size(base64.b64decode(image["inlineData"]["data"])) == (1024, 1024)
    assert other != image
    assert {"modality": "IMAGE", "tokenCount": 1290} in response["usageMetadata"]["candidatesTokensDetails"]
    only = ask(prompt("a cat", generationConfig={"responseModalities": ["IMAGE"]}), "gemini-3-pro-image")
    assert only["candidates"][0]["content"]["parts"] == [image]


# -- embeddings


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_embeddings_are_unit_vectors_in_which_alike_texts_are_near() -> None:
    base = expected_values("The theory of relativity was published by Einstein")
    near = expected_values("Einstein published the special theory of relativity")
    far = expected_values("My cat prefers tuna over dry biscuits")
    assert len(base) == 3072
    assert math.isclose(cosine(base, base), 1.0, abs_tol=1e-5)
    assert cosine(base, near) > 0.5
    assert cosine(base, far) < 0.2
    assert expected_values("x", 3) == expected_values("x", 3)
    assert len({tuple(expected_values(f"text {index}", 64)) for index in range(200)}) == 200
    assert math.isclose(sum(value * value for value in expected_values("", 5)), 1.0, abs_tol=1e-5)


def test_vectors_come_in_the_size_that_was_asked_for() -> None:
    requests = [content("a"), content("b", outputDimensionality=16), content("c", output_dimensionality=3)]
    path = f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents"
    embeddings = Driver().ok("POST", path, {"requests": requests})["embeddings"]
    assert [len(one["values"]) for one in embeddings] == [3072, 16, 3]
    assert embeddings[0]["values"] == expected_values("a")


def test_single_embeddings() -> None:
    old = Driver().ok("POST", f"/v1beta/models/{EMBED_MODEL}:embedContent", content("a b c d", outputDimensionality=4))
    new = Driver().ok("POST", "/v1beta/models/gemini-embedding-2:embedContent", content("a b c d"))
    assert old == {"embedding": {"values": expected_values("a b c d", 4)}}
    assert new["usageMetadata"] == {"promptTokenCount": 1}


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("embedContent", {"contents": []}),
        ("embedContent", {"content": {}}),
        ("embedContent", content("a", outputDimensionality=0)),
        ("embedContent", content("a", outputDimensionality=3073)),
        ("embedContent", content("a", outputDimensionality="many")),
        ("batchEmbedContents", {}),
        ("batchEmbedContents", {"requests": [prompt("x")]}),
        ("batchEmbedContents", {"request": []}),
    ],
)
def test_bad_embeddings_are_refused(method: str, body: Any) -> None:
    assert Driver().error("POST", f"/v1beta/models/{EMBED_MODEL}:{method}", body)["code"] == 400


def test_at_most_100_texts_are_embedded_at_once() -> None:
    path = f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents"
    few = {"requests": [content("a", outputDimensionality=1)] * 100}
    assert len(Driver().ok("POST", path, few)["embeddings"]) == 100
    error = Driver().error("POST", path, {"requests": [*few["requests"], content("b")]})
    assert error["message"] == "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"


def test_embeddings_can_be_marked_and_doubled_too() -> None:
    error = Driver().error("POST", f"/v1beta/models/{EMBED_MODEL}:embedContent", content("[[error:16:who]]"))
    assert (error["code"], error["status"]) == (401, "UNAUTHENTICATED")
    world = Driver(Plan(faults={"row.doubled_other": Fault()}))
    operation = world.create({"request": content("a")}, model=EMBED_MODEL, method="asyncBatchEmbedContent")
    one, other = (item["response"]["embedding"]["values"] for item in world.inline(operation))
    assert one == expected_values("a") != other
