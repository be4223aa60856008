"""One seed from its first call to the last record's end: processes that come and go over one store and one server.

Owns the order of lives. A seed is right if nothing in it raises.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import Any, Final

import msgspec

from carpool._core.messages import PutResults, PutSegment
from carpool._core.model import EXPLICIT, LIVE, PARKED, QUEUED, Lane, ResultsHead, SegmentHead
from carpool.types import PICO

from .clock import Clock
from .history import Call, History, Stored, Violation, expect
from .plan import HOUR, START, Ask, Crash, Plan
from .process import Process, Scene
from .server import TARIFF_PICOUSD, RemoteJob, Server
from .store import DurableStore

CLOCK_ERRORS_S: Final = 50 * HOUR
TURNS_MAX: Final = 150_000
FOREIGN: Final = "https://elsewhere#2"
CREATES_LATE_S: Final = HOUR


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The store at one moment, and what was true then."""

    records: list[Any]
    accepted: dict[str, int]
    stored: list[Stored]
    jobs: set[str]
    waiting: set[str]


class World:
    """Runs one seed."""

    def __init__(self, seed: int, *, ladders: bool = True) -> None:
        self.plan = Plan(seed, ladders=ladders)
        self.clock = Clock(START)
        self.server = Server(self.plan, self.clock)
        self.history = History()
        self.store = DurableStore("abcd1234")
        self._scene = Scene(self.plan, self.clock, self.store, self.server, self.history)
        self.processes: list[Process] = []
        self._crashes = list(self.plan.crashes)
        if self.plan.chance(0.2):
            self._plant_foreign_records()
        self._foreign = self._foreign_records()
        self._backup: Backup | None = None
        self._lost = self._last = False
        """Whether the store was lost, and is to be restored; whether the last process runs."""
        self._held_keys: set[str] = set()
        """Keys that waited unsent when the store was saved that was restored later."""

    def run(self) -> None:
        """Run the seed; raise if a promise is broken."""
        if self.plan.restore is not None:
            self.clock.at(START + self.plan.restore[0], self._save_soon)
        self._start_process(self.plan.asks)
        self._run_to_rest()
        # What was promised goes on in a process of which nobody asks anything.
        plan, self._last = self.plan, True
        self.process.when_dead = lambda: None
        self.process.die()
        healthy_at = max([self.clock.now, plan.faults_end, *(stop for _, stop in plan.outages + plan.lockouts)])
        self.clock.at(healthy_at, lambda: self._start_process([]))
        self._run_to_rest()
        # Each life begins anew on the first rung, and the batch route may come after it.
        attempts_max = plan.settings.attempts_max * (len(self.processes) if plan.rides else 1)
        self.history.check(self.server, assumptions_hold=plan.assumptions_hold, attempts_max=attempts_max)
        self._check_rest()
        self._check_account()
        self._check_doubles()
        self._check_held()
        self._check_expiry()
        expect(self._foreign_records() == self._foreign, "records of another origin were touched")

    @property
    def process(self) -> Process:
        """The process of now."""
        return self.processes[-1]

    # -- lives

    def _start_process(self, asks: list[Ask]) -> None:
        crash = self._crashes.pop(0) if self._crashes and asks else None
        process = Process(self._scene, crash, len(self.processes))
        self.processes.append(process)
        for ask in asks:
            call = Call(ask=ask, epoch=process.epoch, asked_at=ask.at)
            process.later(ask.at - self.clock.now, partial(process.callers.ask, call))
        if crash is not None:
            process.when_dead = lambda: self._restart(crash)

    def _restart(self, crash: Crash) -> None:
        """Start the script again: what was not answered is asked again, what was not asked yet comes."""
        now = self.clock.now
        back_at = now + crash.down_s
        if self._lost and self._backup is not None:
            self._lost = False
            self.server.lost_at = now
            back_at += self.plan.list_lag_s + 10.0
            self._restore(self._backup)
        last = {call.ask.id: call for call in self.history.calls}
        asks: list[Ask] = []
        for ask in self.plan.asks:
            call = last.get(ask.id)
            if call is None or (call.ending in ("died", "closed") and ask.insists):
                ask.at = max(ask.at, back_at + self.plan.seconds(0.1, HOUR))
                asks.append(ask)
        self.clock.at(back_at, lambda: self._start_process(asks or [self._late_ask(back_at)]))

    # -- the store is lost, and restored from a backup

    def _save_soon(self) -> None:
        self.store.when_accepted = self._save

    def _save(self) -> None:
        assert self.plan.restore is not None
        self.store.when_accepted = None
        self.clock.after(self.plan.restore[1], self._lose)
        held = {
            key
            for record in self.store.load()
            if isinstance(record, SegmentHead) and record.origin != FOREIGN
            for key in record.keys
        }
        for job_id in self.store.jobs:
            for no, start, stop in self.store.job(job_id).spans:
                held.difference_update(self._segment_head(no).keys[start:stop])
        self._backup = Backup(
            records=self.store.backup(),
            accepted=dict(self.history.accepted),
            stored=list(self.history.stored),
            jobs=set(self.server.jobs),
            waiting=held - {result.key for result in self.history.stored},
        )

    def _lose(self) -> None:
        if self._last or self._backup is None or not self.process.alive:
            return
        self._lost = True
        self.process.crash = None
        self.process.when_dead = lambda: self._restart(Crash(point="later", trigger="", turn=0, down_s=1.0))
        self.process.die()

    def _restore(self, backup: Backup) -> None:
        self.store.restore(backup.records)
        self.history.restore(backup.accepted, backup.stored)
        self._held_keys = backup.waiting
        known = set(self.store.jobs)
        by_id: dict[str, list[str]] = {}
        for job in self.server.jobs.values():
            by_id.setdefault(id_of(job), []).append(job.name)
        for job_id, names in by_id.items():
            if job_id not in known and len(names) == 1 and names[0] not in backup.jobs:
                self.server.protected.add(names[0])

    def _late_ask(self, at: float) -> Ask:
        return Ask(
            id=len(self.history.calls) + 10_000,
            lane=self.plan.asks[0].lane,
            prompt="plain-late",
            key=None,
            ticket=False,
            deadline_s=None,
            at=at + 1.0,
            cancel_after_s=None,
            size_bytes=20,
            insists=True,
            flushes=False,
            looks_up=False,
        )

    def _run_to_rest(self) -> None:
        """Run until the last process has nothing to do, and everybody has asked."""
        turns = 0
        while True:
            turns += 1
            if turns > TURNS_MAX:
                raise Violation(f"no rest after {turns} turns: {self.process.engine.book.jobs}")
            if self.process.at_rest and self._everybody_asked():
                return
            if not self.clock.step():
                raise Violation(f"nothing will happen any more: {self.history.calls}")

    def _everybody_asked(self) -> bool:
        if not self.process.alive:
            return False
        asked = {call.ask.id for call in self.history.calls}
        return all(ask.id in asked and ask.at <= self.clock.now for ask in self.plan.asks)

    # -- rest

    def _check_rest(self) -> None:
        """Nothing is left over that nobody needs."""
        book = self.process.engine.book
        expect(not book.jobs, f"jobs: {book.jobs}")
        expect(not self.store.jobs, "jobs on disk")
        expect(not book.lanes.requests, "requests in lanes")
        expect((book.waiting_requests, book.waiting_bytes) == (0, 0), "requests counted as waiting")
        expect((book.live.trips, book.live.flights) == ({}, {}), "live calls in the air")
        expect((book.pacing.jobs, book.retries) == (0, {}), "jobs counted as running")
        for segment in book.segments.values():
            expect(segment.states.count(QUEUED) == 0, f"queued for ever: {segment}")
            expect(segment.states.count(LIVE) == 0, f"on a live route for ever: {segment}")
            expect(segment.states.count(PARKED), f"needed by nobody: {segment}")
            expect(segment.jobs == 0, f"held by no job: {segment}")
        mine = {no for no in self.store.segments if self._segment_head(no).origin != FOREIGN}
        expect(mine == book.segments.keys(), f"on disk {mine}, in memory {list(book.segments)}")
        results = {no for no in self.store.results if self.store.results_head(no).origin != FOREIGN}
        expect(results == book.results.keys(), f"on disk {results}, in memory {list(book.results)}")
        for _, place in book.keys.all_live():
            of, row = book.at(place)
            expect(of is not None and of.states[row] == PARKED, f"a live key of nothing: {place}")

    def _check_account(self) -> None:
        """The account tells each live answer that was read, not less money than was spent, and doubles."""
        if self.history.restored:
            return
        days, bills = self.store.accounts(), list(self.server.live_bills.values())
        for route in TARIFF_PICOUSD:
            booked = [bill for bill in bills if bill.route == route and bill.booked]
            totals = [day.routes[route] for day in days if route in day.routes]
            told = (sum(one.requests for one in totals), sum(one.paid_picousd for one in totals))
            expect(told == (len(booked), sum(bill.picousd for bill in booked)), f"{route}: {told}, billed are {booked}")
        spent, full = sum(day.spent_picousd for day in days), sum(day.full_picousd for day in days)
        expect(spent >= sum(bill.picousd for bill in bills), f"{spent} in the account, billed are {bills}")
        standard = sum(bill.picousd for bill in bills if bill.route == "standard")
        expect(full >= standard, f"{full} on the standard route in the account, billed are {standard}")
        expect(not any(day.overrun_picousd for day in days), f"more spent than reserved: {days}")
        settings = self.plan.settings
        most = int(settings.max_double_cost_per_day_usd * PICO)
        expect(all(day.double_picousd <= most for day in days), f"doubles beyond {most}: {days}")
        for limit, column in ((settings.budget_per_day_usd, "spent"), (settings.full_price_per_day_usd, "full")):
            sums = [getattr(day, f"{column}_picousd") for day in days]
            expect(limit is None or max(sums, default=0) <= limit * PICO, f"{sums} {column}, the limit is {limit}")
        doubles, twice = sum(day.doubles for day in days), self.history.paid_twice(self.server)
        expect(doubles >= len(twice), f"{doubles} doubles in the account, paid for twice: {twice}")

    def _check_doubles(self) -> None:
        """Every job besides the one that is used is found while it runs, cancelled, and counted, once."""
        settings = self.plan.settings
        until = self.clock.now + CREATES_LATE_S + 2 * settings.sweep_s + self.plan.list_lag_s + 60.0
        self.clock.at(until, lambda: None)
        while self.clock.next_at is not None and self.clock.next_at <= until:
            self.clock.step()
        self.process.sweeps = False
        if self.history.restored:
            return
        counted = set(self.store.meta_record().doubled)
        jobs = self.server.jobs
        for name in counted:
            others = [job for job in jobs.values() if id_of(job) == id_of(jobs[name]) and job.name != name]
            used = jobs[name].known and not any(other.known for other in others) and "A3" not in self.plan.broken
            expect(not used or not jobs[name].cancelled, f"cancelled, though it is the one that is used: {jobs[name]}")
            expect(not used or any(other.name not in counted for other in others), f"not doubled at all: {jobs[name]}")
            made_twice = any(other.twin for other in (*others, jobs[name]))
            fine = made_twice or jobs[name].form == "inline" or not self.plan.assumptions_hold
            expect(fine, f"created twice as a file, although it could be revoked: {jobs[name]}")
        for process in self.processes:
            for _, name in process.seen_alive:
                if not jobs[name].known and not jobs[name].gone:
                    expect(name in counted, f"seen running, and not counted: {jobs[name]}")
                    expect(jobs[name].cancelled, f"seen running, and not cancelled: {jobs[name]}")
        for job in jobs.values():
            expect(job.gone or job.state != "PENDING", f"runs on: {job}")
        paid: dict[str, list[str]] = {}
        for job in jobs.values():
            if not job.gone and job.output is not None:
                paid.setdefault(id_of(job), []).append(job.name)
        for names in paid.values():
            found = len(counted.intersection(names))
            expect(found >= len(names) - 1, f"all of {names} are paid for, and {found} of them were counted as doubles")
        if not self.plan.crashes and not self.plan.rides:
            doubles = [process.engine.receipt().doubles for process in self.processes]
            expect(sum(doubles) == len(counted), f"receipts say {doubles}, doubled were {counted}")

    def _check_held(self) -> None:
        """What waited when the store was saved that was restored is not paid for again: what became of it is found."""
        if not self.history.restored or any(process.is_blind for process in self.processes):
            return
        if not self.plan.assumptions_hold or self.plan.settings.delete_remote:
            return
        paid: dict[str, set[str]] = {}
        for bill in self.server.bills:
            job = self.server.jobs[bill.job]
            if bill.good and bill.key in self._held_keys and job.known and not job.astray:
                paid.setdefault(bill.key, set()).add(job.display_name)
        jobs = list(self.server.jobs.values())
        for key, names in paid.items():
            if any(sum(id_of(job) == name.split(".")[2] for job in jobs) > 1 for name in names):
                continue  # of an unknown job's twins only one is read
            expect(len(names) == 1, f"{key} waited in the backup, and was paid for more than once: {sorted(names)}")

    def _check_expiry(self) -> None:
        """In the end everything goes but what was promised for ever: explicit keys that could not be sent."""
        settings = self.plan.settings
        gone_at = self.clock.now + settings.keep_results_s + settings.reuse_window_s + CLOCK_ERRORS_S
        self.clock.at(gone_at, self.process.wake)
        while self.clock.step():
            pass
        book = self.process.engine.book
        expect(not book.results, f"results for ever: {book.results}")
        expect(not book.handed, "handed over for ever")
        expect(not book.keys.all_kept(), "kept keys for ever")
        expect(not book.keys.abandoned, f"abandoned for ever: {book.keys.abandoned}")
        for segment in book.segments.values():
            for row, state in enumerate(segment.states):
                expect(state != PARKED or segment.flags[row] & EXPLICIT, f"parked for ever: {segment}")
        expect(not book.leaving, f"to leave for ever: {book.leaving}")
        expect(not book.deadlines, f"deadlines of nothing: {book.deadlines}")

    # -- records of somebody else

    def _plant_foreign_records(self) -> None:
        lane = Lane("generate", "theirs")
        ends = array("Q", [5]).tobytes()
        head = SegmentHead(
            no=1,
            lane=lane,
            origin=FOREIGN,
            accepted_at=START,
            keys=["theirs"],
            ends=ends,
            tokens=array("Q", [1]).tobytes(),
            flags=bytes((EXPLICIT,)),
            digests=bytes(16),
        )
        results = ResultsHead(
            no=1,
            origin=FOREIGN,
            lane=lane,
            job="batches/theirs",
            kept_at=START,
            places=[2 << 20],
            keys=["also-theirs"],
            digests=bytes(16),
            flags=bytes((EXPLICIT,)),
            failed=b"\0",
            ends=ends,
        )
        self.store.apply([PutSegment(head, [b"line\n"]), PutResults(results, [b"body\n"])])

    def _segment_head(self, no: int) -> SegmentHead:
        return next(record for record in self.store.load() if isinstance(record, SegmentHead) and record.no == no)

    def _foreign_records(self) -> list[object]:
        foreign = [
            record
            for record in self.store.load()
            if isinstance(record, SegmentHead | ResultsHead) and record.origin == FOREIGN
        ]
        return list(foreign)


def id_of(job: RemoteJob) -> str:
    """Return the id that its client gave a job."""
    return job.display_name.split(".")[2]


def simulate(seed: int, *, ladders: bool = True) -> World:
    """Run one seed; raise if a promise is broken, with the seed in the message.

    Args:
        seed: which.
        ladders: whether calls may take other routes than the batch route, as they do in many seeds.
    """
    world = World(seed, ladders=ladders)
    try:
        world.run()
    except Exception as error:
        error.add_note(f"seed {seed}: python -m tests.simulation --start {seed} --seeds 1")
        raise
    return world
