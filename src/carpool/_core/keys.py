"""Which request a key names, so that nothing is paid for twice.

Owns two tables: explicit keys, in flight or with a stored result, and abandoned requests by digest. Automatic keys in
flight are in no table: two identical live calls are two requests.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from enum import Enum

import msgspec

from carpool._core.model import Place


class Claim(Enum):
    """What asking for a key or digest found."""

    NEW = "new"
    LIVE = "live"
    """In flight: join it at this place."""
    KEPT = "kept"
    """Answered: read the stored result at this place."""
    CONFLICT = "conflict"
    """The key was given with another request."""


class Candidate(msgspec.Struct, frozen=True, gc=False, order=True):
    """An abandoned request: when it was accepted (a stored result: kept), whether its place names a stored result."""

    accepted_at: float
    kept: bool
    place: Place


class KeyTable:
    """Keys and abandoned requests of one store slot."""

    def __init__(self) -> None:
        self.named: dict[str, int] = {}
        """Explicit keys. One in flight leads to the place of its request; one with a stored result to the complement
        of that place, so that a million answers change what is there, and make no table grow."""
        self.abandoned: dict[bytes, Candidate | list[Candidate]] = {}
        """By digest; several of one are in a list, oldest first. A list for each would cost a million of them, which
        the collector walks over, where a process opens a store of a million requests."""

    def live(self, key: str) -> Place | None:
        """Return the place of the request in flight that a key names."""
        place = self.named.get(key, -1)
        return place if place >= 0 else None

    def kept(self, key: str) -> Place | None:
        """Return the place of the stored result that a key names."""
        place = self.named.get(key, 0)
        return ~place if place < 0 else None

    def all_live(self) -> list[tuple[str, Place]]:
        """Return all keys in flight, with the places of their requests."""
        return [(key, place) for key, place in self.named.items() if place >= 0]

    def all_kept(self) -> list[tuple[str, Place]]:
        """Return all keys with a stored result, with its place."""
        return [(key, ~place) for key, place in self.named.items() if place < 0]

    def keep(self, keys: Sequence[str], first: Place) -> None:
        """Let keys lead to stored results whose places follow each other."""
        self.named.update(zip(keys, range(~first, ~first - len(keys), -1), strict=True))

    def end(self, key: str, place: Place) -> None:
        """Forget a request in flight, if its key still leads there."""
        if self.named.get(key) == place:
            del self.named[key]

    def forget(self, key: str, place: Place) -> bool:
        """Forget a stored result, and return whether its key led there."""
        led_there = self.named.get(key) == ~place
        if led_there:
            del self.named[key]
        return led_there

    def abandon(self, digest: bytes, accepted_at: float, place: Place, *, kept: bool) -> None:
        """Offer a request to later identical calls."""
        candidate = Candidate(accepted_at, kept, place)
        waiting = self.abandoned.setdefault(digest, candidate)
        if isinstance(waiting, list):
            insort(waiting, candidate)
        elif waiting is not candidate:
            self.abandoned[digest] = sorted((waiting, candidate))

    def offers(self, digest: bytes) -> list[Candidate]:
        """Return what identical calls may adopt, oldest first."""
        waiting = self.abandoned.get(digest, [])
        return waiting if isinstance(waiting, list) else [waiting]

    def adopt(self, digest: bytes) -> Candidate | None:
        """Take the oldest abandoned request of a digest out of the table."""
        waiting = self.offers(digest)
        if not waiting:
            return None
        candidate = waiting[0]
        self.discard(digest, candidate.accepted_at, candidate.place, kept=candidate.kept)
        return candidate

    def discard(self, digest: bytes, accepted_at: float, place: Place, *, kept: bool) -> None:
        """Withdraw one offer, if it still stands."""
        waiting = self.offers(digest)
        candidate = Candidate(accepted_at, kept, place)
        at = bisect_left(waiting, candidate)
        if at < len(waiting) and waiting[at] == candidate:
            del waiting[at]
            if not waiting:
                del self.abandoned[digest]
