"""Every request that google-genai was recorded to send is answered with a status that it takes.

The recorded requests are authoritative; the recorded responses are not, but for their status.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from carpool.emulator import Call, Fault, Plan, Reply

from .driver import EMBED_MODEL, MODEL, Driver, content, jsonl, numbered, prompt

TRANSCRIPTS = {
    path.stem: json.loads(path.read_bytes()) for path in (Path(__file__).parent / "transcripts").glob("*.json")
}
# What a real service answers to these is not what the recording server answered.
OTHER_STATUS = {
    "files_upload_path_like_name": [400, 404],
    # A cache together with a system instruction of the request.
    "generate_content_full": [400],
    "batches_create_inline_full": [400],
}
FAULTS = {429: "get.429", 503: "get.503", 502: "get.502_html"}


def body_of(request: dict[str, Any]) -> bytes:
    """Return a recorded body as bytes of the recorded length."""
    body = request["body"]
    if body is None:
        return b""
    if isinstance(body, dict) and "_bytes" in body:
        return (body["_head"].encode() * (body["_bytes"] // len(body["_head"]) + 1))[: body["_bytes"]]
    return json.dumps(body).encode()


class Replay:
    """A world in which the names of a recording exist."""

    def __init__(self, transcript: dict[str, Any]) -> None:
        codes = {exchange["response"]["status"] for exchange in transcript["exchanges"]}
        faults = {FAULTS[code]: Fault() for code in codes & FAULTS.keys()}
        if transcript["name"] == "sdk_parse_get_503empty":
            faults = {"get.503_empty": Fault()}
        self.world = Driver(Plan(faults=faults, cache_tokens_min=0))
        self.world.upload(b"a file that prompts name", name="files/xyz")
        cache = self.world.ok("POST", "/v1beta/cachedContents", {"model": f"models/{MODEL}", **prompt("cached")})
        embeds = "embed" in transcript["name"]
        method = "asyncBatchEmbedContent" if embeds else "batchGenerateContent"
        rows = jsonl({"key": "a", "request": content("x")}) if embeds else numbered(2)
        file = self.world.upload(rows)
        jobs = [
            self.world.create_from(file, method=method, **({"model": EMBED_MODEL} if embeds else {})) for _ in range(3)
        ]
        batch_id = jobs[0]["name"].removeprefix("batches/")
        self.names = {
            "files/batch-abc123def456": f"files/batch-{batch_id}",
            "files/abc123def456": file,
            "batches/abc123def456": jobs[0]["name"],
            "cachedContents/abc": cache["name"],
        }
        path = transcript["exchanges"][0]["request"]["path"]
        if "/batches/scn-" in path and not path.endswith("404"):
            self.names[path.removeprefix("/v1/")] = jobs[0]["name"]
        self.upload_id = ""
        self.page_token = "MA=="

    def send(self, request: dict[str, Any]) -> Reply:
        path, raw = request["path"], body_of(request).decode("latin-1")
        for recorded, ours in self.names.items():
            path, raw = path.replace(recorded, ours), raw.replace(recorded, ours)
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        if "upload_id" in query:
            query["upload_id"] = self.upload_id
        if "pageToken" in query:
            query["pageToken"] = self.page_token
        data = raw.encode("latin-1")
        reply = self.world.world.handle(
            Call(
                method=request["method"],
                path=parts.path,
                query=query,
                headers={name.lower(): value for name, value in request["headers"]},
                body=data,
                size_bytes=len(data),
            ),
            self.world.now,
        )
        if "X-Goog-Upload-URL" in reply.headers:
            self.upload_id = dict(parse_qsl(urlsplit(reply.headers["X-Goog-Upload-URL"]).query))["upload_id"]
        return reply


def test_the_recordings_are_there() -> None:
    assert len(TRANSCRIPTS) == 64


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS))
def test_a_recorded_request_is_answered_as_the_official_client_takes_it(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    replay = Replay(transcript)
    replies = [replay.send(exchange["request"]) for exchange in transcript["exchanges"]]
    recorded = [exchange["response"]["status"] for exchange in transcript["exchanges"]]

    assert [reply.status for reply in replies] == OTHER_STATUS.get(name, recorded)
    for exchange, reply in zip(transcript["exchanges"], replies, strict=True):
        # A field that the recording server gave in every answer of a kind is one that the client may look at.
        body = exchange["response"]["body"]
        if reply.status == 200 and isinstance(body, dict) and "models/" in exchange["request"]["path"]:
            assert set(body) <= set(json.loads(reply.read()))
    if "upload" in name and name not in OTHER_STATUS:
        assert replies[-1].headers["X-Goog-Upload-Status"] == "final"
