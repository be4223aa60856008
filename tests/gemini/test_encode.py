"""Requests to bytes: we send what the official client sends, and what cannot be sent says so at once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from google.genai import types
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from carpool._core.model import limit_of
from carpool._gemini.encode import Encoder, line, model_name
from carpool._gemini.plain import camel
from carpool.errors import ConfigurationError, NotBatchable

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MODEL = "gemini-3.5-flash"
PIXELS = b"\x00\xff\xfe\x8f\xc8\xfc"


class Schema(BaseModel):
    name: str
    n: int


def sent(name: str, exchange: int = 0) -> Any:
    """Return the body of a request that google-genai sent, names in camelCase, in which protobuf reads the same."""
    transcript = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    return camel_names(transcript["exchanges"][exchange]["request"]["body"])


def camel_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {camel(name): camel_names(item) for name, item in value.items()}
    return [camel_names(item) for item in value] if isinstance(value, list) else value


def generate(contents: Any, config: Any = None, model: str = MODEL) -> Any:
    return json.loads(Encoder().generate(model, contents, config).payload)


FULL = {
    "system_instruction": "be brief",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "candidate_count": 1,
    "max_output_tokens": 64,
    "stop_sequences": ["X"],
    "response_logprobs": True,
    "logprobs": 3,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "seed": 7,
    "response_mime_type": "application/json",
    "response_schema": Schema,
    "response_modalities": ["TEXT"],
    "media_resolution": "MEDIA_RESOLUTION_LOW",
    "thinking_config": {"include_thoughts": True, "thinking_budget": 128},
    "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "labels": {"team": "x"},
    "cached_content": "abc",
    "service_tier": "flex",
}
WEATHER = {
    "name": "tool",
    "description": "Weather in city.",
    "parameters_json_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "response_json_schema": {"type": "string"},
}
TOOLS = {
    "tools": [
        {"function_declarations": [WEATHER]},
        {"google_search": {}},
        {"code_execution": {}},
        {"url_context": {}},
    ],
    "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["tool"]}},
}


def typed_full() -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**FULL)


@pytest.mark.parametrize("config", [FULL, {camel(name): value for name, value in FULL.items()}, typed_full()])
def test_a_call_with_every_field_is_the_official_clients_json(config: Any) -> None:
    ours = generate("hi", config)
    assert ours == sent("generate_content_full")
    assert list(ours) == list(sent("generate_content_full"))
    assert list(ours["generationConfig"]) == list(sent("generate_content_full")["generationConfig"])
    assert ours == sent("batches_create_inline_full")["batch"]["inputConfig"]["requests"]["requests"][0]["request"]


def test_the_shortest_call_is_the_official_clients_bytes() -> None:
    assert Encoder().generate(MODEL, "hi", None).payload == b'{"contents":[{"parts":[{"text":"hi"}],"role":"user"}]}'
    assert generate("hi") == sent("generate_content_min")


@pytest.mark.parametrize("config", [TOOLS, types.GenerateContentConfig(**TOOLS)])
def test_tools_are_the_official_clients_json_but_for_an_empty_generation_config(config: Any) -> None:
    theirs = sent("generate_content_tools")
    assert theirs.pop("generationConfig") == {}
    ours = generate("hi", config)
    # Names inside a JSON schema are the user's: nothing there is renamed.
    assert ours == theirs


def test_a_json_schema_is_lowered_where_the_official_client_sends_it_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    config = {"response_json_schema": schema, "thinking_config": {"thinking_level": "high"}}
    theirs = sent("generate_content_jsonschema")
    assert theirs["generationConfig"].pop("responseJsonSchema") == schema
    theirs["generationConfig"]["responseSchema"] = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}
    assert generate("hi", config) == theirs


MULTIMODAL = [
    [
        "look",
        {"inline_data": {"data": b"\x00\xff\xfe\x7e\x3f\x3e", "mime_type": "image/png"}},
        {
            "file_data": {
                "file_uri": "https://generativelanguage.googleapis.com/v1beta/files/xyz",
                "mime_type": "application/pdf",
            }
        },
    ],
    [
        types.Part(text="look"),
        types.Part.from_bytes(data=b"\x00\xff\xfe\x7e\x3f\x3e", mime_type="image/png"),
        types.File(
            uri="https://generativelanguage.googleapis.com/v1beta/files/xyz",
            mime_type="application/pdf",
            name="files/xyz",
        ),
    ],
]


@pytest.mark.parametrize("contents", MULTIMODAL)
def test_parts_in_a_list_share_one_turn_as_the_official_client_has_it(contents: Any) -> None:
    assert generate(contents) == sent("generate_content_multimodal")


TURNS = [
    [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"text": "b", "thought_signature": b"\x01\x02"}]},
        {"role": "user", "parts": [{"text": "c"}]},
    ],
    [
        types.UserContent("a"),
        types.ModelContent(types.Part(text="b", thought_signature=b"\x01\x02")),
        types.Content(role="user", parts=[types.Part(text="c")]),
    ],
]


@pytest.mark.parametrize("contents", TURNS)
def test_turns_stay_turns(contents: Any) -> None:
    assert generate(contents) == sent("generate_content_multiturn")


def test_a_voice_by_its_name_and_image_fields_are_placed() -> None:
    config = {
        "response_modalities": ["TEXT", "IMAGE"],
        "speech_config": "Kore",
        "image_config": {"aspect_ratio": "16:9", "image_size": "2K"},
    }
    assert generate("hi", config) == sent("generate_content_image_speech")
    assert generate("hi", types.GenerateContentConfig(**config)) == sent("generate_content_image_speech")


def test_embed_rows_are_the_official_clients_json() -> None:
    encode = Encoder().embed
    config = {"task_type": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 768}
    for given_config in (config, types.EmbedContentConfig(**config)):
        theirs = sent("embed_content_one")["requests"][0]
        assert theirs.pop("model") == "models/gemini-embedding-001"
        assert json.loads(encode("gemini-embedding-001", "hi", given_config).payload) == theirs
    rows = sent("batches_create_embeddings_inline")["batch"]["inputConfig"]["requests"]["requests"]
    small = config | {"output_dimensionality": 128}
    assert [json.loads(encode("gemini-embedding-001", text, small).payload) for text in "ab"] == [
        row["request"] for row in rows
    ]
    content = types.Content(parts=[types.Part(text="a")])
    theirs = sent("embed_content_one_content_per_item")["requests"][0]
    assert json.loads(encode("gemini-embedding-2", content, None).payload)["content"] == theirs["content"]


# ------------------------------------------------------------------------------------------------------ contents


def roles(contents: Any) -> list[tuple[str, int]]:
    return [(turn["role"], len(turn["parts"])) for turn in generate(contents)["contents"]]


def test_function_calls_in_a_list_of_parts_belong_to_the_model() -> None:
    call = {"function_call": {"name": "tool", "args": {"some_city": "Oslo", "none": None}}}
    answer = {"function_response": {"name": "tool", "response": {"the_weather": "rain"}}}
    assert roles(["what?", call, answer, "and?"]) == [("user", 1), ("model", 1), ("user", 2)]
    turns = generate([call, answer])["contents"]
    assert turns[0]["parts"][0]["functionCall"]["args"] == {"some_city": "Oslo", "none": None}
    assert turns[1]["parts"][0]["functionResponse"]["response"] == {"the_weather": "rain"}


def test_a_list_inside_the_list_is_a_turn_and_strings_around_contents_are_turns_in_order() -> None:
    assert roles(["a", "b", {"parts": [{"text": "c"}], "role": "model"}, "d", ["e", "f"]]) == [
        ("user", 2),
        ("model", 1),
        ("user", 1),
        ("user", 2),
    ]


def test_none_and_file_data_by_its_fields_alone_are_taken() -> None:
    assert generate({"text": "hi", "thought": None})["contents"][0]["parts"] == [{"text": "hi"}]
    part = generate([{"file_uri": "u", "mime_type": "text/plain"}])["contents"][0]["parts"][0]
    assert part == {"fileData": {"fileUri": "u", "mimeType": "text/plain"}}


@pytest.mark.parametrize(
    ("contents", "place"),
    [
        (None, "contents"),
        ("", "contents"),
        ([], "contents"),
        ({}, "contents"),
        ([[]], "contents[0]"),
        (["a", ""], "contents[1]"),
        ({"parts": []}, "contents"),
        ({"parts": "a"}, "contents.parts"),
        ({"role": "user"}, "contents.parts"),
        ({"parts": [{"parts": [{"text": "a"}]}]}, "contents.parts[0]"),
        ({"text": 5}, "contents.text"),
        (["a", object()], "contents[1]"),
        (7, "contents"),
        ({"inline_data": "x"}, "contents.inline_data"),
        ({"function_call": {"name": "f", "args": {"deep": [1, math.nan]}}}, "contents.function_call.args.deep[1]"),
        ({"function_call": {"name": "f", "args": {"deep": {1: 2}}}}, "contents.function_call.args.deep"),
        ({"function_call": {"name": "f", "args": {"s": {1, 2}}}}, "contents.function_call.args.s"),
        ({"video_metadata": {1: 2}}, "contents.video_metadata"),
        ({"video_metadata": {"start_offset": "1s", "startOffset": "2s"}}, "contents.video_metadata"),
        (
            {"function_call": {"name": "f", "args": {"lone \ud800": 1}}},
            "contents[0].parts[0].functionCall.args.lone \\ud800",
        ),
        ({"function_call": {"name": "f", "args": {"a": [1, "\ud800"]}}}, "contents[0].parts[0].functionCall.args.a[1]"),
        ("lone \ud800", "contents"),
        (["ok", {"text": "lone \ud800"}], "contents[0].parts[1].text"),
        ({"thought": True, "video_metadata": {"fps": math.inf}}, "contents.video_metadata.fps"),
    ],
)
def test_what_cannot_be_sent_is_an_error_that_names_its_place(contents: Any, place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate(contents)
    assert str(caught.value).startswith(f"{place}: "), caught.value
    assert "Nothing was sent" in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "wrong", "right"),
    [
        ({"txt": "a"}, "txt", "text"),
        ({"parts": [{"text": "a"}], "rolle": "user"}, "rolle", "role"),
        ({"inline_data": {"data": b"", "mimetype": "image/png"}}, "mimetype", "mime_type"),
        ({"function_call": {"name": "f", "arguments": {}}}, "arguments", "args"),
    ],
)
def test_a_misspelt_part_field_names_the_nearest(contents: Any, wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate(contents)
    assert repr(wrong) in str(caught.value)
    assert right in str(caught.value)


class Broken:
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError


class Odd:
    def model_dump(self, **_: Any) -> Any:
        return ["no", "object"]


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [Broken(), Odd()])
def test_models_that_cannot_be_dumped_are_named(value: Any) -> None:
    for contents in (value, {"function_call": {"name": "f", "args": {"a": value}}}, {"video_metadata": value}):
        with pytest.raises(ConfigurationError, match=type(value).__name__):
            generate(contents)


def test_values_of_every_plain_kind_are_sent() -> None:
    class Number(int):
        pass

    args = {
        "word": Word("w"),
        "number": Number(5),
        "half": 0.5,
        "bytes": bytearray(PIXELS),
        "day": date(2026, 11, 21),
        "part": types.FileData(file_uri="u"),
        "pair": (1, 2),
    }
    part = generate(Word("hi"))["contents"][0]["parts"][0]
    assert part == {"text": "hi"}
    sent_args = generate({"function_call": {"name": "f", "args": args}})["contents"][0]["parts"][0]["functionCall"][
        "args"
    ]
    assert sent_args == {
        "word": "w",
        "number": 5,
        "half": 0.5,
        "bytes": "AP_-j8j8",
        "day": "2026-11-21",
        "part": {"fileUri": "u"},
        "pair": [1, 2],
    }


def test_an_image_object_says_how_to_give_its_bytes() -> None:
    class JpegImageFile:
        pass

    with pytest.raises(ConfigurationError, match=r"carpool\.Blob"):
        generate(["look", JpegImageFile()])


def test_nesting_without_end_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    itself: dict[str, Any] = {"parts": []}
    itself["parts"].append(itself)
    for looping in (itself, [itself], [[itself]]):
        with pytest.raises(ConfigurationError, match="not a content"):
            generate(looping)
        with pytest.raises(ConfigurationError, match="not a content"):
            generate("hi", {"system_instruction": itself})
    looped: dict[str, Any] = {"type": "object"}
    looped["properties"] = {"again": looped}
    for config in ({"response_schema": looped}, {"tools": [{"google_search": endless}]}, {"labels": endless}, endless):
        with pytest.raises(ConfigurationError):
            generate("hi", config)
    with pytest.raises(ConfigurationError, match="body"):
        Encoder().body("generate", MODEL, {"contents": [endless]})
    for contents in ({"function_call": {"name": "f", "args": endless}}, {"video_metadata": endless}):
        with pytest.raises(ConfigurationError, match="nested deeper"):
            generate(contents)


# -------------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"temprature": 1}, ["temprature", "Did you mean 'temperature'", "top_p"]),
        ({"generation_config": {"temperature": 1}}, ["generation_config", "flat"]),
        ({"http_options": {"timeout": 3}}, ["http_options", "client"]),
        ({"automatic_function_calling": {}}, ["automatic_function_calling"]),
        ({"automatic_function_calling": {"disable": False}}, ["automatic_function_calling"]),
        ({"should_return_http_response": True}, ["should_return_http_response"]),
        ({"routing_config": {}}, ["routing_config", "Vertex"]),
        ({"temperature": "hot"}, ["float", "temperature"]),
        ({"max_output_tokens": 1.5}, ["int", "maxOutputTokens"]),
        ({"temperature": math.nan}, ["config.temperature", "nan"]),
        ({"temperature": 1, "Temperature": 2}, ["Temperature"]),
        ({"top_p": 1, "topP": 2}, ["topP", "twice"]),
        ({"stop_sequences": "X"}, ["stopSequences"]),
        ({"thinking_config": {"budget": 1}}, ["budget"]),
        ({"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT"}]}, ["threshold"]),
        ({"tools": {"google_search": {}}}, ["config.tools", "list"]),
        ({"tools": [{"google_serch": {}}]}, ["google_serch", "google_search"]),
        ({"tools": [{"retrieval": {}}]}, ["retrieval"]),
        ({"tools": [print]}, ["config.tools[0]", "function_declarations"]),
        ({"tools": ["google_search"]}, ["config.tools[0]"]),
        ({"tools": [{"function_declarations": {}}]}, ["config.tools[0].function_declarations"]),
        ({"tools": [{"function_declarations": ["f"]}]}, ["config.tools[0].function_declarations[0]"]),
        ({"tool_config": "ANY"}, ["config.tool_config"]),
        ({"tool_config": {"mode": "ANY"}}, ["mode"]),
        ({"labels": {"a": 1}}, ["labels"]),
        ({"system_instruction": []}, ["config.system_instruction"]),
        ({"system_instruction": "lone \ud800"}, ["config", "surrogate"]),
        ({1: 2}, ["config"]),
        ([("temperature", 1)], ["config", "dict"]),
        ("brief", ["config", "dict"]),
    ],
)
def test_a_wrong_config_is_an_error_at_the_call(config: Any, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate("hi", config)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "config", [{"mime_type": "x"}, {"http_options": {}}, {"outputdimensionality": 3}, {"title": 5}, {"temperature": 1}]
)
def test_a_wrong_embed_config_is_an_error_at_the_call(config: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(config))):
        Encoder().embed("gemini-embedding-001", "hi", config)


def test_what_a_batch_does_anyway_may_be_said() -> None:
    config = {
        "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
        "should_return_http_response": False,
        "temperature": None,
    }
    assert generate("hi", config) == generate("hi") == generate("hi", {})
    assert generate("hi", {"automaticFunctionCalling": {"disable": True}}) == generate("hi")


def test_function_declarations_end_up_in_one_last_tool_with_upper_case_types() -> None:
    parameters = {"type": "object", "properties": {"b_c": {"type": "string"}, "a": {"type": "integer"}}}
    config = {
        "tools": [
            {"functionDeclarations": [{"name": "one", "parameters": parameters}], "googleSearch": {}},
            types.Tool(function_declarations=[types.FunctionDeclaration(name="two")]),
        ]
    }
    assert generate("hi", config)["tools"] == [
        {"googleSearch": {}},
        {
            "functionDeclarations": [
                {
                    "name": "one",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"b_c": {"type": "STRING"}, "a": {"type": "INTEGER"}},
                    },
                },
                {"name": "two"},
            ]
        },
    ]


def test_a_tool_that_is_switched_off_is_left_out() -> None:
    config = {"tools": [{"google_search": {}, "function_declarations": None}]}
    assert generate("hi", config)["tools"] == [{"googleSearch": {}}]


def test_a_system_instruction_may_be_parts_and_a_cache_may_have_its_full_name() -> None:
    config = {"system_instruction": ["be", {"text": "brief"}], "cached_content": "cachedContents/abc"}
    ours = generate("hi", config)
    assert ours["systemInstruction"] == {"parts": [{"text": "be"}, {"text": "brief"}], "role": "user"}
    assert ours["cachedContent"] == "cachedContents/abc"


def test_enums_stand_for_their_values() -> None:
    class Modality(Enum):
        TEXT = "TEXT"

    assert generate("hi", {"response_modalities": [Modality.TEXT]}) == generate("hi", {"response_modalities": ["TEXT"]})


def test_cached_configs_are_not_mixed_up() -> None:
    encoder = Encoder()
    none = encoder.generate(MODEL, "hi", {"temperature": None}).payload
    assert none == encoder.generate(MODEL, "hi", None).payload
    with pytest.raises(ConfigurationError, match="nan"):
        encoder.generate(MODEL, "hi", {"temperature": math.nan})
    changed: dict[str, Any] = {"temperature": 0.5}
    first = encoder.generate(MODEL, "hi", changed).payload
    changed["temperature"] = 0.75
    assert first != encoder.generate(MODEL, "hi", changed).payload
    nested: dict[str, Any] = {"stop_sequences": ["a"]}
    for words in (["a"], ["a", "b"]):
        found = json.loads(encoder.generate(MODEL, "hi", nested).payload)
        assert found["generationConfig"] == {"stopSequences": words}
        nested["stop_sequences"].append("b")
    for number in range(600):
        payload = encoder.generate(MODEL, "hi", {"seed": number}).payload
        assert json.loads(payload)["generationConfig"] == {"seed": number}
    assert len(encoder._generate_configs._placed) <= 256


def test_the_config_cache_is_bounded_in_bytes() -> None:
    encoder = Encoder()
    for number in range(12):
        encoder.generate(MODEL, "hi", {"system_instruction": f"{number}" + "x" * 1_500_000})
    assert encoder._generate_configs._bytes <= 16_777_216
    assert encoder._generate_configs._bytes == sum(
        len(key) + len(placed.fragment) for key, placed in encoder._generate_configs._placed.items()
    )


def test_configs_with_types_are_told_apart() -> None:
    encoder = Encoder()

    class Other(BaseModel):
        other: str

    schemas = [Schema, Other, list[Schema], list[Other], Schema | None, int]
    for _ in range(2):
        payloads = {encoder.generate(MODEL, "hi", {"response_schema": schema}).payload for schema in schemas}
        assert len(payloads) == len(schemas)
    assert len(encoder._generate_configs._placed) == len(schemas)
    assert encoder.generate(MODEL, "hi", {"response_schema": Schema}).schema is Schema
    unhashable = Annotated[list[int], {"a": 1}]
    for _ in range(2):
        assert encoder.generate(MODEL, "hi", {"response_schema": unhashable}).schema is not None
    assert len(encoder._generate_configs._placed) == len(schemas)


def test_the_caches_forget_types_and_models_when_there_are_too_many() -> None:
    encoder = Encoder()
    for number in range(1_030):
        encoder.embed(f"gemini-{number}", "hi", None)
        encoder._generate_configs._named(type(f"T{number}", (), {}))
    assert len(encoder._embed_hashes) < 1_024
    assert len(encoder._generate_configs._types) < 1_024
    assert encoder.embed("gemini-1", "hi", None) == Encoder().embed("gemini-1", "hi", None)


# ------------------------------------------------------------------------------------------------------- digests


def test_the_same_request_has_the_same_digest_however_it_is_written() -> None:
    encode = Encoder().generate
    config = {"thinking_config": {"include_thoughts": True, "thinking_budget": 5}, "temperature": 1, "top_p": 0.5}
    camel_case = {
        "topP": 0.5,
        "thinkingConfig": {"thinkingBudget": 5, "includeThoughts": True},
        "temperature": 1.0,
    }
    digests = {
        encode(MODEL, "hi", config).digest,
        encode(f"models/{MODEL}", "hi", camel_case).digest,
        encode(MODEL, {"text": "hi"}, config).digest,
        encode(MODEL, [{"role": "user", "parts": [{"text": "hi"}]}], camel_case).digest,
        encode(MODEL, types.UserContent("hi"), types.GenerateContentConfig(**config)).digest,
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 16


def test_another_request_has_another_digest() -> None:
    encoder = Encoder()
    digests = [
        encoder.generate(MODEL, "hi", None).digest,
        encoder.generate("gemini-3.5-flash-lite", "hi", None).digest,
        encoder.generate(MODEL, "ho", None).digest,
        encoder.generate(MODEL, "hi", {"temperature": 1}).digest,
        encoder.generate(MODEL, ["h", "i"], None).digest,
        encoder.embed(MODEL, "hi", None).digest,
        encoder.body("embed", MODEL, {"content": {"parts": [{"text": "ho"}]}}).digest,
    ]
    assert len(set(digests)) == len(digests)


any_text = st.text(alphabet=st.characters(exclude_categories=()))


@given(any_text.filter(bool))
@example("cut \ud83d")
def test_any_text_comes_through(text: str) -> None:
    encoder = Encoder()
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ConfigurationError, match="surrogate"):
            encoder.generate(MODEL, text, None)
        with pytest.raises(ConfigurationError, match="surrogate"):
            encoder.embed(MODEL, text, None)
        return
    encoded = encoder.generate(MODEL, text, None)
    assert json.loads(encoded.payload)["contents"][0]["parts"][0]["text"] == text
    assert b"\n" not in encoded.payload
    assert encoded == msgspec.structs.replace(
        encoder.generate(MODEL, [{"parts": [{"text": text}], "role": "user"}], None), tokens=encoded.tokens
    )
    assert encoded.tokens >= 1


# -------------------------------------------------------------------------------------------------- finished bodies


def test_a_finished_body_passes_unchanged() -> None:
    body = b'{"contents": [{"parts":[{"text":"\\u0068i"}]}],"generation_config":{"temperature":1.50}}'
    encoded = Encoder().body("generate", MODEL, body)
    assert encoded.payload == body
    assert encoded.digest == Encoder().body("generate", MODEL, body.replace(b": ", b":")).digest
    assert Encoder().body("generate", MODEL, json.loads(body)).digest == encoded.digest
    assert json.loads(Encoder().body("embed", MODEL, {"content": {"parts": [{"text": "a"}]}}).payload)


def test_a_finished_body_on_several_lines_becomes_one_line_and_keeps_its_numbers() -> None:
    body = '{\n "contents": [],\r\n "generationConfig": {"temperature": 1.50, "seed": 12345678901234567890123}}'
    payload = Encoder().body("generate", MODEL, body).payload
    assert payload == b'{"contents":[],"generationConfig":{"temperature":1.50,"seed":12345678901234567890123}}'


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("generate", {"contens": []}, ["contens", "contents"]),
        ("generate", {"contents": [], "temperature": 1}, ["temperature"]),
        ("embed", {"contents": []}, ["contents", "content"]),
        ("generate", {"content": {}}, ["content", "contents"]),
        ("generate", {}, ["contents"]),
        ("generate", b"[]", ["object"]),
        ("generate", b"{", ["JSON"]),
        ("generate", b'{"contents":NaN}', ["JSON"]),
        ("generate", {"contents": [math.nan]}, ["body.contents[0]"]),
        ("generate", {"contents": [object()]}, ["body"]),
        ("generate", "\ud800", ["JSON"]),
        ("generate", 5, ["dict"]),
        ("chat", {}, ["kind"]),
    ],
)
def test_a_wrong_body_is_an_error_at_the_call(kind: str, body: Any, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Encoder().body(kind, MODEL, body)
    for word in words:
        assert word in str(caught.value)


# --------------------------------------------------------------------------------------------------- models, embed


@pytest.mark.parametrize("model", ["imagen-4.0", "models/veo-3", "lyria-002"])
def test_models_that_batches_do_not_take_are_refused_at_once(model: str) -> None:
    with pytest.raises(NotBatchable, match=model.removeprefix("models/")):
        Encoder().generate(model, "hi", None)


@pytest.mark.parametrize("model", ["", "a/b", "gemini pro", "../x", "gemini:generateContent", 5, None, "x" * 200])
def test_what_is_no_model_name_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="model"):
        Encoder().generate(model, "hi", None)


def test_tuned_models_keep_their_collection() -> None:
    assert model_name("tunedModels/abc-1") == "tunedModels/abc-1"
    assert model_name("models/gemini-3.5-flash") == MODEL


def test_one_embed_call_takes_one_content() -> None:
    for several in (["a", "b"], [{"parts": [{"text": "a"}]}, {"parts": [{"text": "b"}]}], ["a", {"text": "b"}]):
        with pytest.raises(ConfigurationError, match="one content"):
            Encoder().embed("gemini-embedding-001", several, None)
    one = Encoder().embed("gemini-embedding-001", ["a"], None)
    assert one.payload == Encoder().embed("gemini-embedding-001", "a", None).payload
    assert Encoder().embed("gemini-embedding-001", {"parts": [{"text": "a"}, {"text": "b"}]}, None).tokens >= 1
    with pytest.raises(ConfigurationError, match="content"):
        Encoder().embed("gemini-embedding-001", "", None)


# -------------------------------------------------------------------------------------------------- tokens, schemas


@pytest.mark.parametrize(
    ("config", "cap", "searches"),
    [
        (None, 0, False),
        ({"temperature": 0.5}, 0, False),
        ({"max_output_tokens": 64}, 64, False),
        ({"max_output_tokens": 64, "candidate_count": 3}, 192, False),
        ({"tools": [{"google_search": {}}]}, 0, True),
        ({"max_output_tokens": 5, "tools": [{"googleSearch": {}}]}, 5, True),
        ({"tools": [{"code_execution": {}}]}, 0, False),
    ],
)
def test_what_bounds_the_cost_of_a_request_is_found_in_either_form(config: Any, cap: int, searches: bool) -> None:
    encoded = Encoder().generate(MODEL, "a", config)
    assert encoded.limit == limit_of(cap, searches=searches)
    assert Encoder().body("generate", MODEL, encoded.payload).limit == encoded.limit


def test_a_finished_request_counts_as_many_tokens_as_its_text_and_media() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    parts = [{"text": "abcd" * 100}, image, image]
    assert Encoder().body("generate", MODEL, {"contents": [{"parts": parts}]}).tokens == 100 + 2 * 258
    assert Encoder().body("embed", MODEL, {"content": {"parts": [{"text": "abcd" * 9}]}}).tokens == 9


def test_tokens_grow_with_text_and_media() -> None:
    encode = Encoder().generate
    assert encode(MODEL, "a", None).tokens == 1
    assert 240 <= encode(MODEL, "abcd" * 250, None).tokens <= 260
    assert encode(MODEL, ["abcd" * 250], None).tokens == 250
    assert encode(MODEL, [{"inline_data": {"data": b"x" * 100_000, "mime_type": "image/png"}}], None).tokens == 258
    assert encode(MODEL, "a", {"system_instruction": "abcd" * 250}).tokens > 250
    assert encode(MODEL, {"function_response": {"name": "f", "response": {"r": "abcd" * 250}}}, None).tokens > 250


@dataclass
class Recipe:
    name: str
    minutes: int | None = None


def test_the_schema_that_reads_the_answer_comes_along() -> None:
    encode = Encoder().generate
    assert encode(MODEL, "hi", {"response_schema": Schema}).schema is Schema
    assert encode(MODEL, "hi", {"response_schema": Recipe}).schema is Recipe
    assert encode(MODEL, "hi", {"response_schema": list[Recipe]}).schema.model_validate_json('[{"name":"a"}]') == [
        Recipe("a")
    ]
    models = encode(MODEL, "hi", {"response_schema": list[Schema]}).schema
    assert models.model_validate_json('[{"name":"a","n":1}]') == [Schema(name="a", n=1)]
    with pytest.raises(ValueError, match="n"):
        models.model_validate_json('[{"name":"a"}]')
    plain = encode(MODEL, "hi", {"response_schema": {"type": "string"}})
    assert plain.schema is not None
    assert json.loads(plain.payload)["generationConfig"]["responseMimeType"] == "application/json"
    assert encode(MODEL, "hi", {"response_mime_type": "application/json"}).schema is None
    enum = {"response_schema": {"type": "string", "enum": ["a"]}, "response_mime_type": "text/x.enum"}
    assert json.loads(encode(MODEL, "hi", enum).payload)["generationConfig"]["responseMimeType"] == "text/x.enum"


def test_two_schemas_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        generate("hi", {"response_schema": {"type": "string"}, "response_json_schema": {"type": "string"}})


def test_a_schema_that_batches_do_not_honour_is_for_live_calls_only() -> None:
    schema = {"type": "object", "patternProperties": {"a": {"type": "string"}}}
    encode = Encoder().generate
    encoded = encode(MODEL, "hi", {"response_json_schema": schema})
    assert "patternProperties" in encoded.live_only
    config = json.loads(encoded.payload)["generationConfig"]
    assert config == {"responseJsonSchema": schema, "responseMimeType": "application/json"}
    assert encode(MODEL, "hi", {"response_json_schema": {"type": "object"}}).live_only == ""
    with pytest.raises(ConfigurationError, match="patternProperties"):
        generate("hi", {"response_schema": schema})
    with pytest.raises(ConfigurationError, match="parameters_json_schema"):
        generate("hi", {"tools": [{"function_declarations": [{"name": "f", "parameters": schema}]}]})


# --------------------------------------------------------------------------------------------------------- lines


@given(any_text)
@example("cut \ud83d")
def test_a_line_holds_key_and_request_in_one_line_of_ascii_keys(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        with pytest.raises(ConfigurationError, match="surrogate"):
            line(key, b"{}")
        return
    written = line(key, b'{"contents":[]}')
    assert json.loads(written) == {"key": key, "request": {"contents": []}}
    assert written.isascii()
    assert written.endswith(b"}\n")
    assert written.count(b"\n") == 1
