"""Bytes of batch calls: the create envelope, operations and lists.

Owns every shape that the server's JSON about jobs was seen in. What may be large or many is left as bytes until it is
wanted, since decoded it takes up dozens of times its size. It is pure, and knows nothing of sockets or of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from carpool._core.model import Framing
from carpool._gemini import scan
from carpool._gemini.faults import read_error
from carpool._showing import in_short
from carpool.types import BatchJob, JobStats, Kind

_NAME = re.compile(r"(?:files|batches|cachedContents)/[a-z0-9-]{1,128}")
_WORD_CHARS_MAX: Final = 512
"""What is kept of a display name, a time or a state: no real one is as long."""
_TOKEN_CHARS_MAX: Final = 4_096
_PAGE_ITEMS_MAX: Final = 10_000
_LISTED_AT_ONCE_MAX: Final = 100_000
"""Elements of a list, at most, that are cut out at once; of a longer one they are cut out one by one."""
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
        raise ValueError(f"{in_short(name)} is not a name such as 'batches/abc' or 'files/abc'")
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


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Stats(msgspec.Struct, frozen=True, rename="camel", gc=False):
    request_count: _Count = 0
    pending_request_count: _Count = 0
    successful_request_count: _Count = 0
    failed_request_count: _Count = 0


class _Output(msgspec.Struct, frozen=True, rename="camel", gc=False):
    responses_file: str | None = None
    inlined_responses: msgspec.Raw = msgspec.Raw()
    inlined_embed_content_responses: msgspec.Raw = msgspec.Raw()


class _Inlined(msgspec.Struct, frozen=True, rename="camel", gc=False):
    inlined_responses: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    display_name: str | None = None
    model: str | None = None
    state: str | None = None
    create_time: str | None = None
    update_time: str | None = None
    end_time: str | None = None
    batch_stats: msgspec.Raw = msgspec.Raw()
    output: _Output | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Operation(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    metadata: _Metadata | None = None
    done: bool | None = None
    response: _Output | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: msgspec.Raw = msgspec.Raw()


class _Created(msgspec.Struct, frozen=True, gc=False):
    name: msgspec.Raw = msgspec.Raw()
    metadata: _Named | None = None


class _Page(msgspec.Struct, frozen=True, rename="camel", gc=False):
    operations: msgspec.Raw = msgspec.Raw()
    files: msgspec.Raw = msgspec.Raw()
    cached_contents: msgspec.Raw = msgspec.Raw()
    next_page_token: str | None = None


_operation = msgspec.json.Decoder(_Operation, strict=False)
_created = msgspec.json.Decoder(_Created)
_page = msgspec.json.Decoder(_Page, strict=False)
_stats = msgspec.json.Decoder(_Stats, strict=False)
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
    for raw in (created.name, created.metadata.name if created.metadata else msgspec.Raw()):
        name = bytes(memoryview(raw)[1:-1]).decode("ascii", "replace")
        if bytes(memoryview(raw)[:1]) == b'"' and _NAME.fullmatch(name) and name.startswith("batches/"):
            return name
    raise ValueError("the answer holds no name of a batch")


def read_operation(body: bytes) -> BatchJob:
    """Return the job that an operation's JSON describes; raise ``ValueError`` if it cannot be read."""
    return _job(_decoded(body))


def read_output(body: bytes) -> tuple[str, Iterator[bytes]]:
    """Return a job's result file, and the items of its inline output in the server's order; either may be empty.

    Raises:
        ValueError: the operation cannot be read; also while iterating, where a list breaks off.
    """
    operation = _decoded(body)
    response, listed = _outputs(operation)
    return _output_file(response, listed), _elements(_items(response) or _items(listed))


def read_page(body: bytes) -> tuple[list[BatchJob], str]:
    """Return the jobs of one page of a list, and the token of the next; an empty list comes as ``{}``."""
    items, token = read_list(body, "operations")
    return [_job(_decoded(item)) for item in items], token


def read_list(body: bytes, field: str) -> tuple[list[bytes], str]:
    """Return the items of one page of a list, and the token of the next; an empty list comes as ``{}``.

    Raises:
        ValueError: it cannot be read.
    """
    page = _paged(body or b"{}")
    raw: msgspec.Raw = getattr(page, "cached_contents" if field == "cachedContents" else field)
    items = list(islice(_elements(bytes(raw)), _PAGE_ITEMS_MAX + 1)) if _is_given(raw) else []
    token = page.next_page_token or ""
    if len(items) > _PAGE_ITEMS_MAX or len(token) > _TOKEN_CHARS_MAX:
        raise ValueError("no page of a list is as long, and no token")
    return items, token


def _paged(body: bytes) -> _Page:
    try:
        return _page.decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        spans = scan.fields_of(body, scan.hop)
    return _Page(
        operations=scan.raw_of(body, spans.get("operations")),
        files=scan.raw_of(body, spans.get("files")),
        cached_contents=scan.raw_of(body, spans.get("cachedContents")),
        next_page_token=str(scan.value_of(body, spans.get("nextPageToken")) or ""),
    )


def _decoded(body: bytes) -> _Operation:
    """Decode an operation, also where a row inside it holds what the strict decoder refuses."""
    try:
        return _operation.decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        top = scan.fields_of(body, scan.hop)
    metadata = _object_at(body, top.get("metadata"))
    inner = scan.fields_of(metadata, scan.hop)
    operation = msgspec.convert(_values(body, top, ("name", "done")), _Operation, strict=False)
    shell = msgspec.convert(_values(metadata, inner, _WORDS), _Metadata, strict=False)
    return msgspec.structs.replace(
        operation,
        metadata=msgspec.structs.replace(
            shell,
            batch_stats=scan.raw_of(metadata, inner.get("batchStats")),
            output=_scanned(_object_at(metadata, inner.get("output"))),
            error=scan.raw_of(metadata, inner.get("error")),
        ),
        response=_scanned(_object_at(body, top.get("response"))),
        error=scan.raw_of(body, top.get("error")),
    )


_WORDS: Final = ("name", "displayName", "model", "state", "createTime", "updateTime", "endTime")


def _values(data: bytes, spans: dict[str, scan.Span], names: Iterable[str]) -> dict[str, Any]:
    return {name: scan.value_of(data, spans[name]) for name in names if name in spans}


def _scanned(data: bytes) -> _Output:
    """Return an output whose responses are left as they came."""
    fields = scan.fields_of(data, scan.hop)
    return _Output(
        responses_file=msgspec.convert(scan.value_of(data, fields.get("responsesFile")), str | None),
        inlined_responses=scan.raw_of(data, fields.get("inlinedResponses")),
        inlined_embed_content_responses=scan.raw_of(data, fields.get("inlinedEmbedContentResponses")),
    )


def _object_at(data: bytes, span: scan.Span | None) -> bytes:
    return data[span[0] : span[1]] if span is not None and data[span[0] : span[0] + 1] == b"{" else b"{}"


def _items(output: _Output) -> bytes:
    """Return the list of an output's items, empty if it has none: as it is, or in an object, under the same name."""
    for given in (output.inlined_responses, output.inlined_embed_content_responses):
        found = given
        if bytes(memoryview(given)[:1]) == b"{":
            try:
                found = _inlined.decode(given).inlined_responses
            except msgspec.ValidationError:
                raise
            except ValueError:
                data = bytes(given)
                found = scan.raw_of(data, scan.fields_of(data, scan.hop).get("inlinedResponses"))
        listed = bytes(found)
        if scan.is_filled(listed):
            return listed
    return b""


def _elements(data: bytes) -> Iterator[bytes]:
    """Iterate over the elements of a list as they came; none, if it is empty."""
    if not data:
        return
    if data.count(b",") < _LISTED_AT_ONCE_MAX:
        try:
            found = _raws.decode(data)
        except msgspec.ValidationError:
            raise
        except ValueError:
            pass
        else:
            yield from map(bytes, found)
            return
    yield from scan.elements_of(data)


def _is_given(raw: msgspec.Raw) -> bool:
    """Return whether a field was there, and not null."""
    return bytes(memoryview(raw)[:5]) not in (b"", b"null")


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
    error = bytes(operation.error if _is_given(operation.error) else metadata.error)
    if error and error != b"null" and not error.startswith(b"{"):
        raise ValueError("the error is no object")
    return BatchJob(
        name=checked_name(name, "batches/"),
        display_name=_word(metadata.display_name),
        model=_word(metadata.model).removeprefix("models/"),
        state=_word(_state(operation, metadata)),
        created_at=_word(metadata.create_time),
        updated_at=_word(metadata.update_time),
        ended_at=_word(metadata.end_time),
        stats=_counted(metadata.batch_stats),
        error=read_error(error) if error.startswith(b"{") else None,
        output_file=_output_file(response, listed),
        inline_output=bool(_items(response) or _items(listed)),
    )


def _word(text: str | None) -> str:
    return (text or "")[:_WORD_CHARS_MAX]


def _counted(raw: msgspec.Raw) -> JobStats:
    """Return a job's counts; none where they cannot be read: they inform, and decide nothing."""
    try:
        stats = _stats.decode(raw) if _is_given(raw) else _Stats()
    except ValueError:
        stats = _Stats()
    return JobStats(
        requests=stats.request_count,
        pending=stats.pending_request_count,
        succeeded=stats.successful_request_count,
        failed=stats.failed_request_count,
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
    return "FAILED" if _is_given(operation.error) else "SUCCEEDED"
