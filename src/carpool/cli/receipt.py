"""The receipt as a table and as data.

Owns how money is shown. Amounts come from the library; nothing is reckoned here.
"""

from __future__ import annotations

from typing import Any, TextIO

from carpool import Receipt
from carpool.cli.console import usd


def receipt_data(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as plain data, amounts in USD."""
    return {
        "requests": receipt.requests,
        "list_usd": receipt.list_usd,
        "paid_usd": receipt.paid_usd,
        "saved_usd": receipt.saved_usd,
        "unknown_cost": receipt.unknown_cost,
        "doubles": receipt.doubles,
        "overrun_usd": receipt.overrun_usd,
        "double_usd": receipt.double_usd,
        "lost_usd": receipt.lost_usd,
        "by_route": {
            route: {
                "requests": totals.requests,
                "list_usd": totals.list_usd,
                "paid_usd": totals.paid_usd,
                "saved_usd": totals.saved_usd,
            }
            for route, totals in receipt.by_route.items()
        },
    }


def print_receipt(receipt: Receipt, *, jobs: int, file: TextIO) -> None:
    """Print a receipt as a table.

    Args:
        receipt: the account.
        jobs: how many jobs were created.
        file: where to.
    """
    if not receipt.requests:
        print("Receipt: nothing was paid for", file=file)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Receipt", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("route")
    for heading in ("requests", "jobs", "list price", "paid", "saved"):
        table.add_column(heading, justify="right")
    for route, totals in receipt.by_route.items():
        table.add_row(
            route,
            f"{totals.requests:,}",
            f"{jobs:,}" if route == "batch" else "",
            *(usd(amount, receipt.list_usd) for amount in (totals.list_usd, totals.paid_usd, totals.saved_usd)),
        )
    console = Console(file=file)
    console.print(table)
    if receipt.unknown_cost:
        console.print(f"Without a price, since model or token count is not known: {receipt.unknown_cost:,}.")
    if receipt.doubles:
        console.print(
            f"Jobs or requests that the server got twice: {receipt.doubles:,}; paid or lost for that: "
            f"{usd(receipt.double_usd, receipt.list_usd)}."
        )
    if receipt.overrun_usd:
        console.print(f"Paid beyond what was reserved: {usd(receipt.overrun_usd, receipt.list_usd)}.")
    if receipt.lost_usd:
        console.print(f"Reserved for what never told its cost: {usd(receipt.lost_usd, receipt.list_usd)}.")
