"""Docstrings as Markdown.

Owns the reading of Google-style docstrings: sections become lists, roles become code. It must not know which pages
there are.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

_SECTIONS: Final = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
_CROSS_REFERENCE: Final = re.compile(r":(?:class|func|meth|mod|attr):`~?([^`]+)`")
_ITEM: Final = re.compile(r"^(\*{0,2}[\w., ]+?)(?: \([^)]*\))?: (.*)$")


def prose(text: str) -> str:
    """Return a docstring's text as Markdown: roles and double backticks become single ones."""
    return _CROSS_REFERENCE.sub(r"`\1`", text).replace("``", "`")


def markdown(value: Any) -> str:
    """Return the docstring of an object as Markdown: sections become lists, indented examples become code."""
    text = inspect.cleandoc(value if isinstance(value, str) else own_doc(value))
    blocks = [block for block in _blocks(text) if block.strip()]
    return "\n\n".join(blocks)


def own_doc(value: Any) -> str:
    """Return an object's own docstring, not an inherited one."""
    return (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""


def _blocks(text: str) -> Iterator[str]:
    lines: list[str] = []
    section = ""
    for line in [*text.splitlines(), ""]:
        if line in _SECTIONS:
            yield _items(section, lines) if section else _paragraphs(lines)
            lines, section = [], line
        elif section and line and not line.startswith(" "):
            yield _items(section, lines)
            lines, section = [line], ""
        else:
            lines.append(line)
    yield _items(section, lines) if section else _paragraphs(lines)


def _paragraphs(lines: list[str]) -> str:
    """Return prose; what follows a line that ends in two colons is code."""
    parts: list[str] = []
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        if paragraph.startswith("    "):
            parts.append(f"    {textwrap.dedent(paragraph)}".replace("\n", "\n    "))
        else:
            parts.append(re.sub(r"::$", ":", prose(paragraph)))
    return "\n\n".join(parts)


def _items(section: str, lines: list[str]) -> str:
    """Return a section as a list with an item an argument, an error or an attribute."""
    items: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).strip().splitlines():
        if items and line.startswith(" "):
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(line)
    shown: list[str] = []
    for item in items:
        found = _ITEM.match(prose(item))
        names = ", ".join(f"`{name.strip()}`" for name in found[1].split(",")) if found else ""
        shown.append(f"- {names}: {found[2]}" if found else f"- {prose(item)}")
    return f"{section.removesuffix(':')}:\n\n" + "\n".join(shown)


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, by field; inherited ones first."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("carpool"):
            [node] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            body = node.body if isinstance(node, ast.ClassDef) else []
            for field, doc in pairwise(body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(doc, ast.Expr)
                ):
                    found[field.target.id] = inspect.cleandoc(str(ast.literal_eval(doc.value)))
    return found


def first_line(value: Any) -> str:
    """Return the first paragraph of a docstring on one line, for a table."""
    return " ".join(prose(inspect.cleandoc(own_doc(value))).split("\n\n")[0].split()).replace("|", "\\|")
