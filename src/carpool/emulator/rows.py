"""The rows of a job: read and checked when it is created.

Owns the two forms of input (the lines of a file, the items of a create), what the service refuses about them and in
which words, and the columns that a job keeps of its rows. It must not know about a job's fate or its output.

The service reads every row when a job is created and refuses all of them for one it cannot read. What it can read but
not answer becomes the error of that row.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from enum import StrEnum
from typing import Any, Final

import msgspec

from . import answers
from .blobs import Blob
from .fields import (
    BATCH_FIELDS,
    EMBED_FIELDS,
    GENERATE_FIELDS,
    GENERATION_CONFIG_FIELDS,
    as_object,
    camel,
    camel_digest,
    camelise,
    needs_camel,
    unknown_in,
)
from .messages import ApiError, Json, JsonObject, bad_payload, unknown_field

_SLICE_ROWS: Final = 64
_SLICE_BYTES: Final = 256 * 1024
_LINE_FIELDS: Final = frozenset({"key", "request", "metadata"})
_ITEM_FIELDS: Final = frozenset({"request", "metadata"})


class Kind(StrEnum):
    """What a job does with its rows."""

    GENERATE = "generate"
    EMBED = "embed"

    @property
    def request_fields(self) -> frozenset[str]:
        """The fields that a request of this kind may have."""
        return GENERATE_FIELDS if self is Kind.GENERATE else EMBED_FIELDS


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row as it was sent, with the request in camelCase.

    Attributes:
        key: of a row of a file, None if it has none.
        metadata: of an inline row, None if it has none.
        request: the request.
    """

    key: str | None
    metadata: Json
    request: JsonObject


class Rows:
    """The rows of one job, in columns.

    Attributes:
        kind: what is done with them.
        model: without ``models/``.
        ignore_json_schema: as :func:`carpool.emulator.answers.generate` takes it.
        blob: where the rows' JSON lies.
        offsets: in the blob, by row.
        sizes: in bytes, by row.
        keys: of a file's line, or ``metadata.key``; None where there is none.
        digests: of the requests.
        prompt_tokens: by row; 0 where the row has an error.
        output_tokens: by row; 0 where the row has an error.
        errors: rows that cannot be answered.
    """

    def __init__(self, kind: Kind, model: str, blob: Blob, *, ignore_json_schema: bool) -> None:
        self.kind = kind
        self.model = model
        self.ignore_json_schema = ignore_json_schema
        self.blob = blob
        self.offsets = array("Q")
        self.sizes = array("Q")
        self.keys: list[str | None] = []
        self.digests: list[str] = []
        self.prompt_tokens = array("Q")
        self.output_tokens = array("Q")
        self.errors: dict[int, answers.RowError] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, row: Row, offset: int, size_bytes: int) -> None:
        """Enter a row that lies in the blob."""
        key = row.key if row.key is not None else as_object(row.metadata).get("key")
        prompt_tokens = output_tokens = 0
        outcome = self.outcome(row.request)
        match outcome:
            case answers.RowError():
                self.errors[len(self.offsets)] = outcome
            case answers.Answer():
                prompt_tokens, output_tokens = outcome.prompt_tokens, outcome.output_tokens
            case answers.EmbedTask():
                prompt_tokens = outcome.tokens
        self.offsets.append(offset)
        self.sizes.append(size_bytes)
        self.keys.append(key if isinstance(key, str) else None)
        self.digests.append(camel_digest(self.model, row.request))
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)

    def outcome(self, request: JsonObject, suffix: str = "") -> answers.Answer | answers.EmbedTask | answers.RowError:
        """Answer one request of this job."""
        if self.kind is Kind.EMBED:
            return answers.embed(request, suffix)
        return answers.generate(self.model, request, ignore_json_schema=self.ignore_json_schema, suffix=suffix)

    def row(self, index: int) -> Row:
        """Read a row back."""
        raw = self.blob.read(self.offsets[index], self.sizes[index])
        return _row_of(_object(raw), raw)


def _row_of(value: JsonObject, raw: bytes) -> Row:
    request = value["request"]
    if needs_camel(raw):
        request = camelise(request)
    key = value.get("key")
    return Row(key=key if isinstance(key, str) else None, metadata=value.get("metadata"), request=as_object(request))


def unknown_fields_of(kind: Kind, request: JsonObject, path: str) -> list[tuple[str, str]]:
    """Return the fields of a request that the service does not know, with the message that each is in.

    Args:
        kind: of the request.
        request: in either spelling.
        path: of the request, empty at the top level.
    """
    found = [(path, name) for name in unknown_in(request, kind.request_fields)]
    config = request.get("generationConfig", request.get("generation_config"))
    if kind is Kind.GENERATE and isinstance(config, dict):
        inner = f"{path}.generation_config" if path else "generation_config"
        found += [(inner, name) for name in unknown_in(config, GENERATION_CONFIG_FIELDS)]
    return found


# -- a file


def _line_error(kind: Kind, raw: bytes, value: Json) -> str | None:
    """Return what the service has against a line, None if nothing."""

    def near(name: str, reason: str) -> str:
        column = raw.find(b'"' + name.encode() + b'"') + 1
        return f"invalid JSON, near column {column}: {reason}"

    if not isinstance(value, dict):
        return "invalid JSON, near column 1: expected an object"
    unknown = unknown_in(value, _LINE_FIELDS)
    request = value.get("request")
    if not unknown and not isinstance(request, dict):
        # The wording for a missing request and for a key that is no string is not known.
        return near("request", "not an object") if "request" in value else "missing field: 'request'"
    if "key" in value and not isinstance(value["key"], str):
        return near("key", "not a string")
    unknown += [name for _, name in unknown_fields_of(kind, as_object(request), "")]
    return near(unknown[0], f"no such field: '{unknown[0]}'") if unknown else None


def read_file(rows: Rows) -> Generator[None, None, None]:
    """Read all lines of the blob of ``rows`` into it, a slice at a time.

    Raises:
        ApiError: 400 that names every bad line.
    """
    errors: list[str] = []
    number = pending_rows = pending_bytes = 0
    for offset, raw in rows.blob.lines():
        number += 1
        if not raw.strip():
            continue
        try:
            value: Json = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            errors.append(f"Error on line {number}: invalid JSON, near column {_column(error)}: {error}")
            continue
        error_text = _line_error(rows.kind, raw, value)
        if error_text is not None:
            errors.append(f"Error on line {number}: {error_text}")
        elif not errors:
            rows.add(_row_of(as_object(value), raw), offset, len(raw))
        pending_rows += 1
        pending_bytes += len(raw)
        if pending_rows >= _SLICE_ROWS or pending_bytes >= _SLICE_BYTES:
            pending_rows = pending_bytes = 0
            yield
    if errors:
        raise ApiError(400, "\n".join(errors))
    if not len(rows):
        raise ApiError(400, "The input file has no requests.")  # wording not known


def _column(error: msgspec.DecodeError) -> int:
    # msgspec ends its messages with "(byte 17)".
    _, _, tail = str(error).rpartition("(byte ")
    digits = tail.rstrip(")")
    return int(digits) + 1 if digits.isdigit() else 1


# -- inline


class Create(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a create.

    Attributes:
        display_name: as sent, empty if not.
        file_name: of the input file; empty for inline requests.
        items: inline requests, each with its metadata.
    """

    display_name: str
    file_name: str
    items: list[msgspec.Raw]


_Fields = dict[str, msgspec.Raw]


def _fields(raw: bytes | msgspec.Raw, known: frozenset[str], path: str) -> _Fields:
    """Decode one level of a message, with its names in camelCase."""
    message = msgspec.json.decode(raw, type=_Fields)
    unknown = [name for name in message if camel(name) not in known]
    if unknown:
        raise unknown_field([(path, name) for name in unknown])
    return {camel(name): value for name, value in message.items()}


def read_create(body: bytes) -> Create:
    """Read the body of a create down to the inline requests, which stay as they are.

    Raises:
        ApiError: unreadable, or something unknown in it.
    """
    try:
        batch = _fields(_fields(body, frozenset({"batch"}), "").get("batch", b"{}"), BATCH_FIELDS, "batch")
        config = _fields(batch.get("inputConfig", b"{}"), frozenset({"fileName", "requests"}), "batch.input_config")
        display_name = msgspec.json.decode(batch.get("displayName", b'""'), type=str)
        file_name = msgspec.json.decode(config.get("fileName", b'""'), type=str)
        items: list[msgspec.Raw] = []
        if "requests" in config:
            inner = _fields(config["requests"], frozenset({"requests"}), "batch.input_config.requests")
            items = msgspec.json.decode(inner.get("requests", b"[]"), type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise bad_payload(str(error)) from None
    if bool(file_name) == bool(items):
        raise ApiError(400, "* GenerateContentBatch.input_config: input_config is not specified\n")  # wording not known
    return Create(display_name=display_name, file_name=file_name, items=items)


def _object(raw: bytes) -> JsonObject:
    value: JsonObject = msgspec.json.decode(raw, type=dict[str, Any])
    return value


def read_items(rows: Rows, items: list[msgspec.Raw]) -> Generator[None, None, None]:
    """Read inline requests into ``rows`` and their JSON into its blob, a slice at a time.

    Raises:
        ApiError: 400 that names every unknown field.
    """
    unknown: list[tuple[str, str]] = []
    pending_rows = pending_bytes = 0
    for index, item in enumerate(items):
        raw = bytes(item)
        path = f"batch.input_config.requests.requests[{index}]"
        try:
            value = _object(raw)
        except msgspec.DecodeError as error:
            raise bad_payload(f"{error} at '{path}'") from None
        request = value.get("request")
        found = [(path, name) for name in unknown_in(value, _ITEM_FIELDS)]
        found += unknown_fields_of(rows.kind, as_object(request), f"{path}.request")
        unknown += found
        if not found and not isinstance(request, dict):
            raise ApiError(400, f"* {path}.request: request is not specified\n")  # wording not known
        if not unknown:
            rows.add(_row_of(value, raw), rows.blob.size_bytes, len(raw))
            rows.blob.append(raw)
        pending_rows += 1
        pending_bytes += len(raw)
        if pending_rows >= _SLICE_ROWS or pending_bytes >= _SLICE_BYTES:
            pending_rows = pending_bytes = 0
            yield
    if unknown:
        raise unknown_field(unknown)
