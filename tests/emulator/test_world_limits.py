"""Limits, files that prompts name, and changes to jobs."""

from __future__ import annotations

from typing import Any

import pytest

from carpool.emulator import Plan

from .driver import MODEL, Driver, jsonl, numbered, prompt

GENERATE = f"/v1beta/models/{MODEL}:generateContent"


def naming(uri: str) -> dict[str, Any]:
    file = {"fileData": {"fileUri": uri, "mimeType": "text/plain"}}
    return {"contents": [{"role": "user", "parts": [{"text": "read"}, file]}]}


def uri_of(world: Driver, name: str) -> str:
    uri: str = world.ok("GET", f"/v1beta/{name}")["uri"]
    return uri


# -- files that prompts name


def test_a_file_that_is_gone_is_an_error_live_and_of_its_row() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.0))
    file = world.upload(b"text", mime_type="text/plain")
    uri = uri_of(world, file)
    assert world.call("POST", GENERATE, naming(uri)).status == 200
    google = uri.replace("http://emulator.test", "https://generativelanguage.googleapis.com")
    before = world.create({"request": naming(uri)}, {"request": naming(google)}, {"request": prompt("x")})
    early = world.create({"request": naming(uri)})
    world.wait(50)
    world.ok("DELETE", f"/v1beta/{file}")
    after = world.create({"request": naming(uri)})
    words = f"You do not have permission to access the File {file.removeprefix('files/')} or it may not exist."
    error = world.error("POST", GENERATE, naming(google))
    assert (error["code"], error["status"], error["message"]) == (403, "PERMISSION_DENIED", words)
    world.wait(100)

    gone = {"code": 7, "message": words}
    assert [item.get("error") for item in world.inline(before)] == [None, gone, None], (
        "a third at 33 s, the next at 67 s"
    )
    assert [world.inline(one)[0].get("error") for one in (early, after)] == [gone, gone]
    assert sum(bill.rows_failed for bill in world.ledger().jobs) == 3


def test_a_file_that_expires_before_its_row_is_answered_is_gone() -> None:
    world = Driver(Plan(latency_s=100.0, file_life_s=60.0))
    uri = uri_of(world, world.upload(b"text", mime_type="text/plain"))
    operation = world.create({"request": naming(uri)})
    world.wait(100)
    assert world.inline(operation)[0]["error"]["code"] == 7


def test_other_uris_are_taken_if_they_are_on_the_web() -> None:
    world = Driver()
    assert world.call("POST", GENERATE, naming("https://example.com/v1beta/files/abc")).status == 200
    assert world.error("POST", GENERATE, naming("gs://bucket/x"))["code"] == 400
    assert world.error("POST", GENERATE, naming("http://emulator.test/v1beta/files/never"))["code"] == 403


def test_a_file_is_processed_before_it_can_be_used() -> None:
    world = Driver(Plan(file_processing_s=10.0))
    file = world.upload(b"video", mime_type="video/mp4")
    shown = world.ok("GET", f"/v1beta/{file}")
    assert shown["state"] == "PROCESSING"
    error = world.error("POST", GENERATE, naming(shown["uri"]))
    assert (error["code"], error["status"]) == (400, "FAILED_PRECONDITION")
    world.wait(10)
    assert world.ok("GET", f"/v1beta/{file}")["state"] == "ACTIVE"
    assert world.call("POST", GENERATE, naming(shown["uri"])).status == 200


def test_a_file_that_cannot_be_processed_says_so() -> None:
    world = Driver(Plan(file_processing_s=10.0, failing_mime_types=frozenset({"video/mp4"})))
    file = world.upload(b"no video", mime_type="video/mp4")
    good = world.upload(b"text", mime_type="text/plain")
    shown = world.ok("GET", f"/v1beta/{file}")
    assert (shown["state"], "error" in shown) == ("PROCESSING", False)
    world.wait(10)
    shown = world.ok("GET", f"/v1beta/{file}")
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", 3)
    assert world.error("POST", GENERATE, naming(shown["uri"]))["status"] == "FAILED_PRECONDITION"
    assert world.ok("GET", f"/v1beta/{good}")["state"] == "ACTIVE"


# -- storage


def test_storage_is_limited_and_freed_by_deleting_and_by_time() -> None:
    world = Driver(Plan(storage_bytes_max=100))
    first = world.upload(b"x" * 60)
    headers = {"x-goog-api-key": "k", "x-goog-upload-command": "start"}
    big = {"file": {"size_bytes": 41}}
    refused = world.error("POST", "/upload/v1beta/files", big, headers=headers)
    assert (refused["code"], refused["status"]) == (429, "RESOURCE_EXHAUSTED")
    query = world.start_upload()
    assert world.chunk(query, b"x" * 41, offset=0).status == 429
    world.ok("DELETE", f"/v1beta/{first}")
    world.upload(b"x" * 100)
    world.wait(172_800)
    world.upload(b"x" * 100)


def test_unknown_fields_of_a_file_are_refused_and_clouds_are_not_for_keys() -> None:
    world = Driver()
    headers = {"x-goog-api-key": "k", "x-goog-upload-command": "start"}
    assert world.error("POST", "/upload/v1beta/files", {"file": {"nme": "x"}}, headers=headers)["code"] == 400
    uris = {"uris": ["gs://bucket/x"]}
    assert world.error("POST", "/v1beta/files:register", uris)["code"] == 401
    bearer = {"authorization": "Bearer nobody", "x-goog-user-project": "p"}
    assert world.error("POST", "/v1beta/files:register", uris, headers=bearer)["code"] == 403


# -- jobs


@pytest.mark.parametrize("limit", [10, {MODEL: 10, "gemini-2.5-pro": 0}])
def test_tokens_that_wait_are_limited_by_model(limit: Any) -> None:
    world = Driver(Plan(latency_s=10.0, enqueued_tokens_max=limit))
    rows = [{"request": prompt("x" * 20)}]
    world.create(*rows)
    first = world.create(*rows)
    error = world.refused_create({"requests": {"requests": rows}})
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert [detail["@type"] for detail in error["details"]] == ["type.googleapis.com/google.rpc.Help"]
    world.create(*rows, model="gemini-2.5-flash")
    world.ok("POST", f"/v1beta/{first['name']}:cancel")
    world.create(*rows)
    world.wait(10)
    world.create(*rows)
    world.create(*rows)


def test_the_limit_of_tokens_changes_with_time() -> None:
    world = Driver(Plan(latency_s=1_000.0, enqueued_tokens_max=5, enqueued_tokens_steps=((10.0, 10), (20.0, 0))))
    rows = [{"request": prompt("x" * 20)}]
    world.create(*rows)
    world.refused_create({"requests": {"requests": rows}})
    world.wait(10)
    world.create(*rows)
    assert world.refused_create({"requests": {"requests": rows}})["code"] == 429
    world.wait(10)
    assert world.refused_create({"requests": {"requests": rows}}, model="gemini-2.5-flash")["code"] == 429


@pytest.mark.parametrize("steps", [((5.0, 1), (4.0, 1)), ((-1.0, 1),), ((1.0, -1),)])
def test_steps_of_the_limit_are_checked(steps: Any) -> None:
    with pytest.raises(ValueError, match="enqueued_tokens_steps"):
        Plan(enqueued_tokens_steps=steps)


def test_a_job_can_be_given_another_name_and_priority() -> None:
    world = Driver(Plan(latency_s=100.0))
    operation = world.ok(
        "POST",
        f"/v1beta/models/{MODEL}:batchGenerateContent",
        {"batch": {"displayName": "old", "priority": "-3", "inputConfig": {"fileName": world.upload(numbered(1))}}},
    )
    assert operation["metadata"]["priority"] == "-3"
    world.wait(10)
    path = f"/v1beta/{operation['name']}:updateGenerateContentBatch"
    changed = world.ok("PATCH", path, {"display_name": "new", "priority": 5}, query={"updateMask": "display_name"})
    assert (changed["displayName"], changed["priority"], changed["name"]) == ("new", "-3", operation["name"])
    assert "metadata" not in changed
    assert "@type" not in changed
    assert changed["updateTime"] > operation["metadata"]["updateTime"]
    assert world.ok("PATCH", path, {"priority": 5})["priority"] == "5"
    assert world.get(operation)["metadata"]["displayName"] == "new"
    assert world.error("PATCH", path, {"nonsense": 1})["code"] == 400
    assert world.error("PATCH", path, {"state": "x"}, query={"updateMask": "state"})["code"] == 400
    assert world.error("PATCH", path.replace("Generate", "Embed"), {"priority": 1})["code"] == 400
    assert world.error("PATCH", "/v1beta/batches/none:updateGenerateContentBatch", {"priority": 1})["code"] == 404


def test_a_priority_that_is_no_number_is_refused() -> None:
    body = {"batch": {"priority": "high", "inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}}
    assert Driver().error("POST", f"/v1beta/models/{MODEL}:batchGenerateContent", body)["code"] == 400


def test_rows_in_both_spellings_name_files_alike() -> None:
    world = Driver()
    row = {
        "key": "a",
        "request": {"contents": [{"parts": [{"file_data": {"file_uri": "http://emulator.test/v1/files/no"}}]}]},
    }
    operation = world.create_from(world.upload(jsonl(row)))
    assert world.lines(operation)[0]["error"]["code"] == 7
