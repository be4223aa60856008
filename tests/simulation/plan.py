"""What happens in one seed: settings, callers, faults, crashes. All that is random is drawn here or by ``chance``.

Owns the odds. It must not know the engine.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from carpool._core.model import Lane
from carpool.settings import CHEAP, FAST, Ladder, Settings

START: Final = 1_790_000_000.0
HOUR: Final = 3_600.0
MODELS: Final = ("gemini-2.5-flash", "model-without-price")
CrashPoint: TypeAlias = Literal["before_commit", "during_commit", "after_commit", "among_actions", "later"]
CRASH_TRIGGERS: Final = ("uploading", "ready", "creating", "looking", "running", "PutResults", "DropJob", "PutSegment")

CREATE_FAULTS: Final = (
    "not_sent", "quota", "overloaded", "lost", "applied_500", "slow", "twin", "credentials", "file_gone", "too_large",
    "billing", "row_file_gone",
)  # fmt: skip
JOB_FATES: Final = (
    "partial", "failed", "failed_with_output", "expired", "cancelled", "stuck", "output_late", "output_never",
    "vanished", "output_vanished", "strange_word",
)  # fmt: skip
LIVE_FAULTS: Final = (
    "quota", "quota_of_day", "overloaded", "asks_to_wait", "internal", "internal_computed", "lost", "lost_early",
    "not_sent", "billing",
)  # fmt: skip
BATCH: Final[Ladder] = ("batch",)
GIVEN_LADDERS: Final[tuple[Ladder, ...]] = (
    CHEAP, FAST, ("standard",), ("flex",), ("flex", "standard"), ("batch", "standard"), ("flex", "batch"),
    ("standard", "flex", "batch"), ("batch", "flex"), ("batch",),
)  # fmt: skip
ROW_FAULTS: Final = ("missing", "garbled", "error_13", "error_8", "error_429", "error_400", "doubled", "doubled_other")


class Ask(msgspec.Struct, kw_only=True):
    """One line of the user's script: awaited again in the next process if this one dies before it is answered."""

    id: int
    lane: Lane
    prompt: str
    key: str | None
    ticket: bool
    deadline_s: float | None
    at: float
    cancel_after_s: float | None
    size_bytes: int
    insists: bool
    """Whether the script asks again after a restart."""
    flushes: bool
    """Whether the script asks for everything to be sent at once."""
    looks_up: bool
    """Whether it asks for the key's result, without naming the request, where the key is known."""
    ladder: Ladder | None = None


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ends."""

    point: CrashPoint
    trigger: str
    """In the first turn that writes a job in this state or a record of this kind; empty: in the turn of this number."""
    turn: int
    """Only turns that write something count."""
    clean: bool = False
    """By closing, in order."""
    down_s: float = 0.0


class Plan:
    """The draw of one seed."""

    def __init__(self, seed: int, *, ladders: bool = True) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.faults_end = START + rng.choice((2 * HOUR, 12 * HOUR, 30 * HOUR))
        calm = rng.random() < 0.1
        self.create_faults = {} if calm else self._odds(CREATE_FAULTS, rng.choice((0.3, 0.9)))
        self.job_fates = {} if calm else self._odds(JOB_FATES, rng.choice((0.3, 0.9)))
        self.row_faults = {} if calm else self._odds(ROW_FAULTS, rng.choice((0.2, 0.8)))
        self.call_fault_odds = 0.0 if calm else rng.choice((0.0, 0.05, 0.2))
        self.bug_odds = 0.02 if rng.random() < 0.1 else 0.0
        self.list_lag_s = rng.choice((0.0, 5.0, 40.0))
        self.assumptions_hold = rng.random() > 0.05
        """A1 a create without its input is refused, A2 deletion is immediate, A3 lists lag less than the wait."""
        # What came later draws from a source of its own, so that seeds go on telling much the same stories.
        self.side = side = random.Random(f"{seed}/side")
        if side.random() < 0.1:
            self.assumptions_hold = False
        self.broken = "" if self.assumptions_hold else side.choice(("A1", "A2", "A3", "A1 A2 A3"))
        self.quiet_twin_odds = 0.0 if calm or side.random() > 0.2 else 0.2
        """How often the server makes two jobs of one create, and says nothing."""
        self.sweep_s = side.choice((60.0, 600.0))
        self.restore = self._restore() if side.random() < 0.1 else None
        self.file_reuse_s = side.choice((60.0, 144_000.0))
        self.refuses_at_create = rng.random() < 0.5
        self.names_bad_rows = rng.random() < 0.6
        self.outages = self._windows(0.25)
        self.lockouts = self._windows(0.1)
        self.settings = self._settings()
        if "A3" in self.broken:
            self.list_lag_s = self.settings.lookup_wait_s * 3
        self.sets_clock = rng.random() < 0.1
        self.asks = self._asks()
        # Some clients flutter: they end in the same place again and again, and are back at once.
        flutters = rng.choice(CRASH_TRIGGERS) if rng.random() < 0.2 else ""
        self.crashes = [self._crash(flutters) for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 4)))]
        # The live routes draw from a third source, and not all seeds use them.
        self.live = live = random.Random(f"{seed}/live")
        self.rides = ladders and live.random() < 0.6
        self.live_faults = {} if calm else self._live_odds()
        self.storms = self._storms()
        self.live_slowest_s = live.choice((2.0, 60.0, 1_200.0))
        if self.rides:
            self._ride()
        if self.restore is not None:
            self._save_what_waits(self.restore[1])

    def chance(self, odds: float) -> bool:
        """Draw."""
        return odds > 0 and self.rng.random() < odds

    def pick(self, odds: dict[str, float]) -> str:
        """Draw at most one of some faults; empty: none."""
        at = self.rng.random()
        for name, share in odds.items():
            at -= share
            if at < 0:
                return name
        return ""

    def live_seconds(self, low: float, high: float) -> float:
        """Draw a time on the live routes, short ones as often as long ones."""
        return float(low * (high / low) ** self.live.random())

    def _live_odds(self) -> dict[str, float]:
        names = self.live.sample(LIVE_FAULTS, self.live.choice((0, 1, 2, 3, 5)))
        total = self.live.choice((0.1, 0.5, 0.95))
        return {name: self.live.random() * total / len(names) for name in names}

    def _storms(self) -> list[tuple[float, float]]:
        """Draw when the live routes refuse everything."""
        starts = [START + self.live_seconds(1, 4 * HOUR) - 1 for _ in range(self.live.choice((0, 0, 1, 3)))]
        return [(start, start + self.live_seconds(5, HOUR)) for start in starts]

    def _ride(self) -> None:
        """Give calls ladders and deadlines, and the client limits to what these may cost."""
        live = self.live
        same = live.choice(GIVEN_LADDERS) if live.random() < 0.5 else None
        for ask in self.asks:
            ladder = live.choice((None, None, *GIVEN_LADDERS)) if same is None else same
            ask.ladder = None if ladder == ("flex",) and ask.lane.kind == "embed" else ladder
            if ask.deadline_s is None and live.random() < 0.5:
                ask.deadline_s = live.choice((self.live_seconds(1, 30 * HOUR), self.live_seconds(5 * HOUR, 12 * HOUR)))
        if live.random() < 0.5:  # else few jobs last long enough to be left
            self.job_fates = {"stuck": live.choice((0.3, 1.0))}
            self.call_fault_odds = min(self.call_fault_odds, 0.05)
        priced = all(ask.lane.model == MODELS[0] for ask in self.asks)
        self.settings = msgspec.structs.replace(
            self.settings,
            max_double_cost_per_day_usd=live.choice((Decimal(0), Decimal("0.006"), Decimal(1))),
            budget_per_day_usd=live.choice((None, None, None, Decimal("0.05"))) if priced else None,
            full_price_per_day_usd=live.choice((None, None, None, Decimal("0.02"))) if priced else None,
            live_calls_max=live.choice((1, 4, 256)),
        )

    def _restore(self) -> tuple[float, float]:
        """Draw when a backup of the store is taken, and how much later the store is lost and restored from it."""
        low, high = 0.5, HOUR
        return tuple(low * (high / low) ** self.side.random() for _ in range(2))  # type: ignore[return-value]

    def _save_what_waits(self, lost_after_s: float) -> None:
        """In half of the seeds with a backup, let it hold a ticket that is sent before the store is lost.

        Restored, it goes on by itself, although a job that nobody knows of may answer it.
        """
        backup = random.Random(f"{self.seed}/backup")
        keyed = [ask for ask in self.asks if ask.key is not None]
        if not keyed or backup.random() < 0.5:
            return
        for ask in keyed:
            ask.ticket = ask.ticket or backup.random() < 0.5
            ask.ladder = backup.choice((ask.ladder, BATCH))
        self.restore = (backup.choice(keyed).at - START, self.settings.linger_s + lost_after_s)
        self.job_fates = backup.choice((self.job_fates, {}))
        self.settings = msgspec.structs.replace(self.settings, delete_remote=False)

    def seconds(self, low: float, high: float) -> float:
        """Draw a time, short ones as often as long ones."""
        return float(low * (high / low) ** self.rng.random())

    def clock_error_s(self) -> float:
        """Draw how wrong the clock of the next process is."""
        return self.rng.choice((-24 * HOUR, 0.0, 24 * HOUR)) if self.sets_clock else 0.0

    def _odds(self, names: tuple[str, ...], total: float) -> dict[str, float]:
        chosen = self.rng.sample(names, self.rng.choice((0, 1, 1, 2, 3, 5)))
        return {name: self.rng.random() * total / len(chosen) for name in chosen}

    def _windows(self, odds: float) -> list[tuple[float, float]]:
        if self.rng.random() >= odds:
            return []
        start = START + self.seconds(1, 2 * HOUR) - 1
        return [(start, start + self.seconds(5, 2 * HOUR))]

    def _settings(self) -> Settings:
        rng = self.rng
        limits: dict[str, Any] = {
            "linger_s": rng.choice((0.0, 1.0, 10.0)),
            "linger_max_s": rng.choice((10.0, 300.0)),
            "batch_requests_max": rng.choice((1, 3, 8, 50)),
            "inline_requests_max": rng.choice((0, 2, 5, 1_000)),
            "inline_cost_max_usd": rng.choice((Decimal(0), Decimal("0.01"), Decimal(1), None)),
            "inline_bytes_max": rng.choice((600, 3_000, 20_000_000)),
            "file_bytes_max": rng.choice((1_024, 6_000, 2_000_000_000)),
            "jobs_max": rng.choice((1, 2, 5, 100)),
            "enqueued_tokens_max": rng.choice((None, None, 30, 400)),
            "attempts_max": rng.choice((1, 2, 3)),
            "job_attempts_max": rng.choice((1, 2, 3)),
            "poll_min_s": rng.choice((1.0, 30.0)),
            "poll_max_s": 1_800.0,
            "output_grace_s": rng.choice((0.0, 600.0)),
            "quota_retry_max_s": rng.choice((60.0, 1_200.0)),
            "first_contact_s": rng.choice((0.0, 10.0)),
            "unreachable_s": rng.choice((60.0, 900.0)),
            "segment_bytes": rng.choice((4_096, 1_048_576)),
            "reuse_window_s": rng.choice((0.5 * HOUR, 48 * HOUR)),
            "keep_results_s": rng.choice((7, 14)) * 24 * HOUR,
            "delete_remote": rng.random() < 0.3,
            "label": rng.choice(("", "nightly")),
            "sweep_s": self.sweep_s,
            "file_reuse_s": self.file_reuse_s,
        }
        return Settings(**limits)

    def _asks(self) -> list[Ask]:
        rng = self.rng
        lanes = [Lane(rng.choice(("generate", "embed")), rng.choice(MODELS)) for _ in range(rng.choice((1, 1, 2)))]
        span_s = rng.choice((1.0, 60.0, HOUR))
        # All at their own times, or in bursts that come in one turn of the loop.
        bursts = [rng.random() * span_s for _ in range(rng.choice((1, 3)))] if rng.random() < 0.5 else []
        asks: list[Ask] = []
        for number in range(rng.choice((1, 4, 12, 30, 60))):
            keyed = rng.random() < 0.4
            # Few prompts and keys, so that calls repeat each other.
            prompt = rng.choice(("plain", "plain", "plain", "bad", "cursed")) if rng.random() < 0.3 else "plain"
            about = rng.randint(0, 5) if rng.random() < 0.4 else number + 100
            asks.append(
                Ask(
                    id=number,
                    lane=rng.choice(lanes),
                    prompt=f"{prompt}-{about}",
                    key=f"key-{about}" if keyed else None,
                    ticket=keyed and rng.random() < 0.4,
                    deadline_s=self.seconds(1, 20 * HOUR) if rng.random() < 0.2 else None,
                    at=START + (rng.choice(bursts) if bursts else rng.random() * span_s),
                    cancel_after_s=self.seconds(0.01, 5 * HOUR) if rng.random() < 0.2 else None,
                    size_bytes=rng.choice((20, 20, rng.randint(20, 400), 2_000)),
                    insists=rng.random() < 0.7,
                    flushes=rng.random() < 0.05,
                    looks_up=keyed and rng.random() < 0.1,
                )
            )
        return asks

    def _crash(self, flutters: str) -> Crash:
        rng = self.rng
        points: tuple[CrashPoint, ...] = ("before_commit", "during_commit", "after_commit", "among_actions", "later")
        clean = rng.random() < 0.15
        return Crash(
            point="later" if clean else rng.choice(points),
            trigger=flutters or (rng.choice(CRASH_TRIGGERS) if rng.random() < 0.6 else ""),
            turn=rng.choice((1, 2, 3, 5, 8, 13)),
            clean=clean,
            down_s=self.seconds(0.1, 10 if flutters else 3 * HOUR),
        )
