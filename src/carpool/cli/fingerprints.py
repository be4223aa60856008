"""A set of keys that takes 16 bytes a key and never holds the keys themselves.

Owns the table. Files of many millions of rows are checked with it, where a set of strings would not fit into memory.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Final

_SLOTS_MIN: Final = 1_024


class Fingerprints:
    """Keys by 128 bits of their hash, in one array: two words a slot, open addressing, at most two thirds full."""

    __slots__ = ("_mask", "_used", "_words")

    def __init__(self) -> None:
        self._words = _empty(_SLOTS_MIN)
        self._mask = _SLOTS_MIN - 1
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def __contains__(self, key: str) -> bool:
        low, high = _fingerprint(key)
        return self._words[self._find(low, high)] != 0

    def add(self, key: str) -> bool:
        """Add a key; return whether it was new."""
        low, high = _fingerprint(key)
        at = self._find(low, high)
        if self._words[at]:
            return False
        self._words[at], self._words[at + 1] = low, high
        self._used += 1
        if self._used * 3 > (self._mask + 1) * 2:
            self._grow()
        return True

    def _find(self, low: int, high: int) -> int:
        """Return where a fingerprint is, or the empty slot where it belongs."""
        words, mask = self._words, self._mask
        slot = high & mask
        while True:
            at = slot << 1
            if not words[at] or (words[at] == low and words[at + 1] == high):
                return at
            slot = slot + 1 & mask

    def _grow(self) -> None:
        old = self._words
        self._mask = self._mask << 1 | 1
        self._words = _empty(self._mask + 1)
        for at in range(0, len(old), 2):
            if old[at]:
                new = self._find(old[at], old[at + 1])
                self._words[new], self._words[new + 1] = old[at], old[at + 1]


def _empty(slots: int) -> array[int]:
    return array("Q", bytes(16 * slots))


def _fingerprint(key: str) -> tuple[int, int]:
    """Return two words; the first is never 0, which marks an empty slot."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") or 1, int.from_bytes(digest[8:], "big")
