"""Numbers for Prometheus, in its text format.

Owns the names of a client's metrics, and how any are written. It must not know who asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, Literal

import msgspec

from carpool.surfaces.exchange import Traffic
from carpool.types import Health, Receipt, Stats

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# What the fields of Stats are: those that only grow within a process, and what is there by now.
_GROWING: Final[Mapping[str, tuple[str, str]]] = {
    "answered": ("carpool_requests_answered_total", "Requests that got their answer."),
    "failed": ("carpool_requests_failed_total", "Requests that failed for good."),
    "retried": ("carpool_requests_retried_total", "Times that a request was sent again."),
    "reused": ("carpool_requests_reused_total", "Requests that took over one that was paid for before."),
    "jobs_created": ("carpool_jobs_created_total", "Batch jobs created."),
    "quarantined": ("carpool_rows_quarantined_total", "Rows of output that were set aside."),
}
_STANDING: Final[Mapping[str, tuple[str, str]]] = {
    "waiting": ("carpool_requests_waiting", "Requests accepted and not yet in a job."),
    "waiting_bytes": ("carpool_requests_waiting_bytes", "Size of the requests that wait."),
    "sent": ("carpool_requests_in_jobs", "Requests in unfinished jobs."),
    "live": ("carpool_requests_live", "Requests on a live route."),
    "jobs": ("carpool_jobs_open", "Unfinished jobs."),
    "queued_callers": ("carpool_callers_queued", "Callers that wait their turn because the queue is full."),
    "parked": ("carpool_requests_parked", "Requests of earlier processes that nobody has claimed."),
    "foreign": ("carpool_records_foreign", "Records of another base URL or key in the same home."),
}
_STATUSES: Final = ("ok", "degraded", "failed")


class Metric(msgspec.Struct, frozen=True):
    """A number, or one for each value of a label."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: Decimal | float | Mapping[str, Decimal | float]
    label: str = ""
    """Whose values are the keys of ``value``."""


def written(metrics: Iterable[Metric]) -> bytes:
    """Return metrics in the text format."""
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {_escaped(metric.help)}", f"# TYPE {metric.name} {metric.kind}"]
        if isinstance(metric.value, Mapping):
            for name, value in metric.value.items():
                lines.append(f'{metric.name}{{{metric.label}="{_escaped(name, quote=True)}"}} {_number(value)}')
        else:
            lines.append(f"{metric.name} {_number(metric.value)}")
    return "".join(f"{line}\n" for line in lines).encode()


def metrics_of(stats: Stats, receipt: Receipt, health: Health, traffic: Traffic) -> list[Metric]:
    """Return what a client tells of itself, and what answers calls by it.

    Args:
        stats: the client's snapshot.
        receipt: its account.
        health: whether it works.
        traffic: what came through.
    """
    found = [Metric(name, "counter", words, getattr(stats, field)) for field, (name, words) in _GROWING.items()]
    found += [Metric(name, "gauge", words, getattr(stats, field)) for field, (name, words) in _STANDING.items()]
    routes = receipt.by_route
    found += [
        Metric(
            "carpool_billed_requests_total",
            "counter",
            "Requests that were paid for, by route.",
            {route: totals.requests for route, totals in routes.items()},
            "route",
        ),
        Metric(
            "carpool_list_usd_total",
            "counter",
            "What the answers would have cost on the standard route, in USD.",
            {route: totals.list_usd for route, totals in routes.items()},
            "route",
        ),
        Metric(
            "carpool_paid_usd_total",
            "counter",
            "What the answers cost, in USD.",
            {route: totals.paid_usd for route, totals in routes.items()},
            "route",
        ),
        Metric("carpool_doubles_total", "counter", "Jobs or requests that the server got twice.", receipt.doubles),
        Metric(
            "carpool_health",
            "gauge",
            "1 for the status that the client has, 0 for the others.",
            {status: float(status == health.status) for status in _STATUSES},
            "status",
        ),
        Metric("carpool_calls_asked_total", "counter", "Requests for the client, by kind.", traffic.asked, "kind"),
        Metric(
            "carpool_calls_passed_total",
            "counter",
            "Calls that were handed on at the service's own price, by what they ask for.",
            traffic.passed,
            "call",
        ),
        Metric(
            "carpool_calls_refused_total",
            "counter",
            "Calls that were answered with an error of carpool's, by its status.",
            traffic.refused,
            "status",
        ),
    ]
    return found


def _number(value: Decimal | float) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _escaped(text: str, *, quote: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quote else escaped
