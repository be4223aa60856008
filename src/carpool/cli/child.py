"""A command that runs inside of ours: it has the terminal, the signals that come to us, and the last word on the exit.

Owns the child process. It must not know what the command is, nor what it is run for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
"""Exit codes of shells for commands that cannot be started."""
_GRACE_S: Final = 10.0
"""How long a command may take to end when it must because we do."""
_PRESSES: Final = 3
_PRESSES_S: Final = 2.0
"""So many times Ctrl-C within so long: somebody means it."""
_ENDING: Final = ("SIGTERM", "SIGHUP")
_TYPED: Final = ("SIGINT", "SIGQUIT")
"""What a terminal sends to all of its foreground processes: the command gets it without us."""
_OTHERS: Final = ("SIGUSR1", "SIGUSR2")
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class CannotStartError(Exception):
    """A command cannot be started.

    Attributes:
        code: what a shell would exit with.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def find_command(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Look for a command, before anything is done for it.

    Raises:
        CannotStartError: it is not there, or cannot be run.
    """
    name = command[0]
    if shutil.which(name, path=environ.get("PATH", os.defpath)) is not None:
        return
    if os.path.dirname(name) and os.path.exists(name):  # noqa: PTH110, PTH120 - as which() does: '' and './x' are no Paths
        why = "it is a folder" if os.path.isdir(name) else "it may not be executed"  # noqa: PTH112
        raise CannotStartError(f"{name}: {why}", NOT_EXECUTABLE)
    where = "" if os.path.dirname(name) else " on the PATH"  # noqa: PTH120
    raise CannotStartError(f"{name}: there is no such command{where}", NOT_FOUND)


async def run_child(
    command: Sequence[str], environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
) -> int:
    """Run a command to its end, with our own stdin, stdout and stderr.

    Cancelled, it ends the command first.

    Args:
        command: the program and its arguments.
        environ: its environment.
        clock: tells seconds.

    Returns:
        Its exit code; 128 and the signal's number, if a signal ended it.

    Raises:
        CannotStartError: it is not there, or cannot be run.
    """
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environ)
    except (OSError, ValueError) as error:
        raise _cannot_start(command[0], error) from None
    try:
        with _handlers(Signals(process, clock)):
            code = await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)
    return code if code >= 0 else 128 - code


def _cannot_start(name: str, error: Exception) -> CannotStartError:
    number = error.errno if isinstance(error, OSError) else None
    words = error.strerror if isinstance(error, OSError) else str(error)
    # Also of a script whose interpreter is not there, which the system tells in the same words.
    return CannotStartError(f"{name}: {words}", NOT_FOUND if number in _NOWHERE else NOT_EXECUTABLE)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command that outlives its purpose."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Signals:
    """What becomes of the signals that come to us while a command runs.

    Args:
        process: the command.
        clock: tells seconds.
        typed: whether what Ctrl-C sends comes from the terminal, and so has reached the command already.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        clock: Callable[[], float],
        typed: Callable[[], bool] | None = None,
    ) -> None:
        self._process = process
        self._clock = clock
        self._typed = typed or has_terminal
        self._told = 0
        self._pressed_at: list[float] = []

    def end(self, number: int) -> None:
        """Hand on a signal that asks to end; the second one does not ask."""
        self._told += 1
        self._send(number if self._told == 1 else signal.SIGKILL)

    def type(self, number: int) -> None:
        """Take what Ctrl-C sends: the command has its own, and may do with it as it likes, unless somebody insists."""
        if not self._typed():
            self.end(number)
            return
        now = self._clock()
        self._pressed_at = [at for at in self._pressed_at if now - at < _PRESSES_S] + [now]
        if len(self._pressed_at) >= _PRESSES:
            self._send(signal.SIGKILL)

    def hand_on(self, number: int) -> None:
        """Hand on a signal that means something to the command alone."""
        self._send(number)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


@contextlib.contextmanager
def _handlers(signals: Signals) -> Generator[None]:
    """Let signals go to a command; afterwards, those that end programs end this task."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    ways = {_ENDING: signals.end, _TYPED: signals.type, _OTHERS: signals.hand_on}
    taken: list[int] = []
    for names, way in ways.items():
        for number in _numbers(names):
            loop.add_signal_handler(number, way, number)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
        for number in _numbers((*_ENDING, "SIGINT")):
            if number in taken:
                loop.add_signal_handler(number, task.cancel)


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the signals that this system has, and that whoever started us wants to be heard (``nohup`` does not)."""
    if sys.platform == "win32":  # its event loops handle none
        return []
    numbers = [getattr(signal, name) for name in names]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def has_terminal() -> bool:
    """Return whether a terminal sends what is typed there to this process, and to those that it started."""
    if sys.platform == "win32":
        return True
    try:
        handle = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(handle) == os.getpgrp()
    except OSError:  # it is another session's
        return False
    finally:
        os.close(handle)
