"""``carpool jobs watch|rm|results`` and ``carpool files``."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from carpool import JobError
from carpool._jobs import Jobs
from carpool.cli.watch import words_of
from carpool.emulator import Fault, Plan, expected_text
from carpool.types import BatchJob, JobStats, ServerError

from .program import Inside, Program, Service, finish, wait_until


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- watch


def test_watch_tells_each_change_and_ends_with_the_jobs(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0.3))
    names = [service.create_job("one"), service.create_job("two", "three")]
    done = inside.run("jobs", "watch", "--every", "0.02", "--json")
    assert (done.code, done.err) == (0, "")
    told = rows_of(done.out)
    assert {job["name"] for job in told} == set(names)
    assert {job["name"]: job["state"] for job in told} == dict.fromkeys(names, "SUCCEEDED")
    states = [(job["name"], job["state"], json.dumps(job["stats"])) for job in told]
    assert len(set(states)) == len(states), "nothing is told twice"

    lines = inside.run("jobs", "watch", *names, names[0].removeprefix("batches/"))
    assert lines.code == 0
    assert lines.out == f"{names[0]}: SUCCEEDED: 1 of 1 answered\n{names[1]}: SUCCEEDED: 2 of 2 answered\n"


def test_watch_of_nothing_says_so(inside: Inside) -> None:
    done = inside.run("jobs", "watch")
    assert (done.code, done.out, done.err) == (0, "", "carpool: no job is under way\n")


def test_watch_exits_with_1_if_a_job_failed_or_was_cancelled(inside: Inside, service: Service) -> None:
    service.play(Plan(faults={"job.failed": Fault(count=1, message="the planets\nstood badly")}, latency_s=0.05))
    failed, fine = service.create_job("one"), service.create_job("two")
    done = inside.run("jobs", "watch", failed, fine, "--every", "0.02")
    assert done.code == 1
    assert "the planets stood badly" in done.out
    assert inside.run("jobs", "watch", fine).code == 0


def test_watch_goes_on_over_errors_that_go_away(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0.3))
    name = service.create_job("one")
    first = inside.run("jobs", "show", name)
    assert first.code == 0
    with pytest.MonkeyPatch.context() as patch:
        _refuse_second(patch)
        done = inside.run("jobs", "watch", name, "--every", "0.02")
    assert done.code == 0
    assert done.err == "carpool: the server had a cold; asking again\n"
    assert done.out.endswith("SUCCEEDED: 1 of 1 answered\n")


def _refuse_second(patch: pytest.MonkeyPatch) -> None:
    get, calls = Jobs.get, 0

    async def sometimes(self: Jobs, name: str) -> BatchJob:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise JobError("the server had a cold", code=503)
        return await get(self, name)

    patch.setattr(Jobs, "get", sometimes)


def test_watch_of_a_job_that_is_not_there_is_exit_1(inside: Inside) -> None:
    done = inside.run("jobs", "watch", "no-such-job")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("carpool: batches/no-such-job: ")


def test_watch_gives_up_at_its_deadline_with_exit_3(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("one")
    done = inside.run("jobs", "watch", name, "--deadline", "0.2s", "--every", "0.02")
    assert done.code == 3
    assert done.err == f"carpool: 1 job had not ended by the deadline: {name}\n"
    assert service.jobs[0].state != "CANCELLED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_watching_and_not_the_job(program: Program, service: Service, number: int) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("one")
    before = service.calls
    with program.start("jobs", "watch", name, "--every", "0.02") as process:
        wait_until(lambda: service.calls > before + 2, process)
        process.send_signal(number)
        done = finish(process)
    assert (done.code, done.err) == (130, "carpool: interrupted\n")
    assert service.jobs[0].state != "CANCELLED"


def test_on_a_terminal_it_is_a_table(inside: Inside, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    name = service.create_job("one")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = inside.run("jobs", "watch", name, "--every", "0.02", TERM="xterm", COLUMNS="200")
    assert done.code == 0
    for words in ("succeeded", name, "SUCCEEDED"):
        assert words in done.out


def test_a_job_in_words() -> None:
    assert words_of(BatchJob(name="batches/a", state="PENDING")) == "batches/a: PENDING"
    stats = JobStats(requests=1_200, pending=100, succeeded=1_000, failed=100)
    error = ServerError(13, "a\nreason", "INTERNAL")
    assert words_of(BatchJob(name="batches/a", state="FAILED", stats=stats, error=error)) == (
        "batches/a: FAILED: 1,000 of 1,200 answered, 100 failed, 13 INTERNAL a reason"
    )


# -- rm


def test_rm_deletes_jobs_that_have_ended(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0))
    names = [service.create_job("one"), service.create_job("two"), service.create_job("three")]
    done = inside.run("jobs", "rm", names[0], names[1].removeprefix("batches/"), names[1])
    assert (done.code, done.out) == (0, f"deleted {names[0]}\ndeleted {names[1]}\n")
    assert [job["name"] for job in inside.run("jobs", "ls", "--json").data] == [names[2]]
    assert inside.run("jobs", "rm", names[2], "--json").data == [names[2]]
    assert inside.run("jobs", "rm", names[2]).code == 1


def test_rm_does_not_touch_a_job_under_way_unless_told_to(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("one")
    refused = inside.run("jobs", "rm", name)
    assert (refused.code, refused.out) == (2, "")
    for words in ("does not cancel", "--yes", "nothing was deleted"):
        assert words in refused.err
    assert inside.run("jobs", "show", name).code == 0
    assert inside.run("jobs", "rm", name, "--yes").code == 0
    assert inside.run("jobs", "show", name).code == 1


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_rm_asks_on_a_terminal(
    inside: Inside, service: Service, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("one")
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    done = inside.run("jobs", "rm", name)
    assert done.code == code
    assert "delete it? [y/N]" in done.err
    assert ("deleted" in done.out) == (code == 0)
    assert inside.run("jobs", "show", name).code == 1 - code


# -- results


def test_the_rows_of_a_job_are_googles_own(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0, faults={"row.error": Fault(count=1, code=3, message="no such word")}))
    name = service.create_job("one", "two", "three")
    done = inside.run("jobs", "results", name.removeprefix("batches/"))
    assert done.code == 1
    assert done.err == "carpool: 3 rows, 1 with an error\n"
    rows = {row["key"]: row for row in rows_of(done.out)}
    assert set(rows) == {"k0", "k1", "k2"}
    errors = [row["error"] for row in rows.values() if "error" in row]
    assert [(error["code"], error["message"]) for error in errors] == [(3, "no such word")]
    assert {"type"} & set(errors[0]) == set()
    texts = [
        row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in rows.values() if "response" in row
    ]
    assert set(texts) < {expected_text(text) for text in ("one", "two", "three")}


def test_the_rows_of_a_job_that_went_well_come_without_another_word(inside: Inside, service: Service) -> None:
    name = service.create_job("x", "y")
    wait_until(lambda: service.jobs[0].state == "SUCCEEDED")
    done = inside.run("jobs", "results", name)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 2)


def test_the_rows_of_a_job_go_to_a_file_that_appears_whole(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0))
    name = service.create_job("one", "two")
    done = inside.run("jobs", "results", name, "-o", "out.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "carpool: 2 rows, 0 with an error\n")
    assert [row["key"] for row in rows_of((inside.folder / "out.jsonl").read_text())] == ["k0", "k1"]
    told = inside.run("jobs", "results", name, "--output", "out.jsonl", "--json")
    assert told.data == {"rows": 2, "failed": 0}
    assert inside.run("jobs", "results", "no-such-job", "-o", "other.jsonl").code == 1
    assert [path.name for path in inside.folder.iterdir() if path.is_file()] == ["out.jsonl"]
    assert inside.run("jobs", "results", name, "-o", "no/such/folder.jsonl").code == 2


def test_a_job_without_output_says_so(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=600))
    done = inside.run("jobs", "results", service.create_job("one"))
    assert (done.code, done.out) == (1, "")
    assert "no output" in done.err


# -- files


def test_files_are_uploaded_listed_and_deleted(inside: Inside) -> None:
    (inside.folder / "note.txt").write_text("a note")
    plain = inside.run("files", "upload", "note.txt")
    assert plain.code == 0
    name, uri = plain.out.split()
    assert name.startswith("files/")
    assert name in uri
    other = inside.run("files", "upload", "note.txt", "--name", "other", "--mime-type", "text/markdown", "--json").data
    assert (other["display_name"], other["mime_type"], other["state"]) == ("other", "text/markdown", "ACTIVE")
    listed = inside.run("files", "ls", "--json").data
    assert {file["name"] for file in listed} == {name, other["name"]}
    table = inside.run("files", "ls").out.splitlines()
    assert [line.split()[0] for line in table] == ["name", *(file["name"] for file in listed)]
    assert inside.run("files", "rm", name.removeprefix("files/")).out == f"deleted {name}\n"
    assert inside.run("files", "rm", other["name"], "--json").data == [other["name"]]
    assert inside.run("files", "ls", "--json").data == []


def test_a_file_that_is_not_there_is_not_uploaded(inside: Inside, service: Service) -> None:
    before = service.calls
    done = inside.run("files", "upload", str(Path("no-such.txt")))
    assert (done.code, done.out) == (2, "")
    assert "no-such.txt" in done.err
    assert service.calls == before
