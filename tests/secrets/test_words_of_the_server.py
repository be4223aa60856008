"""Whatever the server says, in whatever disguise it echoes what it was told: no error shows it."""

from __future__ import annotations

import json
from typing import Any, get_args
from urllib.parse import quote

import pytest

from carpool import errors
from carpool._core.model import Failure, Fault
from carpool._gemini.encode import Encoder, line
from carpool._ports import ProviderError
from carpool._runtime.verdicts import exception_for, fault_words
from carpool._showing import shown
from carpool.errors import CarpoolError
from carpool.types import ServerError

from .disguises import API_KEY, DISGUISES, OTHER_DISGUISES, PROMPT_DISGUISES, TEXT, seen_in, shown_by

MODEL = "gemini-3.5-flash"
KINDS = get_args(Failure.__annotations__["kind"]) or (
    "rejected", "failed", "missing", "ambiguous", "too_large", "credentials", "unreachable",
)  # fmt: skip
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CarpoolError) and not kind.__name__.startswith("_")
]
BODIES: dict[str, dict[str, Any]] = {
    "text": {"contents": TEXT, "config": None},
    "part of several": {"contents": ["look at this", TEXT], "config": None},
    "system instruction": {"contents": "hello", "config": {"system_instruction": TEXT}},
    "answer of a function": {
        "contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"result": TEXT}}}]}],
        "config": None,
    },
    "description in a schema": {
        "contents": "hello",
        "config": {
            "response_mime_type": "application/json",
            "response_schema": {"type": "STRING", "description": TEXT},
        },
    },
}


def line_of(body: dict[str, Any]) -> bytes:
    return line("k", Encoder().generate(MODEL, body["contents"], body["config"]).payload)


def test_the_search_finds_each_disguise() -> None:
    missed = [name for name, words in DISGUISES.items() if not seen_in(words) and name not in _DECODED_ONLY]
    assert not missed


_DECODED_ONLY = {"percent", "form", "bytes", "upload URL in a URL"}
"""Disguises whose runs are found by their plain words: names and numbers between the escapes."""


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("name", DISGUISES)
def test_a_request_s_error_does_not_show_what_the_server_echoes(name: str, body: dict[str, Any]) -> None:
    words = f"Invalid value at 'contents[0]': {DISGUISES[name]} (that was it)"
    for kind in KINDS:
        error = exception_for(Failure(kind=kind, error=ServerError(400, words, "INVALID_ARGUMENT")), "k", line_of(body))
        assert "INVALID_ARGUMENT: Invalid value at" in str(error)
        assert error.message == words
        assert not seen_in(shown_by(error)), shown_by(error)


@pytest.mark.parametrize("name", DISGUISES)
def test_the_server_s_status_is_shown_only_if_it_is_a_word(name: str) -> None:
    said = ServerError(400, "no", DISGUISES[name], [{"reason": DISGUISES[name]}])
    fault = Fault(kind="refused", error=said)
    error = exception_for(Failure(kind="rejected", error=said), "k")
    assert error.status == DISGUISES[name]
    raised = ProviderError(fault)
    for text in (shown_by(error), fault_words(fault), str(raised), repr(raised), repr(fault), repr(said)):
        assert not seen_in(text), text


@pytest.mark.parametrize("name", OTHER_DISGUISES)
def test_words_that_are_not_about_a_request_show_neither_key_nor_upload_url(name: str) -> None:
    fault = Fault(kind="unknown", error=ServerError(500, OTHER_DISGUISES[name], "INTERNAL"))
    assert not seen_in(fault_words(fault)), fault_words(fault)


@pytest.mark.parametrize("name", PROMPT_DISGUISES)
def test_words_about_something_that_was_sent_do_not_show_it(name: str) -> None:
    fault = Fault(kind="refused", error=ServerError(400, f"bad: {PROMPT_DISGUISES[name]}", "INVALID_ARGUMENT"))
    body = json.dumps({"contents": [{"parts": [{"text": TEXT}]}]}).encode()
    assert not seen_in(fault_words(fault, body)), fault_words(fault, body)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("name", ["key", "key in a URL", "key in a query", "key glued"])
def test_no_error_shows_a_key_however_it_came_into_its_text(kind: type[CarpoolError], name: str) -> None:
    error = kind(f"what happened: {OTHER_DISGUISES[name]}", message=TEXT, details={"said": TEXT + API_KEY}, status=TEXT)
    assert not seen_in(shown_by(error)), shown_by(error)
    assert str(error).startswith("what happened: ")


# -- what remains is of use


@pytest.mark.parametrize(
    "words",
    [
        "* GenerateContentRequest.contents[0].parts[0].data: required oneof field 'data' must have one field",
        "Invalid value at 'generation_config.response_mime_type' (type.googleapis.com/google.ai.GenerationConfig)",
        "Quota exceeded for metric: a.googleapis.com/generate_content_free_tier_input_token_count, limit: 250000",
        "You do not have permission to access the File files/cp-01k9zq0c8v3m5x7r2t4w6y8a0b-1 or it may not exist.",
        "cachedContents/abc123def456ghi789jkl012mno345pqr678stu901 was not found",
        "models/gemini-9 is not found for API version v1beta, or is not supported for generateContent.",
    ],
)
def test_the_service_s_own_words_are_shown_as_they_are(words: str) -> None:
    assert shown(words, [TEXT, "hello"], ["user", "application/json"]) == words


def test_a_short_prompt_is_left_out_whole_and_what_is_too_short_to_tell_is_not() -> None:
    words = shown("cannot read 'What is 7 squared?' today", ["What is 7 squared?"])
    assert words == "cannot read '[request text]?' today"
    assert shown("cannot say hello today", ["hello"]) == "cannot say hello today"
    assert shown("cannot read get_weather today", [], ["get_weather"]) == "cannot read get_weather today"


def test_what_stands_around_an_echo_stays() -> None:
    assert shown(f"row 7: {TEXT} is bad", [TEXT]) == "row 7: [request text] is bad"
    twice = f"first {TEXT[:50]} then {TEXT[:50]} end"
    assert shown(twice, [TEXT]).startswith("first [request text]")
    assert shown(twice, [TEXT]).endswith("end")


def test_what_the_server_quotes_at_length_is_left_out_though_it_is_of_another_request() -> None:
    words = f"row 7: {TEXT[:60]!r} is bad, and you don't know the one that doesn't follow it"
    assert shown(words, ["mine"]) == "row 7: [quoted] is bad, and you don't know the one that doesn't follow it"


def test_urls_and_upload_ids_are_left_out_of_any_length() -> None:
    assert shown("see https://x.example/y?a=b now") == "see [url] now"
    assert shown("see HTTPS%3A%2F%2Fx.example%2Fy now") == "see [url] now"
    assert shown("upload_id=abc123 is gone, uploadId: abc124 too") == "[upload] is gone, [upload] too"


def test_a_prompt_in_another_script_is_found_in_a_url_too() -> None:
    prompt = TEXT[-25:]
    assert not prompt.isascii()
    assert shown(f"cannot read {quote(prompt)} today", [prompt]) == "cannot read [request text] today"


def test_long_words_are_cut() -> None:
    assert len(shown("word " * 1_000)) == 300
    assert shown("word " * 1_000).endswith("…")
    assert shown(TEXT * 100, [TEXT]).endswith("…")


@pytest.mark.parametrize("size", [10_000, 4_000_000])
def test_a_large_request_is_searched_for_echoes_to_its_end(size: int) -> None:
    large = "lorem ipsum dolor sit amet " * (size // 27) + TEXT
    assert not seen_in(shown(f"bad: {TEXT}", [large]))
