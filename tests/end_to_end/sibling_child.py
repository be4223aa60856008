"""A process that shares its home with others; run by ``test_sibling_processes`` as a process of its own.

Takes one JSON object as its argument: what to do, where the server is, the home, settings, keys. Says on standard
output what happens as it happens, one JSON object a line, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from carpool import Client, ConfigurationError, Request, Settings

MODEL = "gemini-3.5-flash"


def say(event: str, **more: Any) -> None:
    """Tell the parent, in one write."""
    os.write(1, (json.dumps({"event": event, **more}) + "\n").encode())


def client_of(order: dict[str, Any]) -> Client:
    settings = Settings(**order["settings"])
    return Client(api_key=order["api_key"], base_url=order["base_url"], home=order["home"], settings=settings)


async def submit(order: dict[str, Any]) -> None:
    """Send requests, and live on."""
    async with client_of(order) as client:
        for text in order["texts"]:
            await client.submit(Request(model=MODEL, contents=text, key=text))
        await client.flush()
        while client.stats().jobs_created == 0 or client.stats().waiting:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        say("sent")
        await asyncio.to_thread(sys.stdin.read)


async def accept(order: dict[str, Any]) -> None:
    """Take requests in when told to, and keep them."""
    async with client_of(order) as client:
        say("opened")
        await asyncio.to_thread(sys.stdin.readline)
        for text in order["texts"]:
            await client.submit(Request(model=MODEL, contents=text, key=text))
        say("accepted")
        await asyncio.to_thread(sys.stdin.read)


async def generate(order: dict[str, Any]) -> None:
    """Ask, and tell the answers."""
    async with client_of(order) as client:
        say("opened")
        answers = await asyncio.gather(*(client.generate(MODEL, text, key=text) for text in order["texts"]))
        say("answered", answers=[answer.text for answer in answers], jobs_created=client.stats().jobs_created)


async def fork_with_client(order: dict[str, Any]) -> None:
    """Fork while the client is open: the child is refused, and the parent goes on."""
    async with client_of(order) as client:
        pid = os.fork()
        if pid == 0:
            try:
                client._ready()
            except ConfigurationError as error:
                say("child", error=str(error))
            os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        answers = [await client.generate(MODEL, text, key=text) for text in order["texts"]]
        say("answered", answers=[answer.text for answer in answers])


def prefork(order: dict[str, Any]) -> None:
    """Fork workers as a server does; each makes a client of its own, and asks for what the one before it asked too."""
    client_of(order)  # made in the parent, and not opened
    first = order["texts"]
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            asyncio.run(generate(order | {"texts": [*first, f"worker {number}"]}))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    told: dict[str, Any] = json.loads(sys.argv[1])
    if told["what"] == "prefork":
        prefork(told)
    else:
        asyncio.run(
            {"submit": submit, "accept": accept, "generate": generate, "fork": fork_with_client}[told["what"]](told)
        )
