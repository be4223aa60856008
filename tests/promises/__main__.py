"""The promises, the tests that show them, and how many cases each has: ``python -m tests.promises``.

Prints a table in Markdown; the cases are those that pytest collects. With ``--run`` they are run as well, and what came
of each promise's cases is in the table.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Final

import pytest

from .page import PAGE, ROOT, promises

_PASSED: Final = "passed"


class Tally:
    """What pytest collects and what comes of it, by test."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cases.update(_test_of(item.nodeid) for item in session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.outcome == _PASSED:
            self.passed[_test_of(report.nodeid)] += 1


def _test_of(nodeid: str) -> str:
    return "::".join(nodeid.partition("[")[0].split("::")[:2])


def table(tally: Tally, *, ran: bool) -> Iterable[str]:
    """Yield the lines of the table."""
    yield "| | promise | tests | cases |" + (" passed |" if ran else "")
    yield "|---|---|---|---|" + ("---|" if ran else "")
    for promise in promises(PAGE.read_text("utf-8")):
        cases = sum(tally.cases[test] for test in promise.tests)
        line = f"| {promise.name} | {promise.title} | {len(promise.tests)} | {cases:,} |"
        yield line + (f" {sum(tally.passed[test] for test in promise.tests):,} |" if ran else "")


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description="The promises and their tests.")
    parser.add_argument("--run", action="store_true", help="run the tests too")
    parser.add_argument("--list", action="store_true", help="name each test with its cases below the table")
    given = parser.parse_args()
    named = {test: None for promise in promises(PAGE.read_text("utf-8")) for test in promise.tests}
    tally = Tally()
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    code = pytest.main([*options, *([] if given.run else ["--collect-only", "-qq"]), *named], plugins=[tally])
    lines = [*table(tally, ran=given.run)]
    if given.list:
        lines += [f"{tally.cases[test]:>6,}  {test}" for test in named]
    sys.stdout.write("\n".join(["", *lines, ""]))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
