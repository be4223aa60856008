"""One gate for the calls of each live route and model: breaker, calls in the air, requests and tokens of a minute.

Owns what each outcome of a call means for each of them. It must not know which call is whose.
"""

from __future__ import annotations

from typing import Final, assert_never

from carpool._core.breaker import Breaker, Pushback
from carpool._core.concurrency import CALLS_MAX, NEVER, InFlight, Rate
from carpool.settings import Route

THROTTLES_MAX: Final = 1_024
CALLS_IN_ALL: Final = 400
"""Calls in the air over all routes and models; the connections that are left are for polls, uploads and downloads."""
HOLD_MIN_S: Final = 5.0
HOLD_MAX_S: Final = 60.0
"""How long a used-up quota of a minute can hold calls back."""
DAY_PAUSE_S: Final = 300.0
"""First look after a used-up quota of a day, if the server does not say when it comes back."""
_TOKENS_LEAST: Final = 1_000.0


class Air:
    """Calls in the air over all routes and models."""

    __slots__ = ("count", "most")

    def __init__(self, most: int = CALLS_IN_ALL) -> None:
        self.count = 0
        self.most = most


class Throttle:
    """How fast one model may be called on one live route.

    Args:
        name: of route and model; the seed of jitter.
        calls_max: calls in the air, at most.
        air: counts those of all routes and models.
        obeys: whether urgent calls, too, keep to what the server asks for.
    """

    __slots__ = ("_air", "_breaker", "_hold_until", "_urgent_at", "_wanted", "flying", "requests", "tokens")

    def __init__(self, name: str, calls_max: int = CALLS_MAX, air: Air | None = None, *, obeys: bool = False) -> None:
        self._air = air or Air()
        self._breaker = Breaker(name, obeys=obeys)
        self._hold_until = 0.0
        self._wanted = 0
        """Tokens of the call that was last kept waiting."""
        self._urgent_at = NEVER
        """From when on that call may go as a probe of its own."""
        self.flying = InFlight(calls_max)
        self.requests = Rate()
        self.tokens = Rate(least=_TOKENS_LEAST)

    def __repr__(self) -> str:
        return f"Throttle({self._breaker!r}, {self.flying!r}, requests={self.requests!r}, tokens={self.tokens!r})"

    def is_refusing(self, now: float) -> bool:
        """Return whether the route refuses calls altogether, so that those that wait are better sent elsewhere.

        Not so at the moments when a probe may go: one of the calls that wait is to be that probe. Nor when a quota of
        a minute is used up: then calls are merely spread over time.
        """
        at = self.next_start(now)
        return self._breaker.is_open and at > now

    @property
    def is_open(self) -> bool:
        """Whether the route refused calls altogether when it was last heard of."""
        return self._breaker.is_open

    def is_left_alone(self, now: float) -> bool:
        """Return whether no call may go now since the route refuses calls altogether."""
        return self._breaker.is_open and self._breaker.next_send(now) > now

    def may_start(self, now: float, tokens: int = 0, urgent_at: float = NEVER) -> bool:
        """Return whether a call may be sent now.

        Args:
            now: the time, in seconds.
            tokens: estimate of its input.
            urgent_at: from when on its deadline is so near that waiting for the breaker is as bad as a refusal.
        """
        self._wanted, self._urgent_at = tokens, urgent_at
        return self.next_start(now) <= now

    def next_start(self, now: float) -> float:
        """Return when the call that ``may_start`` was last asked about may be sent.

        Infinity if the end of another call has to come first. An outcome may bring it forward: ask again after each.
        """
        if self._air.count >= self._air.most or self.flying.is_full:
            return NEVER
        if self._hold_until - now > HOLD_MAX_S:  # the clock was set back
            self._hold_until = now
        rates = max(self.requests.next_send(now), self.tokens.next_send(now, float(self._wanted)))
        at = max(now, self._hold_until, rates, self._breaker.next_send(now))
        # While it is open the breaker itself counts the calls: late ones of before are not to keep probes back.
        if not self._breaker.is_open:
            at = max(at, self.flying.next_send(now))
        return at if self._urgent_at == NEVER else min(at, max(self._urgent_at, self._breaker.next_urgent(now)))

    def wait_s(self, now: float, queued: int, tokens: int = 0) -> float:
        """Return how long a call will wait behind others, as far as the learned rates tell.

        Args:
            now: the time, in seconds.
            queued: calls before it.
            tokens: estimate of the input of all of them.
        """
        held_s = max(self._hold_until, self._breaker.next_send(now), now) - now
        return held_s + 60.0 * max(queued / self.requests.per_minute, tokens / self.tokens.per_minute)

    def started(self, tokens: int, now: float, *, requests: int = 1) -> None:
        """Note that a call was sent.

        Args:
            tokens: estimate of its input.
            now: the time, in seconds.
            requests: that share the call; quotas count each.
        """
        self._wanted, self._urgent_at = 0, NEVER
        self._air.count += 1
        self._breaker.sent(now)
        self.flying.sent(now)
        self.requests.sent(now, float(requests))
        self.tokens.sent(now, float(tokens))

    def ended(self, now: float, *, sent_at: float, tokens: int = 0, estimate: int = 0, requests: int = 1) -> None:
        """Note that a call was answered, be it with an error that is the request's own.

        Args:
            now: the time, in seconds.
            sent_at: when it was sent.
            tokens: its input as the server counted it; 0 if it did not.
            estimate: of its input, as it was given to ``started``.
            requests: likewise.
        """
        self._air.count -= 1
        self._breaker.succeeded(now, sent_at)
        self.flying.succeeded(now, sent_at)
        self.requests.accepted(now, float(requests))
        self.tokens.accepted(now, float(tokens or estimate), float(estimate))

    def refused(self, now: float, pushback: Pushback, *, sent_at: float) -> None:
        """Note that a call failed.

        Args:
            now: the time, in seconds.
            pushback: what the failure says; one that is the request's own counts as an answer.
            sent_at: when it was sent.
        """
        if not pushback.refuses:
            self.ended(now, sent_at=sent_at)
            return
        self._air.count -= 1
        asked_s = pushback.retry_after_s
        was_open = self._breaker.is_open
        if was_open:  # it is a probe, or late: it says nothing of how much the route takes when it works
            self.flying.dropped(sent_at)
        else:
            self.flying.refused(now, sent_at)
            self._learn(now, pushback, sent_at)
        if pushback.scope in ("requests_day", "tokens_day"):
            self._breaker.open(now, asked_s or DAY_PAUSE_S)
        else:
            self._breaker.refused(now, sent_at, asked_s)
        if self._breaker.is_open and not was_open:
            self.flying.restart()

    def dropped(self, sent_at: float) -> None:
        """Note that a call ended without telling anything: nobody waits for it any more, and it was broken off."""
        self._air.count -= 1
        self._breaker.dropped(sent_at)
        self.flying.dropped(sent_at)

    def _learn(self, now: float, pushback: Pushback, sent_at: float) -> None:
        """Learn what may be sent in a minute, and hold calls back until more may be sent."""
        match pushback.scope:
            case "requests_minute" | "quota":
                self.requests.refused(now, sent_at, float(pushback.quota))
            case "tokens_minute":
                self.tokens.refused(now, sent_at, float(pushback.quota))
            case "requests_day" | "tokens_day" | "overload" | "none":
                return
            case _:
                assert_never(pushback.scope)
        hold_s = min(max(pushback.retry_after_s, HOLD_MIN_S), HOLD_MAX_S)
        self._hold_until = max(self._hold_until, now + hold_s)


class Throttles:
    """The throttles of all routes and models; those that are not in use are forgotten when there are too many.

    Args:
        calls_max: calls in the air on one route and model, at most.
    """

    def __init__(self, calls_max: int = CALLS_MAX) -> None:
        self._calls_max = calls_max
        self._air = Air()
        self._throttles: dict[tuple[Route, str], Throttle] = {}
        self._told: set[tuple[Route, str]] = set()

    def of(self, route: Route, model: str) -> Throttle:
        """Return the throttle of a route and model."""
        throttle = self._throttles.get((route, model))
        if throttle is None:
            # Flex may be refused at any time, by its nature, and for long: it is not to be pressed.
            obeys = route == "flex"
            throttle = Throttle(f"{route}/{model}", self._calls_max, self._air, obeys=obeys)
            self._throttles[route, model] = throttle
            if len(self._throttles) > THROTTLES_MAX:
                self._forget((route, model))
        return throttle

    @property
    def are_full(self) -> bool:
        """Whether no call more may be in the air, over all routes and models."""
        return self._air.count >= self._air.most

    def refusing(self, now: float) -> list[tuple[Route, str]]:
        """Return the routes and models that refuse calls altogether, and are left alone now."""
        return sorted(key for key, throttle in self._throttles.items() if throttle.is_left_alone(now))

    def newly_refusing(self, now: float) -> list[tuple[Route, str]]:
        """Return those of them that are new since this was last asked; one that has recovered may be new again."""
        self._told = {key for key in self._told if key in self._throttles and self._throttles[key].is_open}
        new = [key for key in self.refusing(now) if key not in self._told]
        self._told.update(new)
        return new

    def _forget(self, kept: tuple[Route, str]) -> None:
        """Forget the oldest throttle that has no call in the air."""
        for key, throttle in self._throttles.items():
            if key != kept and not throttle.flying.count:
                del self._throttles[key]
                return
