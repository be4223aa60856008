"""``carpool map`` run again, after a kill, a torn line, errors, lost replies: all is there, nothing is paid twice."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from carpool.emulator import Fault, Plan, expected_text

from .program import MODEL, Inside, Program, Service, finish, kill, prompts, read_rows, text_of, wait_until, write_rows

ROWS = 5_000
LAST_JOB_IS_LATE = {"output.late": Fault(after=9, count=1, seconds=2)}
"""So that no run is over before it is killed."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def start(program: Program) -> subprocess.Popen[str]:
    return program.start("map", "in.jsonl", "out.jsonl", "--model", MODEL)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def assert_complete(service: Service, target: Path, count: int) -> None:
    rows = read_rows(target)
    assert {key: text_of(row) for key, row in rows.items()} == {
        f"k{number}": expected_text(f"prompt {number}") for number in range(count)
    }
    ledger = service.ledger
    assert ledger.twice == []
    assert ledger.rows_billed == count
    assert all(job.state == "SUCCEEDED" for job in service.jobs)


def test_a_kill_in_the_middle_of_the_answers(program: Program, service: Service, source: Path, target: Path) -> None:
    service.play(Plan(latency_s=(0.2, 1.0), faults=LAST_JOB_IS_LATE))
    write_rows(source, prompts(ROWS))
    with start(program) as process:
        wait_until(lambda: size_of(target) > 0, process)
        kill(process)
    done = program.map("in.jsonl", "out.jsonl", "--json")
    assert done.code == 0, done.err
    assert done.data["rows"] == ROWS
    assert_complete(service, target, ROWS)


def test_kill_after_kill(program: Program, service: Service, source: Path, target: Path) -> None:
    """At the first byte in the store, with jobs on their way up, and with answers on their way down."""
    service.play(Plan(latency_s=(0.2, 1.0), faults=LAST_JOB_IS_LATE))
    write_rows(source, prompts(ROWS))
    store = program.folder / "home"
    conditions = [
        lambda: any(path.name == "cache.db-wal" and path.stat().st_size for path in store.rglob("*")),
        lambda: len(service.jobs) >= 2,
        lambda: len(service.ledger.jobs) >= 4,
        lambda: size_of(target) > 0,
    ]
    for condition in conditions:
        with start(program) as process:
            wait_until(condition, process)
            kill(process)
    done = program.map("in.jsonl", "out.jsonl")
    assert done.code == 0, done.err
    assert_complete(service, target, ROWS)


def test_a_create_that_was_applied_without_an_answer_and_a_kill(
    program: Program, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(latency_s=(0.2, 1.0), faults={"create.dropped_after_apply": Fault(count=1), **LAST_JOB_IS_LATE}))
    write_rows(source, prompts(ROWS))
    with start(program) as process:
        wait_until(lambda: size_of(target) > 0, process)
        kill(process)
    done = program.map("in.jsonl", "out.jsonl")
    assert done.code == 0, done.err
    assert_complete(service, target, ROWS)


def test_a_create_that_was_applied_without_an_answer(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(latency_s=0.2, faults={"create.dropped_after_apply": Fault(count=1)}))
    write_rows(source, prompts(600))
    done = inside.map("in.jsonl", "out.jsonl")
    assert done.code == 0, done.err
    assert_complete(service, target, 600)


def test_ctrl_c_leaves_what_was_sent_for_the_next_run(
    program: Program, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(latency_s=2.0))
    write_rows(source, prompts(50))
    with start(program) as process:
        wait_until(lambda: len(service.jobs) == 1, process)
        process.send_signal(2)
        stopped = finish(process)
    assert stopped.code == 130
    assert "run the same command again" in stopped.err
    assert "Traceback" not in stopped.err
    assert service.jobs[0].state != "CANCELLED"
    done = program.map("in.jsonl", "out.jsonl", "--json")
    assert (done.code, done.data["answered"]) == (0, 50)
    assert_complete(service, target, 50)
    assert len(service.jobs) == 1


def test_a_torn_last_line_is_cut_off_and_its_row_comes_back_from_the_store(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    write_rows(source, prompts(20))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    whole = target.read_bytes()
    lines = whole.splitlines(keepends=True)
    before = b"".join(lines[:-1])
    target.write_bytes(before + lines[-1][:-5])
    done = inside.map("in.jsonl", "out.jsonl", "--json")
    assert done.code == 0, done.err
    assert target.read_bytes() == whole
    assert (done.data["skipped"], done.data["reused"]) == (19, 1)
    assert_complete(service, target, 20)


def test_rows_with_an_error_are_asked_again_and_the_others_are_not(
    inside: Inside, service: Service, source: Path, target: Path
) -> None:
    service.play(Plan(faults={"row.error": Fault(every=3, code=400, message="no")}))
    write_rows(source, prompts(30))
    first = inside.map("in.jsonl", "out.jsonl", "--json")
    assert (first.code, first.data["failed"]) == (1, 10)
    target.chmod(0o640)
    kept = {key for key, row in read_rows(target).items() if "response" in row}

    service.play(Plan())
    second = inside.map("in.jsonl", "out.jsonl", "--json")
    assert second.code == 0, second.err
    assert "10 rows of out.jsonl with an error will be asked again" in second.err
    assert (second.data["answered"], second.data["skipped"]) == (10, 20)
    assert_complete(service, target, 30)
    assert len(kept) == 20
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in inside.folder.iterdir()) == ["home", "in.jsonl", "out.jsonl"], (
        "no file is left behind"
    )


def test_a_complete_output_needs_no_server(inside: Inside, service: Service, source: Path, target: Path) -> None:
    write_rows(source, prompts(3))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    before, calls = target.read_bytes(), service.calls
    done = inside.map("in.jsonl", "out.jsonl", "--json", CARPOOL_BASE_URL="http://127.0.0.1:9")
    assert (done.code, done.data["skipped"], done.data["receipt"]["requests"]) == (0, 3, 0)
    assert target.read_bytes() == before
    assert service.calls == calls


def test_new_rows_of_a_grown_input_are_added(inside: Inside, service: Service, source: Path, target: Path) -> None:
    write_rows(source, prompts(3))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    write_rows(source, prompts(5))
    done = inside.map("in.jsonl", "out.jsonl", "--json")
    assert (done.data["answered"], done.data["skipped"]) == (2, 3)
    assert_complete(service, target, 5)


def test_line_separators_of_unicode_are_no_line_breaks(inside: Inside, source: Path, target: Path) -> None:
    write_rows(source, [{"key": "k\u2028\u00e9", "prompt": "line\u2028separator \u00e9"}])
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    lines = target.read_bytes().split(b"\n")
    assert len(lines) == 2
    row = json.loads(lines[0])
    assert row["key"] == "k\u2028\u00e9"
    assert text_of(row) == expected_text("line\u2028separator \u00e9")
