"""The tables of the reference of the command line, written from the program itself.

Owns what stands between ``<!-- generated: carpool map -->`` and ``<!-- end: carpool map -->``; all else on the page is
prose, and stays as it is.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from carpool.cli import program
from carpool.cli.lessons import LESSONS

if TYPE_CHECKING:
    from cyclopts import App

_PAGE: Final = Path(__file__).parent / "reference" / "cli.md"
_REGION: Final = re.compile(r"<!-- generated: carpool ([a-z ]+) -->\n.*?<!-- end: carpool \1 -->", re.DOTALL)
_VALUES: Final[dict[Any, str]] = {int: "N", float: "NUMBER", Path: "PATH"}


def page() -> str:
    """Return the page as it should be."""
    return render(_PAGE.read_text("utf-8"))


def render(text: str) -> str:
    """Return a page with its generated parts renewed.

    Args:
        text: the page as it is.

    Raises:
        ValueError: a command has no part on the page, or a part no command, or there are two.
    """
    named = _REGION.findall(text)
    if sorted(named) != sorted(LESSONS):
        odd = sorted(set(named) ^ set(LESSONS)) or named
        raise ValueError(f"each command needs one generated part on the page; look at: {', '.join(odd)}")
    return _REGION.sub(lambda match: _region(match[1]), text)


def _region(command: str) -> str:
    app = program()
    for word in command.split():
        app = app[word]
    lines = [f"<!-- generated: carpool {command} -->", *_usage(app), ""]
    rows = [*_rows(app)]
    if rows:
        lines += ["| argument or option | default | |", "|---|---|---|", *rows, ""]
    lesson = LESSONS[command]
    # The examples name jobs and files that nobody has: tests parse these commands, and run the others of the page.
    lines += ["<!-- parsed -->", "```bash", *lesson.examples, "```", "", f"Exit codes: {lesson.exit_codes}"]
    return "\n".join([*lines, f"<!-- end: carpool {command} -->"])


def _usage(app: App) -> Iterator[str]:
    """Yield what the help says of a command, down to its arguments."""
    text = inspect.getdoc(app.default_command) or ""
    yield from text.partition("\n\nArgs:")[0].splitlines()


def _rows(app: App) -> Iterator[str]:
    """Yield a line of the table for each argument and option, in the order of the help."""
    for argument in app.assemble_argument_collection(parse_docstring=True):
        names = [name for name in argument.names if not name.startswith("--no-")]
        kind = _kind(argument.hint)
        if argument.index is not None:
            names = [name for name in names if not name.startswith("-")]
        elif kind is not bool:
            names = [f"{name} {_VALUES.get(kind, 'TEXT')}" for name in names]
        shown = ", ".join(f"`{name}`" for name in names)
        help_text = " ".join((argument.parameter.help or "").split())
        choices = argument.get_choices()
        if choices:
            help_text = f"{help_text.rstrip('.')}: {', '.join(f'`{choice}`' for choice in choices)}"
        yield f"| {shown} | {_default(argument)} | {help_text.rstrip('.')} |"


def _kind(hint: Any) -> Any:
    """Return the type of a value, of several values, or of a value that may be left out."""
    inner = [part for part in getattr(hint, "__args__", ()) if part not in (type(None), Ellipsis)]
    return inner[0] if inner and isinstance(inner[0], type) else hint


def _default(argument: Any) -> str:
    if argument.required:
        return "required"
    value = argument.field_info.default
    if value is inspect.Parameter.empty or value is None or value is False:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
