"""What a prompt says and how many tokens it has.

Owns the reading of contents: texts in their order, the tokens of each modality, the marks by which a prompt asks for
an error or a refusal. It must not know how prompts are answered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from .fields import as_object, as_str
from .messages import Json, JsonObject

CHARS_PER_TOKEN: Final = 4
_MEDIA_TOKENS: Final = 258
_ERROR_MARK: Final = re.compile(r"\[\[error:(\d{1,3}):(.*?)\]\]", re.DOTALL)
_OTHER_MARK: Final = re.compile(r"\[\[(blocked|finish):(\w+)\]\]")


class RowError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request has no answer.

    Attributes:
        code: rpc code (at most 16) or HTTP code.
        message: the service's words.
        status: status word, if one is shown.
    """

    code: int
    message: str
    status: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked.

    Attributes:
        texts: all texts in their order; data and URIs of media count as texts.
        asked: the last text of the user.
        newest: the text of the last content, empty if it has none.
        tokens: by modality.
        empty: the service's words for a content without parts, a part without data, or a strange role; empty if there
            is none such.
    """

    texts: list[str]
    asked: str
    newest: str
    tokens: dict[str, int]
    empty: str = ""

    @property
    def tokens_total(self) -> int:
        """All tokens."""
        return sum(self.tokens.values())


class CachedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of prompts that is kept by the service.

    Attributes:
        model: that it is for, without ``models/``.
        request: ``systemInstruction``, ``contents``, ``tools`` and ``toolConfig`` as they were given, in camelCase.
        prompt: what it says.
        hashed: the hash of its texts, to be gone on with.
    """

    model: str
    request: JsonObject
    prompt: Prompt
    hashed: Any

    def hash_with(self, texts: list[str]) -> bytes:
        """Return the digest of its texts and those that follow."""
        whole = self.hashed.copy()
        for text in texts:
            whole.update(b"\n" + text.encode("utf-8", "surrogatepass"))
        digest: bytes = whole.digest()
        return digest


def cached_prompt(model: str, request: JsonObject) -> CachedPrompt:
    """Read what is to be cached.

    Args:
        model: without ``models/``.
        request: in camelCase.
    """
    prompt = read_prompt(items_of(request.get("contents")), request.get("systemInstruction"))
    return CachedPrompt(model=model, request=request, prompt=prompt, hashed=hashlib.sha256(joined(prompt.texts)))


def joined(texts: list[str]) -> bytes:
    """Return texts as what their digest is made of."""
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def items_of(value: Json) -> list[Json]:
    """Return the items of a list; a single value stands for a list of it, as Google's reader of JSON has it."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def parts_of(content: Json) -> Iterator[JsonObject]:
    """Yield the parts of a content."""
    for part in items_of(as_object(content).get("parts")):
        if isinstance(part, dict):
            yield part


def read_prompt(contents: list[Json], system: Json = None) -> Prompt:
    """Read contents.

    Args:
        contents: in camelCase.
        system: the system instruction, None if there is none.
    """
    texts: list[str] = []
    asked = newest = empty = ""
    chars = 0
    tokens: dict[str, int] = {}
    for place, content in enumerate(contents) if system is None else enumerate([system, *contents], -1):
        message = content if isinstance(content, dict) else {}
        parts = message.get("parts")
        own: list[str] = []
        for part in parts if isinstance(parts, list) else items_of(parts):
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
                own.append(text)
                chars += len(text)
                continue
            other, modality = _other(as_object(part))
            texts.append(other)
            if modality:
                tokens[modality] = tokens.get(modality, 0) + _MEDIA_TOKENS
            else:
                chars += len(other)
                empty = empty or _no_data(part, place, items_of(parts))
        if not parts and place >= 0:
            empty = empty or f"{_place(place)}: contents.parts must not be empty.\n"
        newest = own[0] if len(own) == 1 else "\n".join(own)
        role = message.get("role", "user")
        if role not in _ROLES and place >= 0:
            empty = empty or "Please use a valid role: user, model."
        if own and content is not system and role == "user":
            asked = newest
    counted = {"TEXT": max(1, chars // CHARS_PER_TOKEN), **tokens}
    return Prompt(texts=texts, asked=asked, newest=newest, tokens=counted, empty=empty)


def _other(part: JsonObject) -> tuple[str, str]:
    """Return what stands for a part that is no text, and its modality if it is media."""
    media = as_object(part.get("inlineData")) or as_object(part.get("fileData"))
    if not media:
        return msgspec.json.encode(part, order="sorted").decode(), ""
    kind = as_str(media.get("mimeType")).partition("/")[0].upper()
    modality = kind if kind in {"IMAGE", "AUDIO", "VIDEO"} else "DOCUMENT"
    return as_str(media.get("data")) or as_str(media.get("fileUri")), modality


def _place(content: int) -> str:
    return f"* GenerateContentRequest.contents[{content}].parts"


def _no_data(part: Json, content: int, parts: list[Json]) -> str:
    if as_object(part).keys() - _NO_DATA:
        return ""
    index = next(index for index, one in enumerate(parts) if one is part)
    return f"{_place(content)}[{index}].data: required oneof field 'data' must have one initialized field\n"


# The last two are the older names for the user who tells what a function returned.
_ROLES: Final = frozenset(["", "user", "model", "function", "tool", None])
_NO_DATA: Final = frozenset(["thought", "thoughtSignature", "videoMetadata", "partMetadata", "mediaResolution"])


def marked_error(texts: list[str]) -> RowError | None:
    """Return the error that a text asks for by ``[[error:CODE:message]]``."""
    for text in texts:
        found = _ERROR_MARK.search(text) if "[[error:" in text else None
        if found:
            return RowError(code=int(found[1]), message=found[2])
    return None


def marks(text: str) -> dict[str, str]:
    """Return what a text asks for by ``[[blocked:REASON]]`` and ``[[finish:REASON]]``."""
    return dict(_OTHER_MARK.findall(text)) if "[[" in text else {}


def merged(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Return the sums of two counts by modality."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in [*one, *(key for key in other if key not in one)]}


def token_details(tokens: dict[str, int]) -> list[Json]:
    """Return counts by modality as the service shows them."""
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items()]
