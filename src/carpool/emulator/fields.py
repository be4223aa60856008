"""The fields of requests: how they are spelt.

Owns the one normalisation to camelCase. Google reads proto3 JSON, which takes every name in camelCase and in
snake_case; below this module only camelCase exists. It must not know what fields mean, nor which there are.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from .messages import Json, JsonObject

# Values of these are the user's own: their keys are data, not field names.
_FREE: Final = frozenset(
    [
        "args",
        "response",
        "labels",
        "metadata",
        "userMetadata",
        "partMetadata",
        "responseJsonSchema",
        "parametersJsonSchema",
        "example",
        "default",
        "enum",
        "headers",
    ]
)
# Keys of these are the user's own, their values are messages again.
_MAPS: Final = frozenset(["properties", "defs", "$defs"])
# A key that may need another spelling. Cheaper than a walk over rows that need none, which is nearly all of them.
_SNAKE_KEY: Final = re.compile(rb'[a-z0-9]_[A-Za-z0-9_]*"\s*:')


@lru_cache(maxsize=4096)
def camel(name: str) -> str:
    """Return a field name in camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest) if head and rest else name


def needs_camel(raw: bytes) -> bool:
    """Return whether a JSON text may hold a snake_case key."""
    return b"_" in raw and _SNAKE_KEY.search(raw) is not None


def camelise(value: Json) -> Json:
    """Return a copy with all field names in camelCase, and with the user's own names left alone."""
    if isinstance(value, list):
        return [camelise(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: JsonObject = {}
    for key, item in value.items():
        name = camel(key)
        if name in _FREE:
            result[name] = item
        elif name in _MAPS and isinstance(item, dict):
            result[name] = {own: camelise(message) for own, message in item.items()}
        else:
            result[name] = camelise(item)
    return result


def as_object(value: Json) -> JsonObject:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_str(value: Json) -> str:
    """Return the value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_int(value: Json) -> int | None:
    """Return an integer that may have come as a number or, as int64 does, as a string."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if re.fullmatch(r"-?\d{1,18}", value):
            return int(value)
        case _:
            return None


def request_digest(model: str, request: JsonObject) -> str:
    """Return what identifies a request in the ledger.

    SHA-256 of the JSON of ``{"model": ..., "request": ...}`` with sorted keys, in 32 hexadecimal digits. Field names
    are in camelCase, ``model`` has no ``models/``, and a ``model`` within the request is left out.

    Args:
        model: name of the model.
        request: a GenerateContentRequest or EmbedContentRequest, in either spelling.
    """
    message = as_object(camelise(request))
    return camel_digest(model, message)


def camel_digest(model: str, request: JsonObject) -> str:
    """Return :func:`request_digest` of a request that is known to be in camelCase."""
    if "model" in request:
        request = {name: value for name, value in request.items() if name != "model"}
    text = msgspec.json.encode({"model": model.removeprefix("models/"), "request": request}, order="sorted")
    return hashlib.sha256(text).hexdigest()[:32]
