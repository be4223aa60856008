"""Where the time of a run goes: samples of py-spy, summed up by the file that was at work.

    py-spy record -r 500 -t -f raw -o samples.txt -- python benchmarks/carpool_client.py 100000 --base-url ...
    python benchmarks/where.py samples.txt [--page docs/explanation/performance.md]

A sample counts for its innermost frame: C code (JSON, SQLite, sockets, tasks) for the Python that called it. The loop's
thread and the one that owns the store are told apart, what was imported is left out. With `--gil`, py-spy samples
only who holds the interpreter's lock.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import report

FILE = re.compile(r" \((?P<file>[^()]*?)(?::\d+)?\)$")
STORE_THREAD = "Writer.run "
IMPORTING = "<frozen importlib"
PROGRAM = re.compile(r"(?:carpool_client|harness)\.py$")
LEAST_SHARE = 0.01


def owner(stack: list[str]) -> str:
    """Return whose the innermost frame is: a file of carpool, the program, or a library."""
    found = FILE.search(stack[-1])
    file = found["file"] if found else stack[-1]
    if file.startswith("carpool/"):
        return file
    return "the program, its tasks and futures" if PROGRAM.search(file) else file.partition("/")[0]


def count(samples: str) -> Counter[tuple[str, str]]:
    """Return samples by thread and owner."""
    counted: Counter[tuple[str, str]] = Counter()
    for line in samples.splitlines():
        folded, _, number = line.rpartition(" ")
        if IMPORTING in folded:
            continue
        stack = folded.split(";")
        thread = "store" if any(frame.startswith(STORE_THREAD) for frame in stack) else "loop"
        counted[thread, owner(stack)] += int(number)
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description="Sum up samples of py-spy by the file that was at work.")
    parser.add_argument("samples", type=Path, help="what py-spy wrote with -t -f raw")
    parser.add_argument("--page", type=Path, help="a page whose profile is renewed")
    args = parser.parse_args()
    counted = count(args.samples.read_text("utf-8"))
    total = counted.total()
    rows = [
        (f"{number / total:.1%}", thread, name)
        for (thread, name), number in counted.most_common()
        if number >= LEAST_SHARE * total
    ]
    if args.page is None:
        print(report.in_columns(rows))
    else:
        report.between(args.page, "profile", "\n".join(report.markdown([("share", "thread", "at work"), *rows])))


if __name__ == "__main__":
    main()
