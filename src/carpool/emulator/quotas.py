"""What live calls of a model may use within a minute.

Owns the count of the last minute. It must not know how a call is answered.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, TypeAlias

from .messages import quota_exceeded

_MINUTE_S: Final = 60.0

Limit: TypeAlias = int | dict[str, int] | None


class _Used(NamedTuple):
    at: float
    requests: int
    tokens: int


class _Minute:
    """What one model used within the last minute."""

    def __init__(self) -> None:
        self.calls: deque[_Used] = deque()
        self.requests = 0
        self.tokens = 0

    def add(self, used: _Used) -> None:
        self.calls.append(used)
        self.requests += used.requests
        self.tokens += used.tokens

    def forget(self, before: float) -> None:
        while self.calls and self.calls[0].at <= before:
            gone = self.calls.popleft()
            self.requests -= gone.requests
            self.tokens -= gone.tokens


class LiveQuotas:
    """The live calls of the last minute, by model."""

    def __init__(self) -> None:
        self._minutes: dict[str, _Minute] = {}

    def check(self, model: str, now: float, *, requests: Limit, tokens: Limit, asked: int = 1) -> None:
        """Refuse a call for which the last minute leaves no room.

        Args:
            model: that is called.
            now: seconds since the epoch.
            requests: that are answered within a minute; None is no limit.
            tokens: that they may read within a minute; None is no limit.
            asked: requests in this call.

        Raises:
            ApiError: 429, with the quota's name and the time after which there is room.
        """
        minute = self._minutes.setdefault(model, _Minute())
        minute.forget(now - _MINUTE_S)
        limit = _limit_of(requests, model)
        if limit is not None and (over := minute.requests + asked - limit) > 0:
            retry_s = _room_s([(call.at, call.requests) for call in minute.calls], over, now)
            raise quota_exceeded(model, retry_s, "requests_minute", limit)
        limit = _limit_of(tokens, model)
        if limit is not None and (over := minute.tokens + 1 - limit) > 0:
            retry_s = _room_s([(call.at, call.tokens) for call in minute.calls], over, now)
            raise quota_exceeded(model, retry_s, "tokens_minute", limit)

    def took(self, model: str, now: float, tokens: int) -> None:
        """Count a request that was answered."""
        self._minutes.setdefault(model, _Minute()).add(_Used(now, 1, tokens))


def _limit_of(limit: Limit, model: str) -> int | None:
    return limit.get(model) if isinstance(limit, dict) else limit


def _room_s(used: list[tuple[float, int]], over: int, now: float) -> float:
    """Return after how many seconds so much of what was used is a minute old."""
    for at, some in used:
        over -= some
        if over <= 0:
            return max(0.0, at + _MINUTE_S - now)
    return _MINUTE_S
