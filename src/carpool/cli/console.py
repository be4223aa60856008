"""What all commands share: exit codes, lines on stderr, JSON on stdout, and how a command runs on an event loop.

Owns the streams of the process. It must not know any command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Coroutine, Generator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from carpool._showing import shown, status_word
from carpool.types import BatchJob, File, ServerError

if TYPE_CHECKING:
    from carpool.settings import Ladder

T = TypeVar("T", BatchJob, File)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


class Exit(IntEnum):
    """How the process ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LATE = 3
    INTERRUPTED = 130


class UsageError(Exception):
    """The command was called wrongly, or its input cannot be used. Nothing was sent."""


def say(text: str) -> None:
    """Print one line to stderr."""
    print(f"carpool: {' '.join(text.split())}", file=sys.stderr, flush=True)


def print_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print a value as one line of JSON to stdout, whatever the encoding of the terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.flush()
    stream.buffer.write(_encoder.encode(value) + b"\n")
    stream.buffer.flush()


def fit(told: T) -> T:
    """Return a job or a file whose server error, if it has one, is fit to be shown."""
    error = told.error
    if error is None:
        return told
    return msgspec.structs.replace(told, error=ServerError(error.code, shown(error.message), status_word(error.status)))


def words_of_error(error: ServerError) -> str:
    """Return a server's error in words that are fit to be shown."""
    parts = (error.code or "", status_word(error.status), shown(error.message))
    return " ".join(str(part) for part in parts if part)


def lose_output() -> None:
    """Let go of a stdout that nobody reads any more, so that the interpreter does not complain about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is due."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def deadline_of(text: str | None) -> float | None:
    """Return how many seconds a deadline of the command line is away; ``None`` for none.

    Raises:
        ConfigurationError: it has none of the forms of a deadline.
    """
    from carpool._deadline import parse_deadline

    return None if text is None else parse_deadline(text, now := time.time()) - now


def ladder_of(text: str | None) -> Ladder | None:
    """Return the ladder that the command line names; ``None`` for none.

    Raises:
        ConfigurationError: it is no ladder.
    """
    from carpool.settings import read_ladder

    return None if text is None else read_ladder(text)


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command on an event loop. SIGTERM ends it as Ctrl-C does.

    Raises:
        KeyboardInterrupt: it was ended by either, and has cleaned up behind itself.
    """
    try:
        return asyncio.run(_stoppable(command))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _stoppable(command: Coroutine[Any, Any, int]) -> int:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows: SIGTERM ends the process at once
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await command


@contextlib.contextmanager
def tell_warnings() -> Generator[None]:
    """Print the library's warnings as lines of ours."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {message}")

    handler = _Lines(logging.WARNING)
    logger = logging.getLogger("carpool")
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Log records as lines on stderr, wherever that leads at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")
        if record.exc_info:  # a bug of ours: whoever reports it needs this
            traceback.print_exception(*record.exc_info)
