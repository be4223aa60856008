"""Which libraries are tried, and in which environments: what ``environments.toml`` says.

Owns the reading of that file. It must not know how environments are made, nor how programs run.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

FOLDER: Final = Path(__file__).parent
PROGRAMS: Final = FOLDER / "programs"
PLAN: Final = FOLDER / "environments.toml"

Mode = Literal["sync", "async"]
Part = Literal["gather", "features", "waits", "returns", "fails", "hurries"]
RARE: Final[tuple[Part, ...]] = ("waits", "returns", "fails", "hurries")


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where programs find their library.

    Attributes:
        name: of its folder.
        requires: what pip installs.
        npm: what npm installs; then it is one for Node.
        absent: modules that must not be there, besides carpool where ``carpool`` is false.
        carpool: whether carpool is installed in it, for calls in process; else they go through the sidecar.
    """

    name: str
    requires: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    carpool: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way of asking: a program in an environment, blocking or not.

    Attributes:
        environment: where it runs.
        program: file below ``programs``.
        mode: ``sync`` or ``async``.
        stack: how what the library sends with begins.
        jobs: how many jobs become of fifty calls at once.
        refusal: the exception that a refused call ends with, or nothing if the program makes none such.
        parts: of the program: always ``gather``, fifty calls at once, and ``features``, what else the library has;
            ``waits`` where the library's limit is one of silence, so that signs of life hold it; ``returns`` where it
            asks again by itself after its limit; ``fails`` where it does so after errors that it takes for passing;
            ``hurries`` where it has a limit for the whole call, to be in time for which a batch is left.
        ci: whether the `test` extra installs what it needs, so that the tests run it where they run themselves.
        variables: further environment variables.
    """

    environment: Environment
    program: str
    mode: Mode
    stack: str
    jobs: int
    refusal: str = ""
    parts: tuple[Part, ...] = ("gather", "features")
    ci: bool = False
    variables: dict[str, str] = {}

    @property
    def way(self) -> str:
        """``in-process`` or ``sidecar``."""
        return "in-process" if self.environment.carpool else "sidecar"

    @property
    def name(self) -> str:
        """What it is called, alone."""
        return f"{self.environment.name} {Path(self.program).stem} {self.mode} {self.stack}"


def read(path: Path = PLAN) -> list[Row]:
    """Return all rows, in the order of the file.

    Raises:
        ValueError: a row names an environment that is not there.
    """
    plan: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    environments = {
        name: msgspec.convert({**fields, "name": name}, Environment) for name, fields in plan["environments"].items()
    }
    rows: list[Row] = []
    for fields in plan["rows"]:
        if fields["environment"] not in environments:
            raise ValueError(f"{path}: there is no environment {fields['environment']!r}")
        known = {**fields, "environment": environments[fields["environment"]]}
        stacks, ci = known.pop("stacks"), known.pop("ci", ())
        modes = {part: known.pop(part, ()) for part in RARE}
        for mode, stack in stacks.items():
            rare = [part for part, tried in modes.items() if mode in tried]
            rows.append(Row(**known, mode=mode, stack=stack, parts=("gather", "features", *rare), ci=mode in ci))
    return rows
