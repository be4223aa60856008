"""What reads a server's JSON, under any JSON: a row, a job or a list is read, or refused, and nothing else is raised.

Owns the properties. Whatever comes out can be written down, and is no larger than what its readers say.
"""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._gemini import scan, wire
from carpool._gemini.faults import DETAILS_BYTES_MAX, MESSAGE_CHARS_MAX, http_error, read_error
from carpool._gemini.rows import decode_block, decode_items
from carpool.responses import view_usage
from carpool.types import ServerError

REFUSED: Final = (ValueError, RecursionError)
ODD: Final = (
    *(b"", b"01", b"-1", b"1.5", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b"[]", b"{}", b'""', b'"NaN"'),
    *(b'"\\ud800"', b'"cut \\ud83d"', b'"\xff"', b'"files/../x"', b'"batches/a"', b'"' + b"m" * 10_000 + b'"'),
    *(b"9" * 4_000, b'"' + b"9" * 4_000 + b'"', b"[" * 100_000 + b"]" * 100_000),
    *(b"[" * 600 + b"]" * 600, b'{"a":' * 600 + b"1" + b"}" * 600),
)
"""Values that a decoder may refuse, misread, or choke on."""

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
values = st.sampled_from(ODD) | plain


def shaped(*names: str, inner: dict[str, st.SearchStrategy[bytes]] | None = None) -> st.SearchStrategy[bytes]:
    """Return objects of these fields, in any order, each there or not or twice, with any value."""
    fields = dict.fromkeys(names, values) | (inner or {})
    pairs = st.sampled_from(sorted(fields)).flatmap(lambda name: st.tuples(st.just(name), fields[name]))
    return st.lists(pairs, max_size=6).map(
        lambda found: b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in found) + b"}"
    )


errors = shaped("code", "message", "status", "details")
response = shaped(
    "candidates", inner={"usageMetadata": shaped("promptTokenCount", "candidatesTokenCount", "totalTokenCount")}
)
rows = shaped("key", inner={"response": response | values, "error": errors | values, "metadata": shaped("key")})
lists = st.lists(rows | values, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]")
outputs = shaped("responsesFile", inner={"inlinedResponses": lists | shaped(inner={"inlinedResponses": lists})})
stats = shaped("requestCount", "successfulRequestCount")
metadata = shaped(
    "name",
    "displayName",
    "state",
    "createTime",
    inner={"output": outputs | values, "error": errors, "batchStats": stats | values},
)
named = st.just(b'"batches/a"')
operations = shaped("done", inner={"name": named, "response": outputs, "error": errors, "metadata": metadata})
pages = shaped(
    "nextPageToken", inner={"operations": st.lists(operations, max_size=2).map(lambda x: b"[" + b",".join(x) + b"]")}
)


def check_error(error: ServerError | None) -> None:
    """Check that an error can be kept for each request of a job."""
    if error is None:
        return
    assert type(error.code) is int
    assert -(2**31) < error.code < 2**31
    assert len(error.message) <= MESSAGE_CHARS_MAX
    assert len(msgspec.json.encode(error.details)) <= DETAILS_BYTES_MAX
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(error), type=ServerError) == error
    assert msgspec.json.encode(error)


@given(st.lists(rows | values, max_size=4))
def test_any_lines_are_rows_or_counted(lines: list[bytes]) -> None:
    block = decode_block(b"\n".join(lines) + b"\n")
    assert len(block.rows) + block.unreadable == len([line for line in lines if line.strip()])
    for row in block.rows:
        check_error(row.error)
        assert row.key.encode() is not None
        if row.error is None:
            assert bytes(row.response).startswith(b"{")
            usage = view_usage(bytes(row.response))
            assert 0 <= usage.usage_metadata.prompt_token_count <= 10**12


@given(st.lists(rows | values.filter(bool), max_size=4))
def test_items_of_an_inline_output_are_read_as_lines_are(items: list[bytes]) -> None:
    found = list(decode_items(items))
    assert sum(len(block.rows) + block.unreadable for block in found) == len(items)
    for block in found:
        for row in block.rows:
            check_error(row.error)


@given(operations | metadata | values)
def test_any_operation_is_a_job_or_refused(body: bytes) -> None:
    with contextlib.suppress(*REFUSED):
        job = wire.read_operation(body)
        check_error(job.error)
        assert job.name == "batches/a"
        assert not job.output_file or wire.checked_name(job.output_file, "files/")
        assert max(map(len, (job.display_name, job.state, job.created_at))) <= 512
        assert msgspec.msgpack.encode(job)
        assert msgspec.json.encode(job)
    with contextlib.suppress(*REFUSED):
        _, items = wire.read_output(body)
        for block in decode_items(items):
            assert block.unreadable >= 0


@given(pages | values)
def test_any_page_is_a_page_or_refused(body: bytes) -> None:
    with contextlib.suppress(*REFUSED):
        jobs, token = wire.read_page(body)
        assert all(job.name == "batches/a" for job in jobs)
        assert len(token) <= 4_096
    for field in ("files", "cachedContents", "operations"):
        with contextlib.suppress(*REFUSED):
            assert isinstance(wire.read_list(body, field)[0], list)


@given(errors | values)
def test_any_error_is_an_error(raw: bytes) -> None:
    check_error(read_error(raw))
    check_error(http_error(500, b'{"error":' + raw + b"}"))
    check_error(http_error(500, raw))


@pytest.mark.parametrize("field", ["code", "message", "status", "details"])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_an_error_of_a_row_a_job_or_a_reply_can_be_kept(value: bytes, field: str) -> None:
    error = b'{"code":8,"%b":%b}' % (field.encode(), value)
    for row in decode_block(b'{"key":"a","error":%b}' % error).rows:
        check_error(row.error)
    for block in decode_items([b'{"metadata":{"key":"a"},"error":%b}' % error]):
        for row in block.rows:
            check_error(row.error)
    with contextlib.suppress(*REFUSED):
        check_error(wire.read_operation(b'{"name":"batches/a","error":%b}' % error).error)
    check_error(http_error(500, b'{"error":%b}' % error))


@given((values | rows | operations).filter(lambda data: len(data) < 2_000))
def test_the_scanner_takes_what_the_standard_library_takes(data: bytes) -> None:
    try:
        json.loads(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        taken = False
    else:
        taken = True
    try:
        taken_here = not data[scan.check(data) :].strip(b" \t\r\n")
    except ValueError as error:
        taken_here = taken and "deeper" in str(error)
    assert taken_here is taken


BREAKS: Final = (
    b"",
    b"[",
    b"{",
    b"[1}",
    b'{"a":[1}]',
    b"[1 2]",
    b"[,]",
    b'{"a"}',
    b'{"a":1,}',
    b"[1]]",
    b'{"a":[1}',
    b'["\n"]',
    b"[01]",
    b'{"a":1 "b":2}',
)


@pytest.mark.parametrize("data", BREAKS)
def test_what_is_no_json_is_refused_by_every_reader_of_the_scanner(data: bytes) -> None:
    def checked() -> None:
        if data[scan.check(data) :]:
            raise ValueError("there is more")

    readers: tuple[Callable[[], Any], ...] = (
        checked,
        lambda: scan.fields_of(data),
        lambda: list(scan.elements_of(data)) if data != b"[01]" else checked(),
    )
    for reader in readers:
        if reader is readers[2] and data == b'["\n"]':
            continue
        with pytest.raises(ValueError, match=r"."):
            reader()


DENSE: Final = 150_000
NEITHER: Final = b'{"x":NaN,'


def rows_of(body: bytes) -> int:
    """Return how many rows an inline output has."""
    return sum(len(block.rows) for block in decode_items(wire.read_output(body)[1]))


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        (wire.read_page, b'{"operations":[' + b"{}," * DENSE + b"{}]}"),
        (wire.read_page, NEITHER + b'"operations":[' + b"{}," * DENSE + b"{}]}"),
        (lambda body: wire.read_list(body, "files"), b'{"files":[' + b"[]," * DENSE + b"[]]}"),
        (wire.created_name, b'{"name":[' + b"[]," * DENSE + b"[]]}"),
        (wire.read_operation, b'{"name":"batches/a","error":{"code":8,"details":[' + b"[]," * DENSE + b"[]]}}"),
        (wire.read_operation, b'{"name":"batches/a","response":{"inlinedResponses":[' + b"0," * DENSE + b"0]}}"),
        (rows_of, b'{"name":"batches/a","response":{"inlinedResponses":[' + b"0," * DENSE + b"0]}}"),
        (rows_of, NEITHER + b'"name":"batches/a","response":{"inlinedResponses":[' + b"0," * DENSE + b"0]}}"),
        (decode_block, b'{"key":"k","error":{"code":8,"details":[' + b"[]," * 2 * DENSE + b"[]]}}"),
        (decode_block, b'{"key":"k","response":{"a":NaN,"b":[' + b"[]," * DENSE + b"[]]}}"),
    ],
    ids=range(10),
)
def test_dense_json_is_not_blown_up(reader: Callable[[bytes], Any], body: bytes) -> None:
    """Decoded, these would take 25 to 90 times their size."""
    tracemalloc.start()
    with contextlib.suppress(*REFUSED):
        reader(body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 6 * len(body) + 500_000
