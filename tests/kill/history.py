"""What a story's processes said, what its server did, and whether that was right.

Owns the promises that are read off the two. It must not know how processes were killed, nor how the client works.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final, Self

import msgspec

from carpool.emulator import Emulator

from .nursery import Ended

_LEFT: Final = "ClientClosed"
_DIGEST_CHARS: Final = 33
_ROW_USD: Final = 1_024 * 9e-6 / 2
"""What a row of the model is expected to cost at least: so many tokens of output, at the price of a batch."""


class Violation(Exception):
    """A promise was broken."""


class ServerJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the server knows it."""

    name: str
    display_name: str
    kind: str
    form: str
    created_at: float
    keys: list[str]


class _Remembered(dict[str, Any]):
    """Jobs by name, and those that were deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: list[Any] = []

    def __delitem__(self, name: str) -> None:
        self.gone.append(self[name])
        super().__delitem__(name)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What the server did.

    Attributes:
        jobs: all that were ever created, oldest first.
        billed: how often each key was billed in jobs.
        billed_by_request: the same by the digest of a request.
        live: how often each request was billed on a live route.
    """

    jobs: list[ServerJob]
    billed: dict[str, int]
    billed_by_request: dict[str, int] = {}
    live: dict[str, int] = {}

    @staticmethod
    def remember(emulator: Emulator) -> None:
        """Let an emulator that has no jobs yet remember those that are deleted."""
        emulator.world._batches._jobs = _Remembered()

    @classmethod
    def of(cls, emulator: Emulator) -> Self:
        """Read it off an emulator."""
        emulator.world.advance(time.time())
        known = emulator.world._batches._jobs
        assert isinstance(known, _Remembered)
        # Its own view of a job leaves out the keys.
        jobs = [
            ServerJob(
                name=job.name,
                display_name=job.display_name,
                kind=job.rows.kind.value,
                form="file" if job.file_name else "inline",
                created_at=job.created_at,
                keys=[key for key in job.rows.keys if key is not None],
            )
            for job in sorted([*known.values(), *known.gone], key=lambda job: job.serial)
        ]
        ledger = emulator.ledger()
        return cls(
            jobs=jobs,
            billed=ledger.billed_by_key,
            billed_by_request=ledger.billed_by_request,
            live=ledger.live_by_request,
        )


class History:
    """The lives of a story's processes, in order, and the server's books."""

    def __init__(self, lives: list[Ended], world: World, *, late: bool, inline_max_usd: float) -> None:
        self._lives = lives
        self._world = world
        self._late = late
        self._inline_max_usd = inline_max_usd
        self._durable = {key for life in lives for word in life.of("durable") for key in word["keys"]}
        self._answers: dict[str, set[tuple[str, str]]] = defaultdict(set)
        """By key: what its callers got, as the digest of the bytes and the job that they are of."""
        for life in lives:
            for word in life.of("answered"):
                self._answers[word["key"]].add((word["digest"], word["job"]))

    def problems(self) -> list[str]:
        """Return every promise that was broken, in words."""
        return [
            *self._await_problems(),
            *(f"lost: {key} was accepted, and has no result" for key in self.lost()),
            *self._answer_problems(),
            *self._bill_problems(),
            *self._live_problems(),
            *self._unasked_problems(),
            *self._account_problems(),
        ]

    def lost(self) -> list[str]:
        """Return the explicit keys that were accepted, by whatever process, and were never answered."""
        acknowledged = {word["key"] for life in self._lives for word in life.of("acknowledged")}
        named = {ask["text"] for life in self._lives for ask in life.of("asked") if ask["how"] != "bare"}
        return sorted(key for key in (self._durable & named) | acknowledged if not self._answers[key])

    def doubled(self, form: str) -> int:
        """Return how many rows were paid for twice, in jobs of one form only or, of those that were inline, in any."""
        inline = {key for job in self._world.jobs if job.form == "inline" for key in job.keys}
        return sum(times - 1 for key, times in self._world.billed.items() if (key in inline) is (form == "inline"))

    def doubles_counted(self) -> int:
        """Return how many doubled jobs the receipts show."""
        return sum(word["doubles"] for life in self._lives for word in life.of("done"))

    # -- the promises

    def _await_problems(self) -> Iterator[str]:
        """Every await ended, in its own answer, or in the death or the leaving of its process."""
        for number, life in enumerate(self._lives, 1):
            ended = Counter(word["text"] for word in life.said if word["event"] in ("answered", "failed"))
            for word in life.of("asked"):
                if not life.killed and not ended[word["text"]]:
                    yield f"process {number}: {word['text']} was asked, and never ended"
            for word in life.of("answered"):
                if not word["own"]:
                    yield f"process {number}: {word['text']} got somebody else's answer"
            leaving = life.of("waited")
            for word in life.of("failed"):
                left = word["error"] == _LEFT and leaving and word["at"] >= leaving[0]["at"]
                if not left:
                    yield f"process {number}: {word['text']} failed with {word['error']}: {word['words']}"

    def _answer_problems(self) -> Iterator[str]:
        """Whoever asks for a key gets the same bytes of the same job."""
        for key, answers in self._answers.items():
            if len(answers) > 1:
                yield f"more than one answer was given for {key}: {sorted(answers)}"

    def _bill_problems(self) -> Iterator[str]:
        """What was paid for was accepted before, was had by somebody, and was paid for once."""
        if self.doubled("file"):
            yield f"paid twice: {[key for key, times in self._world.billed.items() if times > 1]}"
        if self.doubled("inline") and not self._late:
            yield f"paid twice inline, though nothing came late: {self._world.billed}"
        for job in self._world.jobs:
            if job.form == "inline" and job.kind == "generate" and len(job.keys) * _ROW_USD > self._inline_max_usd:
                yield f"{job.name} has {len(job.keys)} rows inline, which may cost more than is allowed"
        doubles, doubled = [word["doubles"] for life in self._lives for word in life.of("done")], self._doubled_jobs()
        if max(doubles) > doubled and not self._world.live:
            yield f"{max(doubles)} doubled jobs were counted, of {doubled}"
        handed = self._handed()
        for key in self._world.billed:
            if key not in self._durable:
                yield f"paid for before it was on disk: {key}"
            elif not self._answers[key] and key not in handed:
                yield f"paid for and lost: {key}"

    def _live_problems(self) -> Iterator[str]:
        """What was billed live was had by somebody, unless its process was killed or its reply lost; doubles count.

        Each process that is killed may have had a call for a request in the air, and that may be billed once more.
        """
        texts, uncounted = self._texts(), 0
        had = {texts.get(key[:_DIGEST_CHARS], key) for key, answers in self._answers.items() if answers}
        keys: dict[str, set[str]] = defaultdict(set)
        excused: Counter[str] = Counter()
        for life in self._lives:
            for word in life.of("sends"):
                for key, digest in zip(word["keys"], word["digests"], strict=True):
                    keys[digest].add(texts.get(key[:_DIGEST_CHARS], key))
            lost = [key for word in life.of("reply lost") for key in word["keys"]]
            in_the_air = {key for word in life.of("sends") for key in word["keys"]} if life.killed else set[str]()
            excused.update(texts.get(key[:_DIGEST_CHARS], key) for key in [*lost, *in_the_air])
        for digest, times in self._world.live.items():
            if digest not in keys:
                yield f"billed live, and never sent: {digest}"
                continue
            [text] = keys[digest]
            if text not in had and not excused[text]:
                yield f"paid for live and lost: {text}"
            uncounted += max(0, times + self._world.billed_by_request.get(digest, 0) - 1 - excused[text])
        if uncounted > self.doubles_counted():
            yield f"{uncounted} requests were paid for twice for no reason, {self.doubles_counted()} were counted"
        for number, life in enumerate(self._lives, 1):
            for word in life.of("sends"):
                asked = {one["text"] for one in life.of("asked") if one["at"] <= word["at"]}
                for text in (texts.get(key[:_DIGEST_CHARS]) for key in word["keys"]):
                    if text is not None and text not in asked:
                        yield f"process {number} sent {text!r} live, unasked"

    def _doubled_jobs(self) -> int:
        """Return how many jobs there were that shared their requests with an earlier one: one name is one set."""
        names = Counter(job.display_name.split(".")[2] for job in self._world.jobs)
        return sum(names.values()) - len(names)

    def _handed(self) -> set[str]:
        """Return the automatic keys whose end went on record in a process that was killed: it may not have said so."""
        handed: set[str] = set()
        kept: set[str] = set()
        for life in self._lives:
            for word in life.said:
                match word["event"]:
                    case "kept":
                        kept.update(word["keys"])
                    case "taken":
                        kept.difference_update(word["keys"])
                    case "ended" if life.killed:
                        handed.update(word["keys"])
                    case _:
                        pass
        return handed - kept

    def _unasked_problems(self) -> Iterator[str]:
        """What a caller that is gone had asked for without a key is not sent before somebody asks for the same."""
        texts = self._texts()
        for job in self._world.jobs:
            intents = [
                (number, life, word["at"])
                for number, life in enumerate(self._lives, 1)
                for word in life.of("intends")
                if word["job"] == job.display_name and word["at"] <= job.created_at
            ]
            if not intents:
                yield f"{job.name} was created without an intent on record"
                continue
            number, life, at = intents[-1]
            asked = {word["text"] for word in life.of("asked") if word["at"] <= at}
            for key in job.keys:
                text = texts.get(key[:_DIGEST_CHARS])
                if text is not None and text not in asked:
                    yield f"process {number} sent {key} unasked: {text!r} was asked for by another process"

    def _account_problems(self) -> Iterator[str]:
        """The run to the end accounts for what it settled; the one after it has nothing to pay for."""
        *_, before, last = self._lives
        found = {key for word in before.of("found") for key in word["keys"]}
        ended = {key for word in before.of("ended") for key in word["keys"] if key in self._world.billed} - found
        heard = [key for word in before.of("heard") for key in word["keys"]]
        for life, in_jobs, live in ((before, len(ended.difference(heard)), len(heard)), (last, 0, 0)):
            (account,) = life.of("done")
            if (account["requests"] - account["live"], account["live"]) != (in_jobs, live):
                yield f"a receipt says {account}, though {in_jobs} were settled in jobs, and {live} live"
        if last.of("done")[0]["jobs_created"] or not all(word["reused"] for word in last.of("answered")):
            yield "answers that were there were not used again"

    def _texts(self) -> dict[str, str]:
        """Return the texts that automatic keys stand for, by the part of a key that tells what it asks."""
        return {
            word["key"][:_DIGEST_CHARS]: word["text"]
            for life in self._lives
            for word in life.of("answered")
            if word["key"] != word["text"]
        }
