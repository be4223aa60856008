"""Quotas that nobody tells: how many tokens of a model may be enqueued, how many bytes of files may be stored.

Owns what creates and uploads that were taken or refused teach about them. It must not know lanes, rows or settings.

**Tokens.** The server says no more than "resource exhausted", the ceiling differs by model and account, and it changes.
So it is searched for, by creates that have to be sent anyway:

- A model begins at the smallest ceiling that is known for it. While all that it allows is taken and more waits, the
  next create goes beyond it by one *step*. If that is taken too, the ceiling is raised and the step is doubled: taken
  creates cost nothing, and twenty times the room is found within a few of them. Adding the same again and again, as
  congestion control does near its limit, would take hours over this range of ceilings.
- A create beyond the ceiling that is refused shows where it is: the ceiling stays, the step shrinks to a quarter (but
  not below a thirty-second of the ceiling), and the next look beyond it waits for a pause that doubles up to a bound.
- A create within the ceiling that is refused shows that the ceiling has fallen, to somewhere below what runs. From then
  on what runs counts as all there is room for, the end of each job of before makes no room by itself, and creates go
  one by one, small at first: a sixteenth, then half of that with each refusal. As soon as one is taken its followers
  double again. So after a fall by any factor the search is one of logarithms, and no refusal costs more than one pause.

After each refusal no create of the model is sent before its pause is over, and from the first on creates of a model go
one at a time: hence at most one refused create within a pause.

**Files.** What this client has stored is counted. What others store is not known: after a refusal uploads wait, and
then go one at a time until one is taken.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from carpool._core.retry import pause_s

NEVER: Final = float("inf")
Stage: TypeAlias = Literal["planned", "flying", "taken", "gone"]
"""Of a job: not sent; its create in the air; on the server; done with."""
SURE_TOKENS: Final = 25_000
"""The smallest ceiling known of any model: up to here creates may go together before anything was refused."""
_KNOWN: Final = (
    ("gemini-3-pro-image", 2_000_000),
    ("gemini-3-pro", 50_000_000),
    ("gemini-2.5-flash-lite", 10_000_000),
    ("gemini-2.5-flash", 3_000_000),
    ("gemini-2.5-pro", 5_000_000),
    ("gemini-2.0-flash", 10_000_000),
    ("gemini-3", 3_000_000),
    ("gemini-embedding", 500_000),
)
"""Enqueued tokens of the lowest paid tier, early 2026: where the search begins, not where it ends."""
_UNKNOWN_MODEL: Final = 2_000_000
_GRAINS: Final = 32
"""A job takes at least one part in so many of the ceiling, as long as more waits: there is no room for many jobs."""
_EDGE_SHARE: Final = 8
"""A look beyond the ceiling by up to one part in so many may be repeated as it is."""
_FIRST_LOSS: Final = 16
_LEAST_LOSS: Final = 256
_NO_LIMIT: Final = 1 << 62


def usual_ceiling(model: str) -> int:
    """Return how many enqueued tokens of a model are allowed at least, as far as is known."""
    name = model.removeprefix("models/")
    if "-tts" in name:
        return SURE_TOKENS
    return next((tokens for prefix, tokens in _KNOWN if name.startswith(prefix)), _UNKNOWN_MODEL)


class Pauses:
    """Pauses after refusals in a row: doubling from the shortest to the longest.

    Args:
        low_s: the first.
        high_s: the longest.
        seed: of their jitter.
    """

    __slots__ = ("_high_s", "_low_s", "_seed", "count")

    def __init__(self, low_s: float, high_s: float, seed: str) -> None:
        self._low_s = low_s
        self._high_s = high_s
        self._seed = seed
        self.count = 0

    def next_s(self) -> float:
        """Return the next pause."""
        self.count += 1
        return pause_s(self._low_s, self._high_s, self.count, self._seed)


class Flight:
    """The tokens of one job, from when it is sealed until the server is done with it."""

    __slots__ = ("era", "place", "rows", "tokens")

    def __init__(self, tokens: int, rows: int) -> None:
        self.tokens = tokens
        self.rows = rows
        self.place: Stage = "planned"
        self.era = 0
        """How many refusals there had been when it was sent, or taken."""

    @property
    def is_small(self) -> bool:
        """Whether it has no more tokens than any ceiling that is known."""
        return self.tokens <= SURE_TOKENS


class Ceiling:
    """The enqueued tokens of one model: see the module.

    Args:
        start: where the search begins, in tokens.
        most: what must never be exceeded, in tokens; ``None``: no limit of ours.
        refusals: pauses after refused creates.
        looks: pauses between refused looks beyond the ceiling.
    """

    __slots__ = (
        "_era", "_found", "_least", "_looks", "_lost", "_lost_era", "_most", "_old", "_refusals", "_step", "_sums",
        "blocked_until", "look_at", "tokens",
    )  # fmt: skip

    def __init__(self, start: int, most: int | None, refusals: Pauses, looks: Pauses) -> None:
        self._most = _NO_LIMIT if most is None else most
        self._refusals = refusals
        self._looks = looks
        self._era = 0
        self._lost = False
        """Whether a create within the ceiling was refused, and the new one was not found yet."""
        self._found = False
        """Whether a create was taken since."""
        self._lost_era = 0
        self._old = 0
        """Tokens of jobs that were taken before that, and are not known to be over."""
        self._least = 0
        """How small steps may become while others run."""
        self.tokens = start
        """The ceiling."""
        self._step = start
        self._sums: dict[Stage, int] = {"planned": 0, "flying": 0, "taken": 0, "gone": 0}
        self.blocked_until = 0.0
        """When a create may be sent again, after a refusal."""
        self.look_at = 0.0
        """When the next look beyond the ceiling may be taken."""

    def __repr__(self) -> str:
        state = "lost" if self._lost else "known"
        return f"Ceiling({self.tokens}, {state}, step={self._step}, {self._sums})"

    @property
    def taken(self) -> int:
        """Tokens of the jobs that are on the server, as far as is known."""
        return self._sums["taken"]

    @property
    def held(self) -> int:
        """Tokens of all jobs that are sealed and not known to be over."""
        return self._sums["planned"] + self._sums["flying"] + self._sums["taken"]

    def offer(self, first: int, whole: int) -> tuple[int, float]:
        """Return how many tokens the next job may have, and from when on; infinity: something has to happen first.

        One request may always go while nothing else is enqueued, however many tokens it has.

        Args:
            first: tokens of the request that has to go first.
            whole: of all that wait.
        """
        held = self.held
        if self._sums["flying"]:
            room = min(SURE_TOKENS, self.tokens) - held
            return (room, self.blocked_until) if not self._era and room >= whole else (0, NEVER)
        known = self.tokens - held
        enough = min(whole, self._fresh // _GRAINS)
        if known >= first and known >= enough:
            return known, self.blocked_until
        if not held:
            return max(known, min(self._step, self._most)), self.blocked_until
        if self._sums["planned"]:
            return 0, NEVER
        ours = self._most - held
        room = min(max(known, 0) + self._step, ours)
        fits = first <= max(room, self._look_most(1)) or not self._era
        if not fits or max(first, min(enough, self._step)) > ours:
            return 0, NEVER
        return room, max(self.blocked_until, self.look_at)

    def create_at(self, flight: Flight, now: float) -> float:
        """Return when a planned job may be created; infinity: something has to happen first."""
        if now < self.blocked_until:
            return self.blocked_until
        if self._sums["flying"]:
            together = not self._era and self.held <= min(SURE_TOKENS, self.tokens)
            return now if together else NEVER
        after = self.taken + flight.tokens
        if after <= self.tokens or (not self.taken and flight.rows == 1):
            return now
        if self.is_too_large(flight) or (self.taken and after > self._most):
            return NEVER
        return max(now, self.look_at)

    def is_too_large(self, flight: Flight) -> bool:
        """Return whether a job goes so far beyond the ceiling that its requests had better travel in smaller ones.

        A small one never does while others run: it is rather the number of jobs that is too high.
        """
        if self.taken and flight.is_small:
            return False
        return self.taken + flight.tokens - self.tokens > self._look_most(flight.rows)

    def plan(self, tokens: int, rows: int) -> Flight:
        """Count a job that was sealed."""
        self._sums["planned"] += tokens
        return Flight(tokens, rows)

    def adopt(self, tokens: int, rows: int) -> Flight:
        """Count a job of before this process, which may be on the server."""
        flight = self.plan(tokens, rows)
        self.unsure(flight)
        self.tokens = max(self.tokens, min(self.taken, self._most))
        return flight

    def sent(self, flight: Flight) -> None:
        """Note that a job's create goes out."""
        self._move(flight, "flying")
        flight.era = self._era

    def not_sent(self, flight: Flight) -> None:
        """Note that it did not reach the server, or is to be sent anew."""
        self._move(flight, "planned")

    def unsure(self, flight: Flight) -> None:
        """Note that nobody knows whether it was taken: it counts as taken, and teaches nothing."""
        self._move(flight, "taken")
        flight.era = self._era

    def accepted(self, flight: Flight) -> None:
        """Note that it was taken."""
        if flight.era == self._era:
            self._refusals.count = 0
            self.blocked_until = 0.0
        self.unsure(flight)
        if self.taken > self.tokens:
            self.tokens = min(self.taken, self._most)
            self._step = min(2 * max(self._step, flight.tokens), max(self.tokens, self._step))
            self._looks.count = 0
            self.look_at = 0.0
            self._found = True

    def refused(self, flight: Flight, now: float, *, named: bool = False, asked_s: float = 0.0) -> None:
        """Note that it was refused for quota.

        Args:
            flight: the job.
            now: the time.
            named: whether the refusal named another quota: it then says nothing about tokens.
            asked_s: how long the server asks to be left alone.
        """
        self._move(flight, "planned")
        if now < self.blocked_until:
            return  # refused together with another
        self._era += 1
        self.blocked_until = now + max(asked_s, self._refusals.next_s())
        if named:
            return
        is_look = flight.rows == 1 or flight.tokens <= 2 * self._look_most(flight.rows)
        beyond = is_look and self.taken + flight.tokens > self.tokens
        if beyond and (self._found or not self._lost):
            self._lost = self._found = False
            self._step = max(1, self._step // 4, self._fresh // _GRAINS)
            self.look_at = now + self._looks.next_s()
            return
        if self._lost and self.taken:  # others may take up all the room, whatever the size of what was refused
            self._step = max(1, self._step // 2, self._least)
        elif self._lost:
            self._step = max(1, self._step // 8, min(self._step // 2, SURE_TOKENS))
        else:
            self._least = min(self.tokens // _LEAST_LOSS, flight.tokens)
            self._step = max(SURE_TOKENS, min(self.tokens // _FIRST_LOSS, flight.tokens // 2))
        self._lost, self._found = True, False
        self._lost_era = self._era
        self.tokens = self._old = self.taken
        self.look_at = 0.0

    def over(self, flight: Flight) -> None:
        """Count a job out. Told twice it does nothing."""
        was_taken = flight.place == "taken"
        self._move(flight, "gone")
        if was_taken and flight.era < self._lost_era:
            self._old -= flight.tokens
            self.tokens = max(0, self.tokens - flight.tokens)
            self.look_at = 0.0

    @property
    def _fresh(self) -> int:
        """The ceiling, less what is only known from before it fell."""
        return max(0, self.tokens - self._old)

    def _look_most(self, rows: int) -> int:
        """Return by how many tokens a create of so many requests may go beyond the ceiling."""
        if rows == 1:  # it cannot be made smaller; and what was taken first after a fall may be a little smaller
            return max(self._step, 2 * self.tokens if self._lost else self.tokens)
        return self._step if self._lost else max(self._step, self._fresh // _EDGE_SHARE)

    def _move(self, flight: Flight, place: Stage) -> None:
        self._sums[flight.place] -= flight.tokens
        self._sums[place] += flight.tokens
        flight.place = place


class Storage:
    """The bytes of this client's input files on the server, and of those on their way.

    Args:
        most: that may be stored, in bytes. A single file goes whatever its size while there is no other.
        refusals: pauses after refused uploads.
    """

    __slots__ = ("_blocked_until", "_files", "_flying", "_most", "_refusals")

    def __init__(self, most: int, refusals: Pauses) -> None:
        self._most = most
        self._refusals = refusals
        self._files: dict[str, int] = {}
        """By their job; what was uploaded in part counts whole."""
        self._flying: set[str] = set()
        self._blocked_until = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self._files.values())

    def upload_at(self, job: str, size_bytes: int, now: float) -> float:
        """Return when a job's file may be uploaded; infinity: something has to happen first."""
        if now < self._blocked_until:
            return self._blocked_until
        if self._refusals.count and self._flying - {job}:
            return NEVER
        others = self.bytes - self._files.get(job, 0)
        return NEVER if others and others + size_bytes > self._most else now

    def sent(self, job: str, size_bytes: int) -> None:
        """Note that a job's file goes up."""
        self._files[job] = size_bytes
        self._flying.add(job)

    def stored(self, job: str) -> None:
        """Note that it is there."""
        self._flying.discard(job)
        self._refusals.count = 0

    def failed(self, job: str) -> None:
        """Note that the upload broke off; what went up may be there, and goes on counting."""
        self._flying.discard(job)

    def refused(self, job: str, now: float, asked_s: float = 0.0) -> None:
        """Note that the server has no room for it.

        Args:
            job: whose file.
            now: the time.
            asked_s: how long the server asks to be left alone.
        """
        self.deleted(job)
        if now >= self._blocked_until:
            self._blocked_until = now + max(asked_s, self._refusals.next_s())

    def adopt(self, job: str, size_bytes: int) -> None:
        """Count a file that an earlier process stored."""
        self._files[job] = size_bytes

    def deleted(self, job: str) -> None:
        """Note that a job's file is on the server no more."""
        self._flying.discard(job)
        self._files.pop(job, None)
