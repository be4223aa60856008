"""Faults of what a job gives: files that are gone or cut, rows that are hard to read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool.emulator import Fault, Plan, expected_text

from .driver import EMBED_MODEL, Driver, content, jsonl, numbered, prompt, text_of

SEPARATORS = " \u2028 \u2029 \u0085 "


def driver(**faults: Fault) -> Driver:
    """Return a world; dots in names of faults are written as two underscores."""
    return Driver(Plan(faults={name.replace("__", "."): fault for name, fault in faults.items()}))


def output_of(world: Driver, *, inline: bool, rows: int = 2) -> list[bytes]:
    """Return the raw rows of a new job's output."""
    if not inline:
        return world.download(world.create_from(world.upload(numbered(rows)))).split(b"\n")[:-1]
    items = [{"request": prompt(f"prompt {row}"), "metadata": {"key": f"k{row}"}} for row in range(rows)]
    operation = world.create(*items)
    raw = world.call("GET", f"/v1beta/{operation['name']}").read()
    decoded = json.loads(raw)["response"]["inlinedResponses"]["inlinedResponses"]
    assert len(decoded) == rows
    return [json.dumps(item, ensure_ascii=True).encode() for item in decoded]


# -- files


def test_an_output_file_can_be_gone_though_the_job_names_it() -> None:
    world = driver(output__vanished=Fault(count=1))
    gone, there = (world.create_from(world.upload(numbered(2))) for _ in range(2))
    ended = world.get(gone)
    assert (ended["done"], ended["metadata"]["state"]) == (True, "BATCH_STATE_SUCCEEDED")
    name = ended["response"]["responsesFile"]
    assert ended["metadata"]["output"] == {"responsesFile": name}
    for path in (f"/v1beta/{name}:download", f"/download/v1beta/{name}:download", f"/v1beta/{name}"):
        error = world.error("GET", path, query={"alt": "media"})
        assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert len(world.lines(there)) == 2
    assert world.ledger().rows_billed == 4, "it is paid for all the same"


def test_inline_output_does_not_vanish() -> None:
    world = driver(output__vanished=Fault())
    assert len(world.inline(world.create({"request": prompt("x")}))) == 1


def test_an_output_file_can_end_at_any_byte() -> None:
    world = driver()
    whole = world.download(world.create_from(world.upload(numbered(3))))
    for size in (0, 1, len(whole) // 2, len(whole) - 1, len(whole), len(whole) + 100):
        world.world.plan = Plan(faults={"output.truncated": Fault(bytes=size)})
        assert world.download(world.create_from(world.upload(numbered(3)))) == whole[:size]


def test_a_large_output_file_ends_at_its_byte_too() -> None:
    world = driver(output__truncated=Fault(bytes=300_001))
    raw = world.download(world.create_from(world.upload(numbered(3_000))))
    assert len(raw) == 300_001


# -- rows


@pytest.mark.parametrize("inline", [False, True])
def test_a_text_can_end_in_half_of_a_surrogate_pair(inline: bool) -> None:
    world = driver(row__lone_surrogate=Fault(count=1))
    first, second = output_of(world, inline=inline)
    assert first.count(b"\\ud83d") == 1
    assert text_of(json.loads(first)["response"]) == expected_text("prompt 0") + "\ud83d"
    assert text_of(json.loads(second)["response"]) == expected_text("prompt 1")
    assert world.ledger().rows_billed == 2


@pytest.mark.parametrize("inline", [False, True])
def test_a_text_can_hold_what_looks_like_line_breaks(inline: bool) -> None:
    world = driver(row__line_separators=Fault(count=1))
    first, second = output_of(world, inline=inline)
    assert text_of(json.loads(first)["response"]) == expected_text("prompt 0") + SEPARATORS
    assert text_of(json.loads(second)["response"]) == expected_text("prompt 1")


def test_what_looks_like_line_breaks_is_not_escaped_in_a_file() -> None:
    raw = b"".join(output_of(driver(row__line_separators=Fault()), inline=False))
    assert raw.count("\u2028".encode()) == raw.count("\u2029".encode()) == raw.count("\u0085".encode()) == 2


def test_both_can_befall_one_text() -> None:
    world = driver(row__line_separators=Fault(), row__lone_surrogate=Fault())
    (row,) = output_of(world, inline=False, rows=1)
    assert text_of(json.loads(row)["response"]) == expected_text("prompt 0") + SEPARATORS + "\ud83d"


@pytest.mark.parametrize("fault", ["lone_surrogate", "line_separators"])
def test_rows_without_a_text_are_left_alone(fault: str) -> None:
    world = driver(**{f"row__{fault}": Fault()})
    failing = jsonl({"key": "a", "request": prompt("[[error:3:no]]")})
    (error,) = world.lines(world.create_from(world.upload(failing)))
    assert error == {"key": "a", "error": {"code": 3, "message": "no"}}
    embeds = jsonl({"key": "a", "request": content("x")})
    operation = world.create_from(world.upload(embeds), model=EMBED_MODEL, method="asyncBatchEmbedContent")
    assert len(world.lines(operation)[0]["response"]["embedding"]["values"]) == 3072


@pytest.mark.parametrize("inline", [False, True])
def test_a_row_can_be_huge_and_means_the_same(inline: bool) -> None:
    world = driver(row__huge=Fault(after=1, count=1, bytes=300_000))
    if inline:
        operation = world.create({"request": prompt("prompt 0")}, {"request": prompt("prompt 1")})
        raw = world.call("GET", f"/v1beta/{operation['name']}").read()
        assert raw.count(b" " * 300_000) == 2, "once in each of the two places of the output"
        rows = json.loads(raw)["response"]["inlinedResponses"]["inlinedResponses"]
    else:
        lines = output_of(world, inline=False)
        assert len(lines[0]) < 1_000
        assert len(lines[1]) > 300_000
        rows = [json.loads(line) for line in lines]
    assert [text_of(row["response"]) for row in rows] == [expected_text("prompt 0"), expected_text("prompt 1")]


def test_a_huge_row_has_100_mib_by_itself_and_is_never_held() -> None:
    world = driver(row__huge=Fault())
    name = world.get(world.create_from(world.upload(numbered(1))))["response"]["responsesFile"]
    reply = world.call("GET", f"/v1beta/{name}:download")
    size = largest = 0
    assert not isinstance(reply.body, bytes)
    for block in reply.body:
        size += len(block)
        largest = max(largest, len(block))
    assert size > 100 * 1024 * 1024
    assert largest < 1024 * 1024


def test_a_padded_row_that_is_last_can_be_cut_all_the_same() -> None:
    world = driver(row__huge=Fault(bytes=1_000), output__truncated=Fault())
    raw = world.download(world.create_from(world.upload(numbered(1))))
    assert b"\n" not in raw
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)


def test_faults_of_text_come_with_those_of_the_row() -> None:
    world = driver(row__lone_surrogate=Fault(), row__doubled=Fault(), row__key_dropped=Fault())
    one, other = output_of(world, inline=False, rows=1)
    assert one == other
    decoded: Any = json.loads(one)
    assert "key" not in decoded
    assert text_of(decoded["response"]).endswith("\ud83d")
