"""Where things stand in JSON that a strict decoder refuses: lone surrogates (text cut inside an emoji), NaN, odd UTF-8.

Owns a scanner that finds the spans of values without changing or decoding a byte of them: what a hostile server sends
may take up dozens of times its size once it is decoded. Work and nesting are capped. It must not know what the values
mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from carpool._gemini.plain import is_object, is_sequence

Span: TypeAlias = tuple[int, int]
"""Start and end of a value in its bytes."""
Skip: TypeAlias = Callable[[bytes, int], int]

VALUE_BYTES_MAX: Final = 65_536
"""Largest value that is decoded."""
_DEPTH_MAX: Final = 500
_VALUES_MAX: Final = 500_000
_BRACKETS_MAX: Final = 4_000_000
_FIELDS_MAX: Final = 1_000
_ELEMENTS_MAX: Final = 262_144
"""An inline create has less than 20 MB, which is room for fewer rows."""
_BLANK: Final = rb"[ \t\r\n]*+"
_STRING: Final = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*+"'
_NUMBER: Final = rb"-?(?:Infinity|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)"
_blank: Final = re.compile(_BLANK)
_value: Final = re.compile(_BLANK + rb"(?:[\[{]|" + _STRING + rb"|" + _NUMBER + rb"|true|false|null|NaN)")
_name: Final = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":")
_after: Final = re.compile(_BLANK + rb"[,\]}]")
_closer: Final = re.compile(_BLANK + rb"[\]}]")
_run: Final = re.compile(rb'[^"\[\]{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"\[\]{}]*+)*+', re.DOTALL)
_COMMA, _LIST, _LIST_END, _OBJECT, _OBJECT_END = b",[]{}"


def check(data: bytes, at: int = 0) -> int:
    """Return where the value ends that stands here; raise ``ValueError`` if it is none, or too deep or too long."""
    ends = bytearray()
    for _ in range(_VALUES_MAX):
        at = _past(_value, data, at)
        opened = data[at - 1]
        if opened in (_LIST, _OBJECT):
            if len(ends) >= _DEPTH_MAX:
                raise ValueError(f"it is nested deeper than {_DEPTH_MAX} levels")
            ends.append(opened + 2)
            if not _closer.match(data, at):
                at = _past(_name, data, at) if opened == _OBJECT else at
                continue
        while ends:
            at = _past(_after, data, at)
            if data[at - 1] == _COMMA:
                at = _past(_name, data, at) if ends[-1] == _OBJECT_END else at
                break
            if data[at - 1] != ends.pop():
                raise ValueError("its brackets do not match")
        else:
            return at
    raise ValueError(f"it holds more than {_VALUES_MAX} values")


def hop(data: bytes, at: int = 0) -> int:
    """Return where the value ends that stands here, by quotes and brackets alone: what is inside is not checked."""
    at = _past(_value, data, at)
    if data[at - 1] not in (_LIST, _OBJECT):
        return at
    depth = 1
    for _ in range(_BRACKETS_MAX):
        at = _past(_run, data, at) + 1
        mark = data[at - 1 : at]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark not in (b"]", b"}"):
            raise ValueError("it breaks off")
        else:
            depth -= 1
            if not depth:
                return at
    raise ValueError(f"it holds more than {_BRACKETS_MAX} brackets")


def fields_of(data: bytes, skip: Skip = check) -> dict[str, Span]:
    """Return where each field of an object stands.

    Args:
        data: the object, and nothing else.
        skip: finds the end of a value: ``check``, or ``hop`` for what is checked later.

    Raises:
        ValueError: it is no object, or has more fields than any that is known.
    """
    spans: dict[str, Span] = {}
    at = _first(data, _OBJECT)
    more = data[at] != _OBJECT_END
    for _ in range(_FIELDS_MAX):
        if not more:
            _closed(data, at, _OBJECT_END)
            return spans
        name = _name.match(data, at)
        if name is None:
            raise ValueError("a name is wanted")
        start = _past(_blank, data, name.end())
        stop = skip(data, start)
        spans[_decoded(name[1])] = (start, stop)
        at, more = _next(data, stop)
    raise ValueError(f"it has more than {_FIELDS_MAX} fields")


def elements_of(data: bytes) -> Iterator[bytes]:
    """Iterate over the elements of a list as they came, unchecked but for quotes and brackets.

    Raises:
        ValueError: it is no list, or too long. What came before that was seen is good.
    """
    at = _first(data, _LIST)
    more = data[at] != _LIST_END
    for _ in range(_ELEMENTS_MAX):
        if not more:
            _closed(data, at, _LIST_END)
            return
        start = _past(_blank, data, at)
        stop = hop(data, start)
        yield data[start:stop]
        at, more = _next(data, stop)
    raise ValueError(f"it has more than {_ELEMENTS_MAX} elements")


def is_filled(data: bytes) -> bool:
    """Return whether a list holds anything."""
    return data[:1] == b"[" and not data.startswith(b"]", _past(_blank, data, 1))


def value_of(data: bytes, span: Span | None) -> Any:
    """Return a value decoded, with what UTF-8 cannot carry replaced; ``None`` for no span.

    Raises:
        ValueError: it cannot be decoded, or is larger than ``VALUE_BYTES_MAX``.
        RecursionError: it is nested too deeply.
    """
    return None if span is None else _decoded(data[span[0] : span[1]])


def raw_of(data: bytes, span: Span | None) -> msgspec.Raw:
    """Return the bytes of a value as they came; empty for no span."""
    return msgspec.Raw() if span is None else msgspec.Raw(data[span[0] : span[1]])


def _decoded(data: bytes) -> Any:
    if len(data) > VALUE_BYTES_MAX:
        raise ValueError(f"it is larger than {VALUE_BYTES_MAX} bytes")
    return _clean(json.loads(data.decode("utf-8", "surrogateescape")))


def _past(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    if found is None:
        raise ValueError("this is not JSON")
    return found.end()


def _next(data: bytes, at: int) -> tuple[int, bool]:
    """Return what follows an element: where the next one may start, or where the end stands, and which of both."""
    at = _past(_after, data, at)
    return (at, True) if data[at - 1] == _COMMA else (at - 1, False)


def _first(data: bytes, mark: int) -> int:
    """Return where the first element stands, or the end."""
    at = _past(_blank, data, 0)
    if data[at : at + 1] != bytes((mark,)):
        raise ValueError(f"{chr(mark)} is wanted")
    at = _past(_blank, data, at + 1)
    if at == len(data):
        raise ValueError("it breaks off")
    return at


def _closed(data: bytes, at: int, mark: int) -> None:
    if data[at : at + 1] != bytes((mark,)) or _past(_blank, data, at + 1) != len(data):
        raise ValueError("it does not end where it should")


def _clean(value: Any) -> Any:
    """Return a value that can be written down again: lone surrogates become question marks."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if is_object(value):
        return {_clean(name): _clean(item) for name, item in value.items()}
    if is_sequence(value):
        return [_clean(item) for item in value]
    return value
