"""What every test shares: the event loop it runs on and how hard hypothesis looks.

Owns no fixture of a subject under test; those live beside their users.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from .canary import Canaries

# Of the package's plugin nothing happens twice where the package is installed: its entry point has the same name.
pytest_plugins = ("pytester", "carpool.emulator.pytest_plugin")

# No deadline and no complaint about slow data: the machines that run this are shared, so time says nothing.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)

# "default" looks at the same examples in every run, so that a red run is the change's doing.
settings.register_profile("default", _PATIENT, derandomize=True)
# "explore" looks at new ones, and at more: HYPOTHESIS_PROFILE=explore pytest
settings.register_profile("explore", _PATIENT, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Let secrets be looked for all the time. Without a name, so that no option of the command line can block it."""
    config.pluginmanager.register(Canaries())


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test on asyncio: the library is asyncio's alone."""
    return "asyncio"
