"""Arguments of the client, checked before anything is done with them.

Owns the words in which they are refused. It must not know what they are for.
"""

from __future__ import annotations

from datetime import date, datetime
from inspect import iscoroutinefunction
from typing import Any, Final

from carpool._core.routing import LADDERS, choose
from carpool._showing import in_short
from carpool.errors import ConfigurationError, NotBatchable
from carpool.settings import Route

_KEY_MAX_CHARS: Final = 512
_FIRST_DAY: Final = date(1970, 1, 1).toordinal()


def checked_key(key: Any) -> str:
    """Return the key of a request, or raise ``ConfigurationError``."""
    if not isinstance(key, str) or not key or len(key) > _KEY_MAX_CHARS:
        raise ConfigurationError(f"key must be a string of 1 to {_KEY_MAX_CHARS} characters, not {in_short(key)}")
    return key


def checked_hook(hook: Any) -> Any:
    """Return what alarms are told to, or raise ``ConfigurationError``."""
    if hook is not None and (not callable(hook) or iscoroutinefunction(hook)):
        raise ConfigurationError(f"on_alarm is {in_short(hook)}; it must be a plain function of one argument")
    return hook


def without_batch(ladder: int, why: str) -> int:
    """Return the code of a ladder without its batch route, for a request that no batch can take.

    Raises:
        NotBatchable: there is no other route.
    """
    routes: list[Route] = [route for route in LADDERS[ladder] if route != "batch"]
    if not routes:
        raise NotBatchable(
            f"{why}. Simplify it, or give a ladder with a live route, such as carpool.FAST. Nothing was sent."
        )
    return choose(tuple(routes), None, "generate", timed=False)


def day_number(day: Any) -> int:
    """Return the number of a UTC day, counted from 1970-01-01, or raise ``ConfigurationError``."""
    if not isinstance(day, date) or isinstance(day, datetime):
        raise ConfigurationError(f"day is {in_short(day)}; it must be a datetime.date: a day in UTC")
    return day.toordinal() - _FIRST_DAY
