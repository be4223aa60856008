"""Requests in OpenAI's shape, field by field: what each becomes."""

from __future__ import annotations

from typing import Any

import pytest

from carpool.surfaces.openai.requests import read_embeddings

from .openai_support import MODEL, USER, call_of, native, raw, refusal

FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather somewhere.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": FUNCTION}
OTHER = {"type": "function", "function": {"name": "get_time"}}
DECLARED = {
    "name": "get_weather",
    "description": "The weather somewhere.",
    "parametersJsonSchema": FUNCTION["parameters"],
}


def generation(**fields: Any) -> Any:
    return native(**fields).get("generationConfig")


def calling(**fields: Any) -> Any:
    return native(**fields).get("toolConfig", {}).get("functionCallingConfig")


def test_the_smallest_chat() -> None:
    call = call_of()
    assert (call.model, call.asked, call.stream, call.include_usage) == (MODEL, MODEL, False, False)
    assert call.body == b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}'


def test_the_model_is_named_as_it_was_asked_for() -> None:
    call = call_of(model=f"models/{MODEL}")
    assert (call.model, call.asked) == (MODEL, f"models/{MODEL}")


def test_no_prompt_is_shown_by_calls_and_refusals() -> None:
    secret = "a secret that nobody else may read"
    assert secret not in repr(call_of(messages=[{"role": "user", "content": secret}]))
    assert secret not in repr(read_embeddings(raw({"model": "m", "input": secret})))
    assert secret not in str(refusal(messages=[{"role": "user", "content": [secret]}]))
    assert secret not in str(refusal(messages=[{"role": "user", "content": "x", secret: 1}]))
    assert secret not in str(refusal(tool_choice=secret))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.9}, {"topP": 0.9}),
        ({"presence_penalty": -2, "frequency_penalty": 1.5}, {"presencePenalty": -2, "frequencyPenalty": 1.5}),
        ({"n": 8}, {"candidateCount": 8}),
        ({"seed": 7.0}, {"seed": 7}),
        ({"seed": -(2**31)}, {"seed": -(2**31)}),
        ({"max_tokens": 10}, {"maxOutputTokens": 10}),
        ({"max_completion_tokens": 10}, {"maxOutputTokens": 10}),
        ({"max_completion_tokens": 10, "max_tokens": 10}, {"maxOutputTokens": 10}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b", "c", "d", "e"]}, {"stopSequences": ["a", "b", "c", "d", "e"]}),
        ({"stop": []}, None),
        ({"logprobs": True}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 0}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 20}, {"responseLogprobs": True, "logprobs": 20}),
        ({"logprobs": False}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        # What asks for nothing, or for what happens anyway:
        ({"user": "u", "safety_identifier": "s", "metadata": {"a": "b"}, "prompt_cache_key": "k"}, None),
        ({"prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"}}, None),
        ({"store": False, "service_tier": "auto", "modalities": ["text"], "verbosity": "medium"}, None),
        ({"service_tier": "default"}, None),
        ({"service_tier": "flex"}, None),
        ({"logit_bias": {}, "tools": [], "tool_choice": "none", "parallel_tool_calls": True}, None),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, None),
        ({"stream": False}, None),
    ],
)
def test_sampling(given: dict[str, Any], wanted: Any) -> None:
    body = native(**given)
    assert body.pop("generationConfig", None) == wanted
    assert body.keys() == {"contents"}


def test_a_null_is_not_given() -> None:
    optional = (
        "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens metadata "
        "modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key reasoning_effort "
        "response_format seed service_tier stop store stream stream_options temperature tool_choice tools top_logprobs "
        "top_p user verbosity web_search_options google extra_body"
    )
    assert native(**dict.fromkeys(optional.split())).keys() == {"contents"}


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    shape = {"name": "thing", "schema": schema, "strict": True}
    wanted = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert generation(response_format={"type": "json_schema", "json_schema": shape}) == wanted
    told = {"type": "json_schema", "json_schema": shape | {"description": "A thing."}}
    assert generation(response_format=told)["responseJsonSchema"] == {"description": "A thing."} | schema
    bare = {"type": "json_schema", "json_schema": {"name": "anything"}}
    assert generation(response_format=bare) == {"responseMimeType": "application/json"}


def test_json_beside_tools_from_the_third_generation_on() -> None:
    both: dict[str, Any] = {"tools": [TOOL], "response_format": {"type": "json_object"}}
    assert generation(**both) == {"responseMimeType": "application/json"}
    assert refusal(model="gemini-2.5-flash", **both).param == "response_format"


@pytest.mark.parametrize(
    ("model", "effort", "wanted"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8192}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24576}),
        ("gemini-3-pro-preview", "minimal", {"thinkingLevel": "LOW"}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH"}),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW"}),
        ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "MEDIUM"}),
        ("gemini-3.1-flash-lite", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", "low", {"thinkingLevel": "LOW"}),
        ("gemini-3.5-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.6-flash", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.7-flash", "minimal", {"thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", "high", {"thinkingLevel": "HIGH"}),
        ("gemini-4-argon", "medium", {"thinkingLevel": "MEDIUM"}),
        ("gemini-flash-latest", "minimal", {"thinkingLevel": "LOW"}),
    ],
)
def test_effort_is_thinking_as_google_maps_it(model: str, effort: str, wanted: dict[str, Any]) -> None:
    assert generation(model=model, reasoning_effort=effort) == {"thinkingConfig": wanted}


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("gemini-2.5-pro", "none"),
        ("gemini-3.1-pro-preview", "none"),
        ("gemini-3.8-flash", "none"),
        ("gemini-2.0-flash", "low"),
        ("gemini-2.5-flash-image", "low"),
        ("gemini-3.1-flash-image", "high"),
        ("gemini-2.5-flash-preview-tts", "low"),
        ("tunedModels/mine", "low"),
        (MODEL, "xhigh"),
        (MODEL, "max"),
        (MODEL, 3),
    ],
)
def test_effort_that_a_model_does_not_know_is_refused(model: str, effort: Any) -> None:
    assert refusal(model=model, reasoning_effort=effort).param == "reasoning_effort"


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"cached_content": "cachedContents/abc"}, {"cachedContent": "cachedContents/abc"}),
        ({"cachedContent": "abc"}, {"cachedContent": "cachedContents/abc"}),
        (
            {"thinking_config": {"include_thoughts": True, "thinking_budget": -1, "thinking_level": None}},
            {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": -1}}},
        ),
        (
            {"thinkingConfig": {"thinkingLevel": "low"}},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}},
        ),
        (
            {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]},
            {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]},
        ),
        ({"cached_content": None}, {}),
    ],
)
def test_what_only_google_has(nested: bool, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    place = {"extra_body": {"google": given}} if nested else {"google": given}
    body = native(**place)
    del body["contents"]
    assert body == wanted


def test_effort_goes_with_thoughts_shown_but_not_with_a_budget() -> None:
    shown = {"thinking_config": {"include_thoughts": True}}
    wanted = {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}
    assert generation(google=shown, reasoning_effort="low") == wanted
    assert (
        refusal(google={"thinking_config": {"thinking_budget": 1}}, reasoning_effort="low").param == "reasoning_effort"
    )
    both = {"thinking_config": {"thinking_budget": 1, "thinking_level": "low"}}
    assert refusal(google=both).param == "google.thinking_config"


def test_cached_content_holds_its_instructions_and_tools_itself() -> None:
    cached = {"google": {"cached_content": "abc"}}
    system = {"role": "system", "content": "be brief"}
    assert refusal(messages=[system, USER], **cached).param == "google.cached_content"
    assert refusal(tools=[TOOL], **cached).param == "google.cached_content"


# -- tools


def test_functions_are_declared() -> None:
    assert native(tools=[TOOL, OTHER])["tools"] == [{"functionDeclarations": [DECLARED, {"name": "get_time"}]}]
    assert "toolConfig" not in native(tools=[TOOL, OTHER])


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("none", {"mode": "NONE"}),
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ("validated", {"mode": "VALIDATED"}),
        (
            {"type": "function", "function": {"name": "get_time"}},
            {"mode": "ANY", "allowedFunctionNames": ["get_time"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}},
            {"mode": "ANY", "allowedFunctionNames": ["get_time"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["get_time"]},
        ),
    ],
)
def test_the_choice_of_functions(choice: Any, wanted: Any) -> None:
    assert calling(tools=[TOOL, OTHER], tool_choice=choice) == wanted


def test_strict_functions_are_called_by_their_schema() -> None:
    strict = {"type": "function", "function": {**FUNCTION, "strict": True}}
    assert calling(tools=[strict]) == {"mode": "VALIDATED"}
    assert calling(tools=[strict], tool_choice="auto") == {"mode": "VALIDATED"}
    assert calling(tools=[strict], tool_choice="required") == {"mode": "ANY"}
    assert calling(tools=[{"type": "function", "function": {**FUNCTION, "strict": False}}]) is None


def test_one_call_at_a_time_where_there_is_one_function() -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    assert calling(tools=[TOOL], parallel_tool_calls=False) is None
    assert calling(tools=[TOOL, OTHER], tool_choice=named, parallel_tool_calls=False)["mode"] == "ANY"
    assert calling(tools=[TOOL, OTHER], tool_choice="none", parallel_tool_calls=False) == {"mode": "NONE"}
    assert refusal(tools=[TOOL, OTHER], parallel_tool_calls=False).param == "parallel_tool_calls"


# -- streams


def test_streams() -> None:
    assert call_of(stream=True).stream
    call = call_of(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (call.stream, call.include_usage) == (True, True)
