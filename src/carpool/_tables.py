"""Small tables as text and as HTML: how receipts and snapshots show themselves in terminals and notebooks.

Owns how money is written for people, and what an HTML table of ours is made of: escaped words, nothing from elsewhere.
It must not know what the rows say.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape


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


def html_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Return an HTML table that needs nothing from elsewhere; all words are escaped.

    Args:
        title: its caption.
        heads: of the columns; empty: there is no such row.
        rows: the first cell of each is its head.
        notes: lines below it.
    """
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    parts = [f"<table><caption>{escape(title)}</caption>"]
    if heads:
        parts.append(f"<thead><tr>{head}</tr></thead>")
    parts.append("<tbody>")
    for first, *rest in rows:
        cells = "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in rest)
        parts.append(f'<tr><th style="text-align:left">{escape(first)}</th>{cells}</tr>')
    parts.append("</tbody></table>")
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return "".join(parts)
