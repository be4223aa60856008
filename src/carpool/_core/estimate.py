"""Tokens before anything is sent, and what the answers teach about them.

Owns the rules of thumb (bytes a token, tokens of a picture, of a second of sound or film), and per model what usage
that came back says: how far estimates of the input were off, and how long answers are. It must not know money.

The text of a request is counted when it is encoded, in one division; only media are looked at more closely. What is
learned is applied where sums are used, never to the estimates themselves, which are on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

TEXT_BYTES_PER_TOKEN: Final = 4
"""Of UTF-8: about four letters of English, two of Cyrillic, one and a third of Chinese."""
TILE_TOKENS: Final = 258
"""A picture of at most 384 pixels a side, or a tile of a larger one, or a page, or a frame of a film."""
AUDIO_TOKENS_PER_S: Final = 32
VIDEO_TOKENS_PER_S: Final = 295
"""One frame a second, and its sound."""
_SMALL_PIXELS: Final = 384
_TILE_PIXELS: Final = 768
_TILES_MAX: Final = 16
_MP3_BYTES_PER_S: Final = 16_000
_JPEG_SIZES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})

# -- media


def text_tokens(size_bytes: int) -> int:
    """Return the tokens of so many bytes of UTF-8."""
    return size_bytes // TEXT_BYTES_PER_TOKEN


def media_tokens(mime_type: str, head: bytes, size_bytes: int) -> int:
    """Return the tokens of inline media, as far as their first bytes tell; those of a small picture if they do not.

    Args:
        mime_type: such as ``image/png``.
        head: the first bytes; a few kilobytes are enough for most.
        size_bytes: of the whole.
    """
    kind, _, form = mime_type.lower().partition(";")[0].strip().partition("/")
    if kind == "image":
        size = image_pixels(head)
        return TILE_TOKENS if size is None else image_tokens(*size)
    if kind == "audio":
        seconds = audio_s(mime_type, head, size_bytes)
        return TILE_TOKENS if seconds is None else max(1, int(seconds * AUDIO_TOKENS_PER_S))
    if kind == "text" or form in {"json", "xml"}:
        return text_tokens(size_bytes)
    return TILE_TOKENS


def image_tokens(width: int, height: int) -> int:
    """Return the tokens of a picture: one tile if it is small, else as many as cover it."""
    if width <= _SMALL_PIXELS and height <= _SMALL_PIXELS:
        return TILE_TOKENS
    tiles = -(-width // _TILE_PIXELS) * -(-height // _TILE_PIXELS)
    return min(tiles, _TILES_MAX) * TILE_TOKENS


def video_tokens(length_s: float) -> int:
    """Return the tokens of a film of known length."""
    return max(1, int(length_s * VIDEO_TOKENS_PER_S))


def image_pixels(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG, GIF, WebP or JPEG; ``None`` where its first bytes do not tell."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:4] == b"GIF8" and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_pixels(head)
    return _jpeg_pixels(head) if head.startswith(b"\xff\xd8") else None


def _webp_pixels(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return None


def _jpeg_pixels(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _JPEG_SIZES:
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        size = int.from_bytes(head[at + 2 : at + 4], "big")
        if size < 2:
            return None
        at += 2 + size
    return None


def audio_s(mime_type: str, head: bytes, size_bytes: int) -> float | None:
    """Return the length of sound in seconds: from its header, or its rate, or as MP3 usually is; ``None``: unknown."""
    name, _, rest = mime_type.lower().partition(";")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and len(head) >= 32:
        rate = int.from_bytes(head[28:32], "little")
        return size_bytes / rate if rate else None
    if name.strip() in {"audio/l16", "audio/pcm"}:
        rates = [part.partition("=")[2].strip() for part in rest.split(";") if part.strip().startswith("rate=")]
        rate = int(rates[0]) if rates and rates[0].isascii() and rates[0].isdigit() else 24_000
        return size_bytes / (2 * rate) if rate else None
    if name.strip() in {"audio/mp3", "audio/mpeg"}:
        return size_bytes / _MP3_BYTES_PER_S
    return None


# -- what answers teach


class Sketch(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A histogram on disk: bucket and count in turn, in the order of the buckets."""

    buckets: list[int] = []


class Histogram:
    """Counts of whole numbers in buckets an eighth of an octave wide; older ones fade."""

    _MOST: Final = 8_192

    def __init__(self, sketch: Sketch | None = None) -> None:
        pairs = [] if sketch is None else sketch.buckets
        self._counts = {bucket: count for bucket, count in zip(pairs[::2], pairs[1::2], strict=False) if count > 0}
        self.count = sum(self._counts.values())

    def add(self, values: Iterable[int]) -> None:
        """Count values in; negative ones count as 0."""
        counts = self._counts
        for value in values:
            bucket = _bucket(value)
            counts[bucket] = counts.get(bucket, 0) + 1
            self.count += 1
        if self.count > self._MOST:
            self._counts = {bucket: count // 2 for bucket, count in counts.items() if count > 1}
            self.count = sum(self._counts.values())

    def quantile(self, percent: int) -> int:
        """Return a number that so many percent of those counted do not exceed, up to the width of a bucket.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("nothing was counted")
        wanted = -(-self.count * percent // 100)
        buckets = iter(sorted(self._counts))
        bucket = next(buckets)
        while (wanted := wanted - self._counts[bucket]) > 0:
            bucket = next(buckets)
        return _top(bucket)

    def mean(self) -> int:
        """Return the mean of those counted, up to the width of a bucket and rounded up.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("nothing was counted")
        return -(-sum(_top(bucket) * count for bucket, count in self._counts.items()) // self.count)

    def sketch(self) -> Sketch:
        """Return what goes to disk."""
        return Sketch(buckets=[number for bucket in sorted(self._counts) for number in (bucket, self._counts[bucket])])


def _bucket(value: int) -> int:
    """Return the bucket of a number: itself below 16, then eight to an octave."""
    if value < 16:
        return max(0, value)
    octave = value.bit_length() - 4
    return (octave << 3) + (value >> octave)


def _top(bucket: int) -> int:
    """Return the largest number of a bucket."""
    if bucket < 16:
        return bucket
    octave = (bucket >> 3) - 1
    return ((bucket - (octave << 3) + 1) << octave) - 1


class Lengths(NamedTuple):
    """How many tokens answers have."""

    p10: int
    middle: int
    """Of many: their mean, once it is known."""
    p90: int
    """No less than the middle: of some models one answer in twenty is longer than all others together."""
    p95: int
    learned: int
    """From how many answers; 0: a guess."""


GUESS: Final = Lengths(16, 512, 2_048, 4_096, 0)
"""Of an answer in words, before there is any history: from one short line to a page of thoughts."""
IMAGE_GUESS: Final = Lengths(1_000, 1_290, 2_520, 2_520, 0)
"""Of a picture: 1,290 or 1,120 tokens, 2,000 in 4K, and some words."""
NO_OUTPUT: Final = Lengths(0, 0, 0, 0, 0)
RESERVED_PERCENT: Final = 95
"""Of answers, how many stay below the length for which money is reserved."""
LEARNED_FROM: Final = 20
"""Answers that have to have come back before they count for more than a guess."""
_RATIO_MIN, _RATIO_MAX = 1 / 16, 16.0


class Habit(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What was learned of one model of one service, on disk. Replaced whole."""

    model: str
    estimated: int = 0
    """Sum of input estimates, older ones fading."""
    counted: int = 0
    """Sum of what the server counted for the same requests."""
    outputs: Sketch = Sketch()
    base_url: str = ""
    """Of the service: see ``base_url_of``. Empty until it is written down."""


class _Learned:
    __slots__ = ("changed", "counted", "estimated", "outputs")

    def __init__(self, habit: Habit | None = None) -> None:
        self.estimated = 0 if habit is None else max(0, habit.estimated)
        self.counted = 0 if habit is None else max(0, habit.counted)
        self.outputs = Histogram(None if habit is None else habit.outputs)
        self.changed = False


class Habits:
    """What was learned, by model."""

    _MOST_TOKENS: Final = 1_000_000_000
    _MODELS_MAX: Final = 256

    def __init__(self) -> None:
        self._models: dict[str, _Learned] = {}

    def take(self, habit: Habit) -> None:
        """Take in what an earlier process learned."""
        self._models[habit.model] = _Learned(habit)

    def changes(self) -> list[Habit]:
        """Return what is worth a record since the last time. Losing it costs nothing but exactness."""
        found: list[Habit] = []
        for model, learned in self._models.items():
            if learned.changed:
                found.append(
                    Habit(
                        model=model,
                        estimated=learned.estimated,
                        counted=learned.counted,
                        outputs=learned.outputs.sketch(),
                    )
                )
                learned.changed = False
        return found

    def saw_input(self, model: str, estimated: int, counted: int) -> None:
        """Learn from requests that all came back: what was estimated of them together, and what was counted."""
        if estimated <= 0 or counted <= 0:
            return
        learned = self._of(model)
        learned.estimated += estimated
        learned.counted += counted
        while max(learned.estimated, learned.counted) > self._MOST_TOKENS:
            learned.estimated //= 2
            learned.counted //= 2
        learned.changed = True

    def saw_outputs(self, model: str, outputs: Sequence[int]) -> None:
        """Learn from the lengths of some answers, in tokens."""
        if outputs:
            learned = self._of(model)
            learned.outputs.add(outputs)
            learned.changed = True

    def ratio(self, model: str) -> float:
        """Return by what an input estimate is to be multiplied; 1 before anything came back."""
        learned = self._models.get(model)
        if learned is None or not learned.estimated or not learned.counted:
            return 1.0
        return min(_RATIO_MAX, max(_RATIO_MIN, learned.counted / learned.estimated))

    def input_tokens(self, model: str, estimated: int) -> int:
        """Return an estimate of input tokens in the light of what came back; rounded up."""
        learned = self._models.get(model)
        if learned is None or not learned.estimated or not learned.counted:
            return estimated
        ratio = self.ratio(model)
        if ratio in (_RATIO_MIN, _RATIO_MAX):
            return int(estimated * ratio) + 1
        return -(-estimated * learned.counted // learned.estimated)

    def lengths(self, model: str) -> Lengths:
        """Return how long answers are: as they were, or a guess before enough came back."""
        learned = self._models.get(model)
        if learned is None or learned.outputs.count < LEARNED_FROM:
            return IMAGE_GUESS if "-image" in model else GUESS
        outputs = learned.outputs
        p10, p90, p95 = (outputs.quantile(percent) for percent in (10, 90, RESERVED_PERCENT))
        mean = outputs.mean()
        return Lengths(min(p10, mean), mean, max(p90, mean), p95, outputs.count)

    def reserved_output(self, model: str, count: int, caps: Mapping[int, int]) -> int:
        """Return the output tokens for which money is to be reserved: each answer's cap, or the 95th percentile.

        Args:
            model: the model.
            count: requests.
            caps: how many of them have which cap: ``maxOutputTokens``, times the candidates.
        """
        learned = self._models.get(model)
        if learned is None or learned.outputs.count < LEARNED_FROM:
            usual = self.lengths(model).p95
        else:
            usual = learned.outputs.quantile(RESERVED_PERCENT)  # alone: this is asked for each live call
        return sum(min(cap, usual) * number for cap, number in caps.items()) + usual * (count - sum(caps.values()))

    def _of(self, model: str) -> _Learned:
        learned = self._models.get(model)
        if learned is None:
            if len(self._models) >= self._MODELS_MAX:
                del self._models[next(iter(self._models))]
            learned = self._models[model] = _Learned()
        return learned
