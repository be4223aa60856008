"""The program as a whole: help, version, usage errors, how it ends."""

from __future__ import annotations

import importlib.metadata
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import carpool
from carpool.cli import jobs, main
from carpool.cli import program as the_program
from carpool.cli.console import tell_warnings
from carpool.cli.lessons import LESSONS

from .program import API_KEY, Inside, Program, Service, finish


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inside:
    """The program without anything to call."""
    return Inside(Program(tmp_path, CARPOOL_HOME=str(tmp_path / "home")), monkeypatch, capfd)


def test_help_teaches_the_first_steps(alone: Inside) -> None:
    done = alone.run("--help")
    assert done.code == 0
    assert done.err == ""
    for words in ("carpool demo", "carpool map", "carpool emulate", "GEMINI_API_KEY", "CARPOOL_HOME", "Exit codes"):
        assert words in done.out
    assert alone.run() == done


@pytest.mark.parametrize("command", LESSONS)
def test_every_command_has_help_with_examples_and_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"Usage: carpool {command}")
    assert len(LESSONS[command].examples) >= 2
    for words in (*LESSONS[command].examples, f"Exit codes: {LESSONS[command].exit_codes}"):
        assert " ".join(words.split()) in shown
    assert "--json" in shown or command == "completion"


@pytest.mark.parametrize("group", ["jobs", "files"])
def test_every_group_lists_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group, "--help"]) == 0
    shown = capsys.readouterr().out
    commands = [command for command in LESSONS if command.startswith(f"{group} ")]
    assert len(commands) >= 3
    for command in commands:
        assert command.removeprefix(f"{group} ") in shown


@pytest.mark.parametrize(
    "example", [example for lesson in LESSONS.values() for example in lesson.examples if "|" not in example]
)
def test_every_example_is_a_command_line_that_is_understood(example: str) -> None:
    for part in example.partition(" > ")[0].split(" && "):
        name, *arguments = shlex.split(part)
        assert name == "carpool"
        command, _, unused = the_program().parse_args(arguments, exit_on_error=False, print_error=False)
        assert command is not None
        assert not unused


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_knows_the_commands(shell: str, alone: Inside) -> None:
    done = alone.run("completion", shell)
    assert (done.code, done.err) == (0, "")
    for word in {word for command in LESSONS for word in command.split()}:
        assert word in done.out
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.out, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"carpool {importlib.metadata.version('carpool')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["mop"],
        ["jobs", "lss"],
        ["map", "in.jsonl"],
        ["map", "in.jsonl", "out.jsonl"],
        ["map", "in.jsonl", "out.jsonl", "--model", "m", "--kind", "other"],
        ["map", "in.jsonl", "out.jsonl", "--model", "m", "--window", "0"],
        ["map", "no-such-file", "out.jsonl", "--model", "m"],
        ["jobs", "ls", "--limit", "many"],
        ["jobs", "show"],
        ["jobs", "rm"],
        ["jobs", "results"],
        ["jobs", "watch", "--every", "0"],
        ["files", "upload"],
        ["files", "rm"],
        ["results", "--limit", "-1"],
        ["gc", "now"],
        ["completion", "tcsh"],
        ["demo", "--requests", "-1"],
        ["demo", "--requests", "0", "--embeds", "0"],
        ["emulate", "--port", "70000"],
        ["emulate", "--plan", "no-such-file"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("carpool: ")
    assert shown.err.count("\n") == 1


def test_without_a_key_it_says_where_to_put_one(alone: Inside) -> None:
    done = alone.run("jobs", "ls")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    for words in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "carpool demo"):
        assert words in done.err


def test_a_setting_that_cannot_be_used_is_named(alone: Inside) -> None:
    done = alone.run("jobs", "ls", GEMINI_API_KEY=API_KEY, CARPOOL_JOBS_MAX="many")
    assert done.code == 2
    assert "CARPOOL_JOBS_MAX" in done.err
    assert API_KEY not in done.err


def test_two_keys_give_a_warning_without_either(program: Program) -> None:
    done = program.run("jobs", "ls", GOOGLE_API_KEY="AIza-another-canary-key")
    assert done.code == 0
    assert done.err.startswith("carpool: warning: both GOOGLE_API_KEY and GEMINI_API_KEY are set")
    assert done.err.count("\n") == 1
    assert "canary" not in done.err


def test_output_that_nobody_reads_ends_it_quietly(program: Program, service: Service) -> None:
    service.create_job("one")
    process = program.start("jobs", "ls", "--json")
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.wait() == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (carpool.DeadlineExceeded("too late"), 3, "too late"),
        (carpool.StoreFull("the disk is full"), 1, "the disk is full"),
        (carpool.ConfigurationError("mend the call"), 2, "mend the call"),
        (OSError(28, "No space left on device", "out.jsonl"), 1, "out.jsonl: No space left on device"),
        (OSError("out of luck"), 1, "out of luck"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_expected_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def fail(command: Coroutine[Any, Any, int]) -> int:
        command.close()
        raise error

    monkeypatch.setattr(jobs, "run", fail)
    assert main(["jobs", "ls"]) == code
    assert capsys.readouterr().err == f"carpool: {words}\n"


def test_a_bug_keeps_its_traceback(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with tell_warnings():
        try:
            [].pop()
        except IndexError:
            logging.getLogger("carpool").exception("it stopped")
    shown = capsys.readouterr().err
    assert shown.startswith("carpool: error: it stopped\nTraceback")
    assert "IndexError: pop from empty list" in shown


def test_the_library_does_not_load_the_command_line() -> None:
    script = "import carpool, sys; print([name for name in sys.modules if 'carpool.cli.' in f'{name}.'])"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert finish(process).out == "[]\n"


def test_the_table_library_is_loaded_only_where_something_is_shown() -> None:
    script = (
        "import sys, carpool.cli; carpool.cli.program().parse_args(['jobs', 'show', 'x']); "
        "print([name for name in sys.modules if name in ('rich', 'carpool.emulator', 'google')])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert finish(process).out == "[]\n"
