"""What differs between models where OpenAI's fields are translated: how thinking is asked for, and what is signed.

Owns the tables by which Google maps ``reasoning_effort``, as its documentation of the OpenAI compatibility and of the
models' thinking levels has them. It must not know other fields.
"""

from __future__ import annotations

import re
from typing import Any, Final

from carpool.surfaces.openai.values import one_of, refused

EFFORTS: Final = ("none", "minimal", "low", "medium", "high")

_GENERATION = re.compile(r"gemini-(\d{1,3})(?:\.(\d{1,3}))?-")
_ALIAS = re.compile(r"gemini-[a-z-]+-latest")
_NEWEST: Final = (3, 0)
"""What names without a number stand for at least."""
_BUDGETS: Final = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
_LEVELS: Final = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_WITH_MINIMAL: Final = ("gemini-3-flash", "gemini-3.1-flash-lite", "gemini-3.5-flash", "gemini-3.6-flash")
"""Beginnings of the names of models that take the lowest level; newer ones begin at the next."""
_ONLY_LOW_AND_HIGH: Final = "gemini-3-pro"
_NO_EFFORT: Final = ("-image", "-tts")
_INSTEAD: Final = 'leave it out, or give extra_body {"google": {"thinking_config": {...}}}'


def generation_of(model: str) -> tuple[int, int] | None:
    """Return the numbers in a model's name: ``(2, 5)`` for ``gemini-2.5-flash``; None where it tells none."""
    found = _GENERATION.match(model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if _ALIAS.fullmatch(model) else None


def wants_signatures(model: str) -> bool:
    """Return whether a model refuses calls of functions that come back without the thought signature it gave them."""
    generation = generation_of(model)
    return generation is not None and generation >= (3, 0)


def takes_json_with_tools(model: str) -> bool:
    """Return whether a model takes functions and a JSON format for its answer in one request."""
    generation = generation_of(model)
    return generation is None or generation >= (3, 0)


def thinking_of(model: str, effort: Any) -> dict[str, Any]:
    """Return the native thinking config for an effort, as Google's own compatible endpoint has it.

    Args:
        model: name without ``models/``.
        effort: value of ``reasoning_effort``.

    Raises:
        Untranslatable: the model has nothing like it.
    """
    param = "reasoning_effort"
    word = one_of(effort, param, EFFORTS, hint=f"; {_INSTEAD}")
    generation = generation_of(model)
    if generation is None:
        raise refused(param, f"which efforts this model takes is not known from its name; {_INSTEAD}")
    if generation < (2, 5) or any(mark in model for mark in _NO_EFFORT):
        raise refused(param, "this model does not let callers say how much it thinks; leave it out")
    if generation < (3, 0):
        if word == "none" and "-pro" in model:
            raise refused(param, "the thinking of this model cannot be turned off; give 'minimal' or more")
        return {"thinkingBudget": _BUDGETS[word]}
    if model.startswith(_WITH_MINIMAL):
        # Google says of this level that it matches no thinking.
        return {"thinkingLevel": _LEVELS["minimal" if word == "none" else word]}
    if word == "none":
        raise refused(param, "the thinking of this model cannot be turned off; give 'low' or more")
    if word == "minimal":
        word = "low"
    if word == "medium" and model.startswith(_ONLY_LOW_AND_HIGH):
        word = "high"
    return {"thinkingLevel": _LEVELS[word]}
