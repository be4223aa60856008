"""The output of a job: lines of a file, or items of an operation.

Owns how answered rows are written down, faults of single rows included. Nothing is stored: answers are functions of the
rows, so the same output can be made again at any time, and only as fast as somebody reads it. It must not know why a
row has a fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, cast

import msgspec

from . import answers
from .answers import RowError
from .messages import Json, JsonObject
from .rows import Rows
from .script import Script
from .vectors import vector_json

_BLOCK_BYTES: Final = 64 * 1024


def _raw(json: bytes) -> Json:
    """Give ready JSON to the encoder."""
    return cast("Json", msgspec.Raw(json))


def _result(rows: Rows, script: Script, index: int, request: JsonObject, suffix: str = "") -> JsonObject:
    """Return ``{"response": ...}`` or ``{"error": ...}`` of a row."""
    error = script.errors.get(index)
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


def _written(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    """Yield the JSON of each row of the output, in its order."""
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
        written = msgspec.json.encode(_named(_result(rows, script, index, row.request), name, value, index))
        if "missing" in edits:
            continue
        if "garbled" in edits and not inline:
            written = written[: len(written) // 2].replace(b'"', b"'", 1)
        yield written
        if "doubled" in edits:
            yield written
        if "doubled_other" in edits:
            other = _result(rows, script, index, row.request, " (again)")
            yield msgspec.json.encode(_named(other, name, value, index))
        if "unknown_key" in edits:
            stranger = f"unknown-{zlib.crc32(written):08x}"
            named: Json = {"key": stranger} if inline else stranger
            yield msgspec.json.encode(_named(_result(rows, script, index, row.request), name, named, index))


def file_blocks(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    """Yield the output file of a job in blocks.

    Args:
        rows: of the job.
        script: of the job.
        done: how many rows were done when it ended.
    """
    block: list[bytes] = []
    size = 0
    last: bytes | None = None
    for written in _written(rows, script, done):
        if last is not None:
            block.append(last)
            size += len(last)
        last = written + b"\n"
        if size >= _BLOCK_BYTES:
            yield b"".join(block)
            block.clear()
            size = 0
    if last is not None:
        block.append(last[: len(last) // 2] if script.truncated else last)
    if block:
        yield b"".join(block)


def inline_blocks(rows: Rows, script: Script, done: int) -> Iterator[bytes]:
    """Yield the JSON array of a job's inline responses in blocks.

    Args:
        rows: of the job.
        script: of the job.
        done: how many rows were done when it ended.
    """
    block: list[bytes] = [b"["]
    size = 0
    for number, written in enumerate(_written(rows, script, done)):
        block += (b",", written) if number else (written,)
        size += len(written)
        if size >= _BLOCK_BYTES:
            yield b"".join(block)
            block.clear()
            size = 0
    block.append(b"]")
    yield b"".join(block)
