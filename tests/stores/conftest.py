"""A home, the slot that the first store in it has, and such a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from carpool._stores.disk import DiskStore
from carpool.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def slot(home: Path) -> Path:
    return home / "slot-0"


@pytest.fixture
async def store(home: Path) -> AsyncIterator[DiskStore]:
    store = DiskStore(home, Settings())
    await store.open()
    yield store
    await store.close()
