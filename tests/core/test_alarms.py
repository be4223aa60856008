"""What an operator is told: each late job once, and what stands for as long as it does."""

from __future__ import annotations

from carpool._core.alarms import ALARMS, standing
from carpool._core.messages import Broken, Call, Report
from carpool.types import Alarm

from .desk import LANE, Desk, every, only
from .states import running

DAY = 86_400.0


def names(desk: Desk) -> list[str]:
    return [alarm.name for alarm in standing(desk.engine.book, desk.now)]


def test_a_job_that_runs_too_long_is_told_once_and_stands_until_it_ends() -> None:
    desk = running()
    desk.polled("RUNNING", output=False)
    step = desk.wait(DAY + 1.0)
    assert only(step.actions, Report) == Report("job_overdue", "batches/1", 1)
    assert standing(desk.engine.book, desk.now) == [Alarm("job_overdue", "batches/1", 1)]
    desk.polled("RUNNING", output=False)
    assert every(desk.wait(DAY).actions, Report) == []
    desk.polled("CANCELLED", output=False)
    assert names(desk) == []
    assert desk.engine.book.late <= desk.engine.book.jobs.keys()


def test_how_long_a_job_may_run_is_a_setting() -> None:
    desk = Desk(overdue_s=100.0)
    desk.running("a", key="a")
    desk.wait(99.0)
    assert names(desk) == []
    desk.wait(2.0)
    assert names(desk) == ["job_overdue"]


def test_results_that_are_not_fetched_a_day_after_the_end_are_told() -> None:
    desk = Desk()
    desk.fetching("a", key="a")
    desk.failed("unknown")
    assert names(desk) == []
    step = desk.wait(DAY + 1.0)
    assert only(step.actions, Report).event == "results_unfetched"
    assert names(desk) == ["results_unfetched"]


def test_doubles_and_rows_set_aside_stand_for_good() -> None:
    desk = Desk()
    desk.engine.book.ledger.twins = 2
    desk.engine.book.quarantined = 3
    assert standing(desk.engine.book, desk.now) == [Alarm("twins", count=2), Alarm("rows_not_ours", count=3)]


def test_a_live_route_that_refuses_is_told_once_and_stands_until_it_may_be_probed() -> None:
    desk = Desk()
    told: list[Report] = []
    for number in range(8):
        desk.admit(f"p{number}", ladder=("standard",))
    step = desk.wait()
    for call in every(step.actions, Call):
        told += every(desk.shed(call).actions, Report)
    standing_now = Alarm("live_refused", detail=f"standard {LANE.model}")
    assert told == [Report("live_refused", "", 1, f"standard {LANE.model}")]
    assert standing(desk.engine.book, desk.now) == [standing_now]
    for _ in range(200):  # probes go, and fail
        for call in every(desk.wait(0.25).actions, Call):
            told += every(desk.shed(call).actions, Report)
    assert len(told) == 1, "once, for as long as it lasts"
    desk.now += 700.0
    assert standing(desk.engine.book, desk.now) == [], "nobody asked for long: it may work again"


def test_a_live_route_that_refuses_again_is_told_again() -> None:
    desk = Desk()
    told: list[Report] = []

    def admit(count: int) -> None:
        for _ in range(count):
            desk.admit("p", ladder=("standard",), deadline=desk.now + DAY)

    for refuses in (True, False, True):
        admit(8)
        for _ in range(400):
            step = desk.wait(0.25)
            told += every(step.actions, Report)
            for call in every(step.actions, Call):
                told += every((desk.shed(call) if refuses else desk.answered(call)).actions, Report)
    assert [report.event for report in told] == ["live_refused"] * 2


def test_a_job_that_broke_stands() -> None:
    desk = running()
    desk.tell(Broken(desk.job.id, desk.job.op, "a bug"))
    assert every(desk.wait(DAY * 3).actions, Report) == []
    assert names(desk) == ["job_stalled"]
    assert set(names(desk)) <= ALARMS.keys()
