"""Rare calls, rare schemas and rare turns of the emulator: what they get, and that nothing else changes by them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from carpool.emulator import Emulator, EmulatorThread, Plan, expected_text, serve
from carpool.emulator.fields import as_int
from carpool.emulator.grounding import grounding_of
from carpool.emulator.messages import Reply
from carpool.emulator.schema import Unsatisfiable, instance_of

from .driver import MODEL, Driver, jsonl, prompt, text_of

pytestmark = pytest.mark.anyio


# -- numbers and schemas


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, None),
        (False, None),
        (3, 3),
        (3.0, 3),
        (3.5, None),
        (float("inf"), None),
        ("-12", -12),
        ("1e3", None),
        ("9" * 19, None),
        (None, None),
        ([1], None),
    ],
)
def test_integers_come_as_numbers_or_as_strings_and_nothing_else_is_one(value: Any, expected: int | None) -> None:
    found = as_int(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("schema", "is_instance"),
    [
        # A number with only a lower limit is above it, and far enough for an exclusive one.
        ({"type": "number", "exclusiveMinimum": 1_000}, lambda made: made > 1_000),
        ({"type": "number", "exclusiveMaximum": -1_000}, lambda made: made < -1_000),
        # A pattern is tried only with texts of a length that fits.
        ({"type": "string", "pattern": "^[0-9]+$", "maxLength": 2}, lambda made: len(made) <= 2),
        ({"type": "string", "pattern": "^[a-z]+$", "minLength": 9}, lambda made: len(made) >= 9),
        # Both sides of a merge bring properties.
        (
            {"allOf": [{"properties": {"x": {"const": 1}}}, {"properties": {"y": {"const": 2}}}]},
            lambda made: made == {"x": 1, "y": 2},
        ),
        # Optional properties count where the schema wants so many.
        (
            {
                "anyOf": [{"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "minProperties": 2}],
            },
            lambda made: made == {"a": 1, "b": 2},
        ),
        # Items that cannot be made end an array that has enough.
        ({"type": "array", "items": False}, lambda made: made == []),
        (
            {"type": "array", "prefixItems": [{"const": 1}], "items": False, "minItems": 1},
            lambda made: made == [1],
        ),
    ],
)
def test_an_instance_keeps_to_what_its_schema_says(schema: Any, is_instance: Any) -> None:
    made = instance_of(schema, seed=b"seed", echo="echo")
    assert is_instance(made), made


def test_deep_down_a_choice_takes_the_member_that_ends_soonest() -> None:
    leaf = {"type": "string"}
    schema: dict[str, Any] = {
        "$defs": {"tree": {"anyOf": [{"$ref": "#/$defs/node"}, leaf]}, "node": {"type": "object"}},
        "$ref": "#/$defs/tree",
    }
    schema["$defs"]["node"] |= {
        "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}},
        "required": ["left", "right"],
    }

    def depth_of(value: Any) -> int:
        return 1 + max(map(depth_of, value.values())) if isinstance(value, dict) else 0

    depths = [depth_of(instance_of(schema, seed=bytes([number]), echo="echo")) for number in range(30)]
    assert max(depths) > 0
    assert max(depths) < 12


def test_required_properties_deep_down_are_filled_up_to_the_least_count() -> None:
    inner: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}},
        "minProperties": 2,
    }
    for _ in range(12):
        inner = {"type": "object", "properties": {"down": inner}, "required": ["down"]}
    made = instance_of(inner, seed=b"seed", echo="echo")
    while "down" in made:
        made = made["down"]
    assert made == {"a": 1, "b": 2}
    with pytest.raises(Unsatisfiable):
        instance_of(inner | {"required": ["down", "up"], "additionalProperties": False}, seed=b"seed", echo="echo")


# -- tools, models, calls


def test_without_tools_of_the_service_nothing_is_grounded() -> None:
    parts: list[Any] = [{"text": "an answer"}]
    assert grounding_of(None, "asked", parts) == {}
    assert grounding_of([{"functionDeclarations": []}], "asked", parts) == {}
    assert grounding_of([{"googleSearch": {}}], "asked", [{"inlineData": {}}]) == {}
    assert grounding_of([{"googleSearch": {}}], "asked", parts)["groundingMetadata"]["webSearchQueries"] == ["asked"]  # type: ignore[index,call-overload]


def test_an_embedding_model_that_is_not_listed_can_embed_and_nothing_else() -> None:
    world = Driver()
    model = world.ok("GET", "/v1beta/models/gemini-embedding-9")
    assert "generateContent" not in model["supportedGenerationMethods"]
    assert "embedContent" in model["supportedGenerationMethods"]
    body = {"content": {"parts": [{"text": "x"}]}}
    assert world.ok("POST", "/v1beta/models/gemini-embedding-9:embedContent", body)["embedding"]["values"]
    assert world.call("POST", "/v1beta/models/gemini-embedding-9:generateContent", prompt("x")).status == 404


def test_a_service_without_models_lists_nothing_as_an_empty_object() -> None:
    names = [model["name"] for model in Driver().ok("GET", "/v1beta/models", query={"pageSize": "1000"})["models"]]
    hidden = frozenset(name.removeprefix("models/") for name in names)
    assert Driver(Plan(unknown_models=hidden)).ok("GET", "/v1beta/models") == {}


def test_tuned_models_are_listed_in_pages() -> None:
    world = Driver(Plan(tuned_models=frozenset(f"tunedModels/t{number}" for number in range(3))))
    first = world.ok("GET", "/v1beta/tunedModels", query={"pageSize": "2"})
    second = world.ok("GET", "/v1beta/tunedModels", query={"pageSize": "2", "pageToken": first["nextPageToken"]})
    names = [[model["name"] for model in page["tunedModels"]] for page in (first, second)]
    assert (names, "nextPageToken" in second) == ([["tunedModels/t0", "tunedModels/t1"], ["tunedModels/t2"]], False)


@pytest.mark.parametrize("path", ["models/a/b", "models/a:b:c", f"models/{MODEL}/operations/1", "nothing", "files/a/b"])
def test_paths_of_nothing_are_404(path: str) -> None:
    assert Driver().call("GET", f"/v1beta/{path}").status == 404
    assert Driver().call("POST", f"/v1beta/{path}", {}).status == 404


def test_a_prompt_within_cached_content_is_echoed_where_the_request_has_none() -> None:
    world = Driver()
    text = "the book. " * 5_000
    cached = world.ok("POST", "/v1beta/cachedContents", {"model": f"models/{MODEL}", "ttl": "600s"} | prompt(text))
    picture = {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}]}
    answer = world.ok("POST", f"/v1beta/models/{MODEL}:generateContent", picture | {"cachedContent": cached["name"]})
    assert text_of(answer)[:40] == expected_text(text)[:40]


def test_a_part_that_is_no_object_is_refused_and_not_read() -> None:
    world = Driver()
    request = {"contents": [{"role": "user", "parts": ["text", {"text": "x"}]}]}
    assert world.error("POST", f"/v1beta/models/{MODEL}:generateContent", request)["code"] == 400


def test_a_change_of_a_job_that_is_no_json_changes_nothing() -> None:
    world = Driver(Plan(latency_s=60.0))
    operation = world.create({"request": prompt("x")}, name="before")
    path = f"/v1beta/{operation['name']}:updateGenerateContentBatch"
    error = world.error("PATCH", path, b'{"displayName": ')
    assert error["status"] == "INVALID_ARGUMENT"
    assert world.get(operation)["metadata"]["displayName"] == "before"
    assert world.ok("PATCH", path, {"displayName": "after"})["displayName"] == "after"


def test_a_reply_is_read_as_json() -> None:
    assert Reply(body=b'{"a": [1]}').json() == {"a": [1]}
    assert Reply(body=iter([b'{"a"', b": 2}"])).json() == {"a": 2}


# -- uploads


def test_an_upload_that_was_cancelled_stays_so() -> None:
    world = Driver()
    query = world.start_upload()
    for _ in range(2):
        reply = world.chunk(query, b"", offset=0, command="cancel")
        assert (reply.status, reply.headers["X-Goog-Upload-Status"]) == (200, "cancelled")
    assert world.chunk(query, b"data", offset=0).status == 400
    assert world.ok("GET", "/v1beta/files") == {}
    ended = world.start_upload()
    assert world.chunk(ended, b"data", offset=0).status == 200
    world.chunk(ended, b"", offset=0, command="cancel")  # too late
    assert world.chunk(ended, b"", offset=0, command="query").headers["X-Goog-Upload-Status"] == "final"
    assert len(world.ok("GET", "/v1beta/files")["files"]) == 1


def test_the_oldest_uploads_are_forgotten_once_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool.emulator.files._UPLOADS_MAX", 2)
    world = Driver()
    first, second, third = (world.start_upload() for _ in range(3))
    assert world.chunk(first, b"data", offset=0).status == 404
    for query in (second, third):
        assert world.chunk(query, b"data", offset=0).status == 200
    assert len(world.ok("GET", "/v1beta/files")["files"]) == 2


# -- what is billed


def rows_done(world: Driver) -> int:
    [job] = world.world.jobs(world.now)
    return job.rows_done


def test_a_job_that_is_cancelled_midway_bills_the_rows_that_were_answered_and_no_other() -> None:
    world = Driver(Plan(latency_s=100.0))
    picture = world.upload(b"picture", mimeType="image/png")
    part = {"fileData": {"mimeType": "image/png", "fileUri": f"https://emulator.test/v1beta/{picture}"}}
    request = {"contents": [{"role": "user", "parts": [{"text": "what is it?"}, part]}]}
    operation = world.create_from(world.upload(jsonl(*({"key": f"k{n}", "request": request} for n in range(10)))))
    world.wait(45.0)
    answered = rows_done(world)
    world.ok("DELETE", f"/v1beta/{picture}")
    world.wait(25.0)
    done = rows_done(world)
    world.ok("POST", f"/v1beta/{operation['name']}:cancel")
    world.wait(1_000.0)
    assert world.state(operation) == "BATCH_STATE_CANCELLED"
    ledger = world.ledger()
    # Those whose file was gone when their turn came have an error; those that never had a turn have nothing.
    assert 0 < answered < done < 10
    assert (ledger.rows_billed, ledger.rows_failed) == (answered, done - answered)


# -- the process and the thread


async def test_serving_without_anybody_to_tell_ends_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    class Noted(Emulator):
        async def start(self) -> None:
            await super().start()
            started.set()

    monkeypatch.setattr("carpool.emulator.server.Emulator", Noted)
    serving = asyncio.create_task(serve(port=0))
    await asyncio.wait_for(started.wait(), 30)
    await asyncio.sleep(0)
    assert not serving.done()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


def test_it_serves_in_a_thread_that_may_not_catch_signals() -> None:
    async def main() -> str:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(port=0, ready=ready.set_result))
        await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
        base_url = ready.result()
        serving.cancel()
        await asyncio.wait([serving])
        assert serving.cancelled()
        return base_url

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, main()).result(60).startswith("http://127.0.0.1:")


def test_a_thread_that_does_not_end_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carpool.emulator.thread._STOP_S", 0.05)
    let_go = threading.Event()
    emulator = EmulatorThread()
    emulator.start()
    assert emulator._loop is not None
    emulator._loop.call_soon_threadsafe(let_go.wait, 60)
    try:
        with pytest.raises(RuntimeError, match=r"the emulator did not end within 0\.05 s"):
            emulator.stop()
    finally:
        let_go.set()
        thread = emulator._thread
        assert thread is not None
        thread.join(60)
    assert not thread.is_alive()
    assert emulator.jobs() == []  # it still tells what happened
