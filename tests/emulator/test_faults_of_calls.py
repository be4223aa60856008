"""Faults of calls that take effect in another way than they say: uploads, creates, deletions, redirects, tiers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from carpool.emulator import CALL_EFFECTS, Fault, Op, Plan, Reply

from .driver import MODEL, Driver, numbered, prompt

CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"
GENERATE = f"/v1beta/models/{MODEL}:generateContent"
INLINE = {"batch": {"displayName": "dn", "inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}}


def plan_of(**faults: Fault) -> Plan:
    """Return a plan; dots in names of faults are written as two underscores."""
    return Plan(upload_granularity_bytes=1, faults={name.replace("__", "."): fault for name, fault in faults.items()})


def states(world: Driver) -> list[str]:
    return [job.state for job in world.world.jobs(world.now)]


def query(world: Driver, upload: dict[str, str]) -> Any:
    """Ask how far an upload has come."""
    reply = world.call("POST", "/upload/v1beta/files", query=upload, headers={"x-goog-upload-command": "query"})
    return reply.headers["X-Goog-Upload-Status"], int(reply.headers["X-Goog-Upload-Size-Received"])


def error_of(reply: Reply) -> Any:
    return json.loads(reply.read())["error"]


# -- uploads


@pytest.mark.parametrize("call", ["chunk", "finalize"])
def test_a_chunk_can_be_refused_for_its_offset_and_the_query_tells_the_truth(call: str) -> None:
    world = Driver(plan_of(**{f"upload__{call}__wrong_offset": Fault(count=1)}))
    upload = world.start_upload()
    command = "upload" if call == "chunk" else "upload, finalize"
    refused = world.chunk(upload, b"01234567", offset=0, command=command)
    assert (refused.status, refused.headers["X-Goog-Upload-Status"]) == (400, "active")
    assert error_of(refused)["message"] == "Wrong offset: 0 bytes were received."
    assert query(world, upload) == ("active", 0)
    assert world.chunk(upload, b"01234567", offset=0, command=command).status == 200


def test_a_query_can_tell_less_than_is_there() -> None:
    world = Driver(plan_of(upload__query__wrong_offset=Fault(count=1)))
    upload = world.start_upload()
    world.chunk(upload, b"01234567", offset=0, command="upload")
    assert query(world, upload) == ("active", 4)
    assert world.chunk(upload, b"4567", offset=4, command="upload").status == 400
    assert query(world, upload) == ("active", 8)


def test_half_of_a_chunk_can_be_taken_and_the_size_header_alone_says_so() -> None:
    world = Driver(plan_of(upload__chunk__taken_in_part=Fault(count=1)))
    upload = world.start_upload()
    reply = world.chunk(upload, b"01234567", offset=0, command="upload")
    assert (reply.status, reply.headers["X-Goog-Upload-Size-Received"]) == (200, "4")
    assert query(world, upload) == ("active", 4)
    assert json.loads(world.chunk(upload, b"4567", offset=4).read())["file"]["sizeBytes"] == "8"


def test_a_finalize_can_be_taken_in_part_and_is_not_final_then() -> None:
    world = Driver(plan_of(upload__finalize__taken_in_part=Fault(count=1)))
    upload = world.start_upload()
    reply = world.chunk(upload, b"01234567", offset=0)
    assert (reply.status, reply.headers["X-Goog-Upload-Status"], reply.read()) == (200, "active", b"")
    assert world.ok("GET", "/v1beta/files") == {}


@pytest.mark.parametrize("effect", ["wrong_offset", "taken_in_part"])
def test_an_upload_that_nobody_opened_is_not_there_whatever_the_fault(effect: str) -> None:
    world = Driver(plan_of(**{f"upload__finalize__{effect}": Fault()}))
    assert error_of(world.chunk({"upload_id": "nobody"}, b"x", offset=0))["code"] == 404


def test_the_address_of_an_upload_can_lead_elsewhere() -> None:
    world = Driver(plan_of(upload__start__foreign_url=Fault(origin="https://evil.example")))
    headers = {"x-goog-api-key": "k", "x-goog-upload-command": "start"}
    reply = world.call("POST", "/upload/v1beta/files", {"file": {}}, headers=headers)
    for name in ("X-Goog-Upload-URL", "X-Goog-Upload-Control-URL"):
        assert reply.headers[name].startswith("https://evil.example/upload/v1beta/files?upload_id=")


def test_the_addresses_of_files_can_lead_elsewhere() -> None:
    world = Driver(plan_of(files__get__foreign_url=Fault(), files__list__foreign_url=Fault(count=0)))
    operation = world.create_from(world.upload(numbered(1), name="files/mine"))
    assert world.ok("GET", "/v1beta/files/mine")["uri"] == "https://elsewhere.invalid/v1beta/files/mine"
    output = world.ok("GET", f"/v1beta/{world.get(operation)['response']['responsesFile']}")
    assert output["downloadUri"].startswith("https://elsewhere.invalid/download/")
    assert world.ok("GET", "/v1beta/files")["files"][0]["uri"] == "http://emulator.test/v1beta/files/mine"


# -- creates and deletions


def test_the_input_file_can_vanish_before_the_create() -> None:
    world = Driver(plan_of(create__file_vanished=Fault(count=1)))
    name = world.upload(numbered(2))
    error = world.refused_create({"fileName": name})
    assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert name.removeprefix("files/") in error["message"]
    assert world.error("GET", f"/v1beta/{name}")["code"] == 403
    world.create_from(world.upload(numbered(2)))
    assert world.ledger().rows_billed == 2


def test_an_inline_create_has_no_file_that_could_vanish() -> None:
    world = Driver(plan_of(create__file_vanished=Fault()))
    assert world.create({"request": prompt("x")})["metadata"]["displayName"] == "dn"


def test_a_create_can_make_twins() -> None:
    world = Driver(plan_of(create__twin=Fault(count=1)))
    created = world.ok("POST", CREATE, INLINE)
    listed = world.ok("GET", "/v1beta/batches")["operations"]
    assert [operation["metadata"]["displayName"] for operation in listed] == ["dn", "dn"]
    assert created["name"] == listed[1]["name"], "the older one is what is answered"
    assert world.ledger().rows_billed == 2
    assert len(world.world.requests) == 2, "it was one call"


def test_the_second_twin_is_not_made_where_there_is_no_room() -> None:
    world = Driver(Plan(latency_s=1.0, jobs_max=1, faults={"create.twin": Fault()}))
    world.ok("POST", CREATE, INLINE)
    assert states(world) == ["PENDING"]


def test_a_create_can_take_effect_long_after_its_connection_closed() -> None:
    world = Driver(plan_of(create__applied_later=Fault(count=1, seconds=3.0)))
    assert world.call("POST", CREATE, INLINE).dropped
    world.wait(2.9)
    assert world.ok("GET", "/v1beta/batches") == {}
    world.wait(0.1)
    (operation,) = world.ok("GET", "/v1beta/batches")["operations"]
    assert operation["metadata"]["createTime"].startswith("2027-01-15T08:00:03")
    assert world.ledger().rows_billed == 1


def test_what_comes_later_can_be_answered_with_an_error_at_once() -> None:
    world = Driver(plan_of(create__applied_later=Fault(count=1, code=504)))
    assert world.error("POST", CREATE, INLINE)["status"] == "DEADLINE_EXCEEDED"
    world.wait(5.0)
    assert states(world) == ["SUCCEEDED"]


def test_late_creates_take_effect_in_the_order_of_their_times() -> None:
    world = Driver(Plan(latency_s=1.0, faults={"create.applied_later": Fault(every=2, seconds=2.0)}))
    for name in ("a", "b", "c"):
        body = json.loads(json.dumps(INLINE))
        body["batch"]["displayName"] = name
        world.call("POST", CREATE, body)
        world.wait(0.5)
    assert [job.display_name for job in world.world.jobs(world.now)] == ["a", "c"]
    world.wait(10.0)
    assert [(bill.display_name, bill.rows_ok) for bill in world.ledger().jobs] == [("a", 1), ("c", 1), ("b", 1)]


def test_deleting_the_input_revokes_a_create_that_is_still_under_way() -> None:
    world = Driver(plan_of(create__applied_later=Fault(seconds=3.0)))
    name = world.upload(numbered(2))
    world.call("POST", CREATE, {"batch": {"inputConfig": {"fileName": name}}})
    world.ok("DELETE", f"/v1beta/{name}")
    world.wait(10.0)
    assert states(world) == []
    assert world.ledger().rows_billed == 0


def test_deleting_the_input_does_not_revoke_a_create_where_the_plan_says_so() -> None:
    plan = Plan(create_ignores_deleted_file=True, faults={"create.applied_later": Fault(count=1, seconds=3.0)})
    world = Driver(plan)
    name = world.upload(numbered(2))
    body = {"batch": {"inputConfig": {"fileName": name}}}
    world.call("POST", CREATE, body)
    world.ok("DELETE", f"/v1beta/{name}")
    assert world.error("GET", f"/v1beta/{name}")["code"] == 403
    world.wait(10.0)
    assert states(world) == ["SUCCEEDED"]
    assert world.ledger().rows_billed == 2
    world.ok("POST", CREATE, body)
    world.wait(200_000)
    assert world.error("POST", CREATE, body)["code"] == 403, "its 48 hours are over all the same"


def test_a_name_that_is_used_again_means_the_new_file() -> None:
    world = Driver(Plan(create_ignores_deleted_file=True))
    world.upload(numbered(2), name="files/mine")
    world.ok("DELETE", "/v1beta/files/mine")
    world.upload(numbered(5), name="files/mine")
    world.create_from("files/mine")
    assert world.ledger().rows_billed == 5


def test_deletions_of_files_can_lag() -> None:
    world = Driver(Plan(delete_lag_s=4.0))
    name = world.upload(numbered(2))
    world.ok("DELETE", f"/v1beta/{name}")
    world.wait(3.0)
    world.ok("DELETE", f"/v1beta/{name}")
    world.ok("GET", f"/v1beta/{name}")
    world.create_from(name)
    world.wait(1.0)
    assert world.error("GET", f"/v1beta/{name}")["code"] == 403
    assert world.refused_create({"fileName": name})["code"] == 403


@pytest.mark.parametrize("op", ["cancel", "delete"])
def test_an_end_can_come_later_too(op: str) -> None:
    world = Driver(Plan(latency_s=100.0, faults={f"{op}.applied_later": Fault(seconds=10.0)}))
    name = world.create({"request": prompt("x")})["name"]
    verb = ("POST", f"/v1beta/{name}:cancel") if op == "cancel" else ("DELETE", f"/v1beta/{name}")
    assert world.call(*verb).dropped
    world.wait(9.0)
    assert world.ok("GET", f"/v1beta/{name}")["metadata"]["state"] == "BATCH_STATE_PENDING"
    world.wait(2.0)
    if op == "cancel":
        assert world.ok("GET", f"/v1beta/{name}")["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    else:
        assert world.error("GET", f"/v1beta/{name}")["code"] == 404


# -- redirects


@pytest.mark.parametrize("op", [op for op in Op if op in CALL_EFFECTS["302"].ops])
def test_any_call_can_be_redirected(op: Op) -> None:
    world = Driver(Plan(faults={f"{op}.302": Fault()}))
    book = world.world._state.faults
    drawn = book.draw_for_call(op)
    assert drawn is not None
    assert drawn[0].code == 302


def test_a_redirect_leads_to_the_same_path_elsewhere_without_the_key() -> None:
    world = Driver(plan_of(list__302=Fault(count=1), get__302=Fault(code=307, origin="http://127.0.0.1:9")))
    reply = world.call("GET", "/v1beta/batches", query={"pageSize": "5", "key": "secret"}, headers={})
    assert (reply.status, reply.headers["Location"]) == (302, "https://elsewhere.invalid/v1beta/batches?pageSize=5")
    reply = world.call("GET", "/v1beta/batches/x")
    assert (reply.status, reply.headers["Location"]) == (307, "http://127.0.0.1:9/v1beta/batches/x")


# -- live calls


def test_a_live_call_is_told_when_to_try_again() -> None:
    world = Driver(plan_of(generate__429=Fault(seconds=12.94)))
    error = world.error("POST", GENERATE, prompt("x"))
    help_, quota, retry = error["details"]
    assert help_["links"][0]["url"] == "https://ai.google.dev/gemini-api/docs/rate-limits"
    assert set(quota["violations"][0]) == {"quotaMetric", "quotaId", "quotaDimensions", "quotaValue"}
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12s"}
    assert error["message"].startswith("You exceeded your current quota, please check your plan and billing details.")
    assert error["message"].endswith("Please retry in 12.94s.")


@pytest.mark.parametrize(
    ("effect", "status", "message"),
    [
        ("503", "UNAVAILABLE", "The model is overloaded. Please try again later."),
        ("504", "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
        (
            "500",
            "INTERNAL",
            (
                "An internal error has occurred. "
                "Please retry or report in https://developers.generativeai.google/guide/troubleshooting"
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    ("op", "path"), [("generate", GENERATE), ("embed", "/v1/models/gemini-embedding-001:embedContent")]
)
def test_live_calls_fail_in_the_words_of_the_service(
    op: str, path: str, effect: str, status: str, message: str
) -> None:
    world = Driver(plan_of(**{f"{op}__{effect}": Fault()}))
    error = world.error("POST", path, prompt("x"))
    assert error == {"code": int(effect), "status": status, "message": message}
    assert world.ledger().live_calls == 0


def test_a_live_call_can_be_slow() -> None:
    world = Driver(plan_of(generate__slow=Fault(seconds=7.0)))
    reply = world.call("POST", GENERATE, prompt("x"))
    assert (reply.status, reply.delay_s) == (200, 7.0)


@pytest.mark.parametrize("spelling", ["serviceTier", "service_tier"])
@pytest.mark.parametrize("code", [429, 503])
def test_only_flex_is_shed(spelling: str, code: int) -> None:
    world = Driver(plan_of(generate__shed_flex=Fault(count=1, code=code)))
    world.ok("POST", GENERATE, prompt("x"))
    world.ok("POST", GENERATE, prompt("x", serviceTier="standard"))
    assert world.error("POST", GENERATE, prompt("x", **{spelling: "flex"}))["code"] == code
    world.ok("POST", GENERATE, prompt("x", **{spelling: "flex"}))
    assert world.ledger().live_calls == 3


def test_shed_flex_is_503_by_itself_and_a_body_that_is_no_json_is_no_flex() -> None:
    world = Driver(plan_of(generate__shed_flex=Fault()))
    assert world.error("POST", GENERATE, b"{")["code"] == 400
    assert world.error("POST", GENERATE, prompt("x", serviceTier="flex"))["status"] == "UNAVAILABLE"


# -- names


def test_effects_that_fit_only_some_calls_are_refused_for_others() -> None:
    for name in ("get.twin", "list.wrong_offset", "download.foreign_url", "embed.shed_flex", "generate.applied_later"):
        with pytest.raises(msgspec.ValidationError, match="unknown fault"):
            msgspec.json.decode(json.dumps({"faults": {name: {}}}).encode(), type=Plan)
