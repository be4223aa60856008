"""A job's output as it comes in: rows in columns, errors among them, and runs of rows that follow each other.

Owns shapes only. Bodies pass through as opaque bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from carpool._core.model import Place, place_of
from carpool.types import ServerError


class RowFault(msgspec.Struct, frozen=True, gc=False):
    """A row that came back as an error."""

    place: Place
    error: ServerError


class Run(msgspec.Struct, frozen=True, gc=False):
    """Answers to rows of a segment that follow each other."""

    no: int
    start: int
    stop: int
    """The row after the last."""
    bodies: list[bytes] | None = None
    """To be stored before they are delivered; ``None``: they are handed straight to live awaiters of automatic keys."""

    def __repr__(self) -> str:
        return f"Run(no={self.no}, start={self.start}, stop={self.stop}, kept={self.bodies is not None})"

    @property
    def count(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def places(self) -> range:
        """The rows' places."""
        return range(place_of(self.no, self.start), place_of(self.no, self.stop))


class Row(NamedTuple):
    """One row of a job's output: its key, and the answer's bytes or the error."""

    key: str = ""
    response: bytes = b""
    error: ServerError | None = None

    def __repr__(self) -> str:
        return f"Row(key={self.key!r}, bytes={len(self.response)}, error={self.error!r})"


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a job's output that arrived together, in columns, and what could not be read among them."""

    keys: list[str]
    """A row's key; empty where none came back."""
    bodies: list[bytes]
    """A row's answer; of no meaning where it is an error."""
    errors: dict[int, ServerError] = {}
    """Rows that are errors, by their index."""
    unreadable: int = 0
    lines: bytes = b""
    """JSON lines of exactly these rows, in order, with each answer as ``response``; empty if that is not at hand."""

    @classmethod
    def of(cls, rows: Sequence[Row], unreadable: int = 0) -> Block:
        """Return rows as a block."""
        return cls(
            keys=[row.key for row in rows],
            bodies=[bytes(row.response) for row in rows],
            errors={at: row.error for at, row in enumerate(rows) if row.error is not None},
            unreadable=unreadable,
        )

    def __repr__(self) -> str:
        return f"Block(rows={len(self.keys)}, errors={len(self.errors)}, unreadable={self.unreadable})"

    @property
    def rows(self) -> list[Row]:
        """The rows one by one."""
        return [Row(key, self.bodies[at], self.errors.get(at)) for at, key in enumerate(self.keys)]
