"""Every alarm that the code can raise is in the table that the documentation is made of, and none is there in vain."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import carpool
from carpool._core.alarms import ALARMS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "carpool"
REASONS_ONLY = {"closed"}


def raised() -> Iterator[str]:
    """Find the names that are given where alarms and reports are made."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = node.args[0]
            if name in {"report", "Alarm"} and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_alarms_of_the_code_are_those_of_the_table() -> None:
    assert set(raised()) == ALARMS.keys() - REASONS_ONLY


def test_alarms_of_the_table_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "alarms.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)) == ALARMS
    assert set(re.findall(r"`((?:job|store|rows|server)_\w+)`", page)) <= ALARMS.keys()


def test_alarms_are_plain_data() -> None:
    alarm = carpool.Alarm("twins", "batches/x", 2, "more")
    assert (alarm.name, alarm.job, alarm.count, alarm.detail) == ("twins", "batches/x", 2, "more")
    assert carpool.Alarm("bug") == carpool.Alarm("bug", "", 1, "")
