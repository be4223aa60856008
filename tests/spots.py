"""Where a test puts a bug: one function of a module or of a class."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple


class Bug(Exception):
    """The one that was put in."""


class Spot(NamedTuple):
    """A function, and what it belongs to."""

    owner: Any
    name: str

    @property
    def title(self) -> str:
        """Its name as it is told."""
        return f"{self.owner.__name__}.{self.name}" if inspect.isclass(self.owner) else self.name
