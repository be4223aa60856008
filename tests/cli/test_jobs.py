"""``carpool jobs``: what is on the server, without a store of one's own."""

from __future__ import annotations

import json

from carpool.emulator import Fault, Plan

from .program import API_KEY, MODEL, Inside, Program, Service


def test_ls_shows_jobs_newest_first(program: Program, service: Service) -> None:
    names = [service.create_job("one"), service.create_job("one", "two"), service.create_job("three")]
    done = program.run("jobs", "ls", "--json")
    assert (done.code, done.err) == (0, "")
    assert [job["name"] for job in done.data] == names[::-1]
    assert done.data[1] | {"created_at": "", "updated_at": "", "ended_at": ""} == {
        "name": names[1],
        "display_name": "by hand",
        "model": done.data[1]["model"],
        "state": done.data[1]["state"],
        "created_at": "",
        "updated_at": "",
        "ended_at": "",
        "stats": done.data[1]["stats"],
        "error": None,
        "output_file": "",
        "inline_output": False,
    }
    assert done.data[1]["stats"]["requests"] == 2

    table = program.run("jobs", "ls", "--limit", "2")
    assert table.code == 0
    lines = table.out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", names[2], names[1]]
    assert len(program.run("jobs", "ls", "--limit", "0", "--json").data) == 3


def test_ls_of_nothing_is_an_empty_list(inside: Inside) -> None:
    assert inside.run("jobs", "ls", "--json").data == []


def test_no_place_in_the_store_is_taken(inside: Inside, service: Service) -> None:
    service.create_job("one")
    assert inside.run("jobs", "ls").code == 0
    assert not (inside.folder / "home").exists()


def test_show_takes_a_name_with_or_without_its_folder(inside: Inside, service: Service) -> None:
    name = service.create_job("one", "two")
    full = inside.run("jobs", "show", name, "--json")
    assert (full.code, full.data["name"]) == (0, name)
    shown = inside.run("jobs", "show", name.removeprefix("batches/"))
    assert shown.code == 0
    fields = dict(line.split(":", 1) for line in shown.out.splitlines())
    assert fields["name"].strip() == name
    assert fields["requests"].strip() == "2"
    assert fields["model"].strip() == MODEL


def test_the_error_of_a_failed_job_is_shown(inside: Inside, service: Service) -> None:
    service.play(Plan(faults={"job.failed": Fault(message="the planets\nstood badly")}))
    shown = inside.run("jobs", "show", service.create_job("one"))
    assert "FAILED" in shown.out
    assert "the planets stood badly" in shown.out


def test_cancel_cancels(program: Program, service: Service) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("one")
    done = program.run("jobs", "cancel", name, "--json")
    assert (done.code, done.data["state"]) == (0, "CANCELLED")
    assert service.jobs[0].state == "CANCELLED"


def test_a_job_that_is_not_there_is_one_line_and_exit_1(inside: Inside) -> None:
    for command in ("show", "cancel"):
        done = inside.run("jobs", command, "no-such-job")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("carpool: batches/no-such-job: ")
        assert done.err.count("\n") == 1


def test_a_name_that_is_none_is_not_asked_for(inside: Inside, service: Service) -> None:
    before = service.calls
    assert inside.run("jobs", "show", "batches/../files").code == 1
    assert service.calls == before


def test_a_refused_key_is_not_shown(inside: Inside, service: Service) -> None:
    service.play(Plan(api_keys=frozenset({"another"})))
    done = inside.run("jobs", "ls")
    assert done.code == 1
    assert "API key not valid" in done.err
    assert done.err.count("\n") == 1
    assert API_KEY not in done.err


def test_a_server_that_is_not_there_is_one_line_and_exit_1(inside: Inside) -> None:
    done = inside.run("jobs", "ls", "--base-url", "http://127.0.0.1:9")
    assert (done.code, done.out) == (1, "")
    assert "cannot be reached" in done.err
    assert done.err.count("\n") == 1


def test_base_url_wins_over_the_environment(inside: Inside, service: Service) -> None:
    name = service.create_job("one")
    done = inside.run("jobs", "ls", "--base-url", service.base_url, "--json", CARPOOL_BASE_URL="http://127.0.0.1:9")
    assert json.loads(done.out)[0]["name"] == name
