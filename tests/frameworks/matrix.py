"""All rows, one after another, and the table of what became of them.

Owns the order and the table. It must not know what a program asks, nor how an environment is made.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from .checks import complaints, passed_through
from .making import CannotMake, Place, build_wheel, make
from .plan import RARE, Environment, Part, Row
from .running import Failed, run


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row.

    Attributes:
        library: what was tried, with its version.
        way: ``in-process`` or ``sidecar``.
        mode: ``sync`` or ``async``.
        stack: what the library sent with.
        calls: answers and embeddings asked for, of all parts.
        gathered: how many jobs the fifty calls at once became.
        jobs: of all parts.
        live_calls: calls that went to the live API.
        passed_through: calls that were handed on as they are.
        refused_by: the exception that a refused call ended with.
        tried: the parts of the program that did what they should.
        wrong: what was not as it should be.
        took_s: seconds.
    """

    row: str
    library: str = ""
    way: str = ""
    mode: str = ""
    stack: str = ""
    calls: int = 0
    gathered: int = 0
    jobs: int = 0
    live_calls: int = 0
    passed_through: int = 0
    refused_by: str = ""
    tried: tuple[Part, ...] = ()
    wrong: tuple[str, ...] = ()
    took_s: float = 0.0


def try_row(row: Row, place: Place) -> Outcome:
    """Run the parts of a row's program, and judge them."""
    began = time.monotonic()
    outcome = Outcome(row=row.name, way=row.way, mode=row.mode)
    for part in row.parts:
        with tempfile.TemporaryDirectory(prefix="carpool-frameworks-") as folder:
            try:
                ran = run(row, part, place, Path(folder))
            except Failed as failed:
                outcome = msgspec.structs.replace(outcome, wrong=(*outcome.wrong, f"{part}: {failed}"))
                continue
        told = ran.told
        found = tuple(f"{part}: {complaint}" for complaint in complaints(row, part, ran))
        outcome = msgspec.structs.replace(
            outcome,
            library=", ".join(f"{name} {version}" for name, version in told.versions.items()),
            stack=told.stack,
            tried=outcome.tried if found else (*outcome.tried, part),
            calls=outcome.calls + len(told.answers) + len(told.vectors),
            gathered=len(ran.jobs) if part == "gather" else outcome.gathered,
            jobs=outcome.jobs + len(ran.jobs),
            live_calls=outcome.live_calls + ran.ledger.live_calls,
            passed_through=outcome.passed_through + passed_through(ran),
            refused_by=", ".join(refusal.kind for refusal in told.refusals) or outcome.refused_by,
            wrong=(*outcome.wrong, *found),
        )
    return msgspec.structs.replace(outcome, took_s=time.monotonic() - began)


def try_all(rows: Iterable[Row], folder: Path) -> Iterator[Outcome]:
    """Make the environments in a folder, try the rows, and yield what becomes of each."""
    wheel = build_wheel(folder)
    places: dict[str, Place | CannotMake] = {}
    for row in rows:
        if row.environment.name not in places:
            places[row.environment.name] = _place(row.environment, folder, wheel)
        place = places[row.environment.name]
        if isinstance(place, CannotMake):
            yield Outcome(row=row.name, way=row.way, mode=row.mode, wrong=(str(place),))
        else:
            yield try_row(row, place)


def _place(environment: Environment, folder: Path, wheel: Path) -> Place | CannotMake:
    try:
        return make(environment, folder, wheel)
    except CannotMake as error:
        return error


HEAD: Final = (
    "library", "way", "mode", "sends with", "calls", "50 at once: jobs", "jobs", "live", "passed", "own answers",
    "held", "comes back", "gives up", "in time", "s",
)  # fmt: skip


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for one in outcomes:
        cells = (
            one.library or one.row, one.way, one.mode, one.stack, one.calls, one.gathered, one.jobs, one.live_calls,
            one.passed_through, "no" if one.wrong else "yes", *_rare(one), f"{one.took_s:.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _rare(one: Outcome) -> list[str]:
    """Return of the parts that not all programs have: ``yes``, or nothing where it was not tried, or failed."""
    return ["yes" if part in one.tried else "" for part in RARE]
