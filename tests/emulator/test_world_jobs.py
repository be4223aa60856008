"""Jobs in virtual time: what the Batch API answers at every moment of a job's life."""

from __future__ import annotations

import json
import re

import pytest

from carpool.emulator import Plan, expected_text, expected_values, request_digest

from .driver import EMBED_MODEL, MODEL, Driver, content, jsonl, numbered, prompt, text_of

TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."


def test_an_inline_job_goes_from_pending_over_running_to_its_responses() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.25))
    created = world.create({"request": prompt("one"), "metadata": {"key": "a", "other": 1}}, {"request": prompt("two")})

    assert re.fullmatch(r"batches/[a-z0-9]{36}", created["name"])
    assert created == {
        "name": created["name"],
        "metadata": {
            "@type": TYPE + "GenerateContentBatch",
            "model": f"models/{MODEL}",
            "displayName": "dn",
            "createTime": "2027-01-15T08:00:00.000000000Z",
            "updateTime": "2027-01-15T08:00:00.000000000Z",
            "batchStats": {"requestCount": "2", "pendingRequestCount": "2"},
            "state": "BATCH_STATE_PENDING",
            "name": created["name"],
        },
    }
    assert world.get(created) == created
    world.wait(25)
    running = world.get(created)
    assert running["metadata"]["state"] == "BATCH_STATE_RUNNING"
    assert "done" not in running
    world.wait(75)
    ended = world.get(created)
    assert ended["done"] is True
    assert ended["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert ended["metadata"]["endTime"] == ended["metadata"]["updateTime"] == "2027-01-15T08:01:40.000000000Z"
    assert ended["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
    output = ended["metadata"]["output"]
    assert ended["response"] == {"@type": TYPE + "GenerateContentBatchOutput", **output}
    first, second = output["inlinedResponses"]["inlinedResponses"]
    assert (text_of(first["response"]), first["metadata"]) == (expected_text("one"), {"key": "a", "other": 1})
    assert (text_of(second["response"]), "metadata" in second) == (expected_text("two"), False)


def test_a_file_job_answers_with_a_file_of_keyed_lines() -> None:
    world = Driver()
    file = world.upload(numbered(3))
    operation = world.create_from(file)
    ended = world.get(operation)
    output = f"files/batch-{operation['name'].removeprefix('batches/')}"

    assert ended["metadata"]["inputConfig"] == {"fileName": file}
    assert ended["metadata"]["output"] == {"responsesFile": output}
    assert ended["response"] == {"@type": TYPE + "GenerateContentBatchOutput", "responsesFile": output}
    assert {line["key"]: text_of(line["response"]) for line in world.lines(operation)} == {
        f"k{index}": expected_text(f"prompt {index}") for index in range(3)
    }
    assert world.download(operation) == world.download(operation)
    # Names on a line have no order to rely on.
    starts = {line[:5] for line in world.download(operation).split(b"\n") if line}
    assert starts == {b'{"key', b'{"res'}


@pytest.mark.parametrize("path", ["/v1/{}:download", "/v1alpha/{}:download", "/download/v1beta/{}:download"])
def test_output_is_downloaded_from_both_places(path: str) -> None:
    world = Driver()
    operation = world.create_from(world.upload(numbered(1)))
    name = world.get(operation)["response"]["responsesFile"]

    assert world.call("GET", path.format(name)).read() == world.download(operation)


def test_embedding_jobs_answer_with_vectors_and_token_counts_as_strings() -> None:
    world = Driver()
    create = {"model": EMBED_MODEL, "method": "asyncBatchEmbedContent"}
    inline = world.create(
        {"request": content("a text", outputDimensionality=64), "metadata": {"key": "a"}},
        {"request": content("b", output_dimensionality="8")},
        **create,
    )
    file = world.upload(jsonl({"key": "f", "request": content("a text", output_dimensionality=64)}))
    from_file = world.create_from(file, **create)

    assert world.get(inline)["metadata"]["@type"] == TYPE + "EmbedContentBatch"
    first, second = world.inline(inline)
    assert first["response"] == {"embedding": {"values": expected_values("a text", 64)}, "tokenCount": "1"}
    assert (first["metadata"], len(second["response"]["embedding"]["values"])) == ({"key": "a"}, 8)
    assert world.lines(from_file) == [{"key": "f", "response": first["response"]}]


def test_a_snake_case_create_is_the_same_create() -> None:
    world = Driver()
    file = world.upload(numbered(1))
    body = {"batch": {"display_name": "dn", "input_config": {"file_name": file}}}
    operation = world.ok("POST", f"/v1/models/{MODEL}:batchGenerateContent", body)

    assert world.get(operation)["metadata"]["displayName"] == "dn"
    assert len(world.lines(operation)) == 1


def test_a_job_needs_no_display_name() -> None:
    world = Driver()
    operation = world.create({"request": prompt("x")}, name="")
    assert "displayName" not in world.get(operation)["metadata"]


def test_snake_case_rows_are_answered_like_camel_case_rows() -> None:
    world = Driver()
    camel = prompt("x", generationConfig={"maxOutputTokens": 5}, systemInstruction={"parts": [{"text": "s"}]})
    snake = prompt("x", generation_config={"max_output_tokens": 5}, system_instruction={"parts": [{"text": "s"}]})
    one, other = world.inline(world.create({"request": camel}, {"request": snake}))

    assert one == other
    assert one["response"]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert request_digest(MODEL, camel) == request_digest(f"models/{MODEL}", snake)
    assert world.ledger().billed_by_request == {request_digest(MODEL, camel): 2}


# -- rows that cannot be answered


def test_semantic_errors_stay_with_their_rows() -> None:
    world = Driver()
    items = [
        {"request": prompt("fine"), "metadata": {"key": "a"}},
        {"request": prompt("please [[error:13:it broke]] now"), "metadata": {"key": "b"}},
        {"request": {"contents": []}, "metadata": {"key": "c"}},
        {"request": prompt("x", generationConfig={"candidateCount": 99}), "metadata": {"key": "d"}},
    ]
    operation = world.create(*items)
    ended = world.get(operation)

    assert ended["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert ended["metadata"]["batchStats"] == {
        "requestCount": "4",
        "successfulRequestCount": "1",
        "failedRequestCount": "3",
    }
    _, marked, empty, many = world.inline(operation)
    assert marked == {"error": {"code": 13, "message": "it broke"}, "metadata": {"key": "b"}}
    assert (empty["error"]["code"], many["error"]["code"]) == (3, 3)
    ledger = world.ledger()
    assert (ledger.rows_billed, ledger.rows_failed, ledger.billed_by_key) == (1, 3, {"a": 1})


def test_json_schema_is_ignored_in_batches_unless_the_plan_says_otherwise() -> None:
    config = {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object", "properties": {}}}
    request = prompt("x", generationConfig=config)
    as_live, as_told = Driver(), Driver(Plan(batch_ignores_json_schema=False))
    (ignored,) = as_live.inline(as_live.create({"request": request}))
    (honoured,) = as_told.inline(as_told.create({"request": request}))

    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(ignored["response"]))
    assert json.loads(text_of(honoured["response"])) == {}


# -- cancel, delete, list, expiry


def test_a_cancelled_job_is_done_at_once_and_bills_what_was_done() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.0))
    operation = world.create_from(world.upload(numbered(10)))
    world.wait(45)
    assert world.ok("POST", f"/v1beta/{operation['name']}:cancel") == {}
    cancelled = world.get(operation)

    assert (cancelled["done"], cancelled["metadata"]["state"]) == (True, "BATCH_STATE_CANCELLED")
    batch_id = operation["name"].removeprefix("batches/")
    assert cancelled["error"] == {"code": 13, "message": f"Batch {batch_id} failed without error."}
    assert cancelled["metadata"]["output"] == {"responsesFile": f"files/batch-{batch_id}"}
    assert "response" not in cancelled
    assert [line["key"] for line in world.lines(operation)] == ["k0", "k1", "k2", "k3"]
    assert world.ledger().rows_billed == 4
    world.wait(1000)
    assert world.ok("POST", f"/v1beta/{operation['name']}:cancel") == {}
    assert world.get(operation) == cancelled
    assert world.ledger().rows_billed == 4


def test_a_job_cancelled_while_pending_has_no_output() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.5))
    operation = world.create_from(world.upload(numbered(10)))
    world.wait(20)
    world.ok("POST", f"/v1beta/{operation['name']}:cancel")
    world.wait(50)

    assert "output" not in world.get(operation)["metadata"]
    assert world.ledger().rows_billed == 0
    assert world.ledger().jobs[0].state == "CANCELLED"


def test_cancelling_an_ended_job_changes_nothing() -> None:
    world = Driver()
    operation = world.create({"request": prompt("x")})
    before = world.get(operation)
    world.ok("POST", f"/v1beta/{operation['name']}:cancel")
    assert world.get(operation) == before


def test_a_deleted_job_is_gone_with_its_output_and_yet_runs_and_bills() -> None:
    world = Driver(Plan(latency_s=10.0))
    operation = world.create_from(world.upload(numbered(2)))
    assert world.ok("DELETE", f"/v1beta/{operation['name']}") == {}

    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", ":cancel")):
        error = world.error(method, f"/v1beta/{operation['name']}{suffix}")
        assert (error["code"], error["message"]) == (404, "Requested entity was not found.")
    assert world.ok("GET", "/v1beta/batches") == {}
    assert [view.deleted for view in world.world.jobs(world.now)] == [True]
    world.wait(10)
    assert world.ledger().rows_billed == 2
    assert world.world.jobs(world.now) == []


def test_deleting_an_ended_job_takes_its_output_away() -> None:
    world = Driver()
    operation = world.create_from(world.upload(numbered(2)))
    output = world.get(operation)["response"]["responsesFile"]
    world.ok("GET", f"/v1beta/{output}")
    world.ok("DELETE", f"/v1beta/{operation['name']}")
    assert world.error("GET", f"/v1beta/{output}:download")["code"] == 403
    assert world.error("GET", f"/v1beta/{output}")["code"] == 403


def test_an_output_file_is_described_but_can_neither_be_deleted_nor_listed() -> None:
    world = Driver(Plan(latency_s=1.0))
    operation = world.create_from(world.upload(numbered(2)))
    output = f"files/batch-{operation['name'].removeprefix('batches/')}"
    assert world.error("GET", f"/v1beta/{output}:download")["code"] == 403
    world.wait(1)

    file = world.ok("GET", f"/v1beta/{output}")
    assert (file["name"], file["source"], file["state"]) == (output, "GENERATED", "ACTIVE")
    assert file["downloadUri"] == f"http://emulator.test/download/v1beta/{output}:download?alt=media"
    assert world.error("DELETE", f"/v1beta/{output}")["code"] == 400
    assert [listed["source"] for listed in world.ok("GET", "/v1beta/files")["files"]] == ["UPLOADED"]
    world.wait(172_800)
    assert world.error("GET", f"/v1beta/{output}:download")["code"] == 403


def test_lists_are_empty_objects_or_pages_of_the_newest_without_inline_responses() -> None:
    world = Driver()
    assert world.ok("GET", "/v1beta/batches") == {}
    names = [world.create({"request": prompt("x")}, name=str(index))["name"] for index in range(5)]
    seen: list[str] = []
    query: dict[str, str] = {"pageSize": "2"}
    sizes: list[int] = []
    while True:
        page = world.ok("GET", "/v1beta/batches", query=query)
        sizes.append(len(page["operations"]))
        seen += [operation["name"] for operation in page["operations"]]
        assert all("output" not in operation["metadata"] for operation in page["operations"])
        assert all("response" not in operation for operation in page["operations"])
        if len(seen) == 2:
            world.create({"request": prompt("late")})
        if "nextPageToken" not in page:
            break
        query = {"pageSize": "2", "pageToken": page["nextPageToken"]}

    assert (seen, sizes) == (names[::-1], [2, 2, 1])
    for bad in ({"pageToken": "%%%"}, {"pageSize": "-1"}, {"pageSize": "many"}):
        assert world.error("GET", "/v1beta/batches", query=bad)["code"] == 400


def test_a_file_job_is_listed_with_its_output_file() -> None:
    world = Driver()
    operation = world.create_from(world.upload(numbered(1)))
    (listed,) = world.ok("GET", "/v1beta/batches")["operations"]
    assert listed == world.get(operation)


def test_lists_can_lag() -> None:
    world = Driver(Plan(list_lag_s=30.0))
    operation = world.create({"request": prompt("x")})
    assert world.ok("GET", "/v1beta/batches") == {}
    assert world.get(operation)
    world.wait(30)
    assert len(world.ok("GET", "/v1beta/batches")["operations"]) == 1


def test_a_job_that_takes_too_long_expires_without_results_or_bill() -> None:
    world = Driver(Plan(latency_s=300_000.0))
    operation = world.create({"request": prompt("x")})
    world.wait(172_799)
    assert world.state(operation) == "BATCH_STATE_RUNNING"
    world.wait(1)
    expired = world.get(operation)

    assert (expired["done"], expired["metadata"]["state"]) == (True, "BATCH_STATE_EXPIRED")
    assert "output" not in expired["metadata"]
    assert (world.ledger().rows_billed, world.ledger().jobs[0].state) == (0, "EXPIRED")


def test_progress_is_counted_while_a_job_runs() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.0))
    rows = [{"key": f"k{index}", "request": prompt("[[error:8:no]]" if index == 1 else "x")} for index in range(10)]
    operation = world.create_from(world.upload(jsonl(*rows)))
    world.wait(40)
    assert world.get(operation)["metadata"]["batchStats"] == {
        "requestCount": "10",
        "successfulRequestCount": "3",
        "failedRequestCount": "1",
        "pendingRequestCount": "6",
    }
    (view,) = world.world.jobs(world.now)
    assert (view.state, view.rows, view.rows_done, view.kind) == ("RUNNING", 10, 4, "generate")


# -- how things are shown


@pytest.mark.parametrize(
    ("where", "in_response", "in_metadata"),
    [("both", True, True), ("response", True, False), ("metadata", False, True)],
)
def test_output_is_shown_where_the_plan_says(where: str, in_response: bool, in_metadata: bool) -> None:
    world = Driver(Plan(output_only_in=where))  # type: ignore[arg-type]
    ended = world.get(world.create({"request": prompt("x")}))
    assert ("response" in ended, "output" in ended["metadata"]) == (in_response, in_metadata)


def test_states_have_the_prefix_of_the_plan() -> None:
    world = Driver(Plan(state_prefix="JOB_STATE"))
    assert world.state(world.create({"request": prompt("x")})) == "JOB_STATE_SUCCEEDED"


def test_latency_is_drawn_between_its_bounds_and_the_same_for_the_same_seed() -> None:
    def ends(seed: int) -> list[str]:
        world = Driver(Plan(latency_s=(10.0, 20.0)), seed=seed)
        operations = [world.create({"request": prompt("x")}) for _ in range(5)]
        world.wait(20)
        return [world.get(operation)["metadata"]["endTime"] for operation in operations]

    assert ends(1) == ends(1) != ends(2)
    assert all("08:00:10" <= end[11:19] <= "08:00:20" for end in ends(1))


def test_the_same_calls_have_the_same_history() -> None:
    def history(seed: int) -> str:
        world = Driver(seed=seed)
        operation = world.create_from(world.upload(numbered(3)))
        return json.dumps([world.get(operation), world.lines(operation)])

    assert history(7) == history(7) != history(8)
