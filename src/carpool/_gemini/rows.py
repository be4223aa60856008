"""Rows of a job's output, from a result file's lines or the items of an inline output.

Owns what a row may look like, and that a bad one takes no other with it. It is pure, and knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from carpool._core.model import Block, Row
from carpool._gemini import scan
from carpool._gemini.plain import is_object
from carpool._gemini.wire import lenient_error
from carpool.types import ServerError

BLOCK_ROWS: Final = 256
"""Rows of one block of an inline output."""

_NEITHER: Final = ServerError(13, "the row came back with neither a response nor an error", "INTERNAL")


class _Key(msgspec.Struct, frozen=True, gc=False):
    key: str = ""


class _Item(msgspec.Struct, frozen=True, gc=False):
    response: msgspec.Raw = msgspec.Raw()
    error: ServerError | None = None
    metadata: _Key | None = None


_lines: Final = msgspec.json.Decoder(Row, strict=False)
_item: Final = msgspec.json.Decoder(_Item, strict=False)


def decode_block(data: bytes) -> Block:
    """Decode whole lines of a result file. A line that cannot be read counts, and takes no other with it.

    The rows' responses are views: each keeps the whole of ``data`` alive.
    """
    try:
        rows = _lines.decode_lines(data)
    except (ValueError, RecursionError):
        return _decode_one_by_one(data)
    for row in rows:
        if row.error is None and bytes(memoryview(row.response)[:1]) != b"{":
            row.error = _NEITHER
    return Block(rows=rows)


def decode_items(items: list[msgspec.Raw]) -> Iterator[Block]:
    """Iterate over inline items as blocks of rows, in the server's order; the key is empty where none came back."""
    for start in range(0, len(items), BLOCK_ROWS):
        rows: list[Row] = []
        unreadable = 0
        for raw in items[start : start + BLOCK_ROWS]:
            row = _item_row(raw)
            if row is None:
                unreadable += 1
            else:
                rows.append(row)
        yield Block(rows=rows, unreadable=unreadable)


def _item_row(raw: msgspec.Raw) -> Row | None:
    try:
        item = _item.decode(raw)
    except (ValueError, RecursionError):
        return _salvaged(bytes(raw))
    return _judged(Row(item.metadata.key if item.metadata else "", item.response, item.error))


def _decode_one_by_one(data: bytes) -> Block:
    rows: list[Row] = []
    unreadable = 0
    # Only line feeds end a line: str.splitlines would cut at U+2028 and others, which may stand in a JSON string.
    for line in data.split(b"\n"):
        text = line.strip(b" \t\r")
        if not text:
            continue
        try:
            row: Row | None = _judged(_lines.decode(text))
        except (ValueError, RecursionError):
            row = _salvaged(text)
        if row is None:
            unreadable += 1
        else:
            rows.append(row)
    return Block(rows=rows, unreadable=unreadable)


def _judged(row: Row) -> Row:
    """Return the row as it is, or as an error if it holds neither an answer nor an error."""
    if row.error is None and bytes(memoryview(row.response)[:1]) != b"{":
        row.error = _NEITHER
    return row


def _salvaged(line: bytes) -> Row | None:
    """Return the row of a line or item that the strict decoder refuses, its response's bytes as they came; or None."""
    text = scan.text_of(line)
    try:
        spans = scan.fields_of(text, scan.whole(text))
        key = scan.value_of(text, spans.get("key"))
        metadata = scan.value_of(text, spans.get("metadata"))
        error = scan.value_of(text, spans.get("error"))
    except (ValueError, RecursionError):
        return None
    if key is None and is_object(metadata):
        key = metadata.get("key")
    response = scan.raw_of(text, spans.get("response", (0, 0)))
    return _judged(Row("" if key is None else str(key), response, None if error is None else lenient_error(error)))
