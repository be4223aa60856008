"""``carpool doctor --intercept``: what comes through is proved, and what goes around is named."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from carpool.cli.intercept import _VERTEX_ADVICE, Around, Proof, _advices
from carpool.cli.run import Ended
from carpool.surfaces.exchange import Traffic
from carpool.surfaces.witness import GEMINI_HOST
from carpool.types import Receipt, Stats

from .program import API_KEY, MODEL, Done, Inside, Program, Service, finish

GOOD = f"""
from google import genai

client = genai.Client()
answer = client.models.generate_content(model="{MODEL}", contents="hello")
print(len(answer.text) > 0)
"""
AROUND = f"""
import sys
from google import genai

client = genai.Client(http_options=genai.types.HttpOptions(base_url=sys.argv[1], timeout=60_000))
try:
    answer = client.models.generate_content(model="{MODEL}", contents="hello")
except Exception as error:
    print(type(error).__name__)
else:
    print(len(answer.text) > 0)
"""
DIRECT = """
import http.client

connection = http.client.HTTPSConnection("generativelanguage.googleapis.com", timeout=60)
try:
    connection.request("GET", "/v1beta/models")
except OSError as error:
    print(type(error).__name__)
"""


def write(program: Program, code: str, name: str = "app.py") -> list[str]:
    path = program.folder / name
    path.write_text(textwrap.dedent(code), "utf-8")
    return [sys.executable, path.name]


def data_of(done: Done) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(done.err.splitlines()[-1])
    return data


def test_a_good_program_is_proved(program: Program, service: Service) -> None:
    done = program.run("doctor", "--intercept", "--", *write(program, GOOD))
    assert (done.code, done.out) == (0, "True\n"), done.err
    assert "carpool: 1 request came through and was batched\n" in done.err
    assert "watched: 1 Python program, and whatever uses proxies; not seen are" in done.err
    assert done.err.endswith("carpool: proved: all calls to Gemini that were seen came through\n")
    assert service.ledger.live_calls == 0
    assert API_KEY not in done.err


def test_a_base_url_in_the_program_goes_around(program: Program, service: Service) -> None:
    command = [*write(program, AROUND), service.base_url]
    done = program.run("doctor", "--intercept", "--", *command)
    assert (done.code, done.out) == (1, "True\n"), done.err
    host = service.base_url.removeprefix("http://")
    assert f"carpool: around it went: {host}, 1 connection, from app.py\n" in done.err
    assert "carpool: no call to Gemini came through\n" in done.err
    assert "what to do: look for a base URL in the program's code" in done.err
    assert done.err.endswith("carpool: not proved\n")
    assert service.ledger.live_calls == 1


def test_one_call_that_comes_through_does_not_excuse_another(program: Program, service: Service) -> None:
    both = [sys.executable, "-c", "import subprocess, sys; [subprocess.run(one.split()) for one in sys.argv[1:]]"]
    good, around = write(program, GOOD, "good.py"), [*write(program, AROUND, "around.py"), service.base_url]
    done = program.run("doctor", "--intercept", "--json", "--", *both, " ".join(good), " ".join(around))
    assert (done.code, done.out) == (1, "True\nTrue\n"), done.err
    host, _, port = service.base_url.removeprefix("http://").partition(":")
    assert data_of(done) == {
        "proved": False,
        "exit_code": 0,
        "came_through": {"generate": 1},
        "passed_through": {},
        "refused": {},
        "went_around": [
            {"host": host, "port": port, "connections": 1, "programs": ["around.py"], "seen_by": ["python"]}
        ],
        "python_programs": 3,
        "own_carpools": 0,
    }


@pytest.mark.parametrize(
    ("code", "seen_by", "programs"), [(AROUND, "proxy", []), (DIRECT, "python", ["app.py"])], ids=["proxy", "python"]
)
def test_googles_own_host_goes_around(program: Program, *, code: str, seen_by: str, programs: list[str]) -> None:
    """Whether it uses the proxy, as Google's SDK does, or none. There need not be a network for that."""
    command = [*write(program, code), f"https://{GEMINI_HOST}"]
    done = program.run("doctor", "--intercept", "--json", "--", *command, https_proxy="http://127.0.0.1:9", no_proxy="")
    assert done.code == 1, done.err
    (around,) = data_of(done)["went_around"]
    assert around.pop("connections") >= 1
    assert around == {"host": GEMINI_HOST, "port": "443", "programs": programs, "seen_by": [seen_by]}


def test_what_is_not_python_is_seen_by_its_proxy(program: Program) -> None:
    assert shutil.which("curl"), "this test needs curl: install it (apt-get install curl)"
    command = ["curl", "--silent", "--max-time", "60", f"https://{GEMINI_HOST}/v1beta/models"]
    done = program.run("doctor", "--intercept", "--", *command, https_proxy="http://127.0.0.1:9", no_proxy="")
    assert done.code == 1
    assert f"carpool: around it went: {GEMINI_HOST}:443, 1 connection\n" in done.err
    assert "watched: no Python program" in done.err
    assert "the command ended with exit code 56" in done.err


def test_hosts_that_had_no_proxy_are_seen_as_well(program: Program) -> None:
    assert shutil.which("curl"), "this test needs curl: install it (apt-get install curl)"
    command = ["curl", "--silent", "--max-time", "60", "http://aiplatform.googleapis.com:9/"]
    done = program.run("doctor", "--intercept", "--json", "--", *command, no_proxy="*", NO_PROXY="*")
    assert [around["host"] for around in data_of(done)["went_around"]] == ["aiplatform.googleapis.com"]


def test_a_command_that_makes_no_call_proves_nothing(program: Program) -> None:
    done = program.run("doctor", "--intercept", "--", sys.executable, "-c", "print('done')")
    assert (done.code, done.out) == (1, "done\n")
    assert "no call to Gemini came through" in done.err
    assert "either the command makes no call, or it makes it in a way that is not seen" in done.err


def test_calls_that_are_only_passed_on_are_told(program: Program) -> None:
    code = f"""
    from google import genai

    client = genai.Client()
    client.models.count_tokens(model="{MODEL}", contents="three short words")
    """
    done = program.run("doctor", "--intercept", "--", *write(program, code))
    assert done.code == 0
    assert "1 passed through at list price: POST models:countTokens (1)" in done.err
    assert "nothing of it was batched: these calls cost the list price" in done.err


def test_openais_own_host_goes_around_when_its_clients_are_to_be_led(program: Program) -> None:
    code = DIRECT.replace("generativelanguage.googleapis.com", "api.openai.com")
    command = write(program, code)
    led = program.run("doctor", "--intercept", "--openai", "--json", "--", *command)
    assert [around["host"] for around in data_of(led)["went_around"]] == ["api.openai.com"]
    not_led = program.run("doctor", "--intercept", "--json", "--", *command)
    assert data_of(not_led)["went_around"] == []


def test_a_carpool_in_the_command_is_told_apart(program: Program, service: Service) -> None:
    code = f"""
    import asyncio, carpool

    async def main():
        async with carpool.Client() as client:
            await client.generate("{MODEL}", "hello")

    asyncio.run(main())
    """
    done = program.run("doctor", "--intercept", "--", *write(program, code))
    assert done.code == 1
    assert "its client calls the service by design" in done.err
    assert service.ledger.rows_billed == 1


def test_a_command_that_is_not_there_ends_as_in_a_shell(inside: Inside) -> None:
    done = inside.run("doctor", "--intercept", "--", "no-such-command")
    assert (done.code, done.err) == (127, "carpool: no-such-command: there is no such command on the PATH\n")


def test_a_proxy_that_cannot_be_gone_through_is_refused(inside: Inside) -> None:
    done = inside.run("doctor", "--intercept", "--", "true", HTTPS_PROXY="socks5://me:secret@127.0.0.1:9")
    assert done.code == 2
    assert "HTTPS_PROXY" in done.err
    assert "secret" not in done.err


def test_nothing_is_left_of_the_witness(program: Program) -> None:
    temporary = program.folder / "tmp"
    temporary.mkdir()
    code = "import os, signal; print(os.environ['PYTHONPATH'].split(os.pathsep)[0], flush=True); signal.pause()"
    command = ["doctor", "--intercept", "--", sys.executable, "-c", code]
    with program.start(*command, TMPDIR=str(temporary)) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert done.code == 1
    assert "the command ended with exit code 143" in done.err
    assert list(temporary.iterdir()) == []


# -- what is advised


def proof(*hosts: str, carpools: int = 0, **traffic: dict[str, int]) -> Proof:
    counts: dict[str, dict[str, int]] = {"asked": {}, "passed": {}, "refused": {}}
    stats = dict.fromkeys(Stats.__struct_fields__, 0)
    return Proof(
        ended=Ended(code=0, traffic=Traffic(**counts | traffic), stats=Stats(**stats), receipt=Receipt.empty()),
        around=[Around(host=host, port="443", connections=1, programs=[], seen_by=["proxy"]) for host in hosts],
        programs=1,
        carpools=carpools,
    )


def test_vertex_has_an_advice_of_its_own() -> None:
    assert _advices(proof("us-east1-aiplatform.googleapis.com")) == [f"what to do: {_VERTEX_ADVICE}"]
    assert len(_advices(proof("aiplatform.googleapis.com", GEMINI_HOST))) == 2
    assert len(_advices(proof(GEMINI_HOST, carpools=1))) == 2


def test_only_what_came_and_did_not_go_around_is_proved() -> None:
    assert proof(asked={"generate": 1}).holds
    assert proof(passed={"GET models": 1}).holds
    assert not proof().holds
    assert not proof(GEMINI_HOST, asked={"generate": 1}).holds
    assert _advices(proof(asked={"generate": 1})) == []
