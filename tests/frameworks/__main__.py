"""Try real libraries, each in an environment of its own: ``python -m tests.frameworks``.

It makes the environments of ``environments.toml`` by pip and npm (several gigabytes are not unusual), runs each program
in them against the bundled emulator, through ``carpool serve`` or in process, and prints a table. It leaves with 1 if a
row failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from .matrix import Outcome, table, try_all
from .plan import Row, read


def chosen(rows: list[Row], only: list[str]) -> list[Row]:
    """Return the rows that have one of the words in their names."""
    return [row for row in rows if not only or any(word in row.name for word in only)]


def main() -> int:
    """Try what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows with this in their name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environments there, or use those that are")
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and try none")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row, and no table")
    args = parser.parse_args()
    rows = chosen(read(), args.only)
    if not rows:
        parser.error(f"no row has {' or '.join(args.only)} in its name; --list shows all")
    if args.list:
        sys.stdout.writelines(f"{row.name} ({row.way})\n" for row in rows)
        return 0
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carpool-frameworks-")))
        folder.mkdir(parents=True, exist_ok=True)
        for outcome in try_all(rows, folder.resolve()):
            outcomes.append(outcome)
            sys.stderr.write(f"{'FAILED' if outcome.wrong else 'ok'} {outcome.row}, {outcome.took_s:.0f} s\n")
            for wrong in outcome.wrong:
                sys.stderr.write(f"    {wrong}\n")
            if args.json:
                sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
                sys.stdout.flush()
    if not args.json:
        sys.stdout.write(table(outcomes))
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
