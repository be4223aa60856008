"""The attacks: what a hostile server sends in place of an honest answer, and which calls it does that to.

Owns the bytes. Sizes are arguments, so that the same attacks run small in the tests and at full size by the command.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .server import Asked, Play, World, line_of, reply, response_of

JSON: Final = "application/json"
PIECE: Final = 65_536


@dataclass(frozen=True)
class Attack:
    """One attack on one kind of call."""

    name: str
    call: str
    play: Play
    scenario: str = "generate"
    hits: int = 2
    rows: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    deadline_s: float = 20.0
    inline: bool = False
    family: str = ""
    """What it is told under in short tables; its own name if empty."""
    speaks: bool = False
    """Whether it gives answers of its own under the right keys, which nobody can tell from honest ones."""


@dataclass(frozen=True)
class Sizes:
    """How large the large things are, in bytes, and how many the many."""

    body: int
    line: int
    error: int
    rows: int
    headers: int
    floods: int


SCENARIOS: Final = {
    "upload start": ("generate", {}),
    "upload chunk": ("generate", {}),
    "upload query": ("generate", {"upload_chunk": 1}),
    "create": ("generate", {}),
    "poll": ("generate", {}),
    "job list": ("generate", {"create": 1}),
    "download": ("generate", {}),
    "file delete": ("generate", {}),
    "job delete": ("jobs.delete", {}),
    "cancel": ("jobs.cancel", {}),
    "file get": ("files.get", {}),
    "file list": ("files.list", {}),
    "cache create": ("caches.create", {}),
    "cache get": ("caches.get", {}),
    "cache list": ("caches.list", {}),
    "cache extend": ("caches.extend", {}),
    "cache delete": ("caches.delete", {}),
    "live": ("live", {}),
}
"""How each kind of call comes about: what is called, and which calls must break before."""


def on(call: str, name: str, play: Play, **options: Any) -> Attack:
    """Return an attack on a kind of call, which comes about as usual."""
    scenario, breaks = SCENARIOS[call]
    usual = {"scenario": scenario, "breaks": breaks, "speaks": call == "live"}  # any object is an answer there
    return Attack(name, call, play, **(usual | options))


# ------------------------------------------------------------------------------------------- on every kind of call


def fixed(data: bytes, *, close: bool = False) -> Play:
    """Send these bytes."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()

    return play


def flood(head: bytes, piece: bytes, size_bytes: int, pause_s: float = 0.0) -> Play:
    """Send a beginning, then the same piece over and over until so much was sent or the client has left."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(0, size_bytes, len(piece)):
            if writer.is_closing():
                break
            writer.write(piece)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        writer.close()

    return play


def chunked(piece: bytes) -> bytes:
    """Return one chunk of the chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def head(status: int = 200, **headers: str) -> bytes:
    """Return a reply without its body, whose length is not told unless it is given."""
    headers.setdefault("Content_Length", "")
    return reply(b"", status, **headers)


def bomb(size_bytes: int) -> bytes:
    """Return so many zeros, compressed."""
    part = min(size_bytes, 1 << 26)
    return gzip.compress(bytes(part)) * (size_bytes // part)


def redirect(status: int) -> Play:
    """Lead the call to another origin."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", status, Location=f"{world.elsewhere}{asked.path}"))

    return play


def everywhere(sizes: Sizes) -> dict[str, Play]:
    """Return what is done to every kind of call."""
    packed = bomb(sizes.body)
    full = sizes.body
    page = b"<html><body>Bad gateway</body></html>"
    return {
        "endless body, chunked": flood(head(Transfer_Encoding="chunked"), chunked(bytes(PIECE)), full),
        "endless body of announced length": flood(head(Content_Length=str(1 << 40)), bytes(PIECE), full),
        "endless body until it closes": flood(head(Connection="close"), bytes(PIECE), full),
        "endless chunk header": flood(
            head(Transfer_Encoding="chunked") + b"5;", bytes(PIECE).replace(b"\0", b"x"), full
        ),
        "endless trailers": flood(head(Transfer_Encoding="chunked") + b"0\r\n", b"X-Trailer: a\r\n" * 4_096, full),
        "gzip bomb, declared": fixed(reply(packed, Content_Encoding="gzip")),
        "gzip bomb, undeclared": fixed(reply(packed)),
        "gzip bomb as transfer encoding": fixed(
            head(Transfer_Encoding="gzip, chunked") + chunked(packed) + chunked(b""), close=True
        ),
        "endless headers": flood(b"HTTP/1.1 200 OK\r\n", b"X-Header: some words\r\n" * 2_048, sizes.headers),
        "one endless header": flood(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x" * PIECE, sizes.headers),
        "endless status line": flood(b"HTTP/1.1 200 ", b"x" * PIECE, sizes.headers),
        "100-continue without end": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_024, sizes.floods),
        "103 early hints without end": flood(
            b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * 1_024, sizes.floods
        ),
        "slow drip of the body": flood(head(Content_Length="65000"), b" ", 1 << 20, 0.02),
        "slow drip of headers": flood(b"HTTP/1.1 200 OK\r\nX-A: ", b"a", 1 << 20, 0.02),
        "silence": _silent,
        "error body without end": flood(head(500, Transfer_Encoding="chunked"), chunked(b"x" * PIECE), sizes.error),
        "error message of 1 MB": fixed(
            reply({"error": {"code": 503, "message": "m" * 900_000, "status": "S" * 100_000}}, 503)
        ),
        "error with dense details": fixed(
            reply(b'{"error":{"code":500,"message":"m","details":[' + b"[]," * 300_000 + b"[]]}}", 500)
        ),
        "error of huge numbers": fixed(reply(_huge_error(), 500)),
        "retry after 10^9 s": fixed(
            reply(
                {"error": {"code": 503, "details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "1000000000s"}]}},
                503,
                Retry_After="1000000000",
            )
        ),
        "retry after NaN": fixed(
            reply({"error": {"code": 503, "details": [{"retryDelay": "NaN"}]}}, 503, Retry_After="NaN")
        ),
        "retry after less than 0": fixed(
            reply({"error": {"code": 429, "details": [{"retryDelay": "-5s"}]}}, 503, Retry_After="-5")
        ),
        "redirect 302": redirect(302),
        "redirect 307": redirect(307),
        "redirect 308": redirect(308),
        "HTML, 200": fixed(reply(page, Content_Type="text/html")),
        "HTML, 502": fixed(reply(page, 502, Content_Type="text/html")),
        "empty, 200": fixed(reply(b"")),
        "JSON of another kind": fixed(reply(b'["' + b"x" * 100 + b'"]')),
        "shorter than announced": fixed(reply(b'{"name":', Content_Length="5000"), close=True),
        "longer than announced": fixed(reply(b'{"name":"batches/j0"}' * 100, Content_Length="2")),
        "two replies": fixed(reply() + reply({"name": "batches/stolen", "done": True})),
        "garbled chunks": fixed(head(Transfer_Encoding="chunked") + b"zz\r\nabc\r\n-5\r\n\r\n"),
        "closed after the headers": fixed(head(Transfer_Encoding="chunked"), close=True),
        "closed at once": fixed(b"", close=True),
        "not HTTP": fixed(b"SSH-2.0-OpenSSH_9.2\r\n" * 50),
        "status 101": fixed(head(101, Upgrade="websocket", Connection="Upgrade")),
        "status 204": fixed(head(204)),
        "status 304": fixed(head(304)),
        "status 999": fixed(reply(b"{}", 999)),
        "cookies": fixed(reply(b"", 503, Set_Cookie="canary=1; Path=/; Max-Age=1000000")),
        "nesting of 100,000": fixed(
            reply(b'{"name":"batches/j0","metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001)
        ),
        "dense JSON": fixed(reply(_dense(sizes.line))),
        "dense JSON that is not strict": fixed(reply(b'{"x":NaN,' + _dense(sizes.line)[1:])),
    }


def _huge_error() -> bytes:
    digits = b"9" * 4_000
    return b'{"error":{"code":' + digits + b',"message":{"a":1},"status":7,"details":[' + digits + b",1e308]}}"


def _dense(size_bytes: int) -> bytes:
    """Return JSON that takes up dozens of times its size once it is decoded, wherever a client may look."""
    part = b"[" + b"{},[]," * (size_bytes // 6 // 6) + b"{}]"
    names = (b"name", b"operations", b"files", b"cachedContents", b"error", b"response")
    return b'{"done":true,' + b",".join(b'"%b":%b' % (name, part) for name in names) + b"}"


async def _silent(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


# ------------------------------------------------------------------------------------------------- result files


async def _stream(writer: asyncio.StreamWriter, pieces: Iterator[bytes]) -> None:
    writer.write(head(Transfer_Encoding="chunked"))
    for piece in pieces:
        if writer.is_closing():
            return
        writer.write(chunked(piece))
        await writer.drain()
    writer.write(chunked(b""))


def file_of(make: Callable[[World, Asked], Iterator[bytes]]) -> Play:
    """Send a result file made of these pieces, to its proper end."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        await _stream(writer, make(world, asked))

    return play


def _honest(world: World, asked: Asked) -> bytes:
    return world.output(asked.name.replace("files/out-", "batches/"))


def _first_row(world: World, asked: Asked) -> tuple[str, str]:
    return world.jobs[asked.name.replace("files/out-", "batches/")].rows[0]


def _many(lines: Callable[[int], bytes], count: int) -> Iterator[bytes]:
    for start in range(0, count, 1_000):
        yield b"".join(lines(number) for number in range(start, min(count, start + 1_000)))


def result_files(sizes: Sizes) -> dict[str, Callable[[World, Asked], Iterator[bytes]]]:
    """Return hostile result files."""

    def long_line(world: World, asked: Asked) -> Iterator[bytes]:
        for _ in range(0, sizes.body, PIECE):
            yield b"x" * PIECE
        yield b"\n" + _honest(world, asked)

    def long_row(world: World, asked: Asked) -> Iterator[bytes]:
        key, _ = _first_row(world, asked)
        yield b'{"key":"' + key.encode() + b'","response":{"candidates":[{"content":{"parts":[{"text":"'
        for _ in range(0, sizes.body, PIECE):
            yield b"x" * PIECE
        yield b'"}]}}]}}\n' + _honest(world, asked)

    def strangers(world: World, asked: Asked) -> Iterator[bytes]:
        yield from _many(lambda n: line_of(f"nobody-{n}", "x"), sizes.rows)
        yield _honest(world, asked)

    def doubled(world: World, asked: Asked) -> Iterator[bytes]:
        line = line_of(*_first_row(world, asked))
        yield from _many(lambda n: line, sizes.rows)
        yield _honest(world, asked)

    def doubled_otherwise(world: World, asked: Asked) -> Iterator[bytes]:
        key, text = _first_row(world, asked)
        yield line_of(key, text)
        yield from _many(lambda n: line_of(key, f"{text} {n}"), sizes.rows)
        yield _honest(world, asked)

    def keyless(world: World, asked: Asked) -> Iterator[bytes]:
        # At any size as many as would show if they were gathered.
        yield from _many(lambda n: b'{"response":{"n":%d}}\n' % n, max(sizes.rows, 600_000))
        yield _honest(world, asked)

    def blank(world: World, asked: Asked) -> Iterator[bytes]:
        for _ in range(0, sizes.body, PIECE):
            yield b"\n" * PIECE
        yield _honest(world, asked)

    def dense_row(start: bytes, end: bytes) -> Callable[[World, Asked], Iterator[bytes]]:
        def make(world: World, asked: Asked) -> Iterator[bytes]:
            key, _ = _first_row(world, asked)
            yield b'{"key":"' + key.encode() + b'",' + start + b"[]," * (sizes.line // 3) + end + b"\n"

        return make

    def big_text(start: bytes) -> Callable[[World, Asked], Iterator[bytes]]:
        def make(world: World, asked: Asked) -> Iterator[bytes]:
            key, _ = _first_row(world, asked)
            yield b'{"key":"' + key.encode() + b'","response":{' + start + b"x" * sizes.line + b'"}}\n'

        return make

    return {
        "a line without end": long_line,
        "a row without end": long_row,
        "rows of unknown keys": strangers,
        "rows without keys": keyless,
        "the same row over and over": doubled,
        "a row again and again, always different": doubled_otherwise,
        "nothing but line breaks": blank,
        "dense error details": dense_row(b'"error":{"code":8,"details":[', b"[]]}}"),
        "dense answer that is not strict": dense_row(b'"response":{"a":NaN,"b":[', b"[]]}}"),
        "large answer that is not strict": big_text(b'"a":"\\ud83d\\ude00 \\ud800","b":"'),
        "large answer of wide characters": big_text(b'"a":NaN,"b":"' + "😀".encode()),
    }


ROWS: Final[dict[str, bytes]] = {
    "lone surrogate": b'{"key":%k,"response":{"candidates":[{"content":{"parts":[{"text":"\\ud83d"}]}}]}}',
    "NaN": b'{"key":%k,"response":NaN}',
    "1e999": b'{"key":%k,"response":{"a":1e999}}x',
    "nesting of 100,000": b'{"key":%k,"response":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "nesting of 950": b'{"key":%k,"error":{"code":8,"details":' + b"[" * 950 + b"]" * 950 + b"}}",
    "doubled names": b'{"key":"x","key":%k,"response":1,"response":{},"error":{},"error":{"code":8}}',
    "wrong types": b'{"key":%k,"response":[1],"error":[8]}',
    "huge code": b'{"key":%k,"error":{"code":' + b"9" * 4_000 + b',"message":"m","details":[' + b"9" * 4_000 + b"]}}",
    "huge token counts": b'{"key":%k,"error":null,"response":{"usageMetadata":{"promptTokenCount":"'
    + b"9" * 4_000
    + b'"}}',
    "error message of 1 MB": b'{"key":%k,"error":{"code":8,"message":"' + b"m" * 1_000_000 + b'"}}',
    "no JSON": b"<html>",
    "bytes": bytes(range(256)),
}
"""Lines in place of an answer; ``%k`` stands for the key."""


def bad_rows(line: bytes) -> Play:
    """Send this line in place of each row."""

    def make(world: World, asked: Asked) -> Iterator[bytes]:
        for key, _ in world.jobs[asked.name.replace("files/out-", "batches/")].rows:
            yield line.replace(b"%k", json.dumps(key).encode()) + b"\n"

    return file_of(make)


LIVE_BODIES: Final[dict[str, bytes]] = {
    "lone surrogate": b'{"candidates":[{"content":{"parts":[{"text":"\\ud83d"}]}}]}',
    "lone surrogate over lines": b'{"candidates":[{\r\n"content":{"parts":[\n{"text":"\\ud83d \\n"}]}}]}',
    "NaN": b'{"a":NaN}',
    "1e999": b'{"a":1e999}',
    "nesting of 950": b'{"a":' + b"[" * 950 + b"]" * 950 + b"}",
    "nesting of 950 over lines": b'{"a":\n' + b"[" * 950 + b"]" * 950 + b"}",
    "doubled names": b'{"candidates":1,"candidates":[],"error":null}',
    "wrong types": b'{"candidates":{"a":1},"usageMetadata":[]}',
    "huge token counts": b'{"usageMetadata":{"promptTokenCount":"' + b"9" * 4_000 + b'","totalTokenCount":-1}}',
    "error in an answer": b'{"error":{"code":8,"message":"' + b"m" * 1_000_000 + b'"}}',
    "error of a huge code in an answer": b'{"error":{"code":' + b"9" * 4_000 + b',"details":[' + b"9" * 4_000 + b"]}}",
    "an answer in a list": b'[{"candidates":[]}]',
    "two answers": b'{"candidates":[]}{"candidates":[]}',
    "a null byte": b'{"a":"\0"}',
    "a byte order mark": b'\xef\xbb\xbf{"candidates":[]}',
    "UTF-16": '{"candidates":[]}'.encode("utf-16"),
    "a megabyte of blanks": b" " * 1_000_000 + b"{}" + b"\n" * 1_000_000,
    "wide characters": b'{"a":NaN,"b":"' + "\U0001f600".encode() * 900_000 + b'"}',
}
"""What is said in place of a live answer."""


def live_answers() -> list[Attack]:
    """Return hostile answers to live calls."""
    return [on("live", f"answer: {name}", fixed(reply(body))) for name, body in LIVE_BODIES.items()]


def _deep_rows(world: World, asked: Asked) -> Iterator[bytes]:
    """Nest each answer one level deeper than the one before: some are at the very edge of what a decoder takes."""
    for depth, (key, _) in enumerate(world.jobs[asked.name.replace("files/out-", "batches/")].rows, 900):
        yield b'{"key":%b,"response":{"a":%b%b}}\n' % (json.dumps(key).encode(), b"[" * depth, b"]" * depth)


# --------------------------------------------------------------------------------------- what is said of jobs and files

TRICKS: Final = (
    "batches/../files/x",
    "batches/%2e%2e/x",
    "batches/a?key=1",
    "batches/a\nX-Injected: 1",
    "https://evil.example/batches/a",
    "//evil.example/batches/a",
    "batches/",
    "../../etc/passwd",
    "batches/" + "a" * 1_000_000,
    "files/a",
)


def operation(**changes: Any) -> Play:
    """Describe the job honestly, but for these fields; ``metadata`` is changed, not replaced."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        job = world.jobs.get(asked.name) or next(iter(world.jobs.values()))
        described = world.operation(job)
        for name, value in changes.items():
            if name == "metadata" and isinstance(value, dict):
                described["metadata"] |= value
            else:
                described[name] = value
        writer.write(reply(described))

    return play


def listing(make: Callable[[World, int], dict[str, Any]]) -> Play:
    """Answer each page of a list with what is made of its number."""
    pages = iter(range(10**9))

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(make(world, next(pages))))

    return play


def sizes_inline(sizes: Sizes, item: bytes) -> Play:
    """Describe a job with an inline output of many items where a file was to be expected."""

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = json.dumps(asked.name).encode()
        start = b'{"name":' + name + b',"done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED"},'
        body = (
            start + b'"response":{"inlinedResponses":[' + b",".join([item] * (sizes.line // (len(item) + 1))) + b"]}}"
        )
        writer.write(reply(body))

    return play


def misnamed() -> list[Attack]:
    """Return names and numbers that are none, wherever the server gives a name or a number."""
    return [
        *(replace(attack, family="names with tricks in them") for attack in _tricks()),
        *(replace(attack, family="numbers that are none, or huge") for attack in _numbers()),
    ]


def _tricks() -> list[Attack]:
    attacks: list[Attack] = []
    for trick in TRICKS:
        shown = repr(trick)[:40]
        attacks += [
            on("create", f"create's name {shown}", fixed(reply({"name": trick, "metadata": {"name": trick}}))),
            on("poll", f"job's name {shown}", operation(name=trick, metadata={"name": trick})),
            on("poll", f"output file {shown}", operation(response={"responsesFile": trick}, metadata={"output": {}})),
            on("file get", f"file's name {shown}", fixed(reply({"name": trick, "uri": trick}))),
            on("job list", f"listed name {shown}", fixed(reply({"operations": [{"name": trick}]}))),
            on("upload chunk", f"uploaded name {shown}", _finalized({"name": trick, "sizeBytes": "1"})),
            on("cache get", f"cache's name {shown}", fixed(reply({"name": trick}))),
        ]
    return attacks


def _numbers() -> list[Attack]:
    attacks: list[Attack] = []
    huge = 10**4_000
    numbers: tuple[Any, ...] = (huge, -huge, -1, 1.5, str(huge), "1e5", True, [], {})
    for number in numbers:
        shown = f"{type(number).__name__} {str(number)[:8]}"
        counts = dict.fromkeys(("requestCount", "successfulRequestCount", "pendingRequestCount"), number)
        attacks += [
            on("poll", f"counts as {shown}", operation(metadata={"batchStats": counts})),
            on("upload chunk", f"size as {shown}", _finalized({"sizeBytes": number})),
            on("file get", f"file's size as {shown}", fixed(reply({"name": "files/f", "sizeBytes": number}))),
            on(
                "poll",
                f"error code as {shown}",
                operation(response=None, error={"code": number, "message": "m", "details": [number]}),
            ),
        ]
    for text in (str(huge), "-1", "1.5", "NaN", "", "0x10", "١٢"):
        shown = text[:8]
        attacks += [
            on("upload query", f"received {shown!a}", fixed(_session(X_Goog_Upload_Size_Received=text))),
            on("upload start", f"granularity {shown!a}", _granular(text)),
        ]
    return attacks


def told(sizes: Sizes) -> list[Attack]:
    """Return lies about jobs, files and lists."""
    attacks = [
        on("poll", f"unknown state {state:.10}", operation(metadata={"state": state}), hits=3)
        for state in ("BATCH_STATE_SLEEPING", "", "JOB_STATE_", "x" * 1_000_000)
    ]
    failed = {"code": 13, "message": "m" * sizes.line, "details": ["d" * 100_000]}
    attacks += [
        on("poll", "a job's error of megabytes", _failed(failed), rows=20),
        on("poll", "a job's error of another kind", _failed(5)),
        on("poll", "succeeded without output", operation(response=None, metadata={"output": None})),
        on("poll", "words of megabytes", operation(metadata=dict.fromkeys(_WORDS, "w" * (sizes.line // 8)))),
        on("poll", "metadata of another kind", _raw_operation(b"[]")),
        on("poll", "inline output of tiny items", sizes_inline(sizes, b"{}")),
        on("poll", "inline output of numbers", sizes_inline(sizes, b"0")),
        on("poll", "inline output that is not strict", sizes_inline(sizes, b"NaN")),
        on("poll", "inline output beyond the cap", _big_inline(sizes)),
        on(
            "job list",
            "pages without end",
            listing(lambda w, n: {"operations": [], "nextPageToken": f"t{n}"}),
            hits=10**9,
            deadline_s=5.0,
        ),
        on(
            "job list",
            "the same page for ever",
            listing(lambda w, n: {"nextPageToken": "t"}),
            hits=10**9,
            deadline_s=4.0,
        ),
        on("job list", "a token of megabytes", listing(lambda w, n: {"nextPageToken": f"{n}" + "t" * 1_000_000})),
        on("job list", "a million jobs a page", listing(lambda w, n: {"operations": [{"name": "batches/a"}] * 30_000})),
        on(
            "file list",
            "pages of files without end",
            listing(lambda w, n: {"files": [], "nextPageToken": f"t{n}"}),
            hits=10**9,
        ),
        on("upload start", "a foreign upload URL", _foreign_upload()),
        on(
            "upload start",
            "an upload URL with a line break",
            fixed(_session(X_Goog_Upload_URL="http://127.0.0.1:1/a b\tc")),
        ),
        on("upload start", "chunks of 10^12 bytes", _granular(str(10**12)), hits=1),
        on("upload query", "an upload that goes on by one byte", _creeping(), hits=10**9, deadline_s=6.0),
    ]
    return attacks


_WORDS: Final = ("displayName", "model", "createTime", "updateTime", "endTime")


def _finalized(changes: dict[str, Any]) -> Play:
    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        world.honest(asked)
        writer.write(reply({"file": world.file(asked.name) | changes}, X_Goog_Upload_Status="final"))

    return play


def _session(**headers: str) -> bytes:
    headers.setdefault("X_Goog_Upload_Status", "active")
    return reply(b"", 200, **headers)


def _granular(text: str) -> Play:
    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        honest = world.honest(asked)
        line = f"\r\nX-Goog-Upload-Chunk-Granularity: {text}\r\n\r\n".encode()
        writer.write(honest.replace(b"\r\n\r\n", line, 1))

    return play


def _foreign_upload() -> Play:
    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", X_Goog_Upload_URL=f"{world.elsewhere}/session/x", X_Goog_Upload_Status="active"))

    return play


def _creeping() -> Play:
    sizes = iter(range(10**9))

    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        world.breaks["upload chunk"] = 1
        writer.write(_session(X_Goog_Upload_Size_Received=str(next(sizes))))

    return play


def _failed(error: Any) -> Play:
    return operation(response=None, error=error, metadata={"state": "BATCH_STATE_FAILED", "output": None})


def _raw_operation(metadata: bytes) -> Play:
    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"name":"%b","metadata":%b}' % (asked.name.encode(), metadata)))

    return play


def _big_inline(sizes: Sizes) -> Play:
    async def play(world: World, asked: Asked, writer: asyncio.StreamWriter) -> None:
        item = json.dumps({"response": response_of("x" * PIECE), "metadata": {"key": "k"}}).encode()
        start = b'{"name":"%b","done":true,"response":{"inlinedResponses":[' % asked.name.encode()
        writer.write(head(Transfer_Encoding="chunked") + chunked(start))
        for _ in range(0, sizes.body, len(item)):
            if writer.is_closing():
                return
            writer.write(chunked(item + b","))
            await writer.drain()
        writer.write(chunked(b"null]}}") + chunked(b""))

    return play


def behind_tls() -> list[Attack]:
    """Return attacks on a client of an https origin: what leads it back to plain http."""
    downgrades = {"redirect 302": redirect(302), "redirect 307": redirect(307), "redirect 308": redirect(308)}
    attacks = [on(call, f"https to http: {name}", play) for name, play in downgrades.items() for call in SCENARIOS]
    return [*attacks, on("upload start", "https to http: the upload URL", _foreign_upload())]


def all_attacks(sizes: Sizes) -> list[Attack]:
    """Return every attack at these sizes."""
    attacks = [on(call, name, play) for name, play in everywhere(sizes).items() for call in SCENARIOS]
    attacks += [
        on("download", f"file: {name}", file_of(make), rows=2, speaks="answer" in name, deadline_s=80.0)
        for name, make in result_files(sizes).items()
    ]
    attacks += [on("download", f"row: {name}", bad_rows(line), rows=3, speaks=True) for name, line in ROWS.items()]
    attacks.append(on("download", "rows: nested deeper and deeper", file_of(_deep_rows), rows=100, speaks=True))
    attacks += [
        on(
            "download",
            f"file of an inline job: {name}",
            file_of(make),
            rows=2,
            deadline_s=80.0,
            settings={"inline_bytes_max": 1_000_000},
        )
        for name, make in result_files(sizes).items()
        if name in ("a line without end", "rows of unknown keys", "rows without keys")
    ]
    attacks += [
        on(
            "download",
            f"file of an inline job matched by position: {name}",
            file_of(make),
            rows=2,
            deadline_s=80.0,
            settings={"inline_bytes_max": 1_000_000, "match_by_position": True},
        )
        for name, make in result_files(sizes).items()
        if name in ("rows of unknown keys", "rows without keys")
    ]
    return attacks + live_answers() + told(sizes) + misnamed()
