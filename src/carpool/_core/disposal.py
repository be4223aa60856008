"""Segments whose rows ended: those that nothing needs any more are dropped, of the others the state is recorded.

Owns what is to be looked at with the next step, and how much may be dropped in one: what is dropped is overwritten on
disk, and whatever else is to be written waits for that.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

from carpool._core.messages import DropSegments, PutMarks
from carpool._core.model import DONE, Marks, Segment

DROP_BYTES_MAX: Final = 8_388_608
"""In one step; overwriting so much takes a disk 20 to 60 ms."""
_ALL_BYTES: Final = 2**62
_DONE_BYTES: Final = bytes(state == DONE for state in range(256))


class Disposal:
    """What is to be swept."""

    def __init__(self) -> None:
        self.in_slices = True
        """Whether much goes in several steps."""
        self.taken: set[int] = set()
        """Stored results of which rows were taken since the last step."""
        self._unswept: set[int] = set()
        self._ended: set[int] = set()
        """Those of them that nothing needs any more, and that are on record as such."""

    @property
    def goes_on(self) -> bool:
        """Whether the last step left segments for the next to drop."""
        return bool(self._ended)

    def note(self, numbers: Iterable[int]) -> None:
        """Let segments be swept with this step.

        Not at once: many rows of one may end in a step, and its record has all of them.
        """
        self._unswept.update(numbers)

    def sweep(self, segments: dict[int, Segment], carried: Container[int]) -> list[PutMarks | DropSegments]:
        """Return what is to be written; segments that are dropped are taken out of the table.

        Args:
            segments: all there are.
            carried: those of which rows are in live calls.
        """
        writes: list[PutMarks | DropSegments] = []
        dropped: list[int] = []
        room_bytes = DROP_BYTES_MAX if self.in_slices else _ALL_BYTES
        unswept, self._unswept = sorted(self._unswept), set()
        for no in unswept:
            segment = segments.get(no)
            if segment is None:
                continue
            ended = segment.open_rows == 0 and segment.jobs == 0 and no not in carried
            if ended and room_bytes > 0:
                room_bytes -= segment.size_bytes
                del segments[no]
                dropped.append(no)
                continue
            if ended:
                self._unswept.add(no)
            if no not in self._ended:
                # Of one that has ended, too: a process that dies before it is dropped must leave no row to be sent.
                done = bytes(segment.states.translate(_DONE_BYTES))
                writes.append(PutMarks(marks=Marks(no=no, done=done, attempts=bytes(segment.attempts))))
        self._ended = set(self._unswept)
        if dropped:
            writes.append(DropSegments(numbers=dropped))
        return writes
