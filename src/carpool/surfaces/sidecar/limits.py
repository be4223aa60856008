"""What a sidecar takes from its callers at most, and how many of them a process can hold.

Owns these numbers, and the process's limit of open files. It must not know what is done at a limit.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import msgspec

from carpool.errors import ConfigurationError

_CONNECTIONS: Final = 10_000
"""Connections at once where the system allows it."""
_RESERVE: Final = 1_024
"""Open files that are not callers': the store's, those of calls to the upstream (512 at most), the program's own."""
_FEWEST: Final = 16
_MACOS_FILES: Final = 10_240
_WITHOUT_COUNT: Final = 2_000
"""Connections at once where the system does not say how many files may be open (Windows)."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one sidecar. Frozen; checked when it is made.

    Raises:
        ConfigurationError: a value is out of its range; the message names the field and the range.
    """

    body_bytes_max: int = 100_000_000
    """Body of one request, unpacked."""
    bodies_bytes_max: int = 1_000_000_000
    """Bodies of all requests that are in memory, those of requests that wait among them."""
    body_s: float = 600.0
    """How long one body may take to come."""
    bytes_per_s_min: float = 1_000.0
    """How fast a body must come, and an answer must be taken."""
    progress_s: float = 10.0
    """How often that is looked at."""
    idle_s: float = 75.0
    """How long a connection may be without a request, or take to send the head of one."""
    interim_s: float = 15.0
    """How long a caller waits for a sign of life, and for the next one."""
    grace_s: float = 10.0
    """How long callers that wait may go on waiting when the sidecar stops."""
    connections_max: int | None = None
    """Connections at once; ``None``: 10,000, or as many as the process may have. Then the process's soft limit of open
    files is raised, if it is below that."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field == "connections_max":
                if value is not None and not (_is_count(value) and value >= _FEWEST):
                    raise ConfigurationError(f"Limits.{field} is {value!r}; it must be None or at least {_FEWEST}")
            elif field.endswith("_max"):
                if not (_is_count(value) and value >= 1):
                    raise ConfigurationError(f"Limits.{field} is {value!r}; it must be a number of bytes above 0")
            elif not _is_time(value, may_be_zero=field == "grace_s"):
                raise ConfigurationError(f"Limits.{field} is {value!r}; it must be a number above 0")
        if self.bodies_bytes_max < self.body_bytes_max:
            raise ConfigurationError(
                f"Limits.bodies_bytes_max is {self.bodies_bytes_max}; it must not be below body_bytes_max, "
                f"which is {self.body_bytes_max}"
            )


def _is_count(value: object) -> bool:
    return type(value) is int


def _is_time(value: object, *, may_be_zero: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return value > 0 or (may_be_zero and value == 0)


def connections_of(limits: Limits) -> int:
    """Return how many connections a sidecar may have, after making room for them among the process's open files.

    Raises:
        ConfigurationError: the process may have too few open files to serve anybody.
    """
    if limits.connections_max is not None:
        return limits.connections_max
    files = _raise_files(_CONNECTIONS + _RESERVE)
    if files is None:
        return _WITHOUT_COUNT
    # Where there are few, three quarters are callers': the rest of the process gets by with less.
    most = min(_CONNECTIONS, max(files - _RESERVE, files * 3 // 4))
    if most < _FEWEST:
        raise ConfigurationError(
            f"this process may have {files} open files, which is too few for a sidecar; raise it: ulimit -n 4096"
        )
    return most


def _raise_files(wanted: int) -> int | None:
    """Raise the soft limit of open files to what is wanted, as far as the hard one goes; return it."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    for files in (target, _MACOS_FILES):
        if soft < files <= target:
            with suppress(OSError, ValueError):  # macOS says that there is no hard limit, and has one
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
                return files
    return soft
