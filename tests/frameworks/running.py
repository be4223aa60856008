"""One program, with all that it needs: an emulated service, the sidecar between them, and a home that goes away.

Owns the processes, their environment variables and their end. It must not know what a program asks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from carpool.emulator import EmulatorThread, Fault, JobView, Ledger, Logged, Plan

from .making import ROOT, Place, own_variables
from .plan import Part, Row

CALLS: Final = 50
KEY: Final = "the-key-of-the-service"
"""The only key that the emulated service takes: what reaches it with another, it refuses."""
CALLERS_KEY: Final = "a-key-of-the-callers"
SECRETS: Final = (KEY, CALLERS_KEY, "Answer to ", f" of {CALLS}: ")
"""Keys, and what is in every answer and every prompt: no log may show them."""
PATIENCE_S: Final = 240.0
"""A net under every process: whatever takes so long hangs."""

ATTEMPTS: Final = 2
"""How often a request is sent whose jobs fail."""

_QUICK: Final = {
    "CARPOOL_POLL_MIN_S": "0.05",
    "CARPOOL_POLL_MAX_S": "0.2",
    "CARPOOL_RETRY_MIN_S": "0.05",
    "CARPOOL_RETRY_MAX_S": "0.2",
}
_SETTINGS: Final[dict[Part, dict[str, str]]] = {
    # A batch is sent as soon as it is full, and not before: whether fifty calls wait together does not hang on the
    # speed of the machine. A library that asks for fewer at once waits for the linger, and ends with more jobs.
    "gather": {"CARPOOL_BATCH_REQUESTS_MAX": str(CALLS), "CARPOOL_LINGER_S": "60", "CARPOOL_LINGER_MAX_S": "60"},
    "features": {"CARPOOL_LINGER_S": "0.02", "CARPOOL_LINGER_MAX_S": "0.02"},
    "waits": {"CARPOOL_LINGER_S": "0.02", "CARPOOL_LINGER_MAX_S": "0.02"},
    "returns": {"CARPOOL_LINGER_S": "0.02", "CARPOOL_LINGER_MAX_S": "0.02"},
    "hurries": {},
    "fails": {
        "CARPOOL_LINGER_S": "0.02",
        "CARPOOL_LINGER_MAX_S": "0.02",
        "CARPOOL_ATTEMPTS_MAX": str(ATTEMPTS),
    },
}
_LONG_S: Final = 5.0
"""Longer than programs bear silence (``IMPATIENCE_S`` of ``asking.py``)."""
SERVE: Final = ("-m", "carpool", "serve", "--port", "0", "--json")
LIVELY: Final = ("-m", "tests.frameworks.lively")
"""A sidecar that gives more signs of life, so that nobody has to wait for long."""
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT")


class Failed(Exception):
    """A process did not do what it should; says what it said."""


class Answered(msgspec.Struct, frozen=True):
    """An answer that a program got; see ``programs/asking.py``."""

    asked: str
    got: Any
    what: str
    alone: bool


class Embedded(msgspec.Struct, frozen=True):
    """An embedding that a program got."""

    asked: str
    got: list[float]


class Refusal(msgspec.Struct, frozen=True):
    """An error that a program got."""

    kind: str
    words: str


class Told(msgspec.Struct, frozen=True):
    """The report of a program."""

    versions: dict[str, str]
    stack: str
    answers: list[Answered]
    vectors: list[Embedded]
    refusals: list[Refusal]


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a program was answered, and what the service saw of it."""

    told: Told
    jobs: list[JobView]
    ledger: Ledger
    requests: list[Logged]


def run(row: Row, part: Part, place: Place, folder: Path) -> Ran:
    """Run one part of a row's program.

    Args:
        row: which program, and how.
        part: fifty calls at once, or what else the library has.
        place: where it finds its library.
        folder: empty, for the homes of carpool and of the program.

    Raises:
        Failed: a process ended with an error, or never.
    """
    latency_s = _LONG_S if part in {"waits", "returns"} else 0.2
    faults = {"job.failed": Fault()} if part == "fails" else {}
    plan = Plan(latency_s=latency_s, api_keys=frozenset([KEY]), faults=faults)
    with EmulatorThread(plan) as emulator:
        ours = _SETTINGS[part] | _QUICK | _carpool(emulator.base_url, folder)
        command = place.command(row.program, part, row.way, row.mode)
        if row.way == "in-process":
            told = _program(command, ours | row.variables | place.variables, folder)
        else:
            serve = LIVELY if part == "waits" else SERVE
            with sidecar(serve, ours, folder) as url:
                told = _program(command, callers(url) | row.variables | place.variables, folder)
        return Ran(told=told, jobs=emulator.jobs(), ledger=emulator.ledger(), requests=emulator.requests)


def _carpool(base_url: str, folder: Path) -> dict[str, str]:
    """Return what carpool needs, wherever it runs."""
    return {"CARPOOL_BASE_URL": base_url, "CARPOOL_HOME": str(folder / "home"), "GEMINI_API_KEY": KEY}


def callers(url: str) -> dict[str, str]:
    """Return all that programs are told of a sidecar."""
    return {
        "GEMINI_API_KEY": CALLERS_KEY,
        "GOOGLE_GEMINI_BASE_URL": url,
        "GEMINI_API_BASE": url,
        "OPENAI_API_KEY": CALLERS_KEY,
        "OPENAI_BASE_URL": f"{url}/v1beta/openai",
    }


def _surroundings(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process: nothing of the tester's own but where programs and temporary files are."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"HOME": str(folder), "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"} | dict(more)


def _program(command: list[str], variables: Mapping[str, str], folder: Path) -> Told:
    surroundings = _surroundings(folder, variables)
    try:
        ended = subprocess.run(
            command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        words = (error.stderr or b"")[-2_000:].decode("utf-8", "replace")
        raise Failed(f"did not end within {PATIENCE_S:g} s\n{words}") from None
    if ended.returncode:
        raise Failed(f"ended with {ended.returncode}\n{ended.stderr[-3_000:]}")
    return msgspec.json.decode(ended.stdout.splitlines()[-1], type=Told)


@contextmanager
def sidecar(serve: Sequence[str], settings: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run a sidecar as a process of its own, and yield where it listens.

    Args:
        serve: what Python is told to run.
        settings: environment variables.
        folder: for its log.

    Raises:
        Failed: it did not start, or did not end well.
    """
    command = [sys.executable, *serve]
    with (folder / "sidecar.log").open("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            env=_surroundings(folder, settings) | own_variables(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Failed(f"the sidecar did not start\n{_read(errors)}")
            yield json.loads(line)["url"]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
            if process.returncode:
                raise Failed(f"the sidecar ended with {process.returncode}\n{_read(errors)}")
            told = [secret for secret in SECRETS if secret in _read(errors)]
            if told:
                raise Failed(f"the sidecar's log shows {told}")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()


def _read(file: Any) -> str:
    file.seek(0)
    text: str = file.read()
    return text
