"""Pages that are played in environments of the matrix: ``python -m tests.docs``.

Owns how a page is played there. In an environment that holds carpool, the page's own code is; in one that does not,
the programs that it writes to files are, and find carpool by a sidecar alone. It must not know how environments are
made.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.frameworks.making import CannotMake, Place, build_wheel, make
from tests.frameworks.plan import Environment, read

from .stage import PAGES, environment_of, named, play


def environments() -> dict[str, Environment]:
    """Return the environments of the matrix by their names."""
    return {row.environment.name: row.environment for row in read()}


def pages_elsewhere() -> list[tuple[Path, str]]:
    """Return the pages that are not played by everybody's tests, with their environments."""
    return [(page, name) for page in PAGES if (name := environment_of(page)) is not None]


def try_pages(only: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Play pages, and yield the name of each, with what is wrong: nothing, if it is as it says.

    Args:
        only: words, one of which the name of a page or of its environment has; none: all pages.
        folder: holds the environments, which are made if they are not there.
    """
    wheel = build_wheel(folder)
    known = environments()
    for page, name in pages_elsewhere():
        if only and not any(word in f"{named(page)} {name}" for word in only):
            continue
        try:
            place = make(known[name], folder, wheel)
            play_in(page, known[name], place, folder)
        except (AssertionError, CannotMake) as error:
            yield named(page), str(error)
        else:
            yield named(page), ""


def play_in(page: Path, environment: Environment, place: Place, folder: Path) -> None:
    """Play one page in its environment.

    Raises:
        AssertionError: it is not as the page says.
    """
    with tempfile.TemporaryDirectory(prefix="carpool-page-") as empty:
        if environment.carpool:
            played = play(page, Path(empty), python=str(place.interpreter), strict=False)
        elif environment.npm:
            played = play(page, Path(empty), modules=folder / environment.name / "node_modules")
        else:
            played = play(page, Path(empty), programs=str(place.interpreter))
        asyncio.run(played)
