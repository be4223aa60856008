"""Embedding vectors without a model.

Owns the mapping of a text to a unit vector: words and character trigrams are hashed into signed places, so that equal
texts have equal vectors and texts that share words lie nearer than texts that share none. It must not know about
requests.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from typing import Final

_WORD: Final = re.compile(r"\w+")
_WORD_WEIGHT: Final = 2.0
_SHORT_WEIGHT: Final = 0.5  # "a", "to", "the": texts are not alike for sharing these
_SHORT_BYTES: Final = 3
_TRIGRAM_WEIGHT: Final = 0.5
_FAINT: Final = 0.125 / 2**31
_TEXT_CHARS_MAX: Final = 20_000  # what lies beyond is truncated, as models do


def _places(text: str, dimensions: int) -> dict[int, float]:
    """Return the non-zero values of the vector of a text by place."""
    whole = text[:_TEXT_CHARS_MAX]
    text = whole.lower()
    sums: dict[int, float] = {}
    for word in _WORD.findall(text):
        raw = word.encode("utf-8", "surrogatepass")
        weight = _WORD_WEIGHT if len(raw) > _SHORT_BYTES else _SHORT_WEIGHT
        code = zlib.crc32(raw)
        place = (code >> 1) % dimensions
        sums[place] = sums.get(place, 0.0) + (weight if code & 1 else -weight)
        for start in range(len(raw) - 2):
            code = zlib.crc32(raw[start : start + 3], 0x5A5A)
            place = (code >> 1) % dimensions
            sums[place] = sums.get(place, 0.0) + (_TRIGRAM_WEIGHT if code & 1 else -_TRIGRAM_WEIGHT)
    # The whole text, faintly: no two texts share a vector (but in one dimension), and none is without a direction.
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()
    for place, value in zip(range(min(dimensions, 8)), struct.unpack(">8i", digest), strict=False):
        sums[place] = sums.get(place, 0.0) + (value | 1) * _FAINT
    return sums


def _scaled(text: str, dimensions: int) -> dict[int, str]:
    sums = _places(text, dimensions)
    norm = math.sqrt(sum(value * value for value in sums.values()))
    return {place: f"{value / norm:.7g}" for place, value in sums.items() if value}


def vector_json(text: str, dimensions: int) -> bytes:
    """Return the vector as a JSON array.

    Args:
        text: what to embed.
        dimensions: number of values.
    """
    values = ["0"] * dimensions
    for place, value in _scaled(text, dimensions).items():
        values[place] = value
    return f"[{','.join(values)}]".encode()


def vector(text: str, dimensions: int) -> list[float]:
    """Return the vector as numbers, the same that :func:`vector_json` writes.

    Args:
        text: what to embed.
        dimensions: number of values.
    """
    values = [0.0] * dimensions
    for place, value in _scaled(text, dimensions).items():
        values[place] = float(value)
    return values
