"""What cannot be sent is an error at the call, typed, and nothing leaves the machine for it."""

from __future__ import annotations

import datetime as dt
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from carpool import (
    Client,
    ConfigurationError,
    DeadlineExceeded,
    KeyConflict,
    MemoryStore,
    NotBatchable,
    Request,
    RequestRejected,
)
from carpool.emulator import Emulator, Fault, Plan

from .support import (
    API_KEY,
    EMBED_MODEL,
    FORMS,
    MODEL,
    assert_billed_once,
    assert_own,
    opened,
    ops_of,
    prompts,
    quick,
    refused,
    rows_of_jobs,
    settled,
)

KEY_VARIABLES = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "CARPOOL_BASE_URL", "CARPOOL_HOME")
LOOP: dict[str, Any] = {"parts": []}
LOOP["parts"].append(LOOP)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@FORMS
@pytest.mark.parametrize("model", ["gemini-none-such", "palm-2"])
async def test_a_model_that_the_server_does_not_know_rejects_its_calls_and_no_other(
    model: str, form: dict[str, Any]
) -> None:
    async with Emulator(Plan(unknown_models=frozenset({"gemini-none-such"}))) as emulator:
        async with opened(emulator, **form) as client:
            unknown = settled(*(client.generate(model, text) for text in prompts(5)))
            known = await settled(*(client.generate(MODEL, text) for text in prompts(5)))
            errors = await unknown
        assert_own(prompts(5), known)
        assert rows_of_jobs(emulator) == [5]
    for error in errors:
        assert type(error) is RequestRejected
        assert (error.code, error.status) == (404, "NOT_FOUND")
        assert error.message is not None
        assert model in error.message


@FORMS
async def test_a_model_of_the_other_kind_is_rejected_by_the_server(form: dict[str, Any]) -> None:
    async with Emulator() as emulator, opened(emulator, **form) as client:
        outcomes = await settled(client.embed(MODEL, "a"), client.generate(EMBED_MODEL, "a"))
    assert [(type(error), getattr(error, "code", None)) for error in outcomes] == [(RequestRejected, 404)] * 2


@pytest.mark.parametrize("model", ["imagen-4.0-generate-001", "models/imagen-3", "veo-3", "lyria-2"])
async def test_models_that_have_no_batches_are_refused_at_the_call(model: str) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            await refused(
                NotBatchable,
                client.generate(model, "a cat"),
                client.embed(model, "a cat"),
                client.submit(Request(model=model, contents="a cat")),
            )
        assert not emulator.requests


def shown(value: Any) -> str:
    """Return a name for a value that is the same in every run."""
    return "an object" if type(value) is object else repr(value)[:30]


BAD_CONTENTS = [
    pytest.param(value, id=name)
    for name, value in {
        "empty text": "",
        "empty list": [],
        "nothing": None,
        "empty dict": {},
        "no parts": {"parts": []},
        "empty part": {"parts": [{}]},
        "list of nothing": [None],
        "an object": object(),
        "an object inside": {"parts": [{"text": object()}]},
        "a number": 7,
        "a function": print,
        "a set": {"a", "b"},
        "a lone surrogate": "cut \ud83d here",
        "a lone surrogate inside": {"parts": [{"text": "cut \ud83d here"}]},
        "not a number": {"parts": [{"text": "a", "videoMetadata": {"fps": math.nan}}]},
        "infinity": [{"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"x": math.inf}}}]}],
        "an unknown field": {"parts": [{"txt": "a"}]},
        "itself": LOOP,
    }.items()
]


@pytest.mark.parametrize("contents", BAD_CONTENTS)
async def test_contents_that_cannot_be_sent_are_refused_at_the_call(contents: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            await refused(
                ConfigurationError,
                client.generate(MODEL, contents),
                client.embed(EMBED_MODEL, contents),
                client.submit(Request(model=MODEL, contents=contents)),
            )
            assert client.stats().waiting == 0
            assert_own(["still works"], [await client.generate(MODEL, "still works")])
        assert rows_of_jobs(emulator) == [1]


async def test_several_contents_are_never_folded_into_one_vector() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            for contents in (["a", "b"], ("a", "b"), [{"parts": [{"text": "a"}]}, {"parts": [{"text": "b"}]}]):
                with pytest.raises(ConfigurationError):
                    await client.embed(EMBED_MODEL, contents)
        assert not emulator.requests


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"temprature": 1.0}, "temprature"),
        ({"generation_config": {"temperature": 1.0}}, "generation_config"),
        ({"temperature": object()}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"labels": {"a": {1, 2}}}, "labels"),
        (OrderedDict(top_q=1), "top_q"),
        ("temperature=1", "config"),
        (7, "config"),
        ({1: 2}, "1"),
    ],
)
async def test_config_that_is_not_known_is_refused_at_the_call_and_named(config: Any, named: str) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            with pytest.raises(ConfigurationError) as caught:
                await client.generate(MODEL, "a", config=config)
            assert named in str(caught.value)
        assert not emulator.requests


async def test_a_finished_body_with_a_field_of_the_other_kind_is_refused_with_a_hint() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            body = {"contents": [{"parts": [{"text": "a"}]}]}
            with pytest.raises(ConfigurationError, match="'content'"):
                await client.submit(Request(model=EMBED_MODEL, kind="embed", body=body))
            with pytest.raises(ConfigurationError):
                await client.submit(Request(model=MODEL, body={"contents": [], "bogus": 1}))
            with pytest.raises(ConfigurationError):
                await client.submit(Request(model=MODEL, body=b'{"contents": ['))
        assert not emulator.requests


@FORMS
async def test_a_field_that_only_the_server_can_refuse_fails_its_own_row(form: dict[str, Any], tmp_path: Path) -> None:
    bad = {"contents": [{"parts": [{"text": "bad"}]}], "generationConfig": {"bogusField": 1}}
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path, **form) as client:
            calls: list[Any] = [client.generate(MODEL, text) for text in prompts(20)]
            tickets = [await client.submit(Request(model=MODEL, body=bad, key=f"bad {index}")) for index in range(2)]
            outcomes = await settled(*calls, *tickets)
        assert_own(prompts(20), outcomes[:20])
        assert_billed_once(emulator, prompts(20))
    for error in outcomes[20:]:
        assert type(error) is RequestRejected
        assert (error.code, error.status) == (400, "INVALID_ARGUMENT")
        assert error.message is not None
        assert "bogusField" in error.message


@FORMS
@pytest.mark.parametrize("words", ["Error on line 3: bad", "at 'batch.input_config.requests.requests[2]'"])
async def test_a_create_refused_for_one_named_row_fails_that_row_and_sends_the_rest(
    words: str, form: dict[str, Any]
) -> None:
    async with Emulator(Plan(faults={"create.400": Fault(count=1, message=words)})) as emulator:
        async with opened(emulator, **form) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in prompts(10)))
        assert rows_of_jobs(emulator) == [9]
        rejected = outcomes.pop(2)
        assert type(rejected) is RequestRejected
        assert (rejected.code, rejected.message) == (400, words)
        rest = [text for text in prompts(10) if text != "prompt 2"]
        assert_own(rest, outcomes)
        assert_billed_once(emulator, rest)


@FORMS
async def test_a_create_refused_for_a_row_it_does_not_name_is_halved(form: dict[str, Any]) -> None:
    async with Emulator(Plan(faults={"create.400": Fault(count=4, message="no luck")})) as emulator:
        async with opened(emulator, **form) as client:
            outcomes = await settled(*(client.generate(MODEL, text) for text in prompts(8)))
        answered = [pair for pair in zip(prompts(8), outcomes, strict=True) if not isinstance(pair[1], BaseException)]
        assert len(answered) in (7, 8), "four refusals can leave at most one row alone"
        assert_own(*zip(*answered, strict=True))
        assert_billed_once(emulator, [text for text, _ in answered])


BAD_DEADLINES = [
    "",
    " ",
    "4 hours",
    "4x",
    "h",
    "-4h",
    "4h30m",
    "24:00",
    "12:60",
    "tomorrow",
    "2026-11-21T06:00:00Z",
    0,
    0.0,
    -1,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    "0s",
    [],
    {},
    object(),
    b"4h",
    dt.timedelta(0),
    dt.timedelta(seconds=-1),
    dt.datetime(2100, 1, 1),  # noqa: DTZ001 - that it has no zone is the point
    dt.date(2100, 1, 1),
    "9" * 400 + "d",
]


@pytest.mark.parametrize("deadline", BAD_DEADLINES, ids=shown)
async def test_deadlines_that_make_no_sense_are_refused_at_the_call(deadline: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            await refused(
                ConfigurationError,
                client.generate(MODEL, "a", deadline=deadline),
                client.embed(EMBED_MODEL, "a", deadline=deadline),
                client.submit(Request(model=MODEL, contents="a", deadline=deadline)),
            )
        assert not emulator.requests


async def test_a_deadline_that_has_passed_is_exceeded_at_the_call() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
            with pytest.raises(DeadlineExceeded) as caught:
                await client.generate(MODEL, "a", deadline=past, key="late")
            assert caught.value.key == "late"
        assert not emulator.requests


@pytest.mark.parametrize(
    "deadline",
    [
        "90s",
        "2m",
        "4h",
        "1.5h",
        "2d",
        " 4h ",
        "06:00",
        "0:00",
        60,
        0.9e9,
        dt.timedelta(hours=1),
        "in an hour, elsewhere",
    ],
    ids=str,
)
async def test_deadlines_of_every_form_are_taken(deadline: Any) -> None:
    if deadline == "in an hour, elsewhere":
        deadline = dt.datetime.now(dt.timezone(dt.timedelta(hours=9))) + dt.timedelta(hours=1)
    async with Emulator() as emulator, opened(emulator) as client:
        assert_own(["a"], [await client.generate(MODEL, "a", deadline=deadline, ladder=("batch",))])


@pytest.mark.parametrize("ladder", [(), ("batch", "batch"), ("slow",), "batch", 7, {"batch"}, (None,)], ids=repr)
async def test_ladders_that_make_no_sense_are_refused_at_the_call(ladder: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            with pytest.raises(ConfigurationError):
                await client.generate(MODEL, "a", ladder=ladder)
        assert not emulator.requests


@pytest.mark.parametrize("key", ["", "x" * 513, 7, b"key", object(), ("a",)], ids=shown)
async def test_keys_that_make_no_sense_are_refused_at_the_call(key: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            await refused(
                ConfigurationError,
                client.generate(MODEL, "a", key=key),
                client.embed(EMBED_MODEL, "a", key=key),
                client.submit(Request(model=MODEL, contents="a", key=key)),
                client.result(key),
            )
        assert not emulator.requests


async def test_a_key_that_utf_8_cannot_carry_is_refused_at_the_call_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        async with opened(emulator, tmp_path) as client:
            with pytest.raises(ConfigurationError):
                await client.generate(MODEL, "a", key="cut \ud83d here")
            assert client.stats().waiting == 0
            assert_own(["b"], [await client.generate(MODEL, "b")])
        assert rows_of_jobs(emulator) == [1]


@pytest.mark.parametrize("model", ["", "gemini 3", "../files", "models/", "a/b", 7, None, "gemini-\n", "x" * 200])
async def test_model_names_that_are_none_are_refused_at_the_call(model: Any) -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            await refused(ConfigurationError, client.generate(model, "a"), client.embed(model, "a"))
        assert not emulator.requests


async def test_a_request_of_an_unknown_kind_is_refused() -> None:
    async with Emulator() as emulator, opened(emulator) as client:
        for request in (
            Request(model=MODEL, contents="a", kind="stream"),  # type: ignore[arg-type]
            Request(model=MODEL, body={"contents": []}, kind="stream"),  # type: ignore[arg-type]
            Request(model=MODEL),
        ):
            with pytest.raises(ConfigurationError):
                await client.submit(request)


async def test_a_call_that_is_refused_takes_nothing_of_those_beside_it() -> None:
    async with Emulator() as emulator:
        async with opened(emulator) as client:
            outcomes = await settled(
                client.generate(MODEL, "good", key="shared"),
                client.generate(MODEL, "other", key="shared"),
                client.generate(MODEL, ""),
                client.generate(MODEL, "fine"),
            )
        assert rows_of_jobs(emulator) == [2]
    assert [type(outcomes[1]), type(outcomes[2])] == [KeyConflict, ConfigurationError]
    assert_own(["good", "fine"], [outcomes[0], outcomes[3]])


# -- the key and the base URL


def test_without_a_key_the_error_names_both_variables_and_the_demo() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(store=MemoryStore())
    for words in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "carpool demo"):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["GOOGLE_API_KEY", "GEMINI_API_KEY"])
async def test_the_key_is_taken_from_either_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, API_KEY)
    async with Emulator(Plan(api_keys=frozenset({API_KEY}))) as emulator:
        monkeypatch.setenv("CARPOOL_BASE_URL", emulator.base_url)
        async with Client(store=MemoryStore(), settings=quick()) as client:
            assert_own(["a"], [await client.generate(MODEL, "a")])


async def test_of_both_variables_google_s_counts_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", API_KEY)
    monkeypatch.setenv("GEMINI_API_KEY", "another")
    async with Emulator(Plan(api_keys=frozenset({API_KEY}))) as emulator:
        with pytest.warns(UserWarning, match="GOOGLE_API_KEY"):
            client = Client(base_url=emulator.base_url, store=MemoryStore(), settings=quick())
        async with client:
            assert_own(["a"], [await client.generate(MODEL, "a")])


async def test_a_base_url_of_one_s_own_needs_no_key() -> None:
    async with Emulator() as emulator:
        client = Client(base_url=emulator.base_url, store=MemoryStore(), settings=quick())
        async with client:
            assert_own(["a"], [await client.generate(MODEL, "a")])
        assert ops_of(emulator)["create"] == 1


@pytest.mark.parametrize(
    "base_url", ["localhost:8700", "ftp://localhost", "http://", "http://h/?key=1", "http://user:pw@h", "no url"]
)
def test_base_urls_that_are_none_are_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(api_key=API_KEY, base_url=base_url, store=MemoryStore())


@pytest.mark.parametrize("api_key", ["two words", "line\nbreak", "schlüssel", "\x00"])
def test_keys_that_cannot_go_into_a_header_are_refused_without_being_shown(api_key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(api_key=api_key, base_url="http://127.0.0.1:1", store=MemoryStore())
    assert api_key not in str(caught.value)


@pytest.mark.parametrize("api_version", ["", "1", "v1/../..", "v1beta/"])
def test_api_versions_that_are_none_are_refused(api_version: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(api_key=API_KEY, base_url="http://127.0.0.1:1", api_version=api_version, store=MemoryStore())
