"""An emulated service, and the program that calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from carpool.emulator import Plan

from .program import API_KEY, Inside, Program, Service


@pytest.fixture
def service() -> Iterator[Service]:
    """A service whose jobs take no time."""
    with Service(Plan(latency_s=0.05)) as service:
        yield service


@pytest.fixture
def program(service: Service, tmp_path: Path) -> Program:
    """The program, pointed at the service."""
    home = tmp_path / "home"
    return Program(tmp_path, CARPOOL_BASE_URL=service.base_url, CARPOOL_HOME=str(home), GEMINI_API_KEY=API_KEY)


@pytest.fixture
def inside(program: Program, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inside:
    """The same within this process."""
    return Inside(program, monkeypatch, capfd)
