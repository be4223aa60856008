"""Rows of a job's output, from a result file's lines or the items of an inline output.

Owns what a row may look like, and that a bad one takes no other with it. It is pure, and knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from carpool._core.output import Block, Row
from carpool._gemini import scan
from carpool._gemini.faults import read_error, tamed
from carpool._gemini.plain import is_object
from carpool.types import ServerError

BLOCK_ROWS: Final = 256
"""Rows of one block of an inline output."""

LONG_BYTES: Final = 524_288
"""Size from which the errors of rows are decoded by themselves: their details take up dozens of times their size."""

_NEITHER: Final = ServerError(13, "the row came back with neither a response nor an error", "INTERNAL")


class _Row(msgspec.Struct, gc=False):
    key: str = ""
    response: msgspec.Raw = msgspec.Raw()
    error: ServerError | None = None


class _Key(msgspec.Struct, frozen=True, gc=False):
    key: str = ""


class _Line(msgspec.Struct, frozen=True, gc=False):
    key: str = ""
    response: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    metadata: _Key | None = None


_rows: Final = msgspec.json.Decoder(_Row, strict=False)
_line: Final = msgspec.json.Decoder(_Line, strict=False)


def decode_block(data: bytes, skipped: int = 0) -> Block:
    """Decode whole lines of a result file. A line that cannot be read counts, and takes no other with it.

    Args:
        data: the lines.
        skipped: how many lines before them were too long to be held: these cannot be read either.
    """
    if len(data) > LONG_BYTES:
        return _decode_one_by_one(data, skipped)
    try:
        rows = _rows.decode_lines(data)
    except (ValueError, RecursionError):
        return _decode_one_by_one(data, skipped)
    keys = [row.key for row in rows]
    bodies = [bytes(row.response) for row in rows]  # copies: a view would keep the whole of ``data`` alive
    errors = {at: _NEITHER for at, body in enumerate(bodies) if body[:1] != b"{"}
    found = [row.error for row in rows]
    if found.count(None) < len(found):
        errors |= {at: tamed(error) for at, error in enumerate(found) if error is not None}
    return Block(keys=keys, bodies=bodies, errors=errors, unreadable=skipped, lines=b"" if errors else data)


def decode_items(items: Iterable[bytes]) -> Iterator[Block]:
    """Iterate over inline items as blocks of rows, in the server's order; the key is empty where none came back.

    Raises:
        ValueError: the items break off.
    """
    rest = iter(items)
    while some := list(islice(rest, BLOCK_ROWS)):
        found = [_read(item) for item in some]
        rows = [row for row in found if row is not None]
        yield Block.of(rows, len(found) - len(rows))


def _decode_one_by_one(data: bytes, unreadable: int) -> Block:
    rows: list[Row] = []
    # Only line feeds end a line: str.splitlines would cut at U+2028 and others, which may stand in a JSON string.
    for line in data.split(b"\n"):
        text = line.strip(b" \t\r")
        if not text:
            continue
        row = _read(text)
        if row is None:
            unreadable += 1
        else:
            rows.append(row)
    return Block.of(rows, unreadable)


def _read(text: bytes) -> Row | None:
    """Return the row of a line or an item, or None if it cannot be read."""
    try:
        line = _line.decode(text)
    except (ValueError, RecursionError):
        return _salvaged(text)
    return _judged(line.key or (line.metadata.key if line.metadata else ""), line.response, bytes(line.error))


def _judged(key: str, response: msgspec.Raw, error: bytes) -> Row:
    """Return a row, as an error if it holds neither an answer nor an error."""
    if error not in (b"", b"null"):
        return Row(key, bytes(response), read_error(error))
    body = bytes(response)
    return Row(key, body, None if body[:1] == b"{" else _NEITHER)


def _salvaged(text: bytes) -> Row | None:
    """Return the row of a line or item that the strict decoder refuses, its response's bytes as they came; or None."""
    try:
        spans = scan.fields_of(text)
        key = scan.value_of(text, spans.get("key"))
        metadata = scan.value_of(text, spans.get("metadata")) if key is None else None
    except (ValueError, RecursionError):
        return None
    if key is None and is_object(metadata):
        key = metadata.get("key")
    error = bytes(scan.raw_of(text, spans.get("error")))
    return _judged("" if key is None else str(key), scan.raw_of(text, spans.get("response")), error)
