"""Planted faults: what the engine, or the loop around it, would do wrong. The simulation must catch each of them.

Owns the list. Each mutant changes one rule, by replacing functions for as long as it is planted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
import pytest

Patch: TypeAlias = pytest.MonkeyPatch
Plant: TypeAlias = Callable[[Patch], None]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    plant: Plant
    reason: str
    likely: int
    """A seed that sees it, as the draw in ``plan`` is now: tried first, to save time."""


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(likely: int) -> Callable[[Plant], Plant]:
    """Add a mutant to the list; its docstring says which rule it breaks."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant=plant, reason=plant.__doc__ or "", likely=likely)
        return plant

    return add
