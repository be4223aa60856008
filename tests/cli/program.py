"""The program in a process of its own, and an emulated service in a thread of this one.

Owns the environment of the program (nothing of the tester's own gets through) and bounded waits. It must not know any
command.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import pytest

from carpool.cli import main
from carpool.emulator import Emulator, JobView, Ledger, Plan

MODEL: Final = "gemini-3.5-flash"
EMBED_MODEL: Final = "gemini-embedding-001"
API_KEY: Final = "AIza-canary-0123456789-canary"
PATIENCE_S: Final = 90.0
"""A net under every wait: whatever takes so long hangs. No test measures anything by it."""

OURS: Final = ("CARPOOL_", "GOOGLE_", "GEMINI_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
_QUICK: Final = {
    "CARPOOL_LINGER_S": "0.05",
    "CARPOOL_LINGER_MAX_S": "0.2",
    "CARPOOL_POLL_MIN_S": "0.05",
    "CARPOOL_POLL_MAX_S": "0.2",
    "CARPOOL_RETRY_MIN_S": "0.05",
    "CARPOOL_RETRY_MAX_S": "0.2",
    "CARPOOL_LOOKUP_WAIT_S": "0.1",
    "CARPOOL_BATCH_REQUESTS_MAX": "500",
}


class Done(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Return the one JSON value on stdout."""
        return json.loads(self.out)


def environ_of(more: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return own | _QUICK | dict(more)


class Child(subprocess.Popen[str]):
    """A process that does not outlive its block, so that a test that fails ends."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(kind, value, trace)


class Program:
    """Runs the program with an environment."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = environ_of({"CARPOOL_HOME": str(folder / "home")} | environ)  # never the user's own

    def start(self, *arguments: str, stdin: Any = subprocess.DEVNULL, **environ: str) -> Child:
        return Child(
            [sys.executable, "-m", "carpool", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
            env=self.environ | environ,
        )

    def run(self, *arguments: str, text: str = "", **environ: str) -> Done:
        with self.start(*arguments, stdin=subprocess.PIPE, **environ) as process:
            return finish(process, text)

    def map(self, *arguments: str, text: str = "", **environ: str) -> Done:
        return self.run("map", *arguments, "--model", MODEL, text=text, **environ)


class Inside(Program):
    """Runs the program in this process, which is quicker; without a stdin."""

    def __init__(self, like: Program, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__(like.folder, **like.environ)
        self._patch = patch
        self._capture = capture

    def run(self, *arguments: str, text: str = "", **environ: str) -> Done:
        assert not text, "stdin is the tester's own"
        with self._patch.context() as patch:
            patch.chdir(self.folder)
            for name in os.environ:
                if name.startswith(OURS):
                    patch.delenv(name)
            for name, value in (self.environ | environ).items():
                patch.setenv(name, value)
            code = main(arguments)
        out, err = self._capture.readouterr()
        return Done(code, out, err)


def finish(process: subprocess.Popen[str], text: str | None = None) -> Done:
    try:
        out, err = process.communicate(text, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process as a power cut would."""
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for a condition, as long as a process lives."""
    ends_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_at, "it never came to that"
        assert process is None or process.poll() is None, "it ended before it came to that"
        time.sleep(0.01)


class Service:
    """An emulator in a thread."""

    def __init__(self, plan: Plan | None = None) -> None:
        self._emulator = Emulator(plan)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulator")

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._emulator.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._emulator.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE_S)

    @property
    def base_url(self) -> str:
        return self._emulator.base_url

    @property
    def ledger(self) -> Ledger:
        ledger: Ledger = self._call(self._emulator.ledger)
        return ledger

    @property
    def jobs(self) -> list[JobView]:
        jobs: list[JobView] = self._call(lambda: self._emulator.world.jobs(time.time()))
        return jobs

    @property
    def calls(self) -> int:
        return len(self._call(lambda: self._emulator.requests))

    def play(self, plan: Plan) -> None:
        """Put another plan in force."""

        def change() -> None:
            self._emulator.plan = plan

        self._call(change)

    def create_job(self, *prompts: str) -> str:
        """Create a job as somebody else would, and return its name."""
        rows = [
            {"request": {"contents": [{"parts": [{"text": prompt}]}]}, "metadata": {"key": f"k{index}"}}
            for index, prompt in enumerate(prompts)
        ]
        body = {"batch": {"displayName": "by hand", "inputConfig": {"requests": {"requests": rows}}}}
        request = urllib.request.Request(  # noqa: S310 - our own emulator
            f"{self.base_url}/v1beta/models/{MODEL}:batchGenerateContent",
            data=json.dumps(body).encode(),
            headers={"x-goog-api-key": "any", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:  # noqa: S310 - our own emulator
            name: str = json.load(reply)["name"]
        return name


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def prompts(count: int) -> list[dict[str, Any]]:
    """Return rows with the keys k0, k1, ..."""
    return [{"key": f"k{number}", "prompt": f"prompt {number}"} for number in range(count)]


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an output file by their keys, having seen that each is there once."""
    text = path.read_text("utf-8")
    assert text.endswith("\n") or not text
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows), "a key is there twice"
    return found


def text_of(row: Mapping[str, Any]) -> str:
    text: str = row["response"]["candidates"][0]["content"]["parts"][0]["text"]
    return text
