"""The output of a job: lines of a file, or items of an operation.

Owns how answered rows are written down, faults of single rows included. Nothing is stored: answers are functions of the
rows, so the same output can be made again at any time, and only as fast as somebody reads it. It must not know why a
row has a fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import repeat
from typing import Final, NamedTuple, cast

import msgspec

from . import answers
from .fields import as_list, as_object
from .messages import Json, JsonObject
from .prompts import RowError
from .rows import Rows
from .script import Script
from .vectors import vector_json

_BLOCK_BYTES: Final = 64 * 1024
_BLANKS: Final = b" " * _BLOCK_BYTES
_SURROGATE: Final = b"\\ud83d"
_SEPARATORS: Final = " \u2028 \u2029 \u0085 ".encode()


class _Written(NamedTuple):
    """The JSON of a row, and how many blanks belong before its last brace."""

    json: bytes
    padding_bytes: int = 0

    def pieces(self, end: bytes) -> Iterator[bytes]:
        """Yield the row and what follows it."""
        if not self.padding_bytes:
            yield self.json + end
            return
        yield self.json[:-1]
        whole, rest = divmod(self.padding_bytes, len(_BLANKS))
        yield from repeat(_BLANKS, whole)
        yield _BLANKS[:rest] + self.json[-1:] + end


def _raw(json: bytes) -> Json:
    """Give ready JSON to the encoder."""
    return cast("Json", msgspec.Raw(json))


def _result(rows: Rows, script: Script, index: int, request: JsonObject, suffix: str = "") -> JsonObject:
    """Return ``{"response": ...}`` or ``{"error": ...}`` of a row."""
    error = script.errors.get(index) or rows.errors.get(index)
    outcome = rows.outcome(request, suffix) if error is None else error
    match outcome:
        case RowError():
            return {"error": cast("Json", msgspec.to_builtins(outcome))}
        case answers.Answer():
            return {"response": outcome.response}
        case answers.EmbedTask():
            values = _raw(vector_json(outcome.text, outcome.dimensions))
            # int64, so a string.
            return {"response": {"tokenCount": str(outcome.tokens), "embedding": {"values": values}}}


def _named(result: JsonObject, name: str, value: Json, index: int) -> JsonObject:
    """Add a row's key or metadata, before or after the result: the order of names on a line means nothing."""
    if value is None:
        return result
    return {**result, name: value} if index % 2 else {name: value, **result}


def _ending(response: JsonObject, ending: bytes) -> JsonObject:
    """Return a response whose last text ends in more, given as JSON; one without a text as it is."""
    candidates = as_list(response.get("candidates"))
    first = as_object(candidates[0]) if candidates else {}
    content = as_object(first.get("content"))
    parts = as_list(content.get("parts"))
    for place in reversed(range(len(parts))):
        part = as_object(parts[place])
        text = part.get("text")
        if isinstance(text, str):
            longer = _raw(msgspec.json.encode(text)[:-1] + ending + b'"')
            changed, content, first, response = dict(part), dict(content), dict(first), dict(response)
            changed["text"] = longer
            content["parts"] = [*parts[:place], changed, *parts[place + 1 :]]
            first["content"] = content
            response["candidates"] = [first, *candidates[1:]]
            return response
    return response


def _edited(result: JsonObject, edits: tuple[str, ...]) -> JsonObject:
    """Return a row's result with what its faults do to its text."""
    ending = _SEPARATORS if "line_separators" in edits else b""
    ending += _SURROGATE if "lone_surrogate" in edits else b""
    if not ending or "response" not in result:
        return result
    return {"response": _ending(as_object(result["response"]), ending)}


def _written(rows: Rows, script: Script, done: int) -> Iterator[_Written]:
    """Yield each row of the output, in its order."""
    inline = script.inline
    for index in script.order:
        if index >= done:
            continue
        row = rows.row(index)
        edits = script.edits.get(index, ())
        name: str = "metadata" if inline else "key"
        value: Json = row.metadata if inline else row.key
        if inline and value is None and row.key is not None:
            value = {"key": row.key}
        if "key_dropped" in edits:
            value = None
        result = _edited(_result(rows, script, index, row.request), edits)
        written = msgspec.json.encode(_named(result, name, value, index))
        if "missing" in edits:
            continue
        if "garbled" in edits and not inline:
            written = written[: len(written) // 2].replace(b'"', b"'", 1)
        yield _Written(written, script.padding_bytes if "huge" in edits else 0)
        if "doubled" in edits:
            yield _Written(written)
        if "doubled_other" in edits:
            other = _result(rows, script, index, row.request, " (again)")
            yield _Written(msgspec.json.encode(_named(other, name, value, index)))
        if "unknown_key" in edits:
            stranger = f"unknown-{zlib.crc32(written):08x}"
            named: Json = {"key": stranger} if inline else stranger
            other = _result(rows, script, index, row.request)
            yield _Written(msgspec.json.encode(_named(other, name, named, index)))


def file_blocks(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    """Yield the output file of a job in blocks.

    Args:
        rows: of the job.
        script: of the job.
        done: how many rows were done when it ended.
    """
    left = script.cut_bytes
    for block in _gathered(_lines(rows, script, done)):
        if left is None:
            yield block
        elif left > 0:
            yield block[:left]
            left -= len(block)


def inline_blocks(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    """Yield the JSON array of a job's inline responses in blocks.

    Args:
        rows: of the job.
        script: of the job.
        done: how many rows were done when it ended.
    """
    yield from _gathered(_items(rows, script, done))


def _lines(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    last: _Written | None = None
    for written in _written(rows, script, done):
        if last is not None:
            yield from last.pieces(b"\n")
        last = written
    if last is None:
        return
    if script.truncated and script.cut_bytes is None:
        yield last.json[: (len(last.json) + 1) // 2]
    else:
        yield from last.pieces(b"\n")


def _items(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    yield b"["
    for number, written in enumerate(_written(rows, script, done)):
        if number:
            yield b","
        yield from written.pieces(b"")
    yield b"]"


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces together, in blocks that are worth sending."""
    block: list[bytes] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= _BLOCK_BYTES:
            yield b"".join(block)
            block.clear()
            size = 0
    if block:
        yield b"".join(block)
