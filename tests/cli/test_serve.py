"""``carpool serve``: the sidecar as a process, in front of an emulated service."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carpool.cli.serve import _Ending, _Order
from carpool.emulator import Plan
from carpool.emulator.thread import EmulatorThread

from .program import API_KEY, MODEL, Child, Inside, Program, Service, finish, wait_until

PROMPT = "the canary sings in the dark of mine no 7"
TOKEN = "sesame-0123456789"


class Sidecar:
    """A running sidecar, and how it is asked."""

    def __init__(self, process: Child) -> None:
        assert process.stdout is not None
        self.process = process
        told = json.loads(process.stdout.readline())
        assert told["pid"] == process.pid
        self.url: str = told["url"]

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - our own
        with urllib.request.urlopen(request) as reply:  # noqa: S310 - of a sidecar of ours
            return json.load(reply)

    def ask(self, text: str, **headers: str) -> Any:
        body = json.dumps({"contents": [{"parts": [{"text": text}]}]}).encode()
        url = f"{self.url}/v1beta/models/{MODEL}:generateContent?key=AIza-of-somebody-else"
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - of a sidecar of ours
        with urllib.request.urlopen(request) as reply:  # noqa: S310 - of a sidecar of ours
            return json.load(reply)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, Any, str]:
        self.process.send_signal(number)
        done = finish(self.process)
        return done.code, done.data, done.err


@contextmanager
def serving(program: Program, *options: str, **environ: str) -> Iterator[Sidecar]:
    with program.start("serve", "--port", "0", "--json", *options, **environ) as process:
        yield Sidecar(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_answers_through_one_batch_until_a_signal_and_ends_with_the_receipt(
    program: Program, service: Service, number: signal.Signals
) -> None:
    with serving(program, CARPOOL_LINGER_S="1", CARPOOL_LINGER_MAX_S="1") as sidecar:
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(sidecar.ask, [f"{PROMPT} {one}" for one in range(5)]))
        assert all("candidates" in answer for answer in answers)
        assert sidecar.get("/carpool/health") == {"status": "ok", "reasons": []}
        assert sidecar.get("/carpool/receipt")["by_route"]["batch"]["requests"] == 5
        assert sidecar.get("/v1beta/models")["models"]
        code, data, err = sidecar.end(number)
    assert (code, err) == (0, "")
    assert data["receipt"]["requests"] == 5
    assert data["traffic"] == {"asked": {"generate": 5}, "passed": {"GET models": 1}, "refused": {}}
    assert service.ledger.rows_billed == 5
    assert len(service.jobs) == 1


def test_it_says_how_to_point_programs_at_it(program: Program) -> None:
    with program.start("serve", "--port", "0") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        done = finish(process)
    url = lines[0].split()[4].rstrip(";")
    assert lines[1:4] == [
        f"google-genai:  export GOOGLE_GEMINI_BASE_URL={url}\n",
        f"LiteLLM:       export GEMINI_API_BASE={url}\n",
        f"OpenAI's SDK:  export OPENAI_BASE_URL={url}/v1beta/openai\n",
    ]
    assert "any API key" in lines[4]
    assert (done.code, done.out) == (0, "Receipt: nothing was paid for\n")


class Later:
    """A service of which hours can be skipped."""

    def __init__(self, tmp_path: Path) -> None:
        self._skipped_s = 0.0
        self.emulator = EmulatorThread(Plan(latency_s=3_600), clock=lambda: time.time() + self._skipped_s)
        self.folder = tmp_path

    def skip_an_hour(self) -> None:
        self._skipped_s += 3_600

    @property
    def program(self) -> Program:
        return Program(self.folder, CARPOOL_BASE_URL=self.emulator.base_url, GEMINI_API_KEY=API_KEY)


@pytest.fixture
def later(tmp_path: Path) -> Iterator[Later]:
    later = Later(tmp_path)
    with later.emulator:
        yield later


def test_who_waits_when_it_stops_is_told_to_come_again_and_then_gets_the_answer_of_the_first_time(later: Later) -> None:
    with serving(later.program) as sidecar, ThreadPoolExecutor() as pool:
        asked = pool.submit(sidecar.ask, PROMPT)
        wait_until(lambda: len(later.emulator.jobs()) == 1, sidecar.process)
        sidecar.process.send_signal(signal.SIGINT)
        assert sidecar.process.stderr is not None
        assert "1 caller may wait 10 seconds more" in sidecar.process.stderr.readline()
        code, data, _ = sidecar.end(signal.SIGINT)  # the second, which ends the waiting
        error = asked.exception()
    assert isinstance(error, urllib.error.HTTPError)
    with error:
        assert (code, data["receipt"]["requests"], error.code) == (0, 0, 503)
        assert error.headers["retry-after"] == "5"
        assert json.load(error)["error"]["status"] == "UNAVAILABLE"
    later.skip_an_hour()
    with serving(later.program) as sidecar:
        assert PROMPT in sidecar.ask(PROMPT)["candidates"][0]["content"]["parts"][0]["text"]
        code, data, _ = sidecar.end()
    assert (code, data["receipt"]["requests"]) == (0, 1)
    assert len(later.emulator.jobs()) == 1
    assert later.emulator.ledger().rows_billed == 1


def test_a_token_is_wanted_where_one_is_given(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "token.txt"
    path.write_text(f"{TOKEN}\n")
    with serving(program, "--token-file", str(path), CARPOOL_TOKEN="another-0123456789") as sidecar:
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            sidecar.ask(PROMPT)
        caught.value.close()
        assert sidecar.get("/carpool/health") == {"status": "ok"}
        assert "candidates" in sidecar.ask(PROMPT, **{"x-goog-api-key": TOKEN})
        code, _, err = sidecar.end()
    assert (code, err) == (0, "")
    with serving(program, CARPOOL_TOKEN=TOKEN) as sidecar:
        assert sidecar.get("/carpool/receipt", authorization=f"Bearer {TOKEN}")["requests"] == 0


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    [
        (["--host", "0.0.0.0"], {}, "token"),  # noqa: S104 - that is what is refused
        (["--token-file", "no-such-file"], {}, "--token-file no-such-file: No such file"),
        (["--token-file", "empty"], {}, "the token is empty"),
        (["--token-file", "binary"], {}, "it is no text"),
        (["--deadline", "soon"], {}, "soon"),
        (["--ladder", "slow"], {}, "ladder"),
        (["--allow-host", "http://x"], {}, "without http://"),
        (["--port", "65536"], {}, "65536"),
        (["--port", "8711"], {"CARPOOL_BASE_URL": "http://localhost:8711"}, "is this sidecar itself"),
        (["--port", "8711", "--base-url", "http://127.0.0.1:8711"], {}, "is this sidecar itself"),
        ([], {"CARPOOL_BASE_URL": "", "GEMINI_API_KEY": ""}, "GEMINI_API_KEY"),
        (["--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(
    inside: Inside, tmp_path: Path, options: list[str], environ: dict[str, str], words: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    done = inside.run("serve", *options, **environ)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_said(inside: Inside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = inside.run("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.out) == (2, "")
    assert "cannot listen on 127.0.0.1" in done.err
    assert "in use" in done.err


def test_the_upstream_is_never_what_other_libraries_are_pointed_at(program: Program) -> None:
    with serving(program, GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:9") as sidecar:
        assert "candidates" in sidecar.ask(PROMPT)


async def test_the_first_signal_asks_for_the_end_the_second_hurries_and_the_third_breaks_off() -> None:
    hurried: list[bool] = []

    async def command() -> None:
        ending = _Ending()
        ending.signalled()
        await ending.asked.wait()
        ending.then = lambda: hurried.append(True)
        ending.signalled()
        ending.signalled()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(command())
    await asyncio.wait({task})
    assert task.cancelled()
    assert hurried == [True]


def test_an_order_does_not_show_its_token() -> None:
    rest = {"allow_hosts": (), "deadline": None, "ladder": None, "home": None, "base_url": None, "as_json": True}
    assert TOKEN not in repr(_Order(host="x", port=1, token=TOKEN, **rest))
