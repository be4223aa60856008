"""Google's own SDK, unchanged, in two major versions, finds in the emulator what it expects of Google."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from . import matrix

# The environment of the older SDK is made on the way.
pytestmark = pytest.mark.timeout(300)
WAYS = [str(way) for way in matrix.WAYS]


@pytest.fixture(scope="session")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, matrix.Ran]:
    """All calls, made in all ways. The environment of the older SDK is kept where pytest keeps its cache."""
    cache = getattr(request.config, "cache", None)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = tmp_path_factory.mktemp("sdk2") if cache is None else Path(cache.mkdir(f"google-genai-2-{version}"))
    python = matrix.environment(folder)
    return {str(one.way): one for one in asyncio.run(matrix.run_all(python))}


@pytest.mark.parametrize("way", WAYS)
def test_every_call_of_the_sdk_does_what_it_does_with_google(ran: dict[str, matrix.Ran], way: str) -> None:
    failed = ran[way].failed
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())


@pytest.mark.parametrize("way", WAYS)
def test_no_public_method_of_the_sdk_is_left_out(ran: dict[str, matrix.Ran], way: str) -> None:
    """Each is driven, or driven into a refusal whose reason is given: a new SDK cannot add one unseen."""
    assert ran[way].about["undriven"] == []
    refusals = [line for line in ran[way].lines if line["outcome"] == "refused"]
    assert all(line["why"] for line in refusals)


def test_all_ways_make_the_same_calls_over_both_versions_of_the_api(ran: dict[str, matrix.Ran]) -> None:
    cases = {way: set(one.outcomes) for way, one in ran.items()}
    assert all(made == cases[WAYS[0]] for made in cases.values())
    assert len(cases[WAYS[0]]) > 60
    for one in ran.values():
        assert {line["version"] for line in one.lines} == {"v1", "v1beta"}
        assert len(one.lines) == 2 * len(one.outcomes)


def test_the_ways_are_the_ways_they_say(ran: dict[str, matrix.Ran]) -> None:
    seen = {way: (one.about["sdk"].partition(".")[0], one.about["transport"]) for way, one in ran.items()}
    assert seen == {
        "2.x sync": ("2", "httpx"),
        "2.x async": ("2", "httpx"),
        "2.x async aiohttp": ("2", "aiohttp"),
        "3.x sync": ("3", "httpx2"),
        "3.x async": ("3", "httpx2"),
        "3.x async aiohttp": ("3", "aiohttp"),
    }


def test_the_matrix_is_a_table_with_a_row_for_each_case(ran: dict[str, matrix.Ran]) -> None:
    table = matrix.markdown(list(ran.values())).split("\n")
    assert len([row for row in table if row.startswith("| `")]) == len(ran[WAYS[0]].outcomes)
