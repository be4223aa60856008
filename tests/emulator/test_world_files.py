"""Files in virtual time: resumable uploads, names, life, listing."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from carpool.emulator import Call, Plan

from .driver import Driver, numbered

KEY = {"x-goog-api-key": "k"}


def test_an_upload_in_chunks_becomes_a_file() -> None:
    world = Driver(Plan(upload_granularity_bytes=4))
    query = world.start_upload(display_name="dn", mime_type="application/jsonl", size_bytes=10)
    first = world.chunk(query, b"0123", offset=0, command="upload")
    second = world.chunk(query, b"4567", offset=4, command="upload")
    last = world.chunk(query, b"89", offset=8, command="upload, finalize")

    assert [reply.headers["X-Goog-Upload-Status"] for reply in (first, second, last)] == ["active", "active", "final"]
    assert (first.read(), second.headers["X-Goog-Upload-Size-Received"]) == (b"", "8")
    file = json.loads(last.read())["file"]
    assert file == {
        "name": file["name"],
        "displayName": "dn",
        "mimeType": "application/jsonl",
        "sizeBytes": "10",
        "createTime": "2027-01-15T08:00:00.000000000Z",
        "updateTime": "2027-01-15T08:00:00.000000000Z",
        "expirationTime": "2027-01-17T08:00:00.000000000Z",
        "sha256Hash": base64.b64encode(hashlib.sha256(b"0123456789").hexdigest().encode()).decode(),
        "uri": f"http://emulator.test/v1beta/{file['name']}",
        "state": "ACTIVE",
        "source": "UPLOADED",
    }
    assert world.ok("GET", f"/v1/{file['name']}") == file


def test_the_start_answers_with_a_url_on_the_callers_own_origin() -> None:
    world = Driver()
    reply = world.call("POST", "/pfx/upload/v1/files", {}, headers={**KEY, "x-goog-upload-command": "start"})
    url = reply.headers["X-Goog-Upload-URL"]

    assert url.startswith("http://emulator.test/pfx/upload/v1/files?upload_id=")
    assert url.endswith("&upload_protocol=resumable")
    assert reply.headers["X-Goog-Upload-Control-URL"] == url
    assert reply.headers["X-Goog-Upload-Chunk-Granularity"] == "8388608"
    assert (reply.headers["X-Goog-Upload-Status"], reply.read()) == ("active", b"")


def test_a_query_tells_where_to_go_on() -> None:
    world = Driver(Plan(upload_granularity_bytes=1))
    query = world.start_upload()
    world.chunk(query, b"012", offset=0, command="upload")

    def ask() -> tuple[str, str]:
        reply = world.call("POST", "/upload/v1beta/files", query=query, headers={"x-goog-upload-command": "query"})
        return reply.headers["X-Goog-Upload-Status"], reply.headers["X-Goog-Upload-Size-Received"]

    assert ask() == ("active", "3")
    world.chunk(query, b"345", offset=3)
    assert ask() == ("final", "6")
    again = world.chunk(query, b"345", offset=3)
    assert (again.status, again.headers["X-Goog-Upload-Status"]) == (400, "final")


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_a_wrong_offset_is_refused_and_takes_nothing(offset: int) -> None:
    world = Driver(Plan(upload_granularity_bytes=1))
    query = world.start_upload()
    world.chunk(query, b"012", offset=0, command="upload")
    refused = world.chunk(query, b"345", offset=offset)

    assert (refused.status, refused.headers["X-Goog-Upload-Status"]) == (400, "active")
    assert world.chunk(query, b"345", offset=3).status == 200


def test_sizes_are_checked() -> None:
    world = Driver(Plan(upload_granularity_bytes=4, file_bytes_max=20))
    query = world.start_upload(size_bytes=8)
    assert world.chunk(query, b"012", offset=0, command="upload").status == 400  # not a multiple
    assert world.chunk(query, b"0123456789ab", offset=0, command="upload").status == 400  # more than declared
    assert world.chunk(query, b"0123", offset=0).status == 400  # less than declared
    assert world.chunk(query, b"4567", offset=4).status == 200
    undeclared = world.start_upload()
    assert world.chunk(undeclared, b"x" * 24, offset=0).status == 400
    headers = {**KEY, "x-goog-upload-command": "start", "x-goog-upload-header-content-length": "21"}
    assert world.error("POST", "/upload/v1beta/files", {}, headers=headers)["code"] == 400


def test_a_cancelled_upload_takes_no_more() -> None:
    world = Driver()
    query = world.start_upload()
    reply = world.call("POST", "/upload/v1beta/files", query=query, headers={"x-goog-upload-command": "cancel"})
    assert reply.headers["X-Goog-Upload-Status"] == "cancelled"
    assert world.chunk(query, b"x", offset=0).status == 400


def test_strange_uploads_are_refused() -> None:
    world = Driver()
    query = world.start_upload()
    start = {**KEY, "x-goog-upload-command": "start"}
    assert world.chunk({"upload_id": "nobody"}, b"x", offset=0).status == 404
    assert world.chunk(query, b"x", offset=0, command="rewind").status == 400
    assert world.error("POST", "/upload/v1beta/files", b"{not json", headers=start)["code"] == 400
    assert world.error("POST", "/upload/v1beta/files", {}, headers={"x-goog-upload-command": "start"})["code"] == 403


def test_clients_choose_names_once() -> None:
    world = Driver()
    assert world.upload(b"x", name="files/cp-1-a") == "files/cp-1-a"
    late = world.start_upload(name="other")
    assert world.upload(b"x", name="files/other") == "files/other"
    start = {**KEY, "x-goog-upload-command": "start"}
    body = {"file": {"name": "files/cp-1-a"}}
    error = world.error("POST", "/upload/v1beta/files", body, headers=start)

    assert (error["code"], error["status"]) == (409, "ALREADY_EXISTS")
    assert world.chunk(late, b"y", offset=0).status == 409
    world.ok("DELETE", "/v1beta/files/cp-1-a")
    assert world.upload(b"x", name="files/cp-1-a") == "files/cp-1-a"
    world.wait(172_800)
    assert world.upload(b"x", name="files/cp-1-a") == "files/cp-1-a"


@pytest.mark.parametrize("name", ["files/My-Name", "files/-a", "files/a-", "files/" + "a" * 41, "files/a_b", "files/"])
def test_bad_names_are_refused(name: str) -> None:
    world = Driver()
    headers = {**KEY, "x-goog-upload-command": "start"}
    error = world.error("POST", "/upload/v1beta/files", {"file": {"name": name}}, headers=headers)
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["a", "a-1", "0", "a" * 40])
def test_good_names_are_taken(name: str) -> None:
    assert Driver().upload(b"x", name=f"files/{name}") == f"files/{name}"


def test_files_are_listed_in_pages_and_expire() -> None:
    world = Driver(Plan(file_life_s=100.0))
    assert world.ok("GET", "/v1beta/files") == {}
    names = [world.upload(b"x") for _ in range(3)]
    page = world.ok("GET", "/v1beta/files", query={"pageSize": "2"})
    rest = world.ok("GET", "/v1beta/files", query={"pageSize": "2", "pageToken": page["nextPageToken"]})

    assert [file["name"] for file in page["files"] + rest["files"]] == names[::-1]
    assert "nextPageToken" not in rest
    world.wait(100)
    assert world.ok("GET", "/v1beta/files") == {}
    assert world.error("GET", f"/v1beta/{names[0]}")["code"] == 403


def test_missing_files_answer_403_and_uploaded_ones_cannot_be_downloaded() -> None:
    world = Driver()
    name = world.upload(b"x")
    for method, suffix in (("GET", ""), ("DELETE", ""), ("GET", ":download")):
        error = world.error(method, f"/v1beta/files/nobody{suffix}")
        assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert world.error("GET", f"/v1beta/{name}:download")["code"] == 400
    assert world.ok("DELETE", f"/v1beta/{name}") == {}
    assert world.error("GET", f"/v1beta/{name}")["code"] == 403


def test_a_client_may_choose_a_name_that_starts_like_an_output() -> None:
    world = Driver()
    name = world.upload(numbered(1), name="files/batch-mine")
    assert world.ok("GET", f"/v1beta/{name}")["source"] == "UPLOADED"
    assert world.error("GET", f"/v1beta/{name}:download")["code"] == 400


def test_a_job_keeps_what_it_read_when_its_file_goes() -> None:
    world = Driver(Plan(latency_s=10.0))
    name = world.upload(numbered(2))
    operation = world.create_from(name)
    world.ok("DELETE", f"/v1beta/{name}")
    world.wait(10)
    assert [line["key"] for line in world.lines(operation)] == ["k0", "k1"]


def test_a_large_file_goes_to_disk_and_is_read_by_lines() -> None:
    world = Driver()
    long_line = b'{"key": "long", "request": {"contents": [{"parts": [{"text": "' + b"x" * 5_000_000 + b'"}]}]}}\n'
    operation = world.create_from(world.upload(numbered(3) + long_line + b"\r\n" + numbered(2)[:-1]))
    assert [line["key"] for line in world.lines(operation)] == ["k0", "k1", "k2", "long", "k0", "k1"]


def test_a_body_in_pieces_is_one_chunk() -> None:
    world = Driver(Plan(upload_granularity_bytes=8))
    query = world.start_upload()
    headers = {"x-goog-upload-command": "upload", "x-goog-upload-offset": "0"}
    call = Call(
        method="POST", path="/upload/v1/files", query=query, headers=headers, size_bytes=8, body=b"012", more=True
    )
    logged = len(world.world.requests)

    assert world.world.handle(call, world.now).status == 200
    assert len(world.world.requests) == logged
    rest = Call(method="POST", path=call.path, query=query, headers=headers, size_bytes=8, body=b"34567", taken_bytes=3)
    assert world.world.handle(rest, world.now).headers["X-Goog-Upload-Size-Received"] == "8"
    assert json.loads(world.chunk(query, b"", offset=8).read())["file"]["sizeBytes"] == "8"
