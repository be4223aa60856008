"""Planted faults: what the engine, or the loop around it, would do wrong. The simulation must catch each of them.

Owns the list. Each mutant changes one rule, by replacing functions for as long as it is planted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
import pytest

from .world import simulate

Patch: TypeAlias = pytest.MonkeyPatch
Plant: TypeAlias = Callable[[Patch], None]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    plant: Plant
    reason: str
    likely: int
    """A seed that sees it, as the draw in ``plan`` is now: tried first, to save time. Played without ladders it goes on
    telling the same story when their rules change. ``python -m tests.simulation --mutants NAME`` looks for another."""


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(likely: int) -> Callable[[Plant], Plant]:
    """Add a mutant to the list; its docstring says which rule it breaks."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant=plant, reason=plant.__doc__ or "", likely=likely)
        return plant

    return add


def sees(seed: int, *, ladders: bool = False) -> bool:
    """Return whether a seed sees what is planted: a promise is broken, or the engine breaks on it.

    Raises:
        TypeError, AttributeError: what is planted does not fit into its place, so that to see it proves nothing.
    """
    try:
        simulate(seed, ladders=ladders)
    except (TypeError, AttributeError):
        raise
    except Exception:  # noqa: BLE001 - whatever it is
        return True
    return False
