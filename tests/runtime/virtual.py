"""A runtime under virtual time: a loop whose clock jumps to the next timer, and a batch service within the process.

Owns the clock and the service. Where nothing can ever happen again, the loop says so: no test waits for what hangs.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import msgspec
import pytest

import carpool
from carpool._core.model import Fault, Framing, Job, Lane, RemoteFile
from carpool._core.output import Block, Row
from carpool._ports import Answers, OpenAt, ProviderError
from carpool.settings import Route
from carpool.types import BatchJob, ServerError

T = TypeVar("T")
MODEL: Final = "gemini-3.5-flash"
DAY_S: Final = 86_400.0
START_S: Final = 1_800_000_000.0
"""Where wall clocks begin."""


class Hang(Exception):
    """Nothing will ever happen again, and somebody still waits."""


class _Selector(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Hang
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop for which waiting takes no time. Threads must not be waited for on it."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, as ``asyncio.run`` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def set_wall(monkeypatch: pytest.MonkeyPatch, ahead_s: float = 0.0) -> None:
    """Set the wall clock, so far ahead of where it began."""
    loop_time = SimpleNamespace(time=lambda: START_S + ahead_s)
    monkeypatch.setattr("carpool._runtime.loop.time", loop_time)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let others run until a condition holds, for at most a few days."""
    for _ in range(200_000):
        if condition():
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"never came: {what}")


async def turns(count: int = 20) -> None:
    """Let others run without any time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


class Remote(msgspec.Struct, kw_only=True):
    """A job of the service."""

    name: str
    display_name: str
    rows: list[tuple[str, str]]
    """Key and prompt."""
    ends_at: float
    cancelled: bool = False


def answer(prompt: str) -> str:
    """Return what the service answers."""
    return f"to {prompt}"


def prompt_of(row: Any) -> str:
    """Return the text of a request."""
    return str(row["request"]["contents"][0]["parts"][0]["text"])


def body_of(prompt: str) -> bytes:
    """Return the answer of the service as it is sent."""
    return json.dumps({"candidates": [{"content": {"parts": [{"text": answer(prompt)}]}}]}).encode()


class Service:
    """A batch service. Calls named in ``held`` wait at that point; ``fault`` may fail them.

    Points: send, sent (of a live call), upload, uploaded, create, created, find, poll, fetch, last (before the last
    row), cancel, delete, list.
    """

    origin = "virtual"
    framing = Framing(inline_envelope_bytes=100, inline_row_bytes=20)

    def __init__(self, latency_s: float = 600.0) -> None:
        self.latency_s = latency_s
        self.held: set[str] = set()
        self.passed: Counter[str] = Counter()
        self.fault: Callable[[str], BaseException | None] = lambda _: None
        self.live: Counter[str] = Counter()
        """Prompts answered live."""
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Remote] = {}
        self.is_open = False
        self._opened_by: asyncio.AbstractEventLoop | None = None

    # -- what tests ask

    def billed(self) -> Counter[str]:
        """Return how often each prompt was paid for, or will be."""
        return self.live + Counter(prompt for job in self.jobs.values() if not job.cancelled for _, prompt in job.rows)

    # -- the port

    async def open(self) -> None:
        assert not self.is_open
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def send(self, route: Route, lane: Lane, lines: Sequence[bytes], timeout_s: float | None) -> Answers:
        await self._pass("send")
        prompts = [prompt_of(json.loads(line)) for line in lines]
        self.live.update(prompts)
        await self._pass("sent")
        return Answers([body_of(prompt) for prompt in prompts])

    async def upload(self, name: str, size_bytes: int, open_at: OpenAt) -> RemoteFile:
        await self._pass("upload")
        data = b"".join([part async for part in open_at(0)])
        assert len(data) == size_bytes
        self.files[name] = data
        await self._pass("uploaded")
        return RemoteFile(name=name, size_bytes=size_bytes)

    async def create(self, job: Job, lines: AsyncIterator[bytes]) -> str:
        await self._pass("create")
        if job.form == "file":
            if job.file_name not in self.files:
                raise ProviderError(Fault(kind="refused", error=ServerError(403, "no such file", "PERMISSION_DENIED")))
            data = self.files[job.file_name]
        else:
            data = b"".join([line async for line in lines])
        rows = [json.loads(line) for line in data.splitlines()]
        name = f"batches/{len(self.jobs) + 1}"
        self.jobs[name] = Remote(
            name=name,
            display_name=job.display_name,
            rows=[(row["key"], prompt_of(row)) for row in rows],
            ends_at=self._now() + self.latency_s,
        )
        await self._pass("created")
        return name

    async def find(self, display_name: str) -> list[BatchJob]:
        await self._pass("find")
        return [self._view(job) for job in self.jobs.values() if job.display_name == display_name]

    async def list_jobs(self) -> AsyncIterator[BatchJob]:
        await self._pass("list")
        for job in reversed(self.jobs.values()):
            yield self._view(job)

    async def poll(self, name: str) -> BatchJob:
        await self._pass("poll")
        return self._view(self.jobs[name])

    async def fetch(self, job: BatchJob) -> AsyncIterator[Block]:
        await self._pass("fetch")
        rows = self.jobs[job.name].rows
        for key, prompt in rows:
            if key == rows[-1][0]:
                await self._pass("last")
            yield Block.of([Row(key, body_of(prompt))])

    async def cancel(self, name: str) -> None:
        await self._pass("cancel")
        job = self.jobs[name]
        job.cancelled = job.cancelled or self._now() < job.ends_at

    async def delete(self, name: str) -> None:
        await self._pass("delete")
        self.files.pop(name, None)

    def _view(self, job: Remote) -> BatchJob:
        state = "CANCELLED" if job.cancelled else "SUCCEEDED" if self._now() >= job.ends_at else "RUNNING"
        return BatchJob(
            name=job.name, display_name=job.display_name, model=MODEL, state=state, inline_output=state == "SUCCEEDED"
        )

    async def _pass(self, point: str) -> None:
        self.passed[point] += 1
        while point in self.held:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1.0)
        if (fault := self.fault(point)) is not None:
            raise fault

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


SERVER_DOWN: Final = ProviderError(Fault(kind="not_sent", error=ServerError(message="connection refused")))


def client_of(service: Service, store: carpool.MemoryStore, on_alarm: Any = None, **settings: Any) -> carpool.Client:
    """Return a client of the service, not open yet. Its calls take the batch route, unless they say otherwise."""
    usual = carpool.Settings(**{"ladder": ("batch",), **settings})
    return carpool.Client(provider=service, store=store, on_alarm=on_alarm, settings=usual)
