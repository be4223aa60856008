"""Play the pages that need other libraries, each in its environment: ``python -m tests.docs --keep DIR``.

Owns the command. The environments are those of ``python -m tests.frameworks``: made if they are not in DIR. It leaves
with 1 if a page is not as it says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from .elsewhere import try_pages


def main() -> int:
    """Play what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="pages with this in their name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environments there, or use those that are")
    args = parser.parse_args()
    played = wrong = 0
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carpool-frameworks-")))
        folder.mkdir(parents=True, exist_ok=True)
        for page, complaint in try_pages(args.only, folder.resolve()):
            played += 1
            wrong += bool(complaint)
            sys.stdout.write(f"{'FAILED' if complaint else 'ok'} {page}\n{complaint}")
            sys.stdout.flush()
    if not played:
        parser.error(f"no page has {' or '.join(args.only)} in its name")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
