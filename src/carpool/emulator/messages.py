"""What goes into the world and what comes out: calls, replies, and errors in the service's own words.

Owns the transport-free form of a request and of a response, and Google's error envelope. It must not know about
sockets, time or chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Literal, TypeAlias

import msgspec

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, Json]
Quota: TypeAlias = Literal["requests_minute", "tokens_minute", "requests_day", "tokens_day"]
"""What a live call can be refused for."""

JSON_TYPE: Final = "application/json; charset=UTF-8"
TYPE_PREFIX: Final = "type.googleapis.com/"

HTTP_STATUS: Final[dict[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# google.rpc.Code -> the HTTP code it travels under.
RPC_TO_HTTP: Final[dict[int, int]] = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}


class Op(StrEnum):
    """What a call asks for. The value is the name that faults and the request log use."""

    GENERATE = "generate"
    STREAM = "stream"
    COUNT = "count"
    EMBED = "embed"
    EMBED_MANY = "embed_many"
    CREATE = "create"
    GET = "get"
    LIST = "list"
    CANCEL = "cancel"
    DELETE = "delete"
    UPDATE = "update"
    UPLOAD_START = "upload.start"
    UPLOAD_CHUNK = "upload.chunk"
    UPLOAD_FINALIZE = "upload.finalize"
    UPLOAD_QUERY = "upload.query"
    UPLOAD_CANCEL = "upload.cancel"
    FILES_GET = "files.get"
    FILES_LIST = "files.list"
    FILES_DELETE = "files.delete"
    FILES_REGISTER = "files.register"
    DOWNLOAD = "download"
    CACHES_CREATE = "caches.create"
    CACHES_GET = "caches.get"
    CACHES_LIST = "caches.list"
    CACHES_UPDATE = "caches.update"
    CACHES_DELETE = "caches.delete"
    MODELS_GET = "models.get"
    MODELS_LIST = "models.list"
    TUNED_LIST = "tuned.list"
    UNKNOWN = "unknown"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request without its transport.

    Attributes:
        method: upper-case HTTP method.
        path: decoded path, without the query.
        query: query parameters; the first of a doubled one.
        headers: header values by lower-case name.
        body: the body, or the last piece of it where ``taken_bytes`` says that pieces went before.
        size_bytes: size of the whole body, which may be more than ``body`` holds: an oversized body is not kept.
        taken_bytes: bytes of this body that were already given to the world as pieces.
        more: whether this is a piece of an upload's body and more follows. Its reply is only looked at when it is
            an error.
        origin: scheme and authority under which the caller addressed the service (``http://127.0.0.1:8700``).
    """

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: bytes = b""
    size_bytes: int = 0
    taken_bytes: int = 0
    more: bool = False
    origin: str = "http://emulator.invalid"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer.

    Attributes:
        status: HTTP status.
        body: bytes, or an iterator of blocks to be sent as they are made.
        headers: response headers.
        dropped: close the connection without a byte of an answer.
        delay_s: seconds to wait before answering.
        breaks_at_bytes: close the connection after so many bytes of the body, None to send it whole.
        reset: break by a reset rather than a close.
        drip_bytes: send the body in pieces of so many bytes, 0 to send it as it is.
        drip_s: seconds after each such piece.
    """

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = msgspec.field(default_factory=lambda: {"Content-Type": JSON_TYPE})
    dropped: bool = False
    delay_s: float = 0.0
    breaks_at_bytes: int | None = None
    reset: bool = False
    drip_bytes: int = 0
    drip_s: float = 0.0

    def read(self) -> bytes:
        """Return the whole body. An iterator is used up by this."""
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)

    def json(self) -> Json:
        """Decode the whole body as JSON.

        Raises:
            msgspec.DecodeError: it is not JSON.
        """
        return decode_json(self.read())


class ApiError(Exception):
    """A refusal in Google's envelope.

    Args:
        code: HTTP status.
        message: the service's words.
        status: the status word; by default the usual one for ``code``.
        details: the ``details`` list; left out of the envelope when empty.
        headers: extra response headers.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: str | None = None,
        details: list[Json] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or HTTP_STATUS.get(code, "UNKNOWN")
        self.details = details or []
        self.headers = headers or {}

    def reply(self) -> Reply:
        """Return the refusal as a reply."""
        error: JsonObject = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return ok({"error": error}, status=self.code, headers=self.headers)


def ok(body: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return a JSON reply."""
    return Reply(status=status, body=msgspec.json.encode(body), headers={"Content-Type": JSON_TYPE} | (headers or {}))


def decode_json(raw: bytes) -> Json:
    """Decode JSON.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    value: Json = msgspec.json.decode(raw)
    return value


def bad_payload(reason: str) -> ApiError:
    """Return the refusal of a body that cannot be read (what follows Google's first sentence is not established)."""
    return ApiError(400, f"Invalid JSON payload received. {reason}")


def too_large(limit_bytes: int) -> ApiError:
    """Return the refusal of a body above a limit in bytes."""
    return ApiError(400, f"Request payload size exceeds the limit: {limit_bytes} bytes.")


def no_such_file(name: str) -> ApiError:
    """Return the refusal for a file that is missing, expired or somebody else's: always 403, never 404."""
    file_id = name.removeprefix("files/")
    return ApiError(403, f"You do not have permission to access the File {file_id} or it may not exist.")


def no_such_model(model: str, version: str, method: str) -> ApiError:
    """Return the refusal of a model that is unknown or cannot do what is asked."""
    name = model if "/" in model else f"models/{model}"
    return ApiError(
        404,
        f"{name} is not found for API version {version}, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def no_such_entity() -> ApiError:
    """Return the refusal for a batch that is not there."""
    return ApiError(404, "Requested entity was not found.")


_HELP: Final[JsonObject] = {
    "@type": TYPE_PREFIX + "google.rpc.Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}
_QUOTA_TEXT: Final = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)


# By quota: metric, name, and what it allows where nothing else is planned.
_QUOTAS: Final[dict[Quota, tuple[str, str, int]]] = {
    "requests_minute": (
        "generate_content_paid_tier_requests",
        "GenerateRequestsPerMinutePerProjectPerModel-PaidTier",
        1_000,
    ),
    "tokens_minute": (
        "generate_content_paid_tier_input_token_count",
        "GenerateContentPaidTierInputTokensPerModelPerMinute",
        1_000_000,
    ),
    "requests_day": (
        "generate_requests_per_model_per_day",
        "GenerateRequestsPerDayPerProjectPerModel",
        10_000,
    ),
    "tokens_day": (
        "generate_content_input_token_count_per_day",
        "GenerateContentInputTokensPerModelPerDay",
        100_000_000,
    ),
}


def quota_exceeded(
    model: str | None, retry_s: float, quota: Quota = "requests_minute", limit: int | None = None
) -> ApiError:
    """Return a 429.

    Args:
        model: the model of a live call, whose refusal names the quota and when to try again; None for anything else:
            such refusals (batch creation above all) carry nothing but a help link.
        retry_s: seconds after which a live call may try again.
        quota: which one is used up.
        limit: what it allows; None is its usual value.
    """
    if model is None:
        return ApiError(429, _QUOTA_TEXT, details=[_HELP])
    name, quota_id, usual = _QUOTAS[quota]
    metric = f"generativelanguage.googleapis.com/{name}"
    value = usual if limit is None else limit
    violation: JsonObject = {
        "quotaMetric": metric,
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(value),
    }
    details: list[Json] = [
        _HELP,
        {"@type": TYPE_PREFIX + "google.rpc.QuotaFailure", "violations": [violation]},
        {"@type": TYPE_PREFIX + "google.rpc.RetryInfo", "retryDelay": f"{int(retry_s)}s"},
    ]
    message = f"{_QUOTA_TEXT}\n* Quota exceeded for metric: {metric}, limit: {value}, model: {model}\n"
    return ApiError(429, f"{message}Please retry in {retry_s:g}s.", details=details)


def usual_error(
    code: int,
    *,
    model: str | None = None,
    message: str | None = None,
    retry_s: float = 12.0,
    quota: Quota = "requests_minute",
) -> ApiError:
    """Return the error that the service usually gives for an HTTP code.

    Args:
        code: HTTP status.
        model: the model of a live call, None for anything else.
        message: replaces the usual words.
        retry_s: seconds after which a live call may try again, where it is told that.
        quota: which one a live call's 429 says is used up.
    """
    if code == 429 and message is None:
        return quota_exceeded(model, retry_s, quota)
    usual = {
        400: "Request contains an invalid argument.",
        403: "The caller does not have permission",
        404: "Requested entity was not found.",
        500: "An internal error has occurred. Please retry or report in "
        "https://developers.generativeai.google/guide/troubleshooting",
        503: "The model is overloaded. Please try again later.",
        504: "Deadline expired before operation could complete.",
    }
    return ApiError(code, usual.get(code, "Unknown error.") if message is None else message)
