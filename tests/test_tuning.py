"""Tuning the interpreter: only where it is asked for."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
before = gc.get_threshold(), gc.get_freeze_count()
import carpool, carpool.client, carpool.sync
print((gc.get_threshold(), gc.get_freeze_count()) == before)
carpool.tune()
print(gc.get_threshold(), gc.get_freeze_count() > 1_000, gc.isenabled())
circle = []
circle.append(circle)
del circle
print(gc.collect())
"""


def test_importing_changes_nothing_and_tuning_makes_collections_rare() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "(100000, 50, 1000) True True", "1"]
