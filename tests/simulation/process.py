"""One process of the user: the engine between callers, store and server, driven as the real loop drives it.

Owns what dies with the process: inbox, awaiters, calls in the air. It checks what only the moment shows: that nothing is
done before it is durable, and that nothing is sent which nobody asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeAlias, assert_never

import msgspec

from carpool._core.engine import Engine, Reply
from carpool._core.keys import Claim
from carpool._core.messages import (
    Action,
    Broken,
    CallFailed,
    CancelRemote,
    Closing,
    Create,
    Created,
    DeleteRemote,
    Deliver,
    Event,
    Expire,
    Fail,
    Fetch,
    FetchEnded,
    Find,
    Flushed,
    Forget,
    Found,
    Poll,
    Polled,
    PutJob,
    PutResults,
    PutSegment,
    Report,
    Revoke,
    Revoked,
    RowsFetched,
    Step,
    Undelivered,
    Upload,
    Uploaded,
    Woken,
    Write,
)
from carpool._core.model import (
    EXPLICIT,
    PARKED,
    QUEUED,
    ROW_BITS,
    ROW_MASK,
    SENT,
    TICKET,
    Failure,
    Fault,
    Framing,
    Job,
    JobState,
    Meta,
    Place,
    RowFault,
    Tokens,
)
from carpool._core.recovery import Recovery

from .clock import Clock
from .history import Call, History, Stored, expect
from .plan import Crash, Plan
from .server import OutputRow, Server
from .store import DurableStore

ORIGIN = "https://here#1"
FRAMING = Framing(60, 12)
COMMIT_S = 0.02
TURN_S = 0.1
Question: TypeAlias = Upload | Create | Find | Revoke | Poll | Fetch


class Process:
    """One life of the client."""

    def __init__(
        self, plan: Plan, clock: Clock, store: DurableStore, server: Server, history: History, crash: Crash | None
    ) -> None:
        self.plan = plan
        self.clock = clock
        self.store = store
        self.server = server
        self.history = history
        self.crash = crash
        self.alive = True
        self.clock_error_s = plan.clock_error_s()
        self.when_dead: Callable[[], None] = lambda: None
        self.inbox: list[Event] = []
        self.awaiters: dict[Place, list[Call]] = {}
        self.reading: list[Call] = []
        self.asked_keys: set[str] = set()
        self._pending: list[list[Write]] = []
        self._after_turn: list[Callable[[], None]] = []
        self._turning = False
        self._writing_turns = 0
        self._triggered = False
        self._unreached: dict[str, float] = {}
        self._woken = 0
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
        self._commit(step.writes, lambda: self._act_all(step.actions))
        return engine

    # -- life

    @property
    def now(self) -> float:
        """The time as this process sees it."""
        return self.clock.now + self.clock_error_s

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back after some seconds if the process is still there."""
        self.clock.after(delay_s, lambda: self.alive and callback())

    def _end(self) -> None:
        """End as planned: in order, or at once."""
        if self.crash is not None and self.crash.clean:
            self.close()
        else:
            self.die()

    def die(self) -> None:
        """End at once. Of the commits under way, some may have become durable unheard."""
        self.alive = False
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
        return [call for call in self.history.calls if call.epoch == self.epoch and not call.ending]

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way and nobody waits."""
        return self.engine.idle and not (self.inbox or self._pending or self._turning or self.awaiters or self.reading)

    # -- callers

    def ask(self, call: Call) -> None:
        """Take a call in."""
        engine, ask, now = self.engine, call.ask, self.now
        self.history.calls.append(call)
        call.epoch, call.asked_at = self.epoch, now
        call.deadline = None if ask.deadline_s is None else now + ask.deadline_s
        digest = digest_of(ask.lane.kind, ask.lane.model, ask.prompt)
        if ask.looks_up and ask.key is not None:
            claim, place = engine.find(ask.key)
            if claim is Claim.NEW:
                call.ending = "unknown"
                return
        elif ask.key is not None:
            claim, place = engine.claim(ask.key, digest, now)
        elif engine.has_abandoned:
            claim, place = engine.adopt(digest, now)
        else:
            claim, place = Claim.NEW, 0
        call.place, call.joined = place, claim is not Claim.NEW
        match claim:
            case Claim.CONFLICT:
                call.ending = "conflict"
                return
            case Claim.KEPT:
                call.kept = True
                call.key = engine.book.results[place >> ROW_BITS].keys[place & ROW_MASK]
                self.reading.append(call)
            case Claim.LIVE if engine.is_stalled(place):
                call.ending = "failed"
                return
            case Claim.LIVE:
                call.key = engine.book.segments[place >> ROW_BITS].keys[place & ROW_MASK]
                self.awaiters.setdefault(place, []).append(call)
                if call.deadline is not None:
                    engine.set_deadline(place, call.deadline)
            case Claim.NEW:
                self._admit(call, digest)
        self.asked_keys.add(call.key)
        if ask.flushes:
            self.inbox.append(Flushed())
        if ask.cancel_after_s is not None and not ask.ticket:
            self.later(ask.cancel_after_s, lambda: self.cancel(call))
        self.wake()

    def _admit(self, call: Call, digest: bytes) -> None:
        ask = call.ask
        self._expect_nothing_to_adopt(call, digest)
        call.key = ask.key if ask.key is not None else self.engine.new_key(digest)
        flags = (EXPLICIT | (TICKET if ask.ticket else 0)) if ask.key is not None else 0
        line = f"{call.key}|{ask.prompt}|".encode().ljust(ask.size_bytes - 1, b".") + b"\n"
        tokens = 1 + len(line) // 8
        call.place = self.engine.admit(ask.lane, call.key, digest, line, tokens, flags, call.deadline, self.now)
        self.awaiters[call.place] = [call]
        if self.engine.spilled:
            writes: list[Write] = list(self.engine.spilled)
            self.engine.spilled.clear()
            self._commit(writes, lambda: None)

    def _expect_nothing_to_adopt(self, call: Call, digest: bytes) -> None:
        """A bare call is new only if nothing of an earlier process could be adopted."""
        if call.ask.key is not None:
            return
        for segment in self.engine.book.segments.values():
            age_s = self.now - segment.accepted_at
            for row, key in enumerate(segment.keys):
                earlier = key.startswith("a") and int(key.split(".")[1], 16) < self.epoch and row < len(segment.states)
                if earlier and segment.digest(row) == digest and age_s <= self.plan.settings.reuse_window_s:
                    place = segment.no << ROW_BITS | row
                    waiting = segment.states[row] in (PARKED, SENT) and place not in self.awaiters
                    expect(not waiting or self.engine.is_stalled(place), f"{key} was there to be adopted: {call}")

    def cancel(self, call: Call) -> None:
        """Cancel the caller."""
        if call.ending:
            return
        call.ending = "cancelled"
        if call in self.reading:
            self.reading.remove(call)
            self.engine.offer_again(call.place)
        else:
            self._let_go(call)
        self.wake()

    def _let_go(self, call: Call) -> None:
        waiting = self.awaiters.get(call.place, [])
        if call in waiting:
            waiting.remove(call)
        if not waiting:
            self.awaiters.pop(call.place, None)
            self._nobody_left(call)

    def _nobody_left(self, call: Call) -> None:
        self.engine.leave(call.place, self.now)
        expect(not self._is_needless(call.place), f"still queued, for nobody: {call}")
        if call.ask.key is not None:
            self.history.let_go.add(call.key)

    def _answer(self, call: Call, body: bytes, job: str) -> None:
        """Set a caller's future; now and then the caller is cancelled before it takes the answer."""
        if call.ask.cancel_after_s is not None and not call.ask.ticket and self.plan.chance(0.3):
            call.ending = "cancelled"
            if call.ask.key is None:
                digest = digest_of(call.ask.lane.kind, call.ask.lane.model, call.ask.prompt)
                self.inbox.append(Undelivered([(call.place, call.key, digest, body)], call.ask.lane, job))
            self.wake()
            return
        call.ending, call.body = "value", body
        late_s = 0.0 if call.deadline is None else self.now - call.deadline
        expect(late_s < TURN_S, f"an answer {late_s} s after its deadline: {call}")

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
            self.clock.at(due - self.clock_error_s, lambda: self.alive and self._turn_if(mine))

    def _turn_if(self, mine: int) -> None:
        if mine == self._woken and not self._turning:
            self._turn()

    def _turn(self) -> None:
        self._turning = True
        events, self.inbox = self.inbox, []
        after, self._after_turn = self._after_turn, []
        writes: list[Write] = []
        actions: list[Action] = []
        for event in (*events, Woken()):
            step = self.step(event)
            writes += step.writes
            actions += step.actions
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
            self._commit(writes, durable)
        else:
            durable()

    def step(self, event: Event) -> Step:
        """Tell the engine."""
        book = self.engine.book
        doubles = book.ledger.doubles
        step = self.engine.step(event, self.now)
        if isinstance(event, Found) and len(event.remotes) > 1:
            named = [write.job.name for write in step.writes if isinstance(write, PutJob) and write.job.id == event.job]
            if named:
                others = [remote for remote in event.remotes if remote.name != named[-1]]
                cancelled = {action.name for action in step.actions if isinstance(action, CancelRemote)}
                expect(all(other.ended or other.name in cancelled for other in others), f"a twin goes on: {others}")
                expect(book.ledger.doubles == doubles + len(others), "a twin was not counted")
        return step

    def _is_needless(self, place: Place) -> bool:
        """Return whether a request waits and only its awaiters want it."""
        segment, row = self.engine.book.at(place)
        if segment is None or segment.flags[row] & TICKET:
            return False
        return not segment.states or segment.states[row] == QUEUED

    def _crashes_at(self, point: str) -> bool:
        crash = self.crash
        return crash is not None and crash.point == point and self._triggered

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

    def _commit(self, writes: list[Write], done: Callable[[], None]) -> None:
        self._pending.append(writes)
        delay_s = self.plan.rng.random() * COMMIT_S

        def durable() -> None:
            # Commits become durable in the order in which they were made.
            while self._pending:
                mine = self._pending[0] is writes
                self._make_durable(self._pending.pop(0))
                if mine:
                    break
            done()

        self.later(delay_s, durable)

    def _make_durable(self, writes: list[Write]) -> None:
        self.store.apply(writes)
        for write in writes:
            match write:
                case PutSegment(head=head):
                    for key, flags in zip(head.keys, head.flags, strict=True):
                        if flags & EXPLICIT:
                            self.history.accepted[key] = self.history.accepted.get(key, 0) + 1
                case PutJob(job=job) if job.name:
                    self.server.jobs[job.name].known = True
                case PutResults(head=head, bodies=bodies):
                    for row, body in enumerate(bodies):
                        self.history.stored.append(
                            Stored(
                                key=head.keys[row],
                                explicit=bool(head.flags[row] & EXPLICIT),
                                failed=bool(head.failed[row]),
                                body=body,
                                at=self.clock.now,
                            )
                        )

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
        reading, self.reading = self.reading, []
        for call in reading:
            self._read_kept(call)
        self._sleep()

    def _read_kept(self, call: Call) -> None:
        body = self.store.result(call.place, ROW_BITS)
        head = self.engine.book.results[call.place >> ROW_BITS]
        if head.failed[call.place & ROW_MASK]:
            call.ending, call.failure = "failed", msgspec.json.decode(body, type=Failure)
            return
        call.ending, call.body = "value", body
        if call.ask.key is None:
            self.engine.took(call.place)

    # -- actions

    def act(self, action: Action) -> None:
        """Do what the engine wants done."""
        match action:
            case Upload() | Create() | Find() | Revoke() | Poll():
                self._put_question(action)
            case Fetch():
                self._fetch(action)
            case CancelRemote(name=name):
                self.clock.after(0.1, lambda: self.server.cancel(name))
            case DeleteRemote(name=name):
                self.clock.after(0.1, lambda: self.server.delete(name))
            case Deliver():
                self._deliver(action)
            case Fail():
                self._fail(action)
            case Expire(place=place, deadline=deadline):
                self._expire(place, deadline)
            case Forget(numbers=numbers):
                left = [place for place in self.awaiters if place >> ROW_BITS in numbers]
                expect(not left, f"forgotten while awaited: {left}")
            case Report(event=event, count=count):
                self.history.reports[event] += count
            case _:
                assert_never(action)

    def _put_question(self, action: Upload | Create | Find | Revoke | Poll) -> None:
        lines = self._lines(action) if isinstance(action, Upload | Create) else []
        delay_s = self.plan.seconds(0.01, 2)
        # Once sent, a call arrives whether or not its sender lives.
        self.clock.after(delay_s, lambda: self._arrive(action, lines))

    def _lines(self, action: Upload | Create) -> list[bytes]:
        """Read what is to be sent, and check that it may be."""
        job, store = action.job, self.store
        expect(job.id in store.jobs, f"{action} before the job is on record")
        durable = store.job(job.id)
        wanted = JobState.UPLOADING if isinstance(action, Upload) else JobState.CREATING
        expect(
            (durable.state, durable.attempt, durable.spans) == (wanted, job.attempt, job.spans),
            f"{action} before it is on record: {durable}",
        )
        lines = store.lines(job.spans)
        expect(len(lines) == job.count, f"{len(lines)} rows for {job}")
        expect(sum(map(len, lines)) == job.line_bytes, f"wrong size: {job}")
        self._expect_asked_for(job)
        limit = self.plan.settings.inline_bytes_max
        size = (
            FRAMING.inline_envelope_bytes
            + len(job.display_name)
            + job.line_bytes
            + FRAMING.inline_row_bytes * job.count
        )
        expect(job.form == "file" or size < limit, f"{size} bytes inline")
        one = job.count == 1
        expect(one or job.line_bytes <= self.plan.settings.file_bytes_max, f"a file of {job.line_bytes} bytes")
        expect(job.count <= self.plan.settings.batch_requests_max, f"{job.count} rows in a batch")
        self._expect_within_limits()
        return lines

    def _expect_within_limits(self) -> None:
        if self.epoch > 1:
            return  # jobs of earlier processes go on whatever the limits are now
        s, jobs = self.plan.settings, [job for job in self.engine.book.jobs.values() if not job.stalled]
        expect(len(jobs) <= s.jobs_max, f"{len(jobs)} jobs at once")
        for model in sorted({job.lane.model for job in jobs}):
            tokens = [job.tokens for job in jobs if job.lane.model == model]
            fits = s.enqueued_tokens_max is None or sum(tokens) <= s.enqueued_tokens_max
            expect(fits or len(tokens) == 1, f"{tokens} tokens enqueued for {model}")

    def _expect_asked_for(self, job: Job) -> None:
        """No request of an earlier process is sent unless it was asked for again, or has a key of its own."""
        for no, start, stop in job.spans:
            segment = self.engine.book.segments[no]
            for row in range(start, stop):
                key = segment.keys[row]
                if not segment.flags[row] & EXPLICIT and int(key.split(".")[1], 16) < self.epoch:
                    expect(key in self.asked_keys, f"sent unasked after a crash: {key} in {job}")

    def _arrive(self, action: Upload | Create | Find | Revoke | Poll, lines: list[bytes]) -> None:
        job, server = action.job, self.server
        event: Reply
        match action:
            case Upload():
                file = server.upload(job.file_name, lines)
                event = self._failed(action, file) if isinstance(file, Fault) else Uploaded(job.id, action.op, file)
            case Create():
                name = server.create(job.display_name, job.form, job.file_name, lines)
                event = self._failed(action, name) if isinstance(name, Fault) else Created(job.id, action.op, name)
            case Find():
                found = server.find(job.display_name)
                event = self._failed(action, found) if isinstance(found, Fault) else Found(job.id, action.op, found)
            case Revoke():
                fault = server.delete(job.file_name)
                event = self._failed(action, fault) if fault is not None else Revoked(job.id, action.op)
            case Poll():
                remote = server.poll(job.name)
                event = self._failed(action, remote) if isinstance(remote, Fault) else Polled(job.id, action.op, remote)
            case _:
                assert_never(action)
        if self.plan.chance(self.plan.bug_odds) and self.clock.now < self.plan.faults_end:
            event = Broken(job.id, action.op, "a bug")
        self.later(self.plan.seconds(0.01, 100 if isinstance(event, CallFailed) else 2), lambda: self._hear(event))

    def _failed(self, action: Question, fault: Fault) -> CallFailed:
        return CallFailed(action.job.id, action.op, fault)

    def _hear(self, event: Reply) -> None:
        self.inbox.append(event)
        self._expect_patience(event)
        if self.plan.call_fault_odds and self.plan.chance(0.02):
            # A reply that comes a second time, long after: nobody asks any more.
            self.later(self.plan.seconds(1, 600), lambda: (self.inbox.append(event), self.wake()))
        self.wake()

    def _expect_patience(self, event: Reply) -> None:
        """Nobody waits for ever for a server that cannot be reached."""
        if isinstance(event, CallFailed) and event.fault.kind == "not_sent":
            since = self._unreached.setdefault(event.job, self.now)
            job = self.engine.book.jobs.get(event.job)
            if job is not None and job.state in (JobState.UPLOADING, JobState.CREATING):
                s = self.plan.settings
                expect(self.now - since < s.unreachable_s + 2 * s.retry_max_s + 200, f"nobody is told: {job}")
        else:
            self._unreached.pop(event.job, None)

    # -- output

    def _fetch(self, action: Fetch) -> None:
        index = self.engine.fetch_index(action.job.id)
        reply: list[tuple[list[list[OutputRow]], Fault | None]] = []

        def arrive() -> None:
            reply.append(self.server.fetch(action.job.name))
            blocks, fault = reply[0]
            self._read_block(action, index, blocks, fault, 0)

        self.later(self.plan.seconds(0.01, 2), arrive)

    def _read_block(
        self, action: Fetch, index: dict[str, Place], blocks: list[list[OutputRow]], fault: Fault | None, unknown: int
    ) -> None:
        """Sort a block, wait until it is settled, then read the next."""
        job, op = action.job, action.op
        if not blocks:
            self._hear(CallFailed(job.id, op, fault) if fault is not None else FetchEnded(job.id, op, unknown))
            return
        event, strangers = self._sort(action, index, blocks[0])
        self.inbox.append(event)

        def settled() -> None:
            rest, more = blocks[1:], unknown + strangers
            self.later(self.plan.seconds(0.001, 1), lambda: self._read_block(action, index, rest, fault, more))

        self._after_turn.append(settled)
        self.wake()

    def _sort(self, action: Fetch, index: dict[str, Place], rows: list[OutputRow]) -> tuple[RowsFetched, int]:
        delivered: list[Place] = []
        kept: list[tuple[Place, bytes]] = []
        failed: list[RowFault] = []
        strangers = 0
        for row in rows:
            place = index.pop(row.key, -1) if row.readable else -1
            if place < 0:
                strangers += 1
                continue
            if row.error is not None:
                failed.append(RowFault(place, row.error))
                continue
            waiting = self.awaiters.get(place, [])
            if len(waiting) == 1 and waiting[0].ask.key is None and not waiting[0].joined:
                del self.awaiters[place]
                delivered.append(place)
                self._answer(waiting[0], row.body, action.job.name)
            else:
                kept.append((place, row.body))
        answers = len(delivered) + len(kept)
        tokens = Tokens(answers, 0, answers, answers)
        return RowsFetched(action.job.id, action.op, delivered, kept, failed, tokens), strangers

    def _deliver(self, action: Deliver) -> None:
        stored = {body for _, bodies in self.store.results.values() for body in bodies}
        for place, body in action.rows:
            for call in self.awaiters.pop(place, []):
                expect(body in stored, f"delivered before it is stored: {body!r}")
                self._answer(call, body, action.job)

    def _fail(self, action: Fail) -> None:
        given_back = action.failure.kind in ("credentials", "unreachable")
        body = msgspec.json.encode(action.failure)
        stored = {
            key
            for no, (_, bodies) in self.store.results.items()
            for key, stored_body in zip(self.store.results_head(no).keys, bodies, strict=True)
            if stored_body == body
        }
        for place, key in zip(action.places, action.keys, strict=True):
            given_back = given_back or self.engine.is_stalled(place)
            for call in self.awaiters.pop(place, []):
                expect(call.key == key, f"told of {key}: {call}")
                explicit = call.ask.key is not None
                expect(not explicit or given_back or call.key in stored, f"told a verdict before it is stored: {call}")
                call.ending, call.failure = "failed", action.failure

    def _expire(self, place: Place, deadline: float) -> None:
        waiting = self.awaiters.get(place)
        if waiting is None:
            return
        for call in list(waiting):
            if call.deadline is not None and call.deadline <= deadline:
                expect(self.now - call.deadline < TURN_S, f"told of its deadline too late: {call}")
                call.ending = "expired"
                waiting.remove(call)
                if not waiting:
                    del self.awaiters[place]
                    self._nobody_left(call)
                    self.wake()


def digest_of(kind: str, model: str, prompt: str) -> bytes:
    """Return what tells a request from others."""
    return hashlib.sha256(f"{kind}/{model}/{prompt}".encode()).digest()[:16]
