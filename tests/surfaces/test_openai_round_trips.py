"""Whole conversations in OpenAI's shape with the emulated service, and what nobody would think of sending."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carpool.surfaces.openai.answers import chat_completion, chat_events, embeddings_list
from carpool.surfaces.openai.requests import ChatCall, Untranslatable, read_chat, read_embeddings

from .openai_support import MODEL, PNG, USER, call_of, chat, check, completed, generated, raw

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]


def asked(**fields: Any) -> dict[str, Any]:
    """Ask the emulated service, and return its completion."""
    call = call_of(**fields)
    return completed(call, generated(call))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 1, "top_p": 0.5, "seed": 3, "max_tokens": 50, "presence_penalty": 1, "frequency_penalty": -1},
        {"n": 3, "stop": [".", "!"]},
        {"reasoning_effort": "high", "google": {"thinking_config": {"include_thoughts": True}}},
        {"logprobs": True, "top_logprobs": 5},
        {"response_format": {"type": "json_object"}},
        {"tools": TOOLS, "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": "none"},
        {"messages": [{"role": "system", "content": "be brief"}, USER]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]}
            ]
        },
        {"google": {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]}},
    ],
)
def test_the_emulated_service_answers(fields: dict[str, Any]) -> None:
    found = asked(**fields)
    assert [one["finish_reason"] for one in found["choices"]] == ["stop"] * fields.get("n", 1)
    assert all(one["message"]["content"] for one in found["choices"])
    assert found["usage"]["total_tokens"] > found["usage"]["prompt_tokens"] > 0


def test_an_answer_of_a_shape() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    (one,) = asked(response_format=shape)["choices"]
    assert json.loads(one["message"]["content"]).keys() == {"name", "age"}


def test_a_conversation_with_calls_of_functions() -> None:
    first = {"role": "user", "content": "please get_weather"}
    (one,) = asked(messages=[first], tools=TOOLS)["choices"]
    assert one["finish_reason"] == "tool_calls"
    (made,) = one["message"]["tool_calls"]
    assert made["function"]["name"] == "get_weather"
    assert json.loads(made["function"]["arguments"]).keys() == {"city"}
    result = {"role": "tool", "tool_call_id": made["id"], "content": '{"sky": "clear"}'}
    # The official client sends back what it got, nulls and all.
    (two,) = asked(messages=[first, one["message"], result], tools=TOOLS)["choices"]
    assert two["finish_reason"] == "stop"
    (three,) = asked(messages=[first, one["message"], result, two["message"], USER], tools=TOOLS)["choices"]
    assert three["message"]["content"].startswith('Answer to "hello"')


def test_a_call_that_is_insisted_on() -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    (one,) = asked(tools=TOOLS, tool_choice=named)["choices"]
    assert [call["function"] for call in one["message"]["tool_calls"]] == [{"name": "get_time", "arguments": "{}"}]


def test_a_drawn_picture_goes_back_into_the_conversation() -> None:
    (one,) = asked(model="gemini-2.5-flash-image")["choices"]
    assert one["message"]["images"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    (two,) = asked(model="gemini-2.5-flash-image", messages=[USER, one["message"], USER])["choices"]
    assert two["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("prompt", "refused"),
    [
        ("[[blocked:SAFETY]]", "Gemini blocked the prompt: SAFETY."),
        ("[[finish:RECITATION]]", "Gemini ended the answer: RECITATION."),
    ],
)
def test_what_the_service_does_not_answer(prompt: str, refused: str) -> None:
    (one,) = asked(messages=[{"role": "user", "content": prompt}])["choices"]
    assert (one["finish_reason"], one["message"]["refusal"]) == ("content_filter", refused)


# -- anything at all

WORDS = st.text(st.characters(), max_size=12)
"""Halves of characters among them."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
STRINGS = st.sampled_from(["", "f", "a", PNG, "{}", '{"x":1}', "AAAA", "auto", "none", "low", "text", "function"])
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "critic"])


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have some of the fields, mostly as they should be."""
    return st.fixed_dictionaries({}, optional=fields)


EXTRA = objects(google=objects(thought_signature=STRINGS))
PARTS = objects(
    type=st.sampled_from(["text", "image_url", "input_audio", "file", "refusal"]),
    text=STRINGS,
    image_url=objects(url=STRINGS, detail=STRINGS),
    input_audio=objects(data=STRINGS, format=STRINGS),
    file=objects(file_data=STRINGS, file_id=STRINGS, filename=STRINGS),
)
CALLS = objects(
    id=STRINGS,
    type=STRINGS,
    function=objects(name=STRINGS, arguments=STRINGS),
    extra_content=EXTRA,
)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES, "content": STRINGS | st.none() | st.lists(PARTS, max_size=3)},
    optional={
        "tool_calls": st.lists(CALLS, max_size=3) | st.none(),
        "function_call": objects(name=STRINGS, arguments=STRINGS) | st.none(),
        "tool_call_id": STRINGS,
        "name": STRINGS,
        "extra_content": EXTRA,
        "images": st.lists(objects(image_url=objects(url=STRINGS)), max_size=2),
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2) | JSON,
    "n": st.integers(0, 9) | JSON,
    "stop": STRINGS | st.lists(STRINGS, max_size=6) | JSON,
    "seed": st.integers(-(2**32), 2**32),
    "max_tokens": st.integers(0, 2**32) | JSON,
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 21),
    "reasoning_effort": STRINGS,
    "response_format": objects(
        type=st.sampled_from(["json_schema", "json_object"]), json_schema=objects(schema=JSON, name=STRINGS)
    ),
    "tools": st.lists(
        st.fixed_dictionaries(
            {
                "type": st.just("function"),
                "function": st.fixed_dictionaries(
                    {"name": st.sampled_from("fgh")},
                    optional={"parameters": st.dictionaries(WORDS, JSON, max_size=2), "description": WORDS},
                ),
            }
        ),
        max_size=2,
    ),
    "tool_choice": STRINGS | objects(type=STRINGS, function=objects(name=st.sampled_from("fgh"))),
    "google": objects(cached_content=STRINGS, thinking_config=objects(thinking_budget=st.integers(-2, 9), x=JSON)),
    "metadata": JSON,
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Return a body with a few fields, mostly as they should be."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True))
    return chat(**{name: draw(FIELDS[name]) for name in names})


@st.composite
def conversations(draw: st.DrawFn) -> list[Any]:
    """Return a conversation that is as it should be, but perhaps for one message."""
    messages: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["user", "assistant", "calls"]), max_size=5)):
        if kind != "calls":
            messages.append({"role": kind, "content": draw(st.sampled_from(["x", [{"type": "text", "text": "y"}]]))})
            continue
        ids = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
        made = [{"id": one, "function": {"name": draw(st.sampled_from("fg")), "arguments": "{}"}} for one in ids]
        extra = draw(st.sampled_from([{}, {"extra_content": {"google": {"thought_signature": "AAAA"}}}]))
        made[0] |= extra
        messages.append({"role": "assistant", "content": draw(st.sampled_from([None, "", "x"])), "tool_calls": made})
        results = [{"role": "tool", "tool_call_id": one, "content": draw(STRINGS)} for one in ids]
        messages += draw(st.permutations(results))
    if draw(st.booleans()):
        messages.insert(draw(st.integers(0, len(messages))), draw(MESSAGES))
    return messages


def translated(body: bytes) -> ChatCall | None:
    """Return the translation of a body if it has one. Nothing but its refusal is raised."""
    try:
        return read_chat(body)
    except Untranslatable:
        return None


@given(JSON)
@example({"messages": [{}]})
@example({"model": "m", "messages": [[]]})
def test_anything_is_translated_or_refused(value: Any) -> None:
    body = json.dumps(value).encode()
    assert translated(body) is None
    with pytest.raises(Untranslatable):
        read_embeddings(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert translated(body) is None


@given(bodies())
def test_google_takes_whatever_fields_are_translated(body: dict[str, Any]) -> None:
    call = translated(json.dumps(body).encode())
    if call is not None:
        check(call)
        assert msgspec.json.decode(call.body)["contents"]


@given(conversations(), st.sampled_from([MODEL, "gemini-2.5-flash"]))
def test_google_takes_whatever_conversations_are_translated(messages: list[Any], model: str) -> None:
    call = translated(json.dumps({"model": model, "messages": [USER, *messages]}).encode())
    if call is None:
        return
    check(call)
    turns = msgspec.json.decode(call.body)["contents"]
    calls = [sum("functionCall" in part for part in turn["parts"]) for turn in turns]
    results = [sum("functionResponse" in part for part in turn["parts"]) for turn in turns]
    assert calls[:-1] == results[1:]  # all calls of a turn are answered in the next
    assert (calls[-1], results[0]) == (0, 0)


ANSWERS = objects(
    candidates=JSON
    | st.lists(
        objects(
            content=JSON | objects(parts=JSON | st.lists(objects(text=JSON, functionCall=JSON, inlineData=JSON))),
            finishReason=JSON,
            index=JSON,
            logprobsResult=JSON | objects(chosenCandidates=st.lists(JSON), topCandidates=st.lists(JSON)),
        ),
        max_size=3,
    ),
    usageMetadata=JSON | objects(promptTokenCount=JSON, candidatesTokensDetails=JSON),
    promptFeedback=JSON | objects(blockReason=JSON),
)


@given(ANSWERS | JSON)
def test_any_answer_becomes_json_that_strict_clients_read(answer: Any) -> None:
    body = json.dumps(answer).encode()  # with NaN, and halves of characters
    call = call_of()
    found = msgspec.json.decode(chat_completion(call, body, completion_id="c", created=1))
    assert found["choices"]
    for one in found["choices"]:
        assert one["finish_reason"] in {"stop", "length", "tool_calls", "content_filter"}
    stream = chat_events(call, body, completion_id="c", created=1)
    lines = stream.removesuffix(b"data: [DONE]\n\n").removesuffix(b"\n\n").split(b"\n\n")
    assert [msgspec.json.decode(line.removeprefix(b"data: "))["id"] for line in lines] == ["c"] * len(lines)
    vectors = read_embeddings(raw({"model": "m", "input": "x"}))
    assert msgspec.json.decode(embeddings_list(vectors, [body]))["data"][0]["index"] == 0


@given(st.binary(max_size=60))
def test_any_bytes_become_a_completion(body: bytes) -> None:
    found = msgspec.json.decode(chat_completion(call_of(), body, completion_id="c", created=1))
    assert found["choices"][0]["message"]["role"] == "assistant"
