"""Which of a job's requests have come, in one reading of its output.

Owns the way from keys to rows. Outputs mostly come in the order in which the requests were sent: then keys are compared
with those that are due next, a slice at a time, and none is looked up. Only where that order breaks is an index of all
keys made. It must not know what the rows say.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from carpool._core.book import Book
from carpool._core.model import SENT, Span

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
        self._begins = list(accumulate((stop - start for _, start, stop in spans), initial=0))
        """How many rows of the job come before each span."""
        self._index: dict[str, int] | None = None
        """How many rows of the job come before the one of a key."""
        self._due = 0, spans[0][1] if spans else 0
        """Which span, and which row of it, is due next."""

    def is_ready(self, keys: Sequence[str]) -> bool:
        """Return whether ``find`` knows these keys without an index that is not made yet: see ``learn``."""
        due = self._due
        try:
            return self._index is not None or all(span is not None for span in self._runs(keys))
        finally:
            self._due = due

    def learn(self) -> Iterator[None]:
        """Make an index of all keys, a slice a step: of a million it takes longer than a callback may."""
        index: dict[str, int] = {}
        for (no, start, stop), begin in zip(self._spans, self._begins, strict=False):
            for row in range(start, stop, _SLICE_ROWS):
                keys, first = self._keys[no][row : min(stop, row + _SLICE_ROWS)], begin + row - start
                index.update(zip(keys, range(first, first + len(keys)), strict=True))
                yield
        self._index = index

    def find(self, keys: Sequence[str]) -> Iterator[Span | None]:
        """Iterate over the rows that keys name, in their order: runs of rows, and ``None`` for one key of no row."""
        if not self.is_ready(keys):
            for _ in self.learn():
                pass
        return self._runs(keys)

    def _runs(self, keys: Sequence[str]) -> Iterator[Span | None]:
        at = 0
        while at < len(keys):
            run = self._run(keys, at) if self._seek(keys[at]) else None
            yield run
            at += 1 if run is None else run[2] - run[1]

    def _run(self, keys: Sequence[str], at: int) -> Span:
        """Return the longest run of rows from the next one on that the keys name, and expect what follows it."""
        number, row = self._due
        no, _, stop = self._spans[number]
        names, size = self._keys[no], min(stop - row, len(keys) - at)
        if names[row : row + size] != keys[at : at + size]:
            size = next(size for size in range(1, size) if names[row + size] != keys[at + size])
        if row + size < stop:
            self._due = number, row + size
        else:
            self._due = number + 1, self._spans[number + 1][1] if number + 1 < len(self._spans) else 0
        return no, row, row + size

    def _seek(self, key: str) -> bool:
        """Let the row of a key be due next; return whether there is one, as far as is known."""
        number, row = self._due
        if number < len(self._spans) and self._keys[self._spans[number][0]][row] == key:
            return True
        if self._index is None:
            return self._seek_ahead(key)
        before = self._index.get(key)
        if before is None:
            return False
        number = bisect_right(self._begins, before) - 1
        self._due = number, self._spans[number][1] + before - self._begins[number]
        return True

    def _seek_ahead(self, key: str) -> bool:
        """Look for a key among the next rows: those before it may be missing."""
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
