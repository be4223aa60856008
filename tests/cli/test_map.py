"""``carpool map``: rows in, answers out, and what is wrong with rows, files and keys."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carpool.emulator import Fault, Plan, expected_text

from .program import (
    API_KEY,
    EMBED_MODEL,
    MODEL,
    Child,
    Inside,
    Program,
    Service,
    finish,
    prompts,
    read_rows,
    text_of,
    write_rows,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


CAPPED: dict[str, Any] = {"generationConfig": {"maxOutputTokens": 10}}


def request_of(text: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": text}], "role": "user"}]}


def test_every_row_gets_its_own_answer_and_the_books_agree(
    program: Program, service: Service, source: Path, target: Path
) -> None:
    rows = [*prompts(700), *({"key": f"r{n}", "request": request_of(f"request {n}")} for n in range(700))]
    write_rows(source, rows)
    done = program.map("in.jsonl", "out.jsonl", "--json")
    assert done.code == 0, done.err
    answers = read_rows(target)
    assert {key: text_of(row) for key, row in answers.items()} == {
        **{f"k{n}": expected_text(f"prompt {n}") for n in range(700)},
        **{f"r{n}": expected_text(f"request {n}") for n in range(700)},
    }
    assert all(set(row) == {"key", "response"} for row in answers.values())

    ledger = service.ledger
    assert (ledger.rows_billed, ledger.twice) == (1_400, [])
    assert done.out.count("\n") == 1
    data = done.data
    receipt = data.pop("receipt")
    assert data == {"rows": 1_400, "answered": 1_400, "failed": 0, "skipped": 0, "reused": 0, "jobs": len(ledger.jobs)}
    assert receipt["requests"] == 1_400
    assert receipt["paid_usd"] > 0
    assert "1,400 of 1,400 done" in done.err
    assert API_KEY not in done.out + done.err


def test_without_json_a_receipt_goes_to_stderr(inside: Inside, source: Path) -> None:
    write_rows(source, prompts(3))
    done = inside.map("in.jsonl", "out.jsonl")
    assert (done.code, done.out) == (0, "")
    for words in ("3 rows in out.jsonl: 3 answered now, 0 before, 0 with an error", "Receipt", "list price", "saved"):
        assert words in done.err


def test_embeddings(inside: Inside, source: Path, target: Path) -> None:
    content = {"content": {"parts": [{"text": "one"}]}, "outputDimensionality": 8}
    write_rows(source, [{"key": "a", "request": content}, {"key": "b", "prompt": "two"}])
    done = inside.run("map", "in.jsonl", "out.jsonl", "--model", EMBED_MODEL, "--kind", "embed")
    assert done.code == 0, done.err
    rows = read_rows(target)
    assert len(rows["a"]["response"]["embedding"]["values"]) == 8
    assert len(rows["b"]["response"]["embedding"]["values"]) > 8


@pytest.mark.parametrize(
    ("kind", "model", "bad", "good", "hint"),
    [
        (
            "embed",
            EMBED_MODEL,
            request_of("x"),
            {"content": {"parts": [{"text": "x"}]}},
            "An embedding row says 'content'",
        ),
        ("generate", MODEL, {"content": {"parts": [{"text": "x"}]}}, request_of("x"), "A generate row says 'contents'"),
    ],
)
def test_a_row_of_the_other_kind_is_refused_with_the_right_field(
    inside: Inside,
    service: Service,
    source: Path,
    target: Path,
    *,
    kind: str,
    model: str,
    bad: Any,
    good: Any,
    hint: str,
) -> None:
    write_rows(source, [{"key": "bad", "request": bad}, {"key": "good", "request": good}])
    done = inside.run("map", "in.jsonl", "out.jsonl", "--model", model, "--kind", kind, "--json")
    assert done.code == 1
    rows = read_rows(target)
    assert set(rows["good"]) == {"key", "response"}
    assert set(rows["bad"]["error"]) == {"code", "status", "message", "type"}
    assert rows["bad"]["error"]["type"] == "ConfigurationError"
    assert hint in rows["bad"]["error"]["message"]
    assert hint in done.err
    assert (done.data["answered"], done.data["failed"]) == (1, 1)
    assert service.ledger.rows_billed == 1


def test_rows_without_a_key_are_told_apart_by_content_and_occurrence(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    """The same row twice is two requests; the same file again is none."""
    write_rows(source, [{"prompt": "same"}, {"prompt": "same"}, {"prompt": "other"}, {"request": request_of("same")}])
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    rows = read_rows(target)
    assert sorted(map(text_of, rows.values())) == sorted([expected_text("same")] * 3 + [expected_text("other")])
    assert service.ledger.rows_billed == 4

    # The order of fields and the blanks between them are not content.
    source.write_text(
        '{"prompt":"other"}\n\n{"prompt" : "same"}\n{"prompt":"same"}\n'
        '{"request": {"contents": [{"role": "user", "parts": [{"text": "same"}]}]}}\n'
    )
    again = inside.map("in.jsonl", "out.jsonl", "--json")
    assert (again.code, again.data["skipped"], again.data["answered"]) == (0, 4, 0)
    assert read_rows(target) == rows

    target.unlink()
    from_store = inside.map("in.jsonl", "out.jsonl", "--json")
    assert (from_store.code, from_store.data["reused"], from_store.data["receipt"]["requests"]) == (0, 4, 0)
    assert read_rows(target) == rows
    assert service.ledger.rows_billed == 4


def test_the_servers_error_is_the_rows_error(inside: Inside, service: Service, source: Path, target: Path) -> None:
    service.play(
        Plan(faults={"row.error": Fault(after=1, count=1, code=400, message="no\nway", status="INVALID_ARGUMENT")})
    )
    write_rows(source, prompts(3))
    done = inside.map("in.jsonl", "out.jsonl", "--json")
    assert done.code == 1
    error = {"code": 400, "status": "INVALID_ARGUMENT", "message": "no\nway", "type": "RequestRejected"}
    assert read_rows(target)["k1"] == {"key": "k1", "error": error}
    assert (done.data["answered"], done.data["failed"]) == (2, 1)


def test_streams(program: Program, service: Service) -> None:
    text = "".join(json.dumps(row) + "\n" for row in prompts(5)) + '{"key":"last","prompt":"no line break"}'
    done = program.map("-", "-", "--json", text=text)
    assert done.code == 0, done.err
    rows = {row["key"]: row for row in map(json.loads, done.out.splitlines())}
    assert set(rows) == {"k0", "k1", "k2", "k3", "k4", "last"}
    assert json.loads(done.err.splitlines()[-1])["answered"] == 6
    assert service.ledger.rows_billed == 6


def test_a_stream_gets_answers_while_it_is_still_open(program: Program) -> None:
    with program.start("map", "-", "-", "--model", MODEL, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(json.dumps({"key": f"k{number}", "prompt": f"prompt {number}"}) + "\n")
            process.stdin.flush()
            row = json.loads(process.stdout.readline())
            assert (row["key"], text_of(row)) == (f"k{number}", expected_text(f"prompt {number}"))
        process.stdin.close()
        assert process.wait() == 0


def test_a_bad_line_of_a_stream_ends_it_and_the_rows_before_it_are_answered(program: Program, service: Service) -> None:
    done = program.map("-", "-", text='{"key":"a","prompt":"x"}\n{"key":\n{"key":"b","prompt":"x"}\n')
    assert done.code == 2
    assert [json.loads(line)["key"] for line in done.out.splitlines()] == ["a"]
    assert "standard input, line 2: it is not JSON" in done.err
    assert service.ledger.rows_billed == 1


def test_a_key_that_a_stream_has_twice_ends_it(program: Program, service: Service) -> None:
    done = program.map("-", "-", text='{"key":"a","prompt":"x"}\n{"key":"a","prompt":"y"}\n')
    assert done.code == 2
    assert "standard input, line 2: its key 'a' was there before" in done.err
    assert service.ledger.rows_billed == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"key":"a","prompt":"x"}\nnot json\n', "line 2: it is not JSON"),
        ('{"key":"a","prompt":"\ud800"}\n'.encode("utf-8", "surrogatepass"), "line 1: it is not JSON in UTF-8"),
        ('\n\n{"key":"a"}\n', "line 3: a row is"),
        ('{"key":"a","prompt":"x","request":{}}', "line 1: a row is"),
        ('{"key":7,"prompt":"x"}', "line 1: Expected `str | null`, got `int`"),
        ('{"key":"","prompt":"x"}', "line 1: its key has 0 characters"),
        (json.dumps({"key": "k" * 513, "prompt": "x"}), "line 1: its key has 513 characters"),
        ('{"key":"a","contents":[]}', "line 1: Object contains unknown field `contents`"),
        ("[1]", "line 1: Expected `object`, got `array`"),
        (
            '{"key":"a","prompt":"x"}\n{"key":"b","prompt":"x"}\n{"key":"a","prompt":"x"}\n',
            "on line 1 and again on line 3",
        ),
        ('{"prompt":"' + "x" * 70_000 + '"}', "line 1: it is longer than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_costs_nothing(
    inside: Inside, service: Service, source: Path, target: Path, *, text: str | bytes, words: str
) -> None:
    source.write_bytes(text.encode() if isinstance(text, str) else text)
    done = inside.map("in.jsonl", "out.jsonl", CARPOOL_LINE_BYTES_MAX="65536")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert done.err.startswith("carpool: in.jsonl")
    assert done.err.count("\n") == 1
    assert not target.exists()
    assert service.calls == 0


@pytest.mark.parametrize(
    "text", ["my thesis\n", "my thesis", '{"key":"a","request":{}}\n', '{"key":"a","response":{}}\nmy thesis\n', "\n"]
)
def test_a_file_that_is_no_output_is_left_alone(
    inside: Inside, service: Service, source: Path, target: Path, text: str
) -> None:
    write_rows(source, prompts(1))
    target.write_text(text)
    done = inside.map("in.jsonl", "out.jsonl")
    assert done.code == 2
    assert "this is not an output row of carpool map" in done.err
    assert target.read_text() == text
    assert service.calls == 0


def test_an_output_that_cannot_be_one_is_refused(inside: Inside, service: Service, source: Path) -> None:
    write_rows(source, prompts(1))
    for target, words in (
        ("in.jsonl", "is both input and output"),
        (".", "Is a directory"),
        ("no/out", "No such file"),
    ):
        done = inside.map("in.jsonl", target)
        assert done.code == 2
        assert words in done.err
        assert done.err.count("\n") == 1
    assert service.calls == 0


def test_a_key_that_was_given_with_another_request_fails_alone(inside: Inside, source: Path, target: Path) -> None:
    write_rows(source, prompts(2))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    write_rows(source, [{"key": "k0", "prompt": "something else"}, {"key": "k2", "prompt": "new"}])
    target.unlink()
    assert inside.map("in.jsonl", "out.jsonl").code == 1
    rows = read_rows(target)
    assert rows["k0"]["error"]["type"] == "KeyConflict"
    assert text_of(rows["k2"]) == expected_text("new")


def test_an_output_that_is_being_written_is_not_written_by_another(
    program: Program, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(latency_s=600))
    write_rows(source, prompts(1))
    with program.start("map", "in.jsonl", "out.jsonl", "--model", MODEL) as first:
        assert first.stderr is not None
        assert "in jobs" in first.stderr.readline()
        second = program.map("in.jsonl", "out.jsonl")
        first.terminate()
        ended = finish(first)
    assert second.code == 2
    assert "out.jsonl is being written by another carpool map" in second.err
    assert ended.code == 130
    assert "run the same command again" in ended.err


def test_a_terminal_gets_a_bar_and_the_receipt(program: Program, source: Path) -> None:
    write_rows(source, prompts(3))
    terminal, end = pty.openpty()
    with Child(
        [sys.executable, "-m", "carpool", "map", "in.jsonl", "out.jsonl", "--model", MODEL],
        cwd=program.folder,
        env=program.environ | {"TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=end,
    ) as process:
        os.close(end)
        shown = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
        assert process.wait() == 0
    os.close(terminal)
    assert "3/3" in shown
    assert "0 waiting, 0 in jobs" in shown
    assert "Receipt" in shown
    assert "carpool: 3 of 3 done" not in shown


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the other end is closed
        return b""


def test_an_output_that_is_no_file_is_a_stream(inside: Inside, source: Path) -> None:
    write_rows(source, prompts(2))
    done = inside.map("in.jsonl", "/dev/null", "--json")
    assert (done.code, done.data["answered"]) == (0, 2)


def test_a_server_that_is_not_there_fails_the_rows(inside: Inside, source: Path, target: Path) -> None:
    write_rows(source, prompts(2))
    done = inside.map("in.jsonl", "out.jsonl", "--base-url", "http://127.0.0.1:9", CARPOOL_FIRST_CONTACT_S="0.3")
    assert done.code == 1
    assert {row["error"]["type"] for row in read_rows(target).values()} == {"RequestFailed"}
    assert "cannot be reached" in done.err


def test_a_home_that_cannot_be_used_is_said(inside: Inside, source: Path, tmp_path: Path) -> None:
    write_rows(source, prompts(1))
    done = inside.map("in.jsonl", "out.jsonl", "--home", str(source))
    assert done.code == 2
    assert "home" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_is_heeded_while_a_stream_is_silent(program: Program, name: str) -> None:
    with program.start("map", "-", "-", "--model", MODEL, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write('{"key":"a","prompt":"x"}\n')
        process.stdin.flush()
        assert "in jobs" in process.stderr.readline()
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == 130
        assert "interrupted" in process.stderr.read()


@pytest.mark.parametrize(("named", "taken"), [("fast", "standard"), ("flex, standard", "flex"), ("batch", "batch")])
def test_rows_take_the_ladder_that_is_named(named: str, taken: str, inside: Inside, source: Path, target: Path) -> None:
    write_rows(source, prompts(2))
    done = inside.map("in.jsonl", "out.jsonl", "--ladder", named, "--json")
    assert done.code == 0
    assert {route for route, sums in json.loads(done.out)["receipt"]["by_route"].items() if sums["requests"]} == {taken}
    assert inside.map("in.jsonl", "other.jsonl", "--ladder", "quick").code == 2


def test_progress_tells_what_was_paid_by_route(inside: Inside, source: Path) -> None:
    write_rows(source, prompts(2))
    said = inside.map("in.jsonl", "out.jsonl", "--ladder", "fast").err.splitlines()
    ended = r"carpool: 2 of 2 done, 0 waiting, 0 in jobs, paid: \$0\.0\d+ \(standard\)"
    assert any(re.fullmatch(ended, line) for line in said), said
    done = inside.map("in.jsonl", "more.jsonl", "--ladder", "batch", "--json", CARPOOL_HOME="other")
    paid = json.loads(done.out)["receipt"]["by_route"]["batch"]["paid_usd"]
    assert f"paid: ${paid:.9f} (batch)" in done.err.splitlines()[-1]


def test_rows_beyond_the_budget_have_an_error_and_are_asked_when_there_is_one(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    write_rows(source, [{"key": f"k{n}", "request": request_of("x") | CAPPED} for n in range(10)])
    capped = inside.map("in.jsonl", "out.jsonl", CARPOOL_BUDGET_PER_DAY_USD="0.0002")
    assert capped.code == 1
    rows = read_rows(target)
    refused = {key for key, row in rows.items() if "error" in row}
    assert {rows[key]["error"]["type"] for key in refused} == {"BudgetExceeded"}
    assert service.ledger.rows_billed == 10 - len(refused) == 4, "what there is money for is sent"
    assert "the first row with an error: request 'k4'" in capped.err
    assert "Settings.budget_per_day_usd" in capped.err
    assert inside.map("in.jsonl", "out.jsonl", CARPOOL_BUDGET_PER_DAY_USD="1").code == 0
    assert service.ledger.rows_billed == 10


def test_a_missed_deadline_is_exit_3_and_the_next_run_gets_what_was_sent(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(latency_s=0.6))
    write_rows(source, prompts(2))
    late = inside.map("in.jsonl", "out.jsonl", "--deadline", "0.3s", "--ladder", "batch")
    assert late.code == 3
    assert {row["error"]["type"] for row in read_rows(target).values()} == {"DeadlineExceeded"}
    done = inside.map("in.jsonl", "out.jsonl", "--deadline", "1h", "--ladder", "batch")
    assert done.code == 0
    assert {key: text_of(row) for key, row in read_rows(target).items()} == {
        f"k{number}": expected_text(f"prompt {number}") for number in range(2)
    }
    assert service.ledger.rows_billed == 2
    assert inside.map("in.jsonl", "out.jsonl", "--deadline", "soon").code == 2
