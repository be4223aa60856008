"""A sidecar that gives a sign of life several times a second: ``python -m tests.frameworks.lively``.

Owns that difference; all else is ``carpool serve``, whose signs of life come every 15 seconds.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from carpool import Client
from carpool.surfaces.exchange import Exchange
from carpool.surfaces.limits import Limits
from carpool.surfaces.server import Sidecar

INTERIM_S = 0.2


async def serve() -> None:
    """Serve until SIGTERM; say where on standard output."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with (
        Client() as client,
        Sidecar(Exchange(client), limits=Limits(interim_s=INTERIM_S)) as sidecar,
    ):
        sys.stdout.write(json.dumps({"url": sidecar.url}) + "\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve())
