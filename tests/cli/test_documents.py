"""What the documents of the command line say is so: their code runs, their options exist, their links lead on."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from carpool import BatchJob
from carpool.cli import program as build
from carpool.cli.lessons import LESSONS
from carpool.emulator import Plan, expected_text

from .program import Child, Program, Service, finish

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "first_batch.md"
RESUME = ROOT / "docs" / "howto" / "resume.md"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run_code(program: Program, code: str) -> str:
    with Child(
        [sys.executable, "-W", "error", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=program.folder,
        env=program.environ,
    ) as process:
        done = finish(process)
    assert (done.code, done.err) == (0, "")
    return done.out


def test_the_readmes_code_runs(program: Program, service: Service) -> None:
    [code] = blocks(README, "python")
    assert len([line for line in code.splitlines() if line]) <= 12
    out = run_code(program, code)
    assert out.startswith(expected_text("What is 0 times 0?"))
    assert service.ledger.rows_billed == 1_000


def test_the_tutorials_code_runs_and_says_what_the_tutorial_says(program: Program, service: Service) -> None:
    plain, keyed, *_ = blocks(TUTORIAL, "python")
    answer, jobs, receipt = run_code(program, plain).splitlines()
    assert answer == expected_text("What is 7 squared?")
    assert jobs == "1 job for 100 answers"
    assert re.fullmatch(r"list price \$\d\.\d{6}, paid \$\d\.\d{6}", receipt)
    run_code(program, plain)
    assert service.ledger.rows_billed == 200
    assert run_code(program, keyed) == "paid this time: 100\n"
    assert run_code(program, keyed) == "paid this time: 0\n"
    assert service.ledger.rows_billed == 300


def test_the_howtos_code_runs(program: Program, service: Service) -> None:
    [code] = blocks(RESUME, "python")
    first = sorted(run_code(program, code).splitlines())
    assert first == [
        f"batch-1 {expected_text('What is a batch?')}",
        f"carpool-1 {expected_text('What is a carpool?')}",
    ]
    assert sorted(run_code(program, code).splitlines()) == first
    assert service.ledger.rows_billed == 2


def test_the_reference_is_what_the_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """If not: python docs/generate.py."""
    monkeypatch.syspath_prepend(str(REFERENCE.parents[1]))
    reference = importlib.import_module("cli_reference")
    text = REFERENCE.read_text("utf-8")
    assert reference.page() == text
    with pytest.raises(ValueError, match="jobs rm"):
        reference.render(text.replace("generated: carpool jobs rm", "generated: carpool jobs mv"))
    with pytest.raises(ValueError, match="one generated part"):
        reference.render(text + text)
    stale = text.replace("how many prompts to send", "how many answers to send")
    assert reference.render(stale) == text


@pytest.mark.parametrize("command", LESSONS)
def test_the_reference_names_every_option_of_a_command_and_no_other(command: str) -> None:
    app = build()
    for word in command.split():
        app = app[word]
    names = {name for argument in app.assemble_argument_collection() for name in argument.names}
    section = REFERENCE.read_text("utf-8").split(f"<!-- generated: carpool {command} -->")[1].split("\n##")[0]
    named = set(re.findall(r"`(--[a-z-]+)", section))
    assert named == {name for name in names if name.startswith("--") and not name.startswith("--no-")}


def test_the_commands_that_documents_show_are_commands() -> None:
    known = {command.partition(" ")[0] for command in LESSONS}
    for path in (README, REFERENCE, TUTORIAL, RESUME):
        for block in blocks(path, "bash"):
            shown = set(re.findall(r"(?:^|&& )carpool (\w+)", block, re.MULTILINE))
            assert shown <= known, path


def test_the_json_of_the_reference_is_json_and_its_plan_a_plan() -> None:
    found = [json.loads(line) for block in blocks(REFERENCE, "json") for line in block.splitlines()]
    plan = next(value for value in found if "faults" in value)
    assert msgspec.convert(plan, Plan).faults["get.503"].probability == 0.1
    job = next(value for value in found if "display_name" in value)
    assert set(job) == set(msgspec.structs.asdict(BatchJob(name="batches/x")))


def test_links_between_documents_lead_somewhere() -> None:
    for path in (README, REFERENCE, TUTORIAL, RESUME, ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            if not link.startswith("https://"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"
