"""What is asked: users' contents to the ``contents`` of a request.

Owns the rules by which strings, parts and contents, mixed in lists, become turns; they are google-genai's own. Files on
disk are read here, since what is sent inline is read at the call. It must not know about configuration or batches.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from carpool._gemini.mime import guess_mime_type
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
from carpool.types import Blob, File

MEDIA_TOKENS: Final = 258
"""What an image of ordinary size counts; stands for any media part."""

INLINE_BYTES_MAX: Final = 15_000_000
"""Largest file that is read and sent inline: in base64 it takes 20 MB, which is what one request may hold."""

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
        if isinstance(value, Blob):
            return Item(None, _inline(value, path))
        if isinstance(value, Path):
            return Item(None, _inline(_read(value, path), path))
        if isinstance(value, File):
            _check_file(value, path)
        uri, mime_type = getattr(value, "uri", None), getattr(value, "mime_type", None)
        if uri and mime_type:
            return Item(None, {"fileData": {"fileUri": str(uri), "mimeType": str(mime_type)}})
        if not is_model(value):
            hint = " (give its bytes: carpool.Blob(data, 'image/png'))" if _is_image(value) else ""
            raise bad_value(path, f"objects of type {type(value).__name__} cannot be encoded{hint}")
        value = dump(value, path)
    return _from_fields(value, path)


def _inline(blob: Blob, path: str) -> dict[str, Any]:
    data: Any = blob.data
    if type(data) is not bytes:
        raise bad_value(path, f"the data of a Blob must be bytes, not {type(data).__name__}")
    if not blob.mime_type:
        raise bad_value(path, "the Blob has no mime type, such as 'image/png'")
    return {"inlineData": {"data": urlsafe_b64encode(data).decode("ascii"), "mimeType": str(blob.mime_type)}}


def _read(source: Path, path: str) -> Blob:
    """Read a file that is to be sent inline."""
    mime_type = guess_mime_type(source)
    if not mime_type:
        raise bad_value(path, f"the name {source.name!r} stands for no mime type; give carpool.Blob(data, mime_type)")
    try:
        size_bytes = source.stat().st_size
        if not source.is_file():
            raise bad_value(path, f"{source} is not a file")
        if size_bytes > INLINE_BYTES_MAX:
            raise bad_value(
                path,
                f"{source} has {size_bytes} bytes, and at most {INLINE_BYTES_MAX} are sent inline; upload it: "
                "file = await client.files.upload(path), and give the file in its place",
            )
        return Blob(source.read_bytes(), mime_type)
    except OSError as error:
        raise bad_value(path, f"{source} cannot be read ({error.strerror or type(error).__name__})") from None


def _check_file(file: File, path: str) -> None:
    if file.state == "FAILED":
        raise bad_value(path, f"the server could not process {file.name}; upload it again")
    if not (file.uri and file.mime_type):
        raise bad_value(path, f"{file.name} has no URI or no mime type; take the File that client.files gives")


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


def survey(turns: list[dict[str, Any]]) -> tuple[int, tuple[str, ...]]:
    """Return the estimated input tokens of some turns, and the URIs of the files that they name, each once.

    Text counts a quarter of its UTF-8 bytes, a media part a fixed number.
    """
    text_bytes = media = 0
    uris: dict[str, None] = {}
    for turn in turns:
        for part in turn["parts"]:
            for name, value in part.items():
                if name == "text":
                    text_bytes += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
                elif name == "inlineData":
                    media += 1
                elif name == "fileData":
                    media += 1
                    uris[str(value.get("fileUri", ""))] = None
                elif name not in ("thoughtSignature", "thought"):
                    text_bytes += len(encode(value))
    return text_bytes // 4 + media * MEDIA_TOKENS, tuple(uris)


def uris_of(fields: dict[str, Any]) -> tuple[str, ...]:
    """Return the URIs of the files that a finished request names, each once, however its fields are spelt."""
    return tuple({str(file[name]): None for file, name in _file_data_of(fields)})


def with_uris(fields: dict[str, Any], renewed: dict[str, str]) -> dict[str, Any]:
    """Put other URIs into a decoded request, in place, and return it."""
    for file, name in _file_data_of(fields):
        file[name] = renewed.get(file[name], file[name])
    return fields


def _file_data_of(fields: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Iterate over the ``fileData`` of a request's parts that have a URI, and the name of that field in each."""
    contents = fields.get("contents", fields.get("content"))
    for turn in _objects(contents if is_sequence(contents) else [contents]):
        parts = turn.get("parts")
        for part in _objects(parts if is_sequence(parts) else [parts]):
            for file in _objects([part.get("fileData"), part.get("file_data")]):
                yield from ((file, name) for name in ("fileUri", "file_uri") if isinstance(file.get(name), str))


def _objects(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    return (value for value in values if is_object(value))
