"""Bytes of batch calls: the create envelope, operations and errors.

Owns every shape that the server's JSON about jobs was seen in. It is pure, and knows nothing of sockets or of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from carpool._core.model import Framing
from carpool._gemini import scan
from carpool._gemini.plain import is_object, is_sequence
from carpool.types import BatchJob, JobStats, Kind, ServerError

_NAME = re.compile(r"(?:files|batches|cachedContents)/[a-z0-9-]{1,128}")
_DIGITS_MAX: Final = 9
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
        name: ``files/...``, ``batches/...`` or ``cachedContents/...``.
        kind: the one of them that it has to be, if only one will do.
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
    return _job(_decoded(body))


def read_output(body: bytes) -> tuple[str, list[msgspec.Raw]]:
    """Return a job's result file, and the items of its inline output in the server's order; either may be empty.

    Raises:
        ValueError: the operation cannot be read.
    """
    operation = _decoded(body)
    response, listed = _outputs(operation)
    return _output_file(response, listed), _items(response) or _items(listed)


def read_page(body: bytes) -> tuple[list[BatchJob], str]:
    """Return the jobs of one page of a list, and the token of the next; an empty list comes as ``{}``."""
    try:
        page = _page.decode(body or b"{}")
    except msgspec.ValidationError:
        raise
    except ValueError:
        text = scan.text_of(body)
        page = msgspec.convert(scan.value_of(text, scan.whole(text)), _Page, strict=False)
    return [_job(operation) for operation in page.operations or ()], page.next_page_token or ""


def _decoded(body: bytes) -> _Operation:
    """Decode an operation, also where a row inside it holds what the strict decoder refuses."""
    try:
        return _operation.decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        text = scan.text_of(body)
    top = scan.fields_of(text, scan.whole(text))
    inner = _object_at(text, top.get("metadata"))
    shell = {name: scan.value_of(text, span) for name, span in top.items() if name not in ("response", "metadata")}
    shell["metadata"] = {name: scan.value_of(text, span) for name, span in inner.items() if name != "output"}
    operation = msgspec.convert(shell, _Operation, strict=False)
    metadata = msgspec.structs.replace(operation.metadata or _Metadata(), output=_scanned(text, inner.get("output")))
    return msgspec.structs.replace(operation, metadata=metadata, response=_scanned(text, top.get("response")))


def _scanned(text: str, span: scan.Span | None) -> _Output:
    """Return an output whose responses are left as they came."""
    fields = _object_at(text, span)
    missing = (0, 0)
    return _Output(
        responses_file=scan.value_of(text, fields.get("responsesFile")),
        inlined_responses=scan.raw_of(text, fields.get("inlinedResponses", missing)),
        inlined_embed_content_responses=scan.raw_of(text, fields.get("inlinedEmbedContentResponses", missing)),
    )


def _object_at(text: str, span: scan.Span | None) -> dict[str, scan.Span]:
    return scan.fields_of(text, span) if span is not None and scan.starts_with(text, span, "{") else {}


def _items(output: _Output) -> list[msgspec.Raw]:
    """Return the items of an output: in a list, or in an object around a list of the same name."""
    for raw in (output.inlined_responses, output.inlined_embed_content_responses):
        start = bytes(memoryview(raw)[:1])
        if start not in (b"{", b"["):
            continue
        try:
            found = _raws.decode(raw) if start == b"[" else _inlined.decode(raw).inlined_responses
        except msgspec.ValidationError:
            raise
        except ValueError:
            found = _scanned_items(scan.text_of(bytes(raw)))
        if found:
            return found
    return []


def _scanned_items(text: str) -> list[msgspec.Raw]:
    span = scan.whole(text)
    found = scan.fields_of(text, span).get("inlinedResponses") if scan.starts_with(text, span, "{") else span
    return [] if found is None else [scan.raw_of(text, item) for item in scan.elements_of(text, found)]


def _outputs(operation: _Operation) -> tuple[_Output, _Output]:
    """Return the two places where output may stand."""
    metadata = operation.metadata or _Metadata()
    return operation.response or _Output(), metadata.output or _Output()


def _output_file(response: _Output, listed: _Output) -> str:
    name = response.responses_file or listed.responses_file
    return checked_name(name, "files/") if name else ""


def _job(operation: _Operation) -> BatchJob:
    metadata = operation.metadata or _Metadata()
    name = operation.name or metadata.name or ""
    if not _NAME.fullmatch(name) and metadata.name:
        name = metadata.name
    response, listed = _outputs(operation)
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
        output_file=_output_file(response, listed),
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


def read_list(body: bytes, field: str) -> tuple[list[Any], str]:
    """Return the items of one page of a list, and the token of the next; an empty list comes as ``{}``.

    Raises:
        ValueError: it cannot be read.
    """
    page: Any = msgspec.json.decode(body or b"{}")
    items: Any = page.get(field, []) if is_object(page) else None
    if not is_sequence(items):
        raise ValueError("this is not a page of a list")
    return list(items), str(page.get("nextPageToken") or "")


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
    found = lenient_error(error)
    return ServerError(found.code or status, found.message or phrase(status), found.status, found.details)


def phrase(status: int) -> str:
    """Return the usual words for an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def lenient_error(value: Any) -> ServerError:
    """Return the error that some JSON value tells, whatever its types."""
    if not is_object(value):
        return ServerError(13, str(value)[:1_000], "")
    code = value.get("code")
    if isinstance(code, str) and code.isdecimal() and len(code) <= _DIGITS_MAX:
        code = int(code)
    return ServerError(
        code if isinstance(code, int) else 0,
        str(value.get("message") or ""),
        str(value.get("status") or ""),
        value.get("details"),
    )
