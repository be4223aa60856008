"""A desk for each state of a job, all of them by the shortest way.

Owns the samples of ``test_transitions`` and ``test_lifecycle``.
"""

from __future__ import annotations

from collections.abc import Callable

from carpool._core.model import JobState

from .desk import Desk


def as_file() -> Desk:
    return Desk(inline_bytes_max=0)


def uploading() -> Desk:
    desk = as_file()
    desk.admit(key="k")
    desk.wait()
    return desk


def ready() -> Desk:
    desk = Desk()
    desk.admit(key="k")
    desk.wait()
    desk.failed("not_sent")
    return desk


def creating() -> Desk:
    desk = Desk()
    desk.admit(key="k")
    desk.wait()
    return desk


def looking() -> Desk:
    desk = creating()
    desk.failed("unknown")
    return desk


def running() -> Desk:
    desk = Desk()
    desk.running(key="k")
    desk.wake()
    return desk


def fetching() -> Desk:
    desk = Desk()
    desk.fetching(key="k")
    return desk


STATES: dict[JobState, Callable[[], Desk]] = {
    JobState.UPLOADING: uploading,
    JobState.READY: ready,
    JobState.CREATING: creating,
    JobState.LOOKING: looking,
    JobState.RUNNING: running,
    JobState.FETCHING: fetching,
}
