"""What a finished request will take, as far as its JSON tells: input tokens by kind, the cap of its output, tools.

Owns where a request says so, in either spelling of its fields. It is pure, and must not know prices. Nothing is checked
here: what cannot be read counts as text.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from carpool._core.estimate import TILE_TOKENS, media_tokens, text_tokens, video_tokens
from carpool._gemini.plain import encode, is_object, is_sequence, snake

_HEAD_CHARS: Final = 65_536
_CLIP_S_MAX: Final = 1_000_000
_SEARCHES: Final = ("googleSearch", "googleSearchRetrieval")


class Survey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request will take."""

    tokens: int
    """Estimate of the input, at least 1."""
    audio: int = 0
    """Of the tokens: of sound."""
    image: int = 0
    """Of the tokens: of pictures."""
    video: int = 0
    """Of the tokens: of films."""
    other: int = 0
    """Of the tokens: of documents, and of what this version does not know."""
    candidates: int = 1
    cap: int = 0
    """Most tokens of output: ``maxOutputTokens`` times the candidates; 0: none is named."""
    unsized: int = 0
    """Media whose size or length is not in the request: each counts as a small picture."""
    searches: bool = False
    """Whether the model may search, which costs a fee."""
    cached: bool = False
    """Whether it uses cached content, whose tokens are not in the request."""

    @property
    def has_media(self) -> bool:
        """Whether it holds anything but text."""
        return bool(self.audio or self.image or self.video or self.other)


def survey_request(fields: dict[str, Any]) -> Survey:
    """Return what a decoded request of either kind will take."""
    text_bytes = unsized = 0
    media = {"audio": 0, "image": 0, "video": 0, "other": 0}
    for part in _parts(fields):
        if isinstance(text := part.get("text"), str):
            text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            continue
        found = _media(part)
        if found is None:
            text_bytes += len(encode(part))
        else:
            kind, tokens = found
            media[kind if kind in media else "other"] += tokens or TILE_TOKENS
            unsized += not tokens
    tools = _get(fields, "tools")
    if tools:
        text_bytes += len(encode(tools))
    generation = _get(fields, "generationConfig")
    cap, candidates = (_number(_get(generation, name)) for name in ("maxOutputTokens", "candidateCount"))
    candidates = min(max(1, candidates), 8)
    return Survey(
        tokens=text_tokens(text_bytes) + sum(media.values()) or 1,
        **media,
        candidates=candidates,
        cap=cap * candidates,
        unsized=unsized,
        searches=any(_get(tool, name) is not None for tool in _list(tools) for name in _SEARCHES),
        cached=bool(_get(fields, "cachedContent")),
    )


def _parts(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("systemInstruction", "contents", "content"):
        for turn in _list(_get(fields, name)):
            yield from (part for part in _list(_get(turn, "parts")) if is_object(part))


def _media(part: dict[str, Any]) -> tuple[str, int] | None:
    """Return kind and tokens of a part that is media, 0 tokens where they are not known; ``None``: it is none."""
    inline, file = _get(part, "inlineData"), _get(part, "fileData")
    if inline is None and file is None:
        return None
    mime_type = str(_get(file if inline is None else inline, "mimeType") or "")
    kind = mime_type.lower().partition("/")[0]
    if kind == "video" or inline is None:
        length_s = _clip_s(_get(part, "videoMetadata"))
        return kind, video_tokens(length_s) if length_s else 0
    data = str(_get(inline, "data") or "")
    head = data[:_HEAD_CHARS].replace("+", "-").replace("/", "_")
    try:
        first = urlsafe_b64decode(head + "=" * (-len(head) % 4))
    except (Error, ValueError):
        return kind, 0
    tokens = media_tokens(mime_type, first, len(data) * 3 // 4)
    return kind, 0 if tokens == TILE_TOKENS and kind != "image" else tokens


def _clip_s(clip: Any) -> float:
    """Return the length of a part of a film that is named by its start and end; 0 if it is not."""
    start, end = (_seconds(_get(clip, name)) for name in ("startOffset", "endOffset"))
    return max(0.0, end - start)


def _seconds(value: Any) -> float:
    try:
        seconds = float(str(value or 0).removesuffix("s"))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds <= _CLIP_S_MAX else 0.0


def _get(value: Any, name: str) -> Any:
    """Return a field of an object, in either spelling."""
    if not is_object(value):
        return None
    found = value.get(name)
    return value.get(snake(name)) if found is None else found


def _list(value: Any) -> list[Any]:
    if is_sequence(value):
        return list(value)
    return [] if value is None else [value]


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return value if type(value) is int and 0 < value < 10**12 else 0
