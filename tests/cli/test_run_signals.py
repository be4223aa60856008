"""Signals that come to ``carpool run``: the command decides what they mean, as if it stood alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from carpool.cli.child import Signals, has_terminal

from .program import PATIENCE_S, Child, Program, finish, wait_until

LISTENER = """
import os, pathlib, signal, sys

folder = pathlib.Path(sys.argv[1])
heard = []

def hear(number, frame):
    heard.append(signal.Signals(number).name)
    (folder / "heard").write_text(" ".join(heard))

for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
    if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, name), hear)
(folder / "pid.new").write_text(str(os.getpid()))
(folder / "pid.new").rename(folder / "pid")
while len(heard) < int(sys.argv[2]) and not (folder / "enough").exists():
    signal.sigtimedwait([], 0.01)
sys.exit(5)
"""
"""Ends with 5 when it heard so many signals, or when it is told that it is enough."""

AT_A_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execvp(sys.argv[1], sys.argv[1:])"
"""In a session of its own: the terminal on stdin becomes the one that controls it."""
HEARING = """
import os, signal, sys
for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Whatever the tester was told to ignore (``nohup``), this one is not."""
DEAF = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"


class Listener:
    """A command that writes down which signals it hears."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "listener.py").write_text(LISTENER, "utf-8")

    def command(self, count: int) -> list[str]:
        return ["run", "--json", "--", sys.executable, "listener.py", str(self._folder), str(count)]

    def listens(self) -> bool:
        return (self._folder / "pid").exists()

    def is_gone(self) -> bool:
        try:
            os.kill(int((self._folder / "pid").read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    def heard(self) -> list[str]:
        path = self._folder / "heard"
        return path.read_text().split() if path.exists() else []

    def enough(self) -> None:
        (self._folder / "enough").touch()


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def start(program: Program, *command: str, stdin: int = subprocess.DEVNULL) -> Child:
    """Start a process in a session of its own: signals of the tester's terminal are not for it."""
    return Child(
        (sys.executable, "-c", HEARING, *command),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=program.folder,
        env=program.environ,
        start_new_session=True,
    )


CARPOOL = (sys.executable, "-m", "carpool")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name
)
def test_what_is_sent_to_us_alone_is_handed_on(program: Program, listener: Listener, number: signal.Signals) -> None:
    with start(program, *CARPOOL, *listener.command(1)) as process:
        wait_until(listener.listens, process)
        process.send_signal(number)
        done = finish(process)
    assert done.code == 5, done.err
    assert listener.heard() == [number.name]
    assert '"exit_code":5' in done.err


def test_who_asks_twice_does_not_ask(program: Program, listener: Listener) -> None:
    with start(program, *CARPOOL, *listener.command(9)) as process:
        wait_until(listener.listens, process)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: listener.heard() == ["SIGTERM"], process)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    assert done.code == 128 + signal.SIGKILL, done.err
    assert listener.heard() == ["SIGTERM"]
    assert '"exit_code":137' in done.err


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Open a terminal: the side of the person, and that of the program."""
    person, side = pty.openpty()
    try:
        yield person, side
    finally:
        os.close(person)
        os.close(side)


def test_ctrl_c_reaches_the_command_once_and_we_wait_for_it(program: Program, listener: Listener) -> None:
    with terminal() as (person, side):
        command = (sys.executable, "-c", AT_A_TERMINAL, *CARPOOL, *listener.command(2))
        with start(program, *command, stdin=side) as process:
            wait_until(listener.listens, process)
            os.write(person, b"\x03")
            wait_until(lambda: listener.heard() == ["SIGINT"], process)
            os.kill(process.pid, signal.SIGUSR1)  # behind whatever we might have handed on
            done = finish(process)
    assert done.code == 5, done.err
    assert listener.heard() == ["SIGINT", "SIGUSR1"]


def test_who_insists_on_ctrl_c_is_heard(program: Program, listener: Listener) -> None:
    with terminal() as (person, side):
        command = (sys.executable, "-c", AT_A_TERMINAL, *CARPOOL, *listener.command(10**6))
        with start(program, *command, stdin=side) as process:
            wait_until(listener.listens, process)

            for presses in (1, 2):
                os.write(person, b"\x03")
                wait_until(lambda presses=presses: len(listener.heard()) >= presses, process)
            while not listener.is_gone():  # once, but on a machine so slow that these were not three in a row
                os.write(person, b"\x03")
                until = time.monotonic() + 2.0
                while not listener.is_gone() and time.monotonic() < until:
                    time.sleep(0.01)
            done = finish(process)
    assert done.code == 128 + signal.SIGKILL
    assert '"exit_code":137' in done.err


def test_signals_that_are_not_to_be_heard_are_not(program: Program, listener: Listener) -> None:
    with start(program, sys.executable, "-c", DEAF, *CARPOOL, *listener.command(9)) as process:
        wait_until(listener.listens, process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: bool(listener.heard()), process)
        listener.enough()
        done = finish(process)
    assert done.code == 5, done.err
    assert listener.heard() == ["SIGUSR1"]


# -- the rules, without a process


class Command:
    """Writes down what it is sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.gone = False

    def send_signal(self, number: int) -> None:
        if self.gone:
            raise ProcessLookupError
        self.sent.append(number)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def command() -> Command:
    return Command()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def signals_of(command: Command, clock: Clock, *, typed: bool) -> Signals:
    return Signals(cast("asyncio.subprocess.Process", command), clock, lambda: typed)


def test_ctrl_c_at_leisure_is_the_commands_own(command: Command, clock: Clock) -> None:
    signals = signals_of(command, clock, typed=True)
    for clock.now in (0.0, 1.5, 3.0, 4.5, 100.0, 101.0):
        signals.type(signal.SIGINT)
    assert command.sent == []
    clock.now = 101.9
    signals.type(signal.SIGINT)
    assert command.sent == [signal.SIGKILL]


def test_ctrl_c_that_no_terminal_sent_is_one_that_asks_to_end(command: Command, clock: Clock) -> None:
    signals = signals_of(command, clock, typed=False)
    signals.type(signal.SIGINT)
    signals.hand_on(signal.SIGUSR1)
    signals.end(signal.SIGTERM)
    assert command.sent == [signal.SIGINT, signal.SIGUSR1, signal.SIGKILL]


def test_a_command_that_has_just_ended_is_sent_nothing(command: Command, clock: Clock) -> None:
    command.gone = True
    signals = signals_of(command, clock, typed=False)
    signals.end(signal.SIGTERM)
    signals.end(signal.SIGTERM)
    assert command.sent == []


def test_without_a_terminal_there_is_none() -> None:
    code = "from carpool.cli.child import has_terminal; print(has_terminal())"
    with Child(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert out == "False\n"
    assert has_terminal() in (True, False)
