"""What is asked: users' contents to the ``contents`` of a request.

Owns the rules by which strings, parts and contents, mixed in lists, become turns; they are google-genai's own. It must
not know about configuration or batches.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from carpool._gemini.plain import (
    bad_value,
    camel,
    dump,
    encode,
    is_mapping,
    is_model,
    is_object,
    is_sequence,
    tidy,
    unknown_field,
)
from carpool.errors import ConfigurationError

MEDIA_TOKENS: Final = 258
"""What an image of ordinary size counts; stands for any media part."""

CONTENT_FIELDS: Final = frozenset({"parts", "role"})
PART_FIELDS: Final = frozenset(
    {
        "text",
        "inlineData",
        "fileData",
        "functionCall",
        "functionResponse",
        "executableCode",
        "codeExecutionResult",
        "thought",
        "thoughtSignature",
        "videoMetadata",
        "mediaResolution",
        "toolCall",
        "toolResponse",
        "partMetadata",
        "audioTranscription",
        "mediaProcessing",
        "speechMetadata",
        "documentMetadata",
        "spreadsheetMetadata",
        "audioMetadata",
    }
)
_FILE_FIELDS: Final = frozenset({"fileUri", "mimeType", "displayName"})
_NESTED_FIELDS: Final = {
    "inlineData": frozenset({"data", "mimeType", "displayName"}),
    "fileData": _FILE_FIELDS,
    "functionCall": frozenset({"id", "name", "args"}),
    "functionResponse": frozenset({"id", "name", "response", "parts", "scheduling", "willContinue"}),
}


class Item(NamedTuple):
    """One thing that a user put into contents."""

    content: dict[str, Any] | None
    """A whole turn, or None."""
    part: dict[str, Any] | None
    """A part of a turn, or None."""


def contents_of(value: Any, path: str = "contents") -> list[dict[str, Any]]:
    """Return the turns that a user's contents stand for.

    A string or a part is one user turn; parts and strings that follow each other in a list share one; a list inside the
    list is a turn of its own. Parts with a function call belong to the model.

    Raises:
        ConfigurationError: they are empty, or hold what cannot be sent; the message names the place.
    """
    if not is_sequence(value):
        item = _item(value, path)
        return [_turn([item.part]) if item.part is not None else _checked(item.content, path)]
    if not value:
        raise _empty(path)
    turns: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for index, element in enumerate(value):
        place = f"{path}[{index}]"
        if is_sequence(element):
            turn = content_of(element, place)
        else:
            item = _item(element, place)
            if item.part is not None:
                if waiting and ("functionCall" in item.part) != ("functionCall" in waiting[0]):
                    turns.append(_turn(waiting))
                    waiting = []
                waiting.append(item.part)
                continue
            turn = _checked(item.content, place)
        if waiting:
            turns.append(_turn(waiting))
            waiting = []
        turns.append(turn)
    if waiting:
        turns.append(_turn(waiting))
    return turns


def content_of(value: Any, path: str) -> dict[str, Any]:
    """Return one turn: of a string, a part, a content, or a list of strings and parts.

    Raises:
        ConfigurationError: it is empty, or holds what cannot be sent, or a content where a part belongs.
    """
    if not is_sequence(value):
        item = _item(value, path)
        return _turn([item.part]) if item.part is not None else _checked(item.content, path)
    if not value:
        raise _empty(path)
    return _turn([part_of(element, f"{path}[{index}]") for index, element in enumerate(value)])


def part_of(value: Any, path: str) -> dict[str, Any]:
    """Return one part, of a string, a dict or google-genai's own type."""
    # Said before looking inside: a content in a content may hold itself.
    item = Item(None, None) if is_mapping(value) and "parts" in value else _item(value, path)
    if item.part is None:
        raise bad_value(path, "a part is wanted here, not a content")
    return item.part


def _item(value: Any, path: str) -> Item:
    if isinstance(value, str):
        if not value:
            raise _empty(path)
        return Item(None, {"text": str(value)})
    if value is None:
        raise _empty(path)
    if not is_mapping(value):
        uri, mime_type = getattr(value, "uri", None), getattr(value, "mime_type", None)
        if uri and mime_type:
            return Item(None, {"fileData": {"fileUri": str(uri), "mimeType": str(mime_type)}})
        if not is_model(value):
            hint = " (give bytes: {'inline_data': {'data': ..., 'mime_type': 'image/png'}})" if _is_image(value) else ""
            raise bad_value(path, f"objects of type {type(value).__name__} cannot be encoded{hint}")
        value = dump(value, path)
    return _from_fields(value, path)


def _from_fields(value: Any, path: str) -> Item:
    names = {camel(str(name)): name for name, item in value.items() if item is not None}
    if not names:
        raise _empty(path)
    if names.keys() <= CONTENT_FIELDS:
        parts = value.get("parts")
        if not is_sequence(parts):
            raise bad_value(f"{path}.parts", "it must be a list of parts")
        turn: dict[str, Any] = {"parts": [part_of(part, f"{path}.parts[{i}]") for i, part in enumerate(parts)]}
        if value.get("role") is not None:
            turn["role"] = tidy(value["role"], f"{path}.role")
        return Item(turn, None)
    if names.keys() <= _FILE_FIELDS:
        return Item(None, {"fileData": tidy(value, path)})
    known, what = (CONTENT_FIELDS, "a content") if "parts" in names else (PART_FIELDS, "a part")
    for field, name in names.items():
        if field not in known:
            raise unknown_field(str(name), known, f"{path}: {what}")
    part = tidy(value, path)
    if not isinstance(part.get("text", ""), str):
        raise bad_value(f"{path}.text", f"it must be a string, not {type(value['text']).__name__}")
    for field, known in _NESTED_FIELDS.items():
        nested = part.get(field)
        if nested is None:
            continue
        if not is_object(nested):
            raise bad_value(f"{path}.{names[field]}", f"it must be an object, not {type(nested).__name__}")
        for name in nested:
            if name not in known:
                raise unknown_field(name, known, f"{path}.{names[field]}")
    return Item(None, part)


def _turn(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"parts": parts, "role": "model" if "functionCall" in parts[0] else "user"}


def _checked(content: dict[str, Any] | None, path: str) -> dict[str, Any]:
    if content is None or not content["parts"]:
        raise _empty(path)
    return content


def _is_image(value: Any) -> bool:
    return "image" in type(value).__name__.lower()


def _empty(path: str) -> ConfigurationError:
    return bad_value(path, "there is nothing to send: contents must hold text or parts")


def count_tokens(turns: list[dict[str, Any]]) -> int:
    """Estimate the input tokens of some turns: a quarter of the text's UTF-8 bytes, and a fixed number a media part."""
    text_bytes = media = 0
    for turn in turns:
        for part in turn["parts"]:
            for name, value in part.items():
                if name == "text":
                    text_bytes += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
                elif name in ("inlineData", "fileData"):
                    media += 1
                elif name not in ("thoughtSignature", "thought"):
                    text_bytes += len(encode(value))
    return text_bytes // 4 + media * MEDIA_TOKENS
