"""Conversations in OpenAI's shape: what each message becomes, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from carpool.surfaces.openai.messages import UNSIGNED

from .openai_support import PNG, USER, refusal, said

INLINE = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
MADE = {"role": "assistant", "content": None}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def sound(**fields: Any) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav", **fields}}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


def made(call_id: str, name: str = "f", arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def result(call_id: str, content: Any = "done", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def google(signature: str) -> dict[str, Any]:
    return {"extra_content": {"google": {"thought_signature": signature}}}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


# -- words


def test_instructions_stand_apart_each_in_its_own_part() -> None:
    body = said(system("be brief"), {"role": "developer", "content": [text("be"), text("kind")]}, USER)
    assert body["systemInstruction"] == {"parts": [{"text": "be brief"}, {"text": "be"}, {"text": "kind"}]}
    assert body["contents"] == [turn("user", {"text": "hello"})]


def test_an_empty_instruction_is_none() -> None:
    assert "systemInstruction" not in said(system(""), system([text("")]), USER)


def test_turns_alternate() -> None:
    body = said(
        {"role": "assistant", "content": "I begin."},
        user(text("a"), text(""), text("b")),
        USER,
        {"role": "assistant", "content": [text("c")]},
        {"role": "assistant", "content": "d", "refusal": None, "audio": None, "tool_calls": None, "annotations": []},
        USER,
    )
    assert body["contents"] == [
        turn("model", {"text": "I begin."}),
        turn("user", {"text": "a"}, {"text": "b"}, {"text": "hello"}),
        turn("model", {"text": "c"}, {"text": "d"}),
        turn("user", {"text": "hello"}),
    ]


def test_the_model_may_have_spoken_alone() -> None:
    assert said({"role": "assistant", "content": "x"})["contents"] == [turn("model", {"text": "x"})]


# -- media


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (image(PNG), INLINE),
        (image("DATA:Image/PNG;charset=x;BASE64,AP_-"), {"inlineData": {"mimeType": "image/png", "data": "AP_-"}}),
        (image(PNG, detail="auto"), INLINE),
        (image(PNG) | {"prompt_cache_breakpoint": {"mode": "explicit"}}, INLINE),
        (
            image("data:application/pdf;base64,AAAA"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            image("https://example.com/a/cat.JPG?size=2#x"),
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/a/cat.JPG?size=2#x"}},
        ),
        (image("gs://bucket/cat.webp"), {"fileData": {"mimeType": "image/webp", "fileUri": "gs://bucket/cat.webp"}}),
        (sound(), {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}),
        (sound(format="MP3"), {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}}),
        (
            file(file_data="data:application/pdf;base64,AAAA", filename="x.txt"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            file(file_data="AAAA", filename="notes.v2.pdf"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            file(file_id="https://service.test/v1beta/files/abc", filename="talk.mp4"),
            {"fileData": {"mimeType": "video/mp4", "fileUri": "https://service.test/v1beta/files/abc"}},
        ),
        (
            file(file_id="https://example.com/paper.pdf"),
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/paper.pdf"}},
        ),
    ],
)
def test_media(part: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert said(user(text("look"), part))["contents"] == [turn("user", {"text": "look"}, wanted)]


def test_detail_is_the_resolution_of_the_whole_request() -> None:
    low = image(PNG, detail="low")
    assert said(user(low), user(low))["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    high = image(PNG, detail="high")
    assert said(user(high))["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}
    for other in (image(PNG), high, file(file_data="AAAA", filename="a.pdf")):
        assert refusal(messages=[user(low, other)]).param == "messages"


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("hello", ""),
        ({"text": "hello"}, ".type"),
        ({"type": "refusal", "refusal": "no"}, ".type"),
        ({"type": "video_url", "video_url": {"url": "x"}}, ".type"),
        ({"type": "text"}, ".text"),
        (text("x") | {"cache_control": {"type": "ephemeral"}}, ".cache_control"),
        ({"type": "image_url", "image_url": PNG}, ".image_url"),
        (image(""), ".image_url.url"),
        (image("cat.png"), ".image_url.url"),
        (image("files/abc"), ".image_url.url"),
        (image("file:///etc/passwd.png"), ".image_url.url"),
        (image("https://[::1"), ".image_url.url"),
        (image("https://service.test/v1beta/files/abc"), ".image_url.url"),
        (image("https://example.com/cat.exe"), ".image_url.url"),
        (image("data:image/png,AAAA"), ".image_url.url"),
        (image("data:image/png;base64"), ".image_url.url"),
        (image("data:;base64,AAAA"), ".image_url.url"),
        (image("data:image/png;base64,"), ".image_url.url"),
        (image("data:image/png;base64,AAAAA"), ".image_url.url"),
        (image("data:image/png;base64,AA AA"), ".image_url.url"),
        (image(PNG, detail="original"), ".image_url.detail"),
        (image(PNG, format="png"), ".image_url.format"),
        (sound(data="!"), ".input_audio.data"),
        (sound(format="a/b"), ".input_audio.format"),
        (sound(format=None), ".input_audio.format"),
        (file(), ".file"),
        (file(file_data="AAAA", file_id="https://x/y.pdf"), ".file"),
        (file(file_data="AAAA"), ".file.file_data"),
        (file(file_data="AAAA", filename="pdf"), ".file.file_data"),
        (file(file_id="file-abc123", filename="a.pdf"), ".file.file_id"),
        (file(file_id="https://service.test/v1beta/files/abc"), ".file.file_id"),
    ],
)
def test_parts_that_are_refused(part: Any, place: str) -> None:
    assert refusal(messages=[USER, user(text("look"), part)]).param == f"messages[1].content[1]{place}"


# -- calls of functions


def test_results_follow_their_calls_in_one_turn_and_in_their_order() -> None:
    body = said(
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [made("a", "f", '{"x": 1}'), made("b", "g", "")]},
        result("b", '{"found": [1, 2]}', name="g"),
        result("a", [text("sun"), text("ny")]),
        USER,
        model="gemini-2.5-flash",
    )
    assert body["contents"] == [
        turn("user", {"text": "hello"}),
        turn(
            "model",
            {"text": "I look."},
            {"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}},
            {"functionCall": {"id": "b", "name": "g", "args": {}}},
        ),
        turn(
            "user",
            {"functionResponse": {"id": "a", "name": "f", "response": {"output": "sunny"}}},
            {"functionResponse": {"id": "b", "name": "g", "response": {"found": [1, 2]}}},
        ),
        turn("user", {"text": "hello"}),
    ]


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ("", {"output": ""}),
        ("12", {"output": "12"}),
        ("[1]", {"output": "[1]"}),
        ('{"a": 1', {"output": '{"a": 1'}),
        (' {"a": null}', {"a": None}),
        ('{"a":' * 95 + "1" + "}" * 95, {"output": '{"a":' * 95 + "1" + "}" * 95}),
    ],
)
def test_what_functions_returned(content: str, response: dict[str, Any]) -> None:
    body = said(USER, {**MADE, "tool_calls": [made("a")]}, result("a", content))
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == response


def test_the_older_spelling_of_calls() -> None:
    body = said(
        USER,
        {**MADE, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
        {"role": "function", "name": "f", "content": "done"},
        model="gemini-2.5-flash",
    )
    assert body["contents"][1:] == [
        turn("model", {"functionCall": {"name": "f", "args": {"x": 1}}}),
        turn("user", {"functionResponse": {"name": "f", "response": {"output": "done"}}}),
    ]


def test_calls_of_the_same_id_are_answered_one_after_the_other() -> None:
    both = {**MADE, "tool_calls": [made("a", "f"), made("a", "g")]}
    parts = said(USER, both, result("a", "1"), result("a", "2"))["contents"][2]["parts"]
    found = [part["functionResponse"] for part in parts]
    assert [(one["name"], one["response"]) for one in found] == [("f", {"output": "1"}), ("g", {"output": "2"})]


def test_results_of_two_steps_are_two_turns() -> None:
    step = ({**MADE, "tool_calls": [made("a")]}, result("a"))
    roles = [one["role"] for one in said(USER, *step, *step)["contents"]]
    assert roles == ["user", "model", "user", "model", "user"]


# -- thought signatures


def test_signatures_go_back_to_where_they_came_from() -> None:
    body = said(
        USER,
        {"role": "assistant", "content": "hm", **google("AAAA")},
        USER,
        {**MADE, "tool_calls": [made("a", **google("BBBB")), made("b")]},
        result("a"),
        result("b"),
    )
    assert body["contents"][1]["parts"] == [{"text": "hm", "thoughtSignature": "AAAA"}]
    signatures = [part.get("thoughtSignature") for part in body["contents"][3]["parts"]]
    assert signatures == ["BBBB", None]


def test_a_messages_own_signature_without_words_is_its_first_calls() -> None:
    body = said(USER, {**MADE, "tool_calls": [made("a")], **google("AAAA")}, result("a"))
    assert body["contents"][1]["parts"][0]["thoughtSignature"] == "AAAA"
    body = said(USER, {"role": "assistant", "content": "", **google("AAAA")}, USER)
    assert body["contents"][1]["parts"] == [{"text": "", "thoughtSignature": "AAAA"}]


def test_calls_since_the_user_spoke_are_marked_where_their_signature_was_lost() -> None:
    step = {**MADE, "tool_calls": [made("a"), made("b")]}
    conversation = [USER, step, result("a"), result("b"), USER, step, result("a"), result("b"), step, result("a")]
    body = said(*conversation, result("b"))
    signatures = [[part.get("thoughtSignature") for part in one["parts"]] for one in body["contents"]]
    assert signatures == [
        [None],
        [None, None],
        [None, None],
        [None],
        [UNSIGNED, None],
        [None, None],
        [UNSIGNED, None],
        [None, None],
    ]
    older = said(*conversation, result("b"), model="gemini-2.5-flash")
    assert UNSIGNED not in str(older)


def test_a_signature_that_is_there_stays() -> None:
    body = said(USER, {**MADE, "tool_calls": [made("a", **google("AAAA"))]}, result("a"))
    assert body["contents"][1]["parts"][0]["thoughtSignature"] == "AAAA"


def test_what_the_official_client_read_in_an_answer_is_not_sent() -> None:
    function = {"name": "f", "arguments": '{"x":1}', "parsed_arguments": {"x": 1}}
    message = {**MADE, "parsed": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    body = said(USER, message, result("a"), {"role": "assistant", "content": "{}", "parsed": {"y": 2}})
    assert body["contents"][1]["parts"][0]["functionCall"] == {"id": "a", "name": "f", "args": {"x": 1}}
    assert body["contents"][3]["parts"] == [{"text": "{}"}]


def test_what_litellm_did_not_know_of_an_answer_is_read_where_it_keeps_it() -> None:
    message = {"role": "assistant", "content": "x", "provider_specific_fields": {"refusal": None, **google("AAAA")}}
    assert said(USER, message)["contents"][1]["parts"] == [{"text": "x", "thoughtSignature": "AAAA"}]
    own = {**message, **google("BBBB")}
    assert said(USER, own)["contents"][1]["parts"] == [{"text": "x", "thoughtSignature": "BBBB"}]


def test_what_our_own_answers_hold_is_taken_back() -> None:
    drawn = {"type": "image_url", "image_url": {"url": PNG}, "index": 0, **google("CCCC")}
    message = {
        "role": "assistant",
        "content": "here",
        "refusal": None,
        "reasoning_content": "I thought of cats",
        "images": [drawn],
        **google("AAAA"),
    }
    body = said(USER, message, USER)
    assert body["contents"][1]["parts"] == [
        {"text": "here", "thoughtSignature": "AAAA"},
        {**INLINE, "thoughtSignature": "CCCC"},
    ]


# -- refusals


CALLS = {**MADE, "tool_calls": [made("a"), made("b")]}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([system("x")], "messages"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "critic", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [text("")]}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": "x", "name": "ann"}], "messages[0].name"),
        ([{"role": "user", "content": "x", "tool_calls": []}], "messages[0].tool_calls"),
        ([system([image(PNG)]), USER], "messages[0].content[0].type"),
        ([system(None), USER], "messages[0].content"),
        ([USER, system("x")], "messages[1].role"),
        ([USER, {"role": "assistant", "content": "x"}, {"role": "developer", "content": "x"}], "messages[2].role"),
        ([USER, MADE], "messages[1]"),
        ([USER, {"role": "assistant", "content": ""}], "messages[1]"),
        ([USER, {**MADE, "refusal": "I will not"}], "messages[1].refusal"),
        ([USER, {**MADE, "audio": {"id": "x"}}], "messages[1].audio"),
        ([USER, {**MADE, "annotations": [{}]}], "messages[1].annotations"),
        ([USER, {**MADE, "reasoning_content": 1}], "messages[1].reasoning_content"),
        ([USER, {**MADE, "content": [{"type": "refusal", "refusal": "no"}]}], "messages[1].content[0].type"),
        ([USER, {**MADE, "thinking_blocks": []}], "messages[1].thinking_blocks"),
        ([USER, {**MADE, "provider_specific_fields": {"refusal": "no"}}], "messages[1].refusal"),
        ([USER, {**MADE, "provider_specific_fields": {"x": 1}}], "messages[1].provider_specific_fields.x"),
        ([USER, {**MADE, "provider_specific_fields": []}], "messages[1].provider_specific_fields"),
        ([USER, {**MADE, "content": "x", "extra_content": {"vertex": {}}}], "messages[1].extra_content.vertex"),
        ([USER, {**MADE, "content": "x", "extra_content": {"google": {"thought": True}}}],
         "messages[1].extra_content.google.thought"),
        ([USER, {**MADE, "content": "x", **google("?")}], "messages[1].extra_content.google.thought_signature"),
        ([USER, {**MADE, "images": [{"image_url": {"url": "x"}}]}], "messages[1].images[0].image_url.url"),
        ([USER, {**MADE, "tool_calls": {}}], "messages[1].tool_calls"),
        ([USER, {**MADE, "tool_calls": [made("")]}], "messages[1].tool_calls[0].id"),
        ([USER, {**MADE, "tool_calls": [made("a", "")]}], "messages[1].tool_calls[0].function.name"),
        ([USER, {**MADE, "tool_calls": [made("a", "f", "[1]")]}], "messages[1].tool_calls[0].function.arguments"),
        ([USER, {**MADE, "tool_calls": [made("a", "f", "{")]}], "messages[1].tool_calls[0].function.arguments"),
        ([USER, {**MADE, "tool_calls": [made("a", "f", '{"a":' * 95 + "1" + "}" * 95)]}],
         "messages[1].tool_calls[0].function.arguments"),
        ([USER, {**MADE, "tool_calls": [{"id": "a", "type": "custom", "custom": {}}]}],
         "messages[1].tool_calls[0].type"),
        ([USER, {**MADE, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
         "messages[1].tool_calls[0].function.arguments"),
        ([USER, {**MADE, "tool_calls": [made("a")], "function_call": {"name": "f", "arguments": ""}}],
         "messages[1].function_call"),
        ([CALLS, result("a"), result("b")], "messages[0]"),
        ([USER, CALLS], "messages[1]"),
        ([USER, CALLS, result("a")], "messages[2]"),
        ([USER, CALLS, result("a"), USER], "messages[3]"),
        ([USER, CALLS, result("a"), result("a")], "messages[3].tool_call_id"),
        ([USER, CALLS, result("a"), result("c")], "messages[3].tool_call_id"),
        ([USER, CALLS, {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([USER, CALLS, {"role": "function", "name": "g", "content": "x"}], "messages[2].name"),
        ([USER, CALLS, result("a", name="g")], "messages[2].name"),
        ([USER, CALLS, result("a", None)], "messages[2].content"),
        ([USER, CALLS, result("a", [image(PNG)])], "messages[2].content[0].type"),
        ([USER, CALLS, result("a", is_error=True)], "messages[2].is_error"),
        ([USER, result("a")], "messages[1].tool_call_id"),
    ],
)  # fmt: skip
def test_conversations_that_are_refused(messages: list[Any], param: str) -> None:
    assert refusal(messages=messages).param == param
