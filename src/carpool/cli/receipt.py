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
    those that run as well; a job is in it once its answers are settled. Services have tables of their own, by base
    URL: what an emulator bills is no money. Nothing is sent, and no API key is needed.

    Args:
        days: how many days, up to and with today.
        day: this day alone: 2026-11-21, today or yesterday.
        home: folder where state is kept, instead of the user's state folder.
        json: print one JSON object: "services" by "base_url", each with its "total", and "days" with the same of each,
            amounts in USD.
    """
    from carpool._upkeep import receipts_by_day
    from carpool.client import home_path

    today = datetime.now(UTC).date()
    first, last = (today - timedelta(days - 1), today) if day is None else (_day_of(day, today),) * 2
    services: dict[str, dict[date, Receipt]] = {}
    for base_url, of_days in sorted(receipts_by_day(home_path(home)).items(), key=_those_of_this_machine_last):
        if receipts := {when: one for when, one in of_days.items() if first <= when <= last}:
            services[base_url] = receipts
    if json:
        told = [_service_data(base_url, receipts) for base_url, receipts in services.items()]
        print_json({"first_day": first, "last_day": last, "services": told})
        return Exit.OK
    shown = [_print_days(base_url, receipts, file=sys.stdout) for base_url, receipts in services.items()]
    if not any(shown):
        print(_NOTHING)
    return Exit.OK


def _those_of_this_machine_last(service: tuple[str, object]) -> tuple[bool, str]:
    base_url = service[0]
    return not base_url.startswith("https:"), base_url


def _service_data(base_url: str, receipts: dict[date, Receipt]) -> dict[str, Any]:
    days = [{"day": when.isoformat(), **receipt_data(one)} for when, one in receipts.items()]
    return {"base_url": base_url, "total": receipt_data(_sum(receipts)), "days": days}


def _sum(receipts: dict[date, Receipt]) -> Receipt:
    return reduce(add, receipts.values(), _EMPTY)


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


def _print_days(base_url: str, receipts: dict[date, Receipt], *, file: TextIO) -> bool:
    """Print what was paid to a service; return whether there was anything."""
    total = _sum(receipts)
    if not total.requests and not total.notes:
        return False
    table = _new_table("day (UTC)", "route", "requests", *_AMOUNTS, left=2, title=f"Receipt: {base_url}")
    for when, receipt in receipts.items():
        for number, (route, totals) in enumerate(receipt.by_route.items()):
            day = "" if number else when.isoformat()
            table.add_row(day, route, f"{totals.requests:,}", *_shown(totals, total))
    if sum(len(receipt.by_route) for receipt in receipts.values()) > 1:
        table.add_section()
        table.add_row("all", "", f"{total.requests:,}", *_shown(total, total))
    _print(table, total, file)
    return True


def _shown(totals: RouteTotals | Receipt, beside: Receipt) -> tuple[str, ...]:
    return tuple(usd(amount, beside.list_usd) for amount in (totals.list_usd, totals.paid_usd, totals.saved_usd))


def _new_table(*heads: str, left: int = 1, title: str = "Receipt") -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
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
