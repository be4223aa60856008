"""Whatever a config of google-genai holds, our request is the official client's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from carpool._gemini.encode import Encoder

from .recording import Recording, canonical, spelling

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
official = Recording()

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
names = st.from_regex(r"[a-z][a-z_0-9]{0,11}", fullmatch=True)
halves = st.integers(-8, 8).map(lambda number: number / 4)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Make a dict with any of the fields, and at least one."""
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


def schemas(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Make schemas in Google's own form."""
    common = {"title": words, "description": words, "nullable": st.booleans()}
    count = st.integers(0, 9)
    leaves = st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("STRING")},
            optional=common | {"enum": st.lists(words, min_size=1, max_size=3, unique=True), "min_length": count},
        ),
        st.fixed_dictionaries({"type": st.just("INTEGER")}, optional=common | {"minimum": halves, "maximum": halves}),
        st.fixed_dictionaries({"type": st.sampled_from(["NUMBER", "BOOLEAN"])}, optional=common),
    )
    if depth == 0:
        return leaves
    inner = schemas(depth - 1)
    return st.one_of(
        leaves,
        st.fixed_dictionaries(
            {"type": st.just("ARRAY"), "items": inner}, optional=common | {"min_items": count, "max_items": count}
        ),
        st.dictionaries(names, inner, min_size=1, max_size=3).flatmap(
            lambda properties: st.fixed_dictionaries(
                {
                    "type": st.just("OBJECT"),
                    "properties": st.just(properties),
                    "property_ordering": st.permutations(list(properties)),
                },
                optional=common | {"required": st.lists(st.sampled_from(sorted(properties)), min_size=1, unique=True)},
            )
        ),
        st.fixed_dictionaries({"any_of": st.lists(inner, min_size=2, max_size=3)}),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
declarations = st.fixed_dictionaries(
    {"name": names},
    optional={
        "description": words,
        "parameters_json_schema": st.dictionaries(names, json_values, min_size=1, max_size=3),
        "response_json_schema": st.dictionaries(names, json_values, min_size=1, max_size=3),
        "parameters": schemas(1).filter(lambda schema: "any_of" not in schema),
    },
)
tools = st.one_of(
    st.sampled_from(
        [
            {"google_search": {}},
            {"code_execution": {}},
            {"url_context": {}},
            {"google_maps": {"enable_widget": True}},
            {"google_search": {"time_range_filter": {"start_time": "2026-01-01T00:00:00Z"}}},
            {"google_search_retrieval": {"dynamic_retrieval_config": {"mode": "MODE_DYNAMIC"}}},
        ]
    ),
    st.lists(declarations, min_size=1, max_size=2).map(lambda declared: {"function_declarations": declared}),
)
configs = some(
    system_instruction=words,
    temperature=halves,
    top_p=halves,
    top_k=st.integers(0, 64),
    candidate_count=st.integers(0, 8),
    max_output_tokens=st.integers(0, 65_536),
    stop_sequences=st.lists(words, min_size=1, max_size=3),
    response_logprobs=st.booleans(),
    logprobs=st.integers(0, 20),
    presence_penalty=halves,
    frequency_penalty=halves,
    seed=st.integers(-(2**31), 2**31 - 1),
    response_mime_type=st.sampled_from(["text/plain", "application/json", "text/x.enum"]),
    response_modalities=st.lists(st.sampled_from(["TEXT", "IMAGE", "AUDIO"]), min_size=1, max_size=3),
    media_resolution=st.sampled_from(list(types.MediaResolution)),
    safety_settings=st.lists(
        st.fixed_dictionaries(
            {
                "category": st.sampled_from(list(types.HarmCategory)),
                "threshold": st.sampled_from(list(types.HarmBlockThreshold)),
            }
        ),
        min_size=1,
        max_size=2,
    ),
    tools=st.lists(tools, min_size=1, max_size=3),
    tool_config=some(
        function_calling_config=some(
            mode=st.sampled_from(list(types.FunctionCallingConfigMode)),
            allowed_function_names=st.lists(names, min_size=1, max_size=2),
        ),
        retrieval_config=some(language_code=words, lat_lng=some(latitude=halves, longitude=halves)),
    ),
    labels=st.dictionaries(names, words, min_size=1, max_size=2),
    cached_content=st.sampled_from(["cachedContents/abc", "abc"]),
    speech_config=words
    | some(
        language_code=words,
        voice_config=some(prebuilt_voice_config=st.fixed_dictionaries({"voice_name": words})),
    ),
    thinking_config=some(
        include_thoughts=st.booleans(),
        thinking_budget=st.integers(-1, 1_000),
        thinking_level=st.sampled_from(list(types.ThinkingLevel)),
    ),
    image_config=some(aspect_ratio=words, image_size=words),
    enable_enhanced_civic_answers=st.booleans(),
    service_tier=st.sampled_from(list(types.ServiceTier)),
    store=st.booleans(),
)
schema_configs = st.tuples(configs, schemas(2)).map(
    lambda both: both[0] | {"response_mime_type": "application/json", "response_schema": both[1]}
)
parts = st.one_of(
    words.map(lambda text: types.Part(text=text)),
    st.binary(max_size=20).map(lambda data: types.Part.from_bytes(data=data, mime_type="image/png")),
    words.map(lambda uri: types.Part.from_uri(file_uri=uri, mime_type="application/pdf")),
    st.dictionaries(names, json_values, max_size=2).map(
        lambda args: types.Part.from_function_call(name="f", args=args)
    ),
    st.dictionaries(names, json_values, max_size=2).map(
        lambda response: types.Part.from_function_response(name="f", response=response)
    ),
)
turns = st.builds(types.Content, role=st.sampled_from(["user", "model"]), parts=st.lists(parts, min_size=1, max_size=3))
contents = st.one_of(words, parts, turns, st.lists(words | parts | turns, min_size=1, max_size=4))


@given(config=configs | schema_configs)
def test_any_config_is_the_same_request(config: dict[str, Any]) -> None:
    theirs = canonical(official.in_batch("hi", types.GenerateContentConfig.model_validate(config)))
    as_dict = json.loads(Encoder().generate("gemini-3.5-flash", "hi", config).payload)
    typed = types.GenerateContentConfig.model_validate(config)
    as_type = json.loads(Encoder().generate("gemini-3.5-flash", "hi", typed).payload)
    assert canonical(as_dict) == theirs
    assert canonical(as_type) == theirs
    assert spelling(as_dict) == set()


@given(given_contents=contents)
def test_any_contents_are_the_same_request(given_contents: Any) -> None:
    theirs = canonical(official.in_batch(given_contents, None))
    request = json.loads(Encoder().generate("gemini-3.5-flash", given_contents, None).payload)
    assert canonical(request) == theirs
    assert spelling(request) == set()
