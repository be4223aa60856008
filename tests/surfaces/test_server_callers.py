"""Libraries of HTTP that wait longer than they have patience for, since they are told that somebody is at it."""

from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
import httpx2
import pytest
import requests

from carpool.surfaces.sidecar.limits import Limits

from .sidecars import OK, House, house, until

READ_TIMEOUT_S: Final = 2.0
INTERIM_S: Final = 0.05
SIGNS: Final = int(READ_TIMEOUT_S / INTERIM_S * 1.5)
"""Signs of life that each caller gets before its answer: they take longer than it bears silence."""
QUICK: Final = Limits(interim_s=INTERIM_S, grace_s=0, connections_max=200)


async def _httpx2(url: str) -> bytes:
    async with httpx2.AsyncClient(timeout=READ_TIMEOUT_S) as client:
        return (await client.post(url, content=b"{}")).raise_for_status().content


async def _aiohttp(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=READ_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=b"{}") as reply:
        assert reply.status == 200
        return await reply.read()


async def _requests(url: str) -> bytes:
    reply = await asyncio.to_thread(requests.post, url, data=b"{}", timeout=READ_TIMEOUT_S)
    assert reply.status_code == 200
    return reply.content


async def _urllib(url: str) -> bytes:
    def ask() -> bytes:
        with urllib.request.urlopen(url, b"{}", timeout=READ_TIMEOUT_S) as reply:  # noqa: S310 - our own
            found: bytes = reply.read()
            return found

    return await asyncio.to_thread(ask)


async def _program(*words: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


async def _curl(url: str) -> bytes:
    patience = ("--speed-time", str(int(READ_TIMEOUT_S)), "--speed-limit", "1")
    return await _program("curl", "--silent", "--fail", *patience, "--data", "{}", url)


async def _node(url: str) -> bytes:
    script = """
        const [url, patience] = process.argv.slice(1);
        await fetch(new URL("/carpool/health", url));
        const Agent = globalThis[Symbol.for("undici.globalDispatcher.1")].constructor;
        const dispatcher = new Agent({headersTimeout: 1000 * patience});
        const reply = await fetch(url, {method: "POST", body: "{}", dispatcher});
        process.stdout.write(await reply.text());
        process.exit(reply.ok ? 0 : 1);
    """
    return await _program("node", "--input-type=module", "--eval", script, url, str(READ_TIMEOUT_S))


CALLERS: Final[dict[str, Callable[[str], Awaitable[bytes]]]] = {
    "httpx2": _httpx2,
    "aiohttp": _aiohttp,
    "requests": _requests,
    "urllib": _urllib,
    "curl": _curl,
    "node": _node,
}


async def test_callers_survive_an_answer_that_takes_longer_than_their_read_timeout() -> None:
    callers = {name: call for name, call in CALLERS.items() if name not in ("curl", "node") or shutil.which(name)}
    async with house(limits=QUICK, real_time=True) as place:
        tasks = {name: asyncio.create_task(_call(call, place, name)) for name, call in callers.items()}
        for name, task in tasks.items():
            await until(lambda name=name, task=task: f"/{name}" in place.desk.pending or task.done())
        before = place.seen["interim"]
        await until(lambda: place.seen["interim"] >= before + SIGNS * len(callers))
        for name in callers:
            if f"/{name}" in place.desk.pending:
                place.give(f"/{name}")
        assert {name: await task for name, task in tasks.items()} == dict.fromkeys(callers, OK.body)


async def _call(call: Callable[[str], Awaitable[bytes]], place: House, name: str) -> bytes:
    return await call(f"{place.sidecar.url}/{name}")


async def test_without_signs_of_life_they_do_not() -> None:
    async with house(limits=QUICK, real_time=True) as place, httpx2.AsyncClient(timeout=0.2) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(f"{place.sidecar.url}/x", content=b"{}", headers={"x-carpool-interim": "none"})
        await until(lambda: place.desk.cancelled == ["/x"])


async def test_a_thousand_who_wait_are_told_by_one_timer() -> None:
    async with house(limits=Limits(grace_s=0, connections_max=2_000)) as place:
        callers = []
        for number in range(1_000):
            caller = await place.caller()
            await caller.send(place.post(f"/{number}"))
            callers.append(caller)
        await until(lambda: place.connections.waiting == 1_000)
        loop = asyncio.get_running_loop()
        timers = [handle for handle in getattr(loop, "_scheduled", []) if not handle.cancelled()]
        ours = [handle for handle in timers if "Connections.look" in repr(handle)]
        assert len(ours) == 1
        place.pass_time(15)
        await until(lambda: place.seen["interim"] == 1_000)
        for number, caller in enumerate(callers):
            place.give(f"/{number}")
            assert (await caller.head())[0] == 102
            assert (await caller.reply()).status == 200
