"""Bodies in Google's shapes: requests taken out of calls, vectors put together into answers.

Owns what of a body is changed on the way. It is pure, and must not know who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from carpool.errors import ConfigurationError, RequestFailed
from carpool.responses import read_usage

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode


class _Many(msgspec.Struct, frozen=True):
    requests: list[dict[str, msgspec.Raw]]


class _Vector(msgspec.Struct, frozen=True, rename="camel"):
    embedding: msgspec.Raw
    usage_metadata: msgspec.Raw = msgspec.Raw()


_many: Final = msgspec.json.Decoder(_Many)
_vector: Final = msgspec.json.Decoder(_Vector)


def unnamed(body: bytes) -> bytes:
    """Return a request without the model's name, which its path says."""
    if b'"model"' not in body:
        return body
    try:
        fields = _fields.decode(body)
    except (ValueError, RecursionError):
        return body  # whoever encodes it says what is wrong
    return _encode({name: raw for name, raw in fields.items() if name != "model"}) if "model" in fields else body


def requests_of(model: str, body: bytes) -> list[bytes]:
    """Return the single requests in a call for several vectors.

    Raises:
        ConfigurationError: it is no such call, or names several models.
    """
    found = None
    with suppress(ValueError, RecursionError):
        found = _many.decode(body)
    if found is None:
        raise ConfigurationError('the body is not {"requests": [...]}, each with its content. Nothing was sent.')
    for number, fields in enumerate(found.requests):
        given = bytes(fields.pop("model", msgspec.Raw(b'""'))).decode("utf-8", "replace").strip('"')
        if given.removeprefix("models/") not in ("", model):
            raise ConfigurationError(f"requests[{number}] is for another model than the path. Nothing was sent.")
    return [_encode(fields) for fields in found.requests]


def one_vector(raw: bytes) -> bytes:
    """Return an answer without the count of tokens that rows of batches have beside the vector.

    Raises:
        RequestFailed: it holds no vector.
    """
    found = _read(raw)
    usage = bytes(found.usage_metadata)
    tail = b',"usageMetadata":' + usage if usage else b""
    return b'{"embedding":' + bytes(found.embedding) + tail + b"}"


def several_vectors(raws: Sequence[bytes]) -> bytes:
    """Return one answer with the vectors of several, and with the tokens of all where each says its own.

    Raises:
        RequestFailed: one of them holds no vector.
    """
    found = [_read(raw) for raw in raws]
    body = b'{"embeddings":[' + b",".join(bytes(one.embedding) for one in found) + b"]"
    if all(bytes(one.usage_metadata) for one in found):
        tokens = sum(read_usage(raw).prompt_tokens for raw in raws)
        body += b',"usageMetadata":' + _encode({"promptTokenCount": tokens})
    return body + b"}"


def _read(raw: bytes) -> _Vector:
    try:
        return _vector.decode(raw)
    except (ValueError, RecursionError):
        pass
    raise RequestFailed("the answer holds no vector that can be read")
