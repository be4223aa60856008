"""What the tests of the store on disk share: a filled home, a look into its database, and a thread that waits."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from carpool._core.model import SegmentHead
from carpool._stores.disk import DiskStore
from carpool._stores.slots import take_slot
from carpool.errors import StoreError
from carpool.settings import Settings

from ..contract.records import put_job, put_marks, put_results, put_segment  # noqa: TID252 - test folders are no packages

FILLED_RECORDS = 11
FILLED_CHUNKS = 3


async def opened(home: Path) -> DiskStore:
    store = DiskStore(home, Settings())
    await store.open()
    return store


async def filled(home: Path) -> None:
    """Leave a store with a bit of everything behind, closed in order."""
    store = await opened(home)
    await store.commit([write for no in range(3) for write in (put_segment(no), put_marks(no), put_results(no))])
    await store.commit([put_job("01abc")])
    await store.close()


async def everything(store: DiskStore) -> list[Any]:
    """Return all records, and all lines a segment."""
    records = [record async for record in store.load()]
    spans = [(head.no, 0, len(head.keys)) for head in records if isinstance(head, SegmentHead)]
    return [*records, *[chunk async for chunk in store.read(spans)]]


async def refused(home: Path) -> StoreError:
    """Return why a store cannot be opened and read whole, having seen that it lets go of its slot."""
    store = DiskStore(home, Settings())
    try:
        await store.open()
        await everything(store)
    except StoreError as error:
        await store.close()
        take_slot(home, 1).release()
        return error
    await store.close()
    raise AssertionError("it was opened and read")


def sql(slot: Path, statement: str, *values: object) -> list[Any]:
    """Do something to the database of a slot behind the store's back."""
    with closing(sqlite3.connect(slot / "cache.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of everything in a folder, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def blocked(store: DiskStore) -> Callable[[], None]:
    """Let the thread wait, so that what is queued meanwhile is there at once when it goes on.

    Returns:
        What lets it go on.
    """
    going = threading.Event()
    store._call(lambda _: going.wait(30))
    return going.set
