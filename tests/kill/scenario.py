"""One story: processes with the same calls on one home, killed one after the other, and one that goes on to the end.

Owns how a story is made up from a number, and how it is played. What is right or wrong about it is for ``history``.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from carpool._core.routing import RESERVE_MORE, RESERVE_QUEUE_S
from carpool.emulator import Emulator, Fault, Plan

from .child import Ask, Order
from .history import History, Violation, World
from .killing import ANY, LOG, Kill
from .nursery import Ended, Hung, Nursery
from .points import Point

Form = Literal["inline", "both", "file"]
QUICK: Final[dict[str, Any]] = {
    "linger_s": 0.01,
    "linger_max_s": 0.05,
    "poll_min_s": 0.01,
    "poll_max_s": 0.05,
    "retry_min_s": 0.01,
    "retry_max_s": 0.05,
    "quota_retry_min_s": 0.01,
    "quota_retry_max_s": 0.05,
    "lookup_wait_s": 0.1,
    "first_contact_s": 30.0,
    "output_grace_s": 2.0,
    "sweep_s": 1.0,
    "attempts_max": 20,
    "job_attempts_max": 20,
    "upload_chunk_bytes": 262_144,
    "max_double_cost_per_day_usd": "100",
}
BY_FORM: Final[dict[str, dict[str, Any]]] = {
    "inline": {"inline_cost_max_usd": "1.00"},
    "both": {"inline_cost_max_usd": "0.03"},
    "file": {"inline_cost_max_usd": "0"},
}
_FORMS: Final[tuple[Form, ...]] = ("inline", "both", "file", "file")
_LIVE_S: Final = 60.0
"""How long a live call usually takes, where a job is left for it: long, so that a slow machine fails nobody."""
_LEFT_S: Final = _LIVE_S * (1.0 + RESERVE_MORE) + RESERVE_QUEUE_S
"""What is left for the live call then."""
_STUCK_S: Final = 6.0
_LARGE_CHARS: Final = 24_000
ANYWHERE: Final = "anywhere"
_PASSINGS_MAX: Final = 260
"""So many points or more are passed by a process that is not killed."""
_EARLIER: Final = ("accept.after", "create.sent", "named.after", "download.block", "rows.after", "closed.before")
"""Where processes are killed whose work is to be found by the next one."""
_SERVER: Final[tuple[dict[str, Fault], ...]] = (
    {"get.503": Fault(probability=0.2)},
    {"create.429": Fault(count=1)},
    {"create.503": Fault(count=1)},
    {"create.dropped_after_apply": Fault(count=2)},
    {"create.500_after_apply": Fault(after=1, count=1)},
    {"list.503": Fault(probability=0.3, count=5)},
    {"upload.finalize.dropped_after_apply": Fault(probability=0.5)},
    {"upload.start.503_empty": Fault(count=1)},
    {"download.503": Fault(probability=0.3)},
    {"download.cut": Fault(count=2)},
    {"get.dropped": Fault(probability=0.1)},
    {"files.delete.503": Fault(probability=0.5)},
    {"job.failed": Fault(count=1)},
    {"job.partially_succeeded": Fault(count=1)},
    {"job.cancelled": Fault(count=1)},
    {"job.expired": Fault(count=1)},
    {"row.error": Fault(count=3, code=13)},
    {"row.doubled": Fault(count=2)},
    {"output.shuffled": Fault()},
    {"output.late": Fault(count=1, seconds=0.1)},
    {"output.inline_from_file": Fault(count=1)},
)
_LATE: Final = {"create.applied_later": Fault(count=1, seconds=0.25)}
"""A create that takes effect after it was looked for: only the file form can revoke it."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What is played.

    Attributes:
        title: where a kill is meant to strike, in words.
        seed: number of the story among those of its title.
        strikes: the point where it is meant to strike.
        kills: of the processes, one after the other; they may end before.
        form: of the jobs, by the client's settings.
        asks: the calls of every process.
        settings: of every client.
        plan: of the server.
        leaves: whether the killed processes leave after some answers.
        leave_after: how many.
        checkpoints: whether each commit is followed by a checkpoint.
        disk_pause_s: how much longer each commit takes, as on a slow disk.
        power_fails: whether a killed process also loses what was not synced of the database's log.
        late: whether a create may take effect when it counts as lost.
        spoil: how the client is made worse, if it is.
        usual_s: how long routes usually take, if that is not to be learned.
    """

    title: str
    seed: int
    strikes: str
    kills: list[Kill]
    form: Form
    asks: list[Ask]
    settings: dict[str, Any]
    plan: Plan
    leaves: bool = False
    leave_after: int = 0
    checkpoints: bool = False
    disk_pause_s: float = 0.0
    power_fails: bool = False
    late: bool = False
    spoil: str = ""
    usual_s: dict[str, float] = {}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How a story went."""

    title: str
    seed: int
    form: str = ""
    kills: list[str] = []
    """The points at which processes were killed, in order."""
    struck: bool = False
    """Whether a process was killed where it was meant to be."""
    lost: int = 0
    doubled_in_files: int = 0
    doubled_inline: int = 0
    doubles_counted: int = 0
    processes: int = 0
    violation: str = ""


def story_at(point: Point, seed: int) -> Story:
    """Make up a story in which a process is killed at a point."""
    rng = random.Random(f"{point.title} {seed}")
    form: Form = "file" if point.form == "file" else "inline" if point.form else rng.choice(_FORMS)
    kill = Kill(point=point.name, nth=rng.randint(1, point.nth_max), delay_s=rng.uniform(0, point.delay_max_s))
    kills = [Kill(point=rng.choice(_EARLIER)), kill] if point.later else [kill]
    kills += [_somewhere(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    return _made_up(rng, form, kills, title=point.title, seed=seed, point=point)


def story_anywhere(seed: int) -> Story:
    """Make up a story in which one to four processes are killed anywhere."""
    rng = random.Random(f"anywhere {seed}")
    kills = [_somewhere(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
    return _made_up(rng, rng.choice(_FORMS), kills, title=ANYWHERE, seed=seed, point=None)


def _somewhere(rng: random.Random) -> Kill:
    return Kill(point=ANY, nth=rng.randint(1, _PASSINGS_MAX), delay_s=rng.choice((0.0, rng.uniform(0, 0.004))))


def _made_up(rng: random.Random, form: Form, kills: list[Kill], *, title: str, seed: int, point: Point | None) -> Story:
    large = point.large if point is not None else rng.random() < 0.1
    faults = dict(point.faults) if point is not None else {}
    live = point is not None and bool(point.ladder)
    if not faults and not live:
        for fault in rng.sample(_SERVER, rng.choice((0, 0, 1, 2, 3))):
            faults |= fault
    late = not faults and not live and rng.random() < 0.3
    settings = QUICK | BY_FORM[form] | {"batch_requests_max": 100 if large else rng.choice((5, 8, 100))}
    settings |= {"segment_bytes": rng.choice((4_096, 1_048_576)), "on_close": rng.choice(("keep", "drain"))}
    settings |= {"delete_remote": rng.random() < 0.3}
    if point is not None:
        settings |= point.settings
    stuck = point is not None and point.stuck
    if stuck:
        faults = {"job.stuck_running": Fault()}
    plan = Plan(
        latency_s=rng.choice((0.0, (0.0, 0.1))),
        job_expiry_s=_STUCK_S if stuck else Plan().job_expiry_s,
        faults=_LATE if late else faults,
        list_lag_s=rng.choice((0.0, 0.03)),
        upload_granularity_bytes=262_144,
        output_only_in=rng.choice(("both", "response", "metadata")),
    )
    checkpoints = (point is not None and point.checkpoints) or rng.random() < 0.1
    return Story(
        title=title,
        seed=seed,
        strikes=point.name if point is not None else ANY,
        kills=kills,
        form=form,
        asks=_asks(rng, large=large) if point is None or not live else _live_asks(rng, point),
        settings=settings,
        plan=plan,
        leaves=rng.random() < 0.3 if point is None else point.leaves,
        leave_after=rng.choice((0, 0, 3, 10)),
        checkpoints=checkpoints,
        disk_pause_s=rng.choice((0.0, 0.0, 0.0, 0.0, 0.01)),
        # A checkpoint starts the log again: what is synced of it cannot be told by its length.
        power_fails=not checkpoints and rng.random() < 0.4,
        late=late,
        usual_s={"batch": 0.5, "standard": _LIVE_S} if stuck else {},
    )


def _live_asks(rng: random.Random, point: Point) -> list[Ask]:
    """Return calls of which those for words have a ladder."""
    deadline_s = _LEFT_S + 0.7 if point.stuck else None
    return [
        msgspec.structs.replace(ask, ladder=point.ladder, deadline_s=deadline_s)
        for ask in _asks(rng, large=False)
        if not ask.embed
    ]


def _asks(rng: random.Random, *, large: bool) -> list[Ask]:
    """Return mixed calls, each text once."""
    pad = _LARGE_CHARS if large else 0
    asks = [Ask(how=how, text=f"{how} {n}", pad=pad) for how in ("bare", "keyed", "ticket", "row") for n in range(6)]
    asks += [
        Ask(how=how, text=f"{how} vector {n}", embed=True) for how in ("bare", "keyed", "ticket") for n in range(3)
    ]
    rng.shuffle(asks)
    return asks


async def tell(story: Story, nursery: Nursery) -> Told:
    """Play a story, and return how it went; what was wrong is in ``violation``."""
    folder = Path(tempfile.mkdtemp(prefix="carpool-kill-"))
    kills: list[str] = []
    lives: list[Ended] = []
    try:
        async with Emulator(story.plan, seed=story.seed, data_dir=folder) as emulator:
            World.remember(emulator)
            try:
                await _play(story, nursery, emulator, folder / "home", lives)
                await _all_ended(emulator)
            except (Hung, Violation) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                problem = ""
            world = World.of(emulator)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kills = [word["point"] for life in lives if life.killed for word in life.of("killed")]
    history = History(lives, world, late=story.late, inline_max_usd=float(story.settings["inline_cost_max_usd"]))
    problems = [problem] if problem else history.problems()
    return Told(
        title=story.title,
        seed=story.seed,
        form=story.form,
        kills=kills,
        struck=story.title == ANYWHERE or story.strikes in kills,
        lost=len(history.lost()) if not problem else 0,
        doubled_in_files=history.doubled("file"),
        doubled_inline=history.doubled("inline"),
        doubles_counted=history.doubles_counted(),
        processes=len(lives),
        violation="\n".join(problems),
    )


async def _play(story: Story, nursery: Nursery, emulator: Emulator, home: Path, lives: list[Ended]) -> None:
    base = Order(
        base_url=emulator.base_url,
        home=str(home),
        settings=story.settings,
        checkpoints=story.checkpoints,
        disk_pause_s=story.disk_pause_s,
        spoil=story.spoil,
        usual_s=story.usual_s,
    )
    rng = random.Random(story.seed)
    log = home / "slot-0" / LOG
    for number, kill in enumerate(story.kills):
        # A program that was killed makes its calls again, or it is another program that goes on with the home.
        asks = story.asks if number == 0 or rng.random() < 0.7 else []
        leave_after = story.leave_after if story.leaves and asks else None
        order = msgspec.structs.replace(
            base, asks=asks, waves=rng.choice((1, 1, 2, 4)), kill=kill, leave_after=leave_after
        )
        before = log.stat().st_size if log.exists() else 0
        life = await nursery.run(order)
        lives.append(life)
        if life.status and not life.killed:
            raise Violation(f"process {number + 1} ended with {life.status}:\n{life.errors[-3_000:]}")
        if life.killed and story.power_fails:
            _cut_log(log, life, before, rng)
    durable = {key for life in lives for word in life.of("durable") for key in word["keys"]}
    named = [ask.text for ask in story.asks if ask.how != "bare" and ask.text in durable]
    # Doubled jobs are found by a sweep, and one of these comes a second after the other at least.
    stay_s = 1.2 if story.late and story.form != "file" else 0.0
    last = [
        # What was promised is there without anybody's asking again; then all is asked again, twice.
        msgspec.structs.replace(base, results=named, go_on=True, asks=story.asks, stay_s=stay_s),
        msgspec.structs.replace(base, asks=[ask for ask in story.asks if ask.how != "bare"]),
    ]
    for order in last:
        life = await nursery.run(order)
        lives.append(life)
        if life.status:
            raise Violation(f"the run to the end ended with {life.status}:\n{life.errors[-3_000:]}")


def _cut_log(log: Path, life: Ended, before: int, rng: random.Random) -> None:
    """Take from the database's log what a process did not know to be on disk, or some of that."""
    if not log.exists():
        return
    synced = max([before, *(word["log_bytes"] for word in life.of("synced"))])
    size = log.stat().st_size
    if size > synced:
        os.truncate(log, rng.choice((synced, rng.randint(synced, size))))


async def _all_ended(emulator: Emulator) -> None:
    """Wait until every job has ended, so that its bill is in the books."""
    give_up_at = time.monotonic() + 10.0
    while any(job.state in ("PENDING", "RUNNING") for job in emulator.world.jobs(time.time())):
        if time.monotonic() > give_up_at:
            raise Violation("a job never ended")
        await asyncio.sleep(0.01)
