"""carpool: await single Gemini calls; they share Batch API jobs at half the price."""

from __future__ import annotations

from carpool._stores.memory import MemoryStore
from carpool.client import Client
from carpool.errors import (
    BudgetExceeded,
    CarpoolError,
    ClientClosed,
    ConfigurationError,
    DeadlineExceeded,
    JobError,
    KeyConflict,
    LeaseLost,
    NotBatchable,
    QuotaExceeded,
    RequestError,
    RequestFailed,
    RequestRejected,
    RequestTooLarge,
    ResultMissing,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreVersion,
    SubmitAmbiguous,
)
from carpool.responses import EmbedResponse, GenerateResponse, Outcome, Ticket
from carpool.settings import CHEAP, FAST, Price, Settings
from carpool.types import (
    BatchJob,
    Blob,
    JobStats,
    Receipt,
    Request,
    RequestReceipt,
    RouteTotals,
    ServerError,
    Stats,
    Usage,
)

__all__ = [
    "CHEAP",
    "FAST",
    "BatchJob",
    "Blob",
    "BudgetExceeded",
    "CarpoolError",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "DeadlineExceeded",
    "EmbedResponse",
    "GenerateResponse",
    "JobError",
    "JobStats",
    "KeyConflict",
    "LeaseLost",
    "MemoryStore",
    "NotBatchable",
    "Outcome",
    "Price",
    "QuotaExceeded",
    "Receipt",
    "Request",
    "RequestError",
    "RequestFailed",
    "RequestReceipt",
    "RequestRejected",
    "RequestTooLarge",
    "ResultMissing",
    "RouteTotals",
    "ServerError",
    "Settings",
    "Stats",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreVersion",
    "SubmitAmbiguous",
    "Ticket",
    "Usage",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reads files; most never ask

        return version("carpool")
    message = f"module 'carpool' has no attribute {name!r}"
    raise AttributeError(message)
