"""Places, columns, names, and the table of transitions."""

from __future__ import annotations

from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.book import spans_of
from carpool._core.model import (
    DIGEST_BYTES,
    ROW_BITS,
    ROW_MASK,
    ROWS_MAX,
    TRANSITIONS,
    JobState,
    Segment,
    SegmentHead,
    place_of,
)
from carpool._core.output import Block, Row, Run
from carpool.types import ServerError

from .desk import LANE, ORIGIN


def segment_of(sizes: list[int], tokens: list[int], deadlines: list[float]) -> Segment:
    count = len(sizes)
    return Segment(
        no=7,
        lane=LANE,
        origin=ORIGIN,
        accepted_at=5.0,
        keys=[f"key-{row}" for row in range(count)],
        ends=array("Q", [sum(sizes[: row + 1]) for row in range(count)]),
        tokens=array("Q", [sum(tokens[: row + 1]) for row in range(count)]),
        flags=bytearray(row % 4 for row in range(count)),
        digests=bytearray(b"".join(bytes((row,)) * DIGEST_BYTES for row in range(count))),
        deadlines=array("d", deadlines),
    )


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**6)), max_size=20), st.booleans())
def test_the_columns_of_a_segment_come_back_from_disk(rows: list[tuple[int, int]], timed: bool) -> None:
    sizes, tokens = [size for size, _ in rows], [count for _, count in rows]
    segment = segment_of(sizes, tokens, [float(row) for row in range(len(rows))] if timed else [])
    encoded = msgspec.msgpack.encode(segment.head())
    back = Segment.from_head(msgspec.msgpack.decode(encoded, type=SegmentHead))
    assert back.head() == segment.head()
    assert (back.size_bytes, back.open_rows) == (sum(sizes), len(rows))
    assert back.tokens == segment.tokens
    assert back.states == bytearray(len(rows)) == back.attempts
    for row in range(len(rows)):
        assert back.digest(row) == bytes((row,)) * DIGEST_BYTES


@given(st.lists(st.integers(1, 100), min_size=1, max_size=10), st.data())
def test_bytes_and_tokens_of_some_rows_are_their_sums(sizes: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sizes) - 1))
    stop = data.draw(st.integers(start + 1, len(sizes)))
    segment = segment_of(sizes, [2 * size for size in sizes], [])
    assert segment.bytes_of(start, stop) == sum(sizes[start:stop])
    assert segment.tokens_of(start, stop) == 2 * sum(sizes[start:stop])


@given(st.integers(0, 2**40), st.integers(0, ROWS_MAX - 1))
def test_a_place_tells_segment_and_row(no: int, row: int) -> None:
    place = place_of(no, row)
    assert (place >> ROW_BITS, place & ROW_MASK) == (no, row)


def test_spans_join_neighbours_of_one_segment_only() -> None:
    places = [place_of(1, 0), place_of(1, 1), place_of(1, 3), place_of(2, 4), place_of(3, 0), place_of(3, 1)]
    assert spans_of(places) == ((1, 0, 2), (1, 3, 4), (2, 4, 5), (3, 0, 2))
    assert spans_of([]) == ()


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_its_ways_out_and_only_closed_has_none(state: JobState) -> None:
    assert bool(TRANSITIONS[state]) is (state is not JobState.CLOSED)


def test_every_state_can_be_closed_and_none_is_out_of_reach() -> None:
    reached = {JobState.UPLOADING, JobState.CREATING}
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(JobState)
    assert all(JobState.CLOSED in ways for state, ways in TRANSITIONS.items() if state is not JobState.CLOSED)


def test_a_block_holds_its_rows_in_columns() -> None:
    rows = [Row("a", b"{}"), Row("b", b"", ServerError(code=8)), Row("", b"[]")]
    block = Block.of(rows, 2)
    assert (block.keys, block.bodies, block.errors) == (["a", "b", ""], [b"{}", b"", b"[]"], {1: ServerError(code=8)})
    assert (block.rows, block.unreadable, block.lines) == (rows, 2, b"")


def test_what_answers_say_is_not_shown() -> None:
    rows = [Row("a", b'{"text":"said"}'), Row("b", b"", ServerError(code=8, message="said"))]
    for held in (*rows, Block.of(rows, 1), Run(1, 0, 1, [b'{"text":"said"}'])):
        assert "said" not in repr(held)
    assert repr(Block.of(rows, 1)) == "Block(rows=2, errors=1, unreadable=1)"
    assert repr(rows[0]) == "Row(key='a', bytes=15, error=None)"
    assert repr(Run(1, 0, 2, [b"", b""])) == "Run(no=1, start=0, stop=2, kept=True)"
