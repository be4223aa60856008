"""Stores of each released record format are opened, read and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from carpool import RequestRejected
from carpool._core.budget import DayAccount
from carpool._core.estimate import Habit
from carpool._core.messages import PutResults, PutSegment
from carpool._core.model import FORMAT, Job, Marks, Meta, ResultsHead, SegmentHead, Taken
from carpool._core.routing import Seen
from carpool._stores import database
from carpool.emulator import Emulator, expected_text
from carpool.errors import StoreVersion

from ..contract.records import lines, put_day, put_habit, put_job, put_marks, put_results, put_seen, put_segment  # noqa: TID252 - test folders are no packages
from .helpers import everything, opened
from .write_golden import GOLDEN, MODEL, TUNED, as_golden_origin, client_of, since_format_2, write

FORMATS = sorted(int(folder.name.removeprefix("format-")) for folder in GOLDEN.glob("format-*"))


def copy_of(number: int, name: str, target: Path) -> Path:
    """Return a home that may be changed."""
    shutil.copytree(GOLDEN / f"format-{number}" / name, target)
    for path in (target, target / "slot-0"):
        path.chmod(0o700)
    return target


def test_there_is_a_golden_store_of_every_format() -> None:
    assert list(range(1, FORMAT + 1)) == FORMATS


async def assert_records(home: Path, number: int) -> None:
    store = await opened(home)
    found: list[Any] = await everything(store)
    body = await store.results([2 << 20 | 2])
    await store.close()
    assert isinstance(found[0], Meta)
    kinds = {kind: [record for record in found if isinstance(record, kind)] for kind in (SegmentHead, ResultsHead)}
    later: list[Any] = since_format_2() if number >= 2 else []
    heads = [write.head for write in later if isinstance(write, PutSegment)]
    assert kinds[SegmentHead] == [put_segment(no).head for no in range(3)] + heads
    heads = [write.head for write in later if isinstance(write, PutResults)]
    assert kinds[ResultsHead] == [put_results(no).head for no in range(3)] + heads
    assert [record for record in found if isinstance(record, Marks)] == [put_marks(no).marks for no in range(3)]
    assert [record for record in found if isinstance(record, Job)] == [put_job("01abc").job]
    assert [record for record in found if isinstance(record, Taken)] == [Taken(no=2, rows=b"\x01\x00\x00")]
    learned = [record for record in found if isinstance(record, DayAccount | Habit | Seen)]
    assert learned == ([put_day(20_000).account, put_habit(TUNED).habit, put_seen(TUNED).seen] if later else [])
    count = len(kinds[SegmentHead])
    assert found[-count:] == [b"".join(lines(no, 3)) for no in range(count)]
    assert body == [put_results(2).bodies[2]]


@pytest.mark.parametrize("number", FORMATS)
async def test_every_kind_of_record_is_read(number: int, tmp_path: Path) -> None:
    await assert_records(copy_of(number, "records", tmp_path / "home"), number)


async def assert_goes_on(home: Path, number: int) -> None:
    with as_golden_origin():
        async with Emulator() as emulator, client_of(emulator.base_url, home) as client:
            assert client.stats().foreign == 0
            answer = await client.result("answered")
            assert getattr(answer, "text", None) == expected_text("a")
            again = await client.generate(MODEL, "a", key="answered")
            assert (again.text, again.receipt.reused) == (expected_text("a"), True)
            assert len((await client.embed("gemini-embedding-001", "v", key="vector")).values) > 100
            with pytest.raises(RequestRejected):
                await client.result("rejected")
            assert client.stats().jobs >= 1
            ticket = await client.result("ticket")
            assert getattr(ticket, "text", None) == expected_text("t")
            if number >= 2:
                live = await client.result("live")
                assert (getattr(live, "text", None), live.receipt.route) == (expected_text("l"), "flex")
                waited = await client.result("waits")
                assert (getattr(waited, "text", None), waited.receipt.route) == (expected_text("w"), "standard")


@pytest.mark.parametrize("number", FORMATS)
async def test_what_a_client_left_is_gone_on_with(number: int, tmp_path: Path) -> None:
    await assert_goes_on(copy_of(number, "client", tmp_path / "home"), number)


@pytest.mark.parametrize("number", FORMATS)
async def test_what_was_opened_by_this_version_is_refused_by_those_of_earlier_formats(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_of(number, "client", tmp_path / "home")
    async with Emulator() as emulator, client_of(emulator.base_url, home):
        pass
    monkeypatch.setattr(database, "FORMAT", FORMAT - 1)
    with pytest.raises(StoreVersion, match="upgrade"):
        await opened(home)


async def test_the_command_writes_such_stores(tmp_path: Path) -> None:
    await write(tmp_path / "format")
    names = {path.name for path in (tmp_path / "format").rglob("*") if path.is_file()}
    assert names == {"cache.db", "clean", "store-id"}
    await assert_records(tmp_path / "format" / "records", FORMAT)
    await assert_goes_on(tmp_path / "format" / "client", FORMAT)
