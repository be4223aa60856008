"""One process of the user: the engine between callers, store and server, driven as the real loop drives it.

Owns the loop, and how the process ends: in order, or in any moment of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from carpool._core.engine import Engine
from carpool._core.messages import (
    Action,
    Answered,
    CancelRemote,
    Closing,
    Create,
    DeleteRemote,
    Deliver,
    Event,
    Expire,
    Fail,
    Fetch,
    Find,
    Forget,
    Found,
    Poll,
    PutJob,
    PutResults,
    PutSegment,
    Report,
    Revoke,
    Step,
    Sweep,
    Upload,
    Write,
)
from carpool._core.messages import (
    Call as LiveCall,
)
from carpool._core.model import EXPLICIT, ROW_BITS, Meta
from carpool._core.recovery import Recovery

from .callers import Callers
from .calls import FRAMING, Calls
from .clock import Clock
from .history import Call, History, Stored, expect
from .live_calls import LiveCalls
from .plan import Crash, Plan
from .server import Server
from .store import DurableStore

ORIGIN: Final = "https://here#1"
COMMIT_S: Final = 0.02
HEARD_S: Final = 1.0


class Scene(msgspec.Struct, frozen=True):
    """What outlives processes."""

    plan: Plan
    clock: Clock
    store: DurableStore
    server: Server
    history: History


class Process:
    """One life of the client."""

    def __init__(self, scene: Scene, crash: Crash | None, life: int) -> None:
        self.life = life
        self.plan = scene.plan
        self.clock = scene.clock
        self.store = scene.store
        self.server = scene.server
        self.history = scene.history
        self.crash = crash
        self.alive = True
        self.clock_error_s = self.plan.clock_error_s()
        self.when_dead: Callable[[], None] = lambda: None
        self.inbox: list[Event] = []
        self.after_turn: list[Callable[[], None]] = []
        self.callers = Callers(self)
        self.calls = Calls(self)
        self.live_calls = LiveCalls(self)
        self._booking: dict[int, list[int]] = {}
        """Bills of live answers that a commit under way puts into the account, by the commit."""
        self._pending: list[list[Write]] = []
        self._turning = False
        self._writing_turns = 0
        self._triggered = False
        self._woken = 0
        self.sweeps = True
        self.sweep_failed = False
        self.seen_alive: list[tuple[float, str]] = []
        """Jobs that a sweep showed running, and when."""
        self.engine = self._open()

    def _open(self) -> Engine:
        records = list(self.store.load())
        assert isinstance(records[0], Meta)
        recovery = Recovery(self.plan.settings, FRAMING, ORIGIN, records[0])
        for record in records:
            recovery.take(record)
        engine, step = recovery.finish(self.now)
        self.epoch = engine.book.epoch
        self._turning = True
        self.commit(step.writes, lambda: self._act_all(step.actions))
        return engine

    # -- life

    @property
    def now(self) -> float:
        """The time as this process sees it."""
        return self.clock.now + self.clock_error_s

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back after some seconds if the process is still there."""

        def call() -> None:
            if self.alive:
                callback()

        self.clock.after(delay_s, call)

    @property
    def is_blind(self) -> bool:
        """Whether it had to send what earlier processes left without seeing into each job that may hold it."""
        book = self.engine.book
        broken = any(job.stranger and job.stalled for job in book.jobs.values())
        return broken or (self.sweep_failed and book.census.blind)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way and nobody waits."""
        callers = self.callers
        busy = self.inbox or self._pending or self._turning or callers.awaiters or callers.reading
        return self.engine.idle and not busy

    def die(self) -> None:
        """End at once. Of the commits under way, some may have become durable unheard."""
        self.alive = False
        # What was heard just now may not have become durable.
        self.seen_alive = [(at, name) for at, name in self.seen_alive if at < self.clock.now - HEARD_S]
        while self._pending and self.plan.chance(0.5):
            self._make_durable(self._pending.pop(0))
        for call in self._open_calls():
            call.ending = "died"
        self.when_dead()

    def close(self) -> None:
        """Leave in order: what was promised is sent, the others are told."""
        self.crash = None
        self.inbox.append(Closing(send=self.plan.chance(0.7)))
        self.wake()
        self._leave_by(self.clock.now + self.plan.settings.close_timeout_s)

    def _leave_by(self, until: float) -> None:
        if self._turning or self.inbox or (self.engine.unsent and self.clock.now < until):
            self.later(0.5, lambda: self._leave_by(until))
            return
        self.alive = False
        assert not self._pending
        for call in self._open_calls():
            call.ending = "closed"
        self.when_dead()

    def _open_calls(self) -> list[Call]:
        return [call for call in self.history.calls if call.life == self.life and not call.ending]

    # -- how it ends

    def _end(self) -> None:
        """End as planned: in order, or at once."""
        if self.crash is not None and self.crash.clean:
            self.close()
        else:
            self.die()

    def _crashes_at(self, point: str) -> bool:
        return self.crash is not None and self.crash.point == point and self._triggered

    def _note_trigger(self, writes: list[Write]) -> None:
        """Notice when the turn has come in which the process is to end."""
        self._writing_turns += bool(writes)
        crash = self.crash
        if crash is None or self._triggered:
            return
        if crash.trigger:
            jobs = (write.job.state.value for write in writes if isinstance(write, PutJob))
            self._triggered = crash.trigger in {type(write).__name__ for write in writes} | set(jobs)
        else:
            self._triggered = self._writing_turns >= crash.turn
        if self._triggered and crash.point == "later":
            self.later(self.plan.seconds(0.01, 3_000), self._end)

    # -- the loop

    def wake(self) -> None:
        """Take a turn as soon as the last one is over."""
        if self._turning:
            return
        self._woken += 1
        mine = self._woken
        self.later(0.0, lambda: self._turn_if(mine))

    def _sleep(self) -> None:
        due = self.engine.next_wakeup()
        if self.inbox or self.engine.book.open or self.engine.book.step.writes:
            self.wake()
        elif due is not None:
            self._woken += 1
            mine = self._woken
            self.later(due - self.now, lambda: self._turn_if(mine))

    def _turn_if(self, mine: int) -> None:
        if mine == self._woken and not self._turning:
            self._turn()

    def _turn(self) -> None:
        self._turning = True
        events, self.inbox = self.inbox, []
        after, self.after_turn = self.after_turn, []
        step = self.step(events)
        writes, actions = step.writes, step.actions
        answered = [event.op for event in events if isinstance(event, Answered)]
        serials = [serial for op in answered for serial in self.live_calls.bills.pop(op, ())]
        if serials:
            expect(writes, "what a live call has cost is not written down")
            self._booking[id(writes)] = serials
        self._note_trigger(writes)
        if self._crashes_at("before_commit"):
            self._end()
            return
        self._finish_turn(writes, actions, after)
        if self._crashes_at("during_commit"):
            self.later(self.plan.rng.random() * COMMIT_S, self._end)

    def _finish_turn(self, writes: list[Write], actions: list[Action], after: list[Callable[[], None]]) -> None:
        def durable() -> None:
            if self._crashes_at("after_commit"):
                self._end()
                return
            self._act_all(actions)
            if self.alive:
                for callback in after:
                    callback()

        if writes or self._pending:
            self.commit(writes, durable)
        else:
            durable()

    def step(self, events: list[Event]) -> Step:
        """Tell the engine what came since its last step."""
        book = self.engine.book
        found = [event for event in events if isinstance(event, Found)]
        for event in found:
            looking = book.jobs.get(event.job)
            if looking is not None and looking.op == event.op and looking.wake_at is None:
                self.calls.note_look(event, looking)
        step = self.engine.turn(events, self.now)
        for event in found:
            named = [write.job.name for write in step.writes if isinstance(write, PutJob) and write.job.id == event.job]
            if named and len(event.remotes) > 1:
                others = [remote for remote in event.remotes if remote.name != named[-1]]
                cancelled = {action.name for action in step.actions if isinstance(action, CancelRemote)}
                expect(all(other.ended or other.name in cancelled for other in others), f"a twin goes on: {others}")
                expect(all(other.name in book.census.doubled for other in others), "a twin was not counted")
        return step

    # -- commits

    def commit(self, writes: list[Write], done: Callable[[], None]) -> None:
        """Write down; commits become durable in the order in which they were made."""
        self._pending.append(writes)

        def durable() -> None:
            while self._pending:
                mine = self._pending[0] is writes
                self._make_durable(self._pending.pop(0))
                if mine:
                    break
            done()

        self.later(self.plan.rng.random() * COMMIT_S, durable)

    def _make_durable(self, writes: list[Write]) -> None:
        self.store.apply(writes)
        for serial in self._booking.pop(id(writes), ()):
            self.server.live_bills[serial].booked = True
        for write in writes:
            match write:
                case PutSegment(head=head):
                    for key, flags in zip(head.keys, head.flags, strict=True):
                        if flags & EXPLICIT:
                            self.history.accepted[key] = self.history.accepted.get(key, 0) + 1
                case PutJob(job=job) if job.name:
                    self.server.jobs[job.name].known = True
                case PutResults(head=head, bodies=bodies):
                    self.history.stored += [
                        Stored(
                            key=head.keys[row],
                            explicit=bool(head.flags[row] & EXPLICIT),
                            failed=bool(head.failed[row]),
                            body=body,
                        )
                        for row, body in enumerate(bodies)
                    ]
                case _:
                    pass

    # -- actions

    def _act_all(self, actions: list[Action]) -> None:
        dies_at = self.plan.rng.randint(0, len(actions)) if self._crashes_at("among_actions") else -1
        for number, action in enumerate(actions):
            if number == dies_at:
                self._end()
                return
            self.act(action)
        if dies_at == len(actions):
            self._end()
            return
        self._turning = False
        reading, self.callers.reading = self.callers.reading, []
        for call in reading:
            self.callers.read_kept(call)
        self._sleep()

    def act(self, action: Action) -> None:
        """Do what the engine wants done."""
        match action:
            case Upload() | Create() | Find() | Revoke() | Poll() | Fetch():
                self.calls.ask(action)
            case LiveCall():
                self.live_calls.make(action)
            case Sweep():
                if self.sweeps:
                    self.calls.sweep(action)
            case CancelRemote(name=name):
                self.clock.after(0.1, lambda: self.server.cancel(name))
            case DeleteRemote(name=name):
                self.clock.after(0.1, lambda: self.server.delete(name))
            case Deliver():
                self.callers.deliver(action)
            case Fail():
                self.callers.fail(action)
            case Expire(place=place, deadline=deadline):
                self.callers.expire(place, deadline)
            case Forget(numbers=numbers):
                left = [place for place in self.callers.awaiters if place >> ROW_BITS in numbers]
                expect(not left, f"forgotten while awaited: {left}")
            case Report(event=event, count=count):
                self.history.reports[event] += count
            case _:
                assert_never(action)
