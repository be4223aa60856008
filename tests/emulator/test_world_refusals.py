"""What the service refuses: creates, keys, paths, and in which words."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from carpool.emulator import Call, Plan, Reply

from .driver import EMBED_MODEL, MODEL, Driver, jsonl, numbered, prompt

# -- what is refused at creation


def test_a_file_with_bad_lines_is_refused_with_all_of_them() -> None:
    world = Driver()
    lines = [
        b'{"key": "a", "request": {"contents": [], "thinking_config": {}}}',
        b"{not json",
        jsonl({"key": "good", "request": prompt("x")}).strip(),
        b'{"key": "b"}',
        b'{"key": "c", "request": {"contents": [], "generationConfig": {"cachedContent": "x"}}}',
        b'{"key": 7, "request": {"contents": []}}',
        b'{"key": "d", "request": []}',
        b"[]",
        b'{"custom_id": "e", "request": {"contents": []}}',
    ]
    error = world.refused_create({"fileName": world.upload(b"\n".join(lines))})

    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    messages = error["message"].split("\n")
    column = lines[0].index(b'"thinking_config"') + 1
    assert messages[0] == f"Error on line 1: invalid JSON, near column {column}: no such field: 'thinking_config'"
    assert [message.partition(":")[0] for message in messages] == [
        f"Error on line {number}" for number in (1, 2, 4, 5, 6, 7, 8, 9)
    ]
    assert messages[1].startswith("Error on line 2: invalid JSON, near column 2: ")
    assert messages[2] == "Error on line 4: missing field: 'request'"
    assert messages[3].endswith("no such field: 'cachedContent'")
    assert messages[7].endswith("no such field: 'custom_id'")
    assert world.world.jobs(world.now) == []


def test_an_embedding_line_that_says_contents_is_refused() -> None:
    world = Driver()
    file = world.upload(jsonl({"key": "a", "request": prompt("x")}))
    error = world.refused_create({"file_name": file}, EMBED_MODEL, "asyncBatchEmbedContent")
    assert error["message"] == "Error on line 1: invalid JSON, near column 26: no such field: 'contents'"


def test_inline_requests_with_unknown_fields_are_refused_with_their_places() -> None:
    world = Driver()
    items = [
        {"request": prompt("fine")},
        {"request": prompt("x"), "safetySettings": []},
        {"request": prompt("x", generationConfig={"topQ": 1}, nonsense=1)},
    ]
    error = world.refused_create({"requests": {"requests": items}})
    place = "batch.input_config.requests.requests"
    first = f"Invalid JSON payload received. Unknown name \"safetySettings\" at '{place}[1]': Cannot find field."

    assert error["message"].split("\n") == [
        first,
        first.replace("safetySettings", "topQ").replace("[1]", "[2].request.generation_config"),
        first.replace("safetySettings", "nonsense").replace("[1]", "[2].request"),
    ]
    (detail,) = error["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert detail["fieldViolations"][0] == {"field": f"{place}[1]", "description": first}
    assert [violation["field"] for violation in detail["fieldViolations"]] == [
        f"{place}[1]",
        f"{place}[2].request.generation_config",
        f"{place}[2].request",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"batch": []}',
        b'{"batch": {"inputConfig": {"requests": {"requests": [[]]}}}}',
        b'{"batch": {"inputConfig": {"requests": {"requests": [{"metadata": {}}]}}}}',
        b'{"batch": {"inputConfig": {"requests": {"requests": [{"request": {"contents": "\\ud800"}}]}}}}',
        b'{"batch": {"inputConfig": {"requests": {"requests": []}}}}',
        b'{"batch": {"inputConfig": {}}}',
        b'{"batch": {"inputConfig": {"dest": 1}}}',
        b'{"batch": {"src": 1}}',
        b'{"job": {}}',
        b"",
    ],
)
def test_a_body_that_is_no_create_is_refused(body: bytes) -> None:
    world = Driver()
    error = world.error("POST", f"/v1beta/models/{MODEL}:batchGenerateContent", body)
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


def test_an_empty_file_is_refused() -> None:
    world = Driver()
    assert world.refused_create({"fileName": world.upload(b"\n\n")})["code"] == 400


def test_a_missing_file_answers_403_and_never_404() -> None:
    world = Driver()
    error = world.refused_create({"fileName": "files/gone"})
    assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert error["message"] == "You do not have permission to access the File gone or it may not exist."


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("imagen-4", "batchGenerateContent"),
        ("veo-3", "batchGenerateContent"),
        ("gemini-retired", "batchGenerateContent"),
        (EMBED_MODEL, "batchGenerateContent"),
        (MODEL, "asyncBatchEmbedContent"),
        (MODEL, "batchEmbedContents"),
        ("palm", "generateContent"),
    ],
)
def test_models_that_cannot_do_it_answer_404(model: str, method: str) -> None:
    world = Driver(Plan(unknown_models=frozenset({"gemini-retired"})))
    error = world.error("POST", f"/v1/models/{model}:{method}", {})
    assert error["code"] == 404
    assert error["message"].startswith(
        f"models/{model} is not found for API version v1, or is not supported for {method}. Call ListModels"
    )


def test_a_create_above_the_inline_limit_is_refused_by_its_size() -> None:
    world = Driver(Plan(inline_bytes_max=300))
    small = {"requests": {"requests": [{"request": prompt("x")}]}}
    large = {"requests": {"requests": [{"request": prompt("x" * 300)}]}}

    assert world.ok("POST", f"/v1/models/{MODEL}:batchGenerateContent", {"batch": {"inputConfig": small}})
    assert world.refused_create(large)["message"] == "Request payload size exceeds the limit: 300 bytes."


def test_more_live_jobs_than_allowed_are_refused_with_nothing_but_help() -> None:
    world = Driver(Plan(latency_s=10.0, jobs_max=2))
    first = world.create({"request": prompt("x")})
    world.create({"request": prompt("x")})
    error = world.refused_create({"requests": {"requests": [{"request": prompt("x")}]}})

    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert [detail["@type"] for detail in error["details"]] == ["type.googleapis.com/google.rpc.Help"]
    world.ok("POST", f"/v1beta/{first['name']}:cancel")
    world.create({"request": prompt("x")})
    world.wait(10)
    world.create({"request": prompt("x")})


def reply_of(steps: Generator[None, None, Reply]) -> Reply:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def test_a_file_deleted_while_its_rows_are_read_revokes_the_create() -> None:
    world = Driver()
    file = world.upload(numbered(500))
    body = json.dumps({"batch": {"inputConfig": {"fileName": file}}}).encode()
    path = f"/v1beta/models/{MODEL}:batchGenerateContent"
    call = Call(method="POST", path=path, headers={"x-goog-api-key": "k"}, body=body, size_bytes=len(body))
    steps = world.world.steps(call, world.now)
    next(steps)
    world.ok("DELETE", f"/v1beta/{file}")
    assert reply_of(steps).status == 403
    assert world.world.jobs(world.now) == []


# -- keys and paths


def test_calls_without_a_key_and_with_an_unknown_key_are_refused() -> None:
    world = Driver(Plan(api_keys=frozenset({"good"})))
    missing = world.error("GET", "/v1beta/batches", headers={})
    wrong = world.error("GET", "/v1beta/batches", headers={"x-goog-api-key": "bad"})

    assert (missing["code"], missing["status"]) == (403, "PERMISSION_DENIED")
    assert (wrong["code"], wrong["status"]) == (400, "INVALID_ARGUMENT")
    assert wrong["message"] == "API key not valid. Please pass a valid API key."
    assert wrong["details"][0]["reason"] == "API_KEY_INVALID"
    assert world.ok("GET", "/v1beta/batches", headers={"x-goog-api-key": "good"}) == {}
    assert world.ok("GET", "/v1beta/batches", headers={}, query={"key": "good"}) == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v2/batches"),
        ("POST", "/v1beta/batches"),
        ("GET", "/v1beta/batches/a/b"),
        ("PUT", "/v1beta/batches/a"),
        ("POST", "/v1beta/files"),
        ("GET", "/v1beta/files/a/b"),
        ("GET", "/download/v1beta/files"),
        ("GET", "/download/v1beta/files/a"),
        ("GET", "/upload/v1beta/files"),
        ("POST", "/upload/v1beta/files"),
        ("GET", f"/v1beta/models/{MODEL}:generateContent"),
        ("POST", f"/v1beta/models/{MODEL}:invent"),
    ],
)
def test_what_the_service_does_not_have_answers_404(method: str, path: str) -> None:
    world = Driver()
    assert world.error(method, path)["code"] == 404
    assert world.world.requests[-1].op == "unknown"


def test_base_urls_may_have_a_path() -> None:
    world = Driver()
    operation = world.create({"request": prompt("x")})
    assert world.ok("GET", f"/prefix/of/mine/v1/{operation['name']}") == world.get(operation)
