"""A client against a server that cannot be trusted: a selection of what ``python -m tests.hostile`` plays at full size.

Every kind of attack on some kind of call, and every kind of call under some attacks. What must hold is said in
``playing``; sizes are small here, yet such that a client without caps would not stay below the limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import Final

import pytest

from .attacks import SCENARIOS, Attack, Sizes, all_attacks, behind_tls, everywhere, misnamed
from .playing import PEAK_KB_MAX, Stage, stage

SMALL: Final = Sizes(body=100 << 20, line=4_000_000, error=100 << 20, rows=20_000, headers=64 << 20, floods=1 << 20)
NAMES_ONLY: Final = Sizes(body=1 << 20, line=6_000, error=1, rows=1, headers=1, floods=1)
NAMES_APART: Final = 7
"""Of the many names and numbers that are none, every so manieth is given here."""
DOWNGRADES_APART: Final = 4
LIVE_APART: Final = 6
"""Of the attacks on every kind of call, every so manieth is played on live calls too."""
Name = tuple[str, str]


def names() -> Iterator[Name]:
    """Return the call and the name of each attack that is played here: those on every kind of call take turns."""
    common = everywhere(NAMES_ONLY)
    calls = cycle(SCENARIOS)
    turns = {name: next(calls) for name in common}
    live = list(common)[::LIVE_APART]
    given = [(attack.call, attack.name) for attack in misnamed()]
    for call, name in found(all_attacks(NAMES_ONLY)):
        if name in common:
            if turns[name] == call or (call == "live" and name in live):
                yield call, name
        elif (call, name) not in given or (call, name) in given[::NAMES_APART]:
            yield call, name


def found(attacks: list[Attack]) -> dict[Name, Attack]:
    """Return attacks by call and name."""
    return {(attack.call, attack.name): attack for attack in attacks}


@pytest.fixture(scope="module")
def attacks() -> dict[Name, Attack]:
    """Return all attacks, at the sizes of these tests."""
    return found(all_attacks(SMALL))


@pytest.fixture(scope="module")
async def played() -> AsyncIterator[Stage]:
    """Return a stage with an origin of plain http."""
    async with stage() as made:
        yield made


@pytest.fixture(scope="module")
async def played_behind_tls() -> AsyncIterator[Stage]:
    """Return a stage with an origin of https."""
    async with stage(secure=True) as made:
        yield made


@pytest.mark.parametrize("name", list(names()), ids=lambda name: ascii(": ".join(name))[1:-1])
async def test_a_client_lives_through(name: Name, attacks: dict[Name, Attack], played: Stage) -> None:
    result = await played.play(attacks[name])
    assert result.faults == []
    assert result.hits >= 1
    assert result.peak_kb <= PEAK_KB_MAX


@pytest.mark.parametrize(
    "name", sorted(found(behind_tls()))[::DOWNGRADES_APART], ids=lambda name: ascii(": ".join(name))[1:-1]
)
async def test_a_client_of_an_https_origin_is_not_led_to_plain_http(name: Name, played_behind_tls: Stage) -> None:
    assert (await played_behind_tls.play(found(behind_tls())[name])).faults == []
