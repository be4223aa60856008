"""Pictures and sounds without a model.

Owns the making of real PNG pictures and of raw sound, small in bytes and of the size that was asked for. It must not
know about requests.
"""

from __future__ import annotations

import math
import struct
import zlib
from functools import lru_cache
from typing import Final

# Width and height of a picture of the usual size ("1K") by aspect ratio.
_SIZES: Final[dict[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
_SCALES: Final = {"": 1, "1K": 1, "2K": 2, "4K": 4}
_TILE_BYTES: Final = 8  # 64 pixels

SOUND_TYPE: Final = "audio/L16;codec=pcm;rate=24000"
_RATE: Final = 24_000
_SOUND_TOKENS_PER_S: Final = 25


def picture_size(aspect_ratio: str, image_size: str) -> tuple[int, int] | None:
    """Return width and height in pixels, None where there are no such pictures.

    Args:
        aspect_ratio: as ``16:9``; empty for a square.
        image_size: ``1K``, ``2K`` or ``4K``; empty for the first.
    """
    size, scale = _SIZES.get(aspect_ratio or "1:1"), _SCALES.get(image_size.upper())
    return None if size is None or scale is None else (size[0] * scale, size[1] * scale)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache(maxsize=64)
def _tiles(width: int, height: int) -> bytes:
    """Return the pixels of a picture of tiles in two colours, as the chunk of a PNG."""
    row_bytes = (width + 7) // 8
    tiles = (b"\x00" * _TILE_BYTES + b"\xff" * _TILE_BYTES) * (row_bytes // _TILE_BYTES + 2)
    rows = (tiles[:row_bytes], tiles[_TILE_BYTES : _TILE_BYTES + row_bytes])
    lines = [b"\0" + rows[(line // (8 * _TILE_BYTES)) & 1] for line in range(height)]
    return _chunk(b"IDAT", zlib.compress(b"".join(lines)))


def picture(width: int, height: int, colours: bytes) -> bytes:
    """Return a PNG of tiles.

    Args:
        width: in pixels.
        height: in pixels.
        colours: six bytes, two colours.
    """
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0))
    palette = _chunk(b"PLTE", colours)
    return b"\x89PNG\r\n\x1a\n" + header + palette + _tiles(width, height) + _chunk(b"IEND", b"")


@lru_cache(maxsize=16)
def _tone(pitch: int) -> bytes:
    """Return 40 ms of a tone."""
    count = _RATE // _SOUND_TOKENS_PER_S
    waves = (round(8000 * math.sin(2 * math.pi * pitch * index / _RATE)) for index in range(count))
    return struct.pack(f"<{count}h", *waves)


def sound(tokens: int, digest: bytes) -> bytes:
    """Return 16-bit samples, little-endian, one channel, 40 ms a token.

    Args:
        tokens: how long.
        digest: decides how high.
    """
    return _tone(200 + 25 * (digest[0] & 15)) * tokens
