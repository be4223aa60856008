"""Which request a key names, so that nothing is paid for twice.

Owns three tables: explicit keys in flight, explicit keys with a stored result, and abandoned requests by digest.
Automatic keys in flight are in no table: two identical live calls are two requests.
"""

from __future__ import annotations

from bisect import bisect_left, insort
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
        self.live: dict[str, Place] = {}
        self.kept: dict[str, Place] = {}
        self.abandoned: dict[bytes, Candidate | list[Candidate]] = {}
        """By digest; several of one are in a list, oldest first. A list for each would cost a million of them, which
        the collector walks over, where a process opens a store of a million requests."""

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
