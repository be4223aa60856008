"""What users hold in their hands, as plain data: requests, receipts, jobs, snapshots.

Owns the public data types. Answers are in ``responses``. It must not know how requests travel. What holds words of a
prompt, of an answer or of the server does not show them in its ``repr``.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from carpool._showing import status_word
from carpool._tables import html_table, text_table, usd

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    Deadline: TypeAlias = str | float | int | timedelta | datetime

__all__ = [
    "Alarm",
    "BatchJob",
    "Blob",
    "Cache",
    "File",
    "FunctionCall",
    "Health",
    "JobStats",
    "Receipt",
    "Request",
    "RequestReceipt",
    "RouteTotals",
    "ServerError",
    "Stats",
    "Usage",
]

Kind: TypeAlias = Literal["generate", "embed"]
PICO: Final = 10**12


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as ``generate`` and ``embed`` build it; the row type of ``submit`` and ``map``.

    Args:
        model: model name, with or without ``models/``.
        contents: what ``generate`` or ``embed`` take.
        kind: ``"generate"`` or ``"embed"``.
        config: fields of google-genai's config, flat, in snake_case or camelCase.
        key: identity of the request; the same key gives the same result as long as it is retained.
        deadline: latest time of the answer, in any form that ``generate`` takes.
        ladder: routes to try in order; ``None``: ``Settings.ladder``.
        body: the finished REST request as a dict or JSON bytes, instead of ``contents`` and ``config``.
    """

    model: str
    contents: Any = None
    kind: Kind = "generate"
    config: Any = None
    key: str | None = None
    deadline: Any = None
    ladder: Any = None
    body: Any = None

    def __repr__(self) -> str:
        return f"Request(model={self.model!r}, kind={self.kind!r}, key={self.key!r})"


class ServerError(msgspec.Struct, frozen=True, gc=False):
    """An error as the server sent it (google.rpc.Status, or the HTTP envelope)."""

    code: int = 0
    message: str = ""
    status: str = ""
    details: Any = None

    def __repr__(self) -> str:
        return f"ServerError(code={self.code!r}, status={status_word(self.status)!r})"


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens that one answer took, as the server counted them."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    total_tokens: int = 0


class RequestReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one answer took. Money is ``None`` where the model's price or the token count is not known."""

    route: str
    job: str
    waited_s: float
    list_usd: Decimal | None
    paid_usd: Decimal | None
    reused: bool = False
    reused_age_s: float = 0.0

    def __str__(self) -> str:
        paid, listed = ("not known" if one is None else usd(one, one) for one in (self.paid_usd, self.list_usd))
        where = f"{self.route}, {self.job}" if self.job else self.route
        again = f"; reused, {self.reused_age_s:,.1f} s old" if self.reused else ""
        return f"{where}: paid {paid}, list price {listed}, waited {self.waited_s:,.1f} s{again}"

    def _repr_html_(self) -> str:
        money = ["not known" if one is None else usd(one, one) for one in (self.list_usd, self.paid_usd)]
        rows = [("route", self.route), ("job", self.job or "none"), ("waited", f"{self.waited_s:,.1f} s")]
        rows += [("list price", money[0]), ("paid", money[1])]
        rows += [("reused, after", f"{self.reused_age_s:,.1f} s")] if self.reused else []
        return html_table("Receipt of one answer", (), rows, numbers=False)


class RouteTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of one route: requests answered, their list price on the standard route, and what they cost."""

    requests: int
    list_usd: Decimal
    paid_usd: Decimal

    def __add__(self, other: RouteTotals) -> RouteTotals:
        return RouteTotals(
            requests=self.requests + other.requests,
            list_usd=self.list_usd + other.list_usd,
            paid_usd=self.paid_usd + other.paid_usd,
        )

    @property
    def saved_usd(self) -> Decimal:
        """List price less what was paid."""
        return self.list_usd - self.paid_usd


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one client, from list prices and the server's token counts."""

    by_route: dict[str, RouteTotals]
    doubles: int
    overrun_usd: Decimal
    unknown_cost: int
    """Answers without a price: unknown model, or no clear token count in the answer."""
    double_usd: Decimal = Decimal(0)
    """Paid or lost for requests that were sent again while a running job held them."""
    lost_usd: Decimal = Decimal(0)
    """Reserved for what never told what it cost (killed, cut off): counted against budgets, and in no other sum."""

    @classmethod
    def empty(cls) -> Receipt:
        """Return that of nothing."""
        return cls(by_route={}, doubles=0, overrun_usd=Decimal(0), unknown_cost=0)

    def __add__(self, other: Receipt) -> Receipt:
        by_route = dict(self.by_route)
        for route, totals in other.by_route.items():
            by_route[route] = totals if route not in by_route else by_route[route] + totals
        return Receipt(
            by_route=by_route,
            doubles=self.doubles + other.doubles,
            overrun_usd=self.overrun_usd + other.overrun_usd,
            unknown_cost=self.unknown_cost + other.unknown_cost,
            double_usd=self.double_usd + other.double_usd,
            lost_usd=self.lost_usd + other.lost_usd,
        )

    def __str__(self) -> str:
        return text_table(_RECEIPT_HEADS, self._rows(), self.notes)

    def _repr_html_(self) -> str:
        return html_table("Receipt", _RECEIPT_HEADS, self._rows(), self.notes, sums=True)

    def _rows(self) -> list[tuple[str, ...]]:
        """Return what is said of each route, and of all."""
        rows = [(route, totals) for route, totals in self.by_route.items()]
        rows.append(("all", RouteTotals(requests=self.requests, list_usd=self.list_usd, paid_usd=self.paid_usd)))
        return [
            (
                route,
                f"{totals.requests:,}",
                *(usd(amount, self.list_usd) for amount in (totals.list_usd, totals.paid_usd, totals.saved_usd)),
            )
            for route, totals in rows
        ]

    @property
    def notes(self) -> list[str]:
        """What is to be said beside the sums, in words: one line each for what there is."""
        beside = self.list_usd
        found = {
            f"Without a price, since model or token count is not known: {self.unknown_cost:,}.": self.unknown_cost,
            f"Jobs or requests that the server got twice: {self.doubles:,}; paid or lost for that: "
            f"{usd(self.double_usd, beside)}.": self.doubles,
            f"Paid beyond what was reserved: {usd(self.overrun_usd, beside)}.": self.overrun_usd,
            f"Reserved for what never told its cost: {usd(self.lost_usd, beside)}.": self.lost_usd,
        }
        return [words for words, amount in found.items() if amount]

    @property
    def requests(self) -> int:
        """Requests answered, over all routes."""
        return sum(totals.requests for totals in self.by_route.values())

    @property
    def list_usd(self) -> Decimal:
        """What the answers would have cost on the standard route."""
        return sum((totals.list_usd for totals in self.by_route.values()), Decimal(0))

    @property
    def paid_usd(self) -> Decimal:
        """What the answers cost."""
        return sum((totals.paid_usd for totals in self.by_route.values()), Decimal(0))

    @property
    def saved_usd(self) -> Decimal:
        """List price less what was paid."""
        return self.list_usd - self.paid_usd


_RECEIPT_HEADS: Final = ("route", "requests", "list price", "paid", "saved")


class Blob(msgspec.Struct, frozen=True, gc=False):
    """Bytes with their mime type: media of an answer, or a part of ``contents`` that is sent inline."""

    data: bytes
    mime_type: str

    def __repr__(self) -> str:
        return f"Blob(mime_type={self.mime_type!r}, bytes={len(self.data)})"


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model asks for."""

    name: str
    args: dict[str, Any] = {}
    id: str = ""
    """Sent back beside the function's answer; empty where the server gave none."""

    def __repr__(self) -> str:
        return f"FunctionCall(name={self.name!r}, id={self.id!r})"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded file as the server shows it; put it into ``contents`` like any part.

    Times are RFC 3339, as sent. ``state`` is ``ACTIVE``, ``PROCESSING``, ``FAILED``, or a word that this version does
    not know, passed on as it came.
    """

    name: str
    uri: str = ""
    mime_type: str = ""
    size_bytes: int = 0
    display_name: str = ""
    created_at: str = ""
    updated_at: str = ""
    expires_at: str = ""
    state: str = ""
    sha256_hash: str = ""
    """As sent: the service writes base64 of the hexadecimal digest."""
    error: ServerError | None = None


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """Cached content as the server shows it: name it in ``config={"cached_content": cache.name}``.

    Times are RFC 3339, as sent.
    """

    name: str
    model: str = ""
    display_name: str = ""
    created_at: str = ""
    updated_at: str = ""
    expires_at: str = ""
    tokens: int = 0


class JobStats(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The server's own counts of one job."""

    requests: int = 0
    pending: int = 0
    succeeded: int = 0
    failed: int = 0


class BatchJob(msgspec.Struct, frozen=True, kw_only=True):
    """A batch job as the server shows it.

    ``state`` is ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``PARTIALLY_SUCCEEDED``, ``FAILED``, ``CANCELLED``,
    ``EXPIRED``, or a word that this version does not know, passed on as it came.
    """

    name: str
    display_name: str = ""
    model: str = ""
    state: str = ""
    created_at: str = ""
    updated_at: str = ""
    ended_at: str = ""
    stats: JobStats = JobStats()
    error: ServerError | None = None
    output_file: str = ""
    """Name of the result file; empty for inline output and before the end."""
    inline_output: bool = False
    """Whether the answer held inline responses (list leaves them out)."""

    @property
    def has_output(self) -> bool:
        """Whether there is anything to fetch."""
        return bool(self.output_file) or self.inline_output

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ENDED_STATES


ENDED_STATES: Final = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers of one job share; responses point at it instead of each holding its own copy."""

    route: str
    job: str
    kind: Kind
    model: str
    answered_at: float
    cost: Callable[[bytes], tuple[int, int] | None]
    """Returns what an answer costs on the standard route, and what on its own, in 1e-12 USD; ``None``: not known."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one client."""

    waiting: int
    """Requests accepted and not yet in a job."""
    waiting_bytes: int
    sent: int
    """Requests in unfinished jobs."""
    answered: int
    failed: int
    retried: int
    reused: int
    jobs: int
    """Unfinished jobs."""
    jobs_created: int
    queued_callers: int
    """Callers that wait their turn because ``waiting_requests_max`` or ``waiting_bytes_max`` is reached."""
    parked: int
    """Requests of earlier processes that nobody has claimed."""
    foreign: int
    """Records of another origin (base URL or key) in the same home, left alone."""
    quarantined: int = 0
    """Rows of output that were set aside: of no request of their job, doubled with other bytes, or unreadable."""
    live: int = 0
    """Requests on a live route, in a call or waiting for one; also those that a running job holds too."""

    def _repr_html_(self) -> str:
        rows = [(name.replace("_", " "), f"{getattr(self, name):,}") for name in self.__struct_fields__]
        return html_table("Requests", (), rows)


class Alarm(msgspec.Struct, frozen=True):
    """What an operator should know: passed to ``Client(on_alarm=...)``, and logged. Its names are documented."""

    name: str
    job: str = ""
    """Name of the batch job concerned, if it is one."""
    count: int = 1
    """How many rows, requests or jobs are concerned."""
    detail: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a client works, and what is wrong with it."""

    status: Literal["ok", "degraded", "failed"]
    """``degraded``: it works, and an operator should look. ``failed``: it takes no calls any more."""
    reasons: list[str] = []
    """Each begins with the name of an alarm, a colon, and says more in words."""

    def _repr_html_(self) -> str:
        return html_table("Health", (), [("status", self.status)], self.reasons, numbers=False)
