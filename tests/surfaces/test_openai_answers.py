"""Native answers in OpenAI's shapes: messages, reasons to stop, tokens, probabilities, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from carpool.surfaces.openai.answers import chat_events, error_body

from .openai_support import call_of, completed, raw

CALL = call_of(model="models/gemini-3.5-flash")


def answered(*parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """Return an answer of one candidate."""
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **more}
    return {"candidates": [candidate | ({} if finish is None else {"finishReason": finish})]}


def choice(answer: Any) -> dict[str, Any]:
    """Return the only choice of an answer's completion."""
    (one,) = completed(CALL, answer)["choices"]
    found: dict[str, Any] = one
    return found


def message(*parts: Any) -> dict[str, Any]:
    found: dict[str, Any] = choice(answered(*parts))["message"]
    return found


def test_a_whole_completion() -> None:
    answer = answered({"text": "Hello, "}, {"text": "you"}) | {
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7},
        "modelVersion": "gemini-3.6-flash",
        "responseId": "abc",
    }
    assert completed(CALL, answer) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "models/gemini-3.5-flash",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, you", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("STOP", "stop"),
        (None, "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "content_filter"),
        ("A_REASON_OF_THE_FUTURE", "content_filter"),
    ],
)
def test_reasons_to_stop(reason: str | None, wanted: str) -> None:
    one = choice(answered({"text": "so far"}, finish=reason))
    assert one["finish_reason"] == wanted
    assert one["message"]["content"] == "so far"
    refused = one["message"]["refusal"]
    assert refused == (f"Gemini ended the answer: {reason}." if wanted == "content_filter" else None)


def test_what_the_service_says_of_the_end_is_told() -> None:
    one = choice(answered(finish="SAFETY", finishMessage="Too rude."))
    assert one["message"] == {
        "role": "assistant",
        "content": "",
        "refusal": "Gemini ended the answer: SAFETY (Too rude.)",
    }


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "Gemini blocked the prompt: SAFETY."),
        (
            {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "No."}, "candidates": []},
            "Gemini blocked the prompt: OTHER (No.)",
        ),
        ({}, "The service gave no answer, and no reason."),
        ([], "The answer of the service cannot be read."),
        (b"", "The answer of the service cannot be read."),
        (b'{"candidates":[{', "The answer of the service cannot be read."),
        (b'{"a":' * 100_000, "The answer of the service cannot be read."),
    ],
)
def test_no_answer_is_a_choice_that_nobody_takes_for_one(answer: Any, refused: str) -> None:
    one = choice(answer)
    assert one["finish_reason"] == "content_filter"
    assert one["message"] == {"role": "assistant", "content": None, "refusal": refused}


def test_several_candidates_are_choices_by_their_index() -> None:
    answer = {
        "candidates": [
            {"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP", "index": 1},
            {"content": {"parts": [{"text": "a"}]}, "finishReason": "MAX_TOKENS", "index": 0},
            {"content": {"parts": [{"text": "c"}]}, "finishReason": "STOP"},
        ]
    }
    found = [
        (one["index"], one["message"]["content"], one["finish_reason"]) for one in completed(CALL, answer)["choices"]
    ]
    assert found == [(1, "b", "stop"), (0, "a", "length"), (2, "c", "stop")]


def test_thoughts_are_not_content() -> None:
    found = message({"text": "Hm.", "thought": True}, {"text": " Well.", "thought": True}, {"text": "Yes"})
    assert (found["content"], found["reasoning_content"]) == ("Yes", "Hm. Well.")


def test_cut_while_thinking() -> None:
    one = choice({"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}]})
    assert (one["message"]["content"], one["finish_reason"]) == ("", "length")


def test_pictures_are_data_urls() -> None:
    drawn = {"inlineData": {"mimeType": "image/png", "data": "AP_-"}, "thoughtSignature": "AAAA"}
    found = message({"text": "here"}, drawn)
    assert found["images"] == [
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AP/+"},
            "index": 0,
            "extra_content": {"google": {"thought_signature": "AAAA"}},
        }
    ]


# -- calls


def test_calls_of_functions() -> None:
    one = choice(
        answered(
            {"functionCall": {"name": "f", "args": {"x": 1.5, "y": "é"}, "id": "own"}, "thoughtSignature": "AAAA"},
            {"functionCall": {"name": "g"}},
        )
    )
    assert one["finish_reason"] == "tool_calls"
    assert one["message"]["content"] is None
    first, second = one["message"]["tool_calls"]
    assert first == {
        "id": "own",
        "type": "function",
        "function": {"name": "f", "arguments": '{"x":1.5,"y":"é"}'},
        "extra_content": {"google": {"thought_signature": "AAAA"}},
    }
    assert second["function"] == {"name": "g", "arguments": "{}"}
    assert second.keys() == {"id", "type", "function"}


def test_calls_get_names_that_are_the_same_each_time_and_different_from_all_others() -> None:
    def ids(answer: Any) -> list[str]:
        return [call["id"] for one in completed(CALL, answer)["choices"] for call in one["message"]["tool_calls"]]

    part = {"functionCall": {"name": "f", "args": {}}}
    answer = {"candidates": [answered(part, part)["candidates"][0], answered(part)["candidates"][0] | {"index": 1}]}
    found = ids(answer)
    assert found == ids(answer)
    assert len(set(found)) == 3
    assert all(len(name) <= 40 for name in found)
    assert not set(found) & set(ids(answer | {"responseId": "other"}))


def test_words_beside_calls_and_their_signature() -> None:
    found = message({"text": "I look.", "thoughtSignature": "AAAA"}, {"functionCall": {"name": "f"}})
    assert found["content"] == "I look."
    assert found["extra_content"] == {"google": {"thought_signature": "AAAA"}}
    assert "extra_content" not in found["tool_calls"][0]


def test_calls_that_were_cut_are_not_made() -> None:
    assert choice(answered({"functionCall": {"name": "f"}}, finish="MAX_TOKENS"))["finish_reason"] == "length"


# -- what was counted


def test_tokens() -> None:
    answer = answered({"text": "x"}) | {
        "usageMetadata": {
            "promptTokenCount": "100",
            "toolUsePromptTokenCount": 5,
            "cachedContentTokenCount": 40,
            "candidatesTokenCount": 7,
            "thoughtsTokenCount": 30,
            "totalTokenCount": 142,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": "3"}],
        }
    }
    assert completed(CALL, answer)["usage"] == {
        "prompt_tokens": 105,
        "completion_tokens": 37,
        "total_tokens": 142,
        "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 3},
    }


def test_probabilities() -> None:
    result = {
        "chosenCandidates": [
            {"token": "Hé", "tokenId": 5, "logProbability": -0.25},
            {"token": "!"},
            {"token": "?", "logProbability": "-Infinity"},
        ],
        "topCandidates": [{"candidates": [{"token": "Hé", "logProbability": -0.25}, {"token": "Yo"}]}, {}],
    }
    assert choice(answered({"text": "Hé!"}, logprobsResult=result))["logprobs"] == {
        "content": [
            {
                "token": "Hé",
                "logprob": -0.25,
                "bytes": [72, 195, 169],
                "top_logprobs": [
                    {"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169]},
                    {"token": "Yo", "logprob": 0.0, "bytes": [89, 111]},
                ],
            },
            {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
            {"token": "?", "logprob": -9999.0, "bytes": [63], "top_logprobs": []},
        ],
        "refusal": None,
    }


# -- odd answers


@pytest.mark.parametrize(
    "answer",
    [
        {"candidates": "none"},
        {"candidates": [None, 5, "x", []]},
        {"candidates": [{"content": {"parts": {"text": "x"}}, "index": "0", "finishReason": 3}]},
        {"candidates": [{"content": {"parts": [{"text": 5}, {"inlineData": {}}, {"functionCall": {}}, None]}}]},
        {"candidates": [{"content": [], "logprobsResult": {"chosenCandidates": [None]}}]},
        {"candidates": [{"index": -1}], "usageMetadata": [], "promptFeedback": "x"},
        {
            "candidates": [{}],
            "usageMetadata": {"promptTokenCount": -1, "totalTokenCount": "x", "thoughtsTokenCount": 1e3},
        },
        {"promptFeedback": {"blockReason": 3}},
    ],
)
def test_odd_answers_do_not_raise(answer: Any) -> None:
    found = completed(CALL, answer)
    assert found["choices"]
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == 0


def test_half_characters_and_numbers_that_are_none() -> None:
    body = (
        rb'{"candidates":[{"content":{"parts":[{"text":"cut \ud83d"},{"functionCall":{"name":"f","args":'
        rb'{"a":NaN,"b":"\udc00","\ud800":-Infinity,"c":' + b"9" * 40 + rb"}}}]}}]}"
    )
    found = message_of = choice(body)["message"]
    assert found["content"] == "cut \ufffd"
    arguments = msgspec.json.decode(message_of["tool_calls"][0]["function"]["arguments"])
    assert (arguments["a"], arguments["b"], arguments["\ufffd"]) == (None, "\ufffd", None)
    assert arguments["c"] == pytest.approx(1e40)


# -- streams


def events(answer: Any, **fields: Any) -> list[Any]:
    stream = chat_events(call_of(stream=True, **fields), raw(answer), completion_id="chatcmpl-1", created=7)
    *lines, done, end = stream.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_holds_the_whole_answer_then_how_it_ended() -> None:
    first, last = events(answered({"text": "Hello\n\nyou"}))
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": CALL.model}
    delta = {"role": "assistant", "content": "Hello\n\nyou", "refusal": None}
    assert first == {
        **head,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
    }
    assert last == {
        **head,
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
    }


def test_a_stream_tells_the_tokens_where_they_are_asked_for() -> None:
    answer = answered({"text": "x"}) | {"usageMetadata": {"promptTokenCount": 3}}
    *chunks, last = events(answer, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 3)


def test_calls_in_a_stream_have_their_places() -> None:
    part = {"functionCall": {"name": "f", "args": {}}}
    first, last = events(answered(part, part))
    calls = first["choices"][0]["delta"]["tool_calls"]
    assert [call["index"] for call in calls] == [0, 1]
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_several_choices_in_a_stream() -> None:
    answer = {"candidates": [{"content": {"parts": [{"text": word}]}, "finishReason": "STOP"} for word in "ab"]}
    found = [(one["choices"][0]["index"], one["choices"][0]["finish_reason"]) for one in events(answer, n=2)]
    assert found == [(0, None), (0, "stop"), (1, None), (1, "stop")]


# -- errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "timeout_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_are_of_a_kind(status: int, kind: str) -> None:
    found = json.loads(error_body(status, "No \ud800."))
    assert found == {"error": {"message": "No \ufffd.", "type": kind, "param": None, "code": None}}


def test_errors_say_where_and_what() -> None:
    found = json.loads(error_body(400, "No.", kind="own", param="n", code="bad"))
    assert found == {"error": {"message": "No.", "type": "own", "param": "n", "code": "bad"}}
