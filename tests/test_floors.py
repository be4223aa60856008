"""The floors of the house: who may import whom, and what the pure core must not do.

Owns the rules and the checker that reads them off the source tree (never off imported modules: what a module does
when it is loaded must not matter). The second half plants a violation of each rule to see that the checker finds it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "carpool"

# What stands on which floor, by the first name below `carpool`. A module that is not here has no floor: give it one.
FLOORS = {
    "_showing": 0,
    "_tables": 0,
    "errors": 0,
    "types": 0,
    "responses": 0,
    "settings": 0,
    "_deadline": 0,
    "_core": 1,
    "_ports": 2,
    "_gemini": 3,
    "_stores": 3,
    "_runtime": 4,
    "": 5,
    "_adoption": 5,
    "_arguments": 5,
    "_asking": 5,
    "_caches": 5,
    "_checkup": 5,
    "_files": 5,
    "_filewatch": 5,
    "_jobs": 5,
    "_keeper": 5,
    "_lookout": 5,
    "_map": 5,
    "_portal": 5,
    "_quote": 5,
    "_quoted": 4,
    "_tuning": 5,
    "_siblings": 5,
    "_upkeep": 5,
    "_upstream": 5,
    "client": 5,
    "sync": 5,
    "__main__": 6,
    "cli": 6,
    "emulator": 6,
    "surfaces": 6,
}
ADAPTERS = 3
COMPOSITION = 5

# On one floor a module imports only within its own folder, but the program is made of its commands, and its commands
# are made of the emulator and the adapters.
SIDEWAYS = {("__main__", "cli"), ("cli", "emulator"), ("cli", "surfaces")}

# Where these libraries may be named, by the same first name; others are free above the core.
LIBRARIES = {
    "aiohttp": {"_gemini", "cli", "emulator", "surfaces"},
    "cyclopts": {"__main__", "cli"},
    "diskcache": {"_stores"},
    "rich": {"__main__", "cli"},
}
# These see nothing outside the standard library but what is listed.
ONLY = {
    "_showing": set(),
    "_tables": set(),
    "errors": {"msgspec"},
    "types": {"msgspec"},
    "responses": {"msgspec"},
    "settings": {"msgspec"},
    "_deadline": {"msgspec"},
    "_ports": {"msgspec"},
    "emulator": {"aiohttp", "msgspec"},
}
# Loaded by nothing but pytest.
PYTEST_PLUGINS = {"carpool.emulator.pytest_plugin"}
# google-genai is an extra: these import it inside a function for users who ask for its types, nobody else at all.
GOOGLE_INSIDE_FUNCTIONS = {"carpool.responses", "carpool.surfaces.transport"}
# The package shows what stands above it, and loads it when it is asked for.
SHOWN = {("", "surfaces")}

CORE_IMPORTS = {
    "__future__", "array", "bisect", "collections", "decimal", "enum", "hashlib", "heapq", "itertools", "math",
    "msgspec", "re", "typing", "zlib",
}  # fmt: skip
UNORDERED_CALLS = {"set", "frozenset"}
ORDER_KEEPING_CALLS = {"enumerate", "filter", "iter", "list", "map", "reversed", "tuple", "zip"}
SET_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)


class Import(NamedTuple):
    """One imported module: its full name, where, and whether loading the importer loads it."""

    target: str
    line: int
    inside_function: bool


class Violation(NamedTuple):
    rule: str
    module: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.rule}: {self.what}"


def module_name(path: str) -> str:
    parts = ["carpool", *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def head(module: str) -> str:
    """Return the name that decides the floor: `_core` for `carpool._core.engine`, "" for `carpool` itself."""
    return module.removeprefix("carpool").removeprefix(".").partition(".")[0]


def floor_of(module: str) -> int | None:
    return FLOORS.get(head(module))


def imports_of(tree: ast.Module, package: str, known: frozenset[str]) -> Iterator[Import]:
    """Yield every import of a module, relative and dynamic ones with their full names."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, inside = pending.pop()
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types(node)
        pending.extend((child, inside or function) for child in ast.iter_child_nodes(node))
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, inside) for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*above, *([base] if base else [])])
                for alias in names:
                    full = f"{origin}.{alias.name}"
                    yield Import(full if full in known else origin, node.lineno, inside)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(f"{package}{name}" if name.startswith(".") else name, node.lineno, inside)


def is_for_types(node: ast.AST) -> bool:
    """Tell whether what is below a node is there for type checkers alone."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_unordered(node: ast.expr) -> bool:
    """Tell whether iterating over the expression gives a set's order, which differs from process to process."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name)) if name in UNORDERED_CALLS:
            return True
        case ast.Call(func=ast.Name(id=name), args=args) if name in ORDER_KEEPING_CALLS:
            return any(is_unordered(argument) for argument in args)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, SET_OPERATORS):
            return any(is_unordered(side) or is_keys_view(side) for side in (left, right))
        case _:
            return False


def is_keys_view(node: ast.expr) -> bool:
    """Tell whether the expression is `something.keys()`, which has an order until it is combined with another."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def check_internal(module: str, target: str, folders: frozenset[str]) -> str | None:
    """Return the rule that an import of one of our own modules breaks."""
    here, there = head(module), head(target)
    if here == there and here:
        return None
    if here == "emulator":
        return "emulator-alone"
    floor, other = floor_of(module), floor_of(target)
    if floor is None or other is None:
        return None  # reported as a module without a floor
    if other > floor and (here, there) not in SHOWN:
        return "floor-above"
    if other == ADAPTERS and floor not in {ADAPTERS, COMPOSITION}:
        return "adapter-named"
    if floor == other and folders & {here, there} and (here, there) not in SIDEWAYS:
        return "sideways"
    return None


def check_external(module: str, found: Import) -> str | None:
    """Return the rule that an import of somebody else's module breaks."""
    here, library = head(module), found.target.partition(".")[0]
    if library == "google":
        allowed = found.inside_function and module in GOOGLE_INSIDE_FUNCTIONS
        return None if allowed else "google"
    if here == "_core":
        return None if library in CORE_IMPORTS else "core-import"
    if library == "pytest" and module in PYTEST_PLUGINS:
        return None
    if here in ONLY and library not in ONLY[here] and library not in sys.stdlib_module_names:
        return "library"
    if library in LIBRARIES and here not in LIBRARIES[library]:
        return "library"
    return None


def check_core(module: str, tree: ast.Module) -> Iterator[Violation]:
    """Yield what a pure module must not do, imports aside."""
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef(name=name):
                yield Violation("core-async", module, node.lineno, f"async def {name}")
            case ast.Call(func=ast.Name(id="hash")):
                yield Violation("core-hash", module, node.lineno, "hash() differs from process to process")
            case ast.For(iter=iterated) | ast.comprehension(iter=iterated) if is_unordered(iterated):
                yield Violation("core-set-order", module, iterated.lineno, f"iterates {ast.unparse(iterated)}")


def violations(sources: Mapping[str, str]) -> list[Violation]:
    """Check source texts, given by their paths below `carpool/`."""
    known = frozenset(map(module_name, sources))
    folders = frozenset(path.partition("/")[0] for path in sources if "/" in path)
    found: list[Violation] = []
    for path, text in sources.items():
        module, tree = module_name(path), ast.parse(text)
        if floor_of(module) is None:
            found.append(Violation("no-floor", module, 1, "stands on no floor: add it to FLOORS"))
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        for item in imports_of(tree, package, known):
            ours = item.target.partition(".")[0] == "carpool"
            rule = check_internal(module, item.target, folders) if ours else check_external(module, item)
            if rule is not None:
                found.append(Violation(rule, module, item.line, f"imports {item.target}"))
        if head(module) == "_core":
            found.extend(check_core(module, tree))
    return found


def read_sources() -> dict[str, str]:
    return {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}


def rules(found: Iterable[Violation]) -> list[str]:
    return [violation.rule for violation in found]


def test_the_house_stands() -> None:
    sources = read_sources()
    assert sources, f"no modules below {SOURCE}"
    report = "\n".join(map(str, violations(sources)))
    assert report == ""


# Each is (path, source, rule). The other modules that exist beside it are in NEIGHBOURS.
NEIGHBOURS = dict.fromkeys(
    [
        "__init__.py", "errors.py", "types.py", "settings.py", "_core/__init__.py", "_core/model.py", "_ports.py",
        "_gemini/__init__.py", "_gemini/http.py", "_stores/__init__.py", "_stores/disk.py", "_runtime/loop.py",
        "client.py", "sync.py", "cli/__init__.py", "emulator/__init__.py", "emulator/world.py",
        "surfaces/__init__.py",
    ],
    "",
)  # fmt: skip
IF_TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
PLANTED = [
    ("misc.py", "", "no-floor"),
    ("_helpers/tools.py", "", "no-floor"),
    ("errors.py", "from carpool._core.model import Job", "floor-above"),
    ("types.py", "from carpool import Client", "floor-above"),
    ("types.py", "import carpool", "floor-above"),
    ("types.py", "from carpool import client", "floor-above"),
    ("settings.py", "def f():\n    from carpool.client import Client", "floor-above"),
    ("types.py", IF_TYPING + "from carpool.client import Client", "floor-above"),
    ("_core/engine.py", "from carpool._ports import Store", "floor-above"),
    ("_core/engine.py", "from .. import _ports", "floor-above"),
    ("_core/engine.py", "from .._ports import Store", "floor-above"),
    ("_ports.py", "from carpool import _runtime", "floor-above"),
    ("_gemini/http.py", "import carpool._runtime", "floor-above"),
    ("_gemini/http.py", "import importlib\nimportlib.import_module('carpool._runtime')", "floor-above"),
    ("_runtime/loop.py", "from carpool.client import Client", "floor-above"),
    ("client.py", "from carpool.cli import main", "floor-above"),
    ("__init__.py", "from .emulator import Emulator", "floor-above"),
    ("_gemini/http.py", "from carpool._stores.disk import Disk", "sideways"),
    ("_stores/disk.py", "from carpool import _gemini", "sideways"),
    ("surfaces/sidecar/server.py", "from carpool.emulator import Emulator", "sideways"),
    ("surfaces/sidecar/server.py", "from carpool import cli", "sideways"),
    ("_runtime/loop.py", "from carpool._gemini.http import Session", "adapter-named"),
    ("_runtime/jobs.py", "from carpool._stores import disk", "adapter-named"),
    ("_jobs.py", "import carpool.cli", "floor-above"),
    ("cli/jobs.py", "from carpool._gemini import http", "adapter-named"),
    ("emulator/world.py", "from carpool.errors import CarpoolError", "emulator-alone"),
    ("emulator/world.py", "import carpool", "emulator-alone"),
    ("emulator/world.py", "from ..types import Request", "emulator-alone"),
    ("emulator/world.py", "from importlib import import_module\nimport_module('carpool.types')", "emulator-alone"),
    ("emulator/world.py", "import anyio", "library"),
    ("emulator/world.py", "import pytest", "library"),
    ("emulator/world.py", "from rich import print", "library"),
    ("errors.py", "import aiohttp", "library"),
    ("_ports.py", "import anyio", "library"),
    ("_stores/disk.py", "import aiohttp", "library"),
    ("_gemini/http.py", "from diskcache import Cache", "library"),
    ("_runtime/loop.py", "import aiohttp", "library"),
    ("client.py", "from diskcache import Cache", "library"),
    ("client.py", "import rich.progress", "library"),
    ("client.py", "from google import genai", "google"),
    ("client.py", "def f():\n    from google.genai import types", "google"),
    ("types.py", "import google.genai", "google"),
    ("types.py", IF_TYPING + "from google.genai import types", "google"),
    ("_core/engine.py", "import google", "google"),
    ("surfaces/transport.py", "genai = __import__('google.genai')", "google"),
    *(
        ("_core/engine.py", f"import {name}", "core-import")
        for name in ("anyio", "asyncio", "aiohttp", "diskcache", "time", "datetime", "random", "uuid", "os.path")
    ),
    ("_core/engine.py", "def f():\n    from logging import getLogger", "core-import"),
    ("_core/engine.py", "from threading import Lock", "core-import"),
    ("_core/engine.py", "async def step(): ...", "core-async"),
    ("_core/engine.py", "class E:\n    async def step(self): ...", "core-async"),
    ("_core/keys.py", "def f(key): return hash(key)", "core-hash"),
    ("_core/keys.py", "for x in {1, 2}: print(x)", "core-set-order"),
    ("_core/keys.py", "for x in set(xs): print(x)", "core-set-order"),
    ("_core/keys.py", "for x in frozenset(xs) - {1}: print(x)", "core-set-order"),
    ("_core/keys.py", "for i, x in enumerate(list({y for y in xs})): print(i, x)", "core-set-order"),
    ("_core/keys.py", "ys = [x for x in set(xs)]", "core-set-order"),
    ("_core/keys.py", "for k in old.keys() - new.keys(): print(k)", "core-set-order"),
    ("_core/keys.py", "ys = {x: 1 for x in {1, 2}}", "core-set-order"),
]
SOUND = [
    ("types.py", "import msgspec\nfrom carpool.errors import CarpoolError\nfrom decimal import Decimal"),
    ("responses.py", "def to_genai():\n    from google.genai import types\n    return types"),
    (
        "_core/engine.py",
        "from collections.abc import Iterable\nfrom carpool._core import model\nfrom carpool import errors",
    ),
    ("_core/engine.py", "from . import model\nfrom .model import Job\nimport msgspec, heapq, zlib"),
    (
        "_core/engine.py",
        "for x in sorted(set(xs)): print(x)\nif x in {1, 2}: print(len(set(xs)))\nfor k in d.keys(): print(k)",
    ),
    ("_gemini/http.py", "import aiohttp, anyio, stamina\nfrom carpool import _ports\nfrom carpool._gemini import http"),
    ("_runtime/loop.py", "import anyio\nfrom carpool import _ports\nfrom carpool._core.model import Job"),
    ("_runtime/jobs.py", "import anyio\nfrom carpool._runtime import loop"),
    ("client.py", "from carpool._gemini.http import Session\nfrom carpool._stores import disk\nimport platformdirs"),
    ("sync.py", "from carpool.client import Client\nfrom anyio.from_thread import start_blocking_portal"),
    ("cli/__init__.py", "import rich, cyclopts, carpool\nfrom carpool import emulator, surfaces"),
    ("__main__.py", "from carpool.cli import main"),
    ("emulator/pytest_plugin.py", "import pytest\nfrom .thread import EmulatorThread"),
    ("emulator/world.py", "import aiohttp, msgspec, json\nfrom carpool.emulator import world\nfrom . import world"),
]


@pytest.mark.parametrize(("path", "source", "rule"), PLANTED)
def test_a_planted_violation_is_found(path: str, source: str, rule: str) -> None:
    assert rules(violations(NEIGHBOURS | {path: source})) == [rule]


@pytest.mark.parametrize(("path", "source"), SOUND)
def test_a_sound_module_passes(path: str, source: str) -> None:
    assert violations(NEIGHBOURS | {path: source}) == []


def test_a_violation_says_where_and_what() -> None:
    [found] = violations(NEIGHBOURS | {"_core/engine.py": "import math\nimport time\n"})
    assert str(found) == "carpool._core.engine:2: core-import: imports time"
