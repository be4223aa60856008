"""A look at the server, without a store of one's own.

Owns the client of commands that only ask the server. It must not know what is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from carpool.cli.console import Exit

if TYPE_CHECKING:
    from carpool import Client


async def with_server(base_url: str | None, ask: Callable[[Client], Awaitable[int | None]]) -> int:
    """Open a client that calls the server and keeps nothing, ask, and return the exit code.

    Args:
        base_url: where to call, instead of Google.
        ask: returns the exit code; ``None`` is 0.

    Raises:
        ConfigurationError: there is neither a key nor a base URL.
    """
    from carpool import Client, MemoryStore

    # In memory: a look at the server must not need a place in the store that running programs share.
    async with Client(base_url=base_url, store=MemoryStore()) as client:
        return await ask(client) or Exit.OK


def full_name(name: str, folder: str = "batches") -> str:
    """Return the whole name of something that may have been named without its folder."""
    return name if "/" in name else f"{folder}/{name}"
