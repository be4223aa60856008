"""Mutants that change nothing that anybody could see, by what they make of a line.

Owns the list and its reasons. A mutant that is not on it and survives wants a test.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec


class Equivalent(msgspec.Struct, frozen=True):
    """Changes that are the same for every caller: patterns of the line before and of the line after."""

    before: str
    after: str
    reason: str

    def covers(self, before: str, after: str) -> bool:
        return re.search(self.before, before) is not None and re.search(self.after, after) is not None


EQUIVALENTS: Final = (
    Equivalent(r"\bassert .*, f?\"", r"\bassert .*, f?\"(XX|[A-Z ]+\")", "the words of an assertion that never fails"),
    Equivalent(r"\b(assert_never\(|case _)", r"^$|assert_never\(None\)", "never reached: type checkers prove it"),
    Equivalent(r"array\(\"Q\"\)", r"array\(\"q\"\)", "sizes stay far below 2**63"),
    Equivalent(r"\bop \+= 1$", r"op (\+= 2|-= 1)$", "numbers of questions have to differ, no more"),
    Equivalent(r"zip\(.*strict=True", r"zip\(", "slices of one segment are of one length"),
    Equivalent(r"states\.count\(SENT, start, stop\)", r"\.count\(", "the other branch gives the same, only slower"),
    Equivalent(r"lines=\[\]", r"lines=None", "a segment from disk has no lines in memory, and nobody asks for them"),
    Equivalent(r"flags\[row\] \|= ABANDONED", r"flags\[row\] = ABANDONED", "a row that nobody named has no other flag"),
    Equivalent(r"else 2$", r"else 3$", "a sort key: only the order counts"),
    Equivalent(r"= False$", r"= None$", "only asked for its truth"),
    Equivalent(r"Step\(writes=\[\], actions=\[\]\)", r"Step\(", "the defaults are empty lists of their own"),
    Equivalent(r"\.find\(PARKED\) < 0", r"\.rfind\(PARKED\) < 0", "asked for whether there is one, not where"),
    Equivalent(r"live\.get\(key, 0\)", r"live\.get\(key, 1\)", "segments are numbered from 1: both lead nowhere"),
    Equivalent(r"code <= _RPC_MAX", r"code < _RPC_MAX", "code 16 is retried in neither table"),
    Equivalent(r"default=NEVER\)", r"default=None\)", "NEVER becomes None in the next line"),
    Equivalent(r"wake_at - .* > patience_s", r">= patience_s", "pauses with jitter do not end on the very instant"),
    Equivalent(r"next_(job|key|segment|results) ", r"next_\w+ .*(\+= 2|\+ 2)", "numbers have to differ, no more"),
    Equivalent(r"\(1 << 48\) - 1", r"\((2 << 48|1 << 49)\) - 1", "times stay below 2**48 ms for 8,000 years"),
    Equivalent(r"_ALPHABET\.index", r"_ALPHABET\.rindex", "each letter is in the alphabet once"),
    Equivalent(r"if end <= low:", r"if end < low:", "the next line finds the same in no rows"),
    Equivalent(r"flush = queue\.requests > 0", r"queue\.requests >= 0", "a queue without requests is gone"),
    Equivalent(r"row = -1 if segment is None", r"row = [+-][12] if", "without a segment the row is not looked at"),
    Equivalent(r"spans=\(\)", r"spans=None", "set when the batch is cut"),
    Equivalent(r"range\(125, -1, -5\)", r"range\(125, -[2-5], -5\)", "the last step is 0"),
    Equivalent(r"from_bytes\(.*\"big\"\)", r"from_bytes\(.*, \)", "what Python takes if nothing is said"),
    Equivalent(r"min\(failures - 1, 60\)", r"min\(failures - 1, 61\)", "far above every ceiling"),
    Equivalent(r"/ 0xFFFFFFFF", r"/ 4294967296", "a jitter that differs in the tenth digit"),
    Equivalent(r"live\.pop\(.*, None\)", r"live\.pop\(.*, \)", "an open row of an explicit key is in the table"),
)


def reason_for(before: str, after: str) -> str | None:
    """Return why a change cannot be seen, or ``None`` if it is not on the list."""
    return next((known.reason for known in EQUIVALENTS if known.covers(before, after)), None)
