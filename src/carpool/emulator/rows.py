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
from .fields import as_int, as_object, as_str, camel, camel_digest, camelise, needs_camel
from .messages import ApiError, Json, JsonObject, bad_payload
from .prices import charge_picousd, embedding_picousd, usage_of
from .prompts import CachedPrompt, RowError
from .resources import Resources, conflict_of, may_need
from .validation import Wrong, is_clean, line_refusal, refusal, unknown_names, wrongs

_SLICE_ROWS: Final = 64
_SLICE_BYTES: Final = 256 * 1024
_BATCH_FIELDS: Final = frozenset(
    [
        "model",
        "name",
        "displayName",
        "inputConfig",
        "output",
        "createTime",
        "endTime",
        "updateTime",
        "batchStats",
        "state",
        "priority",
        "webhookConfig",
    ]
)


class Kind(StrEnum):
    """What a job does with its rows."""

    GENERATE = "generate"
    EMBED = "embed"

    @property
    def message(self) -> str:
        """The beginning of the names of its messages."""
        return "GenerateContent" if self is Kind.GENERATE else "EmbedContent"


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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was true when a job was created.

    Attributes:
        origin: under which its creator addressed the service.
        now: when, in seconds since the epoch.
        ignore_json_schema: as :func:`carpool.emulator.answers.generate` takes it.
        tokens_max: as :func:`carpool.emulator.answers.generate` takes it.
    """

    origin: str
    now: float
    ignore_json_schema: bool
    tokens_max: int | None


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """What a row's tokens were spent on, where it is not the usual."""

    cached_tokens: int
    thought_tokens: int
    image_tokens: int
    audio_tokens: int


class Rows:
    """The rows of one job, in columns.

    Args:
        kind: what is done with them.
        model: without ``models/``.
        blob: where the rows' JSON lies.
        resources: finds what they need.
        settings: what was true when the job was created.

    Attributes:
        offsets: in the blob, by row.
        sizes: in bytes, by row.
        keys: of a file's line, or ``metadata.key``; None where there is none.
        digests: of the requests.
        prompt_tokens: by row; 0 where the row has an error.
        output_tokens: by row; 0 where the row has an error.
        costs: in pico-dollars, by row; -1 where there is no price.
        extras: what tokens were spent on, for rows where it is not the usual.
        errors: rows that cannot be answered.
        needs: caches and files that must be there when a row is answered.
    """

    def __init__(self, kind: Kind, model: str, blob: Blob, *, resources: Resources, settings: Settings) -> None:
        self.kind = kind
        self.model = model
        self.settings = settings
        self.blob = blob
        self.offsets = array("Q")
        self.sizes = array("Q")
        self.keys: list[str | None] = []
        self.digests: list[str] = []
        self.prompt_tokens = array("Q")
        self.output_tokens = array("Q")
        self.costs = array("q")
        self.extras: dict[int, Extra] = {}
        self.errors: dict[int, RowError] = {}
        self.needs: dict[int, tuple[str, ...]] = {}
        self._caches: dict[str, CachedPrompt] = {}
        self._resources = resources

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, row: Row, offset: int, raw: bytes) -> None:
        """Enter a row that lies in the blob."""
        index = len(self.offsets)
        key = row.key if row.key is not None else as_object(row.metadata).get("key")
        prompt_tokens = output_tokens = 0
        cost: int | None = 0
        unmet = self._unmet(index, row.request) if may_need(raw) else None
        outcome = self.outcome(row.request) if unmet is None else unmet
        match outcome:
            case RowError():
                self.errors[index] = outcome
            case answers.Answer():
                prompt_tokens, output_tokens = outcome.prompt_tokens, outcome.output_tokens
                cost = charge_picousd(self.model, "batch", usage_of(outcome.response), self.settings.now)
                self._note(index, outcome)
            case answers.EmbedTask():
                prompt_tokens = outcome.tokens
                cost = embedding_picousd(self.model, "batch", outcome.by_modality, self.settings.now)
        self.offsets.append(offset)
        self.sizes.append(len(raw))
        self.keys.append(key if isinstance(key, str) else None)
        self.digests.append(camel_digest(self.model, row.request))
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        self.costs.append(-1 if cost is None else cost)

    def _unmet(self, index: int, request: JsonObject) -> RowError | None:
        """Look for what a row needs, and return the error if something is not there."""
        found = self._resources.find(self.model, request, origin=self.settings.origin, now=self.settings.now)
        if found.cache is not None:
            self._caches[as_str(request.get("cachedContent"))] = found.cache
        if found.names:
            self.needs[index] = found.names
        return found.error

    def _note(self, index: int, answer: answers.Answer) -> None:
        if answer.cached_tokens or answer.thought_tokens or answer.image_tokens or answer.audio_tokens:
            self.extras[index] = Extra(
                cached_tokens=answer.cached_tokens,
                thought_tokens=answer.thought_tokens,
                image_tokens=answer.image_tokens,
                audio_tokens=answer.audio_tokens,
            )

    def settle(self, index: int, at: float) -> None:
        """Let a row that is answered have an error if something that it needs was gone by then."""
        error = self._resources.lost(self.needs[index], at)
        if error is not None:
            self.errors.setdefault(index, error)

    def outcome(self, request: JsonObject, suffix: str = "") -> answers.Answer | answers.EmbedTask | RowError:
        """Answer one request of this job."""
        if self.kind is Kind.EMBED:
            return answers.embed(request, suffix)
        cache = self._caches.get(as_str(request["cachedContent"])) if "cachedContent" in request else None
        return answers.generate(
            self.model,
            request,
            ignore_json_schema=self.settings.ignore_json_schema,
            suffix=suffix,
            cache=cache,
            tokens_max=self.settings.tokens_max,
        )

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


def _conflict(row: JsonObject, raw: bytes) -> str | None:
    """Return what the service has against the cache of a row, None if nothing.

    That such rows are refused when the job is created, with these words, is on record for live calls alone: here it is
    inferred, and so is that a file's words have the line before them.
    """
    return conflict_of(_row_of(row, raw).request) if may_need(raw) else None


# -- a file


def _line_error(message: str, raw: bytes, value: Json) -> str | None:
    """Return what the service has against a line, None if nothing."""
    if not is_clean(message, value):
        return line_refusal(message, value, raw)
    line = as_object(value)
    if line.get("request") is None:
        return "missing field: 'request'"  # wording not known
    return _conflict(line, raw)


def read_file(rows: Rows) -> Generator[None, None, None]:
    """Read all lines of the blob of ``rows`` into it, a slice at a time.

    Raises:
        ApiError: 400 that names every bad line.
    """
    errors: list[str] = []
    message = f"{rows.kind.message}Line"
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
        error_text = _line_error(message, raw, value)
        if error_text is not None:
            errors.append(f"Error on line {number}: {error_text}".replace("\n\n", " "))
        elif not errors:
            rows.add(_row_of(as_object(value), raw), offset, raw)
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
        priority: jobs of a higher one are worked on first.
    """

    display_name: str
    file_name: str
    items: list[msgspec.Raw]
    priority: int = 0


_Fields = dict[str, msgspec.Raw]


def _fields(raw: bytes | msgspec.Raw, known: frozenset[str], path: str) -> _Fields:
    """Decode one level of a message, with its names in camelCase."""
    message = msgspec.json.decode(raw, type=_Fields)
    unknown = [name for name in message if camel(name) not in known]
    if unknown:
        raise refusal(unknown_names(path, unknown))
    return {camel(name): value for name, value in message.items()}


def read_create(body: bytes) -> Create:
    """Read the body of a create down to the inline requests, which stay as they are.

    Raises:
        ApiError: unreadable, or something unknown in it.
    """
    try:
        batch = _fields(_fields(body, frozenset({"batch"}), "").get("batch", b"{}"), _BATCH_FIELDS, "batch")
        config = _fields(batch.get("inputConfig", b"{}"), frozenset({"fileName", "requests"}), "batch.input_config")
        display_name = msgspec.json.decode(batch.get("displayName", b'""'), type=str)
        file_name = msgspec.json.decode(config.get("fileName", b'""'), type=str)
        priority = as_int(msgspec.json.decode(batch.get("priority", b"0")))
        items: list[msgspec.Raw] = []
        if "requests" in config:
            inner = _fields(config["requests"], frozenset({"requests"}), "batch.input_config.requests")
            items = msgspec.json.decode(inner.get("requests", b"[]"), type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise bad_payload(str(error)) from None
    if priority is None:
        raise ApiError(400, "Invalid value at 'batch.priority' (TYPE_INT64)")
    if bool(file_name) == bool(items):
        raise ApiError(400, "* GenerateContentBatch.input_config: input_config is not specified\n")  # wording not known
    return Create(display_name=display_name, file_name=file_name, items=items, priority=priority)


def _object(raw: bytes) -> JsonObject:
    value: JsonObject = msgspec.json.decode(raw, type=dict[str, Any])
    return value


def read_items(rows: Rows, items: list[msgspec.Raw]) -> Generator[None, None, None]:
    """Read inline requests into ``rows`` and their JSON into its blob, a slice at a time.

    Raises:
        ApiError: 400 that names every unknown field.
    """
    found: list[Wrong] = []
    pending_rows = pending_bytes = 0
    message = f"{rows.kind.message}Item"
    for index, item in enumerate(items):
        raw = bytes(item)
        path = f"batch.input_config.requests.requests[{index}]"
        try:
            value = _object(raw)
        except msgspec.DecodeError as error:
            raise bad_payload(f"{error} at '{path}'") from None
        if not is_clean(message, value):
            found += wrongs(message, value, path)
        elif value.get("request") is None:
            raise ApiError(400, f"* {path}.request: request is not specified\n")  # wording not known
        elif (conflict := _conflict(value, raw)) is not None:
            raise ApiError(400, conflict)
        elif not found:
            rows.add(_row_of(value, raw), rows.blob.size_bytes, raw)
            rows.blob.append(raw)
        pending_rows += 1
        pending_bytes += len(raw)
        if pending_rows >= _SLICE_ROWS or pending_bytes >= _SLICE_BYTES:
            pending_rows = pending_bytes = 0
            yield
    if found:
        raise refusal(found)
