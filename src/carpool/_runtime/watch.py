"""What an operator sees: alarms, raised once when something happens, and the client's health at any moment.

Owns the log of alarms, the hook that is called for each, and what is remembered between two alarms: since when no call
reached the server, whether the store is short of room. It must not know requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from carpool._core.model import Fault
from carpool._showing import status_word, where_raised
from carpool.errors import CarpoolError, StoreFull
from carpool.types import Alarm, Health

logger: Final = logging.getLogger("carpool")
OnAlarm: TypeAlias = Callable[[Alarm], object]
UNREACHABLE_S: Final = 60.0
"""How long calls may fail before that is worth an alarm."""
NEARLY_FULL_BYTES: Final = 268_435_456
_NEARLY_FULL_SHARE: Final = 10
"""Of a small store, one part in so many is little room."""


class Watch:
    """Raises alarms, and tells the health of one client.

    Args:
        hook: called with each alarm, in a turn of the event loop of its own; what it raises is logged.
        store_bytes_max: ``Settings.store_bytes_max``.
    """

    def __init__(self, hook: OnAlarm | None, store_bytes_max: int) -> None:
        self._hook = hook
        self._low_bytes = min(NEARLY_FULL_BYTES, store_bytes_max // _NEARLY_FULL_SHARE)
        self._failing_since: float | None = None
        self._unreachable = False
        self._shortage = 0
        """1: the store has little room; 2: it has none."""

    def raise_alarm(self, alarm: Alarm) -> None:
        """Log an alarm, and tell the hook."""
        level = logging.ERROR if alarm.name == "stopped" else logging.WARNING
        logger.log(level, "%s: %s (%d) %s", alarm.name, alarm.job, alarm.count, alarm.detail)
        if self._hook is not None:
            # Not here and now: whatever it does or raises, it is not in the middle of a turn.
            asyncio.get_running_loop().call_soon(_tell, self._hook, alarm)

    def bug(self, error: BaseException, where: str) -> None:
        """Raise an alarm for a bug of ours that cost no more than its own task."""
        log_bug(f"a bug of carpool in {where}", error)
        self.raise_alarm(Alarm("bug", detail=f"{type(error).__name__} in {where}"))

    def heard(self, fault: Fault | None, now: float) -> None:
        """Note how a call to the server ended: ``None``, or the fault."""
        if fault is None or fault.kind == "refused":
            self._failing_since, self._unreachable = None, False
            return
        if self._failing_since is None:
            self._failing_since = now
        if not self._unreachable and now - self._failing_since > UNREACHABLE_S:
            self._unreachable = True
            status = status_word(fault.error.status) or str(fault.error.code or "")
            self.raise_alarm(Alarm("server_unreachable", detail=f"{fault.kind} {status}".strip()))

    def saw_room(self, room_bytes: int) -> None:
        """Note how much room the store has left."""
        shortage = 2 if room_bytes <= 0 else 1 if room_bytes < self._low_bytes else 0
        if shortage > self._shortage:
            words = _room_words(room_bytes)
            none = shortage == 2
            self.raise_alarm(Alarm("store_full", detail=words) if none else Alarm("store_nearly_full", detail=words))
        self._shortage = shortage

    def saw_full(self, error: StoreFull) -> None:
        """Note that nothing could be written."""
        if self._shortage < 2:
            self.raise_alarm(Alarm("store_full", detail=str(error)))
        self._shortage = 2

    def health(
        self,
        *,
        gone: CarpoolError | None,
        leaving: bool,
        full: StoreFull | None,
        room_bytes: int,
        standing: list[Alarm],
        now: float,
    ) -> Health:
        """Return the client's health.

        Args:
            gone: why the client takes no calls any more, if so.
            leaving: whether it is being left.
            full: why nothing can be written, if so.
            room_bytes: what the store has room for.
            standing: alarms of the engine that last.
            now: the time.
        """
        if gone is not None:
            name = "closed" if leaving else "stopped"
            return Health(status="failed", reasons=[f"{name}: {gone}"])
        reasons: list[str] = []
        if leaving:
            reasons.append("closed: the client is being left")
        if full is not None:
            reasons.append(f"store_full: {full}")
        elif room_bytes <= 0:
            reasons.append(f"store_full: {_room_words(room_bytes)}")
        elif room_bytes < self._low_bytes:
            reasons.append(f"store_nearly_full: {_room_words(room_bytes)}")
        if self._failing_since is not None and now - self._failing_since > UNREACHABLE_S:
            reasons.append(f"server_unreachable: no call has succeeded for {now - self._failing_since:,.0f} s")
        reasons += [_words(alarm) for alarm in standing]
        return Health(status="degraded" if reasons else "ok", reasons=reasons)


def log_bug(what: str, error: BaseException) -> None:
    """Log a bug of ours: its type and place, not its words, which may quote a prompt."""
    logger.error("%s: %s", what, where_raised(error))


def _tell(hook: OnAlarm, alarm: Alarm) -> None:
    try:
        hook(alarm)
    except (Exception, asyncio.CancelledError):
        logger.exception("on_alarm failed on the alarm %s", alarm.name)


def _words(alarm: Alarm) -> str:
    where = f"{alarm.job} " if alarm.job else ""
    return f"{alarm.name}: {where}({alarm.count}) {alarm.detail}".rstrip()


def _room_words(room_bytes: int) -> str:
    return f"there is room for {max(0, room_bytes):,} bytes of new requests"
