"""diskcache made safe: set up so that it neither runs, follows, evicts nor loses what it holds.

Owns the settings, the check of what lies on disk before diskcache sees it, and what SQLite's errors mean. It must not
know what the values are.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

import diskcache
from diskcache.core import DBNAME, METADATA, MODE_RAW

from carpool._stores.slots import FULL_ERRNOS
from carpool.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked

ROW_BYTES: Final = 8_388_608
"""Larger values take several rows."""
STATEMENT_ROWS_MAX: Final = 16
PAGE_BYTES: Final = 16_384
"""Four times SQLite's default: a segment costs half the time in the system, its checkpoint and its deletion too."""
BUSY_S: Final = 5.0
_NEVER: Final = 2**62
_CHECKPOINT: Final = "sqlite_wal_autocheckpoint"
_SYNCHRONOUS: Final = "sqlite_synchronous"
_PART: Final = re.compile(r"[1-9][0-9]{0,8}")

SETTINGS: Final[dict[str, int | str]] = {
    # Nothing is thrown away behind our back.
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": _NEVER,
    # Fewest statements a call.
    "statistics": 0,
    "tag_index": 0,
    # No side files, which are neither synced nor part of the transaction.
    "disk_min_file_size": _NEVER,
    "disk_pickle_protocol": 0,
    # Durable when the commit returns, on power loss too.
    "sqlite_journal_mode": "wal",
    _SYNCHRONOUS: 2,
    # On macOS, fsync leaves data in the drive's cache; elsewhere these change nothing.
    "sqlite_fullfsync": 1,
    "sqlite_checkpoint_fullfsync": 1,
    # Moving pages at each commit costs more than the room is worth: it is used again.
    "sqlite_auto_vacuum": 0,
    # A read error must be an error, not the signal that a mapped page makes of it.
    "sqlite_mmap_size": 0,
    "sqlite_cache_size": 128,
    # Pages, as above; and what the log may keep on disk after a large transaction, in bytes.
    _CHECKPOINT: 2_048,
    "sqlite_journal_size_limit": 67_108_864,
    # What is deleted is overwritten: prompts do not outlive their use. SQLite's default differs from build to build.
    "sqlite_secure_delete": 1,
}


class Cache(Protocol):
    """What is used of ``diskcache.Cache``, which has no types."""

    def __init__(self, directory: str, timeout: float, disk: type, **settings: int | str) -> None: ...

    def get(self, key: str, *, retry: bool) -> bytes | None:
        """Return a value."""
        ...

    def transact(self, *, retry: bool) -> AbstractContextManager[None]:
        """Make all changes within one."""
        ...

    def reset(self, key: str, value: int | str = ...) -> int | str:
        """Return a setting as it is stored, or change it."""
        ...

    def close(self) -> None:
        """Close this thread's connection; the next call opens a new one."""
        ...

    def _sql(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor: ...


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # has no types
    """Bytes under text names, in the database itself. What else a row may say is refused: neither run nor followed."""

    def put(self, key: Any) -> Any:
        """Return a name as it is stored."""
        if type(key) is not str:
            raise StoreError("names are text")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        """Return a stored name."""
        if type(key) is not str or not raw:
            raise StoreCorrupt("the database holds a name that carpool did not write")
        return key

    def store(self, value: Any, read: Any, key: Any = None) -> Any:  # noqa: ARG002 - not our signature
        """Return a value as it is stored."""
        if read or type(value) is not memoryview:
            raise StoreError("values are bytes")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> bytes:
        """Return a stored value."""
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise StoreCorrupt("the database holds a value that carpool did not write; it was not opened")
        return value

    def filename(self, key: Any = None, value: Any = None) -> tuple[str, str]:  # noqa: ARG002 - not our signature
        """Refuse: diskcache would keep a value in a file of its own."""
        raise StoreError("values are never kept in files of their own")

    def remove(self, file_path: Any) -> None:  # noqa: ARG002 - not our signature
        """Refuse: diskcache would delete what a row names."""
        raise StoreCorrupt("the database holds a value that names a file; carpool did not write it. The file was left")


def database_path(folder: Path) -> Path:
    """Return where diskcache keeps its database."""
    return folder / str(DBNAME)


def make_private(folder: Path) -> None:
    """Make the file of the database before SQLite does: its own files take their mode from it."""
    path = database_path(folder)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def open_cache(folder: Path, *, existed: bool) -> Cache:
    """Open the diskcache of a folder, every setting given and read back.

    Args:
        folder: where the database is.
        existed: whether there was a database with tables in it.

    Raises:
        StoreError: a setting was not taken.
        sqlite3.Error: anything else; ``meaning`` tells what.
    """
    # In two steps, so that the connection can be closed when the second fails after having made it.
    cache = cast("Cache", diskcache.Cache.__new__(diskcache.Cache))
    make: Callable[..., None] = cache.__init__  # type: ignore[misc]
    try:
        # No checkpoint before it is open: on a nearly full disk, that takes the room that opening needs.
        first = SETTINGS | {_CHECKPOINT: 0}
        if existed:
            # diskcache writes some fifty settings, each on its own. Without a checkpoint they go to the end of the log,
            # where power loss costs no more than them; the log is synced as a whole at the first commit that is.
            first[_SYNCHRONOUS] = 0
        make(str(folder), timeout=BUSY_S, disk=BytesDisk, **first)
        for name in (_SYNCHRONOUS, _CHECKPOINT):
            cache.reset(name, SETTINGS[name])
        verify(cache)
    except BaseException:
        cache.close()
        raise
    return cache


def verify(cache: Cache) -> None:
    """Check that the connection does what the settings say: diskcache sets them on each anew, and can fail silently."""
    for key, value in SETTINGS.items():
        found: Any = cache.reset(key)
        if found == value and key.startswith("sqlite_"):
            # The public interface tells only what was asked for.
            ((found,),) = cache._sql(f"PRAGMA {key[7:]}").fetchall()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if found != value:
            raise StoreError(f"the database does not take the setting {key} = {value!r}: it says {found!r}")


_PUT: Final = (
    "INSERT INTO Cache"
    "(key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value)"
    " VALUES {} ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, expire_time = NULL,"
    " access_time = excluded.access_time, access_count = 0, tag = NULL, size = 0, mode = excluded.mode,"
    " filename = NULL, value = excluded.value"
)
_PUT_ROW: Final = f"(?, 1, ?, NULL, ?, 0, NULL, 0, {MODE_RAW}, NULL, ?)"
_DROP: Final = "DELETE FROM Cache WHERE raw = 1 AND key IN ({})"


def put(cache: Cache, rows: Sequence[tuple[str, memoryview]]) -> None:
    """Store rows as ``diskcache.Cache.set`` does, which asks of each first whether it is there.

    They go into the transaction that is open, and several into one statement. At each statement this thread lets go of
    the interpreter's lock, and an event loop that has much to do gives it back after 5 ms: one by one, large commits
    would wait longer for the lock than for the disk.
    """
    now, size_bytes = time.time(), 0
    some: list[tuple[str, memoryview]] = []
    for key, value in rows:
        if some and (len(some) == STATEMENT_ROWS_MAX or size_bytes + len(value) > ROW_BYTES):
            _put(cache, some, now)
            some, size_bytes = [], 0
        some.append((key, value))
        size_bytes += len(value)
    if some:
        _put(cache, some, now)


def _put(cache: Cache, rows: list[tuple[str, memoryview]], now: float) -> None:
    values: list[object] = []
    for key, value in rows:
        values += (key, now, now, value)
    cache._sql(_PUT.format(", ".join([_PUT_ROW] * len(rows))), values)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def drop(cache: Cache, keys: Sequence[str]) -> None:
    """Delete rows, those that are there; no row of ours has a file to be deleted with it."""
    for start in range(0, len(keys), STATEMENT_ROWS_MAX):
        some = keys[start : start + STATEMENT_ROWS_MAX]
        cache._sql(_DROP.format(", ".join("?" * len(some))), some)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


@contextmanager
def survey(folder: Path, *, thorough: bool) -> Generator[tuple[dict[str, int], bool]]:
    """Look at everything that diskcache would take on trust, before it does; hold the database until diskcache has it.

    Whoever closes a database last makes a checkpoint, which takes room on a disk that may be full.

    Args:
        folder: where the database is.
        thorough: whether to check the whole database.

    Yields:
        The size of each value by name, and whether there was a database.

    Raises:
        StoreCorrupt: it is damaged, or holds what carpool did not write.
        sqlite3.Error: anything else; ``meaning`` tells what.
    """
    path = database_path(folder)
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
        # Fails while others write: diskcache would try for a minute at each of many statements.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        if not path.stat().st_size:
            # Before the first table is made, and for good: a database that an earlier version made keeps what it has.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("VACUUM")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if thorough:
            ((verdict,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                raise StoreCorrupt(f"the database is damaged: {verdict}")
        if "Settings" in tables:
            known = {*SETTINGS, *METADATA}
            if any(name not in known for (name,) in connection.execute("SELECT key FROM Settings")):
                raise StoreCorrupt("the database has settings that carpool did not write")
        yield (_sizes(connection) if "Cache" in tables else {}), bool(tables)


def _sizes(connection: sqlite3.Connection) -> dict[str, int]:
    # SQLite knows the length of a value without reading it.
    select = "SELECT key, raw, mode, filename, expire_time, typeof(key), typeof(value), length(value) FROM Cache"
    parts: dict[str, dict[int, int]] = {}
    for key, raw, mode, filename, expire_time, key_type, value_type, length in connection.execute(select):
        check_row(raw, mode, filename, expire_time, key_type, value_type)
        name, number = part_of(key)
        parts.setdefault(name, {})[number] = length
    sizes = {name: sum(found.values()) for name, found in parts.items()}
    for name, found in parts.items():
        last = len(found) - 1
        whole = all(found.get(number) == ROW_BYTES for number in range(last))
        if not whole or not 0 < found.get(last, 0) <= ROW_BYTES:
            raise StoreCorrupt(f"{name} is damaged: a part of it is gone")
    return sizes


def check_row(*columns: object) -> None:
    """Raise ``StoreCorrupt`` unless a row's raw, mode, filename, expire_time and types are those of a value of ours."""
    if columns != (1, MODE_RAW, None, None, "text", "blob"):
        raise StoreCorrupt("the database holds rows that carpool did not write; what they name was not opened")


def part_of(key: str) -> tuple[str, int]:
    """Return the name of a value, and which of its rows this is.

    Raises:
        StoreCorrupt: no row of ours has such a key.
    """
    name, slash, number = key.partition("/")
    if slash and not _PART.fullmatch(number):
        raise StoreCorrupt(f"the database holds {key[:80]!r}, which carpool did not write")
    return name, int(number or 0)


_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PRIMARY: Final = 0xFF
_SHARED_MEMORY_BYTES: Final = 65_536


def meaning(error: BaseException, folder: Path) -> StoreError:
    """Return what an error means, as a new exception object.

    The last in its chain that is known counts: diskcache hides SQLite's errors behind others.

    Args:
        error: what was raised.
        folder: where the database is.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in causes:
        code = getattr(cause, "sqlite_errorcode", 0) & _PRIMARY
        if isinstance(cause, StoreError):
            return again(cause)
        if code == sqlite3.SQLITE_FULL or (isinstance(cause, OSError) and cause.errno in FULL_ERRNOS):
            return StoreFull("the disk is full: make room")
        if code in _CORRUPT:
            return StoreCorrupt(f"the database is damaged ({cause})")
        if code in _LOCKED:
            return StoreLocked("another program holds the database: end it")
        if code == sqlite3.SQLITE_IOERR and _is_full(folder):
            return StoreFull("the disk is full: make room")
        if code == sqlite3.SQLITE_IOERR:
            return StoreError("the disk reports an error: nothing more is written")
    return StoreError(f"the store does not work ({type(error).__name__}: {error})")


def _is_full(folder: Path) -> bool:
    # SQLite's shared memory grows by 32 KiB; a disk that is too full for that is an "I/O error" to SQLite.
    if sys.platform == "win32":
        return False
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize < _SHARED_MEMORY_BYTES


def again(error: StoreError) -> StoreError:
    """Return an equal error: each awaiter gets an object of its own."""
    return type(error)(*error.args)
