"""What requests will take and cost, before anything is sent: no key, no network.

Owns the tally of a quote and what it rests on. Requests are encoded as if they were sent, so that what could not be
sent is told now; nothing of them is kept but sums.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from carpool._core.accumulator import Batch
from carpool._core.estimate import NO_OUTPUT, Habits, Lengths
from carpool._core.ledger import Ledger
from carpool._core.model import Lane
from carpool._core.prices import PRICES_SOURCE, Rate, Spent
from carpool._core.routing import PRIOR_S
from carpool._core.sealing import choose_form
from carpool._gemini import wire
from carpool._gemini.encode import Encoder, line, model_name
from carpool._gemini.survey import Survey, survey_request
from carpool.settings import Settings
from carpool.types import PICO, Kind, Request

ROUTES: Final = ("standard", "batch", "flex")
_NAME_BYTES: Final = 96
"""Longest display name that a job gets; it counts against the size of an inline create."""
_INPUT_PERCENT: Final = (85, 100, 115)
"""How far the rule of thumb for input may be off, in the lowest, the middle and the highest case."""
_QUERIES: Final = (0, 1, 2)
"""Searches of an answer that may search."""
_BATCH_S: Final = (600, 3_600, int(PRIOR_S["batch"]))
_FLEX_S: Final = (60, 180, int(PRIOR_S["flex"]))


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, or seconds: one time in ten less, in the middle, one time in ten more."""

    p10: int
    p50: int
    p90: int


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """The same in USD."""

    p10_usd: Decimal
    p50_usd: Decimal
    p90_usd: Decimal


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What some requests are expected to take and to cost."""

    model: str
    kind: Kind
    rows: int
    input_tokens: Span
    output_tokens: Span
    batches: int
    """Jobs, if all of it is sent at once."""
    inline: int
    """Of the batches: those that go inside their create call; the others go as files."""
    size_bytes: int
    """Of the rows on the wire."""
    money: dict[str, Money] | None
    """By route, ``list`` being the standard one; ``None``: the model's price is not known."""
    time_s: dict[str, Span]
    """From sending to the last answer, by route."""
    basis: dict[str, str]
    """What each part rests on."""


class _Sums:
    """What some requests will take."""

    __slots__ = ("audio", "image", "other", "outputs", "tokens", "video")

    def __init__(self) -> None:
        self.tokens = self.audio = self.image = self.video = self.other = 0
        self.outputs = [0, 0, 0]
        """In the lowest, the middle and the highest case."""

    def add(self, survey: Survey, lengths: Lengths) -> None:
        self.tokens += survey.tokens
        self.audio += survey.audio
        self.image += survey.image
        self.video += survey.video
        self.other += survey.other
        for place, usual in enumerate((lengths.p10, lengths.p50, lengths.p90)):
            output = usual * survey.candidates
            self.outputs[place] += min(survey.cap, output) if survey.cap else output

    def spent(self, case: int, *, draws: bool) -> Spent:
        """Return them as they are billed; all output of a model that draws is pictures."""
        percent, output = _INPUT_PERCENT[case], self.outputs[case]
        audio, image, video, other = (n * percent // 100 for n in (self.audio, self.image, self.video, self.other))
        return Spent(
            prompt=self.tokens * percent // 100,
            audio=audio,
            image=image,
            video=video,
            other=other,
            output=output,
            image_output=output if draws else 0,
        )


class Quoter:
    """Counts requests of one model and kind.

    Args:
        model: name of the model.
        kind: what the requests are.
        settings: limits of batches, and prices.
        now: the time: promotional prices end.

    Raises:
        ConfigurationError: the model is no name.
        NotBatchable: the Batch API has no such model.
    """

    def __init__(self, model: str, kind: Kind, settings: Settings, now: float) -> None:
        self._lane = Lane(kind, model_name(model))
        self._now = now
        self._settings = settings
        self._ledger = Ledger.of(settings)
        self._rate = self._ledger.rate(self._lane.model, now)
        self._lengths = Habits().lengths(self._lane.model) if kind == "generate" else NO_OUTPUT
        self._encoder = Encoder()
        self._framing = wire.framing(settings.priority)
        self._rows = self._inline = self._batches = self._size_bytes = 0
        self._all, self._short, self._long = _Sums(), _Sums(), _Sums()
        self._long_rows = 0
        self._capped = self._searches = self._cached = self._unsized = 0
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
        survey = survey_request(msgspec.json.decode(encoded.payload))
        self._count(survey)
        self._pack(len(line(request.key or "", encoded.payload)), survey.tokens)

    def _count(self, survey: Survey) -> None:
        self._rows += 1
        long = self._rate is not None and survey.tokens > self._rate.long_from_tokens
        self._all.add(survey, self._lengths)
        (self._long if long else self._short).add(survey, self._lengths)
        self._long_rows += long
        self._capped += survey.cap > 0
        self._searches += survey.searches
        self._cached += survey.cached
        self._unsized += survey.unsized

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
        low, usual, high = (self._all.tokens * percent // 100 for percent in _INPUT_PERCENT)
        less, middle, more = self._all.outputs
        return Quote(
            model=self._lane.model,
            kind=self._lane.kind,
            rows=self._rows,
            input_tokens=Span(p10=low, p50=usual, p90=high),
            output_tokens=Span(p10=less, p50=middle, p90=more),
            batches=self._batches,
            inline=self._inline,
            size_bytes=self._size_bytes,
            money=None if self._rate is None else self._money(self._rate),
            time_s={
                "batch": Span(p10=_BATCH_S[0], p50=_BATCH_S[1], p90=_BATCH_S[2]),
                "flex": Span(p10=_FLEX_S[0], p50=_FLEX_S[1], p90=_FLEX_S[2]),
            },
            basis=self._basis(),
        )

    def _money(self, rate: Rate) -> dict[str, Money] | None:
        """Return the money by route; ``None``: something among the input has no price."""
        found: dict[str, Money] = {}
        for route in ROUTES:
            low, middle, high = (self._picousd(rate, route, case) for case in range(3))
            if low is None or middle is None or high is None:
                return None
            money = Money(p10_usd=_usd(low), p50_usd=_usd(middle), p90_usd=_usd(high))
            found["list" if route == "standard" else route] = money
        return found

    def _picousd(self, rate: Rate, route: str, case: int) -> int | None:
        """Return what all requests cost on a route in the lowest, the middle or the highest case."""
        draws = rate.standard.image_output > rate.standard.output
        short = rate.tier(route).picousd(self._short.spent(case, draws=draws))
        long = rate.tier(route, long=True).picousd(self._long.spent(case, draws=draws))
        if short is None or long is None:
            return None
        total = short + long
        if self._searches and rate.search_picousd > 0:
            searches = _QUERIES[case] if rate.search_per_query else min(1, _QUERIES[case])
            total += self._searches * searches * rate.search_picousd
        return total

    def _basis(self) -> dict[str, str]:
        lengths = self._lengths
        basis = {
            "input_tokens": "four bytes of text a token, media by their size; 15 % less or more",
            "output_tokens": _output_basis(lengths, self._rows, self._capped),
            "money": f"{PRICES_SOURCE}, or Settings.prices; tokens as above",
            "batches": f"at most {self._settings.batch_requests_max:,} rows each, if all are sent at once",
            "time": "assumed, not measured: the service aims at 24 h for a batch, and gives up on it after 48 h; "
            "on the flex route each call takes minutes, and it may be refused",
        }
        if self._rate is None:
            basis["money"] = f"the price of {self._lane.model} is not known; give it in Settings.prices"
        elif self._money(self._rate) is None:
            basis["money"] = f"{self._lane.model} has a price for each kind of input, and none for documents"
        notes = [
            _note(self._unsized, "media whose length or size is not in the row: each counted as a small picture"),
            _note(self._cached, "rows with cached content, whose tokens are not counted"),
            _note(self._searches, "rows that may search: none to two searches each are counted, without free ones")
            if self._rate is None or self._rate.search_picousd >= 0
            else _note(self._searches, "rows that may search, for a fee that is not known and not counted"),
            _note(self._long_rows, "rows with a long prompt, at the price of such"),
        ]
        return basis | ({"notes": "; ".join(note for note in notes if note)} if any(notes) else {})


def _output_basis(lengths: Lengths, rows: int, capped: int) -> str:
    if not lengths.p90:
        return "embeddings have none"
    words = f"a guess: {lengths.p10:,} to {lengths.p90:,} tokens an answer, {lengths.p50:,} in the middle"
    if not capped:
        return f"{words}; no row has max_output_tokens, which would narrow it"
    return f"{words}; no more than max_output_tokens in {'all' if capped == rows else f'{capped:,}'} rows"


def _note(count: int, words: str) -> str:
    return f"{count:,} {words}" if count else ""


def _usd(picousd: int) -> Decimal:
    return Decimal(picousd) / PICO


def quote_data(quote: Quote) -> dict[str, Any]:
    """Return a quote as plain data."""
    data: dict[str, Any] = msgspec.to_builtins(quote, builtin_types=(Decimal,))
    return data
