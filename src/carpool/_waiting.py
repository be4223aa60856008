"""Those who wait for what another process of the home has under way.

Owns their futures, and how one future ends as another does. It must not know slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import TypeAlias

import msgspec

from carpool._runtime.awaiters import Answer, Asked
from carpool._runtime.verdicts import deadline_exceeded
from carpool.errors import CarpoolError

Again: TypeAlias = Callable[[], Awaitable[Asked]]
"""Asks in this client's own slot."""


class Waiter(msgspec.Struct, gc=False, frozen=True):
    """Somebody who waits for what another process has under way."""

    future: asyncio.Future[Answer]
    digest: bytes | None
    deadline: float | None
    again: Again | None


def chain(inner: asyncio.Future[Answer], outer: asyncio.Future[Answer]) -> None:
    """Let one future end as another does."""

    def ended(_: asyncio.Future[Answer]) -> None:
        error = None if inner.cancelled() else inner.exception()
        if outer.done():
            return
        if inner.cancelled():
            outer.cancel()
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    inner.add_done_callback(ended)


def fail(waiters: Sequence[Waiter], error: CarpoolError) -> None:
    """Tell them why nothing will come; each gets an object of its own."""
    for waiter in waiters:
        if not waiter.future.done():
            waiter.future.set_exception(copy(error))


def expire(future: asyncio.Future[Answer], key: str) -> None:
    """Tell somebody that the deadline has passed."""
    if not future.done():
        future.set_exception(deadline_exceeded(key))
