"""SIGKILL of the sidecar while callers wait: they ask the next one again, get their own answers, and pay once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from tests.canary import API_KEY
from tests.cli.program import environ_of
from tests.end_to_end.support import HOUR_S, MODEL, TimedEmulator, billed, jobs_of, prompts, until

from carpool.emulator import Plan, expected_text

CALLERS: Final = 200
_WAIT_S: Final = 60.0
LOST: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sidecar:
    """``carpool serve`` in a process of its own, always at one address and over one home."""

    def __init__(self, base_url: str, home: Path) -> None:
        self.port = free_port()
        more = {
            "CARPOOL_BASE_URL": base_url,
            "CARPOOL_HOME": str(home),
            "GEMINI_API_KEY": API_KEY,
            "CARPOOL_LINGER_S": "0.5",
            "CARPOOL_LINGER_MAX_S": "1",
            "CARPOOL_LOOKUP_WAIT_S": "0.1",
        }
        self._environ = environ_of(more)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: str) -> None:
        """Start it; settings by their variables' names are of this one alone."""
        command = [sys.executable, "-m", "carpool", "serve", "--port", str(self.port), "--json"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=self._environ | settings
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(_WAIT_S):
            told = json.loads(await self._process.stdout.readline())
        assert told["url"].endswith(f":{self.port}")

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        os.kill(self._process.pid, number)
        async with asyncio.timeout(_WAIT_S):
            return await self._process.wait()


async def ask(session: aiohttp.ClientSession, port: int, text: str) -> str:
    """Ask as an SDK would whose user tries again until there is an answer."""
    body = {"contents": [{"parts": [{"text": text}], "role": "user"}]}
    while True:
        try:
            async with session.post(
                f"http://127.0.0.1:{port}/v1beta/models/{MODEL}:generateContent", json=body
            ) as response:
                answer: Any = await response.json()
                if response.status == 503:
                    await asyncio.sleep(0.05)
                    continue
                assert response.status == 200, answer
                return str(answer["candidates"][0]["content"]["parts"][0]["text"])
        except LOST:
            await asyncio.sleep(0.05)  # nobody listens at the moment


async def all_wait(session: aiohttp.ClientSession, port: int) -> None:
    """Wait until the sidecar has accepted all requests, and sent none."""
    found = [""]
    while found != [str(CALLERS)]:
        async with asyncio.timeout(_WAIT_S), session.get(f"http://127.0.0.1:{port}/carpool/metrics") as response:
            found = re.findall(r"^carpool_requests_waiting (\d+)", await response.text(), re.MULTILINE)


MOMENTS: Final[dict[str, Callable[[TimedEmulator], bool]]] = {
    "while a job is created": lambda emulator: any(call.op == "create" for call in emulator.requests),
    "while it runs": lambda emulator: sum(call.op == "get" for call in emulator.requests) > 1,
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_callers_ask_again_and_nothing_is_paid_twice(moment: str, tmp_path: Path) -> None:
    texts = prompts(CALLERS, moment)
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        sidecar = Sidecar(emulator.base_url, tmp_path)
        await sidecar.start()
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            calls = [asyncio.ensure_future(ask(session, sidecar.port, text)) for text in texts]
            await until(lambda: MOMENTS[moment](emulator), moment)
            await sidecar.end(signal.SIGKILL)
            await sidecar.start()
            await until(lambda: sum(job.rows for job in jobs_of(emulator)) >= CALLERS, "all of them in jobs")
            emulator.let_pass()
            answers = await asyncio.gather(*calls)
        assert answers == [expected_text(text) for text in texts]
        assert await sidecar.end(signal.SIGTERM) == 0
        assert billed(emulator, texts) == [1] * CALLERS
        assert emulator.ledger().rows_billed == CALLERS
        assert emulator.ledger().twice == []


@pytest.mark.timeout(180)
async def test_killed_before_anything_was_sent_and_again_with_the_answers_there(tmp_path: Path) -> None:
    """The first sidecar dies while it gathers; the second with a job that has ended, its answers half given."""
    texts = prompts(CALLERS, "thrice")
    async with TimedEmulator(Plan(latency_s=HOUR_S)) as emulator:
        sidecar = Sidecar(emulator.base_url, tmp_path)
        await sidecar.start(CARPOOL_LINGER_S="600", CARPOOL_LINGER_MAX_S="600")
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            calls = [asyncio.ensure_future(ask(session, sidecar.port, text)) for text in texts]
            await all_wait(session, sidecar.port)
            assert jobs_of(emulator) == []
            await sidecar.end(signal.SIGKILL)
            await sidecar.start()
            await until(lambda: sum(job.rows for job in jobs_of(emulator)) >= CALLERS, "all of them in jobs")
            emulator.let_pass()
            await until(lambda: sum(call.done() for call in calls) > 0, "the first answer")
            await sidecar.end(signal.SIGKILL)
            await sidecar.start()
            answers = await asyncio.gather(*calls)
        assert answers == [expected_text(text) for text in texts]
        await sidecar.end(signal.SIGTERM)
        assert billed(emulator, texts) == [1] * CALLERS
        assert emulator.ledger().twice == []
