"""Neither key nor upload URL gets onto the disk, into arguments of processes, or into what the program prints."""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carpool import CarpoolError, Client, Request, Settings
from carpool.cli import main
from carpool.emulator import EmulatorThread, Fault, Plan
from carpool.emulator.world import Logged

from .disguises import API_KEY, DISGUISES, TEXT, seen_in

MODEL = "gemini-3.5-flash"
PATIENCE_S = 60.0
QUICK = {
    "CARPOOL_LINGER_S": "0.02",
    "CARPOOL_LINGER_MAX_S": "0.1",
    "CARPOOL_POLL_MIN_S": "0.02",
    "CARPOOL_POLL_MAX_S": "0.1",
    "CARPOOL_RETRY_MIN_S": "0.02",
    "CARPOOL_RETRY_MAX_S": "0.1",
    "CARPOOL_FIRST_CONTACT_S": "1",
}
ENVIRONMENT_SECRET = "what-the-environment-knows-of-others"


@pytest.fixture
def emulator() -> Iterator[EmulatorThread]:
    with EmulatorThread() as emulator:
        yield emulator


def settings_of(**more: Any) -> Settings:
    quick = {"linger_s": 0.01, "linger_max_s": 0.02, "poll_min_s": 0.01, "poll_max_s": 0.02, "lookup_wait_s": 0.02}
    return Settings(**(quick | {"retry_min_s": 0.01, "retry_max_s": 0.02, "inline_cost_max_usd": Decimal(0)} | more))


def held_by(home: Path) -> dict[str, bytes]:
    """Return all that is below a folder: names and bytes."""
    found = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert found
    return found


def assert_not_on_disk(home: Path, emulator: EmulatorThread) -> None:
    """Insist that no file holds the key, an upload URL or the environment. Prompts are there: it is a queue."""
    for name, data in held_by(home).items():
        for secret in (API_KEY, API_KEY[4:], "upload_id", "x-goog-api-key", ENVIRONMENT_SECRET):
            for form in (secret.encode(), secret.encode("utf-16-le"), secret.encode().hex().encode()):
                assert form not in data, (name, secret)
        assert API_KEY not in name
    assert any(call.op.startswith("upload") for call in emulator.requests), "nothing was uploaded"


# -- disk


@pytest.mark.parametrize("faults", [{}, {"upload.finalize.503": Fault(count=1)}, {"upload.finalize.403": Fault()}])
@pytest.mark.anyio
async def test_a_home_holds_neither_key_nor_upload_url(
    faults: dict[str, Fault], tmp_path: Path, emulator: EmulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPOOL_SOMETHING", ENVIRONMENT_SECRET)
    emulator.plan = Plan(faults=faults)
    where: dict[str, Any] = {"api_key": API_KEY, "base_url": emulator.base_url, "home": tmp_path}
    async with Client(**where, settings=settings_of(attempts_max=2, job_attempts_max=2)) as client:
        await client.submit(Request(model=MODEL, contents=TEXT, key="k"))
        if "upload.finalize.403" not in faults:
            await client.files.upload(b"a file", mime_type="text/plain")
        await client.drain()
        assert_not_on_disk(tmp_path, emulator)
        left = await client.submit(Request(model=MODEL, contents=TEXT + " left", key="left"))
        assert not seen_in(repr(left))
    assert_not_on_disk(tmp_path, emulator)


CHILD = """
import asyncio, json, os, sys
import carpool
async def main():
    order = json.loads(sys.argv[1])
    settings = carpool.Settings(linger_s=0.01, linger_max_s=0.02, poll_min_s=0.01, poll_max_s=0.02,
        inline_cost_max_usd=0)
    async with carpool.Client(base_url=order["base_url"], home=order["home"], settings=settings) as client:
        for n in range(5):
            await client.submit(carpool.Request(model="gemini-3.5-flash", contents=f"{n}", key=f"k{n}"))
        await client.flush()
        while not client.stats().jobs_created:
            await asyncio.sleep(0.01)
        print(json.dumps([sys.argv, open("/proc/self/cmdline").read() if os.path.exists("/proc/self") else ""]))
        sys.stdout.flush()
        os.abort() if order["abort"] else os._exit(9)
asyncio.run(main())
"""


@pytest.mark.parametrize("abort", [False, True], ids=["killed", "aborted with faulthandler"])
def test_a_process_that_dies_leaves_no_key_on_the_disk_in_its_arguments_or_in_its_last_words(
    abort: bool, tmp_path: Path, emulator: EmulatorThread
) -> None:
    order = json.dumps({"base_url": emulator.base_url, "home": str(tmp_path), "abort": abort})
    environ = os.environ | {"GEMINI_API_KEY": API_KEY, "PYTHONFAULTHANDLER": "1", "OTHERS": ENVIRONMENT_SECRET}
    command = [sys.executable, "-X", "dev", "-c", CHILD, order]
    done = subprocess.run(command, capture_output=True, env=environ, check=False, timeout=PATIENCE_S)
    assert done.returncode, done.stderr
    assert ("Fatal Python error" in done.stderr.decode()) == abort, done.stderr
    assert not seen_in(done.stdout.decode())
    assert not seen_in(done.stderr.decode())
    assert_not_on_disk(tmp_path, emulator)


def test_a_dump_of_all_stacks_shows_no_values(tmp_path: Path) -> None:
    def deep(prompt: str, key: str) -> str:
        with (tmp_path / "dump").open("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read()

    dump = deep(TEXT, API_KEY)
    assert "in deep" in dump
    assert not seen_in(dump)


def test_what_the_emulator_writes_down_of_calls_has_no_place_for_a_key(emulator: EmulatorThread) -> None:
    names = {field.name for field in msgspec.structs.fields(Logged)}
    assert names == {"method", "path", "op", "status", "body_bytes", "at"}


# -- the program


def run(emulator: EmulatorThread, home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("CARPOOL_", "GOOGLE_", "GEMINI_"))
    }
    own = {"CARPOOL_BASE_URL": emulator.base_url, "CARPOOL_HOME": str(home), "GEMINI_API_KEY": API_KEY}
    return subprocess.run(
        [sys.executable, "-m", "carpool", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=clean | QUICK | own | environ,
        check=False,
        timeout=PATIENCE_S,
    )


COMMANDS = {
    "jobs ls": ["jobs", "ls"],
    "jobs show": ["jobs", "show", "NAME"],
    "jobs watch": ["jobs", "watch", "NAME"],
    "jobs cancel": ["jobs", "cancel", "NAME"],
    "files ls": ["files", "ls"],
    "gc": ["gc", "--remote"],
    "results": ["results"],
}


@pytest.mark.parametrize(("as_json", "debug"), [(False, False), (True, True)], ids=["words", "json, debug"])
def test_what_commands_say_of_jobs_that_failed_with_an_echo(
    as_json: bool, debug: bool, tmp_path: Path, emulator: EmulatorThread
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"key": "k", "prompt": TEXT}) + "\n", "utf-8")
    said = [json.dumps(DISGUISES[name]) for name in ("as it is", "upper case", "key", "upload URL", "base64")]
    words = f"row 1: {', '.join(said)} are bad"
    emulator.plan = Plan(faults={"job.failed": Fault(code=3, message=words)})
    home = tmp_path / "home"
    more = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"} if debug else {}
    out = tmp_path / "out.jsonl"
    done = run(emulator, home, "map", str(rows), str(out), "--model", MODEL, **more)
    assert done.returncode == 1, done.stderr
    assert not seen_in(done.stdout), done.stdout
    assert not seen_in(done.stderr), done.stderr
    (job, *_) = emulator.jobs()
    for name, command in COMMANDS.items():
        arguments = [job.name if part == "NAME" else part for part in command]
        if as_json:
            arguments.append("--json")
        done = run(emulator, home, *arguments, **more)
        assert not seen_in(done.stdout), (name, done.stdout)
        assert not seen_in(done.stderr), (name, done.stderr)
        if name == "jobs show":
            assert "row 1: [quoted]" in done.stdout


def test_no_command_takes_a_key_as_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments of a process are everybody's on its machine."""
    for command in (*(words[:2] if len(words) > 1 else words for words in COMMANDS.values()), ["map"], ["demo"]):
        assert main([*command, "--api-key", API_KEY]) == 2, command
        printed = capsys.readouterr()
        assert not seen_in(printed.out + printed.err), printed
        assert main([*command, "--help"]) == 0
        helped = capsys.readouterr().out.lower()
        assert "usage" in helped
        assert "api-key" not in helped
        assert "api_key" not in helped


@pytest.mark.parametrize("code", [400, 401, 403, 500])
def test_a_key_that_is_refused_is_not_shown(code: int, tmp_path: Path, emulator: EmulatorThread) -> None:
    words = f"API key not valid: {API_KEY}, see {DISGUISES['key in a URL']} and {DISGUISES['key in base64']}"
    emulator.plan = Plan(
        faults={"list.400": Fault(message=words)}, api_keys=frozenset({"another"} if code != 400 else {API_KEY})
    )
    done = run(emulator, tmp_path, "jobs", "ls")
    assert done.returncode == 1
    assert not seen_in(done.stdout + done.stderr), done.stderr


@pytest.mark.anyio
async def test_the_client_s_traceback_in_a_thread_of_a_service_names_no_key(tmp_path: Path) -> None:
    settings = Settings(first_contact_s=0.1, retry_min_s=0.01, retry_max_s=0.02)
    async with Client(api_key=API_KEY, base_url="http://127.0.0.1:9", home=tmp_path, settings=settings) as client:
        with pytest.raises(CarpoolError) as caught:
            await client.generate(MODEL, TEXT, deadline=1)
    assert not seen_in(f"{caught.value} {caught.value!r}")
