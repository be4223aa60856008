"""What the page of guarantees says of tests, and which tests there are.

Owns the form of that page, and how tests are read off files. Nothing is imported that is read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "explanation" / "guarantees.md"
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NOT_RUN: Final = frozenset({"skip", "skipif", "xfail"})


class Promise(NamedTuple):
    """A promise, as the page has it."""

    name: str
    title: str
    says: str
    """What stands before its tests."""
    tests: list[str]
    """``path::name``, in the page's order."""


def promises(text: str) -> Iterator[Promise]:
    """Read the promises off the page."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        name, _, title = heading.partition(". ")
        says, _, listed = body.partition("\nTests:\n")
        yield Promise(name, title, says.strip(), ["::".join(found) for found in NAMED.findall(listed)])


def found_in(path: Path) -> dict[str, set[str]]:
    """Return the tests that pytest finds at the top of a file by its rules, and the marks of each."""
    if not path.is_file() or not path.name.startswith("test_"):
        return {}
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                parts = [part for decorator in node.decorator_list for part in ast.walk(decorator)]
                found[name] = {part.attr for part in parts if isinstance(part, ast.Attribute)}
            case ast.ClassDef(name=name) if name.startswith("Test"):
                found[name] = set()
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(attr="TestCase")):
                found |= {name: set()} if name.startswith("Test") else {}
            case _:
                pass
    return found


def wrong(named: str) -> str:
    """Return what is wrong with a test that a page names; nothing if it is there and runs."""
    path, _, name = named.partition("::")
    found = found_in(ROOT / path)
    if name not in found:
        return f"{named}: there is no such test"
    if found[name] & NOT_RUN:
        return f"{named}: it may not run"
    return ""
