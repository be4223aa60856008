"""Messages and tools in the shapes that OpenAI's chats have, and others took over.

Owns what is asked in them. It must not import any library but pydantic: several use it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Review(BaseModel):
    """A review of a book."""

    summary: str
    stars: int


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALLS_A_TOOL = "Use get_weather to tell whether it rains"
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in rhymes."},
    {"role": "user", "content": "The first turn"},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "The second turn"},
]


def user(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


def with_result(call: Any) -> list[dict[str, Any]]:
    """Return the messages that bring a tool's result."""
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "It rains."}
    return [*user(CALLS_A_TOOL), call.model_dump(exclude_none=True), result]
