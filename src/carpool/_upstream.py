"""``client.upstream``: calls that carpool has no method for, handed on to the service as they are.

Owns the checks before one is made. What adapters to other clients cannot batch goes this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carpool._ports import Passed, PassService
from carpool.errors import ConfigurationError


class Upstream:
    """The service itself, with the client's own credentials. Nothing that goes this way is batched, or counted."""

    def __init__(self, service: PassService | None, check: Callable[[], Any]) -> None:
        self._given = service
        self._check = check

    async def forward(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Passed:
        """Make a call once, and return its reply as soon as it begins.

        Args:
            method: HTTP method.
            target: path and query, as they come after the base URL.
            headers: names in lower case; credentials among them stay behind.
            body: as it is.

        Raises:
            ConfigurationError: the client is not open, or its provider hands no calls on.
            ProviderError: there is no reply.
        """
        self._check()
        if self._given is None:
            raise ConfigurationError("this client's provider hands no calls on: give it an attribute 'passing'")
        return await self._given.forward(method, target, headers, body)
