"""What a message may hold.

Owns the check of a decoded message against the table of known fields, and Google's two ways of saying what is wrong:
with paths (a call's body, inline requests) and with lines and columns (the lines of a file). It must not know what
fields mean.

Almost every message is right, so the check is a quick yes or no; only a no is walked again for the words. Names may
come in both spellings, a single value may stand for a list, and a null for nothing, as Google's reader has it. What
wrong types are answered with is known from refusals that users met for the most part; for lines of files only the words
for an unknown field are, the rest follow the library that Google reads JSON with.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Final

import msgspec

from .knownfields import MESSAGES, PART_DATA, Field
from .messages import TYPE_PREFIX, ApiError, Json, JsonObject

_TYPES: Final = {
    "s": "TYPE_STRING",
    "y": "TYPE_BYTES",
    "b": "TYPE_BOOL",
    "i": "TYPE_INT32",
    "l": "TYPE_INT64",
    "f": "TYPE_FLOAT",
    "d": "TYPE_DOUBLE",
}
_EXPECTED: Final = {"s": "a string", "y": "a string", "e": "a string", "b": "a bool"}
_PART_DATA: Final = frozenset(PART_DATA)
_PACKAGE: Final = TYPE_PREFIX + "google.ai.generativelanguage.v1beta."


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a message.

    Attributes:
        field: path that the violation names, empty at the top level.
        text: the words of a refusal with paths.
        name: the field's name as it was spelt.
        line_text: the words of a refusal with lines.
    """

    field: str
    text: str
    name: str
    line_text: str


def is_clean(message: str, value: Json) -> bool:
    """Return whether nothing is wrong with a message.

    Args:
        message: name of the message in the table.
        value: the message, decoded.
    """
    if type(value) is not dict:
        return False
    known = MESSAGES[message]
    for name, item in value.items():
        field = known.get(name)
        if field is None:
            return False
        if type(item) not in field.plain and not _is_clean_field(field, item):
            return False
    return not (message == "Part" and len(value) > 1 and _doubled_data(value))


def _is_clean_field(field: Field, item: Json) -> bool:
    _, types, message, repeated, is_map, code, _, _, _, _ = field
    if code == "x" or item is None:
        return True
    if repeated and type(item) is list:
        if message:
            for one in item:  # noqa: SIM110 (quicker than all() for the one or two that there are)
                if not is_clean(message, one):
                    return False
            return True
        return all(type(one) in types and _is_clean_scalar(field, one) for one in item)
    if is_map:
        return type(item) is dict and all(is_clean(message, one) for one in item.values())
    if message:
        return is_clean(message, item)
    return type(item) in types and (code in "sb" or _is_clean_scalar(field, item))


def _is_clean_scalar(field: Field, value: Json) -> bool:
    """Look into a value whose type is right."""
    match field.code:
        case "e":
            # Enumerations are read in any case.
            return not field.values or not isinstance(value, str) or value.upper() in field.values
        case "i" | "l":
            return _is_whole(value)
        case "f" | "d":
            return not isinstance(value, str) or _number(value)
        case "y":
            return isinstance(value, str) and _is_base64(value)
        case _:
            return True


def _is_whole(value: Json) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?\d{1,19}", value) is not None
    return not isinstance(value, float) or value.is_integer()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_BASE64: Final = (string.ascii_letters + string.digits + "+/-_").encode()


def _is_base64(text: str) -> bool:
    """Return whether a text is base64 in either alphabet, padded or not."""
    raw = text.encode("utf-8", "surrogatepass").rstrip(b"=")
    return len(raw) % 4 != 1 and not raw.translate(None, _BASE64)


def _doubled_data(part: JsonObject) -> str | None:
    """Return the second field of a part that holds data, None if there is one at most."""
    first: Field | None = None
    for name, item in part.items():
        field = MESSAGES["Part"].get(name)
        if field is None or item is None or field.name not in _PART_DATA:
            continue
        if first is not None:
            return name
        first = field
    return None


# -- the words


def wrongs(message: str, value: Json, path: str, name: str = "") -> Iterator[Wrong]:
    """Yield everything that is wrong with a message.

    Args:
        message: name of the message in the table.
        value: the message, decoded.
        path: of the message as refusals write it, empty at the top level.
        name: of the field that it is, as it was spelt.
    """
    if not isinstance(value, dict) and not path:
        yield _bad_name("", "", "Root element must be a message.", "expected an object")
        return
    if not isinstance(value, dict):
        yield _wrong_value(path, name, _PACKAGE + message, value, "expected an object")
        return
    known = MESSAGES[message]
    for spelt, item in value.items():
        field = known.get(spelt)
        if field is None:
            yield _bad_name(path, spelt, "Cannot find field.", f"no such field: '{spelt}'")
        elif not _is_clean_field(field, item):
            yield from _field_wrongs(field, spelt, item, path)
    if message == "Part" and (second := _doubled_data(value)) is not None:
        text = f"Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot set '{second}'"
        line = f"'{second}' has already been set (either directly or as part of a oneof)"
        yield Wrong(field=path, text=text, name=second, line_text=line)


def _field_wrongs(field: Field, name: str, item: Json, path: str) -> Iterator[Wrong]:
    place = f"{path}.{field.snake}" if path else field.snake
    if isinstance(item, list) and not field.repeated:
        reason = "Proto field is not repeating, cannot start list."
        yield _bad_name(path, name, reason, f"expected {_EXPECTED.get(field.code, 'a single value')}")
    elif field.is_map:
        for index, one in enumerate(item.values() if isinstance(item, dict) else ()):
            yield from wrongs(field.message, one, f"{place}[{index}].value", name)
        if not isinstance(item, dict):
            yield _wrong_value(place, name, "Map", item, "expected an object")
    else:
        many = isinstance(item, list)
        for index, one in enumerate(item if isinstance(item, list) else [item]):
            own = f"{place}[{index}]" if many else place
            if field.message:
                yield from wrongs(field.message, one, own, name)
            elif type(one) not in field.types or not _is_clean_scalar(field, one):
                yield _bad_scalar(field, name, one, path, own)


def _bad_scalar(field: Field, name: str, value: Json, path: str, place: str) -> Wrong:
    expected = f"expected {_EXPECTED.get(field.code, 'a number')}"
    if isinstance(value, dict):
        text = f"Invalid value at '{path}' ({field.snake}), Starting an object on a scalar field"
        return Wrong(field=path, text=text, name=name, line_text=expected)
    if field.code == "y" and isinstance(value, str):
        text = f"Invalid value at '{place}' (TYPE_BYTES), Base64 decoding failed for \"{value[:64]}\""
        return Wrong(field=place, text=text, name=name, line_text="corrupt base64")
    if field.code == "e" and isinstance(value, str):
        expected = f"unknown enum value: '{value}'"
    return _wrong_value(place, name, _TYPES.get(field.code, _PACKAGE + (field.enum or field.name)), value, expected)


def _wrong_value(place: str, name: str, kind: str, value: Json, line_text: str) -> Wrong:
    shown = msgspec.json.encode(value).decode()
    return Wrong(field=place, text=f"Invalid value at '{place}' ({kind}), {shown}", name=name, line_text=line_text)


def _bad_name(path: str, name: str, reason: str, line_text: str) -> Wrong:
    place = f" at '{path}'" if path else ""
    text = f'Invalid JSON payload received. Unknown name "{name}"{place}: {reason}'
    return Wrong(field=path, text=text, name=name, line_text=line_text)


def unknown_names(path: str, names: list[str]) -> list[Wrong]:
    """Return what is wrong with a message that has unknown fields.

    Args:
        path: of the message, empty at the top level.
        names: of the fields, as they were spelt.
    """
    return [_bad_name(path, name, "Cannot find field.", f"no such field: '{name}'") for name in names]


def refusal(found: list[Wrong]) -> ApiError:
    """Return the refusal of a body with all that is wrong with it, by path."""
    violations: list[Json] = []
    for wrong in found:
        where: JsonObject = {"field": wrong.field} if wrong.field else {}
        violations.append(where | {"description": wrong.text})
    detail: JsonObject = {"@type": TYPE_PREFIX + "google.rpc.BadRequest", "fieldViolations": violations}
    return ApiError(400, "\n".join(wrong.text for wrong in found), details=[detail])


def check(message: str, value: Json, path: str = "") -> None:
    """Refuse a message that has anything wrong with it.

    Args:
        message: name of the message in the table.
        value: the message, decoded.
        path: of the message, empty at the top level.

    Raises:
        ApiError: 400 that names everything.
    """
    if not is_clean(message, value):
        raise refusal(list(wrongs(message, value, path)))


def line_refusal(message: str, value: Json, raw: bytes) -> str | None:
    """Return what is wrong first with a line of a file, None if nothing is.

    Args:
        message: name of the message in the table.
        value: the line, decoded.
        raw: the line.
    """
    if is_clean(message, value):
        return None
    first = next(wrongs(message, value, ""))
    found = re.search(rb'"' + re.escape(first.name.encode("utf-8", "surrogatepass")) + rb'"\s*:', raw)
    column = 1 if found is None else found.start() + 1
    return f"invalid JSON, near column {column}: {first.line_text}"
