"""A call that cannot be sent says where it is wrong, not what was given: a prompt in any wrong place is not shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from carpool import Blob, CarpoolError, Client, MemoryStore, Request, Settings
from carpool._gemini.config import GENERATE_FIELDS
from carpool._gemini.encode import Encoder
from carpool._gemini.plain import snake
from carpool.settings import check_ladder

from .disguises import API_KEY, TEXT, seen_in, shown_by

MODEL = "gemini-3.5-flash"
ODD: dict[str, Any] = {
    "text": TEXT,
    "bytes": TEXT.encode(),
    "list": [TEXT],
    "lists": [[TEXT]],
    "mapping": {"text": TEXT},
    "mapping by it": {TEXT: 1},
    "mapping by it, twice": {"a_b": 1, "aB": TEXT},
    "nested": {"parts": [{"text": {"text": TEXT}}]},
    "type": type(TEXT, (), {}) if TEXT.isidentifier() else type("Odd", (), {"text": TEXT}),
    "object": Blob(TEXT.encode(), ""),
    "surrogate": TEXT + "\ud83d",
    "exception": ValueError(TEXT),
}
PARTS: dict[str, Any] = {
    "unknown field": {TEXT: TEXT},
    "unknown field of a part": {"parts": [{"txet": TEXT}]},
    "text that is none": {"parts": [{"text": [TEXT]}]},
    "parts that are none": {"parts": TEXT},
    "role": {"parts": [{"text": "a"}], "role": {TEXT: TEXT}},
    "data": {"parts": [{"inlineData": TEXT}]},
    "data of another type": {"parts": [{"inlineData": {"data": {TEXT: 1}, "mimeType": TEXT}}]},
    "file": {"parts": [{"fileData": {"fileUri": [TEXT], "uri": TEXT}}]},
    "function": {"parts": [{"functionCall": {"name": TEXT, "args": {TEXT: object()}}}]},
    "answer of a function": {"parts": [{"functionResponse": {"response": {TEXT: {TEXT: float("nan")}}}}]},
    "surrogate": {"parts": [{"text": f"{TEXT}\ud83d"}]},
    "surrogate deep inside": {"parts": [{"functionCall": {"args": {TEXT: {TEXT: "\ud83d"}}}}]},
    "deep": [[[[TEXT]]]],
}


def errors_of_call(model: Any, contents: Any, config: Any) -> Iterator[BaseException]:
    encoder = Encoder()
    for call in (encoder.generate, encoder.embed):
        try:
            call(model, contents, config)
        except CarpoolError as error:
            yield error
    try:
        encoder.body("generate", MODEL, contents)
    except CarpoolError as error:
        yield error


def assert_hidden(*calls: tuple[Any, Any, Any]) -> int:
    count = 0
    for call in calls:
        for error in errors_of_call(*call):
            count += 1
            assert not seen_in(shown_by(error)), shown_by(error)
    return count


def test_contents_in_any_wrong_form_are_not_shown() -> None:
    odd = [*ODD.values(), *PARTS.values()]
    assert assert_hidden(*((MODEL, contents, None) for contents in odd)) > 30
    assert assert_hidden(*((MODEL, [contents, "b"], None) for contents in odd)) > 30


@pytest.mark.parametrize("field", sorted({*GENERATE_FIELDS, "noSuchField", "http_options", "labels"}))
def test_a_wrong_value_of_a_setting_is_not_shown(field: str) -> None:
    odd = [*ODD.values(), *PARTS.values()]
    configs: list[Any] = [{name: value} for name in (field, snake(field)) for value in odd]
    configs += [{field: [{name: value}]} for name in ("name", "type", "x") for value in odd]
    configs += [{field: {name: value}} for name in ("type", "mode", "parts", "level") for value in odd]
    assert_hidden(*((MODEL, "a", config) for config in configs))


def test_a_config_that_is_none_is_not_shown() -> None:
    assert assert_hidden(*((MODEL, "a", value) for value in ODD.values())) > 10


def test_who_mixes_up_model_and_prompt_does_not_see_it_in_the_error() -> None:
    assert assert_hidden(*((value, MODEL, None) for value in (TEXT, TEXT[:60], TEXT[:30], f"models/{TEXT}"))) >= 8
    (first, *_) = errors_of_call("gemini 3", "a", None)
    assert "(a text of 8 characters) is not a model name" in str(first)
    (first, *_) = errors_of_call("gemini/3", "a", None)
    assert "'gemini/3' is not a model name" in str(first)


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.anyio
async def test_odd_arguments_of_calls_are_not_shown(value: Any) -> None:
    settings = Settings(first_contact_s=0.1, retry_min_s=0.01, retry_max_s=0.01)
    client = Client(api_key=API_KEY, base_url="http://127.0.0.1:9", store=MemoryStore(), settings=settings)
    calls = [
        lambda: client.generate(MODEL, "a", key=value if not isinstance(value, str) else TEXT * 10),
        lambda: client.generate(MODEL, "a", ladder=value),
        lambda: client.generate(value, "a"),
        lambda: client.embed(MODEL, value),
        lambda: client.submit(Request(model=MODEL, contents="a", kind=value)),
        lambda: client.submit(Request(model=MODEL, body=value)),
        lambda: client.submit(value),
        lambda: client.result(value if not isinstance(value, str) else TEXT * 10),
        lambda: client.files.get(value),
        lambda: client.caches.get(value),
        lambda: client.caches.create(MODEL, value, ttl_s=value),
    ]
    async with client:
        for call in calls:
            (outcome,) = await asyncio.gather(call(), return_exceptions=True)
            if isinstance(outcome, BaseException):
                told = shown_by(outcome) if isinstance(outcome, CarpoolError) else str(outcome)
                assert not seen_in(told), told


def test_a_ladder_that_is_none_is_not_shown() -> None:
    for value in ODD.values():
        with pytest.raises(CarpoolError) as caught:
            check_ladder(value)
        assert not seen_in(shown_by(caught.value)), shown_by(caught.value)


def test_a_key_in_a_wrong_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CARPOOL_LINGER_S", "CARPOOL_JOBS_MAX", "CARPOOL_ON_CLOSE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, API_KEY)
            with pytest.raises(CarpoolError, match=name) as caught:
                Settings.from_env()
        assert not seen_in(shown_by(caught.value)), shown_by(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{API_KEY}@example.com",
        f"https://example.com/?key={API_KEY}",
        f"ftp://{API_KEY}",
        API_KEY,
        f"http://{API_KEY}.example.com",
    ],
)
def test_a_key_in_the_base_url_is_not_shown(url: str) -> None:
    with pytest.raises(CarpoolError) as caught:
        Client(api_key=API_KEY, base_url=url, store=MemoryStore())
    assert not seen_in(shown_by(caught.value))


@pytest.mark.parametrize("key", [f"{API_KEY} ", f"{API_KEY}\n", f"{API_KEY}é", f"key={API_KEY} x", TEXT])
def test_a_key_that_cannot_be_used_is_not_shown(key: str) -> None:
    with pytest.raises(CarpoolError) as caught:
        Client(api_key=key, base_url="https://example.com", store=MemoryStore())
    assert not seen_in(shown_by(caught.value))


def test_errors_of_the_decoder_show_no_values() -> None:
    """Of values that do not fit, msgspec names place and type; errors that end in ``from None`` may hide one."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"contents": TEXT, "model": 7}, Request)
    assert not seen_in(str(caught.value))
