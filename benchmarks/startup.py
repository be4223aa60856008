"""CPU seconds of `import carpool` and of its client, in this fresh process.

    python benchmarks/startup.py

`import_cpu_s` is of the import alone, `client_cpu_s` of naming `carpool.Client` after it, which loads the rest.
"""

from __future__ import annotations

import os
import sys

import harness

began = os.times()
import carpool  # noqa: E402 - it is what is measured

imported = os.times()
_ = carpool.Client
loaded = os.times()


def main() -> None:
    google = sorted(name for name in sys.modules if name == "google" or name.startswith("google."))
    harness.tell(
        {
            "subject": "startup",
            "import_cpu_s": imported.user + imported.system - began.user - began.system,
            "client_cpu_s": loaded.user + loaded.system - imported.user - imported.system,
            "google_modules": google,
        }
    )


if __name__ == "__main__":
    main()
