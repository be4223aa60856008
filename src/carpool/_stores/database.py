"""The database of one slot: records by name, many changes in one transaction.

Owns the identity of the slot's database, the cutting of large values into rows, and what happens after an error: retry,
use the ballast's room, or stop writing. Belongs to the one thread that made it. It must not know event loops.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from carpool._core.messages import Record, Write
from carpool._core.model import FORMAT, Meta
from carpool._stores import segments
from carpool._stores.cache import (
    ROW_BYTES,
    Cache,
    again,
    database_path,
    drop,
    make_private,
    meaning,
    open_cache,
    put,
    survey,
    verify,
)
from carpool._stores.segments import Changes
from carpool._stores.slots import BALLAST_BYTES, Slot
from carpool.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreVersion

BUSY_TRIES: Final = 3
_ID_CHARS: Final = string.ascii_lowercase + string.digits


class Database:
    """The records of one slot.

    After damage was found while writing, or an error of the disk, nothing more is written (``broken``). What is
    readable stays so.
    """

    def __init__(self, slot: Slot, bytes_max: int) -> None:
        self._slot = slot
        self._bytes_max = bytes_max
        self._sizes: dict[str, int] = {}
        self._used_bytes = 0
        self._cache: Cache | None = None
        self._unverified = False
        self.store_id = ""
        self.checked = False
        self.broken: StoreError | None = None

    # -- open and close

    def open(self) -> None:
        """Check the database and open it. A full disk must not stop that: it gets the ballast's room.

        Raises:
            StoreError: or one of its kinds; nothing is held open then.
        """
        try:
            unclean = not self._slot.is_clean
            try:
                self._open(unclean=unclean)
            except StoreFull:
                if not self._slot.drop_ballast():
                    raise
            else:
                self._slot.keep_ballast(BALLAST_BYTES)
                return
            self._open(unclean=unclean)
            # One part of the room for what has to be written now, the other for the next time.
            self._slot.keep_ballast(BALLAST_BYTES // 2)
        except BaseException:
            with suppress(StoreError):  # the first error tells more
                self.close()
            raise

    def _open(self, *, unclean: bool) -> None:
        self.close()
        with self._errors():
            expected = self._slot.read_store_id()
            path = database_path(self._slot.path)
            if expected is not None and not (path.exists() and path.stat().st_size):
                raise StoreCorrupt("the database is gone, but store-id says that there was one")
            make_private(self._slot.path)
            with survey(self._slot.path, thorough=unclean) as (self._sizes, existed):
                self._used_bytes = sum(self._sizes.values())
                self.checked = unclean and existed
                self._slot.mark_in_use()
                self._cache = open_cache(self._slot.path, existed=existed)
            self._identify(expected)

    def _identify(self, expected: str | None) -> None:
        if segments.META in self._sizes:
            meta = self.records([segments.META])[0]
            assert isinstance(meta, Meta)
            if meta.format > FORMAT:
                raise StoreVersion(f"format {meta.format} is from a later version of carpool: upgrade it")
            self.store_id = meta.store_id
        elif expected is None and not self._sizes:
            self.store_id = "".join(secrets.choice(_ID_CHARS) for _ in range(8))
            self.apply({segments.META: segments.encode(segments.META, Meta(store_id=self.store_id))})
        else:
            raise StoreCorrupt("the database was emptied")
        if expected is None:
            # A database that was just made, or whose making was cut short here. One with records had a store-id.
            if self._sizes.keys() != {segments.META}:
                raise StoreCorrupt("the database holds records, but store-id is gone")
            self._slot.write_store_id(self.store_id)
        elif expected != self.store_id:
            raise StoreCorrupt(f"the database is that of the store {self.store_id!r}, but store-id says {expected!r}")

    def close(self) -> None:
        """Close the database; do nothing if it is not open."""
        if self._cache is not None:
            # First, since closing makes a checkpoint, which takes what room there is.
            try:
                self._slot.keep_ballast(BALLAST_BYTES)
            finally:
                self._cache.close()
                self._cache = None

    # -- read

    @property
    def _opened(self) -> Cache:
        assert self._cache is not None, "the database is not open"
        return self._cache

    def slices(self, count_max: int, bytes_max: int) -> list[list[str]]:
        """Return the names of all values in the order of loading, in groups of bounded count and size.

        Raises:
            StoreCorrupt: there is a name that carpool does not give.
        """
        groups: list[list[str]] = []
        room = 0
        with self._errors():
            names = sorted(self._sizes, key=segments.order)
        for name in names:
            if not groups or len(groups[-1]) == count_max or self._sizes[name] > room:
                groups.append([])
                room = bytes_max
            groups[-1].append(name)
            room -= self._sizes[name]
        return groups

    def records(self, names: Sequence[str]) -> list[Record]:
        """Return the records of these names, bodies checked; names that are gone by now are left out."""
        with self._errors():
            return [segments.record(name, self._value(name).head) for name in names if name in self._sizes]

    def lines(self, name: str, rows: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of some rows of a segment or of results, each from a first row up to another."""
        with self._errors():
            return segments.lines(name, self._value(name), rows)

    def _value(self, name: str) -> segments.Value:
        size = self._sizes.get(name)
        if size is None:
            raise StoreCorrupt(f"there is no {name}")
        rows: list[bytes] = []
        for row in _rows(name, 0, size):
            found = self._opened.get(row, retry=False)
            if found is None:
                raise StoreCorrupt(f"{name} is damaged: a part of it is gone")
            rows.append(found)
        return segments.decode(name, rows[0] if len(rows) == 1 else b"".join(rows))

    # -- write

    @property
    def room_bytes(self) -> int:
        """How much more the store may hold by its own limit."""
        return self._bytes_max - self._used_bytes

    def stage(self, writes: Sequence[Write]) -> Changes:
        """Return what a commit changes, having checked that it can be stored.

        Raises:
            StoreError: something in it cannot be stored.
        """
        return segments.encode_all(writes, self.store_id)

    def apply(self, changes: Changes) -> None:
        """Make these changes, durably, all or none.

        Raises:
            StoreError: or one of its kinds; nothing was changed.
        """
        tries = 1
        while True:
            try:
                self._transact(changes)
                break
            except StoreLocked:
                # Whoever holds it (a backup, a curious user) has a little more time.
                if tries == BUSY_TRIES:
                    raise
                tries += 1
        for name, value in changes.items():
            self._used_bytes += len(value or b"") - self._sizes.pop(name, 0)
            if value is not None:
                self._sizes[name] = len(value)

    def _transact(self, changes: Changes) -> None:
        if self.broken is not None:
            raise again(self.broken)
        cache = self._opened
        try:
            with self._errors():
                if self._unverified:
                    verify(cache)
                    self._unverified = False
                with cache.transact(retry=False):
                    self._change(cache, changes)
        except StoreError as error:
            self._unverified = True
            if not isinstance(error, StoreFull | StoreLocked):
                self.broken = error
            # diskcache leaves a transaction open whose COMMIT failed; a new connection starts without it.
            cache.close()
            raise

    def _change(self, cache: Cache, changes: Changes) -> None:
        dropped: list[str] = []
        rows: list[tuple[str, memoryview]] = []
        for name, value in changes.items():
            size = len(value or b"")
            dropped += _rows(name, size, self._sizes.get(name, 0))
            if value is not None:
                view = memoryview(value)
                parts = enumerate(_rows(name, 0, size))
                rows += [(row, view[number * ROW_BYTES : (number + 1) * ROW_BYTES]) for number, row in parts]
        drop(cache, dropped)  # first: what follows may need their room
        put(cache, rows)

    # -- errors

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turn whatever goes wrong below into a StoreError that says where."""
        try:
            yield
        except Exception as error:
            raise self._located(meaning(error, self._slot.path)) from error

    def _located(self, error: StoreError) -> StoreError:
        where = f"{self._slot.path}: "
        if str(error).startswith(where):
            return error
        match error:
            case StoreCorrupt():
                advice = ". Nothing was changed: restore the folder from a backup, or name another home to go on"
            case StoreFull():
                advice = ". Nothing more is accepted until there is room"
            case _:
                advice = ""
        return type(error)(f"{where}{error}{advice}")


def _rows(name: str, start: int, stop: int) -> list[str]:
    """Return the names of the rows that a value takes when it grows from one size to another."""
    first, last = -(-start // ROW_BYTES), -(-stop // ROW_BYTES)
    return [f"{name}/{number}" if number else name for number in range(first, last)]
