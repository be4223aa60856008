"""One seed: the engine between callers and a service, under virtual time, and what it must have kept.

Owns the loop, the account of what was paid, and the checks. There are no crashes here: those are for
``tests/simulation``.

Which missed deadlines are excused is for ``excuse``. Misses of requests that ``max_double_cost_per_day_usd`` kept in
their job or call (the caller has forbidden the lower rungs) are counted apart, and must carry that reason.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import TypeVar

import msgspec

from carpool._core.live import Trip
from carpool._core.messages import (
    Action,
    Answered,
    Call,
    CancelRemote,
    Create,
    Created,
    Deliver,
    Event,
    Expire,
    Fail,
    Fetch,
    FetchEnded,
    Poll,
    Polled,
    Refused,
    RowsFetched,
    Sweep,
    Swept,
    Upload,
    Uploaded,
    Woken,
)
from carpool._core.meter import NO_CHARGE, Charge
from carpool._core.model import SENT, Fault, Framing, Job, Lane, Meta, RemoteFile
from carpool._core.recovery import Recovery
from carpool._core.routing import code_of
from carpool.settings import Route, Settings
from carpool.types import BatchJob, ServerError

from .asked import NEVER, Asked, load
from .excuse import Known, accepted_work
from .policy import clairvoyant
from .scenarios import DAY, HORIZON_S, USUAL_PRICE, Scenario, scenario_of
from .service import MODELS, START, TOKENS_IN, TOKENS_OUT, Fate, Service

T = TypeVar("T")


class Remote(msgspec.Struct):
    """A job on the server."""

    fate: Fate
    numbers: list[int]
    cancelled: bool = False


class Result(msgspec.Struct, kw_only=True):
    """What a seed came to."""

    scenario: str
    seed: int
    price_scale: int = 1
    """By how much its prices are above those of the other scenarios."""
    requests: int = 0
    timed: int = 0
    in_time: int = 0
    excused: int = 0
    slow: int = 0
    """Of those: a live call of theirs was accepted, and took longer than was left."""
    unexcused: int = 0
    held_back: int = 0
    failed: int = 0
    doubles: int = 0
    """As the ledger counts them."""
    paid_twice: int = 0
    """Answers that were paid for beyond the first of each request."""
    paid: int = 0
    """Pico-dollars, by the service's log."""
    clairvoyant: int = 0
    clairvoyant_missed: int = 0
    owed: int = 0
    """What is paid, and for each miss the full price: to be late must not look cheap."""
    clairvoyant_owed: int = 0
    routes: dict[str, int] = msgspec.field(default_factory=dict)
    """Paid answers by route."""


class World:
    """One seed."""

    def __init__(self, seed: int, scenario: Scenario | None = None) -> None:
        self.seed = seed
        self.scenario = scenario or scenario_of(seed)
        self.service = Service(self.scenario, str(seed))
        self.known = Known()
        self.asked = load(self.scenario, Random(f"{seed}/load"))
        self._open = len(self.asked)
        self.by_place: dict[int, Asked] = {}
        self.now = START
        self.settings = Settings(sweep_s=7 * DAY, prices=dict.fromkeys(MODELS, self.scenario.price), jobs_max=1_000)
        recovery = Recovery(self.settings, Framing(100, 20), "https://here#1", Meta(store_id="abcd1234"))
        self.engine, step = recovery.finish(self.now)
        self.remotes: dict[str, Remote] = {}
        self.billed: Counter[tuple[int, Route]] = Counter()
        self.misses: list[tuple[Asked, bool]] = []
        self.faults: list[str] = []
        self._numbers = count(1)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._due = NEVER
        for action in step.actions:
            self._act(action)

    # -- the loop

    def run(self) -> World:
        """Let everything happen, and check the end."""
        for asked in self.asked:
            self._at(asked.at, lambda asked=asked: self._admit(asked))
        while self._agenda and self.now < START + HORIZON_S + 30 * DAY:
            self.now, _, callback = heapq.heappop(self._agenda)
            callback()
        self._check_end()
        return self

    def _at(self, at: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (max(at, self.now), next(self._numbers), callback))

    def _tell(self, event: Event) -> None:
        step = self.engine.step(event, self.now)
        self.known.note(self.now, self.engine.book.durations)
        for action in step.actions:
            if isinstance(action, Call):
                self._check_call(action)
            self._act(action)
        due = self.engine.next_wakeup()
        if due is not None and self._open:
            self._due = max(due, self.now)
            self._at(self._due, lambda due=self._due: self._tell(Woken()) if due == self._due else None)

    def _admit(self, asked: Asked) -> None:
        lane = Lane("embed" if asked.kind == "embed" else "generate", asked.model)
        digest = f"{asked.number:016d}".encode()
        line = b"x" * 200 + b"\n"
        deadline = None if asked.deadline == NEVER else asked.deadline
        asked.place = self.engine.admit(
            lane, self.engine.new_key(digest), digest, line, TOKENS_IN, 0, deadline, self.now, code_of(asked.ladder), 0
        )
        self.by_place[asked.place] = asked
        self._at(self.now, lambda: self._tell(Woken()))

    # -- what the engine wants done

    def _act(self, action: Action) -> None:
        match action:
            case Upload(job=job, op=op):
                self._at(self.now + 3, lambda: self._tell(Uploaded(job.id, op, RemoteFile(name=job.file_name))))
            case Create(job=job, op=op):
                self._at(self.now + 0.5, lambda: self._create(job, op))
            case Poll(job=job, op=op):
                self._at(self.now + 0.2, lambda: self._tell(Polled(job.id, op, self._shown(job.name))))
            case Fetch(job=job, op=op):
                self._at(self.now + 0.5, lambda: self._fetch(job, op))
            case Call():
                self._at(self.now + 0.1, lambda: self._call(action))
            case Sweep(op=op):
                self._at(self.now + 0.2, lambda: self._tell(Swept(op, [])))
            case CancelRemote(name=name):
                remote = self.remotes[name]
                if self.now < remote.fate.ends_at:
                    remote.cancelled = True
            case Fail(places=places, failure=failure):
                for place in places:
                    self._end(self.by_place[place], failure.kind)
            case Expire(place=place):
                self._expire(self.by_place[place])
            case Deliver():
                pass  # stored answers of requests whose callers have left
            case _:
                pass

    def _create(self, job: Job, op: int) -> None:
        name = f"batches/{len(self.remotes) + 1}"
        places = (no << 20 | row for no, start, stop in job.spans for row in range(start, stop))
        self.remotes[name] = Remote(
            self.service.fate(job.lane.model, self.now), [self.by_place[place].number for place in places]
        )
        self._tell(Created(job.id, op, name))

    def _shown(self, name: str) -> BatchJob:
        remote = self.remotes[name]
        if remote.cancelled:
            return BatchJob(name=name, state="CANCELLED", error=ServerError(code=13))
        if self.now < remote.fate.ends_at:
            return BatchJob(name=name, state="RUNNING")
        error = None if remote.fate.kind == "SUCCEEDED" else ServerError(code=13, message="internal")
        return BatchJob(name=name, state=remote.fate.kind, inline_output=error is None, error=error)

    def _fetch(self, job: Job, op: int) -> None:
        index = self.engine.fetch_index(job.id)
        delivered = [place for place in index.values() if not self.by_place[place].ending]
        kept = [(place, b"{}") for place in index.values() if self.by_place[place].ending]
        answers = len(index)
        again = len(self.remotes[job.name].numbers) - answers
        for place in delivered:
            self._end(self.by_place[place], "value", "batch")
        charge, repeated = self._charge("batch", job.lane, answers), self._charge("batch", job.lane, again)
        self._tell(RowsFetched(job.id, op, delivered, kept, [], charge, again=repeated))
        self._tell(FetchEnded(job.id, op))

    def _charge(self, route: Route, lane: Lane, answers: int) -> Charge:
        rate = self.engine.book.ledger.rate(lane.model)
        assert rate is not None
        if not answers:
            return NO_CHARGE
        output = TOKENS_OUT * answers if lane.kind == "generate" else 0
        cost = rate.plain(route, TOKENS_IN * answers, output)
        return Charge(
            answers=answers,
            prompt=TOKENS_IN * answers,
            output=output,
            list_picousd=cost.list_picousd,
            paid_picousd=cost.paid_picousd,
            outputs=(TOKENS_OUT,) * min(16, answers) if output else (),
        )

    def _call(self, call: Call) -> None:
        route, model = call.route, call.lane.model
        if self.service.is_used_up(route, model, self.now):
            self._refuse(call, ServerError(429, "Quota exceeded for requests per minute", "RESOURCE_EXHAUSTED"))
        elif self.service.refuses(route, model, self.now):
            asks_s = self.service.asks_s(route, model, self.now)
            self.known.note_asked(self.now, model, route, self.now + asks_s)
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{asks_s:.3f}s"}]
            self._refuse(call, ServerError(503, "The model is overloaded.", "UNAVAILABLE", details if asks_s else []))
        else:
            numbers = [self.by_place[place].number for place in call.places]
            for number in numbers:
                self.service.took(route, model, self.now)
                self.billed[number, route] += 1
            takes_s = max(
                self.service.takes_s(route, number, self.now, shares=call.lane.kind == "embed") for number in numbers
            )
            ends_at = self.now + takes_s
            for place in call.places:
                self.by_place[place].took_s[route] = takes_s
            if ends_at < call.deadline + 1.0:
                self._at(ends_at, lambda: self._answer(call))
            else:
                lost = Fault(kind="unknown", error=ServerError(message="timed out"))
                self._at(call.deadline + 1.0, lambda: self._tell(Refused(call.op, lost)))

    def _refuse(self, call: Call, error: ServerError) -> None:
        self._at(self.now + 0.2, lambda: self._tell(Refused(call.op, Fault(kind="refused", error=error))))

    def _answer(self, call: Call) -> None:
        book = self.engine.book
        flight = book.live.flights[call.op]
        places = [trip.place for trip in flight.trips if book.is_open(trip.place)]
        delivered = [place for place in places if not self.by_place[place].ending]
        kept = [(place, b"{}") for place in places if self.by_place[place].ending]
        for place in delivered:
            self._end(self.by_place[place], "value", call.route)
        charge = self._charge(call.route, call.lane, len(call.places))
        self._tell(Answered(call.op, delivered, kept, [], charge))

    # -- endings

    def _end(self, asked: Asked, ending: str, route: str = "") -> None:
        if asked.ending:
            self.faults.append(f"request {asked.number} ended as {asked.ending} and as {ending}")
        self._open -= not asked.ending
        asked.ending, asked.ended_at, asked.route = ending, self.now, route

    def _expire(self, asked: Asked) -> None:
        if asked.ending:
            return
        book = self.engine.book
        asked.held_back = asked.place in book.held_back
        self._end(asked, "expired")
        self.misses.append((asked, self._is_excused(asked)))
        self.engine.leave(asked.place, self.now)
        self._at(self.now, lambda: self._tell(Woken()))

    def _is_excused(self, asked: Asked) -> bool:
        trip = self.engine.book.live.trips.get(asked.place)
        return accepted_work(self.service, self.known, asked, trip) is None

    # -- checks

    def _check_call(self, call: Call) -> None:
        """Nearest deadline first; a job of nobody was cancelled before; doubles keep below their ceiling."""
        book = self.engine.book
        trips = book.live.flights[call.op].trips
        latest = max(trip.deadline for trip in trips)
        waiting = (
            trip
            for trip in book.live.trips.values()
            if trip.ready and (trip.route, trip.lane) == (call.route, call.lane)
        )
        if any(trip.deadline < latest for trip in waiting):
            self.faults.append(f"a call with a later deadline went first: {call}")
        for trip in trips:
            self._check_haste(trip)
            segment, row = book.at(trip.place)
            if trip.besides and segment is not None and segment.states[row] == SENT:
                self._check_job(book.job_of(trip.place))
        if any(trip.besides for trip in trips):
            self._check_ceiling(call)

    def _check_haste(self, trip: Trip) -> None:
        """The full price is not paid before the last reserve of flex, which costs half."""
        asked, durations = self.by_place[trip.place], self.engine.book.durations
        if trip.route == "standard" and "flex" in asked.ladder and trip.entered_at == self.now:
            left_s = asked.deadline - self.now
            if NEVER > left_s > durations.own_s(asked.model, asked.ladder, asked.ladder.index("flex")):
                self.faults.append(f"request {asked.number} went to standard with {left_s:.0f} s left")

    def _check_job(self, job: Job) -> None:
        book = self.engine.book
        # Who missed a deadline may still ask for the answer: it is a reason for the job to go on.
        waits = any(
            place not in book.live.trips and self.by_place[place].ending in {"", "expired"}
            for place in book.sent_in(job)
        )
        remote = self.remotes.get(job.name)
        if not waits and remote is not None and not remote.cancelled and self.now < remote.fate.ends_at:
            self.faults.append(f"{job.name} goes on although nobody waits for it")

    def _check_ceiling(self, call: Call) -> None:
        room = self.engine.book.ledger.budget.room_picousd(self.now, call.route, double=True)
        overrun = self.engine.receipt().overrun_usd
        if room is not None and room < 0 and not overrun:
            self.faults.append(f"doubles went beyond their ceiling by {-room}")

    def _check_end(self) -> None:
        for asked in self.asked:
            if not asked.ending:
                self.faults.append(f"request {asked.number} did not end: {asked}")
        for remote in self.remotes.values():
            if remote.fate.kind == "SUCCEEDED" and not remote.cancelled:
                for number in remote.numbers:
                    self.billed[number, "batch"] += 1
        paid_twice = sum(times - 1 for times in self._times.values() if times > 1)
        if paid_twice > self.engine.receipt().doubles:
            self.faults.append(
                f"{paid_twice} answers were paid for twice, the ledger says {self.engine.receipt().doubles}"
            )

    @property
    def _times(self) -> Counter[int]:
        times: Counter[int] = Counter()
        for (number, _), paid in self.billed.items():
            times[number] += paid
        return times

    def _picousd(self, asked: Asked, route: Route) -> int:
        rate = self.engine.book.ledger.rate(asked.model)
        assert rate is not None
        return rate.plain(route, TOKENS_IN, TOKENS_OUT if asked.kind == "generate" else 0).paid_picousd

    def result(self) -> Result:
        """Return what the seed came to."""
        result = Result(scenario=self.scenario.name, seed=self.seed, requests=len(self.asked))
        result.price_scale = int(self.scenario.price.input_usd / USUAL_PRICE.input_usd)
        result.timed = sum(asked.deadline < NEVER for asked in self.asked)
        result.in_time = sum(asked.ending == "value" for asked in self.asked if asked.deadline < NEVER)
        for asked, excused in self.misses:
            if asked.held_back:
                result.held_back += 1
            elif excused:
                result.excused += 1
                result.slow += bool(asked.took_s)
            else:
                result.unexcused += 1
        result.failed = sum(asked.ending not in {"value", "expired"} for asked in self.asked)
        result.doubles = self.engine.receipt().doubles
        result.paid_twice = sum(times - 1 for times in self._times.values() if times > 1)
        for (number, route), times in self.billed.items():
            result.paid += times * self._picousd(self.asked[number], route)
            result.routes[route] = result.routes.get(route, 0) + times
        result.owed = result.paid + sum(self._picousd(asked, "standard") for asked, _ in self.misses)
        for asked in self.asked:
            played = clairvoyant(self.service, asked.number, asked.model, asked.ladder, asked.at, asked.deadline)
            paid = played.halves * self._picousd(asked, "batch")
            missed = played.ended_at > asked.deadline
            result.clairvoyant += paid
            result.clairvoyant_missed += missed
            result.clairvoyant_owed += paid + missed * self._picousd(asked, "standard")
        return result


def simulate(seed: int) -> Result:
    """Run a seed.

    Raises:
        AssertionError: it broke a promise.
    """
    world = World(seed).run()
    assert not world.faults, f"seed {seed} ({world.scenario.name}): " + "; ".join(world.faults[:5])
    return world.result()
