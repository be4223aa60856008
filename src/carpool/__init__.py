"""carpool: await single Gemini calls; they share Batch API jobs at half the price."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from carpool.errors import (
    BudgetExceeded,
    CacheError,
    CarpoolError,
    CarpoolWarning,
    ClientClosed,
    ConfigurationError,
    DeadlineExceeded,
    FileError,
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
    Alarm,
    BatchJob,
    Blob,
    Cache,
    File,
    FunctionCall,
    Health,
    JobStats,
    Receipt,
    Request,
    RequestReceipt,
    RouteTotals,
    ServerError,
    Stats,
    Usage,
)

if TYPE_CHECKING:
    from carpool import sync as sync
    from carpool._deadline import deadline as deadline
    from carpool._stores.memory import MemoryStore
    from carpool._tuning import tune as tune
    from carpool.client import Client
    from carpool.surfaces.lifespans import cleanup_ctx as cleanup_ctx
    from carpool.surfaces.lifespans import lifespan as lifespan
    from carpool.surfaces.transport import genai_client as genai_client
    from carpool.surfaces.transport import http_options as http_options

    __version__: str

__all__ = [
    "CHEAP",
    "FAST",
    "Alarm",
    "BatchJob",
    "Blob",
    "BudgetExceeded",
    "Cache",
    "CacheError",
    "CarpoolError",
    "CarpoolWarning",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "DeadlineExceeded",
    "EmbedResponse",
    "File",
    "FileError",
    "FunctionCall",
    "GenerateResponse",
    "Health",
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
    "cleanup_ctx",
    "deadline",
    "genai_client",
    "http_options",
    "lifespan",
    "tune",
]


# What brings sockets and databases along is loaded when it is first asked for: pytest loads this package in every run,
# for its plugin.
_LAZY = {
    "Client": "carpool.client",
    "MemoryStore": "carpool._stores.memory",
    "cleanup_ctx": "carpool.surfaces.lifespans",
    "deadline": "carpool._deadline",
    "genai_client": "carpool.surfaces.transport",
    "http_options": "carpool.surfaces.transport",
    "lifespan": "carpool.surfaces.lifespans",
    "tune": "carpool._tuning",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        found: object = getattr(import_module(_LAZY[name]), name)
    elif name == "sync":
        found = import_module("carpool.sync")
    elif name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reads files; most never ask

        found = version("carpool")
    else:
        message = f"module 'carpool' has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = found
    return found
