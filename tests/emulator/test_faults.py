"""Planned faults: each name does what it says, as often as it says."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from carpool.emulator import CALL_EFFECTS, FAULT_NAMES, JOB_FAULTS, Fault, Op, Plan, expected_text
from carpool.emulator.plan import FaultBook

from .driver import MODEL, Driver, jsonl, numbered, prompt, text_of


def plan_of(**faults: Fault) -> Plan:
    """Return a plan; dots in names of faults are written as two underscores."""
    return Plan(faults={name.replace("__", "."): fault for name, fault in faults.items()})


def fired(fault: Fault, occasions: int = 12) -> list[int]:
    book = FaultBook(Plan(faults={"get.503": fault}), random.Random(0))
    return [occasion for occasion in range(1, occasions + 1) if book.draw("get.503") is not None]


# -- how often


def test_faults_fire_as_often_as_they_say() -> None:
    assert fired(Fault()) == list(range(1, 13))
    assert fired(Fault(count=2)) == [1, 2]
    assert fired(Fault(after=3, count=2)) == [4, 5]
    assert fired(Fault(every=4)) == [4, 8, 12]
    assert fired(Fault(every=4, after=1, count=1)) == [5]
    assert fired(Fault(count=0)) == []
    assert fired(Fault(probability=0.0)) == []
    assert fired(Fault(probability=0.5)) == fired(Fault(probability=0.5))
    assert 400 < len(fired(Fault(probability=0.5), 1000)) < 600
    assert len(fired(Fault(probability=0.5, count=3), 1000)) == 3


def test_a_fault_that_is_not_planned_never_fires() -> None:
    book = FaultBook(Plan(), random.Random(0))
    assert (book.draw("get.503"), book.planned("get.503"), book.draw_for_call(Op.GET)) == (None, False, None)


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"unknown fault 'create.drop_after_apply'; did you mean create.dropped_after"):
        Plan(faults={"create.drop_after_apply": Fault()})
    with pytest.raises(ValueError, match=r"unknown fault 'zzz'$"):
        Plan(faults={"zzz": Fault()})
    with pytest.raises(msgspec.ValidationError, match="unknown fault"):
        msgspec.json.decode(b'{"faults": {"get.dropped_midway": {}}}', type=Plan)


@pytest.mark.parametrize(
    "bad",
    [
        {"probability": 1.5},
        {"share": -0.1},
        {"count": -1},
        {"after": -1},
        {"every": 0},
        {"seconds": -1.0},
        {"bytes": -1},
    ],
)
def test_faults_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Fault\."):
        Fault(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"latency_s": -1.0},
        {"latency_s": (2.0, 1.0)},
        {"pending_share": 2.0},
        {"delete_lag_s": -1.0},
        {"jobs_max": -1},
        {"upload_granularity_bytes": 0},
    ],
)
def test_plans_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Plan\."):
        Plan(**bad)  # type: ignore[arg-type]


def test_every_operation_has_every_effect_that_fits_it_and_all_names_are_known() -> None:
    for op in Op:
        assert {f"{op}.{effect}" for effect, fault in CALL_EFFECTS.items() if op in fault.ops} <= FAULT_NAMES
        assert {f"{op}.{effect}" for effect, fault in CALL_EFFECTS.items() if op not in fault.ops}.isdisjoint(
            FAULT_NAMES
        )
    assert set(JOB_FAULTS) <= FAULT_NAMES
    Plan(faults={name: Fault(count=0) for name in FAULT_NAMES})


def test_a_plan_with_every_field_and_fault_travels_as_json() -> None:
    fault = Fault(
        count=1, after=2, every=3, probability=0.5, code=8, message="m", status="S", seconds=0.5, share=0.25, bytes=7,
        origin="https://other.example",
    )  # fmt: skip
    plan = Plan(
        latency_s=(1.0, 2.0),
        pending_share=0.5,
        list_lag_s=1.0,
        delete_lag_s=2.0,
        create_ignores_deleted_file=True,
        api_keys=frozenset({"k"}),
        unknown_models=frozenset({"m"}),
        faults=dict.fromkeys(FAULT_NAMES, fault),
    )
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize("text", [b'{"latencys": 1}', b'{"faults": {"get.503": {"cuont": 1}}}'])
def test_fields_that_nobody_knows_are_refused(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(text, type=Plan)


# -- calls


@pytest.mark.parametrize("code", [400, 403, 404, 429, 500, 503, 504])
def test_a_refused_create_takes_no_effect(code: int) -> None:
    world = Driver(Plan(faults={f"create.{code}": Fault(count=1)}))
    error = world.refused_create({"requests": {"requests": [{"request": prompt("x")}]}})
    assert (error["code"], world.world.jobs(world.now)) == (code, [])
    world.create({"request": prompt("x")})


def test_a_refused_create_says_nothing_about_when_to_try_again() -> None:
    world = Driver(plan_of(create__429=Fault()))
    error = world.refused_create({"requests": {"requests": [{"request": prompt("x")}]}})
    assert error["status"] == "RESOURCE_EXHAUSTED"
    assert [detail["@type"] for detail in error["details"]] == ["type.googleapis.com/google.rpc.Help"]


def test_a_refused_live_call_says_when_to_try_again() -> None:
    world = Driver(plan_of(generate__429=Fault()))
    error = world.error("POST", f"/v1/models/{MODEL}:generateContent", prompt("x"))
    kinds = [detail["@type"].rpartition(".")[2] for detail in error["details"]]
    assert kinds == ["Help", "QuotaFailure", "RetryInfo"]
    assert error["details"][1]["violations"][0]["quotaDimensions"]["model"] == MODEL
    assert error["details"][2]["retryDelay"] == "12s"
    assert error["message"].endswith("Please retry in 12s.")


def test_code_and_message_of_a_refusal_can_be_chosen() -> None:
    world = Driver(plan_of(get__500=Fault(code=418, message="no tea")))
    error = world.error("GET", "/v1beta/batches/x")
    assert (error["code"], error["message"]) == (418, "no tea")


def test_replies_without_an_envelope() -> None:
    world = Driver(Plan(faults={"upload.start.503_empty": Fault(), "get.502_html": Fault()}))
    headers = {"x-goog-api-key": "k", "x-goog-upload-command": "start"}
    empty = world.call("POST", "/upload/v1beta/files", {}, headers=headers)
    html = world.call("GET", "/v1beta/batches/x")
    assert (empty.status, empty.read()) == (503, b"")
    assert (html.status, html.read()[:6]) == (502, b"<html>")


def test_a_create_can_take_effect_without_an_answer() -> None:
    world = Driver(
        Plan(faults={"create.dropped_after_apply": Fault(count=1), "create.500_after_apply": Fault(count=1)})
    )
    body = {"batch": {"displayName": "dn", "inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}}
    path = f"/v1beta/models/{MODEL}:batchGenerateContent"
    error = world.error("POST", path, body)
    dropped = world.call("POST", path, body)

    assert (error["code"], error["status"], dropped.dropped) == (500, "INTERNAL", True)
    assert [operation["metadata"]["displayName"] for operation in world.ok("GET", "/v1beta/batches")["operations"]] == [
        "dn",
        "dn",
    ]
    assert world.ledger().rows_billed == 2
    assert [logged.status for logged in world.world.requests] == [500, 0, 200]


def test_a_dropped_create_takes_no_effect() -> None:
    world = Driver(plan_of(create__dropped=Fault(count=1)))
    reply = world.call("POST", f"/v1beta/models/{MODEL}:batchGenerateContent", {})
    assert (reply.dropped, world.ok("GET", "/v1beta/batches")) == (True, {})


def test_a_refused_call_that_loses_its_answer_says_nothing() -> None:
    world = Driver(Plan(faults={"delete.dropped_after_apply": Fault(), "cancel.500_after_apply": Fault()}))
    assert world.call("DELETE", "/v1beta/batches/nobody").dropped
    assert world.error("POST", "/v1beta/batches/nobody:cancel")["code"] == 500


def test_a_slow_answer_waits() -> None:
    world = Driver(plan_of(list__slow=Fault(seconds=3.0, count=1), files__list__slow=Fault()))
    assert world.call("GET", "/v1beta/batches").delay_s == 3.0
    assert world.call("GET", "/v1beta/batches").delay_s == 0.0
    assert world.call("GET", "/v1beta/files").delay_s == 30.0


def test_an_upload_broken_midway_keeps_half_and_can_be_resumed() -> None:
    world = Driver(Plan(upload_granularity_bytes=1, faults={"upload.chunk.dropped_midway": Fault(count=1)}))
    query = world.start_upload()
    assert world.chunk(query, b"01234567", offset=0, command="upload").dropped
    status = world.call("POST", "/upload/v1beta/files", query=query, headers={"x-goog-upload-command": "query"})
    assert status.headers["X-Goog-Upload-Size-Received"] == "4"
    assert json.loads(world.chunk(query, b"4567", offset=4).read())["file"]["sizeBytes"] == "8"


def test_a_finalize_can_take_effect_without_an_answer() -> None:
    world = Driver(Plan(faults={"upload.finalize.dropped_after_apply": Fault(count=1)}))
    query = world.start_upload(name="files/mine")
    assert world.chunk(query, b"x", offset=0).dropped
    assert world.ok("GET", "/v1beta/files/mine")["sizeBytes"] == "1"
    status = world.call("POST", "/upload/v1beta/files", query=query, headers={"x-goog-upload-command": "query"})
    assert status.headers["X-Goog-Upload-Status"] == "final"


def test_an_upload_broken_midway_by_nobody_is_dropped_all_the_same() -> None:
    world = Driver(Plan(faults={"upload.finalize.dropped_midway": Fault()}))
    assert world.chunk({"upload_id": "nobody"}, b"x", offset=0).dropped
    assert world.chunk(world.start_upload(), b"x", offset=7).dropped


# -- jobs


def test_jobs_can_be_stuck_until_they_expire() -> None:
    world = Driver(
        Plan(latency_s=1.0, faults={"job.stuck_pending": Fault(count=1), "job.stuck_running": Fault(count=1)})
    )
    # Both are drawn for the first job; the one that comes first in the table decides.
    pending = world.create({"request": prompt("x")})
    world.world.plan = Plan(latency_s=1.0, faults={"job.stuck_running": Fault(count=1)})
    running = world.create({"request": prompt("x")})
    fine = world.create({"request": prompt("x")})
    world.wait(172_000)
    assert [world.state(job) for job in (pending, running, fine)] == [
        "BATCH_STATE_PENDING",
        "BATCH_STATE_RUNNING",
        "BATCH_STATE_SUCCEEDED",
    ]
    assert world.get(running)["metadata"]["batchStats"]["pendingRequestCount"] == "1"
    world.wait(1_000)
    assert {world.state(job) for job in (pending, running)} == {"BATCH_STATE_EXPIRED"}
    assert world.ledger().rows_billed == 1


def test_a_failed_job_has_an_error_and_costs_nothing() -> None:
    world = Driver(plan_of(job__failed=Fault(count=1, code=3, message="bad line")))
    failed, fine = (world.get(world.create_from(world.upload(numbered(2)))) for _ in range(2))
    assert (failed["done"], failed["metadata"]["state"]) == (True, "BATCH_STATE_FAILED")
    assert failed["error"] == {"code": 3, "message": "bad line"}
    assert "output" not in failed["metadata"]
    assert "response" not in failed
    assert fine["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert [bill.rows_ok for bill in world.ledger().jobs] == [0, 2]


def test_a_failed_job_has_the_usual_error_by_default() -> None:
    world = Driver(plan_of(job__failed=Fault()))
    failed = world.get(world.create({"request": prompt("x")}))
    batch_id = failed["name"].removeprefix("batches/")
    assert failed["error"] == {"code": 13, "message": f"Batch {batch_id} failed without error."}


def test_a_job_can_expire_in_time() -> None:
    world = Driver(Plan(latency_s=5.0, faults={"job.expired": Fault()}))
    operation = world.create({"request": prompt("x")})
    world.wait(5)
    assert world.state(operation) == "BATCH_STATE_EXPIRED"
    assert world.ledger().rows_billed == 0


def test_a_job_can_be_cancelled_by_the_service() -> None:
    world = Driver(plan_of(job__cancelled=Fault(share=0.25)))
    operation = world.create_from(world.upload(numbered(8)))
    cancelled = world.get(operation)
    assert (cancelled["metadata"]["state"], cancelled["error"]["code"]) == ("BATCH_STATE_CANCELLED", 13)
    assert [line["key"] for line in world.lines(operation)] == ["k0", "k1"]
    assert world.ledger().rows_billed == 2


def test_cancelled_jobs_can_hide_what_was_done() -> None:
    world = Driver(Plan(cancelled_output=False, faults={"job.cancelled": Fault()}))
    operation = world.create_from(world.upload(numbered(8)))
    assert "output" not in world.get(operation)["metadata"]
    assert world.ledger().rows_billed == 4


def test_a_job_can_succeed_in_part() -> None:
    world = Driver(plan_of(job__partially_succeeded=Fault(share=0.5)))
    operation = world.create_from(world.upload(numbered(8)))
    ended = world.get(operation)
    assert (ended["done"], ended["metadata"]["state"]) == (True, "BATCH_STATE_PARTIALLY_SUCCEEDED")
    assert "response" in ended
    assert len(world.lines(operation)) == 4
    assert world.ledger().rows_billed == 4


def test_output_can_come_late() -> None:
    world = Driver(Plan(latency_s=10.0, faults={"output.late": Fault(seconds=7.0)}))
    operation = world.create_from(world.upload(numbered(1)))
    world.wait(10)
    ended = world.get(operation)
    assert (ended["done"], ended["metadata"]["state"]) == (True, "BATCH_STATE_SUCCEEDED")
    assert "response" not in ended
    assert "output" not in ended["metadata"]
    world.wait(7)
    assert len(world.lines(operation)) == 1
    assert "response" in world.get(operation)


def test_a_file_job_can_answer_inline() -> None:
    world = Driver(plan_of(output__inline_from_file=Fault()))
    operation = world.create_from(world.upload(numbered(2)))
    first, second = world.inline(operation)
    assert (first["metadata"], text_of(first["response"])) == ({"key": "k0"}, expected_text("prompt 0"))
    assert second["metadata"] == {"key": "k1"}
    assert world.error("GET", f"/v1beta/files/batch-{operation['name'][8:]}:download")["code"] == 403


# -- rows


def keys_of(world: Driver, rows: int = 6) -> list[str | None]:
    """Return the keys in the output of a new file job."""
    return [line.get("key") for line in world.lines(world.create_from(world.upload(numbered(rows))))]


def test_rows_can_be_shuffled() -> None:
    world = Driver(plan_of(output__shuffled=Fault(count=1)))
    in_order = [f"k{index}" for index in range(30)]
    shuffled = keys_of(world, 30)
    assert shuffled != in_order
    assert sorted(shuffled, key=str) == sorted(in_order)
    assert keys_of(world, 30) == in_order


def test_row_faults_count_rows_over_all_jobs() -> None:
    world = Driver(plan_of(row__missing=Fault(every=4)))
    assert [keys_of(world), keys_of(world)] == [["k0", "k1", "k2", "k4", "k5"], ["k0", "k2", "k3", "k4"]]
    assert world.ledger().rows_billed == 12


def test_rows_can_have_errors() -> None:
    world = Driver(plan_of(row__error=Fault(every=2, code=8, message="busy", status="RESOURCE_EXHAUSTED")))
    operation = world.create_from(world.upload(numbered(3)))
    errors = {line["key"]: line["error"] for line in world.lines(operation) if "error" in line}
    assert errors == {"k1": {"code": 8, "message": "busy", "status": "RESOURCE_EXHAUSTED"}}
    assert world.get(operation)["metadata"]["batchStats"]["failedRequestCount"] == "1"
    assert (world.ledger().rows_billed, world.ledger().rows_failed) == (2, 1)


def test_a_rows_usual_error_is_internal() -> None:
    world = Driver(plan_of(row__error=Fault()))
    (item,) = world.inline(world.create({"request": prompt("x"), "metadata": {"key": "a"}}))
    assert item == {"error": {"code": 13, "message": "An internal error has occurred."}, "metadata": {"key": "a"}}


def test_rows_can_come_twice_and_are_billed_once() -> None:
    world = Driver(plan_of(row__doubled=Fault(count=1)))
    operation = world.create_from(world.upload(numbered(2)))
    first, second, third = world.download(operation).splitlines()
    assert first == second != third
    assert world.ledger().billed_by_key == {"k0": 1, "k1": 1}


@pytest.mark.parametrize("inline", [False, True])
def test_rows_can_come_twice_with_different_answers(inline: bool) -> None:
    world = Driver(plan_of(row__doubled_other=Fault(count=1)))
    if inline:
        one, other = world.inline(world.create({"request": prompt("x"), "metadata": {"key": "a"}}))
        assert one["metadata"] == other["metadata"] == {"key": "a"}
    else:
        one, other = world.lines(world.create_from(world.upload(jsonl({"key": "a", "request": prompt("x")}))))
        assert one["key"] == other["key"] == "a"
    assert text_of(one["response"]) == expected_text("x") != text_of(other["response"])
    assert "(again)" in text_of(other["response"])


def test_strangers_can_be_among_the_rows() -> None:
    world = Driver(plan_of(row__unknown_key=Fault(count=1)))
    assert [str(key)[:7] for key in keys_of(world, 2)] == ["k0", "unknown", "k1"]
    world.world.plan = plan_of(row__unknown_key=Fault(count=1))
    items = world.inline(world.create({"request": prompt("x"), "metadata": {"key": "a"}}))
    assert [item["metadata"]["key"][:7] for item in items] == ["a", "unknown"]


def test_lines_can_be_garbled() -> None:
    world = Driver(plan_of(row__garbled=Fault(after=1, count=1)))
    lines = world.download(world.create_from(world.upload(numbered(3)))).splitlines()
    assert len(lines) == 3
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[1])
    assert [json.loads(lines[index])["key"] for index in (0, 2)] == ["k0", "k2"]


def test_the_last_line_can_be_cut() -> None:
    world = Driver(plan_of(output__truncated=Fault()))
    raw = world.download(world.create_from(world.upload(numbered(3))))
    *whole, last = raw.split(b"\n")
    assert len(whole) == 2
    assert last
    with pytest.raises(json.JSONDecodeError):
        json.loads(last)


def test_rows_can_lose_their_keys() -> None:
    world = Driver(plan_of(row__key_dropped=Fault(every=2)))
    assert keys_of(world, 4) == ["k0", None, "k2", None]
    items = [{"request": prompt("x"), "metadata": {"key": str(index)}} for index in range(2)]
    assert ["metadata" in item for item in world.inline(world.create(*items))] == [True, False]


def test_faults_of_a_job_are_drawn_when_it_is_created() -> None:
    world = Driver(Plan(latency_s=10.0, faults={"row.missing": Fault(count=1)}))
    operation = world.create_from(world.upload(numbered(2)))
    world.world.plan = Plan()
    world.wait(10)
    assert [line["key"] for line in world.lines(operation)] == ["k1"]
