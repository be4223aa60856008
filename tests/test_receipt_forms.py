"""Receipts and snapshots as text and HTML: readable, escaped, and of nothing from elsewhere."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from carpool import Health, Receipt, RequestReceipt, RouteTotals, Stats
from carpool._tables import html_table, text_table

EVIL = '<script src="https://evil.example/x.js">&"'
RECEIPT = Receipt(
    by_route={
        "batch": RouteTotals(requests=2_242, list_usd=Decimal("16.1477916"), paid_usd=Decimal("8.0738958")),
        "standard": RouteTotals(requests=1_630, list_usd=Decimal("0.83026"), paid_usd=Decimal("0.83026")),
    },
    doubles=2,
    overrun_usd=Decimal("0.5"),
    unknown_cost=651,
    double_usd=Decimal("0.25"),
    lost_usd=Decimal("0.125"),
)
STATS = Stats(
    waiting=1, waiting_bytes=2_000, sent=3, answered=4, failed=5, retried=6, reused=7, jobs=8, jobs_created=9,
    queued_callers=10, parked=11, foreign=12,
)  # fmt: skip


class Reader(HTMLParser):
    """Insists that every tag is closed, and that none of them fetches anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
        assert [name for name, _ in attrs] in ([], ["style"])
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> list[str]:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    assert "http" not in html.replace("https://evil.example", "")
    return reader.words


def test_a_receipt_is_a_table_of_text() -> None:
    assert str(RECEIPT).splitlines() == [
        "route     requests  list price     paid    saved",
        "batch        2,242    $16.1478  $8.0739  $8.0739",
        "standard     1,630     $0.8303  $0.8303  $0.0000",
        "all          3,872    $16.9781  $8.9042  $8.0739",
        "Without a price, since model or token count is not known: 651.",
        "Jobs or requests that the server got twice: 2; paid or lost for that: $0.2500.",
        "Paid beyond what was reserved: $0.5000.",
        "Reserved for what never told its cost: $0.1250.",
    ]
    assert str(Receipt.empty()).splitlines()[1:] == ["all           0       $0.00  $0.00  $0.00"]


def test_a_receipt_is_a_table_of_html_with_the_same_words() -> None:
    words = read(RECEIPT._repr_html_())
    assert words[0] == "Receipt"
    cells = [cell for line in str(RECEIPT).splitlines()[1:4] for cell in line.split()]
    assert [cell for cell in cells if cell not in words] == []
    assert words[-4:] == RECEIPT.notes


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (STATS, ["waiting bytes", "2,000"]),
        (Health(status="degraded", reasons=[f"twins: {EVIL}"]), ["degraded", f"twins: {EVIL}"]),
        (
            RequestReceipt(route="batch", job=EVIL, waited_s=3_700.25, list_usd=None, paid_usd=Decimal("0.00001")),
            [EVIL, "3,700.2 s", "not known", "$0.000010000"],
        ),
        (
            RequestReceipt(
                route="flex",
                job="",
                waited_s=1.0,
                list_usd=Decimal(0),
                paid_usd=Decimal(0),
                reused=True,
                reused_age_s=5.0,
            ),
            ["none", "reused, after", "5.0 s"],
        ),
    ],
)
def test_snapshots_are_tables_whose_words_are_escaped(told: Any, wanted: list[str]) -> None:
    words = read(told._repr_html_())
    assert [word for word in wanted if word not in words] == []


def test_tables_escape_whatever_is_in_them() -> None:
    words = read(html_table(EVIL, (EVIL, "a"), [(EVIL, EVIL)], [EVIL]))
    assert words == [EVIL, EVIL, "a", EVIL, EVIL, EVIL]
    assert text_table(("a", "b"), []) == "a  b"


def test_numbers_stand_to_the_right_and_their_sum_below_a_line() -> None:
    rows = RECEIPT._repr_html_().split("<tr>")[1:]
    assert all("text-align:right" in row for row in rows)
    assert ["border-top" in row for row in rows] == [False, True, False, True]
    words = RequestReceipt(route="flex", job="", waited_s=1.0, list_usd=None, paid_usd=None)._repr_html_()
    assert "right" not in words
    assert "border-top" not in words


def test_the_receipt_of_an_answer_is_a_line_of_text() -> None:
    half, full = Decimal("0.05"), Decimal("0.1")
    batch = RequestReceipt(route="batch", job="batches/a", waited_s=3_700.25, list_usd=full, paid_usd=half)
    assert str(batch) == "batch, batches/a: paid $0.050000, list price $0.100000, waited 3,700.2 s"
    live = RequestReceipt(
        route="flex", job="", waited_s=1.0, list_usd=None, paid_usd=None, reused=True, reused_age_s=5.0
    )
    assert str(live) == "flex: paid not known, list price not known, waited 1.0 s; reused, 5.0 s old"


def test_receipts_add_up() -> None:
    double = RECEIPT + RECEIPT
    assert double.paid_usd == 2 * RECEIPT.paid_usd
    assert (double.doubles, double.unknown_cost, double.lost_usd) == (4, 1_302, Decimal("0.25"))
    assert Receipt.empty() + RECEIPT == RECEIPT == RECEIPT + Receipt.empty()
    assert RECEIPT.by_route["batch"].requests == 2_242, "its parts are left alone"
