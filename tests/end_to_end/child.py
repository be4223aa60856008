"""A program that uses carpool and may be killed at any moment; run by the kill tests as a process of its own.

Takes one JSON object as its argument: where the server is, the home, settings, and the calls to make. Says on standard
output what happens as it happens, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from carpool import CarpoolError, Client, Request, Settings

MODEL = "gemini-3.5-flash"


def say(event: str, **more: Any) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


async def call(client: Client, text: str, key: str | None) -> None:
    try:
        answer = await client.generate(MODEL, text, key=key)
    except CarpoolError as error:
        say("failed", text=text, error=f"{type(error).__name__}: {error}")
    else:
        say("answered", text=text, answer=answer.text, reused=answer.receipt.reused)


async def pick_up(client: Client, key: str) -> None:
    try:
        answer = await client.result(key)
    except CarpoolError as error:
        say("failed", text=key, error=f"{type(error).__name__}: {error}")
    else:
        say("answered", text=key, answer=getattr(answer, "text", ""), reused=True)


async def main(order: dict[str, Any]) -> None:
    """Make the calls of an order: all at once, then tickets; wait for all, and for what earlier processes left."""
    settings = Settings(**order["settings"])
    async with Client(
        api_key=order["api_key"], base_url=order["base_url"], home=order["home"], settings=settings
    ) as client:
        say("opened", foreign=client.stats().foreign, parked=client.stats().parked)
        calls = [asyncio.create_task(call(client, text, text)) for text in order["keyed"]]
        calls += [asyncio.create_task(call(client, text, None)) for text in order["bare"]]
        await asyncio.sleep(0)
        await asyncio.gather(
            *(client.submit(Request(model=MODEL, contents=text, key=text)) for text in order["tickets"])
        )
        # What was asked before a ticket is on disk when the ticket is.
        say("accepted")
        calls += [asyncio.create_task(pick_up(client, key)) for key in order["results"]]
        await asyncio.gather(*calls)
        if order["drain"]:
            await client.drain()
        stats = client.stats()
        say("done", waiting=stats.waiting, sent=stats.sent, parked=stats.parked, jobs_created=stats.jobs_created)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
