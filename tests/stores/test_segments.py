"""The framed value: what goes in comes out, and whatever else comes is told apart."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.messages import DropSegments, PutMeta
from carpool._core.model import Meta
from carpool._stores import segments
from carpool.errors import StoreCorrupt, StoreError, StoreVersion

from ..contract.records import put_day, put_habit, put_job, put_marks, put_results, put_seen, put_segment  # noqa: TID252 - test folders are no packages

ROWS = st.lists(st.binary(max_size=40), max_size=12)
SEGMENT = bytes(segments.encode("s1", put_segment(1).head, put_segment(1).lines))


@given(rows=ROWS, no=st.integers(0, 2**40), data=st.data())
def test_any_rows_come_back(rows: list[bytes], no: int, data: st.DataObject) -> None:
    put = put_segment(no, rows)
    name = segments.segment_name(no)
    value = segments.decode(name, bytes(segments.encode(name, put.head, rows)))
    assert segments.record(name, value.head) == put.head
    assert value.body == b"".join(rows)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert segments.lines(name, value, [(start, stop), (0, len(rows))]) == [b"".join(rows[start:stop]), b"".join(rows)]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("meta", Meta(store_id="abcdefgh", epoch=3)),
        ("m7", put_marks(7).marks),
        ("j01abc", put_job("01abc").job),
        ("r9", put_results(9, []).head),
        ("d20000:f1e2c7da767e", put_day(20_000).account),
        ("hf1e2c7da767e:tunedModels:mine", put_habit("tunedModels/mine").habit),
        ("uf1e2c7da767e:batch:tunedModels:mine", put_seen("tunedModels/mine", "batch").seen),
    ],
)
def test_every_record_comes_back(name: str, record: segments.Record) -> None:
    value = segments.decode(name, bytes(segments.encode(name, record)))
    assert segments.record(name, value.head) == record
    assert not value.body


def read_all(name: str, value: bytes) -> None:
    found = segments.decode(name, value)
    segments.record(name, found.head)
    segments.lines(name, found, [(0, 3)])


@given(at=st.integers(0, len(SEGMENT) - 1), flip=st.integers(1, 255))
def test_one_wrong_byte_is_noticed_wherever_it_is(at: int, flip: int) -> None:
    damaged = bytearray(SEGMENT)
    damaged[at] ^= flip
    with pytest.raises((StoreCorrupt, StoreVersion)):
        read_all("s1", bytes(damaged))


@given(size=st.integers(0, len(SEGMENT) - 1))
def test_a_value_cut_short_is_noticed_wherever_it_is_cut(size: int) -> None:
    with pytest.raises(StoreCorrupt):
        read_all("s1", SEGMENT[:size])


def test_a_value_with_something_behind_it_is_damaged() -> None:
    with pytest.raises(StoreCorrupt, match="bytes long"):
        read_all("s1", SEGMENT + b"\0")


def test_a_value_under_another_name_is_damaged() -> None:
    with pytest.raises(StoreCorrupt, match="it holds 's1'"):
        read_all("s2", SEGMENT)
    with pytest.raises(StoreCorrupt, match="another kind"):
        read_all("r1", SEGMENT)


def reframed(head: bytes, body: bytes = b"", version: int = 1, kind: bytes = b"s") -> bytes:
    """Return a value whose checksum is right, whatever is in it."""
    prefix = struct.pack(">4sBcxxIQ", b"crpl", version, kind, len(head), len(body))
    checksum = segments.zlib.crc32(head + body, segments.zlib.crc32(prefix))
    return prefix + struct.pack(">I", checksum) + head + body


def test_the_layout_is_what_it_was_in_the_first_release() -> None:
    put = put_segment(1)
    assert reframed(msgspec.msgpack.encode(put.head), b"".join(put.lines)) == SEGMENT


def test_a_later_version_is_not_damage() -> None:
    with pytest.raises(StoreVersion, match="format 2"):
        segments.decode("s1", reframed(b"", version=2))


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\xa1\xff", msgspec.msgpack.encode(["x"] * 10)])
def test_a_head_that_is_none_is_damage(head: bytes) -> None:
    value = segments.decode("s1", reframed(head))
    with pytest.raises(StoreCorrupt, match="head cannot be read"):
        segments.record("s1", value.head)


def test_ends_that_lead_out_of_the_body_are_damage() -> None:
    put = put_segment(1)
    value = segments.decode("s1", reframed(msgspec.msgpack.encode(put.head), b"short"))
    with pytest.raises(StoreCorrupt, match="outside"):
        segments.lines("s1", value, [(1, 2)])


@pytest.mark.parametrize("name", ["", "x1", "s", "s-1", "s1x", "s٣", "metal", "r 1", "d9", "d9:", "d٣:0123456789ab"])
def test_a_name_that_carpool_does_not_give_is_noticed(name: str) -> None:
    with pytest.raises(StoreCorrupt):
        segments.order(name)


def test_names_are_ordered_by_kind_then_number() -> None:
    days = [segments.day_name("https://a.example", day) for day in (100, 99)]
    assert sorted([*days, "r2"], key=segments.order) == ["r2", days[1], days[0]]
    names = ["r2", "jb", "m11", "s10", "meta", "s9", "ja", "m2", "r10"]
    assert sorted(names, key=segments.order) == ["meta", "s9", "s10", "m2", "m11", "ja", "jb", "r2", "r10"]


def test_of_several_writes_to_one_name_the_last_counts() -> None:
    writes = [put_segment(1), put_marks(1, b"\0"), DropSegments([1]), put_marks(1, b"\1")]
    changes = segments.encode_all(writes, "abcdefgh")
    assert changes == {"s1": None, "m1": segments.encode("m1", put_marks(1, b"\1").marks)}


def test_an_error_does_not_show_what_is_in_a_row() -> None:
    secret = "SECRET-PROMPT"
    put = put_segment(1, [b"x"])
    put.lines[0] = secret  # type: ignore[call-overload]
    with pytest.raises(StoreError) as caught:
        segments.encode_all([put], "abcdefgh")
    assert secret not in str(caught.value) + repr(caught.value)


def test_the_identity_can_be_opened_anew_but_not_changed() -> None:
    assert segments.encode_all([PutMeta(Meta(store_id="abcdefgh", epoch=2))], "abcdefgh").keys() == {"meta"}
    with pytest.raises(StoreError, match="cannot become"):
        segments.encode_all([PutMeta(Meta(store_id="hgfedcba"))], "abcdefgh")
