"""``carpool receipt``, and the receipt as a table and as data.

Owns how money is shown. Amounts come from the library; nothing is reckoned here but sums of receipts.
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

from cyclopts import Parameter
from cyclopts.validators import Number

from carpool import Receipt
from carpool._tables import usd
from carpool.cli.console import Exit, UsageError, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from carpool import RouteTotals

_NOTHING: Final = "Receipt: nothing was paid for"


def show_receipt(
    *,
    days: Annotated[int, Parameter(validator=Number(gte=1))] = 30,
    day: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Print what was paid for, by day and by route.

    A day is one in UTC, and money is on the day on which it was reserved. All programs that use the home are in it,
    those that run as well; a job is in it once its answers are settled. Nothing is sent, and no API key is needed.

    Args:
        days: how many days, up to and with today.
        day: this day alone: 2026-11-21, today or yesterday.
        home: folder where state is kept, instead of the user's state folder.
        json: print one JSON object: "total", and "days" with the same of each, amounts in USD.
    """
    from carpool._upkeep import receipts_by_day
    from carpool.client import home_path

    today = datetime.now(UTC).date()
    first, last = (today - timedelta(days - 1), today) if day is None else (_day_of(day, today),) * 2
    receipts = {when: one for when, one in receipts_by_day(home_path(home)).items() if first <= when <= last}
    total = reduce(add, receipts.values(), _EMPTY)
    if json:
        told = [{"day": when.isoformat(), **receipt_data(one)} for when, one in receipts.items()]
        print_json({"first_day": first, "last_day": last, "total": receipt_data(total), "days": told})
        return Exit.OK
    _print_days(receipts, total, file=sys.stdout)
    return Exit.OK


def _day_of(text: str, today: date) -> date:
    if text in _WORDS:
        return today - timedelta(_WORDS[text])
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--day is {text!r}; it must be a day such as {today}, or today, or yesterday") from None


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
    if not receipt.requests and not receipt.notes:
        print(_NOTHING, file=file)
        return
    table = _new_table("route", "requests", "jobs", *_AMOUNTS)
    for route, totals in receipt.by_route.items():
        table.add_row(
            route,
            f"{totals.requests:,}",
            f"{jobs:,}" if route == "batch" else "",
            *_shown(totals, receipt),
        )
    if len(receipt.by_route) > 1:
        table.add_section()
        table.add_row("all", f"{receipt.requests:,}", "", *_shown(receipt, receipt))
    _print(table, receipt, file)


def _print_days(receipts: dict[date, Receipt], total: Receipt, *, file: TextIO) -> None:
    if not total.requests and not total.notes:
        print(_NOTHING, file=file)
        return
    table = _new_table("day (UTC)", "route", "requests", *_AMOUNTS, left=2)
    for when, receipt in receipts.items():
        for number, (route, totals) in enumerate(receipt.by_route.items()):
            day = "" if number else when.isoformat()
            table.add_row(day, route, f"{totals.requests:,}", *_shown(totals, total))
    if sum(len(receipt.by_route) for receipt in receipts.values()) > 1:
        table.add_section()
        table.add_row("all", "", f"{total.requests:,}", *_shown(total, total))
    _print(table, total, file)


def _shown(totals: RouteTotals | Receipt, beside: Receipt) -> tuple[str, ...]:
    return tuple(usd(amount, beside.list_usd) for amount in (totals.list_usd, totals.paid_usd, totals.saved_usd))


def _new_table(*heads: str, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="Receipt", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < left else "right")
    return table


def _print(table: Table, receipt: Receipt, file: TextIO) -> None:
    from rich.console import Console

    console = Console(file=file)
    console.print(table)
    for note in receipt.notes:
        console.print(note)


_AMOUNTS: Final = ("list price", "paid", "saved")
_WORDS: Final = {"today": 0, "yesterday": 1}
_EMPTY: Final = Receipt.empty()
