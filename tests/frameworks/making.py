"""Environments: made by pip and npm, each in a folder of its own.

Owns the folders, and the proof that what must not be there is not. It must not know what programs run in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from .plan import PROGRAMS, Environment

ROOT: Final = Path(__file__).parents[2]
_NOTE: Final = "made.json"
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


class CannotMake(Exception):
    """An environment could not be made; says what did not work."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is there.

    Attributes:
        interpreter: path of Python or Node.
        programs: folder from which they are started.
        variables: that programs need in it.
    """

    interpreter: Path
    programs: Path
    variables: dict[str, str] = {}

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return how a program is started."""
        return [str(self.interpreter), str(self.programs / program), *arguments]


def here() -> Place:
    """Return the environment of whoever runs this, where carpool is found as here, and measured as here."""
    return Place(interpreter=Path(sys.executable), programs=PROGRAMS, variables=own_variables())


def own_variables() -> dict[str, str]:
    """Return by which variables Python finds its modules here, and by which coverage is measured."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PYTHONPATH", "COV"))}


def build_wheel(folder: Path) -> Path:
    """Build carpool's wheel, and return where it is.

    Raises:
        CannotMake: the build failed.
    """
    target = folder / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    _call(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", str(ROOT)], target
    )
    return next(target.glob("carpool-*.whl"))


def make(environment: Environment, folder: Path, wheel: Path) -> Place:
    """Make an environment, or use the one that was made from the same requirements before.

    Args:
        environment: which.
        folder: holds all environments.
        wheel: carpool, for environments that have it: always installed anew, since it may be another.

    Raises:
        CannotMake: something cannot be installed, or is there that must not be.
    """
    home = folder / environment.name
    note = home / _NOTE
    wanted = msgspec.json.encode(environment)
    is_made = note.exists() and note.read_bytes() == wanted
    if not is_made:
        if home.exists() and not note.exists():
            raise CannotMake(f"{home} is there, and is none of the folders made here: choose another one for --keep")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        note.touch()
    if environment.npm:
        place = _make_node(environment, home, is_made=is_made)
    else:
        place = _make_python(environment, home, wheel, is_made=is_made)
    note.write_bytes(wanted)
    return place


def _make_python(environment: Environment, home: Path, wheel: Path, *, is_made: bool) -> Place:
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not is_made:
        _call([sys.executable, "-m", "venv", str(home)])
    if not is_made and environment.requires:
        _call([str(python), *_PIP, *environment.requires, *([str(wheel)] if environment.carpool else [])])
    elif environment.carpool:
        _call([str(python), *_PIP, "--no-deps", "--force-reinstall", str(wheel)])
    absent = [*environment.absent, *([] if environment.carpool else ["carpool"])]
    look = (
        "import sys; from importlib.util import find_spec; print(*[name for name in sys.argv[1:] if find_spec(name)])"
    )
    found = _call([str(python), "-I", "-c", look, *absent]).split()
    if found:
        raise CannotMake(f"{environment.name} must not hold {', '.join(found)}")
    return Place(interpreter=python, programs=PROGRAMS)


def _make_node(environment: Environment, home: Path, *, is_made: bool) -> Place:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise CannotMake(f"{environment.name} needs Node.js: install node and npm, or leave it out by --only")
    if not is_made:
        _call([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), *environment.npm])
    # Node looks for packages beside the program.
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, home)
    return Place(interpreter=Path(node), programs=home)


def _call(command: list[str], folder: Path | None = None) -> str:
    """Run a command, and return what it prints."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    ended = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise CannotMake(f"{' '.join(command[:6])} ... failed:\n{ended.stderr[-2_000:]}{ended.stdout[-1_000:]}")
    return ended.stdout
