"""Live calls: one request, or up to a hundred embeddings, answered at once over the routes ``standard`` and ``flex``.

Owns how the line of a batch file becomes the body of a live call, and how an answer becomes what a row of a batch would
have held. Makes each call once: when to ask again, and where, is decided by others.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import ceil
from typing import Any, Final

import msgspec

from carpool._core.model import Fault, Lane
from carpool._gemini import scan
from carpool._gemini.encode import model_name
from carpool._gemini.faults import http_error
from carpool._gemini.http import Http, Reply, server_fault, unreadable
from carpool._gemini.plain import is_object, is_sequence
from carpool._ports import Answers, ProviderError
from carpool.errors import CarpoolError
from carpool.settings import Route
from carpool.types import Kind, ServerError

EMBEDS_MAX: Final = 100
"""Contents that one embedding call takes."""
TIMEOUT_S: Final[Mapping[Route, float]] = {"standard": 600.0, "flex": 1_200.0}
"""How long a call may take where its caller sets no limit: thinking takes minutes, flex calls wait for up to 15."""

_KEY_STARTS: Final = len(b'{"key":')
_BOUNDARY: Final = b'","request":'
_REQUEST_ENDS: Final = -len(b"}\n")
_BLANKS: Final = b" \t\r\n"
_TIER_NAMES: Final = ("serviceTier", "service_tier")
_FLEX: Final = b',"serviceTier":"flex"}'
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
_SECONDS = re.compile(r"[0-9]{1,9}")
_ASKED_MAX_S: Final = 10**9
_TOKENS_MAX: Final = 10**12
# A string, which stays, or blanks, which go.
_STRING_OR_BLANKS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+', re.DOTALL)


class _Embedded(msgspec.Struct, frozen=True, rename="camel", gc=False):
    embeddings: list[msgspec.Raw] | None = None
    usage_metadata: msgspec.Raw = msgspec.Raw()


class _Failed(msgspec.Struct, frozen=True, gc=False):
    error: msgspec.Raw = msgspec.Raw()


class _Counted(msgspec.Struct, frozen=True, rename="camel", gc=False):
    prompt_token_count: int = 0


_embedded: Final = msgspec.json.Decoder(_Embedded)
_failed: Final = msgspec.json.Decoder(_Failed)
_counted: Final = msgspec.json.Decoder(_Counted, strict=False)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode


class Live:
    """Live calls through the provider's session.

    Args:
        http: the session.
        version: first part of the paths.
    """

    def __init__(self, http: Http, version: str) -> None:
        self._http = http
        self._version = version

    async def send(
        self, route: Route, lane: Lane, lines: Sequence[bytes], *, timeout_s: float | None = None
    ) -> Answers:
        """Send one request, or several embeddings of one model in one call. Once: a failure is told, not repeated.

        Args:
            route: ``"standard"`` or ``"flex"``; embeddings have only the first.
            lane: kind and model.
            lines: lines of a batch file, newline included; several only of embeddings, at most ``EMBEDS_MAX``.
            timeout_s: total time of the call; the server is told it too, so that it stops when nobody listens.

        Raises:
            ProviderError: there is no answer. ``read_pushback`` tells from its fault's error when to ask again.
                A call for several embeddings that is refused says nothing of any single one.
        """
        if lane.kind == "embed" and len(lines) > 1:
            return await self.embed_many(lane.model, lines, timeout_s=timeout_s)
        if len(lines) != 1:
            raise _refused(f"a live call takes one request, not {len(lines)}")
        return Answers([await self.call(route, lane.kind, lane.model, lines[0], timeout_s=timeout_s)])

    async def call(self, route: Route, kind: Kind, model: str, line: bytes, *, timeout_s: float | None = None) -> bytes:
        """Send one request, once, and return its answer as a batch row would hold it: JSON on one line.

        Args:
            route: ``"standard"`` or ``"flex"``.
            kind: of the request.
            model: name, without ``models/``.
            line: line of a batch file, newline included.
            timeout_s: total time of the call.

        Raises:
            ProviderError: there is no answer.
        """
        if route == "batch" or (kind == "embed" and route == "flex"):
            raise _refused(f"{kind} has no live route {route!r}")
        request = request_of(line)
        body = _tiered(request, route) if kind == "generate" else request
        method = "generateContent" if kind == "generate" else "embedContent"
        reply = await self._post(f"{model_path(model)}:{method}", body, timeout_s or TIMEOUT_S[route])
        return _answer(reply)

    async def embed_many(self, model: str, lines: Sequence[bytes], *, timeout_s: float | None = None) -> Answers:
        """Send several embeddings of one model in one call, once.

        Args:
            model: name, without ``models/``.
            lines: lines of a batch file, newlines included; 1 to ``EMBEDS_MAX``.
            timeout_s: total time of the call.

        Raises:
            ProviderError: there is no answer, or it does not hold as many vectors as were asked for.
        """
        if not 1 <= len(lines) <= EMBEDS_MAX:
            raise _refused(f"one call takes 1 to {EMBEDS_MAX} embeddings, not {len(lines)}")
        path = model_path(model)
        name = _encode(path)
        body = b'{"requests":[' + b",".join(_named(request_of(line), name) for line in lines) + b"]}"
        reply = await self._post(f"{path}:batchEmbedContents", body, timeout_s or TIMEOUT_S["standard"])
        return _vectors(_answer(reply), len(lines))

    def _post(self, path: str, body: bytes, timeout_s: float) -> Coroutine[Any, Any, Reply]:
        headers = {"X-Server-Timeout": str(max(1, ceil(timeout_s)))}
        url = self._http.url(f"/{self._version}/{path}")
        return self._http.call("POST", url, body=(body,), headers=headers, timeout_s=timeout_s)


@lru_cache(maxsize=256)
def model_path(model: str) -> str:
    """Return a model's name as it stands in a path, or raise ``ProviderError`` if it must not enter a URL."""
    try:
        name = model_name(model)
    except CarpoolError as error:
        text = str(error)
    else:
        return name if name.startswith("tunedModels/") else f"models/{name}"
    raise _refused(text)


# -- requests


def request_of(line: bytes) -> bytes:
    """Return the request in the line of a batch file, its bytes as they are.

    The first ``","request":`` ends the key: inside the key a quote is escaped, so it cannot occur there.
    """
    return line[line.index(_BOUNDARY, _KEY_STARTS) + len(_BOUNDARY) : _REQUEST_ENDS].strip(_BLANKS)


def _tiered(request: bytes, route: Route) -> bytes:
    """Return a generate request for a route. A tier of its own gives way: the route is what is paid for."""
    if b"serviceTier" in request or b"service_tier" in request:
        fields = _fields.decode(request)
        kept = {name: raw for name, raw in fields.items() if name not in _TIER_NAMES}
        if len(kept) < len(fields):
            request = b"{" + b",".join(_encode(name) + b":" + bytes(raw) for name, raw in kept.items()) + b"}"
    return request[:-1] + _FLEX if route == "flex" else request


def _named(request: bytes, model: bytes) -> bytes:
    """Return an embed request that says its model (as JSON), as a call for several wants it."""
    if b'"model"' in request and "model" in _fields.decode(request):
        return request
    return b'{"model":' + model + b"," + request[1:]


# -- answers


def _answer(reply: Reply) -> bytes:
    """Return the body of a reply on one line; raise ``ProviderError`` for an error, or what is not a whole object."""
    if not 200 <= reply.status < 300:
        raise ProviderError(_hinted(server_fault(reply.status, reply.body), reply.headers))
    body = reply.body.strip(_BLANKS)
    try:
        failed = _failed.decode(body).error
    except (ValueError, RecursionError):
        failed = _scanned_error(body)
    if bytes(memoryview(failed)[:1]) == b"{":
        raise ProviderError(Fault(kind="unknown", error=http_error(reply.status, b'{"error":' + bytes(failed) + b"}")))
    return _one_line(body)


def _scanned_error(body: bytes) -> msgspec.Raw:
    """Return the error field of a body that the strict decoder refuses; raise ``ProviderError`` if it is no object."""
    try:
        found = scan.fields_of(body).get("error")
    except (ValueError, RecursionError):
        pass
    else:
        return scan.raw_of(body, found)
    raise unreadable("the answer is not a whole JSON object")


def _one_line(body: bytes) -> bytes:
    """Return JSON without line breaks: the service writes live answers for people, rows of batches for machines."""
    if b"\n" not in body and b"\r" not in body:
        return body
    try:
        return msgspec.json.format(body, indent=-1)
    except (ValueError, RecursionError):  # a lone surrogate, NaN: sound enough to be kept as it came
        return _STRING_OR_BLANKS.sub(rb"\1", body)


def _vectors(body: bytes, count: int) -> Answers:
    """Return the vectors of a call for several, each as the row of a batch would hold it."""
    try:
        found = _embedded.decode(body)
        vectors = [bytes(raw) for raw in found.embeddings or ()]
        usage = bytes(found.usage_metadata)
    except (ValueError, RecursionError):
        vectors, usage = _scanned_vectors(body)
    if len(vectors) != count or not all(vector.startswith(b"{") for vector in vectors):
        raise unreadable(f"the answer holds {len(vectors)} vectors, not {count}")
    return Answers([b'{"embedding":' + vector + b"}" for vector in vectors], _tokens(usage))


def _scanned_vectors(body: bytes) -> tuple[list[bytes], bytes]:
    try:
        fields = scan.fields_of(body)
        vectors = list(scan.elements_of(bytes(scan.raw_of(body, fields.get("embeddings")))))
    except (ValueError, RecursionError):
        return [], b""
    return vectors, bytes(scan.raw_of(body, fields.get("usageMetadata")))


def _tokens(usage: bytes) -> int | None:
    try:
        count = _counted.decode(usage).prompt_token_count
    except (ValueError, RecursionError):
        return None
    return count if 0 < count < _TOKENS_MAX else None


# -- errors


def _hinted(fault: Fault, headers: Mapping[str, str]) -> Fault:
    """Return a fault that tells when to ask again in the service's own form, where only a header says it."""
    seconds = _asked(headers)
    given: Any = fault.error.details
    details: list[Any] = list(given) if is_sequence(given) else []
    known = any(is_object(detail) and detail.get("@type") == _RETRY_INFO for detail in details)
    if known or not seconds or not (given is None or is_sequence(given)):
        return fault
    details.append({"@type": _RETRY_INFO, "retryDelay": f"{seconds}s"})
    error = fault.error
    return Fault(kind=fault.kind, error=ServerError(error.code, error.message, error.status, details))


def _asked(headers: Mapping[str, str]) -> str:
    """Return the seconds of a Retry-After, in digits; empty if there are none. A date counts from the reply's own."""
    words = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(words):
        return words
    try:
        wait_s = (parsedate_to_datetime(words) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one with a time zone and one without
        return ""
    return str(ceil(wait_s)) if 0 < wait_s < _ASKED_MAX_S else ""


def _refused(text: str) -> ProviderError:
    """Return the error for a call that is not made, since the server could only refuse it."""
    return ProviderError(Fault(kind="refused", error=ServerError(400, text, "INVALID_ARGUMENT")))
