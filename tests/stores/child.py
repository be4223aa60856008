"""What the tests of the store on disk run in processes of their own: ``python child.py WHAT HOME``."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from array import array
from collections.abc import Awaitable, Callable
from itertools import accumulate
from pathlib import Path

from carpool._core.messages import DropSegments, PutMarks, PutSegment
from carpool._core.model import DIGEST_BYTES, Lane, Marks, SegmentHead
from carpool._stores.disk import DiskStore
from carpool.errors import StoreError
from carpool.settings import Settings

ROWS = 50


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def segment(no: int, size: int = 200) -> PutSegment:
    """Return a segment whose lines can be foretold."""
    lines = [f"{no}-{row}-".encode().ljust(size, b"x") + b"\n" for row in range(ROWS)]
    head = SegmentHead(
        no=no,
        lane=Lane("generate", "m"),
        origin="o",
        accepted_at=float(no),
        keys=[f"{no}-{row}" for row in range(ROWS)],
        ends=array("Q", accumulate(map(len, lines))).tobytes(),
        tokens=bytes(8 * ROWS),
        flags=bytes(ROWS),
        digests=bytes(DIGEST_BYTES * ROWS),
    )
    return PutSegment(head, lines)


async def opened(home: Path) -> DiskStore:
    store = DiskStore(home, Settings())
    await store.open()
    return store


async def hold(home: Path) -> None:
    """Keep a slot until the other side says otherwise."""
    store = await opened(home)
    tell(store.path.name)
    await asyncio.to_thread(sys.stdin.readline)
    await store.close()


async def endless(home: Path) -> None:
    """Commit segments and their marks, many at once, and tell the number of each that is durable."""
    store = await opened(home)
    first = 1 + max([record.no async for record in store.load() if isinstance(record, SegmentHead)], default=-1)

    async def one(no: int) -> None:
        await store.commit([segment(no), PutMarks(Marks(no=no, done=bytes(ROWS), attempts=bytes([no % 256])))])
        tell(no)

    while True:
        await asyncio.gather(*(one(no) for no in range(first, first + 7)))
        first += 7


async def fork(home: Path) -> None:
    """Fork while the store is open; the child uses it, and then lives on while the parent lets go."""
    store = await opened(home)
    await store.commit([segment(1)])
    told, tells = os.pipe()
    goes, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        calls: list[Callable[[], object]] = [
            lambda: store.commit([segment(2)]),
            store.load,
            lambda: store.read([(1, 0, 1)]),
            lambda: store.path,
        ]
        coroutines: list[Callable[[], Awaitable[object]]] = [lambda: store.results([1]), store.close, store.open]
        for call in calls:
            os.write(tells, _refused(call))
        for make in coroutines:
            coroutine = make()
            assert asyncio.iscoroutine(coroutine)
            os.write(tells, _refused(lambda coroutine=coroutine: coroutine.send(None)))  # type: ignore[misc]
        os.close(tells)
        # Until the parent is done with it.
        os.read(goes, 1)
        os._exit(0)
    os.close(tells)
    answers = b""
    while chunk := os.read(told, 100):
        answers += chunk
    tell("child", answers.decode())
    await store.commit([segment(3)])
    await store.close()
    again = await opened(home)
    tell("parent", again.path.name, *[record.no async for record in again.load() if isinstance(record, SegmentHead)])
    await again.close()
    os.close(go)
    await asyncio.to_thread(os.waitpid, pid, 0)


def _refused(call: Callable[[], object]) -> bytes:
    try:
        call()
    except StoreError as error:
        return b"+" if "forked" in str(error) else b"?"
    return b"-"


async def broken_disk(home: Path) -> None:
    """Let writing fail as on a broken disk, at some time, and go on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await opened(home)
    for no in range(20):
        await store.commit([segment(no)])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    done = 20
    try:
        while True:
            await store.commit([segment(done)])
            done += 1
    except StoreError as error:
        tell(done, type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    # The disk works again, but what it holds is not known for sure.
    try:
        await store.commit([DropSegments([0])])
        tell("written")
    except StoreError as error:
        tell("refused", type(error).__name__, error)
    tell("readable", len([chunk async for chunk in store.read([(no, 0, ROWS) for no in range(done)])]))
    await store.close()


if __name__ == "__main__":
    PROGRAMS = {"hold": hold, "endless": endless, "fork": fork, "broken_disk": broken_disk}
    asyncio.run(PROGRAMS[sys.argv[1]](Path(sys.argv[2])))
