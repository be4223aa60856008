"""Small tables as text and as HTML: how receipts and snapshots show themselves in terminals and notebooks.

Owns how money is written for people, and what an HTML table of ours is made of: escaped words, nothing from elsewhere.
It must not know what the rows say.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Final

_TABLE: Final = "border-collapse:collapse;font-variant-numeric:tabular-nums"
_CAPTION: Final = "text-align:left;font-weight:bold;padding:.2em .6em"
_CELL: Final = "padding:.25em .6em;text-align:"
_LINE: Final = ";border-top:1px solid rgba(128,128,128,.5)"
"""Grey, half through: it is seen on white and on black."""


def usd(amount: Decimal, beside: Decimal) -> str:
    """Return an amount for people: the smaller the largest amount beside it is, the more digits."""
    digits = 2 if beside >= 100 or not beside else 4 if beside >= 1 else 6 if beside >= Decimal("0.01") else 9
    return f"${amount:,.{digits}f}"


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Return lines: heads and rows in columns, the first to the left and the others to the right, and notes."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *(map(str.rjust, cells[1:], widths[1:]))]).rstrip()
        for cells in (heads, *rows)
    ]
    return "\n".join([*lines, *notes])


def html_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    *,
    numbers: bool = True,
    sums: bool = False,
) -> str:
    """Return an HTML table that needs nothing from elsewhere; all words are escaped.

    Args:
        title: its caption.
        heads: of the columns; empty: there is no such row.
        rows: the first cell of each is its head.
        notes: lines below it.
        numbers: the other cells of a row are numbers, and stand to the right.
        sums: the last row is the sum of those before.
    """
    side = "right" if numbers else "left"
    parts = [f'<table style="{_TABLE}"><caption style="{_CAPTION}">{escape(title)}</caption>']
    if heads:
        parts.append(f"<thead>{_html_row('th', heads, side)}</thead>")
    parts.append("<tbody>")
    for number, row in enumerate(rows, 1):
        line = _LINE if (number == 1 and heads) or (sums and number == len(rows)) else ""
        parts.append(_html_row("td", row, side, line))
    parts.append("</tbody></table>")
    parts += [f'<p style="margin:.2em .6em">{escape(note)}</p>' for note in notes]
    return "".join(parts)


def _html_row(tag: str, row: Sequence[str], side: str, line: str = "") -> str:
    first, *rest = row
    cells = "".join(f'<{tag} style="{_CELL}{side}{line}">{escape(cell)}</{tag}>' for cell in rest)
    return f'<tr><th style="{_CELL}left{line}">{escape(first)}</th>{cells}</tr>'
