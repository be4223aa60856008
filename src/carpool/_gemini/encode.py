"""Requests to bytes: what a user asked, encoded once, in the form in which it goes into a batch.

Owns the caches of the hot path, digests, and the line of a batch file. It is pure, and must not know what becomes of a
line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from json import dumps
from typing import Any, Final, cast

import msgspec

from carpool._core.model import limit_of
from carpool._gemini.config import (
    EMBED_BODY_FIELDS,
    GENERATE_BODY_FIELDS,
    NOTHING,
    Placed,
    lower_finished,
    place_embed,
    place_generate,
)
from carpool._gemini.contents import contents_of, survey, uris_of, with_uris
from carpool._gemini.plain import (
    bad_value,
    camel,
    encode,
    is_mapping,
    is_object,
    is_sequence,
    is_type,
    is_utf8,
    to_json,
    unknown_field,
)
from carpool._gemini.survey import survey_request
from carpool._showing import in_short
from carpool.errors import ConfigurationError, NotBatchable

_CACHED_CONFIGS_MAX: Final = 256
_CACHED_BYTES_MAX: Final = 16_777_216
_MODELS_MAX: Final = 1_024
_TYPES_MAX: Final = 1_024
_NOT_BATCHABLE = re.compile(r"(?:imagen|veo|lyria)|.*(?:-live(?:-|$)|native-audio)")
_MODEL = re.compile(r"(?:tunedModels/)?[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_LIKE_A_NAME = re.compile(r"[\x21-\x7e]{0,64}")
_SCALARS: Final = frozenset({str, int, float, bool})
_join: Final = b"".join
_raw_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FILE_NAMES: Final = (b'"fileData"', b'"file_data"')


class Uses(msgspec.Struct, frozen=True, gc=False):
    """Things on the server that a request leans on, and that must still be there when its batch runs."""

    files: tuple[str, ...]
    """URIs of files."""
    cache: str
    """Name of cached content; empty if there is none."""


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """A request, ready for the wire."""

    payload: bytes
    """The REST request as JSON, on one line."""
    digest: bytes
    """16 bytes of SHA-256 over kind, model and payload: the same request has the same digest."""
    tokens: int
    """Estimated input tokens, at least 1."""
    schema: Any
    """What ``GenerateResponse.parsed`` reads with; ``None`` where no schema was given."""
    uses: Uses | None = None
    """``None`` for requests that lean on nothing, as most do."""
    limit: int = 0
    """What bounds its cost, as ``limit_of`` gives it."""
    live_only: str = ""
    """Why no batch can take it, where a live call can."""

    def __repr__(self) -> str:
        return f"Encoded(bytes={len(self.payload)}, digest={self.digest.hex()})"


def model_name(model: Any) -> str:
    """Return a model's name as it goes into a URL, without ``models/``.

    Raises:
        ConfigurationError: it is not a name.
        NotBatchable: the Batch API has no such models (Imagen, Veo, Lyria, and those of the Live API).
    """
    if not isinstance(model, str):
        raise ConfigurationError(f"model must be a string, not {type(model).__name__}")
    name = model.removeprefix("models/")
    if not _MODEL.fullmatch(name):
        # Whoever mixes up the first two arguments gives a prompt here.
        what = f"model {model!r}" if _LIKE_A_NAME.fullmatch(model) else f"model (a text of {len(model)} characters)"
        raise ConfigurationError(f"{what} is not a model name, such as 'gemini-3.5-flash'")
    if _NOT_BATCHABLE.match(name):
        raise NotBatchable(f"the Batch API does not take {name!r}: it has generateContent and embedContent models only")
    return name


def line(key: str, payload: bytes) -> bytes:
    """Return the line of a batch file: key and request, newline included. The key is ASCII on the wire.

    Raises:
        ConfigurationError: the key cannot be encoded.
    """
    if key.isascii():
        return _join((b'{"key":', encode(key), b',"request":', payload, b"}\n"))
    if not is_utf8(key):
        raise ConfigurationError(f"key {key!r} holds a lone surrogate, which UTF-8 cannot carry")
    return b'{"key":' + dumps(key).encode() + b',"request":' + payload + b"}\n"


class Encoder:
    """Encodes requests; one a client, for its caches. Not for several threads at once."""

    def __init__(self) -> None:
        self._hashes: dict[str, dict[str, Any]] = {"generate": {}, "embed": {}}
        self._generate_hashes = self._hashes["generate"]
        self._embed_hashes = self._hashes["embed"]
        self._generate_configs = _Configs(place_generate)
        self._embed_configs = _Configs(place_embed)

    def generate(self, model: str, contents: Any, config: Any) -> Encoded:
        """Encode one generate request.

        Raises:
            ConfigurationError: contents or config cannot be sent; the message names the place.
            NotBatchable: the Batch API does not take this model.
        """
        start = self._generate_hashes.get(model) or self._start("generate", model)
        placed = NOTHING if config is None else self._generate_configs.place(config)
        if type(contents) is str and contents:
            try:
                text = encode(contents)
            except UnicodeEncodeError:
                text = b""
            text = text or to_json(contents, "contents")
            payload = _join((b'{"contents":[{"parts":[{"text":', text, b'}],"role":"user"}]', placed[0], b"}"))
            tokens = len(text) >> 2
            files: tuple[str, ...] = ()
        else:
            turns = contents_of(contents)
            payload = b'{"contents":' + to_json(turns, "contents") + placed[0] + b"}"
            tokens, files = survey(turns)
        digest = start.copy()
        digest.update(payload)
        uses = Uses(files, placed[3]) if files or placed[3] else None
        return Encoded(payload, digest.digest()[:16], tokens + placed[1] or 1, placed[2], uses, placed[4], placed[5])

    def embed(self, model: str, content: Any, config: Any) -> Encoded:
        """Encode one embed request: one content, which gives one vector.

        Raises:
            ConfigurationError: content or config cannot be sent, or there are several contents.
            NotBatchable: the Batch API does not take this model.
        """
        start = self._embed_hashes.get(model) or self._start("embed", model)
        placed = NOTHING if config is None else self._embed_configs.place(config)
        if type(content) is str and content:
            try:
                text = encode(content)
            except UnicodeEncodeError:
                text = b""
            text = text or to_json(content, "content")
            payload = _join((b'{"content":{"parts":[{"text":', text, b'}],"role":"user"}', placed[0], b"}"))
            tokens, limit = len(text) >> 2, 0
            files: tuple[str, ...] = ()
        else:
            if is_sequence(content) and len(content) > 1:
                raise bad_value(
                    "content",
                    "embed takes one content and gives one vector: call it once for each, "
                    "or give {'parts': [...]} for one vector of several parts",
                )
            turns = contents_of(content, "content")
            payload = b'{"content":' + to_json(turns[0], "content") + placed[0] + b"}"
            tokens, files = survey(turns)
            limit = limit_of(0, searches=any("text" not in part for part in turns[0]["parts"]))
        digest = start.copy()
        digest.update(payload)
        uses = Uses(files, "") if files else None
        return Encoded(payload, digest.digest()[:16], tokens + placed[1] or 1, None, uses, limit)

    def body(self, kind: str, model: str, body: Any, *, formed: bool = False) -> Encoded:
        """Take a finished REST request: a dict, or JSON as bytes or text. Only its field names are looked at.

        Args:
            kind: ``"generate"`` or ``"embed"``.
            model: name, with or without ``models/``.
            body: the request.
            formed: put Google's own schema in the place of a JSON schema for the answer, which batches ignore.

        Raises:
            ConfigurationError: it is not a JSON object, or has a field that such a request does not have.
            NotBatchable: the Batch API does not take this model.
        """
        if kind not in self._hashes:
            raise ConfigurationError(f"kind is {in_short(kind)}; it must be 'generate' or 'embed'")
        start = self._hashes[kind].get(model)
        if start is None:
            start = self._start(kind, model)
        payload, fields = _finished(body)
        known = GENERATE_BODY_FIELDS if kind == "generate" else EMBED_BODY_FIELDS
        names = {camel(name) for name in fields}
        for name in fields:
            if camel(name) not in known:
                raise unknown_field(name, known, f"body of {kind}", _kind_hint(kind, name))
        wanted = "contents" if kind == "generate" else "content"
        if wanted not in names:
            raise bad_value("body", f"the field {wanted!r} is missing")
        digest = start.copy()
        digest.update(msgspec.json.encode(fields, order="sorted"))
        files = uris_of(fields) if any(name in payload for name in _FILE_NAMES) else ()
        cache = fields.get("cachedContent") or fields.get("cached_content") or ""
        uses = Uses(files, str(cache)) if files or cache else None
        found = survey_request(fields)
        special = found.searches if kind == "generate" else found.has_media
        limit = limit_of(found.cap, searches=special)
        live_only = ""
        if formed and found.json_schema:
            payload, live_only = _formed(payload, fields)
        return Encoded(payload, digest.digest()[:16], found.tokens, None, uses, limit, live_only)

    def _start(self, kind: str, model: str) -> Any:
        hashes = self._hashes[kind]
        if len(hashes) >= _MODELS_MAX:
            hashes.clear()
        hashes[model] = hashlib.sha256(f"{kind}\0{model_name(model)}\0".encode())
        return hashes[model]


def renewed(encoded: Encoded, uris: dict[str, str]) -> Encoded:
    """Return a request that names other files. Its digest stays: it is the same request, and its key still fits."""
    fields = with_uris(msgspec.json.decode(encoded.payload), uris)
    return msgspec.structs.replace(encoded, payload=to_json(fields, "contents"))


def _formed(payload: bytes, fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return a finished request whose JSON schema is one of Google's own, or why there is none that says the same."""
    place = next(name for name in fields if camel(name) == "generationConfig")
    generation = fields[place]
    names = {camel(name): name for name in generation}
    if generation.get(names.get("responseSchema", "")):
        return payload, ""  # both are given: the server says what it makes of that
    schema, live_only = lower_finished(generation[names["responseJsonSchema"]])
    if live_only:
        return payload, live_only
    # As they came, but for one: numbers keep their form.
    parts = _raw_fields.decode(payload)
    inner = _raw_fields.decode(parts[place])
    del inner[names["responseJsonSchema"]]
    inner[names.get("responseSchema", "responseSchema")] = msgspec.Raw(to_json(schema, "body.responseJsonSchema"))
    parts[place] = msgspec.Raw(encode(inner))
    return encode(parts), ""


def _kind_hint(kind: str, name: str) -> str:
    other = {"embed": "contents", "generate": "content"}[kind]
    if camel(name) != other:
        return ""
    return " An embedding row says 'content'." if kind == "embed" else " A generate row says 'contents'."


def _finished(body: Any) -> tuple[bytes, dict[str, Any]]:
    """Return a finished request on one line, and its fields."""
    if is_mapping(body):
        payload = to_json(dict(body), "body")
        _no_nan(body, "body")
        return payload, msgspec.json.decode(payload)
    if not isinstance(body, bytes | bytearray | str):
        raise bad_value("body", f"it must be a dict or JSON, not {type(body).__name__}")
    payload, fields = b"", cast("Any", None)
    try:
        payload = body.encode() if isinstance(body, str) else bytes(body)
        fields = msgspec.json.decode(payload)
        if b"\n" in payload or b"\r" in payload:
            payload = msgspec.json.format(payload, indent=-1)
    except (ValueError, RecursionError) as error:
        # Outside of this block: whatever is raised in it would drag the error along, and with it the bytes.
        why = f"it is not JSON ({type(error).__name__ if isinstance(error, UnicodeError) else error})"
    else:
        why = ""
    if why:
        raise bad_value("body", why)
    if not is_object(fields):
        raise bad_value("body", "it is not a JSON object")
    return payload, fields


def _no_nan(value: Any, path: str) -> None:
    if isinstance(value, float) and value - value != 0:
        raise bad_value(path, f"{value} is not a JSON number")
    if is_mapping(value):
        for name, item in value.items():
            _no_nan(item, f"{path}.{name}")
    elif is_sequence(value):
        for index, item in enumerate(value):
            _no_nan(item, f"{path}[{index}]")


class _Configs:
    """Placed configurations by the bytes of the dict that they came from; the oldest goes when there are too many."""

    __slots__ = ("_bytes", "_encode", "_last", "_last_as_it_was", "_last_placed", "_place", "_placed", "_types")

    def __init__(self, place: Callable[[Any], Placed]) -> None:
        self._place = place
        self._placed: dict[bytes, Placed] = {}
        self._bytes = 0
        self._types: dict[Any, str] = {}
        self._encode = msgspec.json.Encoder(enc_hook=self._named).encode
        # Most callers give the same dict each time: to see that nothing in it was changed takes a tenth of encoding it.
        self._last: object = None
        self._last_as_it_was: dict[str, Any] = {}
        self._last_placed = NOTHING

    def place(self, config: Any) -> Placed:
        if config is self._last and config == self._last_as_it_was:
            return self._last_placed
        if type(config) is not dict:
            return self._place(config)
        try:
            key = self._encode(config)
        except (TypeError, ValueError, OverflowError, RecursionError):
            key = b""
        placed = self._placed.get(key) or self._place_anew(key, config)
        fields = cast("dict[str, Any]", config)
        if all(type(value) in _SCALARS for value in fields.values()):  # what is nested may change unseen
            self._last, self._last_as_it_was, self._last_placed = fields, fields.copy(), placed
        return placed

    def _place_anew(self, key: bytes, config: Any) -> Placed:
        placed = self._place(config)
        if not key or b"null" in key:
            return placed  # NaN is encoded as null: bytes like these do not tell configs apart
        self._bytes += len(key) + len(placed.fragment)
        self._placed[key] = placed
        while self._placed and (len(self._placed) > _CACHED_CONFIGS_MAX or self._bytes > _CACHED_BYTES_MAX):
            oldest = next(iter(self._placed))
            self._bytes -= len(oldest) + len(self._placed.pop(oldest).fragment)
        return placed

    def _named(self, value: Any) -> str:
        """Return what stands for a type (a response schema) in the bytes that tell configurations apart."""
        if not is_type(value):
            raise TypeError
        if len(self._types) >= _TYPES_MAX and value not in self._types:
            self._types.clear()
            self._placed.clear()
            self._bytes = 0
        return self._types.setdefault(value, f"\0type {len(self._types)}")
