"""The home on disk: numbered slots, each owned by one process, and the small files that tell the state of one.

Owns folders, permissions, the lock, and what lies beside the database: ``lock`` (held while the slot is owned),
``store-id`` (the identity that the database must have), ``clean`` (there while nobody works on the slot, if it was
closed in order), ``ballast`` (room that can be given back when the disk is full) and ``asked`` (there when another
process waits for answers of this one). It must not know what the database holds.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carpool.errors import ConfigurationError, StoreCorrupt, StoreError, StoreFull, StoreLocked

if sys.platform != "win32":
    import fcntl

SLOTS_MAX: Final = 64
BALLAST_BYTES: Final = 2_097_152
_BALLAST_WRITE_BYTES: Final = 65_536
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_GLANCES_S: Final = (0.001, 0.002, 0.004)
"""Pauses between two tries to lock a slot, which a sibling may just be looking at (``is_free``)."""
_SLOT: Final = re.compile(r"slot-(?:0|[1-9][0-9]*)")
_STORE_ID: Final = re.compile(r"[a-z0-9]{8}")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = re.compile(
    r"nfs.*|cifs|smb.*|afs|ncpfs|coda|ceph|lustre|gpfs|beegfs.*|glusterfs|orangefs|pvfs2|panfs|davfs2?"
    r"|fuse\.(sshfs|glusterfs|ceph|ceph-fuse|s3fs|s3ql|goofys|mount-s3|mountpoint-s3|gcsfuse|blobfuse2?|rclone|juicefs"
    r"|seaweedfs|curlftpfs|davfs2?|moosefs|mfs|lizardfs|beegfs.*|cvmfs2)"
)
"""Other file systems in user space may be local (encrypted folders, containers): they are not refused."""


class Slot:
    """One slot that this process owns until ``release``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock
        _owned.add(self)

    def release(self) -> None:
        """Let others have the slot."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_clean(self) -> bool:
        """Whether whoever had the slot before closed it in order."""
        return (self.path / "clean").exists()

    def mark_clean(self) -> None:
        """Put on record that the slot was closed in order."""
        with _disk_errors(self.path):
            _write(self.path / "clean", b"")

    def mark_in_use(self) -> None:
        """Put on record that somebody works on the slot."""
        with _disk_errors(self.path):
            (self.path / "clean").unlink(missing_ok=True)
            _sync_folder(self.path)

    def read_store_id(self) -> str | None:
        """Return the identity that the database must have; ``None`` in a slot that was never used.

        Raises:
            StoreCorrupt: the file that says so is damaged.
        """
        with _disk_errors(self.path):
            try:
                text = (self.path / "store-id").read_text("ascii", "replace").strip()
            except FileNotFoundError:
                return None
        if not _STORE_ID.fullmatch(text):
            raise StoreCorrupt(f"{self.path}/store-id is damaged. Nothing was changed; name another home to go on")
        return text

    def write_store_id(self, store_id: str) -> None:
        """Put the identity of a new database on record, so that its loss is noticed."""
        with _disk_errors(self.path):
            new = self.path / "store-id.new"
            _write(new, store_id.encode())
            new.replace(self.path / "store-id")
            _sync_folder(self.path)

    def keep_ballast(self, size_bytes: int) -> None:
        """Take up some room on the disk, as far as there is any: what ``drop_ballast`` can give back later."""
        with _disk_errors(self.path):
            handle = os.open(self.path / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                missing = size_bytes - os.fstat(handle).st_size
                while missing > 0:
                    # Random: a file system that packs zeros would keep no room for them.
                    missing -= os.write(handle, os.urandom(min(missing, _BALLAST_WRITE_BYTES)))
                os.fsync(handle)
            except OSError as error:
                # Then some of it is there, or none; that there is no more room is what it is for.
                if error.errno not in FULL_ERRNOS:
                    raise
            finally:
                os.close(handle)

    def drop_ballast(self) -> bool:
        """Give back the room that was kept; return whether there was any."""
        path = self.path / "ballast"
        with _disk_errors(self.path):
            if not path.exists():
                return False
            path.unlink()
            _sync_folder(self.path)
        return True


_owned: weakref.WeakSet[Slot] = weakref.WeakSet()
_forking: Final = threading.RLock()
"""Held while a lock file is open that ``_owned`` does not tell of: a child forked then could not let go of it."""


def _let_go_after_fork() -> None:
    # A child inherits the open lock file: without this, the slot would stay locked for as long as any child lives.
    _forking.release()
    for slot in list(_owned):
        slot.release()


if sys.platform != "win32":
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_let_go_after_fork)


def take_slot(home: Path, slots_max: int = SLOTS_MAX, number: int | None = None) -> Slot:
    """Take the lowest free slot of a home, making both where they do not exist.

    Args:
        home: the folder of the slots.
        slots_max: how many there may be.
        number: take this one and no other.

    Raises:
        ConfigurationError: the home cannot be used; the message says why and what to do.
        StoreLocked: all slots are taken.
        StoreFull: there is no room for a folder.
    """
    if sys.platform == "win32":
        raise StoreError("the store on disk needs POSIX file locks; under Windows, give the client another store")
    _make_home(home)
    for candidate in range(slots_max) if number is None else (number,):
        path = home / f"slot-{candidate}"
        with _home_errors(home):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
            slot = _locked(path)
            if slot is not None:
                _sync_folder(home)
                return slot
    if number is not None:
        raise StoreLocked(f"slot {number} of {home} is taken by a running process")
    raise StoreLocked(
        f"all {slots_max} slots of {home} are taken by running processes: end one of them, or name another home"
    )


def find_slots(home: Path) -> list[Path]:
    """Return the folders of the slots of a home, lowest first; none where there is no home."""
    slots = {slot_number(path): path for path in home.glob("slot-*") if _SLOT.fullmatch(path.name)}
    return [slots[number] for number in sorted(slots)]


def slot_number(path: Path) -> int:
    """Return the number of a slot, given its folder."""
    return int(path.name.removeprefix("slot-"))


def is_free(path: Path) -> bool:
    """Return whether no process has a slot, given its folder; nothing in it is made or changed."""
    with _forking:
        try:
            handle = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return path.is_dir()  # a copy was made without it, or the slot is about to be taken for the first time
        except OSError:
            return False  # it is not for us
        try:
            # Shared, so that two who look at the same time do not see each other.
            return _flocked(handle, fcntl.LOCK_SH)
        except OSError:
            return False
        finally:
            os.close(handle)


def knock(path: Path) -> None:
    """Tell the process that has a slot, given its folder, that another one waits for its answers."""
    try:
        os.close(os.open(path / "asked", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return  # the disk is full, or it is not for us: then it must do without


def was_knocked(path: Path) -> bool:
    """Return whether somebody knocked since this was last asked."""
    try:
        (path / "asked").unlink()
    except OSError:
        return False
    return True


def _locked(path: Path) -> Slot | None:
    """Return a slot, given its folder, if no process has it."""
    with _forking:
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _lock(handle) and _is_at(handle, path / "lock"):
                return Slot(path, handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    return None


def _lock(handle: int) -> bool:
    for pause_s in _GLANCES_S:
        if _flocked(handle, fcntl.LOCK_EX):
            return True
        if not _flocked(handle, fcntl.LOCK_SH):
            return False
        # Nobody has it: somebody just looked.
        fcntl.flock(handle, fcntl.LOCK_UN)
        time.sleep(pause_s)
    return _flocked(handle, fcntl.LOCK_EX)


def _flocked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file still has its name: one that was deleted locks nothing."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def check_place(home: Path) -> None:
    """Look whether a home could be where it is to be; nothing is made or changed.

    Raises:
        ConfigurationError: its path is no plain one, or leads to a network file system.
    """
    text = str(home)
    if os.path.expandvars(os.path.expanduser(text)) != text:  # noqa: PTH111 - this is what diskcache does to it
        raise ConfigurationError(f"home is {text!r}; it must be a plain path without ~ and $")
    with _home_errors(home):
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape") if _MOUNTS.exists() else ""
        kind = filesystem_of(home.resolve(), mounts)
    if _NETWORK.fullmatch(kind):
        raise ConfigurationError(
            f"home {home} is on a network file system ({kind}), where locks and fsync cannot be relied on: "
            "name a folder on a local disk (home= or CARPOOL_HOME)"
        )


def _make_home(home: Path) -> None:
    check_place(home)
    with _home_errors(home):
        made = [folder for folder in (home, *home.parents) if not folder.exists()]
        home.mkdir(parents=True, mode=0o700, exist_ok=True)
        for folder in made:
            _sync_folder(folder.parent)
        # A folder that is ours alone is made private. One that holds other things as well stays as its owner wants it:
        # the slots in it are private anyhow.
        if stat.S_IMODE(home.stat().st_mode) != 0o700 and all(_SLOT.fullmatch(path.name) for path in home.iterdir()):
            home.chmod(0o700)


@contextmanager
def _home_errors(home: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise StoreFull(f"there is no room for {home}: make some, or name another home") from error
        reason = "it is not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise ConfigurationError(
            f"home {home} cannot be used: {reason}. Name a folder that you may write to (home= or CARPOOL_HOME)"
        ) from error


@contextmanager
def _disk_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise StoreFull(f"the disk under {path} is full: make room") from error
        raise StoreError(f"{path} cannot be used: {error.strerror}") from error


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that a path is on.

    Args:
        path: an absolute path without links.
        mounts: the text of ``/proc/self/mountinfo``; of what is mounted on the same folder, the last line counts.

    Returns:
        The kernel's name for it; empty if it is not known.
    """
    found, longest = "", -1
    for line in mounts.split("\n"):
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = after.split(" ")[0], len(point.parts)
    return found


def free_bytes(path: Path) -> int:
    """Return how much the disk under a folder has free."""
    with _disk_errors(path):
        room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 - takes the handle that was opened as private
        file.write(data)
        file.flush()
        os.fsync(handle)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
