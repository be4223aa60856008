"""The store on disk and processes: several at once, killed ones, forked ones, and one whose disk breaks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carpool._core.messages import DropResults, PutMarks
from carpool._core.model import Marks, SegmentHead
from carpool._stores.disk import DiskStore
from carpool.settings import Settings

from .child import ROWS, segment

CHILD = Path(__file__).with_name("child.py")
Start = Callable[[str, Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start children; none outlives the test."""
    children: list[subprocess.Popen[str]] = []

    def start(what: str, home: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), what, str(home)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


async def opened(home: Path) -> DiskStore:
    store = DiskStore(home, Settings())
    await store.open()
    return store


async def test_each_process_has_a_slot_of_its_own(tmp_path: Path, start: Start) -> None:
    first, second = start("hold", tmp_path / "home"), start("hold", tmp_path / "home")
    assert {read_line(first), read_line(second)} == {"slot-0", "slot-1"}
    store = await opened(tmp_path / "home")
    assert store.path.name == "slot-2"
    await store.close()
    for child in (first, second):
        child.communicate("\n")
        assert child.returncode == 0
    store = await opened(tmp_path / "home")
    assert (store.path.name, store.checked) == ("slot-0", False)
    await store.close()


async def test_a_killed_process_gives_its_slot_back(tmp_path: Path, start: Start) -> None:
    child = start("hold", tmp_path / "home")
    assert read_line(child) == "slot-0"
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = await opened(tmp_path / "home")
    assert (store.path.name, store.checked) == ("slot-0", True)
    await store.close()


async def test_what_was_acknowledged_before_a_kill_is_there_and_nothing_is_there_by_halves(
    tmp_path: Path, start: Start
) -> None:
    rng = random.Random(2_026)
    acknowledged: set[int] = set()
    for _ in range(4):
        child = start("endless", tmp_path / "home")
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            acknowledged.add(int(read_line(child)))
        os.kill(child.pid, signal.SIGKILL)
        # The last line may be cut, since the process was.
        rest = child.stdout.read().split("\n")
        acknowledged.update(int(line) for line in rest[:-1])
        child.wait()

        store = await opened(tmp_path / "home")
        assert store.checked
        records = [record async for record in store.load()]
        heads = {record.no: record for record in records if isinstance(record, SegmentHead)}
        marks = {record.no for record in records if isinstance(record, Marks)}
        assert acknowledged <= heads.keys()
        # A commit is there with all its writes, and with all commits before it.
        assert heads.keys() == marks
        assert sorted(heads) == list(range(len(heads)))
        assert [heads[no] for no in heads] == [segment(no).head for no in heads]
        chunks = [chunk async for chunk in store.read([(no, 0, ROWS) for no in heads])]
        assert chunks == [b"".join(segment(no).lines) for no in heads]
        await store.close()
    assert len(acknowledged) > 20


def test_a_forked_child_cannot_use_the_store_nor_keep_its_slot(tmp_path: Path, start: Start) -> None:
    child = start("fork", tmp_path / "home")
    out, _ = child.communicate()
    assert child.returncode == 0
    assert out.splitlines() == ["child +++++++", "parent slot-0 1 3"]


async def test_on_a_disk_error_nothing_more_is_written_and_everything_stays_readable(
    tmp_path: Path, start: Start
) -> None:
    child = start("broken_disk", tmp_path / "home")
    out, _ = child.communicate()
    failed, refused, readable = out.splitlines()
    done = int(failed.split()[0])
    assert 20 <= done < 1_000
    assert "StoreError" in failed
    assert "the disk reports an error" in failed
    assert refused.startswith("refused StoreError")
    assert readable == f"readable {done}"
    store = await opened(tmp_path / "home")
    # What was acknowledged is there. The one that failed may be: where exactly the disk broke is not known.
    assert store.checked
    found = [record.no async for record in store.load() if isinstance(record, SegmentHead)]
    assert found[:done] == list(range(done))
    assert len(found) <= done + 1
    await store.close()


async def test_after_power_loss_a_commit_is_there_whole_or_not_at_all_and_those_before_it_are_there(
    tmp_path: Path,
) -> None:
    home, log = tmp_path / "home", Path("slot-0") / "cache.db-wal"
    store = await opened(home)
    await store.commit([segment(1), PutMarks(Marks(no=1, done=b"\1", attempts=b"\1"))])
    before, acknowledged_bytes = await records(store), (home / log).stat().st_size
    await store.commit([segment(2), PutMarks(Marks(no=1, done=b"\2", attempts=b"\2")), DropResults([1]), segment(3)])
    after, whole_bytes = await records(store), (home / log).stat().st_size
    assert before != after
    outcomes: list[bool] = []
    # What was not synced may be missing, or be anything.
    for cut in [*range(acknowledged_bytes, whole_bytes, 1_777), whole_bytes - 1, whole_bytes]:
        for rest in (b"", bytes(whole_bytes - cut)):
            copy = tmp_path / f"copy-{len(outcomes)}"
            shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*-shm"))
            (copy / log).write_bytes((home / log).read_bytes()[:cut] + rest)
            again = await opened(copy)
            found = await records(again)
            await again.close()
            assert found in (before, after)
            outcomes.append(found == after)
    assert outcomes == sorted(outcomes)
    assert outcomes[-2:] == [True, True]
    await store.close()


async def records(store: DiskStore) -> list[object]:
    return [record async for record in store.load()]
