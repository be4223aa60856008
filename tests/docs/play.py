"""Plays a page of the documentation: ``python play.py PAGE.md``, in an empty folder, with a service in the environment.

Owns what it means that a page's code runs:

* Python blocks share one namespace and one event loop, top to bottom, as cells of a notebook do. A block may
  ``await`` at its top, or call ``asyncio.run``. What follows ``<!-- prints -->`` is what the block before has printed;
  ``...`` stands for anything.
* A block after ``<!-- pytest -->`` is a test file, and passes.
* Shell blocks: each ``carpool``, ``python``, ``node`` and ``curl`` command runs, and succeeds; ``carpool emulate``
  until it listens, ``carpool serve`` until the page ends, on a free port, which then stands wherever the page says
  8711; a block after ``<!-- exits N -->`` ends with that code. Lines that begin with what a test must not touch
  (package index, git, an interactive program) are left out, and any other command is an error of the page. A block
  after ``<!-- parsed -->`` is not run, but the program knows its commands and options.
* A block after ``<!-- file NAME -->`` is the file of that name, for commands that follow. ``python FILE`` is the
  interpreter in the variable ``PAGE_PYTHON``, if there is one: a program that has nothing of carpool around it.
* JSON blocks hold one JSON value a line, or one over all lines.

It must not know any page.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from cyclopts import CycloptsError

from carpool.cli import program

_FENCE: Final = re.compile(
    r"^(?:<!-- (?P<note>[a-z]+)(?: (?P<value>[\w.]+))? -->\n)?(?P<indent> *)```(?P<language>\w+)[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_NOT_HERE: Final = ("pip ", "git ", "pytest", "python -m venv", "python -m asyncio", ".ci/run", "python -m pip")
_PATIENCE_S: Final = 100.0
_SIDECAR: Final = "127.0.0.1:8711"
"""Where pages say that the sidecar listens."""
_PROGRAMS: Final = os.environ.get("PAGE_PYTHON") or sys.executable
"""What runs a page's files."""


class Block(NamedTuple):
    """A fenced block, with what the comment above it says."""

    language: str
    code: str
    line: int
    note: str
    value: str


class PageError(Exception):
    """What a page says is not so."""


def blocks_of(text: str) -> Iterator[Block]:
    """Find the fenced blocks of a page that name a language."""
    for found in _FENCE.finditer(text):
        code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
        line = text.count("\n", 0, found.start("code"))
        yield Block(found["language"], code, line, found["note"] or "", found["value"] or "")


class Page:
    """One page at play."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = next(folder for folder in path.parents if (folder / "README.md").is_file())
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._printed = ""
        self._runner = asyncio.Runner()
        self._served = contextlib.ExitStack()
        self._address = _SIDECAR

    def play(self) -> int:
        """Play all blocks; return how many there were."""
        count = 0
        with self._runner, self._served:
            for block in blocks_of(self._path.read_text("utf-8")):
                count += self._play_block(block._replace(code=block.code.replace(_SIDECAR, self._address)))
        return count

    def _play_block(self, block: Block) -> bool:
        match block.language, block.note:
            case _, "file":
                Path(block.value).write_text(block.code, "utf-8")
            case "python", "pytest":
                self._test(block)
            case "python", _:
                self._python(block)
            case "bash", "parsed":
                for command in commands_of(block.code):
                    parse(command, block)
            case "bash", _:
                self._printed = ""
                for command in commands_of(block.code):
                    self._shell(command, block)
            case "json", _:
                check_json(block.code)
            case "text", "prints":
                self._compare(block)
            case _:
                return False
        return True

    def _python(self, block: Block) -> None:
        # Line numbers of a traceback are those of the page.
        code = compile(
            "\n" * block.line + block.code, str(self._path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            coroutine = eval(code, self._names)  # noqa: S307 - our own documentation
            if coroutine is not None:
                self._runner.run(coroutine)
        self._printed = printed.getvalue()

    def _compare(self, block: Block) -> None:
        pattern = re.escape(block.code.strip()).replace(r"\.\.\.", ".*?")
        if not re.fullmatch(pattern, self._printed.strip(), re.DOTALL):
            raise PageError(f"line {block.line}: it printed\n{self._printed}\ninstead of\n{block.code}")

    def _test(self, block: Block) -> None:
        Path("test_page.py").write_text(block.code, "utf-8")
        # carpool's own plugin is named for where it is not installed; looptime's fails without pytest-asyncio.
        plugin = ["-p", "carpool.emulator.pytest_plugin", "-p", "no:looptime_plugin"]
        options = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "-W", "error", "test_page.py"]
        run([sys.executable, "-m", "pytest", *plugin, *options], block)

    def _shell(self, command: str, block: Block) -> None:
        words = shlex.split(os.path.expandvars(command), comments=True)
        match words:
            case ["export", setting] if not setting.startswith(("CARPOOL_BASE_URL", "GEMINI_API_KEY")):
                name, _, value = setting.partition("=")
                os.environ[name] = value
            case ["export" | "unset", *_]:
                return  # the service that a test plays against stays the one that it was given
            case ["carpool", "emulate", *rest]:
                options = [*without_port(rest), "--port", "0"]
                serve_a_moment([sys.executable, "-m", "carpool", "emulate", *options], block)
            case ["carpool", "serve", *rest]:
                self._address = self._served.enter_context(serving(rest, block))
            case ["carpool", *rest]:
                here = [_PROGRAMS if word == "python" else word for word in rest]
                self._printed += run([sys.executable, "-m", "carpool", *here], block)
            case ["python", script, *rest]:
                own = not Path(script).is_file()
                known = [sys.executable, str(self._root / script)] if own else [_PROGRAMS, script]
                self._printed += run([*known, *rest], block, own=own or sys.executable == _PROGRAMS)
            case ["curl" | "node", *_]:
                self._printed += run(words, block)
            case _:
                raise PageError(f"line {block.line}: a test cannot know what to do with {command!r}")


def commands_of(code: str) -> Iterator[str]:
    """Give the commands of a shell block that a test can run."""
    for line in re.sub(r"\s*\\\n\s*", " ", code).splitlines():
        if line.startswith(("#", *_NOT_HERE)):
            continue
        for command in re.split(r"\s*(?:&&|;)\s*", line.partition(" #")[0]):
            if command.strip():
                yield command.strip()


def parse(command: str, block: Block) -> None:
    """Read a ``carpool`` command as the program would; what its output is piped into does not matter."""
    words = shlex.split(re.split(r" [|>]", command)[0])
    if words[0] != "carpool":
        raise PageError(f"line {block.line}: {command!r} is not a command of carpool")
    try:
        program().parse_args(words[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise PageError(f"line {block.line}: {command!r}: {error}") from None


def run(command: list[str], block: Block, *, own: bool = True) -> str:
    """Run a command to its end, which is success or what the page says; return what it printed.

    Args:
        command: its words.
        block: in which it stands.
        own: whether it finds modules where this process does, which a program in an environment of its own must not.
    """
    done = subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if own or not name.startswith(("PYTHON", "COV"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode != (int(block.value) if block.note == "exits" else 0):
        raise PageError(f"line {block.line}: {' '.join(command[1:])} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


@contextlib.contextmanager
def serving(options: list[str], block: Block) -> Iterator[str]:
    """Run a sidecar; give its address as pages write it, and end it in order."""
    command = [sys.executable, "-m", "carpool", "serve", *without_port(options), "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            if found := re.search(r"127\.0\.0\.1:[0-9]+", said):
                yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            said += process.communicate(timeout=_PATIENCE_S)[0]
    if process.returncode != 0 or not found:
        raise PageError(f"line {block.line}: carpool serve ended with {process.returncode}\n{said}")


def without_port(options: list[str]) -> list[str]:
    """Leave out the port that a page names: any free one will do."""
    left = list(options)
    while "--port" in left[:-1]:
        place = left.index("--port")
        del left[place : place + 2]
    return left


def serve_a_moment(command: list[str], block: Block) -> None:
    """Start a service, wait until it says that it listens, and end it."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=_PATIENCE_S)[0]
    if process.returncode != 0 or "http://" not in said:
        raise PageError(f"line {block.line}: {' '.join(command[1:])} ended with {process.returncode}\n{said}")


def check_json(code: str) -> None:
    """Read a block of JSON."""
    try:
        json.loads(code)
    except ValueError:
        for line in code.splitlines():
            json.loads(line)


if __name__ == "__main__":
    played = Page(Path(sys.argv[1])).play()
    sys.stdout.write(f"{played}\n")
