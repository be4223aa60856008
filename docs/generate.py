"""Write the reference pages that say what the code says: settings, errors, and the public names.

Owns what is on the pages. ``python docs/generate.py`` writes them into ``docs/reference``; with ``--check`` it writes
nothing, names the pages that are not current, and ends with exit code 1 if there are any.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

import carpool
import carpool.emulator
import carpool.settings
import carpool.sync
import cli_reference
from carpool import errors
from carpool._core.alarms import ALARMS
from carpool._showing import SHOWN_CHARS_MAX
from docstrings import field_docs, first_line, markdown, own_doc, prose

FOLDER: Final = Path(__file__).parent / "reference"
_HEADER: Final = "<!-- Written by `python docs/generate.py` from the code. Change the docstrings, not this page. -->\n"
_SETTINGS: Final = """# Settings

{header}
`carpool.Settings`: {settings}

```python
import carpool

settings = carpool.Settings(linger_s=10, on_close="drain")
client = carpool.Client(settings=settings)
```

A name says its unit last: `_s` is seconds, `_bytes` bytes, `_usd` US dollars; `_max` is the most that is allowed. A
client that is given no `settings` reads them from `CARPOOL_*` variables. `Settings(...)` alone does not look at the
environment; `Settings.from_env(linger_s=10)` does, and what is given in code wins. `none` in a variable means `None`.

| field | default | range | what it is | variable |
|---|---|---|---|---|
{rows}

## `Price`

`carpool.Price`: {price}

```python
from decimal import Decimal

import carpool

price = carpool.Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))
settings = carpool.Settings(prices={{"gemini-2.5-flash": price}})
```

## Ladders

`carpool.CHEAP` is `{cheap}`, `carpool.FAST` is `{fast}`. A ladder is a tuple of different routes, tried in order. It is
taken from the call or the `Request`; else from `Settings.ladder`; else it is `CHEAP` for calls with a deadline and
`("batch",)` for others. [The ladder](../explanation/ladder.md) says when a call moves on,
[deadlines](../howto/deadlines.md) how to choose one.
"""
_ALARMS: Final = """# Alarms and health

{header}
What an operator should know is logged by the one logger `carpool`: an alarm is a warning (`stopped` an error), and its
message begins with the alarm's name and a colon. The same goes to a function of yours:

```python
import asyncio

import carpool


def tell(alarm: carpool.Alarm) -> None:
    print(alarm.name, alarm.job, alarm.count, alarm.detail)


async def main() -> None:
    async with carpool.Client(on_alarm=tell) as client:
        await client.generate("gemini-3.5-flash", "Why is the sky blue?")
        health = client.health()
        print(health.status, health.reasons)


asyncio.run(main())
```

`carpool.Alarm`: {alarm}

The function is called on the client's event loop, a turn after what it is about; it must not block. What it raises is
logged, and costs nothing else.

`carpool.Health`: {health}

`client.health()` costs little, so that a probe may ask as often as it likes. It also works after the client was left,
or has stopped: then the status is `failed`.

An alarm is raised once, when something happens. What lasts is among the reasons of `health()` for as long as it does:
`job_overdue`, `job_stalled`, `live_refused`, `results_unfetched`, `server_unreachable`, `store_full`,
`store_nearly_full`. What has to do with money or with rows that were set aside stays there until the client is left:
`rows_not_ours`, `twins`. `closed` is only ever a reason, and no alarm.

| alarm | what it says |
|---|---|
{rows}
"""
_ERRORS: Final = """# Errors

{header}
Whatever carpool raises is a `carpool.CarpoolError`. Each awaiter gets an exception object of its own.

```python
import asyncio

import carpool


async def main() -> None:
    async with carpool.Client() as client:
        try:
            answer = await client.generate("gemini-3.5-flash", "Why is the sky blue?", deadline="4h")
            print(answer.text)
        except carpool.RequestRejected as error:  # this request will not do; others go on
            print(error.code, error.status, error.message)
        except carpool.DeadlineExceeded as error:  # no answer yet
            print("ask again later for", error.key)


asyncio.run(main())
```

## The tree

{tree}

Raised by nothing yet, and named so that the tree need not change: {not_yet}.

## Warnings

`{warning}`: {warning_words}

## What they carry

{root}

An error can be pickled. `str()` is fit for a log: it shows code, status and at most {shown} characters of the server's
words, without key, URL, or longer pieces of the request. `repr()` shows no text at all. The attributes hold everything.
"""
_NAMES: Final = """# Public names

{header}
What is exported from `carpool`, `carpool.sync` and `carpool.emulator` is public, and nothing else. Errors and settings
have pages of their own: [errors](errors.md), [settings](settings.md). All of it has type annotations.
"""
NOT_YET: Final = ("LeaseLost",)
"""Errors that no code raises."""
_MADE_BY_USERS: Final = {"Client", "Emulator", "EmulatorThread"}
_WITHOUT_MEMBERS: Final = {"MemoryStore"}  # its methods are the library's own business
_EMULATOR_WHOLE: Final = {
    "Emulator",
    "EmulatorThread",
    "Plan",
    "Fault",
    "Ledger",
    "chaos_plan",
    "expected_text",
    "expected_values",
}
_LINE_CHARS_MAX: Final = 110
_CODE: Final = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


# ----------------------------------------------------------------------------------------------------------- settings


def settings_page() -> str:
    """Return the page of settings: one row a field, with its default, its range and its variable."""
    ranges = {name: (low, high) for name, low, high in carpool.settings._RANGES}  # noqa: SLF001 - the checks themselves
    docs = field_docs(carpool.Settings)
    rows: list[str] = []
    for field in msgspec.structs.fields(carpool.Settings):
        words = " ".join(prose(docs.get(field.name, "")).split()).replace("|", "\\|")
        variable = "" if field.name in carpool.settings._NOT_FROM_ENV else f"`CARPOOL_{field.name.upper()}`"  # noqa: SLF001
        limits = _range(*ranges[field.name]) if field.name in ranges else ""
        rows.append(f"| `{field.name}` | {_default(field)} | {limits} | {words} | {variable} |")
    return tidy(
        _SETTINGS.format(
            header=_HEADER,
            settings=markdown(carpool.Settings),
            rows="\n".join(rows),
            price=markdown(carpool.Price),
            cheap=carpool.CHEAP,
            fast=carpool.FAST,
        )
    )


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, float | int | Decimal) and not isinstance(value, bool):
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,}"
    return f"`{value!r}`" if isinstance(value, str | tuple) else f"`{value}`"


def _range(low: Any, high: Any) -> str:
    if high == float("inf"):
        return f"{_short(low)} and more"
    return f"{_short(low)} to {_short(high)}"


def _short(value: Any) -> str:
    number = float(value)
    if abs(number) == 2.0**63 or abs(number) == 2.0**63 - 1:
        return "-2^63" if number < 0 else "2^63 - 1"
    return f"{number:,.0f}" if number.is_integer() else f"{number:,}"


# ------------------------------------------------------------------------------------------------------------- errors


def errors_page() -> str:
    """Return the page of errors: the tree, and what each says."""
    return tidy(
        _ERRORS.format(
            header=_HEADER,
            tree="\n".join(_tree(errors.CarpoolError, 0)),
            not_yet=", ".join(f"`{name}`" for name in NOT_YET),
            warning=errors.CarpoolWarning.__name__,
            warning_words=first_line(errors.CarpoolWarning),
            root=markdown(errors.CarpoolError),
            shown=SHOWN_CHARS_MAX,
        )
    )


def _tree(kind: type[BaseException], depth: int) -> Iterator[str]:
    others = [base.__name__ for base in kind.__bases__ if not issubclass(base, errors.CarpoolError)]
    also = f" (also a `{others[0]}`)" if others and others != ["Exception"] else ""
    if not kind.__name__.startswith("_"):
        yield f"{'  ' * depth}- `{kind.__name__}`{also}: {first_line(kind)}"
        depth += 1
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth)


# --------------------------------------------------------------------------------------------------------- alarms


def alarms_page() -> str:
    """Return the page of alarms: how to hear of them, and what each says."""
    rows = [f"| `{name}` | {words} |" for name, words in sorted(ALARMS.items())]
    return tidy(
        _ALARMS.format(
            header=_HEADER, alarm=markdown(carpool.Alarm), health=markdown(carpool.Health), rows="\n".join(rows)
        )
    )


# --------------------------------------------------------------------------------------------------------- the names


def api_page() -> str:
    """Return the page of public names."""
    lines = [_NAMES.format(header=_HEADER)]
    for title, value in _subjects():
        lines += [f"## {title}", "", *_described(value)]
    lines += ["## The rest of `carpool.emulator`", ""]
    lines += [f"- `{name}`: {first_line(value)}" for name, value in _emulator() if name not in _EMULATOR_WHOLE]
    return tidy("\n".join(lines))


def _subjects() -> Iterator[tuple[str, Any]]:
    """Name what the page describes, in the order in which one meets it."""
    client = carpool.Client(api_key="none", base_url="http://localhost", store=carpool.MemoryStore())
    yield "`carpool.Client`", carpool.Client
    for name in ("jobs", "files", "caches", "upstream"):
        if hasattr(client, name):
            yield f"`client.{name}`", type(getattr(client, name))
    yield "`carpool.sync.Client`", carpool.sync.Client
    yield "`carpool.sync.Ticket`", carpool.sync.Ticket
    for name in carpool.__all__:
        if name != "Client" and not _has_page(getattr(carpool, name)):
            yield f"`carpool.{name}`", getattr(carpool, name)
    for name, value in _emulator():
        if name in _EMULATOR_WHOLE:
            yield f"`carpool.emulator.{name}`", value


def _emulator() -> Iterator[tuple[str, Any]]:
    for name in carpool.emulator.__all__:
        value = getattr(carpool.emulator, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value


def _has_page(value: Any) -> bool:
    """Whether a name is an error, a setting or a constant of settings."""
    if inspect.isclass(value):
        return issubclass(value, BaseException) or value in {carpool.Settings, carpool.Price}
    return not callable(value)


def _described(value: Any) -> Iterator[str]:
    if inspect.isfunction(value):
        yield from _signature(value.__name__, value)
        yield from (markdown(value), "")
        return
    made_by_users = value.__name__ in _MADE_BY_USERS
    if made_by_users:
        yield from _signature(value.__name__, value.__init__)
    yield from (markdown(value), "")
    if made_by_users and "__init__" in vars(value) and own_doc(value.__init__):
        yield from (markdown(value.__init__), "")
    if issubclass(value, msgspec.Struct):
        yield from _fields(value)
    if value.__name__ in _WITHOUT_MEMBERS:
        return
    for name, member in _members(value):
        if isinstance(member, property):
            yield from (f"**`.{name}`** : {first_line(member)}", "")
        else:
            yield from _signature(name, member)
            yield from (markdown(member), "")


def _fields(kind: type[msgspec.Struct]) -> Iterator[str]:
    docs = field_docs(kind)
    explained = own_doc(kind)  # fields that an "Args:" or "Attributes:" section has said already need no second list
    annotations = {
        name: text for base in reversed(kind.__mro__) for name, text in inspect.get_annotations(base).items()
    }
    if "Args:" in explained or "Attributes:" in explained:
        return
    for name in kind.__struct_fields__:
        if name.startswith("_"):
            continue
        words = " ".join(prose(docs.get(name, "")).split())
        yield f"- `{name}: {annotations[name]}`" + (f" : {words}" if words else "")
    yield ""


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Give public methods and properties, inherited ones of ours included, in the order of their definition."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("carpool"):
            found |= {name: member for name, member in vars(base).items() if not name.startswith("_")}
    for name, member in found.items():
        plain = getattr(member, "__func__", member)
        if (inspect.isfunction(plain) or isinstance(plain, property)) and own_doc(plain):
            yield name, plain


def _signature(name: str, function: Callable[..., Any]) -> Iterator[str]:
    signature = inspect.signature(function)
    shown: list[str] = []
    seen_star = False
    for parameter in signature.parameters.values():
        if parameter.name in {"self", "cls"}:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not seen_star:
            shown.append("*")
        seen_star = seen_star or parameter.kind in {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL}
        shown.append(_parameter(parameter))
    made = function.__name__ == "__init__" or signature.return_annotation is signature.empty
    back = "" if made else f" -> {signature.return_annotation}"
    start = f"await {name}" if inspect.iscoroutinefunction(function) else name
    line = f"{start}({', '.join(shown)}){back}"
    if len(line) > _LINE_CHARS_MAX:
        line = f"{start}(\n    " + ",\n    ".join(shown) + f",\n){back}"
    yield from ("```text", *line.splitlines(), "```", "")


def _parameter(parameter: inspect.Parameter) -> str:
    text = str(parameter.replace(default=parameter.empty, annotation=parameter.empty)) + f": {parameter.annotation}"
    default = parameter.default
    if default is parameter.empty:
        return text
    return f"{text} = {default.__module__}.{default.__name__}" if callable(default) else f"{text} = {default!r}"


def tidy(text: str) -> str:
    """Leave one blank line where there are more, except in code."""
    pieces = _CODE.split(text)
    pieces[::2] = [re.sub(r"\n{3,}", "\n\n", piece) for piece in pieces[::2]]
    return "".join(pieces).strip() + "\n"


# --------------------------------------------------------------------------------------------------------- the program

PAGES: Final[dict[str, Callable[[], str]]] = {
    "alarms.md": alarms_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
    "api.md": api_page,
    "cli.md": cli_reference.page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or say which are not current; return the exit code."""
    stale = 0
    for name, page in PAGES.items():
        path = FOLDER / name
        text = page()
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale += 1
        print(f"{name}: {'not current' if '--check' in arguments else 'written'}")
        if "--check" not in arguments:
            path.write_text(text, "utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
