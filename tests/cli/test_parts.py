"""The parts of the command line, one by one: keys, rows, output files, streams, progress, money."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import cast

import msgspec
import pytest

from carpool import GenerateResponse, Outcome, Receipt, RequestFailed, RouteTotals, Stats
from carpool._tables import usd
from carpool.cli.console import UsageError, counted
from carpool.cli.fingerprints import Fingerprints
from carpool.cli.output import Output, on_one_line, row_of
from carpool.cli.progress import Counts, Lines, counts_of, jobs_in_words, ticking
from carpool.cli.receipt import print_receipt, receipt_data
from carpool.cli.rows import BadRow, RowReader, check_input
from carpool.cli.source import lines_of


class Answer:
    """What an output needs of a response."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


def answered(key: str, raw: bytes) -> Outcome:
    return Outcome(key=key, response=cast("GenerateResponse", Answer(raw)))


# -- keys


def test_fingerprints_are_a_set() -> None:
    rng = random.Random(7)
    keys = [f"key {rng.randrange(20_000)}" for _ in range(30_000)]
    found, expected = Fingerprints(), set[str]()
    for key in keys:
        assert found.add(key) is (key not in expected)
        expected.add(key)
    assert len(found) == len(expected)
    assert all(f"key {number}" in found for number in range(20_000) if f"key {number}" in expected)
    assert not any(f"other {number}" in found for number in range(20_000))


def test_fingerprints_take_keys_that_utf_8_does_not() -> None:
    found = Fingerprints()
    assert found.add("\ud800")
    assert "\ud800" in found
    assert "\ud801" not in found


# -- rows


def key_of(reader: RowReader, line: str) -> str | None:
    request = reader.read(line.encode())
    return None if request is None else request.key


def test_a_request_passes_on_as_it_is_written() -> None:
    reader = RowReader("in", "m", "generate", 1_000)
    request = reader.read(b'{"request": {"contents" : [1.50, "\\u00e9"]}, "key": "a"}\n')
    assert request is not None
    assert (request.key, request.model, request.kind) == ("a", "m", "generate")
    assert request.body == b'{"contents" : [1.50, "\\u00e9"]}'


def test_keys_of_rows_without_one_depend_on_content_model_kind_and_occurrence() -> None:
    rows = ['{"request":{"a":1,"b":2}}', '{"request":{"b":2, "a":1}}', '{"request":{"a":2,"b":1}}', '{"prompt":"x"}']
    first, second, third, prompt = (key_of(RowReader("in", "m", "generate", 1_000), row) for row in rows)
    assert first == second
    assert len({first, third, prompt}) == 3
    assert key_of(RowReader("in", "models/m", "generate", 1_000), rows[0]) == first
    assert key_of(RowReader("in", "n", "generate", 1_000), rows[0]) != first
    assert key_of(RowReader("in", "m", "embed", 1_000), rows[0]) != first

    reader = RowReader("in", "m", "generate", 1_000)
    repeated = [key_of(reader, rows[0]) for _ in range(4)]
    assert first is not None
    assert repeated == [f"{first[:-2]}.{number}" for number in (1, 2, 3, 4)]


def test_a_prompt_that_looks_like_a_request_is_not_one() -> None:
    request, prompt = '{"request":{"a":1}}', json.dumps({"prompt": '{"a":1}'})
    assert key_of(RowReader("in", "m", "generate", 1_000), request) != key_of(
        RowReader("in", "m", "generate", 1_000), prompt
    )


def test_a_request_in_broken_utf_8_is_left_to_the_row() -> None:
    request = RowReader("in", "m", "generate", 1_000).read(b'{"request":{"a":"\xff"}}')
    assert request is not None
    assert request.body == b'{"a":"\xff"}'


def test_deep_nesting_is_a_bad_row() -> None:
    with pytest.raises(BadRow, match="in, line 1: "):
        RowReader("in", "m", "generate", 1_000_000).read(b'{"request":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_checked_file_is_counted_without_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b'{"prompt":"a"}\n\n  \r\n{"prompt":"a"}\r\n{"key":"b","prompt":"a"}')
    assert check_input(path, "m", "generate", 1_000) == 3


# -- output


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b'{ "a" : 1 }', b'{ "a" : 1 }'),
        (b'{\n  "a": "x\\ny",\r\n  "b": [\n    1.50\n  ]\n}', b'{"a":"x\\ny","b":[1.50]}'),
        (b'{\n"a": "\\ud800"}', b'{ "a": "\\ud800"}'),
        ('{"a":"\u2028"}'.encode(), '{"a":"\u2028"}'.encode()),
    ],
    ids=["untouched", "pretty", "lone surrogate", "line separator"],
)
def test_an_answer_is_one_line_whatever_its_layout(raw: bytes, line: bytes) -> None:
    assert on_one_line(raw) == line
    assert row_of(answered('k"1', raw)) == b'{"key":"k\\"1","response":' + line + b"}\n"


def test_an_error_row_holds_the_servers_words() -> None:
    error = RequestFailed("what is shown", key="k", code=503, status="UNAVAILABLE", message="the server's\nwords")
    row = row_of(Outcome(key="k", error=error))
    assert row.count(b"\n") == 1
    assert json.loads(row) == {
        "key": "k",
        "error": {"code": 503, "status": "UNAVAILABLE", "message": "the server's\nwords", "type": "RequestFailed"},
    }


ROWS = b'{"key":"a","response":{"x":1}}\n{"key":"b","response":{"x":2}}\n'


@pytest.mark.parametrize("torn", [b"", b"{", b'{"key":"c', b'{"key":"c","response":{"x"', b"\0", b"\0" * 5_000])
def test_what_a_kill_or_a_power_cut_leaves_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(ROWS + torn)
    output = Output.open(str(path))
    output.write(answered("c", b"{}"))
    output.close()
    assert path.read_bytes() == ROWS + b'{"key":"c","response":{}}\n'
    assert ("a" in output.done, "b" in output.done, "c" in output.done) == (True, True, False)


def test_a_last_row_without_its_line_break_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(ROWS[:-1])
    output = Output.open(str(path))
    output.write(answered("c", b"{}"))
    output.close()
    assert path.read_bytes() == ROWS + b'{"key":"c","response":{}}\n'
    assert "b" in output.done


def test_error_rows_are_taken_out_and_the_rest_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'{"key":"e","error":{"code":1}}\n' + ROWS + b'{"key":"f","error":{}}\n{"key":"g","err')
    output = Output.open(str(path))
    assert output.retried == 2
    assert ("a" in output.done, "e" in output.done) == (True, False)
    output.write(answered("e", b"{}"))
    output.close()
    assert path.read_bytes() == ROWS + b'{"key":"e","response":{}}\n'
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_an_output_through_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b'{"key":"e","error":{}}\n' + ROWS)
    link.symlink_to(real)
    Output.open(str(link)).close()
    assert link.is_symlink()
    assert real.read_bytes() == ROWS


def test_an_output_in_use_is_refused_also_behind_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b'{"key":"e","error":{}}\n')
    first = Output.open(str(path))
    with pytest.raises(UsageError, match="is being written by another"):
        Output.open(str(path))
    first.close()
    Output.open(str(path)).close()


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_bytes(ROWS)
    real = fcntl.flock

    def replaced_before_the_lock(file: object, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (tmp_path / "new").write_bytes(ROWS[:31])
        (tmp_path / "new").replace(path)
        real(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", replaced_before_the_lock)
    output = Output.open(str(path))
    assert len(output.done) == 1
    output.close()


# -- sources


async def collect(source: str, line_bytes_max: int = 1_000) -> list[bytes]:
    return [line async for line in lines_of(source, line_bytes_max)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\nb", [b"a\n", b"b"]),
        (b"a\r\n\nb\xe2\x80\xa8c\x85\n", [b"a\r\n", b"\n", b"b\xe2\x80\xa8c\x85\n"]),
        (b"x" * 1_001 + b"\na\n", [b"x" * 1_001 + b"\n", b"a\n"]),
    ],
)
async def test_lines_are_cut_at_line_feeds_only(tmp_path: Path, text: bytes, lines: list[bytes]) -> None:
    path, pipe = tmp_path / "file", tmp_path / "pipe"
    path.write_bytes(text)
    os.mkfifo(pipe)
    if len(text) <= 1_000:
        assert await collect(str(path)) == lines
    fed = asyncio.get_running_loop().run_in_executor(None, pipe.write_bytes, text)
    assert await collect(str(pipe)) == lines
    await fed


async def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path, pipe = tmp_path / "file", tmp_path / "pipe"
    path.write_bytes(b"x" * 10_000)
    lines = await collect(str(path), 1_000)
    assert len(lines[0]) == 1_001
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR)
    os.write(handle, b"x" * 50_000)
    [line] = await collect(str(pipe), 1_000)
    assert 1_000 < len(line) <= 65_536
    os.close(handle)


async def test_a_source_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await collect(str(tmp_path / "nothing"))


# -- progress and money


def counts(done: int, total: int | None = 100) -> Counts:
    return Counts(total=total, done=done, failed=0, waiting=0, in_jobs=100 - done, jobs="")


def test_lines_come_a_second_apart_later_a_minute_and_the_end_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = Lines(lambda: now)

    def shown(at: float, done: int) -> bool:
        nonlocal now
        now = at
        lines.show(counts(done))
        return bool(capsys.readouterr().err)

    assert shown(0.0, 1)
    assert not shown(0.5, 2)
    assert shown(1.0, 2)
    assert not shown(5.0, 2), "nothing new"
    assert shown(7_200.0, 3)
    assert not shown(7_259.0, 4)
    assert shown(7_260.0, 4)
    assert shown(7_260.1, 100)


def route_totals(paid: str) -> RouteTotals:
    return RouteTotals(requests=1, list_usd=Decimal(1), paid_usd=Decimal(paid))


def stats_of(**given: int) -> Stats:
    return Stats(**dict.fromkeys(Stats.__struct_fields__, 0) | given)


@pytest.mark.parametrize(
    ("paid", "words"),
    [
        ({}, "5 waiting, 30 in jobs, 15 live, 3 failed, jobs: 2 open"),
        ({"batch": "0.25"}, "5 waiting, 30 in jobs, 15 live, 3 failed, jobs: 2 open, paid: $0.250000 (batch)"),
        (
            {"batch": "0.25", "standard": "2"},
            "5 waiting, 30 in jobs, 15 live, 3 failed, jobs: 2 open, paid: $2.2500 (batch $0.2500 + standard $2.0000)",
        ),
    ],
)
def test_progress_tells_where_requests_are_and_what_was_paid(paid: dict[str, str], words: str) -> None:
    receipt = Receipt(
        by_route={route: route_totals(usd) for route, usd in paid.items()},
        doubles=0,
        overrun_usd=Decimal(0),
        unknown_cost=0,
    )
    stats = stats_of(sent=30, waiting=20, live=15)
    told = counts_of(stats, receipt, total=100, done=50, failed=3, outstanding=50, jobs="2 open")
    assert told.words() == words
    assert (told.total, told.done) == (100, 50)


@pytest.mark.parametrize(
    ("stats", "outstanding", "told"),
    [
        ({}, 5, (5, 0, 0)),
        ({"sent": 9}, 5, (0, 5, 0)),  # of other requests, or of answers that are being given
        ({"sent": 3, "live": 9}, 5, (0, 3, 2)),  # some are in a job and on a live route
        ({"waiting": 9, "live": 2}, 5, (3, 0, 2)),
        ({"waiting": 9}, 0, (0, 0, 0)),
    ],
)
def test_no_request_is_in_two_places(stats: dict[str, int], outstanding: int, told: tuple[int, int, int]) -> None:
    receipt = Receipt(by_route={}, doubles=0, overrun_usd=Decimal(0), unknown_cost=0)
    found = counts_of(stats_of(**stats), receipt, total=None, done=0, failed=0, outstanding=outstanding, jobs="")
    assert (found.waiting, found.in_jobs, found.live) == told


def test_live_calls_alone_are_something(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().show(Counts(total=None, done=0, failed=0, waiting=0, in_jobs=0, live=1, jobs=""))
    assert capsys.readouterr().err == "carpool: 0 done, 0 waiting, 0 in jobs, 1 live\n"


def test_nothing_is_said_before_anything_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().show(Counts(total=None, done=0, failed=0, waiting=0, in_jobs=0, jobs=""))
    assert capsys.readouterr().err == ""


async def fail_within(tick: Callable[[], Awaitable[None]]) -> None:
    async with ticking(tick):
        await asyncio.sleep(0)
        raise KeyError("the block")


async def test_what_a_tick_raises_is_not_lost() -> None:
    async def tick() -> None:
        raise RuntimeError("the tick")

    with pytest.raises(RuntimeError, match="the tick"):
        async with ticking(tick):
            await asyncio.sleep(0)
    with pytest.raises(KeyError, match="the block"):
        await fail_within(tick)


def test_jobs_in_words() -> None:
    assert jobs_in_words({"RUNNING": 1, "PARTIALLY_SUCCEEDED": 2}) == "2 partially succeeded, 1 running"
    assert jobs_in_words({}) == ""
    assert (counted(1, "row"), counted(1_000, "row")) == ("1 row", "1,000 rows")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("0.00000015", "$0.000000150"),
        ("0.3114795", "$0.311480"),
        ("12.5", "$12.5000"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_small_amounts_have_more_digits(amount: str, shown: str) -> None:
    assert usd(Decimal(amount), Decimal(amount)) == shown


def test_amounts_side_by_side_have_as_many_digits() -> None:
    assert usd(Decimal("51.35"), Decimal("102.70")) == "$51.35"


def test_a_receipt_tells_all_routes_and_what_has_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    routes = {
        "batch": RouteTotals(requests=3, list_usd=Decimal(2), paid_usd=Decimal(1)),
        "standard": RouteTotals(requests=1, list_usd=Decimal(1), paid_usd=Decimal(1)),
    }
    receipt = Receipt(
        by_route=routes,
        doubles=1,
        overrun_usd=Decimal("0.25"),
        unknown_cost=2,
        double_usd=Decimal("0.5"),
        lost_usd=Decimal("0.125"),
    )
    print_receipt(receipt, jobs=7, file=sys.stdout)
    shown = capsys.readouterr().out
    for words in (
        "batch",
        "standard",
        "$2.0000",
        "Without a price",
        "known: 2.",
        "twice: 1; paid or lost for that: $0.5",
    ):
        assert words in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["all", "4", "$3.0000", "$2.0000", "$1.0000"] in rows
    print_receipt(
        msgspec.structs.replace(Receipt.empty(), by_route={"batch": routes["batch"]}), jobs=1, file=sys.stdout
    )
    assert "all" not in capsys.readouterr().out, "one route is all there is"
    assert "reserved: $0.2500." in shown
    assert "its cost: $0.1250." in shown
    data = msgspec.json.decode(msgspec.json.Encoder(decimal_format="number").encode(receipt_data(receipt)))
    assert (data["requests"], data["list_usd"], data["paid_usd"], data["saved_usd"]) == (4, 3, 2, 1)
    assert (data["doubles"], data["overrun_usd"], data["double_usd"], data["lost_usd"]) == (1, 0.25, 0.5, 0.125)
    assert data["by_route"]["batch"] == {"requests": 3, "list_usd": 2, "paid_usd": 1, "saved_usd": 1}
