"""What a user gets from `pip install carpool`: a light import, types, and every name in one place.

Imports are looked at from fresh interpreters, since this one has loaded a test suite.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

import carpool
import carpool.errors
import carpool.settings
import carpool.types

IMPORT_CPU_LIMIT_S = 0.35
ATTEMPTS = 5


def run_python(*arguments: str) -> str:
    """Run a fresh interpreter without what measures this one (coverage starts in children by such variables)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def public_names(module: ModuleType) -> set[str]:
    """Return what a module says is public or, where it says nothing, the public classes that it defines."""
    declared: list[str] | None = getattr(module, "__all__", None)
    if declared is not None:
        return set(declared)
    defined = (name for name, value in vars(module).items() if isinstance(value, type))
    return {name for name in defined if not name.startswith("_") and vars(module)[name].__module__ == module.__name__}


def test_import_loads_no_google_module() -> None:
    script = "import carpool, json, sys; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run_python("-c", script))
    assert "carpool" in loaded
    assert [name for name in loaded if name.split(".")[0] in {"google", "rich", "cyclopts", "pytest", "pydantic"}] == []


def test_import_costs_little_cpu() -> None:
    """A promise of the product. The best of several: a busy machine makes an import slower, never faster."""
    script = "import os; a = os.times(); import carpool; b = os.times(); print(b.user + b.system - a.user - a.system)"
    spent = []
    for _ in range(ATTEMPTS):
        spent.append(float(run_python("-c", script)))
        if spent[-1] <= IMPORT_CPU_LIMIT_S:
            break
    assert min(spent) <= IMPORT_CPU_LIMIT_S, f"CPU seconds of `import carpool`: {spent}"


def test_every_exported_name_is_there() -> None:
    missing = [name for name in carpool.__all__ if not hasattr(carpool, name)]
    assert missing == []
    assert len(set(carpool.__all__)) == len(carpool.__all__)


@pytest.mark.parametrize(
    "module", [carpool.errors, carpool.types, carpool.settings], ids=lambda module: module.__name__
)
def test_everything_that_users_touch_is_exported(module: ModuleType) -> None:
    assert public_names(module) <= set(carpool.__all__)


@pytest.mark.parametrize(
    "name", ["Client", "Settings", "Request", "Ticket", "Outcome", "CHEAP", "FAST", "CarpoolError"]
)
def test_the_names_of_the_documentation_are_exported(name: str) -> None:
    assert name in carpool.__all__


def test_star_import_gives_what_all_says() -> None:
    script = "import json; from carpool import *; print(json.dumps([n for n in dir() if not n.startswith('__')]))"
    names = set(json.loads(run_python("-c", script))) - {"json"}
    assert names == set(carpool.__all__) - {"__version__"}


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files("carpool").joinpath("py.typed").is_file()


def test_the_version_has_one_source() -> None:
    assert carpool.__version__ == importlib.metadata.version("carpool")


def test_the_module_runs_as_a_program() -> None:
    assert importlib.metadata.version("carpool") in run_python("-m", "carpool", "--version")
