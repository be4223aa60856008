"""What comes from elsewhere: pinned tools, libraries in ranges; the security rules, and a reason for each exception."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: Final = PYPROJECT["project"]
CONSTRAINTS: Final = (ROOT / ".ci" / "constraints.txt").read_text("utf-8")
PINS: Final = [Requirement(line) for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
USERS_BRING: Final = {"google-genai", "httpx", "openai", "pydantic"}
"""Tests need them as what users bring along: what a new one of them changes, CI must show."""
SECURITY_RULE: Final = re.compile(r"S\d{3}")


def name_of(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def tools() -> Iterator[Requirement]:
    """Yield what tests, checks and the build name, as far as it is no library."""
    extras = PROJECT["optional-dependencies"]
    for text in [*extras["test"], *extras["dev"], *PYPROJECT["build-system"]["requires"]]:
        requirement = Requirement(text)
        if name_of(requirement) not in USERS_BRING | {"carpool"}:
            yield requirement


def test_every_tool_of_ci_is_pinned_within_its_range() -> None:
    pins = {name_of(pin): pin for pin in PINS}
    for tool in tools():
        (only,) = pins[name_of(tool)].specifier
        assert only.operator == "=="
        assert only.version in tool.specifier, tool


def test_pins_are_exact_sorted_and_of_tools_alone() -> None:
    names = [name_of(pin) for pin in PINS]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in PINS)
    libraries = {name_of(Requirement(text)) for text in PROJECT["dependencies"]} | USERS_BRING
    assert not libraries & set(names)


def test_libraries_are_ranges_with_a_lower_bound_and_no_upper_one() -> None:
    for text in PROJECT["dependencies"]:
        assert [only.operator for only in Requirement(text).specifier] == [">="], text


def test_ci_lets_pip_know_the_pins_and_still_runs_the_two_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    before, _, after = script.partition("export PIP_CONSTRAINT PIP_BUILD_CONSTRAINT=")
    assert ".ci/constraints.txt" in before
    assert "-m venv" not in before, "an environment is made before pip knows of the pins"
    for command in ("pip install . && carpool demo;", "pip install '.[test]' && pytest;"):
        assert command in script
    assert "step " in after


@pytest.mark.parametrize("script", ["run", "audit", "lowest"])
def test_the_scripts_are_programs_that_bash_can_read(script: str) -> None:
    path, bash = ROOT / ".ci" / script, shutil.which("bash")
    assert path.stat().st_mode & 0o111
    assert bash is not None
    subprocess.run([bash, "-n", str(path)], check=True)


def test_pip_takes_the_constraints(tmp_path: Path) -> None:
    """As CI names them, by a URL; a tool in another version is refused before anything is asked for."""
    folder = tmp_path / "with a blank"
    folder.mkdir()
    (folder / "constraints.txt").write_text(CONSTRAINTS)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "ruff<0.1"],
        env={"PIP_CONSTRAINT": (folder / "constraints.txt").as_uri(), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    pinned = next(str(pin) for pin in PINS if pin.name == "ruff")
    assert pinned.partition("==")[2] in done.stdout + done.stderr


def test_security_rules_are_on_for_everything() -> None:
    lint = PYPROJECT["tool"]["ruff"]["lint"]
    assert "ALL" in lint["select"]
    ignored = [*lint["ignore"], *(rule for rules in lint["per-file-ignores"].values() for rule in rules)]
    assert all(SECURITY_RULE.fullmatch(rule) for rule in ignored if re.match(r"S\d|S$", rule))
    product = {path: rules for path, rules in lint["per-file-ignores"].items() if path.startswith("src")}
    assert {rule for rules in product.values() for rule in rules if SECURITY_RULE.fullmatch(rule)} <= {"S311"}


def test_every_exception_from_a_security_rule_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.findall(r'^ +"(S\d{3})",(.*)$', text, re.MULTILINE)
    assert listed
    assert [rule for rule, rest in listed if not re.fullmatch(r" +# \w.+", rest)] == []
    bare = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("src", "tests", "benchmarks", "docs", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"# noqa: [A-Z0-9, ]*\bS\d{3}\b(?! - \w)(?!, [A-Z]+\d+)", line)
    ]
    assert bare == []
