"""A home as it stands, without touching it: where it is, who may look into it, what lies in its slots.

Owns what a look from outside finds, of running processes too. Nothing is made, changed or locked, and it must not know
what an operator is advised.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from carpool._core.alarms import UNFETCHED_S
from carpool._core.model import Job
from carpool._runtime.watch import NEARLY_FULL_BYTES
from carpool._stores.disk import DISK_RESERVE_BYTES
from carpool._stores.peek import Peek
from carpool._stores.slots import SLOTS_MAX, check_place, find_slots, free_bytes, is_free
from carpool.errors import ConfigurationError, StoreError

__all__ = [
    "DISK_RESERVE_BYTES",
    "NEARLY_FULL_BYTES",
    "SLOTS_MAX",
    "Place",
    "SlotState",
    "look_at_place",
    "look_at_slots",
]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a home is, or would be made."""

    exists: bool
    trouble: str = ""
    """Why it cannot be used, in words; empty: it can."""
    owner: int = 0
    """Number of the user that it belongs to."""
    mode: int = 0
    """Its permissions."""
    free_bytes: int = 0
    """On its disk."""


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one slot."""

    folder: Path
    taken: bool
    """Whether a running process has it."""
    size_bytes: int
    """On disk, the room kept for bad times left out."""
    trouble: str = ""
    """Why it cannot be read, in words."""
    requests: int = 0
    """Without an answer, whatever service or key they are for."""
    jobs: int = 0
    """That are not closed."""
    ageing: list[str]
    """Names of jobs whose results the server may not keep for long any more."""


def look_at_place(home: Path) -> Place:
    """Return whether a home can be used, or made."""
    try:
        check_place(home)
    except ConfigurationError as error:
        return Place(exists=home.exists(), trouble=str(error))
    folder = next((folder for folder in (home, *home.absolute().parents) if folder.exists()), Path(home.anchor or "."))
    if not folder.is_dir():
        return Place(exists=folder == home, trouble=f"{folder} is not a folder")
    found = folder.stat()
    trouble = "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written to"
    try:
        room_bytes = free_bytes(folder)
    except StoreError as error:
        return Place(exists=folder == home, trouble=str(error))
    return Place(
        exists=folder == home,
        trouble=trouble,
        owner=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
        free_bytes=room_bytes,
    )


def look_at_slots(home: Path, now: float) -> list[SlotState]:
    """Return what lies in the slots of a home, lowest first.

    Args:
        home: the folder of the store.
        now: the time, in seconds since the epoch.
    """
    return [_look_at(folder, now) for folder in find_slots(home)]


def _look_at(folder: Path, now: float) -> SlotState:
    taken = not is_free(folder)
    size_bytes = sum(map(_size_bytes, folder.glob("cache.db*")))
    try:
        requests, jobs = Peek(folder, "").backlog()
    except StoreError as error:
        return SlotState(folder=folder, taken=taken, size_bytes=size_bytes, trouble=str(error), ageing=[])
    return SlotState(
        folder=folder,
        taken=taken,
        size_bytes=size_bytes,
        requests=requests,
        jobs=len(jobs),
        ageing=[job.name or job.display_name for job in jobs if _is_ageing(job, now)],
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # whoever has the slot has just put the log into its place
        return 0


def _is_ageing(job: Job, now: float) -> bool:
    """Return whether results of a job, from its end on if that is known, have been left on the server for long."""
    since = job.ended_at or job.created_at
    return since > 0 and now - since > UNFETCHED_S
