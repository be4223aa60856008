"""Fixtures for users' own tests; pytest finds them as soon as carpool is installed.

* ``gemini_emulator``: an emulated Gemini of the test's own, see :class:`carpool.emulator.EmulatorThread`. It serves
  from a thread, so that synchronous and asynchronous tests can use it alike.
* ``gemini_emulator_plan``: how it behaves; override it, or set ``gemini_emulator.plan`` in the test::

      @pytest.fixture
      def gemini_emulator_plan():
          return Plan(latency_s=0.5, faults={"get.503": Fault(count=1)})

* ``gemini_emulator_env``: the same emulator, with ``CARPOOL_BASE_URL``, ``GOOGLE_GEMINI_BASE_URL`` and
  ``GEMINI_API_KEY`` set for it while the test runs (``GOOGLE_API_KEY`` is unset), for code that takes its settings
  from the environment.

Owns the fixtures. pytest loads this module in every run, so it loads nothing before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .plan import Plan
    from .thread import EmulatorThread

_API_KEY = "AIza-emulated"


@pytest.fixture
def gemini_emulator_plan() -> Plan:
    """Say how ``gemini_emulator`` behaves; override it to have it behave otherwise."""
    from .plan import Plan

    return Plan()


@pytest.fixture
def gemini_emulator(gemini_emulator_plan: Plan) -> Iterator[EmulatorThread]:
    """Run an emulated Gemini: it has .base_url, .plan (settable), .requests, .ledger() and .jobs()."""
    from .thread import EmulatorThread

    with EmulatorThread(gemini_emulator_plan) as emulator:
        yield emulator


@pytest.fixture
def gemini_emulator_env(gemini_emulator: EmulatorThread, monkeypatch: pytest.MonkeyPatch) -> EmulatorThread:
    """Run an emulated Gemini, with the environment pointing carpool and google-genai at it."""
    monkeypatch.setenv("CARPOOL_BASE_URL", gemini_emulator.base_url)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini_emulator.base_url)
    monkeypatch.setenv("GEMINI_API_KEY", _API_KEY)
    # It would win over the other, and the real one has no business at an emulator.
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    return gemini_emulator
