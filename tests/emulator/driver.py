"""A world in virtual time, driven by short calls.

Owns the spelling of calls that many tests make. It must not know what the answers should be.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from carpool.emulator import Call, Plan, Reply, World

MODEL = "gemini-3.5-flash"
EMBED_MODEL = "gemini-embedding-001"


def prompt(text: str, **more: Any) -> dict[str, Any]:
    """Return a GenerateContentRequest."""
    return {"contents": [{"parts": [{"text": text}], "role": "user"}], **more}


def content(text: str, **more: Any) -> dict[str, Any]:
    """Return an EmbedContentRequest."""
    return {"content": {"parts": [{"text": text}]}, **more}


def jsonl(*rows: Any) -> bytes:
    """Return rows as the lines of a file."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def numbered(count: int) -> bytes:
    """Return a file of so many prompts with the keys k0, k1, ..."""
    return jsonl(*({"key": f"k{index}", "request": prompt(f"prompt {index}")} for index in range(count)))


def text_of(response: dict[str, Any]) -> str:
    """Return the text of the first candidate."""
    text: str = response["candidates"][0]["content"]["parts"][0]["text"]
    return text


class Driver:
    """A world, and the time in it."""

    def __init__(self, plan: Plan | None = None, *, seed: int = 0) -> None:
        self.world = World(plan, seed=seed)
        self.now = 1_800_000_000.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.world.handle(
            Call(
                method=method,
                path=path,
                query=query or {},
                headers={"x-goog-api-key": "secret-key"} if headers is None else headers,
                body=raw,
                size_bytes=len(raw),
                origin="http://emulator.test",
            ),
            self.now,
        )

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Call, insist on 200, and return the decoded answer."""
        reply = self.call(method, path, body, **more)
        raw = reply.read()
        assert (reply.status, reply.dropped) == (200, False), raw
        return json.loads(raw) if raw else None

    def error(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Call, insist on an error in Google's envelope, and return what is inside."""
        reply = self.call(method, path, body, **more)
        error = json.loads(reply.read())["error"]
        assert reply.status == error["code"] != 200
        return error

    # -- files

    def start_upload(self, **file: Any) -> dict[str, str]:
        """Open an upload and return the query of its URL."""
        headers = {"x-goog-api-key": "k", "x-goog-upload-command": "start"}
        reply = self.call("POST", "/upload/v1beta/files", {"file": file}, headers=headers)
        assert reply.status == 200, reply.read()
        return dict(parse_qsl(urlsplit(reply.headers["X-Goog-Upload-URL"]).query))

    def chunk(self, query: dict[str, str], data: bytes, *, offset: int, command: str = "upload, finalize") -> Reply:
        headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
        return self.call("POST", "/upload/v1beta/files", data, query=query, headers=headers)

    def upload(self, data: bytes, **file: Any) -> str:
        """Upload in one chunk and return the file's name."""
        reply = self.chunk(self.start_upload(**file), data, offset=0)
        name: str = json.loads(reply.read())["file"]["name"]
        return name

    # -- jobs

    def create(self, *items: Any, model: str = MODEL, method: str = "batchGenerateContent", name: str = "dn") -> Any:
        """Create an inline job and return the operation."""
        body = {"batch": {"displayName": name, "inputConfig": {"requests": {"requests": list(items)}}}}
        return self.ok("POST", f"/v1beta/models/{model}:{method}", body)

    def create_from(
        self, file: str, *, model: str = MODEL, method: str = "batchGenerateContent", name: str = "dn"
    ) -> Any:
        """Create a job from a file and return the operation."""
        body = {"batch": {"displayName": name, "inputConfig": {"fileName": file}}}
        return self.ok("POST", f"/v1beta/models/{model}:{method}", body)

    def refused_create(self, inputs: dict[str, Any], model: str = MODEL, method: str = "batchGenerateContent") -> Any:
        """Create a job that must be refused, and return the error."""
        return self.error("POST", f"/v1beta/models/{model}:{method}", {"batch": {"inputConfig": inputs}})

    def get(self, operation: Any) -> Any:
        return self.ok("GET", f"/v1beta/{operation['name']}")

    def state(self, operation: Any) -> str:
        state: str = self.get(operation)["metadata"]["state"]
        return state

    def inline(self, operation: Any) -> list[Any]:
        """Return the inline responses of a finished job."""
        responses: list[Any] = self.get(operation)["response"]["inlinedResponses"]["inlinedResponses"]
        return responses

    def download(self, operation: Any) -> bytes:
        """Return the output file of a finished job."""
        name = f"files/batch-{operation['name'].removeprefix('batches/')}"
        reply = self.call("GET", f"/v1beta/{name}:download", query={"alt": "media"})
        raw = reply.read()
        assert reply.status == 200, raw
        return raw

    def lines(self, operation: Any) -> list[Any]:
        """Return the decoded lines of the output file."""
        return [json.loads(line) for line in self.download(operation).split(b"\n") if line]

    def ledger(self) -> Any:
        return self.world.ledger(self.now)
