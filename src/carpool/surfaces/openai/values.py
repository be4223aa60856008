"""What a body in OpenAI's shape holds, read value by value, and the refusal of what has no native form.

Owns the checks of JSON values and their words: each names the place, and shows nothing of a prompt. It must not know
what fields mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, Final, TypeGuard

import msgspec

from carpool._showing import in_short

DEPTH_MAX: Final = 90
"""Nesting of users' own data: Google's parser takes 100 levels, of which a request's own frame has some."""
INT32_MAX: Final = 2**31 - 1

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class Untranslatable(Exception):
    """A request in OpenAI's shape that has no native form: an error of its caller, HTTP 400.

    Args:
        message: what is wrong, where, and what to do.
        param: the place, as OpenAI's errors name it; None if it is the whole body.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


def refused(param: str, why: str) -> Untranslatable:
    """Return the refusal of a value, naming its place."""
    return Untranslatable(f"{param}: {why}. Nothing was sent.", param)


def decoded(body: bytes) -> dict[str, Any]:
    """Decode a body.

    Raises:
        Untranslatable: it is not a JSON object.
    """
    why = "it is not a JSON object"
    try:
        fields = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        # Raised outside of this block, the refusal does not drag the bytes along.
        fields, why = None, f"it is not JSON ({type(error).__name__})"
    if not is_object(fields):
        raise Untranslatable(f"The body cannot be read: {why}. Nothing was sent.")
    return fields


def known(fields: Mapping[str, Any], names: Collection[str], where: str, *, hint: str = "") -> None:
    """Refuse fields that are not known: nothing is left out unseen.

    Args:
        fields: of an object.
        names: that it may have.
        where: path of the object, empty for the body.
        hint: what else may be done, as a sentence.
    """
    for name in fields:
        if name not in names:
            param = f"{where}.{name}" if where else name
            words = f"carpool knows no native form of the field {in_short(name)}; leave it out"
            raise refused(param if _FIELD.fullmatch(name) else where or "body", f"{words}{hint}")


def shaped(value: Any, param: str) -> dict[str, Any]:
    """Return an object."""
    if not is_object(value):
        raise refused(param, f"it must be an object, not {kind_of(value)}")
    return value


def listed(value: Any, param: str) -> list[Any]:
    """Return a list."""
    if not is_list(value):
        raise refused(param, f"it must be a list, not {kind_of(value)}")
    return value


def text_of(value: Any, param: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise refused(param, f"it must be a string, not {kind_of(value)}")
    return value


def filled(value: Any, param: str) -> str:
    """Return a string that is not empty."""
    text = text_of(value, param)
    if not text:
        raise refused(param, "it is empty")
    return text


def flag(value: Any, param: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise refused(param, f"it must be true or false, not {kind_of(value)}")
    return value


def whole(value: Any, param: str, least: int, most: int) -> int:
    """Return a whole number within limits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise refused(param, f"it must be a whole number, not {kind_of(value)}")
    if not least <= value <= most:
        raise refused(param, f"it must be from {least} to {most}")
    return value


def number(value: Any, param: str, least: float, most: float) -> float:
    """Return a number within limits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(param, f"it must be a number, not {kind_of(value)}")
    if not (isfinite(value) and least <= value <= most):
        raise refused(param, f"it must be from {least:g} to {most:g}")
    return value


def one_of(value: Any, param: str, values: Collection[str], *, hint: str = "") -> str:
    """Return a string that is one of some."""
    text = text_of(value, param)
    if text not in values:
        raise refused(param, f"it is {in_short(text)}, and must be one of {', '.join(values)}{hint}")
    return text


def own_data(value: Any, param: str) -> dict[str, Any]:
    """Return an object of the user's own, which is sent as it is, if Google's parser goes as deep as it is nested."""
    fields = shaped(value, param)
    if is_deep(fields):
        raise refused(param, f"it is nested deeper than {DEPTH_MAX} levels")
    return fields


def is_deep(value: Any) -> bool:
    """Return whether data is nested deeper than Google's parser goes."""
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for item in level:
            if is_object(item):
                below += item.values()
            elif is_list(item):
                below += item
        if not below:
            return False
        level = below
    return True


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether decoded JSON is an object."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Return whether decoded JSON is a list."""
    return isinstance(value, list)


def is_base64(text: str) -> bool:
    """Return whether a text is base64 in either alphabet, padded or not, as Google's parser reads it."""
    found = _BASE64.fullmatch(text)
    return found is not None and len(text.rstrip("=")) % 4 != 1


def kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
