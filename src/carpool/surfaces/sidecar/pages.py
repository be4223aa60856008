"""What a sidecar answers for itself: ``/carpool/health``, ``/carpool/metrics`` and ``/carpool/receipt``.

Owns these pages. It must not know where their numbers come from, or who may see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from carpool.surfaces.messages import JSON, Answer
from carpool.surfaces.sidecar.guard import refuse
from carpool.surfaces.sidecar.metrics import CONTENT_TYPE, Metric, written
from carpool.types import Health

PREFIX: Final = "/carpool/"
HEALTH: Final = "/carpool/health"
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


class Pages:
    """The pages of one sidecar.

    Args:
        health: returns whether what stands behind the sidecar works.
        metrics: returns numbers of it.
        receipt: returns its account as plain data.
    """

    def __init__(
        self,
        health: Callable[[], Health],
        metrics: Callable[[], Iterable[Metric]],
        receipt: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._receipt = receipt

    def answer(self, method: str, path: str, *, known: bool) -> Answer:
        """Answer a request for a page.

        Args:
            method: of the request.
            path: of the request.
            known: whether the caller may see details.
        """
        if path not in (HEALTH, "/carpool/metrics", "/carpool/receipt"):
            return refuse(404, "there is no such page; there are health, metrics and receipt below /carpool/")
        if method not in ("GET", "HEAD"):
            return refuse(405, "this page can only be read, with GET", allow="GET, HEAD")
        if path == HEALTH:
            return self._answer_health(known=known)
        if path == "/carpool/metrics":
            return Answer(status=200, headers={"content-type": CONTENT_TYPE}, body=written(self._metrics()))
        return Answer(status=200, body=_encoder.encode(self._receipt()))

    def _answer_health(self, *, known: bool) -> Answer:
        health = self._health()
        told: dict[str, Any] = {"status": health.status}
        if known:
            told["reasons"] = health.reasons
        status = 503 if health.status == "failed" else 200
        return Answer(status=status, headers={**JSON, "cache-control": "no-store"}, body=_encoder.encode(told))
