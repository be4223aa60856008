"""The page of guarantees names tests that are there, for every promise; so do all other pages that name one."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from .page import NAMED, PAGE, ROOT, Promise, found_in, promises, wrong

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROMISES = list(promises(PAGE.read_text("utf-8")))


def test_the_page_has_the_thirteen_promises_in_their_order() -> None:
    assert [promise.name for promise in PROMISES] == [f"P{number}" for number in range(1, 14)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_every_promise_has_its_conditions_its_limits_and_tests_that_are_there(promise: Promise) -> None:
    assert "**Needs" in promise.says
    assert "**Not promised" in promise.says
    assert promise.tests
    assert [words for words in map(wrong, promise.tests) if words] == []
    assert [test for test, times in Counter(promise.tests).items() if times > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = ["::".join(found) for found in NAMED.findall(page.read_text("utf-8"))]
    assert [words for words in map(wrong, named) if words] == []
    assert page.read_text("utf-8").count(".py::") == len(named), "a test is named in a way that nobody reads"


def test_ci_runs_all_tests() -> None:
    """What is named is under the folder that pytest collects, and CI runs pytest without leaving anything out."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"]
    assert not {"-k", "-m", "--ignore", "--deselect"} & {word.partition("=")[0] for word in options["addopts"]}
    assert "pip install '.[test]' && pytest; }" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_a_name_that_is_none_is_noticed(tmp_path: Path) -> None:
    assert wrong("tests/promises/test_guarantees.py::test_ci_runs_all_tests") == ""
    assert "no such test" in wrong("tests/promises/test_guarantees.py::test_that_nobody_wrote")
    assert "no such test" in wrong("tests/promises/test_nothing.py::test_ci_runs_all_tests")
    assert "no such test" in wrong("tests/promises/page.py::promises")
    path = tmp_path / "test_some.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='')\ndef test_left_out(): ...\n"
        "@pytest.mark.parametrize('n', [pytest.param(1, marks=pytest.mark.xfail)])\nasync def test_in_part(n): ...\n"
        "class TestOne:\n    def test_inside(self): ...\n"
        "TestMachine = Machine.TestCase\nTestNothing = 1\ndef helper(): ...\n"
    )
    found = found_in(path)
    assert found.keys() == {"test_left_out", "test_in_part", "TestOne", "TestMachine"}
    assert "skipif" in found["test_left_out"]
    assert "xfail" in found["test_in_part"]
