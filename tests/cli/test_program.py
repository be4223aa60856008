"""The program as a whole: help, version, usage errors, how it ends."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from carpool.cli import main

from .program import API_KEY, Program, Service, finish


@pytest.fixture
def alone(tmp_path: Path) -> Program:
    """The program without anything to call."""
    return Program(tmp_path, CARPOOL_HOME=str(tmp_path / "home"))


def test_help_teaches_the_first_steps(alone: Program) -> None:
    done = alone.run("--help")
    assert done.code == 0
    assert done.err == ""
    for words in ("carpool demo", "carpool map", "carpool emulate", "GEMINI_API_KEY", "CARPOOL_HOME", "Exit codes"):
        assert words in done.out
    assert alone.run() == done


@pytest.mark.parametrize(
    "command", [["demo"], ["emulate"], ["map"], ["jobs"], ["jobs", "ls"], ["jobs", "show"], ["jobs", "cancel"]]
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: carpool {' '.join(command)}")
    if command != ["jobs"]:
        assert "--json" in shown


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


def test_without_a_key_it_says_where_to_put_one(alone: Program) -> None:
    done = alone.run("jobs", "ls")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    for words in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "carpool demo"):
        assert words in done.err


def test_a_setting_that_cannot_be_used_is_named(alone: Program) -> None:
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
