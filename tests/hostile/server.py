"""A server that speaks as much Gemini as a client needs, and lies wherever it is told to.

Owns an honest answer to every call, and the place where an attack takes over. It shares nothing with the client or the
emulator: every reply is written by hand, byte by byte.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

TEXT = re.compile(r'"text":\s*"([^"]*)"')
KEY = re.compile(r'"key":\s*"([^"]*)"')


@dataclass
class Asked:
    """One request, and which call of the API it is."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    call: str = ""

    @property
    def name(self) -> str:
        """The resource that the path names."""
        found = re.search(r"(?:files|batches|cachedContents)/[^:/?]+", self.path)
        return found[0] if found else ""


@dataclass
class Job:
    """A batch job: everything is answered as soon as it is created."""

    name: str
    display_name: str
    rows: list[tuple[str, str]]
    """Key and text of each request."""
    inline: bool


Play = Callable[["World", Asked, asyncio.StreamWriter], Awaitable[None]]


def answer_text(text: str) -> str:
    """Return what this server answers to a prompt."""
    return f"re: {text}"


def response_of(text: str) -> dict[str, Any]:
    """Return the honest answer to a prompt."""
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": answer_text(text)}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    }


def line_of(key: str, text: str) -> bytes:
    """Return the honest line of a result file."""
    return json.dumps({"key": key, "response": response_of(text)}).encode() + b"\n"


def reply(body: bytes | dict[str, Any] = b"{}", status: int = 200, **headers: str) -> bytes:
    """Return the bytes of an HTTP reply; header names are given with underscores, empty ones are left out."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    named = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in named.items() if value), "", ""]
    return "\r\n".join(lines).encode() + data


@dataclass
class World:
    """The honest side: what was uploaded and created; and the attack, if one is on."""

    url: str = ""
    elsewhere: str = ""
    """Another origin, which nobody has reason to call."""
    jobs: dict[str, Job] = field(default_factory=dict)
    files: dict[str, bytearray] = field(default_factory=dict)
    inline_output: bool = False
    asked: list[Asked] = field(default_factory=list)
    attacked: str = ""
    """The call that is attacked."""
    play: Play | None = None
    hits_left: int = 0
    hits: int = 0
    breaks: dict[str, int] = field(default_factory=dict)
    """Calls that are to break so many times, to make the client ask something else."""

    def arm(self, call: str, play: Play | None, hits: int, **breaks: int) -> None:
        """Let the next ``hits`` calls of a kind be attacked."""
        self.attacked, self.play, self.hits_left, self.hits = call, play, hits, 0
        self.breaks = {name.replace("_", " "): count for name, count in breaks.items()}
        self.asked.clear()

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Attack, break, or answer."""
        self.asked.append(asked)
        if asked.call == self.attacked and self.hits_left > 0 and self.play is not None:
            self.hits_left -= 1
            self.hits += 1
            await self.play(self, asked, writer)
            return
        honest = self.honest(asked)
        if self.breaks.get(asked.call, 0) > 0:
            self.breaks[asked.call] -= 1
            honest = reply({"error": {"code": 500, "message": "broken"}}, 500)
        writer.write(honest)

    def honest(self, asked: Asked) -> bytes:
        """Do what is asked, and return the honest reply."""
        match asked.call:
            case "upload start":
                name = str(json.loads(asked.body)["file"]["name"])
                self.files[name] = bytearray()
                return reply(X_Goog_Upload_URL=f"{self.url}/session/{name}", X_Goog_Upload_Status="active")
            case "upload chunk":
                return self._chunk(asked)
            case "upload query":
                size = len(self.files.get(asked.name, b""))
                return reply(b"", X_Goog_Upload_Status="active", X_Goog_Upload_Size_Received=str(size))
            case "file get":
                return reply(self.file(asked.name))
            case "file list":
                return reply({"files": [self.file("files/listed")]})
            case "create":
                return reply(self.operation(self._created(asked)))
            case "poll":
                job = self.jobs.get(asked.name)
                return reply(self.operation(job)) if job else reply({"error": {"code": 404}}, 404)
            case "job list":
                return reply({"operations": [self.operation(job) for job in self.jobs.values()]})
            case "download":
                return self._download(asked.name.replace("files/out-", "batches/"))
            case "live":
                return reply(response_of(TEXT.findall(asked.body.decode())[0]))
            case "cache list":
                return reply({"cachedContents": [CACHE]})
            case "cache create" | "cache get":
                return reply(CACHE)
            case _:
                return reply()

    def file(self, name: str) -> dict[str, Any]:
        """Return the honest description of a file."""
        size = len(self.files.get(name, b""))
        uri = f"{self.url}/v1beta/{name}"
        return {"name": name, "sizeBytes": str(size), "state": "ACTIVE", "uri": uri, "mimeType": "text/plain"}

    def operation(self, job: Job) -> dict[str, Any]:
        """Return the honest description of a job."""
        metadata = {"name": job.name, "displayName": job.display_name, "state": "BATCH_STATE_SUCCEEDED"}
        output = {"inlinedResponses": {"inlinedResponses": self.items(job)}} if job.inline else self._out(job)
        return {"name": job.name, "done": True, "metadata": metadata | {"output": output}, "response": output}

    def items(self, job: Job) -> list[dict[str, Any]]:
        """Return the honest inline output of a job."""
        return [{"response": response_of(text), "metadata": {"key": key}} for key, text in job.rows]

    def output(self, job_name: str) -> bytes:
        """Return the honest result file of a job."""
        return b"".join(line_of(key, text) for key, text in self.jobs[job_name].rows)

    def _download(self, job_name: str) -> bytes:
        return reply(self.output(job_name)) if job_name in self.jobs else reply({"error": {"code": 404}}, 404)

    def _out(self, job: Job) -> dict[str, Any]:
        return {"responsesFile": job.name.replace("batches/", "files/out-")}

    def _chunk(self, asked: Asked) -> bytes:
        held = self.files[asked.name]
        del held[int(asked.headers["x-goog-upload-offset"]) :]
        held += asked.body
        if "finalize" not in asked.headers["x-goog-upload-command"]:
            return reply(b"", X_Goog_Upload_Status="active")
        return reply({"file": self.file(asked.name)}, X_Goog_Upload_Status="final")

    def _created(self, asked: Asked) -> Job:
        batch = json.loads(asked.body)["batch"]
        source = batch["inputConfig"]
        name = source.get("fileName") or source.get("file_name") or ""
        if name:
            texts = [line.decode() for line in bytes(self.files[name]).split(b"\n") if line]
        else:
            texts = [json.dumps(row) for row in source["requests"]["requests"]]
        rows = [(KEY.findall(text)[-1 if not name else 0], TEXT.findall(text)[0]) for text in texts]
        job = Job(f"batches/j{len(self.jobs)}", batch["displayName"], rows, self.inline_output)
        self.jobs[job.name] = job
        return job


CACHE = {"name": "cachedContents/c1", "model": "models/gemini-3.5-flash", "expireTime": "2030-01-01T00:00:00Z"}


def call_of(asked: Asked) -> str:
    """Return which call of the API a request is."""
    method, path = asked.method, asked.path
    if path.startswith("/upload/"):
        return "upload start"
    if path.startswith("/session/"):
        return "upload query" if asked.headers.get("x-goog-upload-command") == "query" else "upload chunk"
    if path.endswith(":download"):
        return "download"
    if path.endswith(":generateContent"):
        return "live"
    for kind, word in (("batches", "job"), ("files", "file"), ("cachedContents", "cache")):
        if re.fullmatch(rf"/v1beta/{kind}", path):
            return f"{word} {'create' if method == 'POST' else 'list'}"
        if path.startswith(f"/v1beta/{kind}/"):
            verb = {"DELETE": "delete", "PATCH": "extend", "POST": "cancel"}.get(method, "get")
            return {"job get": "poll", "job cancel": "cancel"}.get(f"{word} {verb}", f"{word} {verb}")
    return "create" if method == "POST" else "unknown"


class Listener:
    """Accepts connections for a world. ``secure`` is a context for TLS."""

    def __init__(self, world: World, secure: ssl.SSLContext | None = None) -> None:
        self._world = world
        self._secure = secure
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        host = "localhost" if self._secure else "127.0.0.1"
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._secure)
        scheme = "https" if self._secure else "http"
        self.url = f"{scheme}://{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for _ in range(10):  # whoever was accepted just now is to be dismissed like the others
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what is aborted is closed by the loop's next turn

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while not writer.is_closing():
                await self._world.answer(await _read(reader), writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client left, or the test is over
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    path, _, query = target.partition("?")
    asked = Asked(method, path, query, headers, body)
    asked.call = call_of(asked)
    return asked
