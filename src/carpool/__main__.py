"""``python -m carpool``."""

from __future__ import annotations

import sys

from carpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
