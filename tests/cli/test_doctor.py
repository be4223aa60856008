"""``carpool doctor``: each thing that can be wrong is found, said, and has an advice; nothing is changed by looking."""

from __future__ import annotations

import asyncio
import os
import time
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import carpool
from carpool import _checkup
from carpool._checkup import Place, SlotState, look_at_place, look_at_slots
from carpool._stores import slots
from carpool.cli import checks, main
from carpool.cli.checks import (
    GENAI,
    PACKAGES,
    PYTHON,
    Finding,
    check_disk,
    check_genai,
    check_home,
    check_key,
    check_packages,
    check_settings,
    check_slots,
    check_variables,
)
from carpool.emulator import Plan
from carpool.settings import Settings

from .program import API_KEY, MODEL, Inside, Program, Service

GB = 10**9
DAY_S = 86_400.0
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


def version_of(**versions: str) -> Any:
    """Return a function that knows these versions, and all that carpool needs."""
    known = {name: ".".join(map(str, least)) for name, least in PACKAGES.items()} | versions

    def version(name: str) -> str:
        if not known.get(name):
            raise PackageNotFoundError(name)
        return known[name]

    return version


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def state(finding: Finding) -> tuple[str, bool]:
    return finding.state, bool(finding.advice)


# -- the whole


def test_all_is_well(inside: Inside, service: Service) -> None:
    done = inside.run("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", name]
        for name in (
            *("packages", "google-genai", "settings", "proxy", "key", "endpoint", "batches"),
            *("clock", "home", "disk", "store", "waiting"),
        )
    ]
    assert API_KEY not in done.out
    assert service.ledger.rows_billed == 0
    assert service.ledger.live_calls == 0
    assert not (inside.folder / "home").exists()


def test_what_failed_is_in_the_exit_code_and_in_the_data(inside: Inside) -> None:
    done = inside.run("doctor", "--json", GEMINI_API_KEY="", CARPOOL_BASE_URL="")
    assert (done.code, done.err) == (1, "")
    assert done.data["ok"] is False
    found = {check["name"]: check for check in done.data["checks"]}
    assert found["key"]["state"] == "failed"
    assert found["endpoint"] == {
        "name": "endpoint",
        "state": "skipped",
        "found": "not asked, for want of a key",
        "advice": "",
    }
    assert found["home"]["state"] == "ok"


def test_a_warning_is_no_failure(inside: Inside) -> None:
    done = inside.run("doctor", CARPOOL_LINGRE_S="3")
    assert done.code == 0
    assert "warning  variables" in done.out
    assert "CARPOOL_LINGRE_S may be meant to be CARPOOL_LINGER_S" in done.out


def test_what_would_stop_a_client_does_not_stop_the_doctor(inside: Inside) -> None:
    done = inside.run("doctor", "--json", CARPOOL_JOBS_MAX="many", GEMINI_API_KEY="two words")
    found = {check["name"]: check["state"] for check in done.data["checks"]}
    assert (done.code, found["settings"], found["key"], found["disk"]) == (1, "failed", "failed", "ok")


@pytest.mark.parametrize(
    "arguments",
    [["doctor", "--", "true"], ["doctor", "--openai"], ["doctor", "--deadline", "4h"], ["doctor", "--intercept"]],
    ids=" ".join,
)
def test_a_command_and_intercept_go_together(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- what is installed


def test_the_versions_are_those_of_the_package() -> None:
    requirements = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {one.name: str(one.specifier) for one in requirements} == {
        name: f">={'.'.join(map(str, least))}" for name, least in PACKAGES.items()
    }
    first, beyond = GENAI
    assert PROJECT["optional-dependencies"]["genai"] == [f"google-genai>={first},<{beyond}"]
    assert PROJECT["requires-python"] == f">={'.'.join(map(str, PYTHON))}"


def test_packages() -> None:
    fine = check_packages((3, 12, 1), version_of(carpool="0.1.0"))
    assert state(fine) == ("ok", False)
    assert fine.found.startswith("Python 3.12.1, carpool 0.1.0, aiohttp 3.12")
    for python, version, words in (
        ((3, 10, 9), version_of(), "Python 3.11"),
        ((3, 11, 0), version_of(aiohttp="3.11.18"), "aiohttp 3.12"),
        ((3, 11, 0), version_of(diskcache="5.6.1"), "diskcache 5.6.3"),
        ((3, 11, 0), version_of(msgspec=""), "msgspec 0.21"),
    ):
        failed = check_packages(python, version)
        assert failed.state == "failed"
        assert f"carpool needs {words} or later" in failed.advice


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.4.0", "ok"), ("2.0", "ok"), ("", "ok"), ("1.66.0", "warning"), ("4.0.0rc1", "warning")],
)
def test_google_genai(version: str, expected: str) -> None:
    found = check_genai(version_of(**{"google-genai": version}))
    assert found.state == expected
    assert bool(found.advice) == (expected == "warning")


# -- the environment


def test_settings() -> None:
    assert check_settings({"CARPOOL_LINGER_S": "3", "PATH": "/"}).found == "CARPOOL_LINGER_S"
    failed = check_settings({"CARPOOL_LINGER_S": "soon"})
    assert state(failed) == ("failed", True)
    assert "CARPOOL_LINGER_S" in failed.found


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("CARPOOL_JOB_MAX", "CARPOOL_JOB_MAX may be meant to be CARPOOL_JOBS_MAX"),
        ("CARPOOL_BASEURL", "CARPOOL_BASEURL may be meant to be CARPOOL_BASE_URL"),
        ("CARPOOL_XYZZY", "CARPOOL_XYZZY is no setting"),
        ("CARPOOL_LADDER", "give --ladder"),
        ("CARPOOL_API_KEY", "the key is GEMINI_API_KEY"),
    ],
)
def test_variables_that_nobody_reads(variable: str, advice: str) -> None:
    found = by_name([*check_variables({variable: "secret"})])["variables"]
    assert found.state == "warning"
    assert variable in found.found
    assert advice in found.advice
    assert "secret" not in found.found + found.advice


def test_variables_that_are_read_are_fine() -> None:
    read = dict.fromkeys(("CARPOOL_HOME", "CARPOOL_BASE_URL", "CARPOOL_TOKEN", "CARPOOL_LABEL"), "x")
    assert [finding.name for finding in check_variables(read)] == ["proxy"]


@pytest.mark.parametrize("name", ["GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE"])
def test_variables_that_lead_others_elsewhere(name: str) -> None:
    found = by_name([*check_variables({name: "https://me:secret@gate.example:8443/path"})])["variables"]
    assert state(found) == ("warning", True)
    assert found.found == f"{name} leads clients of others to https://gate.example:8443"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_vertex(value: str, *, expected: bool) -> None:
    found = by_name([*check_variables({"GOOGLE_GENAI_USE_VERTEXAI": value})])
    assert ("variables" in found) == expected


@pytest.mark.parametrize(
    ("environ", "expected", "words"),
    [
        ({}, "ok", "none"),
        ({"HTTPS_PROXY": "http://me:secret@proxy.example:3128"}, "ok", "http://proxy.example:3128"),
        ({"https_proxy": "proxy.example"}, "ok", "http://proxy.example"),
        ({"HTTPS_PROXY": "http://proxy.example:port"}, "ok", "http://proxy.example"),
        ({"HTTPS_PROXY": "socks5://proxy.example"}, "failed", "socks5"),
        ({"ALL_PROXY": "http://proxy.example"}, "warning", "ALL_PROXY"),
    ],
)
def test_proxies(environ: dict[str, str], expected: str, words: str) -> None:
    found = by_name([*check_variables(environ)])["proxy"]
    assert found.state == expected
    assert words in found.found
    assert "secret" not in found.found + found.advice


def test_keys() -> None:
    found = check_key({"GEMINI_API_KEY": API_KEY})
    assert state(found) == ("ok", False)
    assert found.found.startswith("from GEMINI_API_KEY, fingerprint ")
    assert API_KEY not in found.found
    other = check_key({"GEMINI_API_KEY": f"{API_KEY}2"})
    assert other.found != found.found
    same = check_key({"GEMINI_API_KEY": API_KEY, "GOOGLE_API_KEY": API_KEY})
    assert same.state == "ok"
    assert "from GOOGLE_API_KEY" in same.found
    both = check_key({"GEMINI_API_KEY": API_KEY, "GOOGLE_API_KEY": "AIza-another"})
    assert state(both) == ("warning", True)
    assert "from GOOGLE_API_KEY" in both.found
    assert state(check_key({})) == ("failed", True)
    assert state(check_key({"GEMINI_API_KEY": ""})) == ("failed", True)
    assert check_key({"CARPOOL_BASE_URL": "http://127.0.0.1:1"}).state == "ok"


@pytest.mark.parametrize("key", [f"{API_KEY}\n", f" {API_KEY}", "two words", "schlüssel", "\udcff"])
def test_keys_that_are_none(key: str) -> None:
    assert state(check_key({"GEMINI_API_KEY": key})) == ("failed", True)


# -- the home


def test_a_home_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    place = look_at_place(home)
    assert (place.exists, place.trouble) == (False, "")
    assert place.free_bytes > 0
    assert state(check_home(home, place, os.getuid())) == ("ok", False)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_made_or_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for home in (file, file / "home"):
        found = check_home(home, look_at_place(home), os.getuid())
        assert state(found) == ("failed", True)
        assert "is not a folder" in found.found
    assert "plain path" in look_at_place(Path("~/home")).trouble
    monkeypatch.setattr(_checkup.os, "access", lambda *_: False)
    found = check_home(tmp_path, look_at_place(tmp_path), os.getuid())
    assert (found.state, found.found) == ("failed", f"{tmp_path} may not be written to")


def test_a_home_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("1 1 0:1 / / rw - nfs4 server rw\n")
    monkeypatch.setattr(slots, "_MOUNTS", mounts)
    home = tmp_path / "home"
    found = check_home(home, look_at_place(home), os.getuid())
    assert state(found) == ("failed", True)
    assert "network file system (nfs4)" in found.found
    assert not home.exists()


def test_a_home_whose_disk_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> int:
        raise carpool.StoreError(f"{path} cannot be used: Input/output error")

    monkeypatch.setattr(_checkup, "free_bytes", fail)
    assert "Input/output error" in look_at_place(tmp_path).trouble


def test_a_home_of_somebody_else_or_open_to_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    place = look_at_place(home)
    open_to_others = check_home(home, place, os.getuid())
    assert state(open_to_others) == ("warning", True)
    assert f"chmod 700 {home}" in open_to_others.advice
    somebody_elses = check_home(home, place, os.getuid() + 1)
    assert state(somebody_elses) == ("warning", True)
    assert "another user" in somebody_elses.found
    home.chmod(0o700)
    assert check_home(home, look_at_place(home), os.getuid()).found == str(home)


def slot(**fields: Any) -> SlotState:
    return SlotState(**{"folder": Path("home/slot-0"), "taken": False, "size_bytes": 0, "ageing": []} | fields)


@pytest.mark.parametrize(
    ("free_bytes", "size_bytes", "expected"),
    [
        (40 * GB, 0, "ok"),
        (10**6, 0, "failed"),
        (10**8, 0, "warning"),
        (40 * GB, 19 * GB, "warning"),
        (40 * GB, 17 * GB, "ok"),
    ],
)
def test_room(free_bytes: int, size_bytes: int, expected: str) -> None:
    found = check_disk(Place(exists=True, free_bytes=free_bytes), [slot(size_bytes=size_bytes)], Settings())
    assert state(found) == (expected, expected != "ok")


def test_slots() -> None:
    fine = by_name([*check_slots([slot(taken=True, requests=3, jobs=1), slot()])])
    assert (fine["store"].state, fine["store"].found) == ("ok", "2 slots, 1 held by running processes")
    assert (fine["waiting"].state, fine["waiting"].found) == ("ok", "3 requests without an answer, 1 unfinished job")
    full = by_name([*check_slots([slot(taken=True)] * slots.SLOTS_MAX)])
    assert state(full["store"]) == ("failed", True)
    damaged = by_name([*check_slots([slot(trouble="home/slot-0: it is damaged"), slot()])])
    assert (damaged["store"].state, damaged["store"].found) == ("failed", "home/slot-0: it is damaged")
    left = by_name([*check_slots([slot(requests=3, jobs=1)])])
    assert state(left["waiting"]) == ("warning", True)
    assert "nobody works on them" in left["waiting"].found
    old = by_name([*check_slots([slot(taken=True, jobs=1, ageing=["batches/a"])])])
    assert state(old["waiting"]) == ("warning", True)
    assert "batches/a" in old["waiting"].found


def test_sizes_are_shown_in_short() -> None:
    shown = [checks._size(size) for size in (0, 999, 1_000, 2_500_000, 20_000_000_000)]
    assert shown == ["0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "20.0 GB"]


# -- a real home


def contents_of(home: Path) -> dict[str, bytes]:
    """Return the files of a home, but for logs: who reads a database makes empty ones."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("cache.db-")]
    return {str(path): path.read_bytes() for path in files}


async def leave_work_behind(home: Path, service: Service) -> str:
    """Submit three requests, and leave while their job runs; return its name."""
    settings = Settings(linger_s=30.0, poll_min_s=0.05)
    async with carpool.Client(home=home, api_key=API_KEY, base_url=service.base_url, settings=settings) as client:
        for number in range(3):
            await client.submit(carpool.Request(model=MODEL, contents=f"number {number}", key=f"k{number}"))
        await client.flush()
        while not any([job async for job in client.jobs.list()]):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
        taken = await asyncio.to_thread(look_at_slots, home, time.time())
        assert [(one.taken, one.trouble) for one in taken] == [(True, "")]
    return service.jobs[0].name


def test_unfinished_work_is_found_and_left_alone(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=3_600.0))
    home = inside.folder / "home"
    name = asyncio.run(leave_work_behind(home, service))
    before = contents_of(home)
    assert len(before) >= 5
    (found,) = look_at_slots(home, time.time())
    assert (found.folder, found.taken, found.trouble) == (home / "slot-0", False, "")
    assert (found.requests, found.jobs, found.ageing) == (3, 1, [])
    assert found.size_bytes > 0
    (old,) = look_at_slots(home, time.time() + 1.5 * DAY_S)
    assert old.ageing == [name]
    done = inside.run("doctor")
    assert done.code == 0, done.out
    assert "3 requests without an answer, 1 unfinished job, and nobody works on them" in done.out
    assert contents_of(home) == before


def test_a_damaged_slot_is_found(inside: Inside, service: Service) -> None:
    home = inside.folder / "home"
    asyncio.run(leave_work_behind(home, service))
    database = home / "slot-0" / "cache.db"
    database.write_bytes(b"\xff" * database.stat().st_size)
    done = inside.run("doctor")
    assert done.code == 1
    assert "failed   store" in done.out
    assert str(home / "slot-0") in done.out


def test_a_log_that_goes_while_it_is_looked_at(tmp_path: Path) -> None:
    assert _checkup._size_bytes(tmp_path / "cache.db-wal") == 0


def test_the_home_is_that_of_the_environment(program: Program) -> None:
    elsewhere = program.folder / "elsewhere"
    done = program.run("doctor", CARPOOL_HOME=str(elsewhere))
    assert done.code == 0, done.out
    assert f"{elsewhere}, which will be made" in done.out
    assert not elsewhere.exists()
