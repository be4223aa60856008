"""Which job holds a row.

Owns the index from rows to unfinished jobs. It must not know why a row is where it is.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from carpool._core.model import ROW_BITS, ROW_MASK, ROWS_MAX, Job, Place


class Holders:
    """Which unfinished job holds which rows; no row is in two of them."""

    def __init__(self) -> None:
        self._spans: dict[int, list[tuple[int, int, str]]] = {}
        """By segment, in order: first row, row after the last, job."""

    def take(self, job: Job) -> None:
        """Note the rows of a job."""
        for no, start, stop in job.spans:
            insort(self._spans.setdefault(no, []), (start, stop, job.id))

    def drop(self, job: Job) -> None:
        """Forget the rows of a job, which are as they were noted."""
        for no in dict.fromkeys(no for no, _, _ in job.spans):
            left = [span for span in self._spans.pop(no) if span[2] != job.id]
            if left:
                self._spans[no] = left

    def of(self, place: Place) -> str:
        """Return the job that holds a row which one of them holds."""
        spans = self._spans[place >> ROW_BITS]
        return spans[bisect_right(spans, (place & ROW_MASK, ROWS_MAX + 1)) - 1][2]
