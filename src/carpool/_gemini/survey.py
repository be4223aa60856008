"""What a finished request will take, as far as its JSON tells: input tokens by kind, the cap of its output, tools.

Owns where a request says so, in either spelling of its fields, and how far an estimate may be off. It is pure, and must
not know prices. Nothing is checked here: what cannot be read counts as text.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from carpool._core.estimate import TILE_TOKENS, media_tokens, text_tokens, video_tokens
from carpool._gemini.plain import encode, is_object, is_sequence, snake

_HEAD_CHARS: Final = 65_536
_CLIP_S_MAX: Final = 1_000_000
_SEARCHES: Final = ("googleSearch", "googleSearchRetrieval")
_SCHEMAS: Final = ("responseSchema", "responseJsonSchema")
_DIGITS: Final = b"0123456789"
_PICTURE_TOKENS_MOST: Final = 1_120
"""Of a picture of any size, as later models read it; earlier ones go by tiles."""
_OFF_PERCENT: Final[dict[str, tuple[int, int]]] = {"audio": (40, 200), "video": (33, 115)}
"""Sound that is compressed has more or fewer bytes a second than MP3 usually has; later models read films in less."""


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
    json_schema: bool = False
    """Whether it forms its answer by ``responseJsonSchema``, which was reported to be ignored in batches."""

    @property
    def has_media(self) -> bool:
        """Whether it holds anything but text."""
        return bool(self.audio or self.image or self.video or self.other)


class Takes(NamedTuple):
    """Input tokens, by what they are of."""

    text: int
    audio: int = 0
    image: int = 0
    video: int = 0
    other: int = 0


class Spread(NamedTuple):
    """How far the survey of a request may be off."""

    least: Takes
    most: Takes
    thinking: int
    """Tokens that it allows for thinking; 0 if it names none."""


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
        json_schema=bool(_get(generation, "responseJsonSchema")),
    )


def spread_of(fields: dict[str, Any]) -> Spread:
    """Return what a decoded request takes at least and at most, one time in ten each as far as rules of thumb go.

    Letters of ASCII: 15 % less or more than four a token. Digits: up to one a token. Other characters: four a token, or
    three bytes. Pictures: one tile, or what is most. What a model may or may not be shown (tools, the shape of the
    answer) counts at most.
    """
    letters = digits = wide = wide_bytes = 0
    least = {"audio": 0, "image": 0, "video": 0, "other": 0}
    most = dict(least)
    for part in _parts(fields):
        text = part.get("text")
        found = None if isinstance(text, str) else _media(part)
        if found is not None:
            kind, (low, high) = found[0], _off(*found)
            kind = kind if kind in least else "other"
            least[kind] += low
            most[kind] += high
            continue
        if not isinstance(text, str):
            text = encode(part).decode()
        narrow = text.encode("ascii", "ignore")
        letters += len(narrow)
        digits += len(narrow) - len(narrow.translate(None, _DIGITS))
        if len(narrow) < len(text):
            wide += len(text) - len(narrow)
            wide_bytes += len(text.encode("utf-8", "surrogatepass")) - len(narrow)
    generation = _get(fields, "generationConfig")
    asides = [_get(fields, "tools"), *(_get(generation, name) for name in _SCHEMAS)]
    shown = sum(len(encode(aside)) for aside in asides if aside)
    return Spread(
        least=Takes((letters + wide) * 85 // 400, **least),
        most=Takes(-(-((letters + shown) * 345 + digits * 900 + wide_bytes * 400) // 1_200), **most),
        thinking=_number(_get(_get(generation, "thinkingConfig"), "thinkingBudget")),
    )


def _off(kind: str, tokens: int) -> tuple[int, int]:
    """Return the least and the most that media of so many tokens take; those of unknown size stay as they are."""
    if kind == "image":
        return TILE_TOKENS, max(tokens, _PICTURE_TOKENS_MOST)
    low, high = _OFF_PERCENT.get(kind, (85, 115))
    return (tokens * low // 100, tokens * high // 100) if tokens else (TILE_TOKENS, TILE_TOKENS)


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
