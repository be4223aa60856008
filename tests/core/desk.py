"""An engine on a desk: told in short words, answering in steps that tests read.

Owns the samples that core tests share. Everything is synchronous, and time is what a test says it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from tests.simulation.store import DurableStore

from carpool._core.keys import Claim
from carpool._core.messages import (
    Answered,
    Call,
    CallFailed,
    Create,
    Created,
    Event,
    Fetch,
    FetchEnded,
    Find,
    Found,
    Poll,
    Polled,
    Refused,
    Revoke,
    Revoked,
    RowsFetched,
    Step,
    Sweep,
    Swept,
    Upload,
    Uploaded,
    Woken,
    Write,
)
from carpool._core.meter import Charge
from carpool._core.model import (
    EXPLICIT,
    TICKET,
    Fault,
    FaultKind,
    Framing,
    Job,
    JobState,
    Lane,
    Meta,
    Place,
    RemoteFile,
)
from carpool._core.output import RowFault
from carpool._core.recovery import Recovery
from carpool._core.routing import code_of
from carpool.settings import Ladder, Settings
from carpool.types import BatchJob, ServerError

LANE: Final = Lane("generate", "model-without-price")
OTHER_LANE: Final = Lane("embed", "another-model")
FRAMING: Final = Framing(100, 20)
ORIGIN: Final = "https://here#1"
STORE_ID: Final = "abcd1234"
START: Final = 1_790_000_000.0
SWEEP_S: Final = 604_800.0
"""Sweeps are rare on a desk: those of a new process, and few others."""
T = TypeVar("T")


def digest_of(prompt: str) -> bytes:
    """Return 16 bytes that tell prompts apart."""
    return prompt.encode().ljust(16, b".")[:16]


def error(code: int = 0, message: str = "", status: str = "") -> ServerError:
    return ServerError(code, message, status)


class Desk:
    """An engine, the time, and a disk that holds what was written."""

    def __init__(
        self, now: float = START, disk: DurableStore | None = None, origin: str = ORIGIN, **settings: Any
    ) -> None:
        self.settings = Settings(**({"linger_s": 0.0, "poll_min_s": 5.0, "sweep_s": SWEEP_S} | settings))
        self.now = now
        self.disk = DurableStore(STORE_ID) if disk is None else disk
        records = list(self.disk.load())
        assert isinstance(records[0], Meta)
        recovery = Recovery(self.settings, FRAMING, origin, records[0])
        for record in records:
            recovery.take(record)
        self.engine, step = recovery.finish(now)
        self.opened = self._write(step)
        self.listed: list[BatchJob] | None = []
        """What every sweep finds; ``None``: sweeps are answered by the test."""

    def restart(self, after_s: float = 1.0, origin: str = ORIGIN, **settings: Any) -> Desk:
        """Return the desk of a new process over what is on disk."""
        kept = {name: getattr(self.settings, name) for name in msgspec.structs.asdict(self.settings)}
        return Desk(self.now + after_s, self.disk, origin, **(kept | settings))

    # -- callers

    def admit(
        self,
        prompt: str = "p",
        *,
        key: str | None = None,
        ticket: bool = False,
        lane: Lane = LANE,
        size_bytes: int = 50,
        tokens: int = 1,
        deadline: float | None = None,
        ladder: Ladder = ("batch",),
        limit: int = 0,
    ) -> Place:
        """Take a new request in."""
        flags = 0 if key is None else EXPLICIT | (TICKET if ticket else 0)
        name = self.engine.new_key(digest_of(prompt)) if key is None else key
        line = prompt.encode().ljust(size_bytes - 1, b".") + b"\n"
        place = self.engine.admit(
            lane, name, digest_of(prompt), line, tokens, flags, deadline, self.now, code_of(ladder), limit
        )
        spilled: list[Write] = list(self.engine.spilled)
        self.engine.spilled.clear()
        self.disk.apply(spilled)
        return place

    def claim(self, key: str, prompt: str = "p") -> tuple[Claim, Place]:
        return self.engine.claim(key, digest_of(prompt), self.now)

    def adopt(self, prompt: str = "p") -> tuple[Claim, Place]:
        return self.engine.adopt(digest_of(prompt), self.now)

    def leave(self, *places: Place) -> None:
        for place in places:
            self.engine.leave(place, self.now)

    # -- steps

    def tell(self, *events: Event) -> Step:
        """Tell the engine something now; what it writes is on disk."""
        step = self._write(self.engine.turn(events, self.now))
        sweeps = every(step.actions, Sweep)
        if sweeps and self.listed is not None:
            more = self._write(self.engine.step(Swept(sweeps[0].op, self.listed), self.now))
            step.actions.remove(sweeps[0])
            step.writes += more.writes
            step.actions += more.actions
        return step

    def wait(self, seconds: float = 0.0) -> Step:
        """Let time pass."""
        self.now += seconds
        return self.tell(Woken())

    def wake(self) -> Step:
        """Let time pass until the engine has something to do."""
        while True:
            due = self.engine.next_wakeup()
            assert due is not None, "nothing waits for time to pass"
            assert due < self.now + SWEEP_S / 2, "nothing but the next sweep waits for time to pass"
            self.now = max(self.now, due)
            step = self.tell(Woken())
            if step.writes or step.actions:
                return step

    def _write(self, step: Step) -> Step:
        self.disk.apply(step.writes)
        return step

    # -- replies

    @property
    def job(self) -> Job:
        """The only job."""
        [job] = self.engine.book.jobs.values()
        return job

    @property
    def jobs(self) -> list[Job]:
        return list(self.engine.book.jobs.values())

    def uploaded(self, job: Job | None = None) -> Step:
        job = job or self.job
        return self.tell(Uploaded(job.id, job.op, RemoteFile(name=job.file_name)))

    def created(self, name: str = "batches/1", job: Job | None = None) -> Step:
        job = job or self.job
        return self.tell(Created(job.id, job.op, name))

    def found(self, *remotes: BatchJob) -> Step:
        return self.tell(Found(self.job.id, self.job.op, list(remotes)))

    def revoked(self) -> Step:
        return self.tell(Revoked(self.job.id, self.job.op))

    def polled(self, state: str = "SUCCEEDED", job: Job | None = None, *, output: bool = True, **facts: Any) -> Step:
        job = job or self.job
        return self.tell(Polled(job.id, job.op, remote(job.name, state, output=output, **facts)))

    def fetched(
        self,
        *delivered: Place,
        kept: Sequence[tuple[Place, bytes]] = (),
        failed: Sequence[tuple[Place, ServerError]] = (),
        job: Job | None = None,
    ) -> Step:
        job = job or self.job
        faults = [RowFault(place, fault) for place, fault in failed]
        answers = len(delivered) + len(kept)
        rate = self.engine.book.ledger.rate(job.lane.model)
        if rate is None:
            charge = Charge(answers=answers, unknown=answers)
        else:
            cost = rate.plain("batch", 1, 1)
            charge = Charge(
                answers=answers, prompt=1, output=1, list_picousd=cost.list_picousd, paid_picousd=cost.paid_picousd
            )
        return self.tell(RowsFetched(job.id, job.op, list(delivered), list(kept), faults, charge))

    def ended(self, unknown: int = 0, job: Job | None = None) -> Step:
        job = job or self.job
        return self.tell(FetchEnded(job.id, job.op, unknown))

    def failed(self, kind: FaultKind = "unknown", what: ServerError | None = None, job: Job | None = None) -> Step:
        job = job or self.job
        return self.tell(CallFailed(job.id, job.op, Fault(kind=kind, error=what or error())))

    def refused(self, code: int, message: str = "", status: str = "", job: Job | None = None) -> Step:
        return self.failed("refused", error(code, message, status), job)

    # -- live calls

    def answered(self, call: Call, *, kept: Sequence[tuple[Place, bytes]] = ()) -> Step:
        """Let a live call be answered: straight to awaiters what is not kept."""
        away = {place for place, _ in kept}
        delivered = [place for place in call.places if place not in away]
        return self.tell(Answered(call.op, delivered, list(kept), [], Charge(answers=len(call.places))))

    def shed(self, call: Call, code: int = 503, message: str = "", status: str = "") -> Step:
        """Let a live call be refused."""
        return self.tell(Refused(call.op, Fault(kind="refused", error=error(code, message, status))))

    # -- on the way to a state

    def running(self, *prompts: str, key: str | None = None, ticket: bool = False) -> list[Place]:
        """Admit requests and bring their job to RUNNING."""
        places = [self.admit(prompt, key=key, ticket=ticket) for prompt in prompts or ("p",)]
        self.wait()
        if self.job.state is JobState.UPLOADING:
            self.uploaded()
        self.created()
        return places

    def abandoned(self, *prompts: str) -> list[Place]:
        """Send requests whose callers leave."""
        places = self.running(*prompts)
        self.leave(*places)
        return places

    def fetching(self, *prompts: str, key: str | None = None, state: str = "SUCCEEDED") -> list[Place]:
        """Admit requests and bring their job to FETCHING."""
        places = self.running(*prompts, key=key)
        self.wake()
        self.polled(state)
        return places


def remote(
    name: str, state: str = "SUCCEEDED", *, output: bool = False, failure: ServerError | None = None, display: str = ""
) -> BatchJob:
    """Return the server's view of a job."""
    return BatchJob(name=name, state=state, error=failure, inline_output=output, display_name=display)


def only(items: Sequence[object], kind: type[T]) -> T:
    """Return the only item of a kind."""
    [found] = every(items, kind)
    return found


def every(items: Sequence[object], kind: type[T]) -> list[T]:
    """Return the items of a kind, in order."""
    return [item for item in items if isinstance(item, kind)]


def questions(step: Step) -> list[type]:
    """Return the kinds of questions that a step asks the server."""
    asked = (Upload, Create, Find, Revoke, Poll, Fetch)
    return [type(action) for action in step.actions if isinstance(action, asked)]
