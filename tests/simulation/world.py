"""One seed from its first call to the last record's end: processes that come and go over one store and one server.

Owns the order of lives. A seed is right if nothing in it raises.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import Final

from carpool._core.messages import PutResults, PutSegment
from carpool._core.model import EXPLICIT, PARKED, QUEUED, Lane, ResultsHead, SegmentHead

from .clock import Clock
from .history import Call, History, Violation, expect
from .plan import HOUR, START, Ask, Crash, Plan
from .process import Process, Scene
from .server import Server
from .store import DurableStore

CLOCK_ERRORS_S: Final = 50 * HOUR
TURNS_MAX: Final = 150_000
FOREIGN: Final = "https://elsewhere#2"


class World:
    """Runs one seed."""

    def __init__(self, seed: int) -> None:
        self.plan = Plan(seed)
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

    def run(self) -> None:
        """Run the seed; raise if a promise is broken."""
        self._start_process(self.plan.asks)
        self._run_to_rest()
        # What was promised goes on in a process of which nobody asks anything.
        plan = self.plan
        self.process.when_dead = lambda: None
        self.process.die()
        healthy_at = max([self.clock.now, plan.faults_end, *(stop for _, stop in plan.outages + plan.lockouts)])
        self.clock.at(healthy_at, lambda: self._start_process([]))
        self._run_to_rest()
        self.history.check(self.server, assumptions_hold=plan.assumptions_hold, attempts_max=plan.settings.attempts_max)
        self._check_rest()
        self._check_expiry()
        expect(self._foreign_records() == self._foreign, "records of another origin were touched")

    @property
    def process(self) -> Process:
        """The process of now."""
        return self.processes[-1]

    # -- lives

    def _start_process(self, asks: list[Ask]) -> None:
        crash = self._crashes.pop(0) if self._crashes and asks else None
        process = Process(self._scene, crash)
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
        last = {call.ask.id: call for call in self.history.calls}
        asks: list[Ask] = []
        for ask in self.plan.asks:
            call = last.get(ask.id)
            if call is None or (call.ending in ("died", "closed") and ask.insists):
                ask.at = max(ask.at, back_at + self.plan.seconds(0.1, HOUR))
                asks.append(ask)
        self.clock.at(back_at, lambda: self._start_process(asks or [self._late_ask(back_at)]))

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
        expect((book.pacing.jobs, book.retries) == (0, {}), "jobs counted as running")
        for segment in book.segments.values():
            expect(segment.states.count(QUEUED) == 0, f"queued for ever: {segment}")
            expect(segment.states.count(PARKED), f"needed by nobody: {segment}")
            expect(segment.jobs == 0, f"held by no job: {segment}")
        mine = {no for no in self.store.segments if self._segment_head(no).origin != FOREIGN}
        expect(mine == book.segments.keys(), f"on disk {mine}, in memory {list(book.segments)}")
        results = {no for no in self.store.results if self.store.results_head(no).origin != FOREIGN}
        expect(results == book.results.keys(), f"on disk {results}, in memory {list(book.results)}")
        for place in book.keys.live.values():
            of, row = book.at(place)
            expect(of is not None and of.states[row] == PARKED, f"a live key of nothing: {place}")

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
        expect(not book.keys.kept, "kept keys for ever")
        expect(not book.keys.abandoned, f"abandoned for ever: {book.keys.abandoned}")
        for segment in book.segments.values():
            for row, state in enumerate(segment.states):
                expect(state != PARKED or segment.flags[row] & EXPLICIT, f"parked for ever: {segment}")
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


def simulate(seed: int) -> World:
    """Run one seed; raise if a promise is broken, with the seed in the message."""
    world = World(seed)
    try:
        world.run()
    except Exception as error:
        error.add_note(f"seed {seed}: python -m tests.simulation --start {seed} --seeds 1")
        raise
    return world
