"""How many calls a live route may get: in the air at once, and in a minute.

Owns two limits that learn: ``InFlight`` (additive increase, multiplicative decrease, slow start) and ``Rate`` (requests
or tokens of a minute). Latency is no signal here: it follows the length of the answer, not the load of the server. It
must not know requests, nor routes that refuse altogether: those are for ``breaker``.
"""

from __future__ import annotations

from collections import deque
from typing import Final

NEVER: Final = float("inf")

CALLS_MAX: Final = 256
START: Final = 8.0
"""Calls that may be in the air to begin with."""
TAKEN_AFTER_S: Final = 5.0
"""A call that was not refused by then counts as taken."""
RESTART: Final = 2.0
"""The same after the route refused everything for a while."""
QUICK: Final = 64.0
"""So far the limit grows quickly again then."""
_CUT: Final = 0.7
_ROUND_SHARE: Final = 0.1
_CALM_S: Final = 60.0

_MINUTE_S: Final = 60.0
_SLICE_S: Final = 2.0
_SLICES: Final = 31
"""A minute, and the slice that has begun."""
_BURST_S: Final = 1.0
"""For how long a rate that was not used may be saved up."""
_SHARE: Final = 0.9
_LEARN_FROM: Final = 10.0
_CUT_MOST: Final = 0.5
_SAME: Final = 0.2
_STEP_S: Final = 10.0
_STEP_MAX_S: Final = 80.0
_STEP: Final = 0.02
_STEP_MAX: Final = 0.25
_AT_ONCE_S: Final = 0.001
"""What is not worth a wait: less than clocks and timers can tell."""


class InFlight:
    """The limits of calls in the air.

    What is limited and learned is the number of calls of which it is not known yet whether the route takes them: those
    in the air for less than 5 s, since refusals are quick while answers may take many minutes. Each call that is taken
    raises the limit by one until the first refusal, later by one or a tenth a round; a round's refusals lower it to
    70 % once. It grows only while it is used.

    Args:
        most: calls in the air, at most, however long they have been there.
    """

    __slots__ = ("_busy_at", "_cut_at", "_limit", "_most", "_peak", "_threshold", "_young", "count")

    def __init__(self, most: int = CALLS_MAX) -> None:
        self._most = max(1, most)
        self._limit = min(START, float(self._most))
        self._threshold = NEVER
        self._peak = self._limit
        """The limit before the first of the last cuts."""
        self._cut_at = -NEVER
        self._busy_at = -NEVER
        """When the limit was last at least half used."""
        self._young: deque[float] = deque()
        """When the calls were sent of which it is not known yet whether they are taken."""
        self.count = 0
        """Calls in the air."""

    def __repr__(self) -> str:
        return f"InFlight({self.count} of {self._most}, {len(self._young)} of {self.limit} untaken)"

    @property
    def limit(self) -> int:
        """How many calls may be in the air without being taken."""
        return int(self._limit)

    @property
    def is_full(self) -> bool:
        """Whether no call more may be in the air."""
        return self.count >= self._most

    def next_send(self, now: float) -> float:
        """Return when a call may be sent; infinity if one in the air has to end first."""
        self._age(now)
        if self.is_full:
            return NEVER
        if len(self._young) < self.limit:
            return now
        # Times in the future were left by a clock that was set back.
        return min(self._young[0], now) + TAKEN_AFTER_S

    def sent(self, now: float) -> None:
        """Note that a call was sent."""
        self.count += 1
        self._young.append(now)
        if len(self._young) * 2 >= self._limit:
            self._busy_at = now

    def succeeded(self, now: float, sent_at: float) -> None:
        """Note that a call was answered.

        Args:
            now: the time, in seconds.
            sent_at: when the call was sent.
        """
        self._age(now)
        if sent_at in self._young:
            self._taken(sent_at)
        self.dropped(sent_at)

    def refused(self, now: float, sent_at: float) -> None:
        """Note that a call was refused.

        Args:
            now: the time, in seconds.
            sent_at: when the call was sent: calls sent before the last cut do not cut again.
        """
        if sent_at >= self._cut_at or now < self._cut_at:
            if not 0 <= now - self._cut_at < _CALM_S:
                self._peak = self._limit
            self._cut_at = now
            self._limit = self._threshold = max(1.0, self._limit * _CUT)
        self.dropped(sent_at)

    def dropped(self, sent_at: float) -> None:
        """Note that a call ended without telling anything of the route."""
        self.count = max(0, self.count - 1)
        if sent_at in self._young:
            self._young.remove(sent_at)

    def restart(self) -> None:
        """Begin small again, and be quick up to near where it was: the route refused everything for a while.

        Quick up to ``QUICK`` at least, since refusing everything says nothing of how much the route takes.
        """
        self._threshold = max(QUICK, self._peak * _CUT)
        self._limit = min(RESTART, float(self._most))

    def _age(self, now: float) -> None:
        """Count the calls as taken that have been in the air for long enough."""
        while self._young and now - self._young[0] >= TAKEN_AFTER_S:
            self._taken(self._young.popleft())

    def _taken(self, sent_at: float) -> None:
        if sent_at <= self._busy_at:
            step = 1.0 if self._limit < self._threshold else max(1.0 / self._limit, _ROUND_SHARE)
            self._limit = min(float(self._most), self._limit + step)


class Rate:
    """Requests or tokens of a minute, as far as the server's refusals tell.

    Nothing is limited before the first refusal. That one sets the rate to 90 % of the quota that it names, else of what
    was accepted within the last minute (if that is too little to learn from, nothing is set); so does each later one,
    but by no more than to half. Refusals of the minute
    after a cut do not cut again: they may still be due to what was sent before. The rate grows while it holds calls
    back: in steps of 10 s (more where the same limit was met before), by a quarter of what is missing to where it was
    refused, 2 % at least, and beyond that by steps that double up to 25 %, since the quota may have become another.

    Args:
        per_minute: what is known beforehand; infinity if nothing is.
        least: never less than that a minute.
    """

    __slots__ = (
        "_accepted",
        "_changed_at",
        "_cut_at",
        "_filled_at",
        "_held_back",
        "_least",
        "_pace_s",
        "_purse",
        "_step",
        "_wall",
        "per_minute",
    )

    def __init__(self, per_minute: float = NEVER, least: float = 1.0) -> None:
        self._least = least
        self.per_minute = max(per_minute, least)
        """What may be sent in a minute; infinity until it is known."""
        self._wall = self.per_minute
        """Where it was refused."""
        self._step = _STEP
        self._purse = 0.0
        """What may be sent at once; below 0 after a call that cost more than there was."""
        self._filled_at = -NEVER
        self._changed_at = -NEVER
        self._cut_at = -NEVER
        self._pace_s = _STEP_S
        self._held_back = False
        self._accepted: dict[int, float] = {}
        """What was accepted in each slice of 2 s of the last minute."""

    def __repr__(self) -> str:
        return f"Rate({self.per_minute:g}/min)"

    def next_send(self, now: float, cost: float = 1.0) -> float:
        """Return when this much may be sent. What costs more than can be saved up waits for a full purse only."""
        if self.per_minute == NEVER:
            return now
        self._fill(now)
        missing = min(cost, self._purse_max) - self._purse
        wait_s = missing * _MINUTE_S / self.per_minute
        if wait_s <= _AT_ONCE_S:
            return now
        self._held_back = True
        return now + wait_s

    def sent(self, now: float, cost: float = 1.0) -> None:
        """Note that this much was sent."""
        if self.per_minute < NEVER:
            self._fill(now)
            self._purse -= cost

    def accepted(self, now: float, cost: float = 1.0, estimate: float | None = None) -> None:
        """Note that a call was accepted.

        Args:
            now: the time, in seconds.
            cost: what it took.
            estimate: what was noted when it was sent, if that was something else.
        """
        number = int(now / _SLICE_S)
        self._accepted[number] = self._accepted.get(number, 0.0) + cost
        while len(self._accepted) > _SLICES:
            del self._accepted[next(iter(self._accepted))]
        if self.per_minute < NEVER:
            self._purse -= cost - (cost if estimate is None else estimate)
            self._grow(now)

    def refused(self, now: float, sent_at: float, quota: float = 0.0) -> None:
        """Note that a call was refused since this rate was exceeded.

        Args:
            now: the time, in seconds.
            sent_at: when the call was sent.
            quota: what the server says that may be sent in a minute; 0 if it does not.
        """
        if self._cut_at <= now and (sent_at < self._cut_at or now - self._cut_at < _MINUTE_S):
            return
        lately = self._accepted_lately(now)
        if self.per_minute == NEVER and not quota and lately < _LEARN_FROM * self._least:
            return
        wall = min(lately, self.per_minute)
        if self.per_minute < NEVER:
            wall = max(wall, self.per_minute * _CUT_MOST)
        elif quota:
            wall = quota
        wall = max(self._least, min(wall, quota or wall))
        met = self._wall < NEVER and abs(wall - self._wall) <= _SAME * self._wall
        self._pace_s = min(_STEP_MAX_S, self._pace_s * 2) if met else _STEP_S
        self._wall = wall
        self.per_minute = max(self._least, wall * _SHARE)
        self._step = _STEP
        self._purse = min(self._purse, 0.0)
        self._filled_at = self._changed_at = self._cut_at = now
        self._held_back = False

    # -- inside

    @property
    def _purse_max(self) -> float:
        return max(1.0, self.per_minute * _BURST_S / _MINUTE_S)

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._filled_at)  # a clock may be set back
        self._filled_at = now
        self._purse = min(self._purse_max, self._purse + self.per_minute * min(passed_s, _MINUTE_S) / _MINUTE_S)

    def _grow(self, now: float) -> None:
        self._changed_at = min(self._changed_at, now)
        if not self._held_back or now - self._changed_at < self._pace_s:
            return
        if self.per_minute < self._wall:
            step = max((self._wall - self.per_minute) * _STEP_MAX, self._wall * _STEP)
        else:
            step = self.per_minute * self._step
            self._step = min(_STEP_MAX, self._step * 2)
        self.per_minute += max(step, self._least * _STEP)
        self._changed_at = now
        self._held_back = False

    def _accepted_lately(self, now: float) -> float:
        last = int(now / _SLICE_S)
        return sum(cost for number, cost in self._accepted.items() if 0 <= last - number < _SLICES)
