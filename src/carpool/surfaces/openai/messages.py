"""Conversations in OpenAI's shape to native turns: who said what, calls of functions and their results, and media.

Owns the order that Google wants: instructions first, then turns of the user and the model by turns, and after a turn
with calls one turn with all their results, in the order of the calls. It must not know other fields of a request.

Where OpenAI's shape has no place for what Google needs back, its own endpoint's extension is read: thought signatures
stand in ``extra_content.google.thought_signature`` of a call, or of a message. So do ``images`` of a message, as the
answers here hold them. ``reasoning_content`` is taken and not sent: summaries of thoughts are for people, and what the
model needs of them is in the signatures. So are ``parsed`` and ``parsed_arguments``, in which the official client for
Python keeps what it read in an answer, and which it sends along. LiteLLM puts what it does not know of an answer into
``provider_specific_fields``, and sends those: they are read as if they stood where they came from.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from carpool._showing import in_short
from carpool.surfaces.openai.media import CACHE_HINT, DETAILS, file_part, image_part, sound_part
from carpool.surfaces.openai.values import (
    DEPTH_MAX,
    filled,
    is_base64,
    is_deep,
    is_object,
    known,
    listed,
    one_of,
    refused,
    shaped,
    text_of,
)

UNSIGNED: Final = "skip_thought_signature_validator"
"""Google's own word for a call whose thought signature is not there: its newer models refuse a call without any."""

_SYSTEM_FIELDS: Final = ("role", "content", "name")
_ASSISTANT_FIELDS: Final = (
    *_SYSTEM_FIELDS,
    "refusal",
    "audio",
    "annotations",
    "function_call",
    "tool_calls",
    "extra_content",
    "reasoning_content",
    "images",
    "parsed",
    "provider_specific_fields",
)
_TOOL_FIELDS: Final = ("role", "content", "name", "tool_call_id")
_NAMED: Final = "Gemini knows no names of those who speak; put it into the text"
_NOTHING: Final = "there is nothing in it to send; leave the message out"


class Conversation(NamedTuple):
    """What was said, in native shape."""

    system: list[dict[str, Any]]
    """Parts of the system instruction; empty if there is none."""
    contents: list[dict[str, Any]]
    """Turns, one at least."""
    resolution: str
    """Native name of the resolution that all pictures are asked to be seen in; empty where none asks for one."""


def read_messages(value: Any, *, signed: bool) -> Conversation:
    """Translate the messages of a request.

    Args:
        value: of ``messages``.
        signed: whether the model refuses calls of functions without their thought signatures.

    Raises:
        Untranslatable: they are not as OpenAI has them, or hold what has no native form.
    """
    messages = listed(value, "messages")
    reader = _Reader()
    for index, item in enumerate(messages):
        reader.read(shaped(item, f"messages[{index}]"), f"messages[{index}]")
    reader.end(f"messages[{len(messages) - 1}]" if messages else "messages")
    if signed:
        _mark_unsigned(reader.contents)
    return Conversation(reader.system, reader.contents, reader.resolution())


class _Asked:
    """A call that the model made, and what it returned."""

    __slots__ = ("id", "name", "result")

    def __init__(self, name: str, call_id: str) -> None:
        self.name = name
        self.id = call_id
        self.result: dict[str, Any] | None = None


class _Reader:
    """Messages, one after the other."""

    def __init__(self) -> None:
        self.system: list[dict[str, Any]] = []
        self.contents: list[dict[str, Any]] = []
        self._asked: list[_Asked] = []
        """Calls of the last message of the model, as long as not all are answered."""
        self._details: set[str] = set()
        self._files = False

    def read(self, message: dict[str, Any], path: str) -> None:
        """Take the next message."""
        roles = ("system", "developer", "user", "assistant", "tool", "function")
        role = one_of(message.get("role"), f"{path}.role", roles)
        if role in ("tool", "function"):
            self._result(message, path, role)
            return
        self._results_end(path)
        names = _ASSISTANT_FIELDS if role == "assistant" else _SYSTEM_FIELDS
        known(message, names, path)
        if message.get("name") is not None:
            raise refused(f"{path}.name", _NAMED)
        match role:
            case "user":
                parts = self._parts(message.get("content"), f"{path}.content")
                if not parts:
                    raise refused(f"{path}.content", _NOTHING)
                self._turn("user", parts)
            case "assistant":
                self._assistant(message, path)
            case _:
                self._instruction(message, path)

    def end(self, path: str) -> None:
        """Check that the conversation is whole."""
        self._results_end(path)
        if not self.contents:
            raise refused("messages", "there must be a message that is no instruction; give one of the role 'user'")

    def resolution(self) -> str:
        """Return the native name of the resolution that pictures are asked to be seen in."""
        wanted = self._details - {"auto"}
        if not wanted:
            return ""
        if len(self._details) > 1 or self._files:
            why = "Gemini sees all media of a request in one resolution"
            raise refused("messages", f"{why}; give each picture the same detail, and no other files, or no detail")
        return DETAILS[wanted.pop()]

    def _instruction(self, message: dict[str, Any], path: str) -> None:
        if self.contents:
            why = "Gemini takes instructions before the conversation alone"
            raise refused(f"{path}.role", f"{why}; move it to the front, or give it as a message of the user")
        self.system += _texts(message.get("content"), f"{path}.content")

    def _turn(self, role: str, parts: list[dict[str, Any]]) -> None:
        last = self.contents[-1] if self.contents else None
        if last is not None and last["role"] == role and "functionResponse" not in last["parts"][0]:
            last["parts"] += parts  # turns alternate: what one says in several messages is one
        else:
            self.contents.append({"role": role, "parts": parts})

    # -- what is said

    def _parts(self, content: Any, path: str) -> list[dict[str, Any]]:
        """Return the parts of what a user says."""
        if isinstance(content, str):
            return [{"text": content}] if content else []
        parts: list[dict[str, Any]] = []
        for index, item in enumerate(listed(content, path)):
            place = f"{path}[{index}]"
            fields = shaped(item, place)
            kinds = ("text", "image_url", "input_audio", "file")
            kind = one_of(fields.get("type"), f"{place}.type", kinds)
            known(fields, ("type", kind, CACHE_HINT), place)
            value, place = fields.get(kind), f"{place}.{kind}"
            match kind:
                case "text":
                    text = text_of(value, place)
                    parts += [{"text": text}] if text else []
                case "image_url":
                    part, detail = image_part(value, place)
                    parts.append(part)
                    self._details.add(detail)
                case "input_audio":
                    parts.append(sound_part(value, place))
                case _:
                    parts.append(file_part(value, place))
                    self._files = True
        return parts

    # -- calls and results

    def _assistant(self, message: dict[str, Any], path: str) -> None:
        kept = message.get("provider_specific_fields")
        if kept is not None:
            place = f"{path}.provider_specific_fields"
            known(shaped(kept, place), ("extra_content", "refusal"), place)
            message = {**kept, **message}
        for name in ("refusal", "audio"):
            if message.get(name) is not None:
                raise refused(f"{path}.{name}", "Gemini takes no such part of a conversation; leave the message out")
        if message.get("annotations"):
            raise refused(f"{path}.annotations", "Gemini takes no notes on what was said; leave them out")
        if message.get("reasoning_content") is not None:
            text_of(message["reasoning_content"], f"{path}.reasoning_content")
        content = message.get("content")
        parts = [] if content is None else _texts(content, f"{path}.content")
        parts += _images(message.get("images"), f"{path}.images")
        signature = _signature(message.get("extra_content"), f"{path}.extra_content")
        calls = _calls(message, path)
        if calls and not self.contents:
            raise refused(path, "calls of functions must follow a message of the user, or results of others")
        if signature:
            _sign(parts, calls, signature)
        if not parts and not calls:
            raise refused(path, _NOTHING)
        self._asked = [_Asked(part["functionCall"]["name"], part["functionCall"].get("id", "")) for part in calls]
        self._turn("model", parts + calls)

    def _result(self, message: dict[str, Any], path: str, role: str) -> None:
        """Take what a function returned."""
        known(message, _TOOL_FIELDS if role == "tool" else _SYSTEM_FIELDS, path)
        name = message.get("name")
        if role == "tool":
            place, wanted = f"{path}.tool_call_id", filled(message.get("tool_call_id"), f"{path}.tool_call_id")
            open_calls = (one for one in self._asked if one.result is None and one.id == wanted)
        else:
            place, wanted = f"{path}.name", filled(name, f"{path}.name")
            open_calls = (one for one in self._asked if one.result is None and one.name == wanted)
        call = next(open_calls, None)
        if call is None:
            why = "no call that is still without its result has this id or name"
            raise refused(place, f"{why}; results follow the message of the assistant that made the calls")
        if name is not None and name != call.name:
            raise refused(f"{path}.name", f"the call with this id is of the function {in_short(call.name)}")
        response: dict[str, Any] = {"id": call.id} if call.id else {}
        response["name"] = call.name
        response["response"] = _returned(message.get("content"), f"{path}.content")
        call.result = {"functionResponse": response}

    def _results_end(self, path: str) -> None:
        """Join the results of the last calls into one turn, once no more can come."""
        if not self._asked:
            return
        results = [call.result for call in self._asked if call.result is not None]
        if len(results) < len(self._asked):
            missing = len(self._asked) - len(results)
            why = f"{missing} of the {len(self._asked)} calls before have no result"
            raise refused(path, f"{why}; give a message of the role 'tool' for each")
        self.contents.append({"role": "user", "parts": results})
        self._asked = []


def _texts(content: Any, path: str) -> list[dict[str, Any]]:
    """Return parts of text alone; those that are empty say nothing, and are left out."""
    if isinstance(content, str):
        return [{"text": content}] if content else []
    parts: list[dict[str, Any]] = []
    for index, item in enumerate(listed(content, path)):
        place = f"{path}[{index}]"
        fields = shaped(item, place)
        one_of(fields.get("type"), f"{place}.type", ("text",), hint=": in this role Gemini takes words alone")
        known(fields, ("type", "text", CACHE_HINT), place)
        text = text_of(fields.get("text"), f"{place}.text")
        parts += [{"text": text}] if text else []
    return parts


def _images(value: Any, path: str) -> list[dict[str, Any]]:
    """Return the parts of pictures that the model drew."""
    parts: list[dict[str, Any]] = []
    for index, item in enumerate([] if value is None else listed(value, path)):
        place = f"{path}[{index}]"
        fields = shaped(item, place)
        known(fields, ("type", "image_url", "index", "extra_content"), place)
        part, _ = image_part(fields.get("image_url"), f"{place}.image_url")
        signature = _signature(fields.get("extra_content"), f"{place}.extra_content")
        parts.append(part | {"thoughtSignature": signature} if signature else part)
    return parts


def _calls(message: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """Return the parts of a message's calls."""
    parts: list[dict[str, Any]] = []
    calls = message.get("tool_calls")
    for index, item in enumerate([] if calls is None else listed(calls, f"{path}.tool_calls")):
        place = f"{path}.tool_calls[{index}]"
        fields = shaped(item, place)
        kind = fields.get("type")
        if kind is not None:
            one_of(kind, f"{place}.type", ("function",), hint=": Gemini knows no others")
        known(fields, ("id", "type", "function", "index", "extra_content"), place)
        call: dict[str, Any] = {"id": filled(fields.get("id"), f"{place}.id")}
        part = {"functionCall": call | _called(fields.get("function"), f"{place}.function")}
        signature = _signature(fields.get("extra_content"), f"{place}.extra_content")
        parts.append(part | {"thoughtSignature": signature} if signature else part)
    older = message.get("function_call")
    if older is not None:
        if parts:
            raise refused(f"{path}.function_call", "give one of tool_calls and function_call")
        parts.append({"functionCall": _called(older, f"{path}.function_call")})
    return parts


def _called(value: Any, path: str) -> dict[str, Any]:
    """Return the name and the arguments of a call."""
    fields = shaped(value, path)
    known(fields, ("name", "arguments", "parsed_arguments"), path)
    name = filled(fields.get("name"), f"{path}.name")
    place = f"{path}.arguments"
    text = text_of(fields.get("arguments"), place)
    args = _object_in(text) if text.strip() else {}
    if args is None:
        raise refused(place, f"it must be the JSON of an object, nested {DEPTH_MAX} levels deep at most")
    return {"name": name, "args": args}


def _returned(content: Any, path: str) -> dict[str, Any]:
    """Return what a function returned as an object: its own, or its words under the name that Google has for them."""
    text = "".join(part["text"] for part in _texts(content, path))
    own = _object_in(text) if text.lstrip()[:1] == "{" else None
    return {"output": text} if own is None else own


def _object_in(text: str) -> dict[str, Any] | None:
    """Return the object whose JSON a text is; None if it is no such JSON, or too deep for Google's parser."""
    try:
        found = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
    return found if is_object(found) and not is_deep(found) else None


# -- thought signatures


def _signature(value: Any, path: str) -> str:
    """Return the thought signature in an ``extra_content``; empty if there is none."""
    if value is None:
        return ""
    fields = shaped(value, path)
    known(fields, ("google",), path)
    google = shaped(fields.get("google", {}), f"{path}.google")
    known(google, ("thought_signature",), f"{path}.google")
    signature = google.get("thought_signature")
    if signature is None:
        return ""
    if not is_base64(text_of(signature, f"{path}.google.thought_signature")):
        raise refused(f"{path}.google.thought_signature", "it is not base64; give it back as it came")
    return str(signature)


def _sign(parts: list[dict[str, Any]], calls: list[dict[str, Any]], signature: str) -> None:
    """Put a message's own signature where it came from: at its last words, or else at its first call."""
    words = [part for part in parts if "text" in part]
    unsigned = [part for part in calls[:1] if "thoughtSignature" not in part]
    if words:
        words[-1]["thoughtSignature"] = signature
    elif unsigned:
        unsigned[0]["thoughtSignature"] = signature
    else:
        parts.append({"text": "", "thoughtSignature": signature})


def _mark_unsigned(contents: list[dict[str, Any]]) -> None:
    """Say of calls since the user last spoke that their signature is not there, where it is not.

    Many clients keep no more of a call than OpenAI's own fields. Models that want the signatures look at the first
    call of each turn, and no further back.
    """
    for turn in reversed(contents):
        first = turn["parts"][0]
        if turn["role"] == "user" and "functionResponse" not in first:
            return
        calls = [part for part in turn["parts"] if "functionCall" in part]
        if calls and "thoughtSignature" not in calls[0]:
            calls[0]["thoughtSignature"] = UNSIGNED
