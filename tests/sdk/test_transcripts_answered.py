"""What google-genai was recorded to send, sent again over a socket, has the answer that the recording says it takes.

The recorded requests are Google's own client's to the letter. The recorded answers are another server's: known to be
taken by the client, and so their fields, types and states are what an answer here must have too.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from carpool.emulator import Emulator, Fault, Plan

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
FOLDERS = (HERE.parent / "emulator" / "transcripts", HERE / "transcripts")
TRANSCRIPTS = {path.stem: json.loads(path.read_bytes()) for folder in FOLDERS for path in folder.glob("*.json")}
# The client refuses these itself: calls.py drives both.
NOTHING_SENT = {"files_upload_guess_mime", "sdk_get_bad_name"}
# What Google refuses though the recording server took it: a name with capitals and slashes, and a cache together with
# the system instruction that belongs into it.
REFUSED = {
    "files_upload_path_like_name": "name",
    "generate_content_full": "CachedContent can not be used",
    "batches_create_inline_full": "CachedContent can not be used",
}

MODEL, EMBED_MODEL = "gemini-3.5-flash", "gemini-embedding-001"
STAYS = Plan(latency_s=100_000.0, pending_share=1.0)
RUNS = Plan(latency_s=100_000.0, pending_share=0.0)
# What the service must be going through for the recorded answer to be its answer.
PLANS: dict[str, Plan] = {
    "batches_list": STAYS,
    "sdk_pager_empty_next_page": STAYS,
    "sdk_parse_get_429": Plan(faults={"get.429": Fault()}),
    "sdk_parse_get_503": Plan(faults={"get.503": Fault()}),
    "sdk_retry_503_attempts3": Plan(faults={"get.503": Fault()}),
    "sdk_parse_get_503empty": Plan(faults={"get.503_empty": Fault()}),
    "sdk_parse_get_html502": Plan(faults={"get.502_html": Fault()}),
    "sdk_parse_get_running": RUNS,
    "sdk_parse_get_cancelled": RUNS,
    "sdk_parse_get_failed": Plan(faults={"job.failed": Fault()}),
    "sdk_parse_get_expired": Plan(faults={"job.expired": Fault()}),
    "sdk_parse_get_inline": Plan(faults={"row.error": Fault(after=1, count=1)}),
    "sdk_parse_get_inlineresp": Plan(output_only_in="response"),
    "sdk_parse_get_jobstate": Plan(state_prefix="JOB_STATE"),
    "sdk_parse_get_succnoout": Plan(faults={"output.late": Fault(seconds=1_000.0)}),
}
INLINE_INPUT = {"sdk_parse_get_inline", "sdk_parse_get_inlineresp", "sdk_parse_get_embinline"}
EMBEDS = {"sdk_parse_get_embinline", "batches_create_embeddings_file"}
NONE_PENDING = "metadata.batchStats.pendingRequestCount is missing"
RETRY_INFO = (
    "error.details[0].@type: type.googleapis.com/google.rpc.RetryInfo was recorded, "
    "here it is type.googleapis.com/google.rpc.Help"
)
NAMING = {"@type", "state", "status", "role", "finishReason"}  # fields whose text is one of a few
# What the recording server made up, and why no answer of Google's has it.
MADE_UP: dict[str, set[str]] = {
    # A job that is over has no row pending, and a count of zero is left out.
    "batches_get": {NONE_PENDING},
    "v1beta_batches_get": {NONE_PENDING},
    "base_url_with_prefix_get": {NONE_PENDING},
    # Whoever calls a function says nothing beside.
    "generate_content_tools": {"candidates[0].content.parts[0].text is missing"},
    # The size of an empty file is zero, and so left out.
    "files_upload_empty": {"file.sizeBytes is missing"},
    # A 429 that is not of a live call carries nothing but a help link.
    "sdk_parse_get_429": {
        RETRY_INFO,
        "error.details[0].retryDelay is missing",
    },
    "sdk_parse_get_failed": {"error.details is missing"},
    # A state that nobody has seen, to see what the client does with it.
    "sdk_parse_get_unknown": {"metadata.state: BATCH_STATE_WEIRD was recorded, here it is BATCH_STATE_SUCCEEDED"},
}
# A display name that was not given is empty, and what is empty is left out.
UNNAMED = {"file.displayName is missing", "metadata.displayName is missing"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The body as the recording writes it."""
        if not self.raw:
            return None
        if "json" not in self.headers.get("content-type", ""):
            return self.raw.decode()
        return json.loads(self.raw)


def send(url: str, method: str, path: str, headers: list[list[str]], body: bytes) -> Answer:
    """Send a request with exactly these headers, but for where it goes and how long it is."""
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            own = {"host": host, "content-length": str(len(body)), "connection": "close"}.get(name.lower(), value)
            connection.putheader(name, own)
        connection.endheaders(body)
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def bytes_of(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, dict) and "_bytes" in body:
        head = body["_head"].encode()
        return (head * (body["_bytes"] // max(1, len(head)) + 1))[: body["_bytes"]]
    return json.dumps(body).encode()


@dataclass
class Replay:
    """A service in which the names of a recording exist, and what it is asked."""

    url: str
    names: dict[str, str] = field(default_factory=dict)
    upload_path: str = ""
    page_token: str = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make a call of our own, to set the scene."""
        raw = body if isinstance(body, bytes) else bytes_of(body)
        named = [[name.replace("_", "-"), value] for name, value in headers.items()]
        return send(
            self.url, method, path, [["Host", ""], ["x-goog-api-key", "AIzaFAKE"], ["Content-Length", ""], *named], raw
        )

    def uploaded(self, *rows: Any, **file: str) -> str:
        start = self.ask("POST", "/upload/v1/files", {"file": file}, X_Goog_Upload_Command="start")
        path = start.headers["x-goog-upload-url"].removeprefix(self.url)
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        headers = {"X_Goog_Upload_Command": "upload, finalize", "X_Goog_Upload_Offset": "0"}
        name: str = self.ask("POST", path, data, **headers).body["file"]["name"]
        return name

    def set_the_scene(self, name: str) -> None:
        """Make the file, the jobs and the output that the recording speaks of."""
        if name in EMBEDS:
            target, request = f"{EMBED_MODEL}:asyncBatchEmbedContent", {"content": {"parts": [{"text": "x"}]}}
        else:
            target, request = f"{MODEL}:batchGenerateContent", {"contents": [{"parts": [{"text": "x"}]}]}
        file = self.uploaded({"key": "a", "request": request}, {"key": "b", "request": request})
        items = [{"request": request, "metadata": {"key": key}} for key in "ab"]
        inputs = {"requests": {"requests": items}} if name in INLINE_INPUT else {"fileName": file}
        body = {"batch": {"displayName": "dn", "inputConfig": inputs}}
        jobs = [self.ask("POST", f"/v1/models/{target}", body).body["name"] for _ in range(4)]
        self.uploaded({}, name="files/xyz")
        self.names = {
            "files/batch-abc123def456": f"files/batch-{jobs[0].removeprefix('batches/')}",
            "files/abc123def456": file,
            "batches/abc123def456": jobs[0],
        }
        if name == "sdk_parse_get_cancelled":
            self.ask("POST", f"/v1/{jobs[0]}:cancel")
        path = TRANSCRIPTS[name]["exchanges"][0]["request"]["path"]
        if "/batches/scn-" in path and name != "sdk_parse_get_404":
            self.names[path.removeprefix("/v1/")] = jobs[0]
        if "pageToken=" in path:
            self.page_token = self.ask("GET", "/v1/batches?pageSize=2").body["nextPageToken"]

    def renamed(self, text: str) -> str:
        for recorded, ours in self.names.items():
            text = text.replace(recorded, ours)
        return text

    def send(self, request: dict[str, Any]) -> Answer:
        """Send a recorded request, with the names that exist here."""
        path = self.renamed(request["path"])
        if "upload_id=" in path:
            # The client goes where the answer to the start sends it.
            assert urlsplit(self.upload_path).path == urlsplit(path).path
            path = self.upload_path
        if "pageToken=" in path:
            path = path.partition("pageToken=")[0] + f"pageToken={self.page_token}"
        body = self.renamed(bytes_of(request["body"]).decode("latin-1")).encode("latin-1")
        answer = send(self.url, request["method"], path, request["headers"], body)
        self.upload_path = answer.headers.get("x-goog-upload-url", self.upload_path).removeprefix(self.url)
        if answer.status == 200 and isinstance(answer.body, dict):
            self.page_token = answer.body.get("nextPageToken", self.page_token)
        return answer


def lacking(recorded: Any, got: Any, place: str = "") -> Iterator[str]:
    """Iterate over what a recorded answer has and the one here has not, or has as something else."""
    if type(recorded) is not type(got) and {type(recorded), type(got)} != {int, float}:
        yield f"{place or 'body'}: {recorded!r:.60} was recorded, here it is {got!r:.60}"
    elif isinstance(recorded, dict):
        for name, value in recorded.items():
            where = f"{place}.{name}".removeprefix(".")
            if name in got:
                yield from lacking(value, got[name], where)
            else:
                yield f"{where} is missing"
    elif isinstance(recorded, list) and recorded:
        if got:
            yield from lacking(recorded[0], got[0], f"{place}[0]")
        else:
            yield f"{place} is empty"
    elif recorded != got and place.rpartition(".")[2] in NAMING:
        yield f"{place}: {recorded} was recorded, here it is {got}"


@pytest.fixture
async def emulator(request: pytest.FixtureRequest) -> Any:
    async with Emulator(PLANS.get(request.getfixturevalue("name"), Plan())) as emulator:
        yield emulator


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS.keys() - NOTHING_SENT - REFUSED.keys()))
async def test_a_recorded_request_is_answered_as_recorded(emulator: Emulator, name: str) -> None:
    transcript = TRANSCRIPTS[name]

    def replay() -> list[Answer]:
        replay = Replay(emulator.base_url)
        replay.set_the_scene(name)
        return [replay.send(exchange["request"]) for exchange in transcript["exchanges"]]

    answers = await asyncio.to_thread(replay)
    wrong = []
    for exchange, answer in zip(transcript["exchanges"], answers, strict=True):
        recorded = exchange["response"]
        if answer.status != recorded["status"]:
            wrong.append(f"{answer.status} for {recorded['status']}: {answer.raw[:300]!r}")
            continue
        wrong += lacking_here(name, recorded, answer)
    made_up = MADE_UP.get(name, set())
    assert made_up <= set(wrong), "the recording server need no longer be excused"
    if not names_something(transcript["exchanges"][0]["request"]["body"]):
        made_up = made_up | UNNAMED
    assert not set(wrong) - made_up, "\n".join(wrong)


def names_something(body: Any) -> bool:
    """Return whether a request gives a display name, or makes nothing that could have one."""
    if not isinstance(body, dict):
        return True
    made = body.get("file") or body.get("batch")
    return made is None or bool({"displayName", "display_name"} & made.keys())


def lacking_here(name: str, recorded: dict[str, Any], answer: Answer) -> list[str]:
    body = recorded["body"]
    if isinstance(body, dict) and "_raw" in body:
        rows = [json.loads(line) for line in answer.raw.split(b"\n") if line]
        return [] if [row["key"] for row in rows] == ["a", "b"] else [f"rows: {rows}"]
    if name == "generate_content_stream":
        return wrong_with_stream(answer)
    wrong = [
        f"header {header}: {value!r} was recorded, here it is {answer.headers.get(header.lower())!r}"
        for header, value in recorded["headers"].items()
        if header.lower().startswith("x-goog-upload-status") and answer.headers.get(header.lower()) != value
    ]
    missing = {header.lower() for header in recorded["headers"] if header.lower().startswith("x-g")} - set(
        answer.headers
    )
    return wrong + sorted(missing) + list(lacking(body, answer.body))


def wrong_with_stream(answer: Answer) -> list[str]:
    """Return what is wrong with server-sent events; the recording server did not know how to make any."""
    events = answer.raw.split(b"\r\n\r\n")
    if events.pop() or not all(event.startswith(b"data: {") for event in events):
        return [f"no events: {answer.raw[:200]!r}"]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    last = chunks[-1]
    if answer.headers["content-type"] != "text/event-stream" or "usageMetadata" not in last:
        return [f"{answer.headers['content-type']}, ends in {last}"]
    return [] if last["candidates"][0]["finishReason"] == "STOP" else [f"ends in {last}"]


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_a_recorded_request_that_google_does_not_take_is_refused(emulator: Emulator, name: str) -> None:
    request = TRANSCRIPTS[name]["exchanges"][0]["request"]
    answer = await asyncio.to_thread(Replay(emulator.base_url).send, request)
    assert (answer.status, answer.body["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert REFUSED[name] in answer.body["error"]["message"]


@pytest.mark.parametrize("name", ["generate_content_full", "batches_create_inline_full"])
async def test_without_the_cache_every_field_of_the_fullest_request_is_taken(emulator: Emulator, name: str) -> None:
    request = json.loads(json.dumps(TRANSCRIPTS[name]["exchanges"][0]["request"]))
    row = request["body"] if "contents" in request["body"] else first_row(request["body"])
    assert row.pop("cachedContent") == "cachedContents/abc"
    answer = await asyncio.to_thread(Replay(emulator.base_url).send, request)
    assert answer.status == 200, answer.raw


def first_row(body: dict[str, Any]) -> dict[str, Any]:
    """Return the first request of an inline create."""
    row: dict[str, Any] = body["batch"]["inputConfig"]["requests"]["requests"][0]["request"]
    return row


def test_all_recordings_are_there() -> None:
    """66 of the Developer API; in two of them the client sent nothing."""
    assert len(TRANSCRIPTS) == 67
    assert {name for name, transcript in TRANSCRIPTS.items() if not transcript["exchanges"]} == NOTHING_SENT
