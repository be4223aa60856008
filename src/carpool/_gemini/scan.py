"""Where things stand in JSON that a strict decoder refuses: lone surrogates (text cut inside an emoji), NaN, odd UTF-8.

Owns a scanner that finds the spans of values without changing a byte of them. Ask ``whole`` first: it checks the text,
and the others rely on that. It must not know what the values mean.
"""

from __future__ import annotations

from json import JSONDecodeError, JSONDecoder
from typing import Any, Final, TypeAlias

import msgspec

from carpool._gemini.plain import is_object, is_sequence

Span: TypeAlias = tuple[int, int]
"""Start and end of a value in its text."""

_BLANK: Final = " \t\r\n"
_json: Final = JSONDecoder()


def text_of(data: bytes) -> str:
    """Return the text of JSON bytes, such that ``raw_of`` gives back the same bytes whatever they are."""
    return data.decode("utf-8", "surrogateescape")


def raw_of(text: str, span: Span) -> msgspec.Raw:
    """Return the bytes of a value as they came."""
    return msgspec.Raw(text[span[0] : span[1]].encode("utf-8", "surrogateescape"))


def value_of(text: str, span: Span | None) -> Any:
    """Return a value decoded, with what UTF-8 cannot carry replaced; ``None`` for no span."""
    return None if span is None else _clean(_json.raw_decode(text, span[0])[0])


def whole(text: str) -> Span:
    """Return the span of the only value of a text; raise ``ValueError`` if there is none, or more than one."""
    start = _skip(text, 0)
    _, stop = _json.raw_decode(text, start)
    if _skip(text, stop) != len(text):
        raise JSONDecodeError("the text goes on after its value", "", 0)
    return start, stop


def fields_of(text: str, span: Span) -> dict[str, Span]:
    """Return where each field of an object stands; raise ``ValueError`` if it is no object."""
    spans: dict[str, Span] = {}
    at = _opened(text, span[0], "{")
    while text[at : at + 1] != "}":
        name, at = _json.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, stop = _json.raw_decode(text, start)
        spans[name] = (start, stop)
        at = _after(text, stop)
    return spans


def elements_of(text: str, span: Span) -> list[Span]:
    """Return where each element of an array stands; raise ``ValueError`` if it is no array."""
    spans: list[Span] = []
    at = _opened(text, span[0], "[")
    while text[at : at + 1] != "]":
        _, stop = _json.raw_decode(text, at)
        spans.append((at, stop))
        at = _after(text, stop)
    return spans


def starts_with(text: str, span: Span, mark: str) -> bool:
    """Return whether a value starts with this character: ``{`` for an object, ``[`` for an array."""
    return text[span[0] : span[0] + 1] == mark


def _opened(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise JSONDecodeError(f"{mark} is wanted", "", 0)
    return _skip(text, at + 1)


def _after(text: str, at: int) -> int:
    """Return where the next element starts, or where the end stands."""
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _clean(value: Any) -> Any:
    """Return a value that can be written down again: lone surrogates become question marks."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if is_object(value):
        return {_clean(name): _clean(item) for name, item in value.items()}
    if is_sequence(value):
        return [_clean(item) for item in value]
    return value
