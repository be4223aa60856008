"""When to leave a live route alone: a route that refuses is not asked again and again, only probed.

Owns what a refusal says (how long to wait, which quota is used up), and one breaker: closed, open, half-open. It must
not know requests, nor how many calls a route that works may get: that is for ``concurrency``.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final, Literal, TypeAlias, TypeGuard
from zlib import crc32

import msgspec

from carpool.types import ServerError

Scope: TypeAlias = Literal[
    "requests_minute", "tokens_minute", "requests_day", "tokens_day", "quota", "overload", "none"
]
"""What ran out: requests or tokens of a minute or a day, a quota that was not named, the server's own strength; or
nothing: the call failed for another reason."""

RETRY_AFTER_MAX_S: Final = 86_400.0
"""What is believed of a server that asks for longer."""
PAUSE_MIN_S: Final = 2.0
PAUSE_MAX_S: Final = 30.0
"""Longest time between two probes, unless the server asks for more."""
ASKED_MAX_S: Final = 600.0
"""What is granted to a server that asks for more time before it is probed: it may not mean what it says."""
URGENT_PAUSE_S: Final = 2.0
"""Time between two calls whose deadline is too near to wait for the next probe, while all are refused."""
OBEYING_PAUSE_S: Final = 5.0
"""The same where what the server asks for holds for them too."""
URGENT_CLOSED_S: Final = 0.5
"""The same while the route takes calls, and only the number of calls in the air or of a minute holds them back."""
TRUST_S: Final = 1.0
"""A call that was not refused by then may be followed by others that are as urgent: refusals are quick."""
CLOSES_AFTER: Final = 4
"""Probes that must pass one after the other."""

_LOST: Final = frozenset({0, 408, 500, 502})
"""The call went wrong on the way or inside the server. It counts like a refusal, and says nothing of a quota."""
_OVERLOADED: Final = frozenset({503, 504})
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)s")
_SPOKEN = re.compile(r"retry in (?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,12})?)(ms|s))?", re.IGNORECASE)
_PAUSE_FACTOR: Final = 4.0
_ASKED_JITTER: Final = 1.1
_RECENT_S: Final = 3.0
_STALE_S: Final = 30.0
_FEW: Final = 5
_MANY: Final = 20
_MOST: Final = 0.6
_SLICE_S: Final = 0.25
_SLICES_MAX: Final = 128
_PATIENCE_S: Final = 5.0
_TRUST: Final = 8
_TRUST_OBEYING: Final = 2
_CALM_S: Final = 60.0
_PROBES_MAX: Final = 16
_FAILURES_MAX: Final = 16


class Pushback(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a failed live call says about the next one."""

    retry_after_s: float = 0.0
    """How long the server asks to be left alone; 0 if it says nothing. At most ``RETRY_AFTER_MAX_S``."""
    scope: Scope = "none"
    quota: int = 0
    """The quota that was exceeded, in requests or tokens of its time; 0 if the server does not tell."""

    @property
    def refuses(self) -> bool:
        """Whether the route, not the request, is why the call failed."""
        return self.scope != "none"


def read_pushback(error: ServerError) -> Pushback:
    """Return what an error says about calling again: its code, its details (RetryInfo, QuotaFailure), its words.

    A call that got no answer, or an internal error of the server, counts as ``overload``.
    """
    if error.code in _LOST:
        return Pushback(scope="overload")
    if error.code in _OVERLOADED:
        return Pushback(scope="overload", retry_after_s=_retry_after_s(error))
    if error.code != 429:
        return Pushback()
    if "overloaded" in error.message.lower():
        return Pushback(scope="overload", retry_after_s=_retry_after_s(error))
    scope, quota = _quota(error)
    return Pushback(scope=scope, quota=quota, retry_after_s=_retry_after_s(error))


def _retry_after_s(error: ServerError) -> float:
    for detail in _details(error):
        delay: Any = detail.get("retryDelay")
        found = _DURATION.fullmatch(delay) if isinstance(delay, str) else None
        if found:
            return min(float(found[1]), RETRY_AFTER_MAX_S)
    spoken = _SPOKEN.search(error.message)
    if spoken is None:
        return 0.0
    hours, minutes, number, unit = spoken.groups()
    seconds = float(number or 0) / (1_000 if unit and unit.lower() == "ms" else 1)
    return min(int(hours or 0) * 3_600.0 + int(minutes or 0) * 60.0 + seconds, RETRY_AFTER_MAX_S)


def _quota(error: ServerError) -> tuple[Scope, int]:
    """Return which quota is used up, and its size; of several the one that comes back last."""
    found: list[tuple[int, Scope, int]] = []
    for detail in _details(error):
        violations: Any = detail.get("violations")
        for violation in violations if _is_list(violations) else ():
            if _is_object(violation):
                scope = _scope(f"{violation.get('quotaId')} {violation.get('quotaMetric')}")
                found.append((_ORDER.index(scope), scope, _count(violation.get("quotaValue"))))
    if found:
        _, scope, quota = max(found)
        return scope, quota
    return _scope(error.message), 0


_ORDER: Final[tuple[Scope, ...]] = ("quota", "tokens_minute", "requests_minute", "tokens_day", "requests_day")


def _scope(words: str) -> Scope:
    plain = words.lower().replace(" ", "").replace("_", "").replace("-", "")
    tokens = "token" in plain
    if "perday" in plain:
        return "tokens_day" if tokens else "requests_day"
    if "perminute" in plain:
        return "tokens_minute" if tokens else "requests_minute"
    return "quota"


def _count(value: Any) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else 0


def _details(error: ServerError) -> list[dict[str, Any]]:
    details: Any = error.details
    return [detail for detail in details if _is_object(detail)] if _is_list(details) else []


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


# -- the breaker


class State(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """Nothing goes through until the pause is over."""
    HALF_OPEN = "half_open"
    """One call at a time goes through, as a probe."""


class Breaker:
    """Watches the calls of one route and model. All that it keeps is bounded.

    It opens when most of the recent calls were refused, a few calls being enough: two in a row where there is about one
    a second or less, else 60 % of those of 3 s, at least three, twenty being enough. While it is open one call goes
    through after each pause. Pauses grow from 2 s to 30 s, or to what the server asks for (600 s at most). A call that
    passes is followed by another probe at once; after four of them the breaker closes. A probe in the air for 5 s
    counts as passed: refusals are quick, answers may take many minutes. Late outcomes of calls sent before it opened
    are no probes.

    Args:
        seed: of the jitter of pauses; different for each route and model.
        obeys: whether urgent calls, too, keep to what the server asks for, and are fewer.
    """

    __slots__ = (
        "_asked_until",
        "_closed_at",
        "_failures",
        "_first_at",
        "_obeys",
        "_opened_at",
        "_passed",
        "_probes",
        "_seed",
        "_sent_at",
        "_since",
        "_slices",
        "_wait_until",
    )

    def __init__(self, seed: str, *, obeys: bool = False) -> None:
        self._obeys = obeys
        self._seed = seed
        self._slices: dict[int, list[int]] = {}
        """Calls sent and refused by the time at which they were sent."""
        self._opened_at: float | None = None
        self._closed_at = float("-inf")
        self._wait_until = 0.0
        self._asked_until = 0.0
        """The server has asked to be left alone until then."""
        self._failures = 0
        self._passed = 0
        self._sent_at = float("-inf")
        self._since = 0
        """Calls that were sent since the last refusal."""
        self._first_at = float("-inf")
        """When the first of them was sent."""
        self._probes: list[float] = []
        """When the probes in the air were sent, oldest first."""

    def __repr__(self) -> str:
        return f"Breaker({self._seed!r}, open={self.is_open}, failures={self._failures})"

    @property
    def is_open(self) -> bool:
        """Whether the route is left alone, probes apart."""
        return self._opened_at is not None

    def state(self, now: float) -> State:
        """Return where it stands."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if now < self._wait_until and not (self._probes or self._passed) else State.HALF_OPEN

    def may_send(self, now: float) -> bool:
        """Return whether a call may be sent now."""
        return self.next_send(now) <= now

    def next_send(self, now: float) -> float:
        """Return when a call may be sent, as far as is known now; a probe's end may bring it forward."""
        if self._opened_at is not None:
            self._close_if_passed(now)
        if self._opened_at is None:
            return now
        self._survive_jump(now)
        if not self._probes:
            return max(now, self._wait_until)
        return max(now, self._wait_until, self._probes[-1] + _PATIENCE_S)

    def next_urgent(self, now: float) -> float:
        """Return when a call may be sent whose caller would give up before the pause is over.

        It does not wait for other probes, nor as a rule for what the server asked for, but keeps its distance from the
        last call as long as all are refused. For each second in which none is, twice as many may be sent.
        """
        obeys = self._obeys
        closed = self._opened_at is None
        pause_s = URGENT_CLOSED_S if closed else URGENT_PAUSE_S
        at = self._sent_at + (OBEYING_PAUSE_S if obeys else pause_s)
        if self._since and not (closed and obeys):
            seconds = (self._since // (_TRUST_OBEYING if obeys else _TRUST)).bit_length() + 1
            at = min(at, self._first_at + TRUST_S * seconds)
        at = now if self._sent_at > now else max(now, at)
        return max(at, self._asked_until) if obeys and self._asked_until - now <= ASKED_MAX_S else at

    def sent(self, now: float) -> None:
        """Note that a call was sent."""
        self._sent_at = now
        if not self._since:
            self._first_at = now
        self._since += 1
        self._count(0, now)
        if self._opened_at is not None:
            self._probes.append(now)
            del self._probes[:-_PROBES_MAX]

    def succeeded(self, now: float, sent_at: float) -> None:
        """Note that a call was answered, be it with an error that is the request's own.

        Args:
            now: the time, in seconds.
            sent_at: when the call was sent.
        """
        if self._opened_at is not None and self._is_probe(sent_at):
            self._passed += 1
            self._wait_until = min(self._wait_until, now)
            self._asked_until = min(self._asked_until, now)
            self._close_if_passed(now)

    def refused(self, now: float, sent_at: float, retry_after_s: float = 0.0) -> None:
        """Note that a call was refused.

        Args:
            now: the time, in seconds.
            sent_at: when the call was sent.
            retry_after_s: how long the server asks to be left alone.
        """
        self._asked_until = max(self._asked_until, now + min(retry_after_s, ASKED_MAX_S))
        if sent_at >= self._first_at or now < self._first_at:
            self._since = 0
        if self._opened_at is not None:
            if self._is_probe(sent_at):
                nearly = self._passed * 2 >= CLOSES_AFTER
                self._passed = 0
                self._probes.clear()  # what they are answered says no more than is known now
                self._pause(now, retry_after_s, failures=1 if nearly else self._failures + 1)
            elif retry_after_s > 0:
                self._wait_until = max(self._wait_until, now + min(retry_after_s, ASKED_MAX_S))
            return
        self._count(1, sent_at)
        if self._is_too_much(sent_at):
            self.open(now, retry_after_s)

    def dropped(self, sent_at: float) -> None:
        """Note that a call ended without telling anything of the route: its caller left."""
        if self._opened_at is not None:
            self._is_probe(sent_at)

    def open(self, now: float, retry_after_s: float = 0.0) -> None:
        """Open, whatever came before: the server said that a quota is used up for long."""
        if now - self._closed_at > _CALM_S:
            self._failures = 0
        self._opened_at = now
        self._passed = 0
        self._probes.clear()
        self._slices.clear()
        self._pause(now, retry_after_s, failures=self._failures + 1)

    # -- inside

    def _survive_jump(self, now: float) -> None:
        """Forget times that only a clock which was set back can have left behind: they would block the route."""
        if self._probes and self._probes[-1] > now:
            self._probes.clear()
        if self._wait_until - now > ASKED_MAX_S * _ASKED_JITTER:
            self._wait_until = now + PAUSE_MAX_S

    def _pause(self, now: float, retry_after_s: float, failures: int) -> None:
        """Wait as after so many failed probes in a row."""
        self._failures = max(self._failures, min(failures, _FAILURES_MAX))
        base = min(PAUSE_MAX_S, PAUSE_MIN_S * _PAUSE_FACTOR ** (min(failures, _FAILURES_MAX) - 1))
        jitter = crc32(f"{self._seed}/{failures}/{now}".encode()) / 0xFFFFFFFF
        asked_s = min(retry_after_s, ASKED_MAX_S)
        # What the server asks for is the least.
        self._wait_until = now + max(base * (0.8 + 0.2 * jitter), asked_s * (1.0 + (_ASKED_JITTER - 1.0) * jitter))

    def _close_if_passed(self, now: float) -> None:
        patient = sum(1 for sent_at in self._probes if now - sent_at >= _PATIENCE_S)
        if self._passed + patient >= CLOSES_AFTER:
            self._opened_at = None
            self._closed_at = now
            self._probes.clear()
            self._passed = 0

    def _is_probe(self, sent_at: float) -> bool:
        """Take a probe out of the air; return False if the call was none, or one of an earlier opening."""
        if sent_at not in self._probes:
            return False
        self._probes.remove(sent_at)
        return True

    def _count(self, column: int, sent_at: float) -> None:
        """Count a call, by when it was sent: as sent (0) or as refused (1)."""
        number = int(sent_at / _SLICE_S)
        slice_ = self._slices.get(number)
        if slice_ is None:
            if column:
                return  # forgotten long ago
            slice_ = self._slices[number] = [0, 0]
            while len(self._slices) > _SLICES_MAX:
                del self._slices[next(iter(self._slices))]
        slice_[column] += 1

    def _is_too_much(self, sent_at: float) -> bool:
        """Return whether refusals prevail among the calls up to the newest one that was refused.

        Calls are judged by when they were sent: answers come later than refusals, so what came back lately would be
        unfair both to a route that has begun to refuse and to one that refuses a few.
        """
        last = int(sent_at / _SLICE_S)
        newest_first = sorted((last - no, *counts) for no, counts in self._slices.items() if no <= last)
        rare = sum(sent for age, sent, _ in newest_first if age * _SLICE_S <= _RECENT_S) < _FEW
        enough, span_s, needed = (2, _STALE_S, 2) if rare else (_MANY, _RECENT_S, 3)
        sent = refused = 0
        for age, some_sent, some_refused in newest_first:
            if sent >= enough or age * _SLICE_S > span_s:
                break
            sent += some_sent
            refused += some_refused
        return refused >= needed and refused >= _MOST * sent
