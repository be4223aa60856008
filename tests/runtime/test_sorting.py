"""Rows of an output find their requests and awaiters, whatever their order; in order, none is looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.desk import Desk

from carpool._core.messages import Flushed, RowsFetched, Woken
from carpool._core.meter import Charge
from carpool._core.model import ROW_BITS, ROW_MASK, Place
from carpool._core.output import Block, Row
from carpool._runtime import arrivals
from carpool._runtime.arrivals import Arrivals
from carpool._runtime.awaiters import Awaiters
from carpool._runtime.fetch import RowSorter, Sorted, take_back
from carpool.types import Facts, ServerError

FACTS = Facts(route="batch", job="batches/1", kind="generate", model="m", answered_at=0.0, cost=lambda _: None)
BAD = ServerError(code=8, message="busy")


class Loop:
    """Makes futures; nothing runs on it."""

    loop: asyncio.AbstractEventLoop


@pytest.fixture(autouse=True, scope="module")
def loop() -> Iterator[None]:
    Loop.loop = asyncio.new_event_loop()
    yield
    Loop.loop.close()


class Meter:
    """Notes what is charged: new answers, then those that are charged again."""

    def __init__(self) -> None:
        self.charged: list[list[bytes]] = []
        self.lines: list[bytes] = []

    def charge(self, bodies: list[bytes], lines: bytes = b"") -> Charge:
        self.charged.append(list(bodies))
        self.lines.append(lines)
        return Charge(answers=len(bodies))


class Read(NamedTuple):
    """A job that is being read."""

    desk: Desk
    places: dict[str, Place]
    awaiters: Awaiters
    waiters: dict[Place, asyncio.Future[Any]]
    sorter: RowSorter
    arrivals: Arrivals
    meter: Meter

    def sort(self, *rows: Row) -> Sorted:
        return self.sorter.sort("job", 1, Block.of(rows))


def reading(callers: list[str], *, segment_rows: int = 1_000, answered: tuple[int, ...] = ()) -> Read:
    """Return a job whose requests have these callers, in segments of so many rows."""
    loop = Loop.loop
    desk = Desk(linger_s=1_000.0, linger_max_s=1_000.0)
    places: dict[str, Place] = {}
    awaiters = Awaiters()
    waiters: dict[Place, asyncio.Future[Any]] = {}
    for number, caller in enumerate(callers):
        if number and number % segment_rows == 0:
            desk.tell(Woken())  # closes the segment
        place = desk.admit(f"p{number}", key=None if caller in ("waits", "left", "two") else f"k{number}")
        awaiters.columns.setdefault(place >> ROW_BITS, []).append(waiters.setdefault(place, loop.create_future()))
        segment, row = desk.engine.book.at(place)
        assert segment is not None
        places[segment.keys[row]] = place
        if caller == "two":
            awaiters.attach(place, loop.create_future(), None, None)
        elif caller == "left":
            waiters[place].cancel()
    desk.tell(Flushed())
    desk.created()
    desk.wake()
    desk.polled()
    job = desk.job
    desk.fetched(*(list(places.values())[number] for number in answered))
    meter, found = Meter(), Arrivals(desk.engine.book, job.spans)
    sorter = RowSorter(desk.engine.book, awaiters, found, FACTS, meter=meter)  # type: ignore[arg-type]
    return Read(desk, places, awaiters, waiters, sorter, found, meter)


def event_of(found: Sorted) -> RowsFetched:
    assert isinstance(found.event, RowsFetched)
    return found.event


def stored(found: Sorted) -> dict[Place, bytes]:
    event = event_of(found)
    pairs = list(event.kept)
    for run in event.runs:
        pairs += zip(run.places, run.bodies or (), strict=False)
    return dict(pairs)


def straight(found: Sorted) -> dict[Place, bytes]:
    """Return what is handed over, having checked that the engine is told the same."""
    event = event_of(found)
    told = [*event.delivered, *(place for run in event.runs if run.bodies is None for place in run.places)]
    handed = {place: body for _, places, bodies in found.handovers for place, body in zip(places, bodies, strict=True)}
    assert sorted(told) == sorted(handed)
    assert len(told) == len(set(told))
    return handed


CALLERS = st.lists(st.sampled_from(["waits", "waits", "waits", "key", "two", "left"]), min_size=1, max_size=30)


@given(CALLERS, st.integers(1, 8), st.data())
def test_whatever_comes_in_whatever_order_finds_whom_it_is_for(
    callers: list[str], segment_rows: int, data: st.DataObject
) -> None:
    numbers = range(len(callers))
    answered = tuple(data.draw(st.sets(st.sampled_from(numbers), max_size=3), label="answered"))
    read = reading(callers, segment_rows=segment_rows, answered=answered)
    keys = list(read.places)
    order = data.draw(
        st.one_of(
            st.just(keys),
            st.permutations(keys),
            st.lists(st.sampled_from([*keys, "stranger"]), max_size=2 * len(keys)),
        ),
        label="order",
    )
    bad = data.draw(st.sets(st.sampled_from(keys), max_size=2), label="errors")
    rows = [Row(key, b"%d" % at, BAD if key in bad else None) for at, key in enumerate(order)]
    size = data.draw(st.integers(1, len(rows) + 1), label="rows a block")
    blocks = [read.sort(*rows[at : at + size]) for at in range(0, len(rows), size)]

    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row.key, row)
    firsts.pop("stranger", None)
    old = {keys[number] for number in answered}
    fresh = {read.places[key]: row for key, row in firsts.items() if key not in old}
    bare = {place for place, caller in zip(read.places.values(), callers, strict=True) if caller in ("waits", "left")}
    handed = {place: body for found in blocks for place, body in straight(found).items()}
    kept = {place: body for found in blocks for place, body in stored(found).items()}
    failed = {fault.place: fault.error for found in blocks for fault in event_of(found).failed}
    assert handed | kept == {place: row.response for place, row in fresh.items() if row.error is None}
    assert failed == {place: row.error for place, row in fresh.items() if row.error is not None}
    assert set(handed) <= bare
    for place in set(kept) & bare:
        assert read.waiters[place].cancelled(), "whoever waits for an automatic key is handed his answer"
    for found in blocks:
        for waiters, places, _ in found.handovers:
            assert [read.waiters[place] for place in places] == waiters
            assert not any(read.awaiters.has(place) for place in places)
    assert read.sorter.strangers == sum(row.key == "stranger" for row in rows)
    seen = [row.key for row in rows if row.key != "stranger"]
    assert read.sorter.doubled == {key for key in seen if seen.count(key) > 1}
    new, again = sum((event_of(one).charge.answers for one in blocks), 0), 0
    again = sum(event_of(one).again.answers for one in blocks)
    assert new == len(handed) + len(kept)
    assert again == sum(firsts[key].error is None for key in old & firsts.keys())


def never(_: Arrivals) -> Iterator[None]:
    raise AssertionError("an index was made")


def test_in_the_order_of_sending_no_key_is_looked_up_however_many_rows_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = reading(["waits"] * 60, segment_rows=7)
    monkeypatch.setattr(Arrivals, "learn", never)
    keys = list(read.places)
    came = keys[3:10] + keys[12:13] + keys[30:55]
    assert read.arrivals.is_ready(came)
    found = [read.sort(*(Row(key, b"{}") for key in came[at : at + 10])) for at in range(0, len(came), 10)]
    assert [place for one in found for place in straight(one)] == [read.places[key] for key in came]


def test_runs_are_as_long_as_segment_and_block_allow() -> None:
    read = reading(["waits"] * 20 + ["key"] * 10, segment_rows=20)
    first, rest = list(read.places)[:15], list(read.places)[15:]
    one = event_of(read.sort(*(Row(key, b"{}") for key in first)))
    two = event_of(read.sort(*(Row(key, b"{}") for key in rest)))
    assert [(run.count, run.bodies) for run in one.runs] == [(15, None)]
    assert [(run.count, run.bodies) for run in two.runs] == [(5, None), (10, [b"{}"] * 10)]
    assert (two.delivered, two.kept) == ([], [])


@pytest.mark.parametrize("odd", ["two", "key"])
def test_one_row_of_another_kind_takes_its_run_apart(odd: str) -> None:
    read = reading(["waits"] * 5 + [odd] + ["waits"] * 4)
    places = list(read.places.values())
    found = read.sort(*(Row(key, b"{}") for key in read.places))
    assert event_of(found).runs == []
    assert stored(found).keys() == {places[5]}
    assert straight(found).keys() == {*places} - {places[5]}
    [(waiters, _, _)] = found.handovers
    assert waiters == [read.waiters[place] for place in places if place != places[5]]


def test_a_caller_who_is_cancelled_before_he_knows_it_leaves_a_run_as_it_is() -> None:
    """His future is done, and still in its cell: whoever hands over finds that out."""
    read = reading(["waits"] * 5)
    next(iter(read.waiters.values())).cancel()
    assert [run.count for run in event_of(read.sort(*(Row(key, b"{}") for key in read.places))).runs] == [5]


def test_the_index_is_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_SLICE_ROWS", 4)
    read = reading(["waits"] * 25, segment_rows=10)
    keys = list(read.places)[::-1]
    assert not read.arrivals.is_ready(keys)
    assert sum(1 for _ in read.arrivals.learn()) == 3 + 3 + 2
    assert read.arrivals.is_ready(["stranger"])
    found = read.sort(*(Row(key, b"{}") for key in keys))
    assert list(straight(found)) == [read.places[key] for key in keys]


def test_to_ask_whether_keys_are_known_moves_nothing() -> None:
    read = reading(["waits"] * 5)
    keys = list(read.places)
    for _ in range(2):
        assert read.arrivals.is_ready(keys)
        assert not read.arrivals.is_ready([*keys, "stranger"])
    assert len(straight(read.sort(*(Row(key, b"{}") for key in keys)))) == 5


def test_a_key_that_comes_again_right_after_itself_counts_once() -> None:
    read = reading(["waits"] * 3)
    keys = list(read.places)
    found = read.sort(*(Row(key, b"%d" % at) for at, key in enumerate([keys[0], keys[0], keys[1], keys[2]])))
    assert straight(found) == {read.places[key]: b"%d" % at for key, at in zip(keys, (0, 2, 3), strict=True)}
    assert read.sorter.doubled == {keys[0]}


def test_lines_are_charged_at_once_where_each_of_them_is_a_new_answer() -> None:
    read = reading(["waits"] * 4)
    keys = list(read.places)
    for some in (keys[:2], [keys[2], keys[1]], [keys[3]]):
        block = Block(keys=some, bodies=[b"{}"] * len(some), lines=b"lines")
        read.sorter.sort("job", 1, block)
    assert read.meter.lines == [b"lines", b"", b"lines"]


def test_a_bug_between_sorting_and_charging_leaves_everybody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    read = reading(["waits"] * 6 + ["two"], segment_rows=4)

    def charge(*_: object) -> Charge:
        raise ZeroDivisionError

    monkeypatch.setattr(read.meter, "charge", charge)
    keys = list(read.places)
    with pytest.raises(ZeroDivisionError):
        read.sort(*(Row(key, b"{}") for key in [*keys[:4], keys[5]]))
    for place, waiter in read.waiters.items():
        assert waiter in read.awaiters.take(place)


def test_what_was_taken_back_is_not_put_over_what_came_since() -> None:
    read = reading(["waits"] * 2)
    found = read.sort(*(Row(key, b"{}") for key in read.places))
    first, second = read.places.values()
    read.awaiters.columns[first >> ROW_BITS][first & ROW_MASK] = read.waiters[second]
    take_back(read.awaiters.columns, found.handovers)
    assert read.awaiters.columns[first >> ROW_BITS] == [read.waiters[second]] * 2
    read.awaiters.columns.clear()
    take_back(read.awaiters.columns, found.handovers)
    assert not read.awaiters.columns
