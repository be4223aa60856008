"""Answers, and the ways in which callers get them: responses, outcomes of rows, tickets.

Owns how a server's bytes are read. Responses decode lazily: whoever wants only bytes pays only for bytes. It must not
know how requests travel.
"""

from __future__ import annotations

from asyncio import wait
from collections.abc import Callable, Generator
from contextlib import suppress
from copy import copy
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar, cast

import msgspec

from carpool.types import PICO, Blob, Facts, FunctionCall, RequestReceipt, Usage

if TYPE_CHECKING:
    from asyncio import Future

    from carpool.errors import CarpoolError

__all__ = ["EmbedResponse", "GenerateResponse", "Outcome", "Ticket"]


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
"""Tokens. Beyond any real number they are taken for none: sums of them become money."""


class TokenCounts(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """``usageMetadata`` of a generate response."""

    prompt_token_count: _Count = 0
    candidates_token_count: _Count = 0
    thoughts_token_count: _Count = 0
    cached_content_token_count: _Count = 0
    total_token_count: _Count = 0


class UsageView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What a response says of its tokens; an embedding says it in one number beside the vector."""

    usage_metadata: TokenCounts = TokenCounts()
    token_count: _Count = 0


_usage_decoder = msgspec.json.Decoder(UsageView, strict=False)


def view_usage(raw: bytes) -> UsageView:
    """Read the token counts out of one response's JSON bytes; all zero where the server sent none."""
    try:
        return _usage_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UsageView()


def read_usage(raw: bytes) -> Usage:
    """Return the token counts of one response."""
    view = view_usage(raw)
    return _usage_of(view.usage_metadata, view.token_count)


def _usage_of(tokens: TokenCounts, token_count: int) -> Usage:
    prompt = tokens.prompt_token_count or token_count
    return Usage(
        prompt_tokens=prompt,
        answer_tokens=tokens.candidates_token_count,
        thinking_tokens=tokens.thoughts_token_count,
        cached_tokens=tokens.cached_content_token_count,
        total_tokens=tokens.total_token_count or prompt,
    )


class _Media(msgspec.Struct, frozen=True, rename="camel", gc=False):
    data: str = ""
    mime_type: str = ""


class _Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    text: str | None = None
    thought: bool = False
    inline_data: _Media | None = None


class _Content(msgspec.Struct, frozen=True, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    content: _Content | None = None
    finish_reason: str | None = None


class _Candidates(msgspec.Struct, frozen=True, gc=False):
    candidates: list[_Candidate] | None = None


class _AnswerView(UsageView, frozen=True, gc=False):
    candidates: list[_Candidate] | None = None


_PINNED_BYTES_MAX = 65_536
_decode_answer = msgspec.json.Decoder(_AnswerView, strict=False).decode
_last_seen: tuple[bytes, _AnswerView] = (b"", _AnswerView())
"""What was read last: who asks for an answer's text mostly asks for its tokens next."""


def _view_answer(raw: bytes) -> _AnswerView:
    """Read what most callers want to know of an answer in one go."""
    global _last_seen  # noqa: PLW0603 - of one entry: an answer that kept it would be twice as large
    seen, view = _last_seen
    if seen is raw:
        return view
    try:
        view = _decode_answer(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        view = _salvaged(raw)
    if len(raw) <= _PINNED_BYTES_MAX:
        _last_seen = raw, view
    return view


def _salvaged(raw: bytes) -> _AnswerView:
    """Read what can be read of an answer: its counts may be odd, or its text; what is odd, ``json()`` shows."""
    view, candidates = UsageView(), None
    with suppress(ValueError, RecursionError):
        plain = decode_json(raw)
        with suppress(msgspec.ValidationError):
            view = msgspec.convert(plain, UsageView, strict=False)
        candidates = msgspec.convert(plain, _Candidates).candidates
    return _AnswerView(view.usage_metadata, view.token_count, candidates)


class _Call(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    args: dict[str, Any] | None = None
    id: str = ""


class _CallPart(msgspec.Struct, frozen=True, rename="camel", gc=False):
    function_call: _Call | None = None


class _CallContent(msgspec.Struct, frozen=True, gc=False):
    parts: list[_CallPart] | None = None


class _CallCandidate(msgspec.Struct, frozen=True, gc=False):
    content: _CallContent | None = None


class _CallsView(msgspec.Struct, frozen=True, gc=False):
    candidates: list[_CallCandidate] | None = None


class _Response(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What both kinds of answers share: the server's bytes, untouched, and where they came from."""

    key: str
    """Identity of the request."""
    raw: bytes
    """The server's JSON, untouched."""
    _facts: Facts
    _accepted_at: float
    _reused: bool = False

    def json(self) -> Any:
        """Decode the whole answer."""
        return decode_json(self.raw)

    @property
    def usage(self) -> Usage:
        """Tokens as the server counted them."""
        return read_usage(self.raw)

    @property
    def receipt(self) -> RequestReceipt:
        """Route, job, waiting time and money of this answer."""
        facts = self._facts
        cost = facts.cost(self.raw)
        return RequestReceipt(
            route=facts.route,
            job=facts.job,
            waited_s=max(0.0, facts.answered_at - self._accepted_at),
            list_usd=None if cost is None else Decimal(cost[0]) / PICO,
            paid_usd=None if cost is None else Decimal(0 if self._reused else cost[1]) / PICO,
            reused=self._reused,
            reused_age_s=max(0.0, facts.answered_at - self._accepted_at) if self._reused else 0.0,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key={self.key!r}, bytes={len(self.raw)}, route={self._facts.route!r})"


class GenerateResponse(_Response, frozen=True, eq=False, gc=False):
    """The answer to one ``generate``."""

    _schema: Any = None

    @property
    def usage(self) -> Usage:
        """Tokens as the server counted them."""
        view = _view_answer(self.raw)
        return _usage_of(view.usage_metadata, view.token_count)

    def _candidate(self) -> _Candidate:
        candidates = _view_answer(self.raw).candidates
        return candidates[0] if candidates else _Candidate()

    def _parts(self) -> list[_Part]:
        candidates = _view_answer(self.raw).candidates
        content = candidates[0].content if candidates else None
        return content.parts or [] if content is not None else []

    @property
    def text(self) -> str:
        """Text of the first candidate, thoughts left out; empty if it holds none (blocked, or cut while thinking)."""
        parts = self._parts()
        if len(parts) == 1 and not parts[0].thought:  # as most answers are
            return parts[0].text or ""
        return "".join([part.text for part in parts if part.text and not part.thought])

    @property
    def parsed(self) -> Any:
        """The JSON answer: an instance of the schema's type, or plain data; ``None`` where no schema was given.

        Raises:
            ValueError: the answer is not JSON, or not of that type.
        """
        if self._schema is None:
            return None
        text = self.text
        validate: Callable[[str], Any] | None = getattr(self._schema, "model_validate_json", None)
        if validate is not None:
            return validate(text)
        if isinstance(self._schema, type):
            return msgspec.json.decode(text, type=cast("type[Any]", self._schema))
        return msgspec.json.decode(text)

    @property
    def images(self) -> list[Blob]:
        """Inline media of the first candidate."""
        media = (part.inline_data for part in self._parts())
        return [Blob(decode_base64(item.data), item.mime_type) for item in media if item is not None]

    @property
    def function_calls(self) -> list[FunctionCall]:
        """Calls of your functions that the first candidate asks for; nobody has made them."""
        candidates = msgspec.convert(self.json(), _CallsView).candidates
        content = candidates[0].content if candidates else None
        calls = (part.function_call for part in (content.parts if content is not None else None) or [])
        return [FunctionCall(name=call.name, args=call.args or {}, id=call.id) for call in calls if call is not None]

    @property
    def finish_reason(self) -> str:
        """The server's word for why it stopped; empty if it gave none."""
        return self._candidate().finish_reason or ""

    def to_genai(self) -> Any:
        """Return google-genai's own ``GenerateContentResponse`` (needs the extra ``genai``)."""
        from google.genai import types

        return cast("Any", types.GenerateContentResponse).model_validate(self.json())


class EmbedResponse(_Response, frozen=True, eq=False, gc=False):
    """The answer to one ``embed``."""

    @property
    def values(self) -> list[float]:
        """The vector."""
        return list(_embedding_decoder.decode(self.raw).embedding.values)

    def to_genai(self) -> Any:
        """Return google-genai's own ``EmbedContentResponse``, with this one vector (needs the extra ``genai``)."""
        from google.genai import types

        return cast("Any", types.EmbedContentResponse).model_validate({"embeddings": [{"values": self.values}]})


class _Values(msgspec.Struct, frozen=True, gc=False):
    values: list[float] = []


class _EmbeddingView(msgspec.Struct, frozen=True, gc=False):
    embedding: _Values = _Values()


_embedding_decoder = msgspec.json.Decoder(_EmbeddingView)

Response: TypeAlias = GenerateResponse | EmbedResponse
R_co = TypeVar("R_co", bound=Response, covariant=True)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``map``: the response or the error of a key."""

    key: str
    response: GenerateResponse | EmbedResponse | None = None
    error: CarpoolError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a response."""
        return self.error is None


class Ticket(Generic[R_co]):
    """A request that is on disk: await it, as often as wanted, or ask ``client.result(key)`` later."""

    __slots__ = ("_future", "_respond", "key")

    def __init__(self, key: str, future: Future[Any], respond: Callable[[Any], R_co]) -> None:
        self.key = key
        self._future = future
        self._respond = respond

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._response().__await__()

    async def _response(self) -> R_co:
        await wait((self._future,))  # a cancelled awaiter must not take the ticket with it
        return self.result()

    def result(self) -> R_co:
        """Return the response of a ticket that is done, or raise its error, without waiting."""
        error = self._future.exception()
        if error is not None:
            raise copy(error)
        return self._respond(self._future.result())

    def done(self) -> bool:
        """Return whether the response or the error is there."""
        return self._future.done()

    def __repr__(self) -> str:
        return f"Ticket(key={self.key!r}, done={self._future.done()})"


def decode_json(raw: bytes) -> Any:
    """Decode JSON, also where it holds what a strict decoder refuses (lone surrogates, NaN)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        import json  # noqa: PLC0415 - only for answers that the fast decoder refuses

        return json.loads(raw.decode("utf-8", "replace"))


def decode_base64(text: str) -> bytes:
    """Decode base64 in either alphabet, with or without padding."""
    import base64  # noqa: PLC0415 - only for media

    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
