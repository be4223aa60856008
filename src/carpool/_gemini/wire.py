"""Bytes of batch calls: the create envelope, operations, errors and result lines.

Owns every shape that the server's JSON was seen in. It is pure, and knows nothing of sockets or of what a job is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from json import JSONDecodeError, JSONDecoder
from typing import Any, Final

import msgspec

from carpool._core.model import Block, Framing, Row
from carpool._gemini.plain import is_object, is_sequence
from carpool.types import BatchJob, JobStats, Kind, ServerError

BLOCK_ROWS: Final = 256
"""Rows of one block of an inline output."""

_NAME = re.compile(r"(?:files|batches)/[a-z0-9-]{1,128}")
_BOUNDARY: Final = b'","request":'
_BOUNDARY_BYTES: Final = len(_BOUNDARY)
_KEY_STARTS: Final = len(b'{"key":')
_REQUEST_ENDS: Final = -len(b"}\n")
_OPEN: Final = b'{"batch":{"displayName":'
_INLINE: Final = b',"inputConfig":{"requests":{"requests":['
_INLINE_CLOSE: Final = b"]}}"

_encode: Final = msgspec.json.Encoder().encode


def checked_name(name: str, kind: str = "") -> str:
    """Return a server-given name, or raise ``ValueError`` if it must not enter a URL.

    Args:
        name: ``files/...`` or ``batches/...``.
        kind: the one of the two that it has to be, if only one will do.
    """
    if not _NAME.fullmatch(name) or not name.startswith(kind):
        raise ValueError(f"{name[:80]!r} is not a name such as 'batches/abc' or 'files/abc'")
    return name


# ------------------------------------------------------------------------------------------------------------- create


def framing(priority: int = 0) -> Framing:
    """Return the exact sizes of the inline create call.

    A call with at least one row has ``inline_envelope_bytes + len(display name) + sum(len(line) + inline_row_bytes)``
    bytes: each row counts a comma after it, and the envelope is one byte less than it is, since the last row has none.
    Display names are ASCII without quotes or backslashes.
    """
    envelope = len(inline_body("", [], priority)) - 1
    row = len(inline_row(b'{"key":"","request":{}}\n')) + 1 - len(b'{"key":"","request":{}}\n')
    return Framing(envelope, row)


def inline_row(line: bytes) -> bytes:
    """Return the inline row of a line of a batch file, newline included.

    The first ``","request":`` ends the key: inside the key a quote is escaped, so it cannot occur there.
    """
    key_ends = line.index(_BOUNDARY, _KEY_STARTS) + 1
    request = line[key_ends + _BOUNDARY_BYTES - 1 : _REQUEST_ENDS]
    return b'{"request":' + request + b',"metadata":{"key":' + line[_KEY_STARTS:key_ends] + b"}}"


def inline_rows(lines: bytes) -> list[bytes]:
    """Return the inline rows of whole lines of a batch file."""
    return [inline_row(line + b"\n") for line in lines.split(b"\n")[:-1]]


def inline_body(display_name: str, rows: Iterable[bytes], priority: int = 0) -> bytes:
    """Return the body of a create call with these rows."""
    tail = f',"priority":"{priority}"}}}}'.encode() if priority else b"}}"
    return b"".join((_OPEN, _encode(display_name), _INLINE, b",".join(rows), _INLINE_CLOSE, tail))


def file_body(display_name: str, file_name: str, kind: Kind, priority: int = 0) -> bytes:
    """Return the body of a create call whose rows are in a file. The service's own client spells the field by kind."""
    field = b"fileName" if kind == "generate" else b"file_name"
    tail = f',"priority":"{priority}"}}}}'.encode() if priority else b"}}"
    return b"".join((_OPEN, _encode(display_name), b',"inputConfig":{"', field, b'":', _encode(file_name), b"}", tail))


# --------------------------------------------------------------------------------------------------------- operations


class _Status(msgspec.Struct, frozen=True, gc=False):
    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: Any = None


class _Stats(msgspec.Struct, frozen=True, rename="camel", gc=False):
    request_count: int = 0
    pending_request_count: int = 0
    successful_request_count: int = 0
    failed_request_count: int = 0


class _Output(msgspec.Struct, frozen=True, rename="camel", gc=False):
    responses_file: str | None = None
    inlined_responses: msgspec.Raw = msgspec.Raw()
    inlined_embed_content_responses: msgspec.Raw = msgspec.Raw()


class _Inlined(msgspec.Struct, frozen=True, rename="camel", gc=False):
    inlined_responses: list[msgspec.Raw] | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    display_name: str | None = None
    model: str | None = None
    state: str | None = None
    create_time: str | None = None
    update_time: str | None = None
    end_time: str | None = None
    batch_stats: _Stats | None = None
    output: _Output | None = None
    error: _Status | None = None


class _Operation(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    metadata: _Metadata | None = None
    done: bool | None = None
    response: _Output | None = None
    error: _Status | None = None


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: Any = None


class _Created(msgspec.Struct, frozen=True, gc=False):
    name: Any = None
    metadata: _Named | None = None


class _Page(msgspec.Struct, frozen=True, rename="camel", gc=False):
    operations: list[_Operation] | None = None
    next_page_token: str | None = None


_operation = msgspec.json.Decoder(_Operation, strict=False)
_created = msgspec.json.Decoder(_Created)
_page = msgspec.json.Decoder(_Page, strict=False)
_inlined = msgspec.json.Decoder(_Inlined)
_raws = msgspec.json.Decoder(list[msgspec.Raw])

_STATES: Final = frozenset(
    {
        "PENDING",
        "QUEUED",
        "RUNNING",
        "SUCCEEDED",
        "PARTIALLY_SUCCEEDED",
        "FAILED",
        "CANCELLING",
        "CANCELLED",
        "EXPIRED",
        "PAUSED",
        "UPDATING",
    }
)


def created_name(body: bytes) -> str:
    """Return the name of the job that a create call's answer tells; raise ``ValueError`` if it tells none."""
    created = _created.decode(body)
    names = (created.name, created.metadata.name if created.metadata else None)
    for name in names:
        if isinstance(name, str) and _NAME.fullmatch(name) and name.startswith("batches/"):
            return name
    raise ValueError("the answer holds no name of a batch")


def read_operation(body: bytes) -> BatchJob:
    """Return the job that an operation's JSON describes; raise ``ValueError`` if it cannot be read."""
    return _job(_operation.decode(body))


def read_page(body: bytes) -> tuple[list[BatchJob], str]:
    """Return the jobs of one page of a list, and the token of the next; an empty list comes as ``{}``."""
    page = _page.decode(body or b"{}")
    return [_job(operation) for operation in page.operations or ()], page.next_page_token or ""


def _job(operation: _Operation) -> BatchJob:
    metadata = operation.metadata or _Metadata()
    name = operation.name or metadata.name or ""
    if not _NAME.fullmatch(name) and metadata.name:
        name = metadata.name
    response, listed = operation.response or _Output(), metadata.output or _Output()
    output_file = response.responses_file or listed.responses_file or ""
    error = operation.error or metadata.error
    stats = metadata.batch_stats or _Stats()
    return BatchJob(
        name=checked_name(name, "batches/"),
        display_name=metadata.display_name or "",
        model=(metadata.model or "").removeprefix("models/"),
        state=_state(operation, metadata),
        created_at=metadata.create_time or "",
        updated_at=metadata.update_time or "",
        ended_at=metadata.end_time or "",
        stats=JobStats(
            requests=stats.request_count,
            pending=stats.pending_request_count,
            succeeded=stats.successful_request_count,
            failed=stats.failed_request_count,
        ),
        error=_server_error(error) if error else None,
        output_file=checked_name(output_file, "files/") if output_file else "",
        inline_output=bool(_items(response) or _items(listed)),
    )


def _state(operation: _Operation, metadata: _Metadata) -> str:
    given = metadata.state or ""
    word = given.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    if word in _STATES:
        return word
    if word and word != "UNSPECIFIED":
        return given
    if not operation.done:
        return "PENDING"
    return "FAILED" if operation.error else "SUCCEEDED"


def _server_error(error: _Status) -> ServerError:
    return ServerError(error.code or 0, error.message or "", error.status or "", error.details)


# ------------------------------------------------------------------------------------------------------ inline output


class _Key(msgspec.Struct, frozen=True, gc=False):
    key: str = ""


class _Item(msgspec.Struct, frozen=True, gc=False):
    response: msgspec.Raw = msgspec.Raw()
    error: _Status | None = None
    metadata: _Key | None = None


_item = msgspec.json.Decoder(_Item, strict=False)


def inline_items(body: bytes) -> list[msgspec.Raw]:
    """Return the items of an operation's inline output, in the server's order; none if it has no such output."""
    operation = _operation.decode(body)
    metadata = operation.metadata or _Metadata()
    return _items(operation.response or _Output()) or _items(metadata.output or _Output())


def _items(output: _Output) -> list[msgspec.Raw]:
    """Return the items of an output: in a list, or in an object around a list of the same name."""
    for raw in (output.inlined_responses, output.inlined_embed_content_responses):
        start = memoryview(raw)[:1]
        if start == b"{":
            found = _inlined.decode(raw).inlined_responses or []
        elif start == b"[":
            found = _raws.decode(raw)
        else:
            continue
        if found:
            return found
    return []


def decode_items(items: list[msgspec.Raw]) -> Iterator[Block]:
    """Iterate over inline items as blocks of rows, in the server's order; the key is empty where none came back."""
    for start in range(0, len(items), BLOCK_ROWS):
        rows: list[Row] = []
        unreadable = 0
        for raw in items[start : start + BLOCK_ROWS]:
            row = _item_row(raw)
            if row is None:
                unreadable += 1
            else:
                rows.append(row)
        yield Block(rows=rows, unreadable=unreadable)


def _item_row(raw: msgspec.Raw) -> Row | None:
    try:
        item = _item.decode(raw)
    except (ValueError, RecursionError):
        return _salvaged(bytes(raw))
    key = item.metadata.key if item.metadata else ""
    return _judged(Row(key, item.response, _server_error(item.error) if item.error else None))


# ------------------------------------------------------------------------------------------------------- result lines

_lines = msgspec.json.Decoder(Row, strict=False)
_NEITHER: Final = ServerError(13, "the row came back with neither a response nor an error", "INTERNAL")
_json = JSONDecoder()


def decode_block(data: bytes) -> Block:
    """Decode whole lines of a result file. A line that cannot be read counts, and takes no other with it."""
    try:
        rows = _lines.decode_lines(data)
    except (ValueError, RecursionError):
        return _decode_one_by_one(data)
    for row in rows:
        if row.error is None and memoryview(row.response)[:1] != b"{":
            row.error = _NEITHER
    return Block(rows=rows)


def _decode_one_by_one(data: bytes) -> Block:
    rows: list[Row] = []
    unreadable = 0
    for line in data.split(b"\n"):
        text = line.strip(b" \t\r")
        if not text:
            continue
        try:
            row: Row | None = _judged(_lines.decode(text))
        except (ValueError, RecursionError):
            row = _salvaged(text)
        if row is None:
            unreadable += 1
        else:
            rows.append(row)
    return Block(rows=rows, unreadable=unreadable)


def _judged(row: Row) -> Row:
    """Return the row as it is, or as an error if it holds neither an answer nor an error."""
    if row.error is None and memoryview(row.response)[:1] != b"{":
        row.error = _NEITHER
    return row


def _salvaged(line: bytes) -> Row | None:
    """Return the row of a line that the strict decoder refuses (lone surrogates, NaN, odd types), or None.

    The response's bytes stay as they came: only where it starts and ends is found out.
    """
    text = line.decode("utf-8", "surrogateescape")
    try:
        spans = _spans(text)
        raw_key = _value(text, spans.get("key"))
        if raw_key is None and "metadata" in spans:
            metadata = _value(text, spans["metadata"])
            raw_key = metadata.get("key") if is_object(metadata) else None
        raw_error = _value(text, spans.get("error"))
    except (ValueError, RecursionError):
        return None
    key = "" if raw_key is None else raw_key if isinstance(raw_key, str) else str(raw_key)
    start, stop = spans.get("response", (0, 0))
    response = msgspec.Raw(text[start:stop].encode("utf-8", "surrogateescape"))
    return _judged(Row(key, response, None if raw_error is None else _lenient_error(raw_error)))


def _spans(text: str) -> dict[str, tuple[int, int]]:
    """Return where the value of each field of an object stands in its text."""
    spans: dict[str, tuple[int, int]] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise JSONDecodeError("an object is wanted", text[:0], 0)
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        name, at = _json.raw_decode(text, at)
        at = _skip(text, at)
        if not isinstance(name, str) or text[at : at + 1] != ":":
            raise JSONDecodeError("a field is wanted", text[:0], 0)
        start = _skip(text, at + 1)
        _, stop = _json.raw_decode(text, start)
        spans[name] = (start, stop)
        at = _skip(text, stop)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise JSONDecodeError("a comma is wanted", text[:0], 0)
    if _skip(text, at + 1) != len(text):
        raise JSONDecodeError("the line goes on after its object", text[:0], 0)
    return spans


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _value(text: str, span: tuple[int, int] | None) -> Any:
    return None if span is None else _json.raw_decode(text, span[0])[0]


def _lenient_error(value: Any) -> ServerError:
    if not is_object(value):
        return ServerError(13, str(value)[:1_000], "")
    code = value.get("code")
    return ServerError(
        code if isinstance(code, int) else int(code) if isinstance(code, str) and code.isdecimal() else 0,
        str(value.get("message") or ""),
        str(value.get("status") or ""),
        value.get("details"),
    )


# ------------------------------------------------------------------------------------------------------------- errors


def http_error(status: int, body: bytes) -> ServerError:
    """Return the error that an HTTP reply tells: its JSON envelope, in a list or not, else the status's own phrase."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        decoded = None
    if is_sequence(decoded) and decoded:
        decoded = decoded[0]
    error: Any = decoded.get("error") if is_object(decoded) else None
    if isinstance(error, str):
        return ServerError(status, error, phrase(status))
    if not is_object(error):
        return ServerError(status, phrase(status), "")
    found = _lenient_error(error)
    return ServerError(found.code or status, found.message or phrase(status), found.status, found.details)


def phrase(status: int) -> str:
    """Return the usual words for an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"
