"""Our requests are those of google-genai: the same JSON for the same call, live, in batches, and for embeddings."""

from __future__ import annotations

import copy
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.genai import types
from pydantic import BaseModel

from carpool._gemini.encode import Encoder
from carpool.errors import ConfigurationError
from carpool.types import Blob, File

from .recording import Recording, camel, canonical, spelling

MODEL = "gemini-3.5-flash"
PIXELS = bytes(range(256))
URI = "https://generativelanguage.googleapis.com/v1beta/files/abc"

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


class Cuisine(enum.Enum):
    """A property with few values."""

    FRENCH = "french"
    THAI = "thai"


class Step(BaseModel):
    """A nested answer."""

    text: str
    minutes: float | None = None


class Recipe(BaseModel):
    """An answer with nearly everything that a schema can say."""

    name: str
    cuisine: Cuisine
    steps: list[Step]
    best_step: Step | None
    rating: int = 3


def weather(city: str, days: int = 3) -> dict[str, str]:
    """Tell the weather.

    Args:
        city: where.
        days: for how long.
    """
    raise NotImplementedError(city, days)


@pytest.fixture(scope="module")
def official() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.client.close()


def ours(contents: Any, config: Any, model: str = MODEL) -> Any:
    return json.loads(Encoder().generate(model, contents, config).payload)


DECLARATION = {
    "name": "f",
    "description": "d",
    "parameters_json_schema": {"type": "object", "properties": {"some_city": {"type": "string"}}},
    "response_json_schema": {"type": "string"},
}
OPENAPI = {
    "name": "g",
    "parameters": {
        "type": "OBJECT",
        "properties": {"some_city": {"type": "STRING", "nullable": True}, "n": {"type": "INTEGER"}},
        "required": ["some_city"],
    },
}
SAFETY = [
    {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"},
    {"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_ONLY_HIGH"},
]
SPEAKERS = [
    {"speaker": name, "voice_config": {"prebuilt_voice_config": {"voice_name": voice}}}
    for name, voice in (("Joe", "Kore"), ("Jane", "Puck"))
]
SCHEMA = {
    "type": "OBJECT",
    "properties": {"some_name": {"type": "STRING"}, "tags": {"type": "ARRAY", "items": {"type": "STRING"}}},
    "required": ["some_name"],
}

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "system instruction": {"system_instruction": "be brief"},
    "system instruction of parts": {"system_instruction": [{"text": "be"}, {"text": "brief"}]},
    "safety": {"safety_settings": SAFETY},
    "thinking by budget": {"thinking_config": {"include_thoughts": True, "thinking_budget": 128}},
    "thinking by level": {"thinking_config": {"thinking_level": "low"}},
    "sampling": {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "candidate_count": 2,
        "max_output_tokens": 64,
        "stop_sequences": ["X", "Y"],
        "seed": -7,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.2,
        "response_logprobs": True,
        "logprobs": 3,
    },
    "nothing but zeros": {"temperature": 0.0, "top_k": 0, "seed": 0, "thinking_config": {"thinking_budget": 0}},
    "cached content": {"cached_content": "cachedContents/abc"},
    "cached content by its id": {"cached_content": "abc"},
    "image output": {
        "response_modalities": ["TEXT", "IMAGE"],
        "image_config": {"aspect_ratio": "16:9", "image_size": "2K"},
    },
    "speech by name": {"response_modalities": ["AUDIO"], "speech_config": "Kore"},
    "speech of several": {
        "response_modalities": ["AUDIO"],
        "speech_config": {"multi_speaker_voice_config": {"speaker_voice_configs": SPEAKERS}, "language_code": "de-DE"},
    },
    "media resolution": {"media_resolution": "MEDIA_RESOLUTION_HIGH"},
    "labels": {"labels": {"some_team": "some_value"}},
    "service tier": {"service_tier": "flex"},
    "store": {"store": False},
    "google search": {"tools": [{"google_search": {}}]},
    "code execution and url context": {"tools": [{"code_execution": {}}, {"url_context": {}}]},
    "google maps where one is": {
        "tools": [{"google_maps": {"enable_widget": True}}],
        "tool_config": {"retrieval_config": {"lat_lng": {"latitude": 1.5, "longitude": 2.5}, "language_code": "de"}},
    },
    "file search": {"tools": [{"file_search": {"file_search_store_names": ["fileSearchStores/x"], "top_k": 3}}]},
    "computer use": {
        "tools": [{"computer_use": {"environment": "ENVIRONMENT_BROWSER", "excluded_predefined_functions": ["drag"]}}]
    },
    "functions": {"tools": [{"function_declarations": [DECLARATION, OPENAPI]}]},
    "functions between tools": {
        "tools": [
            {"function_declarations": [OPENAPI]},
            {"google_search": {}},
            {"function_declarations": [DECLARATION], "code_execution": {}},
        ]
    },
    "tool config": {
        "tools": [{"function_declarations": [DECLARATION]}],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
    },
    "JSON by a dict": {"response_mime_type": "application/json", "response_schema": SCHEMA},
    "JSON by pydantic": {"response_mime_type": "application/json", "response_schema": Recipe},
    "JSON by no schema": {"response_mime_type": "application/json"},
    "enum": {"response_mime_type": "text/x.enum", "response_schema": Cuisine},
    "any voice": {"speech_config": {"voice_config": {"voice": "x"}}},
    "own voice": {
        "speech_config": {
            "voice_config": {
                "replicated_voice_config": {"mime_type": "audio/wav", "voice_sample_audio": b"\x01\xff\xfe"}
            }
        }
    },
    "continuation": {"continuation_token": b"\x01\xff\xfe"},
    "servers of tools": {
        "tools": [{"mcp_servers": [{"name": "x", "streamable_http_transport": {"url": "https://example.com"}}]}],
        "tool_config": {"include_server_side_tool_invocations": True},
    },
    "transcription": {"audio_transcription_config": {"language_codes": ["de-DE"], "diarization": True}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_config_is_the_same_request(official: Recording, name: str) -> None:
    """As a dict and as google-genai's type, in a batch and live."""
    config = CONFIGS[name]
    theirs = canonical(official.in_batch("hi", types.GenerateContentConfig(**config)))
    assert canonical(official.live("hi", types.GenerateContentConfig(**config))) == theirs
    assert canonical(ours("hi", copy.deepcopy(config))) == theirs
    assert canonical(ours("hi", types.GenerateContentConfig(**config))) == theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_every_name_we_send_is_in_camel_case(name: str) -> None:
    """The official client mixes both cases; protobuf reads both."""
    assert spelling(ours("hi", copy.deepcopy(CONFIGS[name]))) == set()


CONTENTS: dict[str, Any] = {
    "text": "hi",
    "a list of texts": ["a", "b"],
    "a part": types.Part(text="a"),
    "a content": types.Content(role="user", parts=[types.Part(text="a"), types.Part(text="b")]),
    "turns": [
        types.UserContent("a"),
        types.ModelContent(types.Part(text="b", thought_signature=b"\x01\xff")),
        types.Content(role="user", parts=[types.Part(text="c")]),
    ],
    "turns as dicts": [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"text": "b", "thought": True}]},
        {"role": "user", "parts": [{"text": "c"}]},
    ],
    "bytes": ["look", types.Part.from_bytes(data=PIXELS, mime_type="image/png")],
    "a file by its address": ["read", types.Part.from_uri(file_uri=URI, mime_type="application/pdf")],
    "a file by its object": ["read", types.File(name="files/abc", uri=URI, mime_type="application/pdf")],
    "a clip of a video": types.Part(
        file_data=types.FileData(file_uri=URI, mime_type="video/mp4"),
        video_metadata=types.VideoMetadata(start_offset="1.5s", end_offset="3s", fps=2.0),
    ),
    "resolution of a part": types.Part(
        inline_data=types.Blob(data=PIXELS, mime_type="image/png"),
        media_resolution=types.PartMediaResolution(level="MEDIA_RESOLUTION_HIGH"),
    ),
    "a call and its answer": [
        "what?",
        types.Part.from_function_call(name="f", args={"some_city": "Oslo", "deep": {"a_b": [1, None]}}),
        types.Part.from_function_response(name="f", response={"the_weather": {"is_good": True}}),
    ],
    "names of media": [
        types.Part(inline_data=types.Blob(data=PIXELS, mime_type="image/png", display_name="n")),
        types.Part(file_data=types.FileData(file_uri=URI, mime_type="image/png", display_name="n")),
    ],
    "an answer with a picture": types.Part(
        function_response=types.FunctionResponse(
            id="1",
            name="f",
            response={},
            will_continue=True,
            scheduling=types.FunctionResponseScheduling.SILENT,
            parts=[types.FunctionResponsePart(inline_data=types.FunctionResponseBlob(data=PIXELS, mime_type="a/b"))],
        )
    ),
    "notes on a part": types.Part(text="x", part_metadata={"some_key": {"other_key": 1}}),
    "code and its result": types.ModelContent(
        [
            types.Part.from_executable_code(code="print(1)", language=types.Language.PYTHON),
            types.Part.from_code_execution_result(outcome=types.Outcome.OUTCOME_OK, output="1"),
        ]
    ),
    "all sorts of letters": 'é\u2028\x00"\\\N{GRINNING FACE}',
}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_contents_are_the_same_request(official: Recording, name: str) -> None:
    contents = CONTENTS[name]
    theirs = canonical(official.in_batch(contents, None))
    assert canonical(official.live(contents, None)) == theirs
    assert canonical(ours(contents, None)) == theirs
    assert spelling(ours(contents, None)) == set()


def test_our_own_parts_are_the_requests_of_theirs(official: Recording, tmp_path: Path) -> None:
    path = tmp_path / "pixels.png"
    path.write_bytes(PIXELS)
    theirs = canonical(official.in_batch(["look", types.Part.from_bytes(data=PIXELS, mime_type="image/png")], None))
    assert canonical(ours(["look", Blob(PIXELS, "image/png")], None)) == theirs
    assert canonical(ours(["look", path], None)) == theirs
    file = File(name="files/abc", uri=URI, mime_type="application/pdf", state="ACTIVE")
    theirs = canonical(
        official.in_batch(["read", types.Part.from_uri(file_uri=URI, mime_type="application/pdf")], None)
    )
    assert canonical(ours(["read", file], None)) == theirs


def test_a_python_function_as_the_official_client_declares_it(official: Recording) -> None:
    """We do not take functions, which a batch could not call; what google-genai makes of one is taken as it is."""
    theirs = official.in_batch("hi", types.GenerateContentConfig(tools=[weather]))
    (tool,) = theirs["tools"]
    assert canonical(ours("hi", {"tools": [tool]})) == canonical(theirs)
    declaration = types.FunctionDeclaration.model_validate(tool["functionDeclarations"][0])
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declaration])])
    assert canonical(ours("hi", config)) == canonical(theirs)


# -- what we send otherwise, on purpose


@pytest.mark.parametrize("model", [Recipe, Step])
def test_a_json_schema_is_lowered_to_what_the_official_client_makes_of_the_class(
    official: Recording, model: type[BaseModel]
) -> None:
    """In batches the live service ignores responseJsonSchema; the official client sends it all the same."""
    config = {"response_mime_type": "application/json", "response_json_schema": model.model_json_schema()}
    theirs = official.in_batch("hi", types.GenerateContentConfig(**config))
    assert theirs["generationConfig"].pop("responseJsonSchema") == model.model_json_schema()
    of_class = official.in_batch("hi", types.GenerateContentConfig(response_schema=model))
    theirs["generationConfig"]["responseSchema"] = of_class["generationConfig"]["responseSchema"]
    assert canonical(ours("hi", config)) == canonical(theirs)


def test_a_schema_alone_asks_for_json(official: Recording) -> None:
    """A schema without response_mime_type is refused by the service, so we say application/json."""
    theirs = canonical(official.in_batch("hi", types.GenerateContentConfig(response_schema=Step)))
    theirs["generationConfig"]["responseMimeType"] = "application/json"
    assert canonical(ours("hi", {"response_schema": Step})) == theirs


@pytest.mark.parametrize("generic", [list[Recipe], list[int]])
def test_a_schema_of_a_generic_type_has_no_title(official: Recording, generic: Any) -> None:
    """The official client wraps the type in a class of its own, whose name stays in the schema."""
    config = {"response_mime_type": "application/json", "response_schema": generic}
    theirs = canonical(official.in_batch("hi", types.GenerateContentConfig(**config)))
    assert theirs["generationConfig"]["responseSchema"].pop("title") == "Placeholder"
    assert canonical(ours("hi", config)) == theirs


VERTEX_ONLY: dict[str, dict[str, Any]] = {
    "exclude_domains": {"tools": [{"google_search": {"exclude_domains": ["example.com"]}}]},
    "blocking_confidence": {"tools": [{"google_search": {"blocking_confidence": "BLOCK_LOW_AND_ABOVE"}}]},
    "grounding_types": {"tools": [{"google_maps": {"grounding_types": {}}}]},
    "enterprise_web_search": {"tools": [{"enterprise_web_search": {}}]},
    "retrieval": {"tools": [{"retrieval": {}}]},
    "parallel_ai_search": {"tools": [{"parallel_ai_search": {}}]},
    "exa_ai_search": {"tools": [{"exa_ai_search": {}}]},
    "method": {"safety_settings": [SAFETY[0] | {"method": "SEVERITY"}]},
    "person_generation": {"image_config": {"person_generation": "ALLOW_ALL"}},
    "output_mime_type": {"image_config": {"output_mime_type": "image/png"}},
    "stream_function_call_arguments": {
        "tool_config": {"function_calling_config": {"stream_function_call_arguments": True}}
    },
    "routing_config": {"routing_config": {}},
    "model_selection_config": {"model_selection_config": {}},
    "audio_timestamp": {"audio_timestamp": True},
    "model_armor_config": {"model_armor_config": {}},
    "generation_output_config": {"generation_output_config": {}},
}


@pytest.mark.parametrize("name", VERTEX_ONLY)
def test_what_the_official_client_refuses_to_send_we_refuse(official: Recording, name: str) -> None:
    config = VERTEX_ONLY[name]
    typed = types.GenerateContentConfig.model_validate(config)
    with pytest.raises(ValueError, match=f"{name} parameter is only supported"):
        official.in_batch("hi", typed)
    for given in (config, typed):
        with pytest.raises(ConfigurationError, match=f"{name}|{camel(name)}"):
            ours("hi", given)


def test_a_schema_of_free_keys_is_refused_by_both(official: Recording) -> None:
    config = {"response_mime_type": "application/json", "response_schema": dict[str, int]}
    with pytest.raises(ValueError, match="additionalProperties"):
        official.in_batch("hi", types.GenerateContentConfig(**config))
    with pytest.raises(ConfigurationError, match="additionalProperties"):
        ours("hi", config)


# -- embeddings

EMBED_CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "task": {"task_type": "RETRIEVAL_DOCUMENT"},
    "all": {"task_type": "RETRIEVAL_DOCUMENT", "title": "some title", "output_dimensionality": 768},
}


@pytest.mark.parametrize("name", EMBED_CONFIGS)
@pytest.mark.parametrize("content", ["hi", types.Content(parts=[types.Part(text="a"), types.Part(text="b")])])
def test_the_same_embedding_is_the_same_request(official: Recording, name: str, content: Any) -> None:
    config = EMBED_CONFIGS[name]
    typed = types.EmbedContentConfig(**config)
    theirs = canonical(official.embedded(content, typed))
    assert canonical(official.embedded_in_batch([content], typed)) == theirs
    for given in (config, typed):
        request = json.loads(Encoder().embed("gemini-embedding-001", content, given).payload)
        assert canonical(request) == theirs
        assert spelling(request) == set()
