"""What happened in one world, and whether it was right.

Owns the record that callers, stores and server leave behind, and the promises that are read off it at the end. It must
not know how the engine came to what it did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final, Literal, TypeAlias

import msgspec

from carpool._core.model import Failure

from .plan import Ask
from .server import BAD_WORDS, Server

INVALID_ARGUMENT: Final = 3
Ending: TypeAlias = Literal["", "value", "failed", "expired", "cancelled", "closed", "died", "conflict", "unknown"]


class Violation(Exception):
    """A promise was broken."""


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One await in one process."""

    ask: Ask
    epoch: int
    asked_at: float
    life: int = 0
    """Which process, counted also over the loss of the store."""
    key: str = ""
    """As the engine named the request."""
    place: int = -1
    joined: bool = False
    kept: bool = False
    deadline: float | None = None
    ending: Ending = ""
    body: bytes = b""
    failure: Failure | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One result that became durable."""

    key: str
    explicit: bool
    failed: bool
    body: bytes


class History:
    """The record of one world."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.stored: list[Stored] = []
        self.accepted: dict[str, int] = {}
        """Explicit keys that became durable, and how often they were taken as new."""
        self.let_go: set[str] = set()
        """Explicit keys whose last awaiter left, or whose deadline passed, before they were answered."""
        self.given_back: set[str] = set()
        """Keys whose awaiters were told that nothing can be sent now."""
        self.reports: Counter[str] = Counter()
        self.first_call = 0
        """Number of the first call after the store was restored from a backup: what came before may be lost."""
        self.restored = False
        self.besides = 0
        """Live calls for requests that a running job held."""

    # -- the promises

    def restore(self, accepted: dict[str, int], stored: list[Stored]) -> None:
        """Note that the store is as it was when only this was in it."""
        self.restored = True
        self.first_call = len(self.calls)
        self.let_go.update(self.accepted.keys() - accepted.keys())
        self.accepted, self.stored = accepted, stored

    def check(self, server: Server, *, assumptions_hold: bool, attempts_max: int) -> None:
        """Raise if a promise was broken.

        Args:
            server: what was done there.
            assumptions_hold: whether what carpool assumes of the service is true.
            attempts_max: how often a request may be sent in jobs.
        """
        self._check_awaits()
        self._check_explicit_keys()
        self._check_automatic_keys()
        if assumptions_hold and not self.restored:
            self._check_bills(server)
            self._check_runs(server, attempts_max)
            self._check_nothing_lost(server)
        if not self.restored:
            self._check_live_answers(server)

    def _check_awaits(self) -> None:
        for call in self.calls:
            expect(call.ending, f"an await never ended: {call}")
            # Of a key whose request was lost with the store nobody can tell that it is asked for otherwise now.
            reused = self.restored and call.ask.key is not None
            if call.ending == "value" and not call.ask.looks_up and not reused:
                prompt = call.body.decode().partition("#")[0]
                expect(prompt == call.ask.prompt, f"somebody else's answer {call.body!r}: {call}")
                expect(not prompt.startswith(("bad", "cursed")), f"an answer to what cannot be answered: {call}")
            failure = call.failure
            if failure is not None and failure.kind == "rejected" and BAD_WORDS in failure.error.message:
                excused = call.ask.looks_up or reused or call.ask.prompt.startswith("bad")
                expect(excused, f"rejected for what another has wrong: {call}")

    def _check_explicit_keys(self) -> None:
        answers: dict[str, list[Stored]] = defaultdict(list)
        for result in self.stored:
            if result.explicit and not result.failed:
                answers[result.key].append(result)
        for key, results in answers.items():
            expect(len(results) == 1, f"more than one answer is recorded for {key}: {results}")
        for call in self.calls[self.first_call :]:
            if call.ask.key is not None and call.ending == "value":
                bodies = [result.body for result in answers[call.ask.key]]
                expect(bodies == [call.body], f"got {call.body!r}, recorded is {bodies}: {call}")
        for key in self.accepted:
            ended = any(result.key == key for result in self.stored)
            expect(ended or key in self.let_go, f"{key} was accepted, and ended neither in an answer nor in an error")

    def _check_automatic_keys(self) -> None:
        taken = Counter(
            (call.life, call.body) for call in self.calls if call.ask.key is None and call.ending == "value"
        )
        for (life, body), times in taken.items():
            expect(times == 1, f"{body!r} was given to {times} calls of process {life}")

    def _check_bills(self, server: Server) -> None:
        """No answer is paid for twice if the earlier one could be had; inline, a create of unknown fate may double."""
        by_key: dict[str, set[str]] = defaultdict(set)
        twins = {job.display_name for job in server.jobs.values() if job.twin}
        for bill in server.bills:
            job = server.jobs[bill.job]
            if bill.good and (job.known or (job.form == "file" and job.display_name not in twins)):
                by_key[bill.key].add(job.display_name)
        for key, names in by_key.items():
            expect(len(names) == 1, f"{key} was paid for more than once: {sorted(names)}")

    def _check_runs(self, server: Server, attempts_max: int) -> None:
        """A request is not sent more often than its attempts allow."""
        runs: dict[str, set[str]] = defaultdict(set)
        for job in server.jobs.values():
            invalid = job.error is not None and job.error.code == INVALID_ARGUMENT
            if job.known and not invalid and job.fate != "vanished":
                for key, _ in job.rows:
                    runs[key].add(job.display_name)
        for key, names in runs.items():
            limit = attempts_max * max(1, self.accepted.get(key, 1))
            expect(len(names) <= limit, f"{key} was sent {len(names)} times, the limit is {limit}")

    def _check_nothing_lost(self, server: Server) -> None:
        """What was paid for and could be had was given to somebody, or stored."""
        seen = {call.body.removesuffix(b"#other") for call in self.calls if call.ending == "value"}
        seen |= {result.body.removesuffix(b"#other") for result in self.stored}
        twins = {job.display_name for job in server.jobs.values() if job.twin}
        for bill in server.bills:
            job = server.jobs[bill.job]
            if bill.good and job.known and job.display_name not in twins:
                expect(f"{bill.prompt}#{bill.serial}".encode() in seen, f"paid for and lost: {bill} of {job}")

    def _check_live_answers(self, server: Server) -> None:
        """What was paid for live, and is in the account, was given to somebody, or answered elsewhere too.

        A request that has left its call and waits for a job is withdrawn when its caller leaves; then the answer to the
        call comes to nobody.
        """
        withdrawn = {call.key for call in self.calls if call.ending in ("cancelled", "expired")}
        seen = {call.body for call in self.calls if call.ending == "value"} | {result.body for result in self.stored}
        twice = set(self.paid_twice(server))
        for bill in server.live_bills.values():
            if bill.booked and bill.key not in twice and bill.key not in withdrawn:
                expect(f"{bill.prompt}#{bill.serial}".encode() in seen, f"paid for live, and lost: {bill}")

    def paid_twice(self, server: Server) -> list[str]:
        """Return keys of which more than one answer was paid for and read: once for each that is one too many."""
        paid = Counter(bill.key for bill in server.live_bills.values() if bill.booked)
        live = set(paid)
        for key, name in sorted({(bill.key, bill.job) for bill in server.bills if bill.good}):
            if key in live and server.jobs[name].known and not server.jobs[name].twin:
                paid[key] += 1
        return [key for key, times in paid.items() for _ in range(times - 1)]


def expect(truth: object, message: str) -> None:
    """Raise if something is not as promised."""
    if not truth:
        raise Violation(message)
