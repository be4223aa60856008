"""Settings: every limit and waiting time, with its unit in its name, its default, and its check.

Owns where values come from (arguments, then ``CARPOOL_*`` in the environment, then defaults). It must not know who uses
them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, Self, TypeAlias, cast

import msgspec

from carpool._showing import in_short, without_values
from carpool.errors import ConfigurationError

Route: TypeAlias = Literal["batch", "flex", "standard"]
Ladder: TypeAlias = tuple[Route, ...]
OnClose: TypeAlias = Literal["keep", "drain", "cancel"]

CHEAP: Final[Ladder] = ("batch", "flex", "standard")
FAST: Final[Ladder] = ("standard", "batch")
ROUTES: Final[tuple[Route, ...]] = ("batch", "flex", "standard")

_DAY_S: Final = 86_400.0


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """List prices of one model in USD per million tokens on the standard route, and what the batch route costs of them.

    Thinking is billed as output. Flex costs what the batch route costs. Fields that are left out say what they mean.

    Raises:
        ConfigurationError: a price is negative, or not a number.
    """

    input_usd: Decimal
    """Input."""
    output_usd: Decimal
    """Output, thinking included; 0 for embeddings."""
    cached_usd: Decimal | None = None
    """Cached input; ``None``: not known, and answers with cached input count as of unknown cost."""
    batch_cached_usd: Decimal | None = None
    """Cached input on the batch route, which is not halved for every model; ``None``: not known."""
    audio_usd: Decimal | None = None
    """Sound in the input; ``None``: as ``input_usd``."""
    cached_audio_usd: Decimal | None = None
    """Cached sound; ``None``: as ``cached_usd``."""
    batch_cached_audio_usd: Decimal | None = None
    """Cached sound on the batch route; ``None``: as ``batch_cached_usd``."""
    image_usd: Decimal | None = None
    """Pictures in the input; ``None``: as ``input_usd``."""
    video_usd: Decimal | None = None
    """Video in the input; ``None``: as ``input_usd``."""
    image_output_usd: Decimal | None = None
    """Pictures in the output; ``None``: as ``output_usd``."""
    batch_percent: int = 50
    """What the batch route costs of the standard route, except for cached input and searches."""
    long: Price | None = None
    """Prices of requests whose prompt has more than ``long_from_tokens`` tokens; ``None``: the same."""
    long_from_tokens: int = 200_000
    """Longest prompt, in tokens, to which the short price applies."""
    search_usd: Decimal | None = None
    """Fee of a search in USD (not per million), the same on every route; ``None``: not known."""
    search_per: Literal["query", "prompt"] = "query"
    """Whether each search query costs the fee, or each prompt that searched at all."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field.endswith("_usd") and value is not None and not _is_price(value):
                raise ConfigurationError(f"Price.{field} is {value!r}; it must be a Decimal between 0 and 1000000")
        if not 0 <= self.batch_percent <= 100:
            raise ConfigurationError(f"Price.batch_percent is {self.batch_percent!r}; it must be between 0 and 100")
        if self.long_from_tokens < 0:
            raise ConfigurationError(f"Price.long_from_tokens is {self.long_from_tokens!r}; it must not be negative")
        if self.search_per not in ("query", "prompt"):
            raise ConfigurationError(f"Price.search_per is {self.search_per!r}; it must be 'query' or 'prompt'")


def _is_price(value: object) -> bool:
    """Return whether a value can be a price: never a float, which holds most prices only nearly."""
    if isinstance(value, Decimal):
        return value.is_finite() and 0 <= value <= 1_000_000
    return type(value) is int and 0 <= value <= 1_000_000


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and waiting times of one client. Frozen; checked when it is made.

    Raises:
        ConfigurationError: a value is out of its range; the message names the field and the range.
    """

    linger_s: float = 2.0
    """How long a lane gathers after its first request."""
    linger_max_s: float = 300.0
    """What ``linger_s`` stretches towards as running jobs near ``jobs_max``."""
    batch_requests_max: int = 50_000
    """Requests in one batch."""
    inline_bytes_max: int = 20_000_000
    """A create call with inline requests stays below this, envelope counted (the service takes less than 20 MB)."""
    inline_output_bytes_max: int = 16_000_000
    """Expected output above which a batch goes as a file: large inline answers cannot be fetched reliably."""
    inline_cost_max_usd: Decimal | None = Decimal("1.00")
    """Expected cost above which a batch goes as a file, which can be revoked; ``None`` switches this limit off."""
    inline_requests_max: int = 1_000
    """The same limit in requests, for models of unknown price."""
    file_bytes_max: int = 2_000_000_000
    """A batch file stays at or below this; larger batches are split."""
    jobs_max: int = 100
    """Jobs at once."""
    enqueued_tokens_max: int | None = None
    """Estimated tokens of one model in unfinished jobs, at most; ``None``: as many as the server is found to take. What
    it takes is learned either way, by model."""
    file_storage_bytes_max: int = 20_000_000_000
    """Input files on the server, all together; a job whose file would exceed it waits until others are deleted."""
    attempts_max: int = 3
    """How often one request is sent before it fails."""
    job_attempts_max: int = 3
    """How often a batch is created anew when the fate of a create stays unknown or its file is gone."""
    poll_min_s: float = 5.0
    """Shortest time between two questions about a job."""
    poll_max_s: float = 300.0
    """Longest time between two questions about a job."""
    output_grace_s: float = 600.0
    """How long a succeeded job may be without output before its rows count as missing."""
    lookup_wait_s: float = 60.0
    """How long list calls may lag behind a create: the wait between two looks for a job of unknown fate."""
    sweep_s: float = 600.0
    """Time between two sweeps: looks at the server's list for jobs of ours that nobody waits for."""
    file_reuse_s: float = 144_000.0
    """Age at which an input file is uploaded again before a create: the service deletes files after 48 h."""
    overdue_s: float = _DAY_S
    """How long a job may run before an alarm tells of it."""
    retry_min_s: float = 1.0
    """First pause after a failed call; doubles up to ``retry_max_s``."""
    retry_max_s: float = 120.0
    """Longest pause after a failed call."""
    quota_retry_min_s: float = 30.0
    """First pause after a 429 on create, for the jobs of its model, or on upload; doubles up to
    ``quota_retry_max_s``."""
    quota_retry_max_s: float = 300.0
    """Longest pause after a 429 on create or upload; so long it may take to notice that a quota was raised."""
    first_contact_s: float = 10.0
    """How long to go on trying a server that has never answered this client before awaiters get an error."""
    unreachable_s: float = 900.0
    """The same for a server that has answered before."""
    call_timeout_s: float = 120.0
    """Total time of one HTTP call that is neither upload nor download."""
    upload_chunk_bytes: int = 8_388_608
    """Bytes of one upload call; a multiple of 262,144."""
    body_bytes_max: int = 67_108_864
    """Largest reply kept in memory."""
    line_bytes_max: int = 67_108_864
    """Longest line of a result file."""
    segment_bytes: int = 1_048_576
    """Size at which accepted requests are written as one segment (at most 8 MiB)."""
    live_calls_max: int = 256
    """Live calls of one model and route in the air at once, at most; how many there are follows from how they go."""
    waiting_requests_max: int = 2_000_000
    """Requests accepted and not yet sent; beyond it callers wait their turn."""
    waiting_bytes_max: int = 4_000_000_000
    """The same in bytes."""
    store_bytes_max: int = 20_000_000_000
    """Size of the store on disk."""
    keep_results_s: float = 7 * _DAY_S
    """How long results of explicit keys are kept."""
    reuse_window_s: float = 2 * _DAY_S
    """How old an abandoned request may be for an identical call to adopt it."""
    adopt_after_s: float = 600.0
    """How long a slot of the home with unfinished work must have been left by its process before another process that
    shares the home runs that work to its end."""
    file_margin_s: float = _DAY_S
    """How much longer an uploaded file must live when a request that names it is taken in (a batch has a day to run);
    with less left it is uploaded again where that is possible, else the call is refused."""
    cache_lead_s: float = 7_200.0
    """Cached content that work in flight uses is kept alive at least so far ahead."""
    delete_remote: bool = False
    """Delete jobs and their output on the server once their results are safe. Uploaded inputs are always deleted."""
    match_by_position: bool = False
    """Match inline answers that came back without any key by their position, where the count is exact."""
    on_close: OnClose = "keep"
    """What leaving the client does with work in flight."""
    close_timeout_s: float = 20.0
    """How long leaving may take to send what waits."""
    ladder: Ladder | None = None
    """Routes of calls that name none, in the order in which they are tried. ``None``: ``CHEAP`` for calls with a
    deadline, and the batch route alone for others."""
    priority: int = 0
    """Priority of the jobs; higher first."""
    label: str = ""
    """Appended to the display names of jobs: lower-case letters, digits and dashes, at most 32."""
    prices: Mapping[str, Price] = {}
    """List prices by model, over the bundled ones."""
    budget_per_day_usd: Decimal | None = None
    """Most that may be reserved and spent on all routes in a UTC day; ``None``: no limit. With a limit, models of
    unknown price are refused."""
    full_price_per_day_usd: Decimal | None = None
    """The same for the standard route alone, which costs the full price."""
    max_double_cost_per_day_usd: Decimal = Decimal("1.00")
    """Most that may be reserved and spent in a UTC day on requests that are in a running job already and are sent again
    on another route for their deadline's sake; 0 forbids it."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not _is_between(value, low, high):
                raise ConfigurationError(f"Settings.{name} is {in_short(value)}; it must be between {low} and {high}")
        if self.linger_max_s < self.linger_s:
            raise ConfigurationError("Settings.linger_max_s must not be below linger_s")
        if self.poll_max_s < self.poll_min_s:
            raise ConfigurationError("Settings.poll_max_s must not be below poll_min_s")
        if self.upload_chunk_bytes % 262_144:
            raise ConfigurationError(
                "Settings.upload_chunk_bytes must be a multiple of 262144, as resumable uploads want it"
            )
        if not all(c.islower() or c.isdigit() or c == "-" for c in self.label) or len(self.label) > 32:
            raise ConfigurationError("Settings.label takes lower-case letters, digits and dashes, at most 32")
        if self.on_close not in ("keep", "drain", "cancel"):
            raise ConfigurationError(
                f"Settings.on_close is {in_short(self.on_close)}; it must be 'keep', 'drain' or 'cancel'"
            )
        if self.ladder is not None:
            check_ladder(self.ladder)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Make settings from ``CARPOOL_<FIELD>`` variables; keyword arguments win over them.

        Args:
            environ: where to read from; the process environment if not given.
            **overrides: fields given in code.

        Raises:
            ConfigurationError: a variable does not hold what its field takes; the message names it.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            variable = f"CARPOOL_{field.name.upper()}"
            text = environ.get(variable)
            if text is None or field.name in overrides or field.name in _NOT_FROM_ENV:
                continue
            try:
                values[field.name] = msgspec.convert(_parse(text), field.type, strict=False)
            except (msgspec.ValidationError, InvalidOperation) as error:
                why = without_values(str(error))
            else:
                continue
            raise ConfigurationError(f"{variable}={in_short(text)} cannot be used: {why}")
        return cls(**(values | overrides))


def variables() -> list[str]:
    """Return the names of the variables that ``Settings.from_env`` reads."""
    return [
        f"CARPOOL_{field.name.upper()}" for field in msgspec.structs.fields(Settings) if field.name not in _NOT_FROM_ENV
    ]


def _parse(text: str) -> Any:
    return tuple(part.strip() for part in text.split(",")) if "," in text else (None if text == "none" else text)


def _is_between(value: Any, low: Any, high: Any) -> bool:
    try:
        return bool(low <= value <= high)
    except (TypeError, InvalidOperation):  # it is no number, or a decimal NaN, which does not let itself be compared
        return False


def check_ladder(ladder: Any) -> Ladder:
    """Return the ladder, or raise ``ConfigurationError`` if it is not a non-empty tuple of distinct routes."""
    routes: Ladder = tuple(cast("Ladder", ladder)) if isinstance(ladder, tuple | list) else ()
    known = all(isinstance(route, str) and route in ROUTES for route in cast("tuple[object, ...]", routes))
    if not routes or not known or len(set(routes)) != len(routes):
        what = in_short(cast("object", ladder))
        raise ConfigurationError(
            f"ladder is {what}; it must be a tuple of distinct routes out of 'batch', 'flex', 'standard'"
        )
    return routes


def read_ladder(text: str) -> Ladder:
    """Return the ladder that a text names: ``cheap``, ``fast``, or routes with commas between them.

    Raises:
        ConfigurationError: it is no ladder.
    """
    named = {"cheap": CHEAP, "fast": FAST}
    return named.get(text) or check_ladder([route.strip() for route in text.split(",")])


_NOT_FROM_ENV: Final = frozenset({"prices", "ladder"})
_INF: Final = float("inf")
_RANGES: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("linger_s", 0, _DAY_S),
    ("linger_max_s", 0, _DAY_S),
    ("batch_requests_max", 1, 1_000_000),
    ("inline_bytes_max", 0, 20_971_520),
    ("inline_output_bytes_max", 0, 1_000_000_000),
    ("inline_cost_max_usd", 0, 1_000_000),
    ("inline_requests_max", 0, 1_000_000),
    ("file_bytes_max", 1_024, 2_147_483_648),
    ("jobs_max", 1, 10_000),
    ("enqueued_tokens_max", 1, 10**15),
    ("file_storage_bytes_max", 1, 10**15),
    ("attempts_max", 1, 100),
    ("job_attempts_max", 1, 100),
    ("poll_min_s", 0.001, _DAY_S),
    ("poll_max_s", 0.001, _DAY_S),
    ("output_grace_s", 0, 2 * _DAY_S),
    ("lookup_wait_s", 0, _DAY_S),
    ("sweep_s", 1, 7 * _DAY_S),
    ("file_reuse_s", 60, 2 * _DAY_S),
    ("overdue_s", 1, _INF),
    ("retry_min_s", 0.001, _DAY_S),
    ("retry_max_s", 0.001, _DAY_S),
    ("quota_retry_min_s", 0.001, _DAY_S),
    ("quota_retry_max_s", 0.001, _DAY_S),
    ("first_contact_s", 0, _DAY_S),
    ("unreachable_s", 0, 7 * _DAY_S),
    ("call_timeout_s", 0.1, _DAY_S),
    ("upload_chunk_bytes", 262_144, 1_073_741_824),
    ("body_bytes_max", 65_536, 4_294_967_296),
    ("line_bytes_max", 65_536, 4_294_967_296),
    ("segment_bytes", 4_096, 8_388_608),
    ("live_calls_max", 1, 10_000),
    ("waiting_requests_max", 1, 10**9),
    ("waiting_bytes_max", 1, 10**15),
    ("store_bytes_max", 1_000_000, 10**15),
    ("keep_results_s", 0, _INF),
    ("reuse_window_s", 0, _INF),
    ("adopt_after_s", 0.001, 7 * _DAY_S),
    ("file_margin_s", 0, 2 * _DAY_S),
    ("cache_lead_s", 0.001, 7 * _DAY_S),
    ("close_timeout_s", 0, _DAY_S),
    ("priority", -(2**63), 2**63 - 1),
    ("budget_per_day_usd", 0, 1_000_000_000),
    ("full_price_per_day_usd", 0, 1_000_000_000),
    ("max_double_cost_per_day_usd", 0, 1_000_000_000),
)
