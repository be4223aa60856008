"""Users' values to plain JSON data: what every part of a request is made of before it is encoded.

Owns the renaming to camelCase, the dropping of ``None``, base64, and the errors that name the place of what cannot be
sent. It must not know which fields a request has, nor import google-genai or pydantic: their objects are known by their
methods.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import date
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache
from math import isfinite
from types import GenericAlias, UnionType
from typing import Any, Final, TypeGuard, get_origin

import msgspec

from carpool._showing import in_short
from carpool.errors import ConfigurationError

DEPTH_MAX: Final = 100
"""Nesting that protobuf's JSON parser takes."""

_VERBATIM: Final = frozenset(
    {"args", "response", "partMetadata", "labels", "headers", "parametersJsonSchema", "responseJsonSchema"}
)
"""Fields whose values are the user's own data: names inside are not Google's and stay as they are."""

_FIELD_CHARS_MAX: Final = 40
LONE_SURROGATE: Final = "the text holds a lone surrogate, which UTF-8 cannot carry"

_LONG_STEP: Final = re.compile(r"[^.\[\]]{41,}")
"""A step of a path that is no field of the service, but a user's own, which may be anything."""

encode: Final = msgspec.json.Encoder().encode


@lru_cache(maxsize=2_048)
def camel(name: str) -> str:
    """Return a field's name in camelCase, whichever way it was written."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest) if head else name


@lru_cache(maxsize=2_048)
def snake(name: str) -> str:
    """Return a field's name in snake_case."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def is_model(value: Any) -> bool:
    """Return whether this is an instance of a pydantic model, as google-genai's types are."""
    return hasattr(value, "model_dump") and not isinstance(value, type)


def dump(value: Any, path: str) -> dict[str, Any]:
    """Return the fields of a pydantic model that are set, in camelCase where the model has such aliases."""
    dumped: Any = None
    try:
        dumped = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    except Exception as error:  # noqa: BLE001 - whatever the model's own code raises; pydantic's errors are not importable
        why = type(error).__name__
    else:
        why = ""
    if why:  # raised here, it does not drag the other along, whose words quote values
        raise bad_value(path, f"{type(value).__name__} cannot be encoded ({why})")
    if not is_object(dumped):
        raise bad_value(path, f"{type(value).__name__} is not an object")
    return dumped


def tidy(value: Any, path: str, depth: int = 0) -> Any:
    """Return a part of a request as plain data: names in camelCase and sorted, ``None`` dropped, bytes in base64.

    Raises:
        ConfigurationError: something in it cannot be sent; the message names the place.
    """
    if type(value) is str or value is None or value is True or value is False or type(value) is int:
        return value
    if depth > DEPTH_MAX:
        raise bad_value(path, f"it is nested deeper than {DEPTH_MAX} levels")
    if is_model(value):
        value = dump(value, path)
    if is_mapping(value):
        return _tidy_mapping(value, path, depth)
    if is_sequence(value):
        return [tidy(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _scalar(value, path)


def _tidy_mapping(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise bad_value(path, f"its field name is {in_short(name)} and not a string")
        if item is None:
            continue
        field = camel(name)
        if field in result:
            raise bad_value(path, f"the field {field_shown(field)} is given twice (in snake_case and in camelCase)")
        convert = verbatim if field in _VERBATIM else tidy
        result[field] = convert(item, f"{path}.{name}", depth + 1)
    return dict(sorted(result.items())) if len(result) > 1 else result


def verbatim(value: Any, path: str, depth: int = 0) -> Any:
    """Return data whose names belong to the user: as it is, once everything in it can be sent."""
    if type(value) is str or value is None or value is True or value is False or type(value) is int:
        return value
    if depth > DEPTH_MAX:
        raise bad_value(path, f"it is nested deeper than {DEPTH_MAX} levels")
    if is_model(value):
        value = dump(value, path)
    if is_mapping(value):
        for name in value:
            if not isinstance(name, str):
                raise bad_value(path, f"its field name is {in_short(name)} and not a string")
        return {name: verbatim(item, f"{path}.{name}", depth + 1) for name, item in value.items()}
    if is_sequence(value):
        return [verbatim(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _scalar(value, path)


def _scalar(value: Any, path: str) -> Any:
    if isinstance(value, float):
        if not isfinite(value):
            raise bad_value(path, f"{value} is not a JSON number")
        return float(value)
    if isinstance(value, Enum):
        return _scalar(value.value, path)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes | bytearray):
        return base64.urlsafe_b64encode(value).decode("ascii")
    if isinstance(value, date):
        return value.isoformat()
    raise bad_value(path, f"objects of type {type(value).__name__} cannot be encoded")


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether this is a dict or behaves as one."""
    return isinstance(value, Mapping)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether this is plain data's kind of object."""
    return isinstance(value, dict)


def is_sequence(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Return whether this is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_type(value: Any) -> bool:
    """Return whether this is a class, or a generic or union of classes."""
    return isinstance(value, type | GenericAlias | UnionType) or get_origin(value) is not None


def to_json(value: Any, path: str) -> bytes:
    """Encode plain data; ``path`` is where an error is looked for.

    Raises:
        ConfigurationError: it holds a lone surrogate, or something else that JSON or UTF-8 has no bytes for.
    """
    try:
        return encode(value)
    except UnicodeEncodeError:
        place, why = surrogate_path(value, path) or path, LONE_SURROGATE
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        place, why = path, f"it cannot be encoded ({type(error).__name__}: {error})"
    raise bad_value(place, why)  # raised here, it does not drag the other along, which holds the text


def surrogate_path(value: Any, path: str) -> str:
    """Return where a text that UTF-8 cannot carry stands; empty if there is none."""
    if isinstance(value, str):
        return "" if is_utf8(value) else path
    if is_mapping(value):
        inner = [(f"{path}.{ascii(name)[1:-1]}", name, item) for name, item in value.items()]
    elif is_sequence(value):
        inner = [(f"{path}[{index}]", "", item) for index, item in enumerate(value)]
    else:
        return ""
    found = (place if not is_utf8(name) else surrogate_path(item, place) for place, name, item in inner)
    return next(filter(None, found), "")


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can carry the text."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bad_value(path: str, why: str) -> ConfigurationError:
    """Return the error for a value that cannot be sent, naming its place."""
    return ConfigurationError(f"{_LONG_STEP.sub(_shortened, path)}: {why}. Nothing was sent.")


def unknown_field(name: str, known: Iterable[str], what: str, hint: str = "") -> ConfigurationError:
    """Return the error for a field that ``what`` does not have: it names the nearest and lists all."""
    names = sorted({snake(field) for field in known})
    nearest = get_close_matches(snake(camel(name)), names, n=1, cutoff=0.5)
    guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names)
    return ConfigurationError(
        f"{what} has no field {field_shown(name)}.{guess}{hint} It has: {listed}. Nothing was sent."
    )


def _shortened(step: re.Match[str]) -> str:
    return f"{step[0][:8]}..."


def field_shown(name: str) -> str:
    """Return how a field's name is shown: whole only if it may be one, for it may as well be a prompt."""
    return repr(name) if len(name) <= _FIELD_CHARS_MAX and not any(map(str.isspace, name)) else f"{name[:8]!r}..."
