"""What requests will take and cost, before anything is sent: no key, no network.

Owns the tally of a quote and what it rests on. Requests are encoded as if they were sent, so that what could not be
sent is told now; nothing of them is kept but sums. What earlier answers taught is given by whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import ceil
from typing import Final, NamedTuple

import msgspec

from carpool._core.accumulator import Batch
from carpool._core.estimate import NO_OUTPUT, Habits, Lengths
from carpool._core.ledger import Ledger
from carpool._core.model import Lane
from carpool._core.prices import PRICES_SOURCE, Rate, Spent
from carpool._core.routing import LADDERS, PRIOR_S, Durations, Seen, choose, quicker_below
from carpool._core.sealing import choose_form
from carpool._gemini import wire
from carpool._gemini.encode import Encoder, line, model_name
from carpool._gemini.survey import Spread, Survey, Takes, spread_of, survey_request
from carpool._quoted import Money, Quote, Span, Way
from carpool.settings import Ladder, Route, Settings
from carpool.types import PICO, Kind, Request

ROUTES: Final[tuple[Route, ...]] = ("standard", "batch", "flex")
_NAME_BYTES: Final = 96
"""Longest display name that a job gets; it counts against the size of an inline create."""
_ONE: Final = Takes(1)
"""No request takes less."""
_CASES: Final = range(3)
"""The lowest, the middle and the highest."""
_QUERIES: Final = (0, 1, 2)
"""Searches of an answer that may search."""
_TIMES_LEARNED_FROM: Final = 10
"""Durations that have to have been seen before they count for more than what is assumed."""
_TIMES_S: Final[dict[Route, tuple[int, int, int]]] = {
    "standard": (2, 10, int(PRIOR_S["standard"])),
    "batch": (600, 3_600, int(PRIOR_S["batch"])),
    "flex": (60, 180, int(PRIOR_S["flex"])),
}


class Learned(NamedTuple):
    """What earlier answers taught."""

    habits: Habits
    """How long answers are, and how far estimates of the input were off."""
    seen: Sequence[Seen] = ()
    """How long routes took."""


class _Sums:
    """What some requests will take, in one of the cases."""

    __slots__ = ("output", "takes")

    def __init__(self) -> None:
        self.takes = [0] * len(Takes._fields)
        self.output = 0

    def add(self, takes: Takes, output: int) -> None:
        for place, tokens in enumerate(takes):
            self.takes[place] += tokens
        self.output += output

    @property
    def tokens(self) -> int:
        return sum(self.takes)

    def spent(self, *, draws: bool) -> Spent:
        """Return them as they are billed; all output of a model that draws is pictures."""
        _, audio, image, video, other = self.takes
        return Spent(
            prompt=self.tokens,
            audio=audio,
            image=image,
            video=video,
            other=other,
            output=self.output,
            image_output=self.output if draws else 0,
        )


class _Case:
    """One of the cases: requests of a short prompt, and those of a long one, which has prices of its own."""

    __slots__ = ("long", "long_rows", "short")

    def __init__(self) -> None:
        self.short, self.long = _Sums(), _Sums()
        self.long_rows = 0

    @property
    def tokens(self) -> int:
        return self.short.tokens + self.long.tokens

    @property
    def output(self) -> int:
        return self.short.output + self.long.output

    def add(self, takes: Takes, output: int, rate: Rate | None) -> None:
        long = rate is not None and sum(takes) > rate.long_from_tokens
        self.long_rows += long
        (self.long if long else self.short).add(takes, output)


class Quoter:
    """Counts requests of one model and kind.

    Args:
        model: name of the model.
        kind: what the requests are.
        settings: limits of batches, and prices.
        now: the time: promotional prices end.
        learned: what earlier answers taught; nothing by default.
        ladder: the routes that requests may take; ``None``: that of the settings, or what calls take that name none.
        left_s: time until their deadline, in seconds; ``None``: they have none.

    Raises:
        ConfigurationError: the model is no name, or the ladder is none.
        NotBatchable: the Batch API has no such model.
    """

    def __init__(
        self,
        model: str,
        kind: Kind,
        settings: Settings,
        now: float,
        *,
        learned: Learned | None = None,
        ladder: Ladder | None = None,
        left_s: float | None = None,
    ) -> None:
        self._lane = Lane(kind, model_name(model))
        self._now = now
        self._settings = settings
        self._ledger = Ledger.of(settings)
        self._rate = self._ledger.rate(self._lane.model, now)
        self._learned = learned or Learned(Habits())
        self._ladder = LADDERS[choose(ladder, settings.ladder, kind, timed=left_s is not None)]
        self._left_s = left_s
        self._lengths = self._learned.habits.lengths(self._lane.model) if kind == "generate" else NO_OUTPUT
        self._encoder = Encoder()
        self._framing = wire.framing(settings.priority)
        self._rows = self._inline = self._batches = self._size_bytes = 0
        self._cases = [_Case() for _ in _CASES]
        self._capped = self._searches = self._cached = self._unsized = self._others = self._shaped = 0
        self._open = self._new_batch()

    def add(self, request: Request) -> None:
        """Count one request.

        Raises:
            ConfigurationError: it cannot be sent.
            NotBatchable: the Batch API does not take it.
        """
        if request.body is not None:
            encoded = self._encoder.body(request.kind, request.model, request.body)
        elif request.kind == "embed":
            encoded = self._encoder.embed(request.model, request.contents, request.config)
        else:
            encoded = self._encoder.generate(request.model, request.contents, request.config)
        fields = msgspec.json.decode(encoded.payload)
        survey = survey_request(fields)
        self._count(survey, spread_of(fields))
        named = fields.get("model")
        self._others += isinstance(named, str) and named.removeprefix("models/") != self._lane.model
        self._pack(len(line(request.key or "", encoded.payload)), survey.tokens)

    def _count(self, survey: Survey, spread: Spread) -> None:
        self._rows += 1
        media = (survey.audio, survey.image, survey.video, survey.other)
        usual = self._corrected(spread.least, Takes(survey.tokens - sum(media), *media), spread.most)
        lengths = self._lengths
        outputs = (lengths.p10, lengths.middle + spread.thinking // 2, lengths.p90 + spread.thinking)
        for case, takes, length in zip(self._cases, (spread.least, usual, spread.most), outputs, strict=True):
            output = length * survey.candidates
            case.add(takes if any(takes) else _ONE, min(survey.cap, output) if survey.cap else output, self._rate)
        self._capped += survey.cap > 0
        self._searches += survey.searches
        self._cached += survey.cached
        self._shaped += survey.json_schema and "batch" in self._ladder
        self._unsized += survey.unsized

    def _corrected(self, least: Takes, usual: Takes, most: Takes) -> Takes:
        """Return what a request usually takes in the light of what came back, as far as its own range allows that.

        The range stays as wide as it is: earlier texts may have been others.
        """
        ratio = self._learned.habits.ratio(self._lane.model)
        text = min(max(round(usual.text * ratio), least.text, 1), max(most.text, 1))
        return usual if ratio == 1.0 else usual._replace(text=text)

    # -- batches

    def _new_batch(self) -> Batch:
        return Batch(lane=self._lane, spans=(), count=0, line_bytes=0, tokens=0)

    def _pack(self, line_bytes: int, tokens: int) -> None:
        batch, settings = self._open, self._settings
        most = settings.enqueued_tokens_max
        if batch.count and (
            batch.count >= settings.batch_requests_max
            or batch.line_bytes + line_bytes > settings.file_bytes_max
            or (most is not None and batch.tokens + tokens > most)
        ):
            self._close(batch)
            batch = self._open = self._new_batch()
        batch.count += 1
        batch.line_bytes += line_bytes
        batch.tokens += tokens
        self._size_bytes += line_bytes

    def _close(self, batch: Batch) -> None:
        form = choose_form(self._settings, self._framing, self._ledger, batch, _NAME_BYTES, self._now)
        self._batches += 1
        self._inline += form == "inline"

    # -- the quote

    def quote(self) -> Quote:
        """Return what was counted. Nothing can be added afterwards."""
        if self._open.count:
            self._close(self._open)
        rounds, cases = self._rounds(), self._cases
        money = None if self._rate is None else self._money(self._rate)
        return Quote(
            model=self._lane.model,
            kind=self._lane.kind,
            rows=self._rows,
            input_tokens=_span(*(case.tokens for case in cases)),
            output_tokens=_span(*(case.output for case in cases)),
            batches=self._batches,
            inline=self._inline,
            size_bytes=self._size_bytes,
            money=money,
            rounds=rounds,
            time_s={
                route: _span(*(seconds * (rounds if route == "batch" else 1) for seconds in self._times_s(route)))
                for route in self._routes
            },
            way=self._way(money),
            basis=self._basis(),
        )

    @property
    def _routes(self) -> tuple[Route, ...]:
        return ROUTES if self._lane.kind == "generate" else tuple(route for route in ROUTES if route != "flex")

    def _rounds(self) -> int:
        most = self._settings.enqueued_tokens_max
        tokens = self._cases[1].tokens
        return max(-(-self._batches // self._settings.jobs_max), 0 if most is None else -(-tokens // most))

    def _seen_s(self, route: Route) -> list[float]:
        """Return how long a route took for this model, the shortest first; nothing if that was seen too seldom."""
        seen = (one for one in self._learned.seen if (one.model, one.route) == (self._lane.model, route))
        found = sorted(duration_s for one in seen for duration_s in one.durations_s)
        return found if len(found) >= _TIMES_LEARNED_FROM else []

    def _times_s(self, route: Route) -> tuple[int, int, int]:
        seen = self._seen_s(route)
        if not seen:
            return _TIMES_S[route]
        low, middle, high = (max(1, ceil(seen[ceil(len(seen) * share) - 1])) for share in (0.1, 0.5, 0.9))
        return low, middle, high

    def _way(self, money: dict[str, Money] | None) -> Way:
        """Return on which rung requests begin, and what they may cost from there on."""
        durations = Durations()
        for seen in self._learned.seen:
            durations.take(seen)
        ladder, left_s = self._ladder, self._left_s
        rung = 0 if left_s is None else durations.enter(self._lane.model, ladder, 0, left_s)
        begins = ladder[rung]
        if money is None:
            return Way(ladder=ladder, begins=begins, money=None)
        rungs = [money[route] for route in ladder[rung:]]
        highest = [one.p90_usd for one in rungs]
        most = max(highest)
        hurries = left_s is not None and quicker_below(ladder, rung)
        twice = min(sum(highest) - most, self._settings.max_double_cost_per_day_usd) if hurries else Decimal(0)
        spent = Money(
            p10_usd=min(one.p10_usd for one in rungs),
            p50_usd=money[begins].p50_usd,
            p90_usd=most + twice,
        )
        return Way(ladder=ladder, begins=begins, money=spent)

    def _money(self, rate: Rate) -> dict[str, Money] | None:
        """Return the money by route; ``None``: something among the input has no price."""
        found: dict[str, Money] = {}
        for route in self._routes:
            low, middle, high = (self._picousd(rate, route, number) for number in _CASES)
            if low is None or middle is None or high is None:
                return None
            found[route] = Money(p10_usd=_usd(low), p50_usd=_usd(middle), p90_usd=_usd(high))
        return found

    def _picousd(self, rate: Rate, route: Route, number: int) -> int | None:
        """Return what all requests cost on a route in the lowest, the middle or the highest case."""
        draws = rate.standard.image_output > rate.standard.output
        case = self._cases[number]
        short = rate.tier(route).picousd(case.short.spent(draws=draws))
        long = rate.tier(route, long=True).picousd(case.long.spent(draws=draws))
        if short is None or long is None:
            return None
        total = short + long
        if self._searches and rate.search_picousd > 0:
            searches = _QUERIES[number] if rate.search_per_query else min(1, _QUERIES[number])
            total += self._searches * searches * rate.search_picousd
        return total

    def _basis(self) -> dict[str, str]:
        lengths = self._lengths
        basis = {
            "input_tokens": "rules of thumb: four bytes of text a token, 15 % less or more, other letters than English "
            "ones and digits up to four times as many; media by their size",
            "output_tokens": _output_basis(lengths, self._rows, self._capped),
            "money": f"{PRICES_SOURCE}, or Settings.prices; tokens as above",
            "batches": f"at most {self._settings.batch_requests_max:,} rows each, if all are sent at once, and the "
            "account's quota of enqueued tokens allows it (Settings.enqueued_tokens_max)",
            "time": "assumed, not measured: the service aims at 24 h for a batch, and gives up on it after 48 h; "
            "live calls are many at once, as far as the quota goes, and may be refused",
        }
        timed = [f"{route} as the last {len(seen):,}" for route in self._routes if (seen := self._seen_s(route))]
        if timed:
            basis["time"] = f"took so long in this home: {', '.join(timed)}. Else {basis['time']}"
        ratio = self._learned.habits.ratio(self._lane.model)
        if ratio != 1.0:
            basis["input_tokens"] += f"; in the middle, as earlier answers counted them: {ratio:.3g} of that"
        if len(self._ladder) > 1:
            basis["ladder"] = self._ladder_basis()
        if self._rate is None:
            basis["money"] = f"the price of {self._lane.model} is not known; give it in Settings.prices"
        elif self._money(self._rate) is None:
            basis["money"] = f"{self._lane.model} has a price for each kind of input, and none for documents"
        long_rows = self._cases[2].long_rows
        fee_known = self._rate is None or self._rate.search_picousd >= 0
        notes = [
            _note(
                self._unsized,
                "medium whose length or size is not in the row: counted as a small picture, maybe far too little",
                "media whose length or size is not in the row: each counted as a small picture, maybe far too little",
            ),
            _rows_note(self._cached, "with cached content, whose tokens are not counted"),
            _rows_note(
                self._searches,
                "that may search: none to two searches each are counted, without free ones"
                if fee_known
                else "that may search, for a fee that is not known and not counted",
            ),
            _rows_note(self._shaped, "with responseJsonSchema, which batches are said to ignore: use responseSchema"),
            _rows_note(self._others, f"with another model's name: quoted, and sent, as for {self._lane.model}"),
            _rows_note(long_rows, "whose prompt is or may be long: counted at the price of such where it is"),
        ]
        return basis | ({"notes": "; ".join(note for note in notes if note)} if any(notes) else {})

    def _ladder_basis(self) -> str:
        words = f"{', '.join(self._ladder)}; high is the dearest route from the first one on"
        if self._left_s is None:
            return words
        return (
            f"{words}, and what may be paid twice when a request leaves a running job or call for its deadline's sake: "
            f"${self._settings.max_double_cost_per_day_usd} a day at most (Settings.max_double_cost_per_day_usd)"
        )


def _output_basis(lengths: Lengths, rows: int, capped: int) -> str:
    if not lengths.p90:
        return "embeddings have none"
    basis = f"as {lengths.learned:,} earlier answers of this model" if lengths.learned else "a guess"
    words = f"{basis}: {lengths.p10:,} to {lengths.p90:,} tokens with thoughts, {lengths.middle:,} in the middle"
    if not capped:
        return f"{words}; no row has max_output_tokens, which would narrow it"
    return f"{words}; no more than max_output_tokens in {'all' if capped == rows else f'{capped:,}'} rows"


def _note(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if count else ""


def _rows_note(count: int, words: str) -> str:
    return _note(count, f"row {words}", f"rows {words}")


def _span(p10: int, p50: int, p90: int) -> Span:
    return Span(p10=p10, p50=p50, p90=p90)


def _usd(picousd: int) -> Decimal:
    return Decimal(picousd) / PICO
