"""Settings that cannot work are refused where they are made, by name; the environment gives what its fields take."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from carpool import ConfigurationError, Settings
from carpool.settings import _RANGES, check_ladder

BESIDE: Final[dict[str, dict[str, Any]]] = {
    "linger_s": {"linger_max_s": 86_400.0},
    "linger_max_s": {"linger_s": 0.0},
    "poll_min_s": {"poll_max_s": 86_400.0},
    "poll_max_s": {"poll_min_s": 0.001},
}
"""What must be set along, so that a setting may be at its limit."""


@pytest.mark.parametrize(("name", "low", "high"), _RANGES, ids=[name for name, _, _ in _RANGES])
def test_a_number_out_of_its_range_is_refused_and_its_limits_are_not(name: str, low: Any, high: Any) -> None:
    below, above = (low - 1, high + 1) if isinstance(high, int) else (low - 1e-6, math.nan)
    for wrong in (below, above, math.nan, Decimal("NaN"), "5"):
        with pytest.raises(ConfigurationError) as caught:
            Settings(**{name: wrong})
        assert str(caught.value) == f"Settings.{name} is {wrong!r}; it must be between {low} and {high}"
    for limit in (low, high):
        assert getattr(Settings(**(BESIDE.get(name, {}) | {name: limit})), name) == limit


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"linger_s": 2.0, "linger_max_s": 1.9}, "Settings.linger_max_s must not be below linger_s"),
        ({"poll_min_s": 2.0, "poll_max_s": 1.9}, "Settings.poll_max_s must not be below poll_min_s"),
        ({"upload_chunk_bytes": 262_145}, "Settings.upload_chunk_bytes must be a multiple of 262144"),
        ({"label": "Upper"}, "Settings.label takes lower-case letters, digits and dashes, at most 32"),
        ({"label": "a_b"}, "Settings.label takes lower-case letters, digits and dashes, at most 32"),
        ({"label": "a" * 33}, "Settings.label takes lower-case letters, digits and dashes, at most 32"),
        ({"on_close": "wait"}, "Settings.on_close is 'wait'; it must be 'keep', 'drain' or 'cancel'"),
        ({"ladder": ()}, "it must be a tuple of distinct routes out of 'batch', 'flex', 'standard'"),
        ({"ladder": ("batch", "batch")}, "it must be a tuple of distinct routes out of 'batch', 'flex', 'standard'"),
        ({"ladder": ("bus",)}, "it must be a tuple of distinct routes out of 'batch', 'flex', 'standard'"),
    ],
)
def test_settings_that_contradict_each_other_or_cannot_be_used_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**fields)
    assert words in str(caught.value)


def test_what_is_just_within_the_rules_is_taken() -> None:
    settings = Settings(linger_s=2.0, linger_max_s=2.0, poll_min_s=3.0, poll_max_s=3.0, label="a-1" * 10)
    assert (settings.linger_max_s, settings.poll_max_s, settings.label) == (2.0, 3.0, "a-1" * 10)
    assert Settings(ladder=("flex", "standard")).ladder == ("flex", "standard")
    assert check_ladder(["batch"]) == ("batch",)
    for no_ladder in ("batch", None, 5):
        with pytest.raises(ConfigurationError, match="ladder is"):
            check_ladder(no_ladder)


def test_every_number_that_may_be_set_has_a_range() -> None:
    numbers = {
        field.name
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert numbers - {name for name, _, _ in _RANGES} == set()


def test_the_environment_gives_what_was_not_given_in_code() -> None:
    environ = {
        "CARPOOL_LINGER_S": "0.25",
        "CARPOOL_DELETE_REMOTE": "true",
        "CARPOOL_LABEL": "nightly",
        "CARPOOL_JOBS_MAX": "7",
        "CARPOOL_PRICES": "ignored: not to be had from here",
        "CARPOOL_LADDER": "ignored too",
        "CARPOOL_ATTEMPTS_MAX": "cannot be used, and need not be",
        "LINGER_S": "9",
    }
    settings = Settings.from_env(environ, jobs_max=3, attempts_max=2)
    assert (settings.linger_s, settings.delete_remote, settings.label) == (0.25, True, "nightly")
    assert (settings.jobs_max, settings.attempts_max) == (3, 2)
    assert (settings.prices, settings.ladder) == (Settings().prices, None)
    assert Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"), [("LINGER_S", "soon"), ("LINGER_S", "1,2"), ("JOBS_MAX", "1.5"), ("ON_CLOSE", "wait")]
)
def test_a_variable_that_cannot_be_used_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({f"CARPOOL_{name}": text})
    assert f"CARPOOL_{name}={text!r} cannot be used: " in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("jobs_max", "0", "0"),
        ("linger_s", "nan", "nan"),
        ("linger_s", "inf", "inf"),
        ("inline_cost_max_usd", "NaN", "Decimal('NaN')"),
    ],
)
def test_a_variable_out_of_its_range_is_refused_as_in_code(name: str, text: str, shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({f"CARPOOL_{name.upper()}": text})
    assert str(caught.value).startswith(f"Settings.{name} is {shown}; it must be between ")


def test_a_variable_may_say_that_a_limit_is_off() -> None:
    optional = [field for field in msgspec.structs.fields(Settings) if field.default is None and field.name != "ladder"]
    assert optional
    for field in optional:
        assert getattr(Settings.from_env({f"CARPOOL_{field.name.upper()}": "none"}), field.name) is None
