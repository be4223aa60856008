"""What has no native form is refused, by its place, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from carpool.surfaces.openai.requests import Untranslatable, read_chat, read_embeddings

from .openai_support import refusal

OTHER = {"type": "function", "function": {"name": "get_time"}}


def shaped(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the field that asks for an answer of a shape."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", **shape}}}


def declared(**fields: Any) -> dict[str, Any]:
    """Return the field that declares a function."""
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**31}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"stop": ["a"] * 6}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": 1}, "stop"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (shaped({"schema": 1}), "response_format.json_schema.schema"),
        (shaped({"rules": 1}), "response_format.json_schema.rules"),
        (shaped({"strict": 1}), "response_format.json_schema.strict"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"modalities": ["image"]}, "modalities[0]"),
        ({"modalities": "text"}, "modalities"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"moderation": {}}, "moderation"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"top_k": 5}, "top_k"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"a field of the future": None}, "body"),
        ({"extra_body": {"openai": {}}}, "extra_body.openai"),
        ({"extra_body": {"google": {"thought_tag_marker": "think"}}}, "extra_body.google.thought_tag_marker"),
        ({"google": {"cached_content": "a", "cachedContent": "b"}}, "google.cachedContent"),
        ({"google": {"cached_content": 1}}, "google.cached_content"),
        ({"google": {"cached_content": "a"}, "extra_body": {"google": {"cached_content": "b"}}},
         "extra_body.google.cached_content"),
        ({"google": {"thinking_config": {"thinking_budget": -2}}}, "google.thinking_config.thinking_budget"),
        ({"google": {"thinking_config": {"thinking_level": "most"}}}, "google.thinking_config.thinking_level"),
        ({"google": {"thinking_config": {"includeThoughts": True, "include_thoughts": True}}},
         "google.thinking_config.include_thoughts"),
        ({"google": {"thinking_config": {"include_thoughts": 1}}}, "google.thinking_config.include_thoughts"),
        ({"google": {"thinking_config": {"depth": 1}}}, "google.thinking_config.depth"),
        ({"google": {"safety_settings": [{"category": "RUDE", "threshold": "OFF"}]}},
         "google.safety_settings[0].category"),
        ({"google": {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "MILD"}]}},
         "google.safety_settings[0].threshold"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0].type"),
        ({"tools": [{"google_search": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (declared(name="1st"), "tools[0].function.name"),
        (declared(name="a b"), "tools[0].function.name"),
        (declared(name="f" * 129), "tools[0].function.name"),
        ({"tools": [OTHER, OTHER]}, "tools[1].function.name"),
        (declared(parameters=[]), "tools[0].function.parameters"),
        (declared(description=1), "tools[0].function.description"),
        (declared(strict="yes"), "tools[0].function.strict"),
        (declared(examples=[]), "tools[0].function.examples"),
        ({"tools": [{"type": "function", "function": {"name": "f"}, "cache_control": {}}]}, "tools[0].cache_control"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [OTHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [OTHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [OTHER], "tool_choice": {"type": "function", "function": {"name": "f"}}},
         "tool_choice.function.name"),
        ({"tools": [OTHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
         "tool_choice.allowed_tools.tools"),
        ({"tools": [OTHER], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)  # fmt: skip
def test_what_has_no_native_form_is_refused(given: dict[str, Any], param: str) -> None:
    assert refusal(**given).param == param


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"model": NaN}', "it is not JSON"),
        (b'{"model": "\\ud800"}', "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
    ],
)
def test_what_is_no_body_at_all(body: bytes, words: str) -> None:
    for read in (read_chat, read_embeddings):
        with pytest.raises(Untranslatable, match=words) as caught:
            read(body)
        assert caught.value.param is None
        assert caught.value.__context__ is None


def test_data_that_is_too_deep_for_googles_parser_is_refused() -> None:
    deep: Any = {}
    for _ in range(95):
        deep = {"properties": deep}
    assert refusal(**declared(parameters=deep)).param == "tools[0].function.parameters"
    assert refusal(**shaped({"schema": deep})).param == "response_format.json_schema.schema"


def test_refusals_say_what_to_do() -> None:
    assert "generateContent" in str(refusal(web_search_options={}))
    assert "tools and tool_choice" in str(refusal(function_call="auto"))
    assert "leave it out" in str(refusal(top_k=1))
    assert "one of none, minimal, low, medium, high" in str(refusal(reasoning_effort="max"))
