"""Bytes of batch calls: exact sizes, the official client's envelopes, and every shape of reply that was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.output import Block
from carpool._gemini.encode import Encoder, line
from carpool._gemini.faults import http_error
from carpool._gemini.rows import decode_block, decode_items
from carpool._gemini.wire import (
    checked_name,
    created_name,
    file_body,
    framing,
    inline_body,
    inline_rows,
    read_operation,
    read_output,
    read_page,
)
from carpool.types import JobStats, ServerError

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def exchange(name: str) -> Any:
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text())["exchanges"][0]


def answer(name: str) -> bytes:
    return json.dumps(exchange(name)["response"]["body"]).encode()


def keys(block: Block) -> list[str]:
    return [row.key for row in block.rows]


# -------------------------------------------------------------------------------------------------------- create

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
payloads = st.builds(
    lambda text, turns: msgspec.json.encode({"contents": [{"parts": [{"text": text}]}] * turns}),
    texts,
    st.integers(1, 3),
)


@given(
    st.lists(st.tuples(texts, payloads), min_size=1, max_size=8),
    st.text(alphabet="abcdefghijklmnop0123456789.-", min_size=1, max_size=60),
    st.sampled_from([0, 1, -1, 250, -(2**63), 2**63 - 1]),
)
def test_an_inline_create_has_exactly_the_bytes_that_were_counted(
    rows: list[tuple[str, bytes]], display_name: str, priority: int
) -> None:
    lines = [line(key, payload) for key, payload in rows]
    body = inline_body(display_name, inline_rows(b"".join(lines)), priority)
    sizes = framing(priority)
    assert len(body) == sizes.inline_envelope_bytes + len(display_name) + sum(
        len(written) + sizes.inline_row_bytes for written in lines
    )
    batch = json.loads(body)["batch"]
    assert batch["displayName"] == display_name
    assert batch.get("priority") == (str(priority) if priority else None)
    assert batch["inputConfig"]["requests"]["requests"] == [
        {"request": json.loads(payload), "metadata": {"key": key}} for key, payload in rows
    ]


@pytest.mark.parametrize("key", ['","request":', '\\","request":{}', "\\", '"', "\n", "", "é\u2028", '{"key":"'])
def test_no_key_can_end_itself(key: str) -> None:
    (row,) = inline_rows(line(key, b'{"contents":[],"a":"\\",\\"request\\":"}'))
    assert json.loads(row) == {
        "request": {"contents": [], "a": '","request":'},
        "metadata": {"key": key},
    }


def test_an_inline_create_is_the_official_clients_json() -> None:
    encode = Encoder().generate
    config = {"system_instruction": "s", "temperature": 0.1}
    lines = line("k1", encode("m", "a", None).payload) + line("k2", encode("m", "b", config).payload)
    theirs = exchange("batches_create_inline_dicts")["request"]["body"]
    assert json.loads(inline_body("dn", inline_rows(lines))) == theirs


def test_an_inline_embed_create_is_the_official_clients_json_and_has_keys_besides() -> None:
    encode = Encoder().embed
    config = {"task_type": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 128}
    lines = b"".join(line(text, encode("m", text, config).payload) for text in "ab")
    ours = json.loads(inline_body("dn", inline_rows(lines)))
    rows = ours["batch"]["inputConfig"]["requests"]["requests"]
    assert [row.pop("metadata") for row in rows] == [{"key": "a"}, {"key": "b"}]
    assert ours == exchange("batches_create_embeddings_inline")["request"]["body"]


def test_a_file_create_is_the_official_clients_json() -> None:
    name = "files/abc123def456"
    assert json.loads(file_body("dn", name, "generate")) == exchange("batches_create_file")["request"]["body"]
    assert json.loads(file_body("dn", name, "embed")) == exchange("batches_create_embeddings_file")["request"]["body"]
    assert json.loads(file_body("dn", name, "embed", -3))["batch"]["priority"] == "-3"


# ---------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("running", "RUNNING"),
        ("failed", "FAILED"),
        ("cancelled", "CANCELLED"),
        ("expired", "EXPIRED"),
        ("jobstate", "SUCCEEDED"),
        ("succnoout", "SUCCEEDED"),
        ("unknown", "BATCH_STATE_WEIRD"),
        ("inline", "SUCCEEDED"),
        ("inlineresp", "SUCCEEDED"),
        ("embinline", "SUCCEEDED"),
    ],
)
def test_operations_that_the_official_client_reads_are_read(name: str, state: str) -> None:
    job = read_operation(answer(f"sdk_parse_get_{name}"))
    assert (job.name, job.display_name, job.model, job.state) == (f"batches/scn-{name}", "dn", "gemini-x", state)
    assert job.inline_output is (name in ("inline", "inlineresp", "embinline"))
    assert job.has_output is job.inline_output
    assert job.created_at == job.updated_at == "2026-11-20T12:00:00.123456789Z"
    failed = read_operation(answer("sdk_parse_get_failed"))
    assert failed.error == ServerError(3, "boom", "", [])


@pytest.mark.parametrize("name", ["inline", "inlineresp"])
def test_inline_rows_come_in_the_servers_order_with_their_keys(name: str) -> None:
    (block,) = decode_items(read_output(answer(f"sdk_parse_get_{name}"))[1])
    assert keys(block) == ["k2", "k3", "k1"]
    assert block.rows[1].error == ServerError(13, "internal", "", None)
    assert json.loads(bytes(block.rows[0].response))["candidates"][0]["content"]["parts"][0]["text"] == "B"
    assert block.unreadable == 0


def test_inline_vectors_are_read() -> None:
    (block,) = decode_items(read_output(answer("sdk_parse_get_embinline"))[1])
    assert json.loads(bytes(block.rows[0].response)) == {"embedding": {"values": [0.5]}, "tokenCount": "1"}
    assert block.rows[1].error == ServerError(3, "bad", "", None)


def operation(**fields: Any) -> bytes:
    return json.dumps({"name": "batches/a-1", **fields}).encode()


R, M = {"responsesFile": "files/batch-r"}, {"responsesFile": "files/batch-m"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"state": "PENDING", "stats": JobStats()}),
        ({"metadata": None, "error": None, "response": None}, {"state": "PENDING"}),
        ({"done": True}, {"state": "SUCCEEDED"}),
        ({"done": True, "error": {"code": 13}}, {"state": "FAILED", "error": ServerError(13, "", "", None)}),
        ({"metadata": {"state": "BATCH_STATE_UNSPECIFIED"}}, {"state": "PENDING"}),
        ({"metadata": {"state": "JOB_STATE_PARTIALLY_SUCCEEDED"}}, {"state": "PARTIALLY_SUCCEEDED", "ended": True}),
        ({"response": R, "metadata": {"output": M}}, {"output_file": "files/batch-r"}),
        ({"metadata": {"output": M}}, {"output_file": "files/batch-m", "inline_output": False}),
        ({"response": {"inlinedResponses": {}}}, {"inline_output": False, "output_file": ""}),
        ({"response": {"inlinedResponses": []}}, {"has_output": False}),
        ({"response": {"inlinedResponses": None}}, {"has_output": False}),
        ({"response": {"inlinedResponses": [{}]}}, {"inline_output": True}),
        ({"response": {"inlinedEmbedContentResponses": {"inlinedResponses": [{}]}}}, {"inline_output": True}),
        ({"metadata": {"error": {"code": 3, "status": "S"}}}, {"error": ServerError(3, "", "S", None)}),
        ({"metadata": {"name": "batches/other"}}, {"name": "batches/a-1"}),
        ({"name": None, "metadata": {"name": "batches/other"}}, {"name": "batches/other"}),
        ({"name": "operations/x", "metadata": {"name": "batches/other"}}, {"name": "batches/other"}),
        ({"surprise": [1], "metadata": {"surprise": {}}}, {"name": "batches/a-1"}),
    ],
)
def test_operations_are_read_in_every_shape(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    job = read_operation(operation(**fields))
    assert {name: getattr(job, name) for name in expected} == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b"{}",
        operation(name="batches/../x"),
        operation(name="batches/A?key=1"),
        operation(name="files/abc"),
        operation(response={"responsesFile": "https://evil.example/x"}),
        operation(response={"responsesFile": "batches/abc"}),
        operation(metadata=[]),
        operation(metadata={"state": 5}),
    ],
)
def test_operations_that_cannot_be_read_say_so(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_operation(body)


def test_the_name_of_a_created_job_is_read_whatever_else_the_answer_holds() -> None:
    assert created_name(answer("batches_create_nodisplay")) == "batches/abc123def456"
    assert created_name(operation(metadata={"state": 5, "batchStats": "x"})) == "batches/a-1"
    assert created_name(b'{"name":5,"metadata":{"name":"batches/b"}}') == "batches/b"
    for body in (b"{}", b'{"name":"batches/../x"}', b'{"name":"files/a"}', b"", b"<html>", b'{"name":null}'):
        with pytest.raises(ValueError, match=r"."):
            created_name(body)


def test_lists_are_read_an_empty_one_too() -> None:
    assert read_page(b"{}") == ([], "")
    assert read_page(b"") == ([], "")
    assert read_page(answer("batches_list_empty_page")) == ([], "")
    page = json.dumps({"operations": [json.loads(operation()), json.loads(operation(done=True))], "nextPageToken": "t"})
    jobs, token = read_page(page.encode())
    assert ([job.state for job in jobs], token) == (["PENDING", "SUCCEEDED"], "t")


def test_counts_are_read_as_strings_or_numbers() -> None:
    counts = {"requestCount": "9", "pendingRequestCount": 2, "successfulRequestCount": "6", "failedRequestCount": 1}
    stats = read_operation(operation(metadata={"batchStats": counts})).stats
    assert stats == JobStats(requests=9, pending=2, succeeded=6, failed=1)
    assert read_operation(operation(metadata={"batchStats": {}})).stats == JobStats()


@pytest.mark.parametrize("name", ["batches/a-1", "files/batch-0z", "files/" + "a" * 128])
def test_names_that_may_enter_a_url(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "batches/", "batches/A", "files/a/b", "files/..", "files/a?x", "batches/a\n", "files/" + "a" * 129, "a/b"],
)
def test_names_that_must_not_enter_a_url(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        checked_name(name)


# ---------------------------------------------------------------------------------------------------------- rows


def test_rows_are_decoded_whatever_the_order_of_their_fields() -> None:
    block = decode_block(
        b'{"key":"a","response":{"x":1}}\n'
        b'{"response":{"tokenCount":"1","embedding":{"values":[1]}},"key":"b"}\n'
        b'{"error":{"code":8,"message":"m","status":"S","details":[{"a":1}]},"key":"c","surprise":0}\n'
    )
    assert keys(block) == ["a", "b", "c"]
    assert bytes(block.rows[1].response) == b'{"tokenCount":"1","embedding":{"values":[1]}}'
    assert block.rows[2].error == ServerError(8, "m", "S", [{"a": 1}])
    assert block.unreadable == 0


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \r\n"])
def test_line_ends_and_blank_lines_are_no_rows(end: bytes) -> None:
    block = decode_block(b'{"key":"a","response":{}}\r\n\n\r\n{"key":"b","response":{}}' + end)
    assert (keys(block), block.unreadable) == (["a", "b"], 0)


def test_the_lines_of_a_block_are_at_hand_where_each_of_them_is_an_answer() -> None:
    good = b'{"key":"a","response":{}}\n'
    assert decode_block(good * 2).lines == good * 2
    for other in (b'{"key":"b","error":{"code":8}}\n', b'{"key":"b"}\n', b"garbage\n", b'{"key":"b","response":[]}\n'):
        assert decode_block(good + other).lines == b""


@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\u0085", "\x0b\x0c", "\x1c\x1d"])
def test_only_line_feeds_end_a_line(text: str) -> None:
    # Control characters must be escaped in JSON; these others may stand raw, and str.splitlines would cut there.
    raw = json.dumps({"t": text}, ensure_ascii=text.isascii()).encode()
    block = decode_block(b'{"key":"a","response":' + raw + b'}\n{"key":"b","response":{}}\ngarbage\n')
    assert (keys(block), block.unreadable) == (["a", "b"], 1)
    assert bytes(block.rows[0].response) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"t":"cut \\ud83d"}',
        b'{"t":"\\udc00 cut","n":[1,{"a":[]}]}',
        b'{"t":NaN,"u":-Infinity}',
        b'{ "t" : "\\ud83d\\ud83d" , "b":"\xc3\xa9" }',
        b'{"t":"bad utf-8 \xff\xfe \\ud800"}',
        b'{"t":1e999}',
    ],
)
@pytest.mark.parametrize("shape", [b'{"key":"a","response":%b}', b' { "response" : %b , "key" : "a" } \r'])
def test_what_a_strict_decoder_refuses_keeps_its_bytes_and_takes_no_other_row_along(shape: bytes, raw: bytes) -> None:
    block = decode_block(b'{"key":"0","response":{}}\n' + shape % raw + b'\n{"key":"1","response":{}}\n')
    assert (keys(block), block.unreadable) == (["0", "a", "1"], 0)
    assert bytes(block.rows[1].response) == raw
    assert block.rows[1].error is None


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage",
        b"{",
        b'{"key":"a","respon',
        b'{"key":"a","response":{"x":1}',
        b'{"key":"a","response":{}}}',
        b'{"key":"a" "response":{}}',
        b'{"key":"a","response"}',
        b"{1:2}",
        b'"text"',
        b"[1]",
        b"\xef\xbb\xbf",
        b'{"key":"a","response":' + b"[" * 100_000 + b"}",
        b"\x00",
    ],
)
def test_a_hopeless_line_counts_and_takes_no_other_row_along(bad: bytes) -> None:
    block = decode_block(b'{"key":"0","response":{}}\n' + bad + b'\n{"key":"1","response":{}}\n' + bad)
    assert (keys(block), block.unreadable) == (["0", "1"], 2)


def test_a_file_cut_at_any_byte_gives_whole_rows_only() -> None:
    rows = [f'{{"key":"k{number}","response":{{"n":{number},"t":"é\\ud83d\\ude00"}}}}' for number in range(4)]
    data = "\n".join(rows).encode() + b"\n"
    for end in range(len(data) + 1):
        block = decode_block(data[:end])
        whole = data[:end].split(b"\n")
        complete = [text for text in whole if text.decode(errors="replace") in rows]
        assert [bytes(row.response) for row in block.rows] == [
            text[len(b'{"key":"k0","response":') : -1] for text in complete
        ]
        assert block.unreadable == len([text for text in whole if text]) - len(complete)


@pytest.mark.parametrize("rest", [b"", b',"response":null', b',"response":"x"', b',"response":[]', b',"response": 1'])
def test_a_row_without_answer_or_error_is_an_error_of_its_own(rest: bytes) -> None:
    text = b'{"key":"a"' + rest + b"}"
    for data in (text, b"garbage\n" + text):
        row = decode_block(data).rows[0]
        assert row.error is not None
        assert (row.key, row.error.code, row.error.status) == ("a", 13, "INTERNAL")
    item = b'{"metadata":{"key":"a"}' + rest + b"}"
    (block,) = decode_items([item])
    assert block.rows[0].error is not None


def test_odd_types_are_read_leniently() -> None:
    block = decode_block(
        b'{"key":7,"response":{}}\n'
        b'{"key":null,"response":{}}\n'
        b'{"key":"c","error":{"code":"13","message":null,"status":null}}\n'
        b'{"key":"d","error":"boom"}\n'
        b'{"key":"e","error":{"code":1.5,"message":5}}\n'
        b'{"key":"f","error":null,"response":{}}\n'
    )
    assert keys(block) == ["7", "", "c", "d", "e", "f"]
    errors = [row.error for row in block.rows[2:]]
    assert errors == [
        ServerError(13, "", "", None),
        ServerError(13, "boom", "", None),
        ServerError(0, "5", "", None),
        None,
    ]


def test_inline_items_are_read_leniently_in_blocks() -> None:
    items = [
        b'{"response":{}}',
        b"null",
        b'{"response":{"t":"\\ud800"},"metadata":{"key":"k"}}',
        b'{"response":{},"metadata":{"key":5}}',
        b'{"response":{},"metadata":{"other":"x"}}',
        b'{"metadata":{"key":"n"},"response":null,"error":null}',
    ]
    (block,) = decode_items(items)
    assert keys(block) == ["", "k", "5", "", "n"]
    assert block.unreadable == 1
    assert block.rows[-1].error is not None
    many = list(decode_items([b'{"response":{},"metadata":{"key":"k"}}'] * 600))
    assert [len(some.rows) for some in many] == [256, 256, 88]
    assert list(decode_items([])) == []


CUT = b'{ "t" : "cut \\ud83d" , "n":NaN, "b":"\xc3\xa9\xff" }'
ITEMS = b'[ {"response":{},"metadata":{"key":"0"}} , {"metadata":{"key":"a"},"response":' + CUT + b"},null ]"
SHELL = b'"name":"batches/a","done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED","displayName":"d \\udc00"'


@pytest.mark.parametrize(
    "body",
    [
        b"{" + SHELL + b'},"response":{"inlinedResponses":{"inlinedResponses":' + ITEMS + b"}}}",
        b"{" + SHELL + b'},"response":{"inlinedResponses":' + ITEMS + b"}}",
        b"{" + SHELL + b',"output":{"inlinedResponses":{"inlinedResponses":' + ITEMS + b"}}}}",
        b"{"
        + SHELL
        + b',"output":{"inlinedEmbedContentResponses":{"inlinedResponses":'
        + ITEMS
        + b'}}},"response":null}',
    ],
)
def test_one_row_that_a_strict_decoder_refuses_does_not_hide_the_others_of_an_inline_output(body: bytes) -> None:
    job = read_operation(body)
    assert (job.state, job.inline_output, job.display_name) == ("SUCCEEDED", True, "d ?")
    _, items = read_output(body)
    (block,) = decode_items(items)
    assert (keys(block), block.unreadable) == (["0", "a"], 1)
    assert bytes(block.rows[1].response) == CUT


def test_other_outputs_are_read_beside_what_a_strict_decoder_refuses() -> None:
    filed = b"{" + SHELL + b'},"response":{"responsesFile":"files/batch-a","inlinedResponses":{"x":[]}}}'
    assert read_operation(filed).output_file == "files/batch-a"
    for body, name in ((filed, "files/batch-a"), (b"{" + SHELL + b'},"response":[]}', "")):
        found, items = read_output(body)
        assert (found, list(items)) == (name, [])
    assert read_page(b'{"operations":[{' + SHELL + b"}}]}")[0][0].display_name == "d ?"
    for wrong in (
        b"{" + SHELL + b'},"response":{"inlinedResponses":[1,2',
        b"{" + SHELL + b"}} {}",
        b"{" + SHELL + b'},"error":5}',
        b"{" + SHELL + b'},"response":{"responsesFile":5}}',
    ):
        with pytest.raises(ValueError, match=r"."):
            read_operation(wrong)
    _, items = read_output(b"{" + SHELL + b'},"response":{"inlinedResponses":[{} {}]}}')
    with pytest.raises(ValueError, match=r"."):
        list(decode_items(items))


def test_what_was_read_leniently_can_be_written_down() -> None:
    details = b'[{"\\ud83d":["\\ud83d", "\xc3\xa9"]}]'
    cut = b'{"key":"cut \\ud83d","error":{"code":3,"message":"cut \\ud83d","details":%b}}'
    (row,) = decode_block(cut % details).rows
    assert row.key == "cut ?"
    assert row.error == ServerError(3, "cut ?", "", [{"?": ["?", "é"]}])
    assert msgspec.json.encode(row.error)
    assert (
        decode_block(b'{"key":"a","error":{"code":"' + b"9" * 5_000 + b'","message":null}}').rows[0].error
        == ServerError()
    )


@given(st.lists(st.tuples(texts, st.dictionaries(texts, st.integers() | texts, max_size=3)), max_size=6))
def test_any_rows_come_through(rows: list[tuple[str, dict[str, Any]]]) -> None:
    lines = [json.dumps({"key": key, "response": body}, ensure_ascii=False).encode() for key, body in rows]
    for noise in ([], [b"garbage"]):
        block = decode_block(b"\n".join(lines + noise))
        assert [(row.key, json.loads(bytes(row.response))) for row in block.rows] == rows
        assert block.unreadable == len(noise)


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_counted(data: bytes) -> None:
    block = decode_block(data)
    assert len(block.rows) + block.unreadable <= len(data) + 1
    created = json.dumps({"a": data.decode("latin-1")}).encode()
    assert http_error(500, data).code
    assert http_error(500, created) == ServerError(500, "Internal Server Error", "")


# -------------------------------------------------------------------------------------------------------- errors


def test_error_bodies_are_read_in_every_shape() -> None:
    assert http_error(404, answer("sdk_parse_get_404")) == ServerError(
        404, "Requested entity was not found.", "NOT_FOUND", None
    )
    quota = http_error(429, answer("sdk_parse_get_429"))
    assert (quota.status, quota.details[0]["retryDelay"]) == ("RESOURCE_EXHAUSTED", "12s")
    assert http_error(429, b"[" + answer("sdk_parse_get_429") + b"]") == quota
    assert http_error(503, b"") == ServerError(503, "Service Unavailable", "")
    assert http_error(502, b"<html>bad gateway</html>") == ServerError(502, "Bad Gateway", "")
    assert http_error(599, b"[]") == ServerError(599, "HTTP status 599", "")
    assert http_error(400, b'{"error":"nope"}') == ServerError(400, "nope", "Bad Request")
    assert http_error(400, b'{"error":{"code":"invalid_request","message":"m"}}') == ServerError(400, "m", "")
    assert http_error(400, b'{"error":{}}') == ServerError(400, "Bad Request", "")
    assert http_error(400, b'{"error":{"code":9,"message":"m","status":"FAILED_PRECONDITION"}}').code == 9
