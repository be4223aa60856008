"""Users' files at the wire: what is sent for them, what is read, and which names and sources are refused before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from carpool import ConfigurationError, File, ServerError
from carpool._gemini.media import _READ_BYTES, FILE_BYTES_MAX, _read_bytes
from carpool._gemini.mime import guess_mime_type
from carpool._ports import ProviderError

DESCRIBED: dict[str, Any] = {
    "name": "files/a-1",
    "uri": "https://generativelanguage.googleapis.com/v1beta/files/a-1",
    "mimeType": "image/png",
    "sizeBytes": "12",
    "displayName": "a picture",
    "createTime": "2026-11-21T00:00:00Z",
    "updateTime": "2026-11-21T00:00:01Z",
    "expirationTime": "2026-11-23T00:00:00Z",
    "state": "ACTIVE",
    "sha256Hash": "YWJj",
    "source": "UPLOADED",
}


@pytest.fixture
def files_at(at: Any) -> Any:
    async def make(url: str) -> Any:
        return (await at(url)).files

    return make


def body(**fields: Any) -> bytes:
    return json.dumps(DESCRIBED | fields).encode()


async def test_every_field_of_a_file_is_read(files_at: Any, tools: Any) -> None:
    failed = body(state="FAILED", error={"code": 3, "message": "no picture"})
    async with tools.Server([tools.reply(body=body()), tools.reply(body=failed)]) as server:
        files = await files_at(server.url)
        assert await files.get("a-1") == File(
            name="files/a-1",
            uri=DESCRIBED["uri"],
            mime_type="image/png",
            size_bytes=12,
            display_name="a picture",
            created_at="2026-11-21T00:00:00Z",
            updated_at="2026-11-21T00:00:01Z",
            expires_at="2026-11-23T00:00:00Z",
            state="ACTIVE",
            sha256_hash="YWJj",
        )
        assert (await files.get("files/a-1")).error == ServerError(3, "no picture")
        assert [asked.target for asked in server.asked] == ["/v1beta/files/a-1"] * 2


@pytest.mark.parametrize("reply", [b"", b"{}", b"[]", b"null", b'{"name":"batches/a"}', b'{"name":"files/../a"}'])
async def test_a_description_that_cannot_be_read_is_no_file(reply: bytes, files_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=reply)) as server:
        assert (await tools.fault_of((await files_at(server.url)).get("a"))).kind == "unknown"


async def test_files_are_listed_page_by_page_and_an_empty_list_is_an_empty_object(files_at: Any, tools: Any) -> None:
    pages = [{"files": [DESCRIBED], "nextPageToken": "t&1"}, {"files": [DESCRIBED | {"name": "files/b"}]}, {}]
    async with tools.Server([tools.reply(body=json.dumps(page).encode()) for page in pages]) as server:
        files = await files_at(server.url)
        assert [file.name async for file in files.list()] == ["files/a-1", "files/b"]
        assert [file async for file in files.list()] == []
        assert [asked.target for asked in server.asked] == [
            "/v1beta/files?pageSize=100",
            "/v1beta/files?pageSize=100&pageToken=t%261",
            "/v1beta/files?pageSize=100",
        ]


@pytest.mark.parametrize("page", [b"[]", b'{"files":5}', b'{"files":[{}]}', b"<html>"])
async def test_a_page_that_cannot_be_read_ends_the_list_as_an_error(page: bytes, files_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(body=page)) as server:
        assert (await tools.fault_of(anext((await files_at(server.url)).list()))).kind == "unknown"


async def test_a_list_that_turns_in_circles_is_given_up(files_at: Any, tools: Any) -> None:
    page = json.dumps({"files": [DESCRIBED], "nextPageToken": "same"}).encode()
    async with tools.Server(tools.reply(body=page)) as server:
        files = await files_at(server.url)
        with pytest.raises(ProviderError) as caught:
            _ = [file async for file in files.list()]
        assert "does not end" in caught.value.fault.error.message
        assert len(server.asked) == 2


@pytest.mark.parametrize(("status", "gone"), [(200, True), (403, True), (404, True), (400, False), (503, False)])
async def test_a_file_that_is_gone_counts_as_deleted(status: int, gone: bool, files_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply(status)) as server:
        files = await files_at(server.url)
        if gone:
            await files.delete("a")
        else:
            assert (await tools.fault_of(files.delete("a"))).error.code == status
        assert [(asked.method, asked.target) for asked in server.asked] == [("DELETE", "/v1beta/files/a")]


@pytest.mark.parametrize("name", ["", "A", "a/b", "files/", "files/a?b", "batches/a", "files/../x", "a\n", "é"])
async def test_what_is_no_name_is_refused_before_it_enters_a_url(name: str, files_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as server:
        files = await files_at(server.url)
        for call in (files.get(name), files.delete(name)):
            with pytest.raises(ConfigurationError, match="is not a name such as 'files/abc'"):
                await call
        assert server.asked == []


async def test_uris_of_this_service_are_told_from_others(files_at: Any, tools: Any) -> None:
    async with tools.Server(tools.reply()) as server:
        files = await files_at(server.url)
        for own in (server.url, "https://generativelanguage.googleapis.com"):
            assert files.name_of(f"{own}/v1beta/files/a-1") == "files/a-1"
            assert files.name_of(f"{own}/v1/files/a-1") == "files/a-1"
        others = ["", "gs://bucket/files/a", "https://www.youtube.com/watch?v=1", "https://x.example/v1beta/files/a"]
        others += [f"{server.url}/v1beta/batches/a", f"{server.url}/v1beta/files/A", f"{server.url}/v1beta/files/"]
        others += [server.url, "https://generativelanguage.googleapis.com", "not a uri"]
        assert [uri for uri in others if files.name_of(uri)] == []


# --------------------------------------------------------------------------------------------------- what is uploaded


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("a.PNG", "image/png"),
        ("a.webp", "image/webp"),
        ("a.heic", "image/heic"),
        ("a.wav", "audio/wav"),
        ("a.md", "text/markdown"),
        ("a.jsonl", "application/jsonl"),
        ("a.pdf", "application/pdf"),
        ("a.txt", "text/plain"),
        ("a.txt.gz", ""),
        ("a", ""),
        ("a.nothing-known", ""),
    ],
)
def test_mime_types_are_told_by_names_alike_on_every_machine(name: str, mime_type: str) -> None:
    assert guess_mime_type(Path(name)) == mime_type


async def test_what_cannot_be_uploaded_is_refused_before_anything_is_sent(
    files_at: Any, tools: Any, tmp_path: Path
) -> None:
    untyped, huge = tmp_path / "untyped", tmp_path / "huge.mp4"
    untyped.write_bytes(b"x")
    with huge.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    async with tools.Server(tools.reply()) as server:
        files = await files_at(server.url)
        for source, why in [
            (untyped, "stands for no mime type"),
            (b"bytes", "have no name to tell their type by"),
            (huge, f"at most {FILE_BYTES_MAX}"),
            (tmp_path, "is not a file"),
            (tmp_path / "missing.png", "is not a file"),
        ]:
            with pytest.raises(ConfigurationError, match=why):
                await files.upload(source, None, None)
        assert server.asked == []


class Uploads:
    """Answers to one upload in one chunk, whose file is then in these states, one after another."""

    def __init__(self, tools: Any, states: list[bytes | int]) -> None:
        self.tools = tools
        self.states = states
        self.started: dict[str, Any] = {}
        self.received = b""

    async def __call__(self, asked: Any, writer: Any) -> None:
        reply = self.tools.reply
        if asked.method == "GET":
            state = self.states.pop(0)
            writer.write(reply(state) if isinstance(state, int) else reply(body=state))
        elif asked.headers["x-goog-upload-command"] == "start":
            self.started = json.loads(asked.body)["file"]
            where = f"http://{asked.headers['host']}/up?upload_id=1"
            writer.write(reply(X_Goog_Upload_URL=where, X_Goog_Upload_Status="active"))
        else:
            self.received += asked.body
            described = {"name": self.started["name"], "sizeBytes": str(len(self.received)), "state": "PROCESSING"}
            writer.write(reply(body=json.dumps({"file": described}).encode(), X_Goog_Upload_Status="final"))


async def test_a_path_is_uploaded_under_a_name_of_ours_and_waited_for(
    files_at: Any, tools: Any, tmp_path: Path
) -> None:
    source = tmp_path / "clip.mov"
    source.write_bytes(b"frames")
    uploads = Uploads(tools, [body(state="PROCESSING"), 503, body(state="PROCESSING"), body()])
    async with tools.Server(uploads) as server:
        assert (await (await files_at(server.url)).upload(source, None, None)).state == "ACTIVE"
    name = uploads.started.pop("name")
    assert name.startswith("files/up-")
    assert len(name.removeprefix("files/")) <= 40
    assert uploads.started == {"display_name": "clip.mov", "mime_type": "video/quicktime", "size_bytes": 6}
    assert uploads.received == b"frames"
    assert uploads.states == []


async def test_an_empty_file_is_uploaded_like_any_other(files_at: Any, tools: Any) -> None:
    uploads = Uploads(tools, [body(sizeBytes="0")])
    async with tools.Server(uploads) as server:
        await (await files_at(server.url)).upload(b"", "text/plain", "nothing")
    assert uploads.started["display_name"] == "nothing"
    assert uploads.received == b""


@pytest.mark.parametrize(
    ("states", "kind", "words"),
    [
        ([body(state="FAILED", error={"code": 3, "message": "no video"})], "refused", "no video"),
        ([body(state="FAILED")], "refused", "could not process it"),
        ([403], "refused", ""),
        ([503] * 5, "unknown", ""),
    ],
)
async def test_a_file_that_never_becomes_usable_is_an_error(
    states: list[bytes | int], kind: str, words: str, files_at: Any, tools: Any
) -> None:
    uploads = Uploads(tools, [body(state="PROCESSING"), *states])
    async with tools.Server(uploads) as server:
        fault = await tools.fault_of((await files_at(server.url)).upload(b"frames", "video/mp4", None))
    assert (fault.kind, uploads.states) == (kind, [])
    assert words in fault.error.message


async def test_a_file_that_is_processed_for_ever_is_given_up(
    files_at: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carpool._gemini.media._WAIT_MAX_S", 0.003)
    async with tools.Server(tools.reply(body=body(state="PROCESSING"))) as server:
        with anyio.fail_after(30):
            fault = await tools.fault_of((await files_at(server.url)).usable("files/a-1"))
    assert "still processes files/a-1" in fault.error.message


async def test_a_file_that_shrinks_while_it_is_uploaded_is_not_taken_for_whole(
    files_at: Any, tools: Any, tmp_path: Path
) -> None:
    source = tmp_path / "a.txt"
    source.write_bytes(b"x" * 300_000)

    async def shrink(asked: Any, writer: Any) -> None:
        source.write_bytes(b"x" * 10)
        where = f"http://{asked.headers['host']}/up?upload_id=1"
        writer.write(tools.reply(X_Goog_Upload_URL=where, X_Goog_Upload_Status="active"))

    async with tools.Server(shrink) as server:
        fault = await tools.fault_of((await files_at(server.url)).upload(source, None, None))
        assert "ended before the size that was announced" in fault.error.message
        assert len(server.asked) == 1


async def test_a_path_that_cannot_be_looked_at_is_refused_before_anything_is_sent(
    files_at: Any, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    async with tools.Server(tools.reply()) as server:
        files = await files_at(server.url)
        for source, words in [
            (tmp_path / "file" / "inside.png", "is not a file"),
            (tmp_path / ("n" * 300 + ".png"), r"cannot be read \(File name too long\)"),
        ]:
            with pytest.raises(ConfigurationError, match=words + ".* Nothing was sent"):
                await files.upload(source, None, None)
        assert server.asked == []


async def test_a_path_that_is_gone_when_its_turn_comes_is_an_error_without_a_second_try(
    files_at: Any, tools: Any, tmp_path: Path
) -> None:
    source = tmp_path / "clip.mov"
    source.write_bytes(b"frames")
    uploads = Uploads(tools, [])

    async def answer(asked: Any, writer: Any) -> None:
        source.unlink(missing_ok=True)
        await uploads(asked, writer)

    async with tools.Server(answer) as server:
        fault = await tools.fault_of((await files_at(server.url)).upload(source, None, None))
    assert (fault.kind, "cannot be read (No such file or directory)" in fault.error.message) == ("refused", True)
    assert uploads.received == b""


@pytest.mark.parametrize("size_bytes", [0, 1, _READ_BYTES, 2 * _READ_BYTES + 1])
async def test_bytes_are_read_on_from_wherever_the_server_has_them(size_bytes: int) -> None:
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    data = data[:size_bytes]
    for offset in {0, size_bytes // 2, size_bytes}:
        pieces = [piece async for piece in _read_bytes(data, offset)]
        assert b"".join(pieces) == data[offset:]
        assert all(0 < len(piece) <= _READ_BYTES for piece in pieces)
