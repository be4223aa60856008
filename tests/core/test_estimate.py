"""Tokens are estimated before anything is sent, and estimates get better with what comes back."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool._core.estimate import (
    GUESS,
    IMAGE_GUESS,
    LEARNED_FROM,
    TILE_TOKENS,
    Habit,
    Habits,
    Histogram,
    Sketch,
    audio_s,
    image_pixels,
    image_tokens,
    media_tokens,
    text_tokens,
    video_tokens,
)
from carpool._core.model import caps_of, limit_of
from carpool.emulator import media as pictures

MODEL = "gemini-2.5-flash"
# -- media


def png(width: int, height: int) -> bytes:
    return pictures.picture(width, height, b"abcdef")


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    app = b"\xff\xe1" + struct.pack(">H", before + 2) + b"x" * before if before else b""
    return b"\xff\xd8" + app + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\0" * 10


def webp(form: bytes, payload: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + form + payload


def wav(seconds: float, rate: int = 16_000) -> bytes:
    size = int(seconds * rate * 2)
    head = (
        b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)
    )
    return head + b"data" + struct.pack("<I", size) + bytes(size)


PIXELS: list[tuple[bytes, tuple[int, int] | None]] = [
    (png(1024, 768)[:24], (1024, 768)),
    (png(1024, 768)[:23], None),
    (b"GIF89a" + struct.pack("<HH", 300, 200), (300, 200)),
    (b"GIF89a\1", None),
    (jpeg(640, 480), (640, 480)),
    (jpeg(640, 480, before=5_000), (640, 480)),
    (jpeg(640, 480, before=5_000)[:4_000], None),
    (b"\xff\xd8\xff\xe1\0\0\0\0\0\0\0\0", None),
    (b"\xff\xd8 no marker follows", None),
    (webp(b"VP8X", bytes(8) + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")), (800, 600)),
    (webp(b"VP8 ", bytes(10) + struct.pack("<HH", 320, 240)), (320, 240)),
    (webp(b"VP8L", bytes(4) + b"\x2f" + (99 | 49 << 14).to_bytes(4, "little") + bytes(8)), (100, 50)),
    (webp(b"ANIM", bytes(20)), None),
    (b"", None),
    (b"neither", None),
]


@pytest.mark.parametrize(("head", "size"), PIXELS)
def test_the_size_of_a_picture_is_read_off_its_head(head: bytes, size: tuple[int, int] | None) -> None:
    assert image_pixels(head) == size


@pytest.mark.parametrize(
    ("width", "height", "tiles"),
    [(1, 1, 1), (384, 384, 1), (385, 384, 1), (769, 768, 2), (1_536, 1_536, 4), (1_537, 1_536, 6), (10**9, 10**9, 16)],
)
def test_a_picture_counts_by_tiles(width: int, height: int, tiles: int) -> None:
    assert image_tokens(width, height) == tiles * TILE_TOKENS


@given(st.binary(max_size=100))
def test_no_head_of_a_picture_breaks_the_estimate(tail: bytes) -> None:
    for magic in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF8",
        b"RIFF0000WEBP",
        b"RIFF0000WEBPVP8L",
        b"\xff\xd8\xff",
        b"RIFF0000WAVE",
    ):
        for kind in ("image/png", "audio/wav", "video/mp4", "", "text/plain"):
            assert 0 <= media_tokens(kind, magic + tail, 1_000_000) <= 2**40


@pytest.mark.parametrize(
    ("mime_type", "data", "seconds"),
    [
        ("audio/wav", wav(2.5), 2.5),
        ("audio/x-wav", wav(10, 8_000), 10.0),
        ("audio/L16;codec=pcm;rate=24000", bytes(48_000), 1.0),
        ("audio/pcm; rate=8000", bytes(32_000), 2.0),
        ("audio/L16", bytes(48_000), 1.0),
        ("audio/L16;rate=0", bytes(48_000), None),
        ("audio/L16;rate=fast", bytes(48_000), 1.0),
        ("audio/mpeg", bytes(160_000), 10.0),
        ("audio/ogg", bytes(160_000), None),
        ("audio/wav", b"RIFF0000WAVE" + bytes(40), None),
    ],
)
def test_the_length_of_sound_is_read_off_its_head(mime_type: str, data: bytes, seconds: float | None) -> None:
    found = audio_s(mime_type, data[:64], len(data))
    assert found == (None if seconds is None else pytest.approx(seconds, rel=0.01))


def test_media_count_by_what_they_are() -> None:
    assert media_tokens("image/png", png(1_024, 1_024)[:100], 10**6) == 4 * TILE_TOKENS
    assert media_tokens("image/heic", b"?", 10**6) == TILE_TOKENS
    assert media_tokens("audio/mp3", b"", 16_000 * 60) == 32 * 60
    assert media_tokens("audio/ogg", b"", 10**6) == TILE_TOKENS
    assert media_tokens("audio/mp3", b"", 1) == 1
    assert media_tokens("text/csv; charset=utf-8", b"", 4_000) == media_tokens("application/json", b"", 4_000) == 1_000
    assert media_tokens("application/pdf", b"%PDF", 10**6) == media_tokens("video/mp4", b"", 10**6) == TILE_TOKENS
    assert text_tokens(4_003) == 1_000
    assert (video_tokens(60), video_tokens(0)) == (60 * 295, 1)


# -- histograms


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=300), st.sampled_from([1, 10, 50, 90, 95, 100]))
def test_a_quantile_is_right_up_to_an_eighth(values: list[int], percent: int) -> None:
    histogram = Histogram()
    histogram.add(values)
    exact = sorted(values)[-(-len(values) * percent // 100) - 1]
    assert exact <= histogram.quantile(percent) <= exact * 9 // 8
    again = Histogram(msgspec.json.decode(msgspec.json.encode(histogram.sketch()), type=Sketch))
    assert (again.quantile(percent), again.count) == (histogram.quantile(percent), len(values))


def test_what_is_long_ago_fades() -> None:
    histogram = Histogram()
    histogram.add([1_000] * 8_000)
    for _ in range(20):
        histogram.add([10] * 2_000)
    assert histogram.quantile(95) == 10
    assert histogram.count <= 8_192
    assert len(histogram.sketch().buckets) <= 4


def test_of_nothing_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        Histogram().quantile(50)


def test_negative_numbers_and_damaged_sketches_do_no_harm() -> None:
    histogram = Histogram(Sketch(buckets=[5, -3, 7, 2, 9]))
    histogram.add([-4])
    assert (histogram.count, histogram.quantile(1), histogram.quantile(100)) == (3, 0, 7)


# -- habits


def test_before_there_is_history_lengths_are_a_guess_that_says_so() -> None:
    habits = Habits()
    assert habits.lengths(MODEL) == GUESS
    assert habits.lengths("gemini-3-pro-image") == IMAGE_GUESS
    habits.saw_outputs(MODEL, [10] * (LEARNED_FROM - 1))
    assert habits.lengths(MODEL) == GUESS
    habits.saw_outputs(MODEL, [10])
    assert habits.lengths(MODEL) == (10, 10, 10, 10, LEARNED_FROM)
    habits.saw_outputs(MODEL, [])
    assert habits.lengths("another") == GUESS


def test_a_few_long_answers_are_in_the_mean_and_so_in_the_range() -> None:
    habits = Habits()
    habits.saw_outputs(MODEL, [10] * 96 + [8_191] * 4)
    lengths = habits.lengths(MODEL)
    assert (lengths.p10, lengths.p95) == (10, 10)
    assert lengths.middle == lengths.p90 == -(-(96 * 10 + 4 * 8_191) // 100)
    with pytest.raises(ValueError, match="nothing was counted"):
        Histogram().mean()


def test_the_ratio_is_what_was_counted_over_what_was_estimated() -> None:
    habits = Habits()
    assert (habits.ratio(MODEL), habits.input_tokens(MODEL, 77)) == (1.0, 77)
    habits.saw_input(MODEL, 1_000, 1_500)
    assert (habits.ratio(MODEL), habits.input_tokens(MODEL, 3)) == (1.5, 5)
    for estimated, counted in ((0, 10), (10, 0), (-1, 5)):
        habits.saw_input(MODEL, estimated, counted)
    assert habits.ratio(MODEL) == 1.5
    assert habits.ratio("another") == 1.0


def test_an_absurd_ratio_is_bounded() -> None:
    habits = Habits()
    habits.saw_input(MODEL, 1, 1_000_000)
    assert (habits.ratio(MODEL), habits.input_tokens(MODEL, 10)) == (16.0, 161)
    habits.saw_input("small", 1_000_000, 1)
    assert (habits.ratio("small"), habits.input_tokens("small", 160)) == (1 / 16, 11)


def test_a_new_ratio_prevails_in_the_end() -> None:
    habits = Habits()
    habits.saw_input(MODEL, 10**9, 2 * 10**9)
    for _ in range(20):
        habits.saw_input(MODEL, 5 * 10**8, 25 * 10**7)
    assert habits.ratio(MODEL) == pytest.approx(0.5, rel=0.01)


@given(
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)), max_size=20),
    st.lists(st.integers(0, 10**6), max_size=60),
)
def test_what_was_learned_survives_a_restart(inputs: list[tuple[int, int]], outputs: list[int]) -> None:
    habits = Habits()
    for estimated, counted in inputs:
        habits.saw_input(MODEL, estimated, counted)
    habits.saw_outputs(MODEL, outputs)
    records = [msgspec.msgpack.decode(msgspec.msgpack.encode(habit), type=Habit) for habit in habits.changes()]
    assert habits.changes() == []
    again = Habits()
    for record in records:
        again.take(record)
    assert len(records) == bool(inputs or outputs)
    assert (again.lengths(MODEL), again.ratio(MODEL)) == (habits.lengths(MODEL), habits.ratio(MODEL))


def test_a_damaged_habit_is_no_habit() -> None:
    habits = Habits()
    habits.take(Habit(model=MODEL, estimated=-5, counted=7))
    assert (habits.ratio(MODEL), habits.input_tokens(MODEL, 7)) == (1.0, 7)


@given(st.lists(st.integers(0, 10_000), max_size=30), st.integers(0, 5))
def test_no_more_is_reserved_than_a_cap_allows(caps: list[int], extra: int) -> None:
    habits = Habits()
    count = len(caps) + extra
    limits = [limit_of(cap, searches=cap % 3 == 0) for cap in [*caps, *[0] * extra]]
    wanted = sum(min(cap, GUESS.p95) if cap else GUESS.p95 for cap in [*caps, *[0] * extra])
    found, searches = caps_of([array("Q", limits)])
    assert habits.reserved_output(MODEL, count, found) == wanted
    assert searches == sum(cap % 3 == 0 for cap in caps) + extra
    assert habits.reserved_output(MODEL, count, {}) == GUESS.p95 * count


def test_the_models_that_are_remembered_have_a_limit() -> None:
    habits = Habits()
    for number in range(300):
        habits.saw_input(f"model-{number}", 1, 2)
    known: list[Any] = habits.changes()
    assert len(known) == 256
    assert habits.ratio("model-0") == 1.0
    assert habits.ratio("model-299") == 2.0
