"""Native answers, read for OpenAI's shape: candidates as choices, and what was counted.

Owns what becomes of each part and of each reason to stop. An answer may be odd, and was paid for: nothing in it raises,
and what cannot be read is never shown as a complete answer. It must not know requests.
"""

from __future__ import annotations

import hashlib
import json
from math import isfinite
from typing import Any, Final, NamedTuple

import msgspec

from carpool.responses import decode_json
from carpool.surfaces.openai.values import is_list, is_object

_TOKENS_MAX: Final = 10**12
_UNLIKELY: Final = -9999.0
"""OpenAI's number for a probability that is next to nothing."""
_ENDS: Final = {
    "": "stop",
    "FINISH_REASON_UNSPECIFIED": "stop",
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
}
_FILTERED: Final = "content_filter"
"""Every other reason to stop: no client takes such an answer for a complete one."""
_UNREADABLE: Final = "The answer of the service cannot be read."
_EMPTY: Final = "The service gave no answer, and no reason."
_REASON_CHARS_MAX: Final = 300


class Choice(msgspec.Struct, frozen=True):
    """One candidate."""

    index: int
    message: dict[str, Any]
    """As a complete answer has it, its role included."""
    logprobs: dict[str, Any] | None
    finish_reason: str


class Told(NamedTuple):
    """What an answer tells."""

    choices: list[Choice]
    usage: dict[str, Any]


def read_answer(answer: bytes) -> Told:
    """Read the answer of ``generateContent``.

    Args:
        answer: JSON, as the service sent it; anything is taken.
    """
    try:
        fields = decode_json(answer)
        if is_object(fields):
            return Told(_choices(fields, answer), _usage(_object(fields.get("usageMetadata"))))
    except (ValueError, RecursionError):
        pass  # neither does the strict decoder read it, nor the patient one
    return Told([_refusal(_UNREADABLE)], _usage({}))


def to_json(fields: dict[str, Any]) -> bytes:
    """Encode an answer; halves of characters, which some decoders refuse, become replacement characters."""
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        return json.dumps(_mended(fields), ensure_ascii=False, separators=(",", ":")).encode()


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if is_object(value):
        return {_mended(name): _mended(item) for name, item in value.items()}
    if is_list(value):
        return [_mended(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


# -- candidates


def _choices(fields: dict[str, Any], answer: bytes) -> list[Choice]:
    candidates = _list(fields.get("candidates"))
    if candidates:
        ids = _Ids(answer)
        return [_choice(_object(item), place, ids) for place, item in enumerate(candidates)]
    feedback = _object(fields.get("promptFeedback"))
    reason = _text(feedback.get("blockReason"))
    if not reason:
        return [_refusal(_EMPTY)]
    return [_refusal(_told(f"Gemini blocked the prompt: {reason}", feedback.get("blockReasonMessage")))]


def _refusal(words: str) -> Choice:
    return Choice(0, {"role": "assistant", "content": None, "refusal": words}, None, _FILTERED)


def _told(words: str, more: Any) -> str:
    return f"{words} ({_text(more)[:_REASON_CHARS_MAX]})" if _text(more) else f"{words}."


def _choice(candidate: dict[str, Any], place: int, ids: _Ids) -> Choice:
    index = candidate.get("index")
    index = index if type(index) is int and 0 <= index < _TOKENS_MAX else place
    said = _Said(ids, index)
    for part in _list(_object(candidate.get("content")).get("parts")):
        said.add(_object(part))
    reason = _text(candidate.get("finishReason"))
    end = _ENDS.get(reason, _FILTERED)
    message = said.message()
    if end == _FILTERED:
        message["refusal"] = _told(f"Gemini ended the answer: {reason}", candidate.get("finishMessage"))
    elif end == "stop" and said.calls:
        end = "tool_calls"
    return Choice(index, message, _logprobs(_object(candidate.get("logprobsResult"))), end)


class _Ids:
    """Names of calls that the service did not name: of the same answer always the same."""

    __slots__ = ("_answer", "_digest")

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._digest = ""

    def name(self, index: int, place: int) -> str:
        """Return the name of a call: which candidate's, and its place there."""
        self._digest = self._digest or hashlib.sha256(self._answer).hexdigest()[:20]
        return f"call_{self._digest}_{index}_{place}"


class _Said:
    """The parts of a candidate, put where OpenAI's shape, or its common extensions, have them.

    Thoughts go to ``reasoning_content``, pictures and sound to ``images`` as data URLs, and thought signatures to
    ``extra_content``, as Google's own endpoint has them. Other parts (code that ran on Google's side) have no place.
    """

    __slots__ = ("_ids", "_images", "_index", "_signature", "_texts", "_thoughts", "calls")

    def __init__(self, ids: _Ids, index: int) -> None:
        self._ids = ids
        self._index = index
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._images: list[dict[str, Any]] = []
        self._signature = ""
        self.calls: list[dict[str, Any]] = []

    def add(self, part: dict[str, Any]) -> None:
        """Take the next part."""
        text = part.get("text")
        signature = _text(part.get("thoughtSignature"))
        if part.get("thought") is True:
            self._thoughts.append(_text(text))
        elif isinstance(text, str):
            self._texts.append(text)
            self._signature = signature or self._signature
        elif isinstance(part.get("functionCall"), dict):
            self.calls.append(_signed(self._call(_object(part["functionCall"])), signature))
        elif isinstance(part.get("inlineData"), dict):
            media = _object(part["inlineData"])
            data = _text(media.get("data")).replace("-", "+").replace("_", "/")
            url = f"data:{_text(media.get('mimeType'))};base64,{data}"
            image = {"type": "image_url", "image_url": {"url": url}, "index": len(self._images)}
            self._images.append(_signed(image, signature))

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        name = _text(call.get("id")) or self._ids.name(self._index, len(self.calls))
        function = {"name": _text(call.get("name")), "arguments": to_json(_object(call.get("args"))).decode()}
        return {"id": name, "type": "function", "function": function}

    def message(self) -> dict[str, Any]:
        """Return the whole message."""
        content = "".join(self._texts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
        }
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        if self._images:
            message["images"] = self._images
        return _signed(message, self._signature)


def _signed(item: dict[str, Any], signature: str) -> dict[str, Any]:
    if signature:
        item["extra_content"] = {"google": {"thought_signature": signature}}
    return item


# -- probabilities


def _logprobs(result: dict[str, Any]) -> dict[str, Any] | None:
    chosen = _list(result.get("chosenCandidates"))
    if not chosen:
        return None
    tops = _list(result.get("topCandidates"))
    tokens: list[dict[str, Any]] = []
    for place, item in enumerate(chosen):
        top = _object(tops[place]) if place < len(tops) else {}
        others = [_token(_object(one)) for one in _list(top.get("candidates"))]
        tokens.append(_token(_object(item)) | {"top_logprobs": others})
    return {"content": tokens, "refusal": None}


def _token(item: dict[str, Any]) -> dict[str, Any]:
    token = _text(item.get("token"))
    value = item.get("logProbability", 0.0)  # a certainty is not written down
    logprob = value if type(value) in (int, float) and _UNLIKELY < value <= 0 else _UNLIKELY
    return {"token": token, "logprob": float(logprob), "bytes": list(token.encode("utf-8", "replace"))}


# -- what was counted


def _usage(counted: dict[str, Any]) -> dict[str, Any]:
    prompt = _count(counted.get("promptTokenCount")) + _count(counted.get("toolUsePromptTokenCount"))
    thoughts = _count(counted.get("thoughtsTokenCount"))
    answer = _count(counted.get("candidatesTokenCount")) + thoughts
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": _count(counted.get("totalTokenCount")) or prompt + answer,
        "prompt_tokens_details": {
            "cached_tokens": _count(counted.get("cachedContentTokenCount")),
            "audio_tokens": _sound(counted.get("promptTokensDetails")),
        },
        "completion_tokens_details": {
            "reasoning_tokens": thoughts,
            "audio_tokens": _sound(counted.get("candidatesTokensDetails")),
        },
    }


def _sound(details: Any) -> int:
    found = (_object(item) for item in _list(details))
    return sum(_count(item.get("tokenCount")) for item in found if item.get("modality") == "AUDIO")


def _count(value: Any) -> int:
    """Return a number of tokens; numbers come as strings where they may be large."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 12:
        value = int(value)
    return value if type(value) is int and 0 <= value <= _TOKENS_MAX else 0


# -- values of any kind


def _object(value: Any) -> dict[str, Any]:
    return value if is_object(value) else {}


def _list(value: Any) -> list[Any]:
    return value if is_list(value) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
