"""What a finished request will take is read off its JSON, in either spelling, whatever stands in it."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._gemini.survey import Spread, Survey, Takes, spread_of, survey_request
from carpool.emulator.media import picture

PNG = picture(1_600, 800, b"\xff\xfe\xfd\xfc\xfb\xfa")


def asked(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"parts": list(parts)}], **more}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        (asked({"text": "x" * 40}), 10),
        (asked({"text": "x"}), 1),
        (asked({"text": "я" * 40}), 20),
        (asked({"text": "\ud800" * 4}), 3),
        (asked({"text": "x" * 40}, systemInstruction={"parts": [{"text": "y" * 20}]}), 15),
        (asked({"text": "x" * 40}, system_instruction={"parts": {"text": "y" * 20}}), 15),
        ({"content": {"parts": [{"text": "x" * 40}]}}, 10),
        ({"contents": {"parts": {"text": "x" * 40}}}, 10),
        (asked({"functionResponse": {"name": "f", "response": {"a": "x" * 40}}}), 23),
        (asked({"text": "x" * 40}, tools=[{"functionDeclarations": [{"name": "f" * 40}]}]), 30),
        ({}, 1),
        ({"contents": "text"}, 1),
        ({"contents": [None, 5, {"parts": [None, 5, "text"]}]}, 1),
    ],
)
def test_text_counts_a_quarter_of_its_bytes(fields: dict[str, Any], tokens: int) -> None:
    assert survey_request(fields) == Survey(tokens=tokens)


def test_media_count_by_size_in_either_spelling_and_alphabet() -> None:
    for name, mime, encoded in (
        ("inlineData", "mimeType", b64encode(PNG)),
        ("inline_data", "mime_type", urlsafe_b64encode(PNG)),
        ("inlineData", "mimeType", b64encode(PNG).rstrip(b"=")),
    ):
        fields = asked({name: {mime: "image/png", "data": encoded.decode()}}, {"text": "x" * 8})
        assert survey_request(fields) == Survey(tokens=6 * 258 + 2, image=6 * 258)
    sound = asked({"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA" * 40_000}})
    assert survey_request(sound) == Survey(tokens=240, audio=240)


def test_what_has_no_size_counts_as_a_small_picture_and_says_so() -> None:
    film = {"fileData": {"fileUri": "u", "mimeType": "video/mp4"}}
    assert survey_request(asked(film)) == Survey(tokens=258, video=258, unsized=1)
    for broken in ("!", "A", "é"):
        part = {"inlineData": {"mimeType": "image/png", "data": broken}}
        assert survey_request(asked(part)).tokens == 258
    page = {"inline_data": {"mime_type": "application/pdf", "data": "JVBERg=="}}
    assert survey_request(asked(page, page)) == Survey(tokens=516, other=516, unsized=2)
    assert survey_request(asked({"fileData": {}})) == Survey(tokens=258, other=258, unsized=1)


@pytest.mark.parametrize(
    ("clip", "tokens"),
    [
        ({"startOffset": "10s", "endOffset": "70s"}, 60 * 295),
        ({"end_offset": "1.5s"}, 442),
        ({"startOffset": "70s", "endOffset": "10s"}, 258),
        ({"startOffset": "now", "endOffset": "then"}, 258),
        ({"endOffset": "1e999s"}, 258),
        ({"endOffset": "nan"}, 258),
        (7, 258),
    ],
)
def test_a_clip_of_a_film_has_a_length(clip: Any, tokens: int) -> None:
    part = {"fileData": {"fileUri": "u", "mimeType": "video/mp4"}, "videoMetadata": clip}
    assert survey_request(asked(part)).video == tokens


@pytest.mark.parametrize(
    ("config", "cap", "candidates"),
    [
        ({"maxOutputTokens": 5}, 5, 1),
        ({"max_output_tokens": "5", "candidateCount": 3}, 15, 3),
        ({"maxOutputTokens": -5, "candidateCount": 99}, 0, 8),
        ({"maxOutputTokens": True}, 0, 1),
        ({"maxOutputTokens": 10**30}, 0, 1),
        ({"maxOutputTokens": "9" * 5_000}, 0, 1),
        (None, 0, 1),
    ],
)
def test_the_cap_of_the_output_is_that_of_all_candidates(config: Any, cap: int, candidates: int) -> None:
    found = survey_request(asked({"text": "x"}, generationConfig=config))
    assert (found.cap, found.candidates) == (cap, candidates)
    found = survey_request(asked({"text": "x"}, generation_config=config))
    assert (found.cap, found.candidates) == (cap, candidates)


def test_searches_and_caches_are_seen() -> None:
    for tool in ("googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval"):
        assert survey_request(asked({"text": "x"}, tools=[{"codeExecution": {}}, {tool: {}}])).searches
    assert not survey_request(asked({"text": "x"}, tools=[{"codeExecution": {}}, 5])).searches
    assert survey_request(asked({"text": "x"}, cached_content="cachedContents/a")).cached


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        (asked({"text": "x" * 4_000}), Takes(850), Takes(1_150)),
        (asked({"text": "x" * 4_000}, system_instruction={"parts": {"text": "y" * 400}}), Takes(935), Takes(1_265)),
        (asked({"text": "7" * 400}), Takes(85), Takes(115 + 300)),
        (asked({"text": "я" * 1_200}), Takes(255), Takes(800)),
        (asked({"text": "海" * 1_200}), Takes(255), Takes(1_200)),
        (asked({"text": "\ud800" * 4}), Takes(0), Takes(4)),
        (asked({"functionResponse": {"name": "f" * 370, "response": {}}}), Takes(88), Takes(120)),
        (asked({"text": "x" * 400}, tools=[{"f": "x" * 390}]), Takes(85), Takes(230)),
        (asked({"text": "x"}, generationConfig={"response_schema": {"a": "x" * 391}}), Takes(0), Takes(115)),
        (asked({"text": "x"}, generation_config={"responseJsonSchema": {"a": "x" * 391}}), Takes(0), Takes(115)),
        (asked({"inlineData": {"mimeType": "image/png", "data": ""}}), Takes(0, image=258), Takes(0, image=1_120)),
        (
            asked({"inlineData": {"mimeType": "image/png", "data": b64encode(PNG).decode()}}),
            Takes(0, image=258),
            Takes(0, image=6 * 258),
        ),
        (
            asked({"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA" * 40_000}}),
            Takes(0, audio=96),
            Takes(0, audio=480),
        ),
        (asked({"fileData": {"mimeType": "audio/mpeg"}}), Takes(0, audio=258), Takes(0, audio=258)),
        (
            asked({"fileData": {"mimeType": "video/mp4"}, "videoMetadata": {"endOffset": "100s"}}),
            Takes(0, video=9_735),
            Takes(0, video=33_925),
        ),
        (
            asked({"inlineData": {"mimeType": "text/plain", "data": "eHh4" * 400}}),
            Takes(0, other=255),
            Takes(0, other=345),
        ),
        ({}, Takes(0), Takes(0)),
    ],
)
def test_an_estimate_may_be_off_by_so_much(fields: dict[str, Any], least: Takes, most: Takes) -> None:
    assert spread_of(fields) == Spread(least, most, 0)


@pytest.mark.parametrize(("budget", "tokens"), [(500, 500), ("500", 500), (0, 0), (-1, 0), (True, 0), ([], 0)])
def test_tokens_allowed_for_thinking_are_read(budget: Any, tokens: int) -> None:
    assert spread_of(asked(generationConfig={"thinkingConfig": {"thinkingBudget": budget}})).thinking == tokens
    assert spread_of(asked(generation_config={"thinking_config": {"thinking_budget": budget}})).thinking == tokens


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["contents", "parts", "text", "inlineData", "data", "mimeType", "tools", "videoMetadata", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["contents", "content", "tools", "generationConfig", "systemInstruction"]), JSON)
)
def test_no_request_breaks_it(fields: dict[str, Any]) -> None:
    decoded = msgspec.json.decode(json.dumps(fields))
    found, spread = survey_request(decoded), spread_of(decoded)
    assert all(0 <= low <= high for low, high in zip(spread.least, spread.most, strict=True))
    assert found.tokens >= 1
    assert found.tokens >= found.audio + found.image + found.video + found.other
