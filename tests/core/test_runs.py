"""Answers in runs: what becomes of rows is the same whether they are settled together or one by one."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.calls import in_runs

from carpool._core.messages import Answered, Call, Deliver, PutResults, RowsFetched, Step
from carpool._core.meter import Charge
from carpool._core.model import EXPLICIT, ROW_BITS, ROW_MASK, Place
from carpool._core.output import Run
from carpool._core.routing import Durations
from carpool.settings import CHEAP, Price

from .desk import LANE, Desk, every, only

PRICES = {LANE.model: Price(input_usd=Decimal("0.30"), output_usd=Decimal("2.50"))}
BELOW_S = Durations().reserve_s(LANE.model, CHEAP, 0)


def told_in_runs(desk: Desk, delivered: Iterable[Place], kept: Iterable[Place]) -> Step:
    rows = [(place, b"%x" % place) for place in kept]
    event = RowsFetched(desk.job.id, desk.job.op, list(delivered), rows, [], Charge(answers=1))
    return desk.tell(in_runs(event))


def told_one_by_one(desk: Desk, delivered: Iterable[Place], kept: Iterable[Place]) -> Step:
    rows = [(place, b"%x" % place) for place in kept]
    return desk.tell(RowsFetched(desk.job.id, desk.job.op, list(delivered), rows, [], Charge(answers=1)))


def state_of(desk: Desk) -> dict[str, Any]:
    book = desk.engine.book
    return {
        "segments": {
            no: (bytes(one.states), bytes(one.flags), bytes(one.attempts), one.open_rows)
            for no, one in book.segments.items()
        },
        "results": {no: msgspec.structs.asdict(head) for no, head in book.results.items()},
        "keys": (dict(book.keys.all_live()), dict(book.keys.all_kept()), book.keys.abandoned),
        "handed": book.handed,
        "held_back": book.held_back,
        "overtaken": book.overtaken,
        "trips": set(book.live.trips),
        "answered": book.answered,
        "waiting": (book.waiting_requests, book.waiting_bytes),
    }


def pairs(actions: Iterable[object]) -> list[tuple[Place, bytes]]:
    """Return what is delivered, in whatever form."""
    found: list[tuple[Place, bytes]] = []
    for deliver in every(list(actions), Deliver):
        found += deliver.rows
        for run in deliver.runs:
            found += zip(run.places, run.bodies or (), strict=True)
    return sorted(found)


def written(step: Step) -> list[tuple[Place, str, bytes]]:
    return sorted(
        row
        for write in every(step.writes, PutResults)
        for row in zip(write.head.places, write.head.keys, write.bodies, strict=True)
    )


CALLERS = st.lists(st.sampled_from(["waits", "left", "key", "ticket", "left key"]), min_size=1, max_size=12)


@given(CALLERS, st.data())
def test_runs_end_as_rows_one_by_one_do(callers: list[str], data: st.DataObject) -> None:
    desks = [Desk(), Desk()]
    for desk in desks:
        places = []
        for number, caller in enumerate(callers):
            key = None if caller in ("waits", "left") else f"k{number}"
            places.append(desk.admit(f"p{number}", key=key, ticket=caller == "ticket"))
        desk.wait()
        desk.created()
        desk.wake()
        desk.polled()
        for caller, place in zip(callers, places, strict=True):
            if caller.startswith("left"):
                desk.engine.leave(place, desk.now)
    came = [place for place in places if data.draw(st.booleans(), label="came")]
    straight = [place for place in came if not desks[0].engine.book.at(place)[0].flags[place & 0xFFFFF] & EXPLICIT]  # type: ignore[union-attr]
    cut = data.draw(st.integers(0, len(straight)), label="stored although automatic from")
    stored = sorted({*came} - {*straight[:cut]})
    one_by_one = told_one_by_one(desks[0], straight[:cut], stored)
    together = told_in_runs(desks[1], straight[:cut], stored)
    assert written(together) == written(one_by_one)
    assert pairs(together.actions) == pairs(one_by_one.actions)
    before, after = state_of(desks[0]), state_of(desks[1])
    order = {place: at for at, place in enumerate(sorted(stored))}
    if order:  # rows of a record may stand in another order
        assert before.pop("results").keys() == after.pop("results").keys()
        heads = [only(step.writes, PutResults).head for step in (one_by_one, together)]
        columns = [
            sorted(zip(head.places, head.keys, head.flags, head.failed, chunks(head.digests), strict=True))
            for head in heads
        ]
        assert columns[0] == columns[1]
        for state, head in zip((before, after), heads, strict=True):
            live, kept, abandoned = state["keys"]
            assert all(head.places[place & 0xFFFFF] == by_key(desks[0], key) for key, place in kept.items())
            offers = {digest: str(waiting).count("kept=True") for digest, waiting in abandoned.items()}
            offers |= {digest + b"live": str(waiting).count("kept=False") for digest, waiting in abandoned.items()}
            state["keys"] = (live, kept.keys(), offers)
            state["handed"] = state["handed"].keys()
    assert after == before
    ends = [desk.ended() for desk in desks]
    assert every(ends[1].writes, object) == every(ends[0].writes, object)


def chunks(digests: bytes) -> list[bytes]:
    return [digests[at : at + 16] for at in range(0, len(digests), 16)]


def by_key(desk: Desk, key: str) -> Place:
    [place] = [
        no << 20 | row
        for no, segment in desk.engine.book.segments.items()
        for row, name in enumerate(segment.keys)
        if name == key
    ]
    return place


def test_a_run_is_stored_in_one_record_and_delivered_as_it_came() -> None:
    desk = Desk()
    places = desk.fetching("a", "b", "c", key=None)
    assert places[2] - places[0] == 2
    step = desk.tell(
        RowsFetched(desk.job.id, desk.job.op, [], [], [], Charge(answers=3), runs=[Run(places[0] >> 20, 0, 3)])
    )
    assert (step.writes, step.actions) == ([], [])
    assert desk.engine.stats().answered == 3
    assert desk.engine.book.segments[places[0] >> 20].open_rows == 0
    desk.ended()
    assert (desk.jobs, desk.disk.segments) == ([], {})


def test_a_run_settles_nothing_that_was_settled_since_it_was_sorted() -> None:
    desk = Desk()
    places = desk.fetching("a", "b", "c")
    desk.fetched(places[1])
    run = Run(places[0] >> 20, 0, 3)
    desk.tell(RowsFetched(desk.job.id, desk.job.op, [], [], [], Charge(answers=2), runs=[run]))
    assert desk.engine.stats().answered == 3
    assert desk.engine.book.segments[places[0] >> 20].open_rows == 0


def doubled() -> tuple[Desk, Place, list[Place]]:
    """Return a request in a job that is being read, and in a live call; and others of that job."""
    desk = Desk(prices=PRICES)
    place = desk.admit("p", ladder=CHEAP, deadline=desk.now + 7 * 3_600.0)
    others = [desk.admit(f"p{number}") for number in range(3)]
    desk.wait()
    desk.created()
    step = desk.wait(7 * 3_600.0 - BELOW_S)
    assert only(step.actions, Call).places == [place]
    desk.polled()
    return desk, place, others


def test_rows_on_a_live_route_too_leave_it_when_their_job_answers() -> None:
    desk, place, others = doubled()
    step = told_in_runs(desk, [place, *others], [])
    assert step.actions == []
    assert desk.engine.stats().answered == 4
    assert desk.engine.book.live.trips == {}


def test_what_is_on_a_live_route_does_not_matter_to_the_answers_of_others() -> None:
    desk, place, others = doubled()
    desk.engine.book.held_back[place] = "why"
    run = Run(others[0] >> ROW_BITS, others[0] & ROW_MASK, (others[-1] & ROW_MASK) + 1)
    assert desk.engine.book.is_plain(run)
    told_in_runs(desk, others, [])
    assert desk.engine.stats().answered == 3
    assert set(desk.engine.book.live.trips) == set(desk.engine.book.held_back) == {place}
    told_in_runs(desk, [place], [])
    assert desk.engine.book.held_back == {}


def test_rows_that_were_held_back_are_so_no_more_when_they_are_answered() -> None:
    desk = Desk()
    places = desk.fetching("a", "b")
    desk.engine.book.held_back[places[0]] = "why"
    told_in_runs(desk, places, [])
    assert desk.engine.book.held_back == {}


def test_rows_that_a_live_call_answered_since_their_run_was_sorted_are_settled_once() -> None:
    desk, place, others = doubled()
    [op] = desk.engine.book.live.flights
    desk.tell(Answered(op, [place], [], [], Charge(answers=1)))
    assert desk.engine.book.overtaken == {desk.job.id: {desk.engine.book.key_at(place): place}}
    step = told_in_runs(desk, [], [place, *others])
    assert [place for place, _ in pairs(step.actions)] == others
    assert desk.engine.stats().answered == 4
    assert desk.engine.book.overtaken == {desk.job.id: {}}
