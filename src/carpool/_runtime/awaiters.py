"""Who awaits which request: a column of futures beside each segment's rows.

Owns the futures. A request usually has one awaiter, held as its bare future; a second one turns the cell into a list.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import msgspec

from carpool._core.model import ROW_BITS, ROW_MASK, Place
from carpool._core.output import Run
from carpool._runtime.verdicts import deadline_exceeded
from carpool.responses import EmbedResponse, GenerateResponse, Response
from carpool.types import Facts, Kind


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a future is given. Not a tuple: the garbage collector would count one for each of a million answers."""

    raw: bytes
    facts: Facts

    def __repr__(self) -> str:
        return f"Answer(bytes={len(self.raw)})"


Waiter: TypeAlias = asyncio.Future[Answer]
Cell: TypeAlias = Waiter | list[tuple[Waiter, float | None]] | None


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request that was taken in: where its answer will come, and what the caller's receipt needs.

    Not tracked by the garbage collector: there is one for every call under way, and each ends with its call.
    """

    key: str
    place: Place
    future: Waiter
    accepted_at: float
    reused: bool
    kept: bool
    """The place is that of a stored result."""
    explicit: bool

    def response(self, kind: Kind, schema: Any, answer: Answer) -> Response:
        """Return what the caller gets for an answer."""
        if kind == "embed":
            return EmbedResponse(self.key, answer.raw, answer.facts, self.accepted_at, self.reused)
        return GenerateResponse(self.key, answer.raw, answer.facts, self.accepted_at, self.reused, schema)


class Awaiters:
    """The futures of all requests in flight."""

    def __init__(self) -> None:
        self.columns: dict[int, list[Cell]] = {}
        """By segment; a column may be shorter than its segment."""

    def open(self, place: Place) -> list[Cell]:
        """Begin the column of a segment: who awaits this row, and later ones, is appended to it."""
        column: list[Cell] = [None] * (place & ROW_MASK)
        self.columns[place >> ROW_BITS] = column
        return column

    def attach(self, place: Place, future: Waiter, deadline: float | None, first_deadline: float | None) -> None:
        """Let another future await a row, whose first awaiter had a deadline of its own."""
        column = self.columns.setdefault(place >> ROW_BITS, [])
        row = place & ROW_MASK
        column.extend([None] * (row + 1 - len(column)))
        cell = column[row]
        if cell is None:
            column[row] = [(future, deadline)]
        elif isinstance(cell, list):
            cell.append((future, deadline))
        else:
            column[row] = [(cell, first_deadline), (future, deadline)]

    def has(self, place: Place) -> bool:
        """Return whether anybody awaits a row."""
        return self._cell(place) is not None

    def take(self, place: Place) -> list[Waiter]:
        """Return the live awaiters of a row, and let go of them."""
        cell = self._cell(place)
        if cell is None:
            return []
        self.columns[place >> ROW_BITS][place & ROW_MASK] = None
        futures = [future for future, _ in cell] if isinstance(cell, list) else [cell]
        return [future for future in futures if not future.done()]

    def cells(self, run: Run) -> list[Cell]:
        """Return the cells of rows that follow each other, as far as there are any."""
        return self.columns.get(run.no, [])[run.start : run.stop]

    def let_go(self, run: Run) -> None:
        """Let go of the awaiters of rows that follow each other, who have been told."""
        column = self.columns.get(run.no, [])
        column[run.start : run.stop] = [None] * len(column[run.start : run.stop])

    def take_only(self, place: Place) -> Waiter | None:
        """Return the awaiter of a row if there is one alone and he is still there, and let go of him."""
        cell = self._cell(place)
        if cell is None or isinstance(cell, list) or cell.done():
            return None
        self.columns[place >> ROW_BITS][place & ROW_MASK] = None
        return cell

    def drop(self, place: Place, future: Waiter) -> bool:
        """Let go of one awaiter; return whether others are left."""
        cell = self._cell(place)
        if isinstance(cell, list):
            cell[:] = [(other, deadline) for other, deadline in cell if other is not future]
            if cell:
                return True
        elif cell is not future:
            return cell is not None
        if cell is not None:
            self.columns[place >> ROW_BITS][place & ROW_MASK] = None
        return False

    def expire(self, place: Place, deadline: float, key: str, why: str = "") -> bool:
        """Fail the awaiters of a row whose deadline has passed; return whether nobody is left."""
        cell = self._cell(place)
        if cell is None:
            return False
        overdue = cell if isinstance(cell, list) else [(cell, deadline)]
        left = [(future, until) for future, until in overdue if until is None or until > deadline]
        for future, until in overdue:
            if until is not None and until <= deadline and not future.done():
                future.set_exception(deadline_exceeded(key, why))
        self.columns[place >> ROW_BITS][place & ROW_MASK] = left or None
        return not left

    def forget(self, numbers: list[int]) -> None:
        """Let go of whole segments."""
        for no in numbers:
            self.columns.pop(no, None)

    def clear(self) -> list[Waiter]:
        """Return all live awaiters, and let go of them."""
        places = (no << ROW_BITS | row for no, column in self.columns.items() for row in range(len(column)))
        found = [waiter for place in places for waiter in self.take(place)]
        self.columns.clear()
        return found

    def _cell(self, place: Place) -> Cell:
        column = self.columns.get(place >> ROW_BITS)
        row = place & ROW_MASK
        return column[row] if column is not None and row < len(column) else None
