"""``carpool gc``: what is past its time goes, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carpool import Client, Request, Settings
from carpool._gemini.developer import DeveloperProvider
from carpool._upkeep import TidiedHome, TidiedSlot
from carpool.cli.collect import _finished, _unneeded
from carpool.emulator import Plan, expected_text
from carpool.types import BatchJob, File

from .program import API_KEY, MODEL, PATIENCE_S, Inside, Program, Service, write_rows

_AT_ONCE = {"CARPOOL_KEEP_RESULTS_S": "0", "CARPOOL_REUSE_WINDOW_S": "0"}
_KILLED = f"""
import asyncio, os, carpool

async def main():
    async with carpool.Client(settings=carpool.Settings(linger_s=600, linger_max_s=600)) as client:
        calls = [asyncio.ensure_future(client.generate({MODEL!r}, f"never sent {{n}}")) for n in range(3)]
        ticket = await client.submit(carpool.Request(model={MODEL!r}, contents="a ticket", key="ticket"))
        while client.stats().waiting < 4:
            await asyncio.sleep(0.01)
        await client._runtime.turn()
        os._exit(9)

asyncio.run(main())
"""


def answer_some(program: Program, count: int = 3) -> None:
    rows = [{"key": f"k{number}", "prompt": f"prompt {number}"} for number in range(count)]
    write_rows(program.folder / "in.jsonl", rows)
    (program.folder / "out.jsonl").unlink(missing_ok=True)
    assert program.map("in.jsonl", "out.jsonl").code == 0


def kill_one(program: Program) -> None:
    """Let a process die that had accepted three bare awaits and a ticket, and sent nothing."""
    environ = program.environ | {"CARPOOL_KEEP_RESULTS_S": "600000"}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED], env=environ, timeout=PATIENCE_S, capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr


def test_results_past_their_time_go(inside: Inside, service: Service) -> None:
    answer_some(inside)
    kept = inside.run("gc", "--json").data
    home = str(inside.folder / "home")
    assert kept == {
        "home": home, "dry_run": False, "results": 0, "requests": 0, "slots": 1, "slots_in_use": [],
    }  # fmt: skip
    assert len(inside.run("results", "--json").data) == 3

    looked = inside.run("gc", "--dry-run", **_AT_ONCE)
    assert looked.out == f"{home}: 3 results and 0 requests past their time would be deleted\n"
    assert len(inside.run("results", "--json").data) == 3

    before = service.calls
    gone = inside.run("gc", CARPOOL_BASE_URL="", GEMINI_API_KEY="", **_AT_ONCE)
    assert (gone.code, gone.out) == (0, f"{home}: 3 results and 0 requests past their time deleted\n")
    assert service.calls == before
    assert inside.run("results", "--json").data == []
    assert inside.run("gc", "--json", **_AT_ONCE).data["results"] == 0


def test_requests_that_nobody_claimed_go_and_tickets_stay(inside: Inside) -> None:
    kill_one(inside)
    assert inside.run("gc", "--json").data["requests"] == 0
    assert inside.run("gc", "--dry-run", "--json", **_AT_ONCE).data["requests"] == 3
    assert inside.run("gc", "--json", **_AT_ONCE).data["requests"] == 3
    assert inside.run("gc", "--json", **_AT_ONCE).data["requests"] == 0
    assert inside.run("results", "ticket").out == expected_text("a ticket") + "\n"


def test_work_of_other_keys_and_servers_is_tidied_up_too(inside: Inside) -> None:
    answer_some(inside, 2)
    told = inside.run("gc", "--json", GEMINI_API_KEY="another", CARPOOL_BASE_URL="http://127.0.0.1:9", **_AT_ONCE)
    assert told.data["results"] == 2


def test_what_is_under_way_is_not_touched(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=600))

    async def leave_one() -> None:
        home = inside.folder / "home"
        settings = Settings(linger_s=0.01)
        async with Client(api_key=API_KEY, base_url=service.base_url, home=home, settings=settings) as client:
            await client.submit(Request(model=MODEL, contents="under way", key="under-way"))

    asyncio.run(leave_one())
    [job] = service.jobs
    assert inside.run("gc", "--remote", "--json", **_AT_ONCE).data["remote"] == {"jobs": [], "files": []}
    assert service.jobs[0].state == job.state
    service.play(Plan(latency_s=0))
    assert inside.run("results", "--json").data[0]["state"] == "sent"


def test_a_slot_in_use_is_left_alone_and_named(inside: Inside, service: Service) -> None:
    answer_some(inside)
    home = inside.folder / "home"

    async def meanwhile() -> Any:
        async with Client(api_key=API_KEY, base_url=service.base_url, home=home):
            command = [sys.executable, "-m", "carpool", "gc"]
            environ = inside.environ | _AT_ONCE
            return await asyncio.to_thread(
                subprocess.run, command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )

    done = asyncio.run(meanwhile())
    assert done.returncode == 0
    assert done.stdout == f"{home}: 0 results and 0 requests past their time deleted\n"
    assert done.stderr == f"carpool: {home / 'slot-0'} is held by a running program, which tidies up by itself\n"
    assert len(inside.run("results", "--json").data) == 3


def test_a_home_that_is_not_there_is_not_made(inside: Inside) -> None:
    home = inside.folder / "elsewhere"
    done = inside.run("gc", "--home", str(home))
    assert (done.code, done.out) == (0, f"{home}: 0 results and 0 requests past their time deleted\n")
    assert not home.exists()


def test_a_damaged_store_is_exit_1_and_left_as_it_is(inside: Inside) -> None:
    answer_some(inside)
    database = next((inside.folder / "home" / "slot-0").glob("*.db"))
    database.write_bytes(b"this is not a database" * 1_000)
    (inside.folder / "home" / "slot-0" / "clean").unlink(missing_ok=True)
    done = inside.run("gc", **_AT_ONCE)
    assert (done.code, done.out) == (1, "")
    assert "slot-0" in done.err
    assert database.read_bytes().startswith(b"this is not")


def test_on_the_server_settled_jobs_of_this_home_go(inside: Inside, service: Service) -> None:
    answer_some(inside)
    [ours] = [job.name for job in service.jobs]
    somebodys = service.create_job("one")
    others = Inside(
        Program(inside.folder, **inside.environ | {"CARPOOL_HOME": str(inside.folder / "other")}),
        inside._patch,
        inside._capture,
    )
    answer_some(others, 1)
    [theirs] = [job.name for job in service.jobs if job.name not in (ours, somebodys)]

    looked = inside.run("gc", "--remote", "--dry-run")
    assert looked.out.splitlines()[1:] == [f"{ours} would be deleted", "server: 1 job and 0 files would be deleted"]
    done = inside.run("gc", "--remote")
    assert done.out.splitlines()[1:] == [f"{ours} deleted", "server: 1 job and 0 files deleted"]
    left = {job["name"] for job in inside.run("jobs", "ls", "--json").data}
    assert left == {somebodys, theirs}


def test_remote_needs_a_key(inside: Inside) -> None:
    done = inside.run("gc", "--remote", GEMINI_API_KEY="", CARPOOL_BASE_URL="")
    assert done.code == 2
    assert "GEMINI_API_KEY" in done.err


# -- what on the server is nobody's any more

_NOW = datetime(2026, 11, 21, tzinfo=UTC)
_OLD = (_NOW - timedelta(hours=25)).isoformat()
_NEW = (_NOW - timedelta(hours=23)).isoformat().replace("+00:00", "Z")


def home_with(*unfinished: str) -> TidiedHome:
    slot = TidiedSlot(folder="slot-0", store_id="mine", results=0, requests=0, unfinished=frozenset(unfinished))
    return TidiedHome(slots=[slot], in_use=[])


@pytest.mark.parametrize(
    ("display_name", "state", "goes"),
    [
        ("cp1.mine.settled.1", "SUCCEEDED", True),
        ("cp1.mine.settled.2.label", "FAILED", True),
        ("cp1.mine.settled.1", "RUNNING", False),
        ("cp1.mine.open.1", "SUCCEEDED", False),
        ("cp1.other.settled.1", "SUCCEEDED", False),
        ("cp2.mine.settled.1", "SUCCEEDED", False),
        ("cp1.mine", "SUCCEEDED", False),
        ("", "SUCCEEDED", False),
    ],
)
def test_a_job_goes_if_it_is_of_this_home_ended_and_settled(display_name: str, state: str, goes: bool) -> None:
    job = BatchJob(name="batches/a", display_name=display_name, state=state)
    assert _finished([job], home_with("open")) == (["batches/a"] if goes else [])


@pytest.mark.parametrize(
    ("name", "created_at", "goes"),
    [
        ("files/cp-ended-1", _NEW, True),
        ("files/cp-running-1", _OLD, False),
        ("files/cp-both-2", _OLD, False),
        ("files/cp-open-1", _OLD, False),
        ("files/cp-orphan-1", _OLD, True),
        ("files/cp-orphan-1", _NEW, False),
        ("files/cp-orphan-1", "yesterday", False),
        ("files/other", _OLD, False),
    ],
)
def test_an_input_file_goes_if_no_job_needs_it(name: str, created_at: str, goes: bool) -> None:
    jobs = [
        BatchJob(name="batches/a", display_name="cp1.other.ended.1", state="SUCCEEDED"),
        BatchJob(name="batches/b", display_name="cp1.other.running.1", state="RUNNING"),
        BatchJob(name="batches/c", display_name="cp1.other.both.1", state="FAILED"),
        BatchJob(name="batches/d", display_name="cp1.other.both.2", state="RUNNING"),
        BatchJob(name="batches/e", display_name="cp1.mine.open.1", state="SUCCEEDED"),
        BatchJob(name="batches/f", display_name="by hand", state="SUCCEEDED"),
    ]
    file = File(name=name, created_at=created_at)
    assert _unneeded([file], jobs, home_with("open"), _NOW.timestamp()) == ([name] if goes else [])


def test_files_of_others_stay(inside: Inside) -> None:
    (inside.folder / "note.txt").write_text("a note")
    answer_some(inside)
    name = inside.run("files", "upload", "note.txt", "--json").data["name"]
    done = inside.run("gc", "--remote", "--json").data
    assert (len(done["remote"]["jobs"]), done["remote"]["files"]) == (1, [])
    assert [file["name"] for file in inside.run("files", "ls", "--json").data] == [name]


def test_an_input_that_a_settled_job_left_behind_goes(inside: Inside, service: Service) -> None:
    answer_some(inside)
    [job] = inside.run("jobs", "ls", "--json").data
    name = f"files/cp-{job['display_name'].split('.')[2]}-1"

    async def body(_: int) -> AsyncIterator[bytes]:
        yield b"{}\n"

    async def leave_behind() -> None:
        provider = DeveloperProvider(
            api_key=API_KEY, base_url=service.base_url, api_version="v1beta", settings=Settings()
        )
        await provider.open()
        try:
            await provider.upload(name, 3, body)
        finally:
            await provider.close()

    asyncio.run(leave_behind())
    assert [file["name"] for file in inside.run("files", "ls", "--json").data] == [name]
    done = inside.run("gc", "--remote")
    assert done.out.splitlines()[1:] == [
        f"{job['name']} deleted", f"{name} deleted", "server: 1 job and 1 file deleted",
    ]  # fmt: skip
    assert inside.run("files", "ls", "--json").data == []
