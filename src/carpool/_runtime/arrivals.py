"""Which of a job's requests have come, in one reading of its output.

Owns the way from keys to rows. Outputs mostly come in the order in which the requests were sent: then keys are compared
with those that are due next, a slice at a time, and none is looked up. Only where that order breaks is an index of all
keys made. It must not know what the rows say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from carpool._core.book import Book
from carpool._core.model import ROW_BITS, ROW_MASK, SENT, Place, Span, place_of

CAME: Final = 0
WAITED: Final = 1
ANSWERED: Final = 2
"""Before this reading began."""

_MARKS: Final = bytes(WAITED if state == SENT else ANSWERED for state in range(256))
_AHEAD_ROWS: Final = 1_000
"""So many rows may be missing in one place without an index being made."""
_SLICE_ROWS: Final = 20_000


class Arrivals:
    """Follows one reading of a job's output.

    Args:
        book: knows the requests.
        spans: the job's.
    """

    def __init__(self, book: Book, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._keys = {no: book.segments[no].keys for no, _, _ in spans}
        self.marks = {no: bytearray(book.segments[no].states.translate(_MARKS)) for no in self._keys}
        """What is known of each row, by segment."""
        self._due: tuple[int, int] = (0, spans[0][1] if spans else 0)
        """Which span, and which row of it, is due next."""
        self._index: dict[str, Place] | None = None

    def is_ready(self, keys: Sequence[str]) -> bool:
        """Return whether ``find`` knows these keys without an index that is not made yet: see ``learn``."""
        due = self._due
        is_ready = self._index is not None or self._in_order(keys) is not None
        self._due = due
        return is_ready

    def learn(self) -> Iterator[None]:
        """Make an index of all keys, a slice a step: of a million it takes longer than a callback may."""
        index: dict[str, Place] = {}
        for no, start, stop in self._spans:
            for row in range(start, stop, _SLICE_ROWS):
                end = min(stop, row + _SLICE_ROWS)
                index.update(zip(self._keys[no][row:end], range(place_of(no, row), place_of(no, end)), strict=True))
                yield
        self._index = index

    def find(self, keys: Sequence[str]) -> Sequence[Span | None]:
        """Return the rows that keys name, in their order: runs of rows, and ``None`` for one key of no row."""
        runs = self._in_order(keys) if self._index is None else None
        if runs is not None:
            return runs
        if self._index is None:
            for _ in self.learn():
                pass
        return self._looked_up(keys)

    def _looked_up(self, keys: Sequence[str]) -> list[Span | None]:
        assert self._index is not None, "made before"
        runs: list[Span | None] = []
        places = list(map(self._index.get, keys))
        at = 0
        while at < len(places):
            place = places[at]
            at += 1
            if place is None:
                runs.append(None)
                continue
            end = place + 1
            while at < len(places) and places[at] == end:
                end += 1
                at += 1
            row = place & ROW_MASK
            runs.append((place >> ROW_BITS, row, row + end - place))
        return runs

    def _in_order(self, keys: Sequence[str]) -> list[Span] | None:
        """Return the rows that keys name if they are in the order of sending, but for some that are missing."""
        runs: list[Span] = []
        at = 0
        while at < len(keys):
            if not self._seek(keys[at]):
                return None
            number, row = self._due
            no, _, stop = self._spans[number]
            names, size = self._keys[no], min(stop - row, len(keys) - at)
            if names[row : row + size] != keys[at : at + size]:
                size = next(size for size in range(1, size) if names[row + size] != keys[at + size])
            runs.append((no, row, row + size))
            at += size
            if row + size < stop:
                self._due = number, row + size
            else:
                self._due = number + 1, self._spans[number + 1][1] if number + 1 < len(self._spans) else 0
        return runs

    def _seek(self, key: str) -> bool:
        """Let the row of a key be due next, if it is among the next ones: those before it may be missing."""
        (number, row), left = self._due, _AHEAD_ROWS
        while left > 0 and number < len(self._spans):
            no, _, stop = self._spans[number]
            end = min(stop, row + left)
            try:
                self._due = number, self._keys[no].index(key, row, end)
            except ValueError:
                left -= end - row
                number += 1
                row = self._spans[number][1] if number < len(self._spans) else 0
            else:
                return True
        return False
