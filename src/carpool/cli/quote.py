"""``carpool quote``: what a file of rows will take and cost, before anything is spent.

Owns how a quote is read from a file and shown. What is counted, and on which basis, is the library's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypedDict, cast

from cyclopts import Parameter

from carpool._tables import usd
from carpool.cli.console import Exit, UsageError, counted, deadline_of, ladder_of, print_json, run, say

if TYPE_CHECKING:
    from carpool import Settings
    from carpool._quote import Learned, Quoter
    from carpool._quoted import Money, Quote
    from carpool.cli.rows import RowReader
    from carpool.settings import Ladder
    from carpool.types import Kind

_BAD_ROWS_SHOWN: Final = 20
_KEY_CHARS_SHOWN: Final = 80


def quote_rows(
    source: Annotated[str, Parameter(name="IN", allow_leading_hyphen=True)],
    /,
    *,
    model: str | None = None,
    kind: Annotated[str, Parameter(choices=("generate", "embed"))] = "generate",
    home: Path | None = None,
    base_url: str | None = None,
    deadline: str | None = None,
    ladder: str | None = None,
    json: bool = False,
) -> int:
    """Say what the rows of a file will take and cost, before anything is sent.

    Rows are those of "carpool map". Needs no key and no network. Money is a range: one time in ten it is less than its
    lower end, one time in ten more than its upper one, as far as its basis holds; the basis is printed with it. What
    earlier answers taught, of their length and of the time they take, is read from the home, if there is one. Rows that
    could not be sent are named with their line, and not counted.

    Args:
        source: file of rows, or - for standard input.
        model: name of the model, such as gemini-3.5-flash; if not given, the one that the rows name.
        kind: what the rows are.
        home: folder where state is kept, instead of the user's state folder.
        base_url: what is to be called, instead of Google: only what its own answers taught counts.
        deadline: say what it may cost with one: 90m, 4h, or 06:00.
        ladder: the same with these routes, in order: batch, flex, standard, with commas between them; cheap for all
            three, fast for standard,batch. Without it: cheap with a deadline, else batch.
        json: print one JSON object.
    """
    try:
        way: _Way = {"ladder": ladder_of(ladder), "left_s": deadline_of(deadline)}
        return run(_run(source, model, cast("Kind", kind), _learned_at(home, base_url), way, as_json=json))
    except OSError as error:
        raise UsageError(f"{error.filename or source} cannot be read: {error.strerror}") from None


class _Way(TypedDict):
    ladder: Ladder | None
    left_s: float | None


async def _run(source: str, model: str | None, kind: Kind, learned: Learned | None, way: _Way, *, as_json: bool) -> int:
    from carpool import Settings
    from carpool._quote import Quoter

    settings = Settings.from_env()
    quoter_of = partial(Quoter, kind=kind, settings=settings, now=time.time(), learned=learned, **way)
    counter = _Counter(source, model, kind, settings, quoter_of)
    from carpool.cli.source import lines_of

    async for line in lines_of(source, settings.line_bytes_max):
        if not counter.take(line):
            break
    if counter.quoter is None:
        raise UsageError(
            f"{counter.name} has no row that could be sent" if counter.bad else f"{counter.name} has no rows"
        )
    quote = counter.quoter.quote()
    if as_json:
        from carpool._quoted import quote_data

        print_json({**quote_data(quote), "bad_rows": counter.bad})
    else:
        _show(quote)
    if counter.bad > _BAD_ROWS_SHOWN:
        say(f"{counted(counter.bad - _BAD_ROWS_SHOWN, 'more row')} cannot be sent either")
    return Exit.FAILED if counter.bad else Exit.OK


class _Counter:
    """Takes lines, and tells of those that are no rows."""

    def __init__(
        self, source: str, model: str | None, kind: Kind, settings: Settings, quoter_of: Callable[[str], Quoter]
    ) -> None:
        from carpool.cli.fingerprints import Fingerprints

        self.name = "standard input" if source == "-" else source
        self.bad = 0
        self.quoter: Quoter | None = None
        self._model = model
        self._kind: Kind = kind
        self._settings = settings
        self._quoter_of = quoter_of
        self._reader: RowReader | None = None
        self._keys = Fingerprints()
        self._waiting = 0
        if model is not None:
            self._begin(model)

    def _begin(self, model: str) -> RowReader:
        from carpool.cli.rows import RowReader

        _check_kind(model, self._kind)
        self._quoter = self._quoter_of(model)
        self._reader = RowReader(self.name, model, self._kind, self._settings.line_bytes_max)
        return self._reader

    def take(self, line: bytes) -> bool:
        """Count a line, and return whether the input goes on."""
        from carpool import ConfigurationError, NotBatchable
        from carpool.cli.rows import BadRow

        reader = self._reader
        if reader is None:
            if not line.strip():
                self._waiting += 1
                return True
            reader = self._begin(_named_model(line, self.name))
            for _ in range(self._waiting):
                reader.read(b"\n")
        try:
            request = reader.read(line)
            if request is not None:
                key = request.key or ""
                if key in self._keys:
                    raise reader.bad(f"its key {key[:_KEY_CHARS_SHOWN]!r} was there before")
                self._quoter.add(request)
                self._keys.add(key)
                self.quoter = self._quoter
        except BadRow as error:
            self._tell(str(error))
        except (ConfigurationError, NotBatchable) as error:
            self._tell(str(reader.bad(str(error).replace(" Nothing was sent.", ""))))
        return len(line) <= self._settings.line_bytes_max

    def _tell(self, words: str) -> None:
        self.bad += 1
        if self.bad <= _BAD_ROWS_SHOWN:
            say(words)


def _check_kind(model: str, kind: Kind) -> None:
    """Refuse a model that is known to be of the other kind: its quote would be of something that cannot be.

    Raises:
        UsageError: it is.
    """
    name = model.removeprefix("models/")
    embeds = name.startswith(("gemini-embedding-", "text-embedding-", "embedding-"))
    if embeds and kind == "generate":
        raise UsageError(f"{name} makes embeddings: say --kind embed")
    if name.startswith("gemini-") and not embeds and kind == "embed":
        raise UsageError(f"{name} makes no embeddings: leave --kind out, or give a model such as gemini-embedding-001")


def _learned_at(home: Path | None, base_url: str | None) -> Learned | None:
    """Return what a service taught in a home; ``None``, and words on stderr, if it cannot be read: none is needed."""
    from carpool import StoreError
    from carpool._quote import Learned
    from carpool._upkeep import learned_at
    from carpool.client import home_path

    try:
        return Learned(*learned_at(home_path(home), base_url))
    except (StoreError, OSError) as error:
        say(f"what earlier answers taught cannot be read, and is left out: {error}")
        return None


def _named_model(line: bytes, name: str) -> str:
    """Return the model that a row names.

    Raises:
        UsageError: it names none.
    """
    import msgspec

    from carpool.cli.rows import without_mark

    try:
        row: Any = msgspec.json.decode(without_mark(line))
        model = row["request"]["model"]
    except (ValueError, RecursionError, LookupError, TypeError):
        model = None
    if not isinstance(model, str):
        raise UsageError(f"the first row of {name} names no model: give one with --model")
    return model.removeprefix("models/")


def _show(quote: Quote) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    forms = [
        f"{count} {words}"
        for count, words in ((quote.inline, "inline"), (quote.batches - quote.inline, "file"))
        if count
    ]
    behind = f", in {quote.rounds} rounds one after the other" if quote.rounds > 1 else ""
    console.print(
        f"{counted(quote.rows, 'row')} for {quote.model}, {quote.size_bytes:,} bytes, "
        f"{quote.batches:,} batch{'es' if quote.batches != 1 else ''} ({', '.join(forms)}){behind}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("low (p10)", "middle", "high (p90)"):
        table.add_column(heading, justify="right")
    for name, span in (("input tokens", quote.input_tokens), ("output tokens", quote.output_tokens)):
        table.add_row(name, *(f"{value:,}" for value in (span.p10, span.p50, span.p90)))
    ways = [] if quote.way.money is None or len(quote.way.ladder) == 1 else [quote.way.money]
    beside = max((one.p90_usd for one in (*(quote.money or {}).values(), *ways)), default=Decimal(0))
    for route, money in (quote.money or {}).items():
        words = "list price (standard route)" if route == "standard" else f"price on the {route} route"
        table.add_row(words, *_amounts(money, beside))
    for money in ways:
        table.add_row(f"price by the ladder, {quote.way.begins} first", *_amounts(money, beside))
    for route, span in quote.time_s.items():
        words = f"time of a {route} call"
        if route == "batch":
            words = "time of the batches" if quote.batches > 1 else "time of the batch"
        table.add_row(words, *(_duration(value) for value in (span.p10, span.p50, span.p90)))
    console.print(table)
    for name, words in quote.basis.items():
        console.print(f"{name.replace('_', ' ')}: {words}", highlight=False, soft_wrap=True)


def _amounts(money: Money, beside: Decimal) -> tuple[str, ...]:
    return tuple(usd(amount, beside) for amount in (money.p10_usd, money.p50_usd, money.p90_usd))


def _duration(seconds: int) -> str:
    """Return a time for people."""
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds / 3_600:,.4g} h" if seconds >= 3_600 else f"{seconds / 60:g} min"
