"""``carpool run``: a command that knows nothing of carpool, whose calls all come through."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any, cast

import pytest

from carpool import Client
from carpool.cli import child, main
from carpool.cli import run as run_module
from carpool.cli.child import run_child
from carpool.emulator import Fault, Plan
from carpool.types import Stats

from .program import API_KEY, MODEL, Inside, Program, Service, finish, wait_until

CALLS = 20

PROGRAM = f"""
import asyncio
from concurrent.futures import ThreadPoolExecutor

from google import genai

from carpool.emulator import expected_text

client = genai.Client()

def call(number):
    prompt = f"sync {{number}}"
    return client.models.generate_content(model="{MODEL}", contents=prompt).text == expected_text(prompt)

async def acall(number):
    prompt = f"async {{number}}"
    answer = await client.aio.models.generate_content(model="{MODEL}", contents=prompt)
    return answer.text == expected_text(prompt)

async def main():
    return await asyncio.gather(*map(acall, range({CALLS})))

with ThreadPoolExecutor({CALLS}) as pool:
    found = [*pool.map(call, range({CALLS})), *asyncio.run(main())]
print(len(found), all(found))
"""
"""What anybody could have written: of carpool it only knows what the emulator answers."""

POST = """
import json, os, sys, urllib.request

def post(url, body, **headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)
"""


def write(program: Program, code: str) -> list[str]:
    """Write a program down, and return the command that runs it."""
    path = program.folder / "app.py"
    path.write_text(textwrap.dedent(code), "utf-8")
    return [sys.executable, path.name]


def data_of(err: str) -> dict[str, Any]:
    """Return the JSON object with which stderr ends."""
    data: dict[str, Any] = json.loads(err.splitlines()[-1])
    return data


def test_all_calls_of_an_unmodified_program_are_batched(program: Program, service: Service) -> None:
    done = program.run("run", "--", *write(program, PROGRAM))
    assert (done.code, done.out) == (0, f"{2 * CALLS} True\n"), done.err
    assert f"carpool: {2 * CALLS} requests came through and were batched\n" in done.err
    for words in ("Receipt", "list price", "saved"):
        assert words in done.err
    ledger = service.ledger
    assert (ledger.rows_billed, ledger.live_calls, ledger.twice) == (2 * CALLS, 0, [])
    assert API_KEY not in done.out + done.err


def test_what_no_batch_can_answer_is_passed_on_and_named(program: Program, service: Service) -> None:
    code = f"""
    from google import genai

    client = genai.Client()
    print(client.models.count_tokens(model="{MODEL}", contents="three short words").total_tokens > 0)
    print(len(list(client.models.list())) > 0)
    try:
        client.models.generate_content(model="no-such-model", contents="hello")
    except genai.errors.ClientError as error:
        print(error.code)
    """
    done = program.run("run", "--json", "--", *write(program, code))
    assert (done.code, done.out) == (0, "True\nTrue\n404\n"), done.err
    data = data_of(done.err)
    assert data["passed_through"] == {"POST models:countTokens": 1, "GET models": 1}
    assert data["came_through"] == {"generate": 1}
    assert data["refused"] == {"NOT_FOUND": 1}
    assert (data["exit_code"], data["left_behind"]) == (0, 0)
    assert data["receipt"]["requests"] == 0


def test_clients_of_openai_are_led_there_when_asked(program: Program, service: Service) -> None:
    code = (
        POST
        + f"""
url = os.environ["OPENAI_BASE_URL"] + "chat/completions"
body = {{"model": "{MODEL}", "messages": [{{"role": "user", "content": "hello"}}]}}
found = post(url, body, Authorization="Bearer " + os.environ["OPENAI_API_KEY"])
print(found["object"])
"""
    )
    done = program.run("run", "--openai", "--", *write(program, code))
    assert (done.code, done.out) == (0, "chat.completion\n"), done.err
    assert "carpool: 1 request came through and was batched\n" in done.err
    assert service.ledger.live_calls == 0


def test_a_read_timeout_is_a_deadline_if_somebody_chose_it(program: Program, service: Service) -> None:
    """OpenAI's client tells of ten minutes by itself; it is held by interim responses all the while."""
    code = (
        POST
        + f"""
url = os.environ["OPENAI_BASE_URL"] + "chat/completions"
body = {{"model": "{MODEL}", "messages": [{{"role": "user", "content": "hello"}}]}}
for timeout in ("600", "60"):
    print(post(url, body, **{{"X-Stainless-Read-Timeout": timeout}})["object"])
"""
    )
    command = write(program, code)
    done = program.run("run", "--openai", "--json", "--", *command)
    assert (done.code, done.out) == (0, "chat.completion\n" * 2), done.err
    totals = data_of(done.err)["receipt"]["by_route"]
    assert {route: total["requests"] for route, total in totals.items()} == {"batch": 1, "standard": 1}


def test_a_ladder_and_a_deadline_hold_for_all_calls(program: Program, service: Service) -> None:
    service.play(Plan(faults={"job.stuck_running": Fault()}))
    code = (
        POST
        + f"""
url = os.environ["GOOGLE_GEMINI_BASE_URL"] + "/v1beta/models/{MODEL}:generateContent"
print(len(post(url, {{"contents": [{{"parts": [{{"text": "hello"}}]}}]}})["candidates"]))
"""
    )
    command = write(program, code)
    done = program.run("run", "--ladder", "fast", "--json", "--", *command)
    assert (done.code, done.out) == (0, "1\n"), done.err
    assert list(data_of(done.err)["receipt"]["by_route"]) == ["standard"]
    done = program.run("run", "--deadline", "30s", "--", *command)
    assert (done.code, done.out) == (0, "1\n"), done.err
    assert "carpool: 1 request came through\n" in done.err  # not by a batch, which has no chance to be in time
    assert service.ledger.live_calls == 2


def test_a_carpool_in_the_command_calls_the_service_itself(program: Program, service: Service) -> None:
    code = f"""
    import asyncio, os
    import carpool

    async def main():
        async with carpool.Client() as client:
            await client.generate("{MODEL}", "hello")
            print(client.receipt().requests, os.environ["CARPOOL_BASE_URL"])

    asyncio.run(main())
    """
    done = program.run("run", "--", *write(program, code))
    assert (done.code, done.out) == (0, f"1 {service.base_url}\n"), done.err
    assert "no call came through" in done.err
    assert "carpool doctor --intercept -- COMMAND" in done.err
    assert service.ledger.rows_billed == 1


def test_a_run_in_a_run_has_a_sidecar_of_its_own(program: Program, service: Service) -> None:
    inner = [sys.executable, "-m", "carpool", "run", "--", *write(program, PROGRAM)]
    done = program.run("run", "--", *inner)
    assert (done.code, done.out) == (0, f"{2 * CALLS} True\n"), done.err
    assert f"{2 * CALLS} requests came through and were batched" in done.err
    assert "no call came through" in done.err
    assert service.ledger.rows_billed == 2 * CALLS


def test_what_was_left_behind_is_picked_up_by_the_next_run(program: Program, service: Service) -> None:
    service.play(Plan(latency_s=5.0))
    command = write(program, PROGRAM.replace(", *asyncio.run(main())", ""))
    with program.start("run", "--", *command) as process:
        wait_until(lambda: sum(job.rows for job in service.jobs) == CALLS, process)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert done.code == 128 + signal.SIGTERM
    assert f"carpool: {CALLS} requests left behind" in done.err
    again = program.run("run", "--json", "--", *command)
    assert (again.code, again.out) == (0, f"{CALLS} True\n"), again.err
    assert data_of(again.err)["reused"] == CALLS
    assert (service.ledger.rows_billed, service.ledger.twice) == (CALLS, [])


# -- the command itself


def test_the_command_has_its_arguments_its_streams_and_its_exit_code(inside: Inside) -> None:
    code = """
    import json, sys
    print(json.dumps(sys.argv[1:]))
    print("to stderr", file=sys.stderr)
    sys.exit(7)
    """
    arguments = ["-c", "--json", "--flag=1", "--help", "--", "", "two words", "-"]
    done = inside.run("run", "--", *write(inside, code), *arguments)
    assert (done.code, done.data) == (7, arguments)
    assert done.err.startswith("to stderr\n")


def test_the_command_reads_our_stdin(program: Program) -> None:
    done = program.run("run", "--json", "--", sys.executable, "-c", "print(input()[::-1])", text="live\n")
    assert (done.code, done.out) == (0, "evil\n")
    assert data_of(done.err)["jobs"] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_signal_that_ended_the_command_is_in_the_exit_code(inside: Inside, number: signal.Signals) -> None:
    done = inside.run("run", "--", sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert done.code == 128 + number


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with files that cannot be run, and one that can."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text, mode in (
        ("plain", "#!/bin/sh\n", 0o644),
        ("odd", "#!/no/such/interpreter\n", 0o755),
        ("data", "\0\1\2", 0o755),
        ("works", "#!/bin/sh\nexit 3\n", 0o755),
    ):
        path = folder / name
        path.write_bytes(text.encode())
        path.chmod(mode)
    return folder


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("no-such-command", 127, "no-such-command: there is no such command on the PATH"),
        ("./no-such-file", 127, "./no-such-file: there is no such command"),
        ("bin/plain", 126, "bin/plain: it may not be executed"),
        ("bin", 127, "bin: there is no such command on the PATH"),
        ("./bin", 126, "./bin: it is a folder"),
        ("", 127, ": there is no such command on the PATH"),
        ("bin/odd", 127, "bin/odd: No such file or directory"),
        ("bin/data", 126, "bin/data: Exec format error"),
    ],
)
def test_a_command_that_cannot_be_run_is_one_line_and_a_shells_exit_code(
    inside: Inside, commands: Path, *, command: str, code: int, words: str
) -> None:
    done = inside.run("run", "--", command)
    assert (done.code, done.out, done.err) == (code, "", f"carpool: {words}\n")


def test_a_command_is_looked_for_on_the_path(inside: Inside, commands: Path) -> None:
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    assert inside.run("run", "--", "works", PATH=path).code == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "name a command behind --"),
        (["run", "--json", "--"], "name a command behind --"),
        (["run", "--opneai", "--", "true"], "Unknown option: --opneai"),
        (["run", "true", "--flag"], "Unknown option: --flag"),
        (["run", "--deadline", "soon", "--", "true"], "deadline"),
        (["run", "--ladder", "slow", "--", "true"], "ladder"),
    ],
)
def test_wrong_usage_runs_nothing(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


def test_without_a_key_and_a_base_url_nothing_is_run(inside: Inside, tmp_path: Path) -> None:
    touch = [sys.executable, "-c", "open('ran', 'w')"]
    done = inside.run("run", "--", *touch, GEMINI_API_KEY="", CARPOOL_BASE_URL="")
    assert done.code == 2
    assert "GEMINI_API_KEY" in done.err
    assert not (tmp_path / "ran").exists()


def test_the_exit_code_stays_the_commands_when_closing_is_interrupted(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(run_module, "_settle", interrupted)
    done = inside.run("run", "--", sys.executable, "-c", "raise SystemExit(5)")
    assert done.code == 5
    assert "interrupted while closing; what was sent stays on record" in done.err


class Settling:
    """A client whose jobs are not closed yet."""

    def __init__(self, *, sent: int, ends: bool) -> None:
        self.drained = 0
        self._ends = ends
        self._stats = Stats(**dict.fromkeys(Stats.__struct_fields__, 0) | {"jobs": 1, "sent": sent})

    def stats(self) -> Stats:
        return self._stats

    async def drain(self) -> None:
        self.drained += 1
        if not self._ends:
            await asyncio.Event().wait()


@pytest.mark.parametrize(("sent", "ends", "drained"), [(0, True, 1), (0, False, 1), (2, True, 0)])
def test_jobs_of_which_all_is_answered_are_closed_in_a_little_time(
    monkeypatch: pytest.MonkeyPatch, *, sent: int, ends: bool, drained: int
) -> None:
    monkeypatch.setattr(run_module, "_SETTLE_S", 0.01)
    client = Settling(sent=sent, ends=ends)
    asyncio.run(run_module._settle(cast("Client", client)))
    assert client.drained == drained


def test_a_command_that_will_not_end_is_ended(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inside.folder / "ready"
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(600)"

    async def cancelled() -> bool:
        task = asyncio.create_task(run_child([sys.executable, "-c", code], os.environ))
        await asyncio.to_thread(wait_until, path.exists)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    monkeypatch.setattr(child, "_GRACE_S", 0.05)
    monkeypatch.chdir(inside.folder)
    assert asyncio.run(cancelled())


def test_a_command_ends_with_the_sidecar_that_it_needs(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """If ours is cancelled, for whatever reason, nobody is left behind who calls a sidecar that is gone."""
    path = inside.folder / "pid"
    code = "import os, time; open('new', 'w').write(str(os.getpid())); os.rename('new', 'pid'); time.sleep(600)"

    async def cancelled() -> bool:
        task = asyncio.create_task(run_child([sys.executable, "-c", code], os.environ))
        await asyncio.to_thread(wait_until, path.exists)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    monkeypatch.chdir(inside.folder)
    assert asyncio.run(cancelled())
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)
