"""Live calls under pressure: storms with a beginning and an end, and what a model may use within a minute."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carpool.emulator import Fault, Plan

from .driver import EMBED_MODEL, MODEL, Driver, content, prompt

GENERATE = f"/v1beta/models/{MODEL}:generateContent"
OTHER = "/v1beta/models/gemini-2.5-flash:generateContent"
EMBED = f"/v1beta/models/{EMBED_MODEL}:embedContent"
EMBED_MANY = f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents"


def status(world: Driver, path: str = GENERATE, body: Any = None) -> int:
    return world.call("POST", path, prompt("x") if body is None else body).status


def quota_of(error: Any) -> tuple[str, str, str]:
    """Return the name and the value of the quota that an error says is used up, and when to try again."""
    _, failure, retry = error["details"]
    violation = failure["violations"][0]
    return violation["quotaId"], violation["quotaValue"], retry["retryDelay"]


# -- storms


def test_a_fault_can_have_a_beginning_and_an_end() -> None:
    world = Driver(Plan(faults={"generate.503": Fault(from_s=60.0, until_s=180.0)}))
    world.wait(1_000)
    seen = []
    for _ in range(25):
        seen.append(status(world))
        world.wait(10)
    assert seen == [200] * 6 + [503] * 12 + [200] * 7, "counted from the first call"


def test_a_storm_refuses_its_share_and_only_then() -> None:
    storm = Fault(probability=0.8, from_s=100.0, until_s=220.0, seconds=7.0)
    world = Driver(Plan(faults={"generate.429": storm, "embed.503": Fault(until_s=50.0)}))
    seen: list[tuple[float, int]] = []
    for second in range(300):
        seen.append((second, status(world)))
        world.wait(1)
    assert {code for at, code in seen if not 100 <= at < 220} == {200}
    refused = sum(code == 429 for _, code in seen)
    assert 80 <= refused <= 110
    assert status(world, EMBED, content("x")) == 200
    assert world.ledger().live_calls == 300 - refused + 1


def test_occasions_out_of_its_time_do_not_count() -> None:
    world = Driver(Plan(faults={"generate.503": Fault(from_s=10.0, after=1, count=2)}))
    seen = []
    for _ in range(8):
        seen.append(status(world))
        world.wait(5)
    assert seen == [200, 200, 200, 503, 503, 200, 200, 200]


def test_another_plan_begins_its_own_time() -> None:
    plan = Plan(faults={"generate.503": Fault(until_s=10.0)})
    world = Driver(plan)
    assert status(world) == 503
    world.wait(10)
    assert status(world) == 200
    world.world.plan = plan
    world.wait(1_000)
    assert status(world) == 503


def test_faults_of_jobs_and_rows_have_their_time_too() -> None:
    world = Driver(Plan(faults={"job.failed": Fault(from_s=5.0), "row.error": Fault(until_s=5.0)}))
    early = world.create({"request": prompt("x")})
    world.wait(5)
    late = world.create({"request": prompt("x")})
    assert "error" in world.inline(early)[0]
    assert world.state(late) == "BATCH_STATE_FAILED"


def test_times_travel_as_json_and_are_checked() -> None:
    plan = Plan(faults={"generate.429": Fault(from_s=1.0, until_s=2.0, quota="tokens_day")})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    for bad in ({"from_s": -1.0}, {"from_s": 2.0, "until_s": 1.0}):
        with pytest.raises(ValueError, match="from_s"):
            Fault(**bad)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"faults": {"generate.429": {"quota": "coffee"}}}', type=Plan)


# -- which quota


@pytest.mark.parametrize(
    ("quota", "name"),
    [
        ("requests_minute", "GenerateRequestsPerMinutePerProjectPerModel-PaidTier"),
        ("tokens_minute", "GenerateContentPaidTierInputTokensPerModelPerMinute"),
        ("requests_day", "GenerateRequestsPerDayPerProjectPerModel"),
        ("tokens_day", "GenerateContentInputTokensPerModelPerDay"),
    ],
)
def test_a_refusal_names_the_quota_that_is_planned(quota: Any, name: str) -> None:
    world = Driver(Plan(faults={"generate.429": Fault(quota=quota, seconds=3_600.0)}))
    error = world.error("POST", GENERATE, prompt("x"))
    assert quota_of(error)[0] == name
    assert quota_of(error)[2] == "3600s"
    assert error["message"].endswith("Please retry in 3600s.")


# -- a minute


@pytest.mark.parametrize("limit", [3, {MODEL: 3, EMBED_MODEL: 3}])
def test_requests_of_a_minute_are_limited_by_model_and_come_back(limit: Any) -> None:
    world = Driver(Plan(live_requests_per_minute=limit))
    for _ in range(3):
        assert status(world) == 200
        world.wait(10)
    error = world.error("POST", GENERATE, prompt("x", serviceTier="flex"))
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert quota_of(error) == ("GenerateRequestsPerMinutePerProjectPerModel-PaidTier", "3", "30s")
    assert "limit: 3, " in error["message"]
    assert status(world, OTHER) == 200
    assert status(world, f"/v1beta/models/{MODEL}:countTokens") == 200
    assert status(world, f"/v1beta/models/{MODEL}:streamGenerateContent") == 429
    world.wait(30)
    assert status(world) == 200, "refused calls do not count"
    assert status(world) == 429
    assert world.ledger().live_calls == 5


def test_each_content_of_an_embedding_call_counts() -> None:
    world = Driver(Plan(live_requests_per_minute=3))
    many = {"requests": [content(f"{n}", model=f"models/{EMBED_MODEL}") for n in range(2)]}
    assert status(world, EMBED_MANY, many) == 200
    assert status(world, EMBED_MANY, many) == 429
    assert status(world, EMBED, content("x")) == 200
    assert status(world, EMBED, content("x")) == 429
    world.wait(60)
    for _ in range(2):
        assert status(world, EMBED, content("x")) == 200
        world.wait(10)
    assert quota_of(world.error("POST", EMBED_MANY, {"requests": many["requests"] * 2}))[2] == "60s"
    three = {"requests": [*many["requests"], content("y", model=f"models/{EMBED_MODEL}")]}
    assert quota_of(world.error("POST", EMBED_MANY, three))[2] == "50s", "until both of before are a minute old"
    too_many = {"requests": [content("x", model=f"models/{EMBED_MODEL}")] * 4}
    world.wait(60)
    assert quota_of(world.error("POST", EMBED_MANY, too_many))[2] == "60s"
    assert world.ledger().live_calls == 5


@pytest.mark.parametrize("limit", [20, {MODEL: 20}])
def test_tokens_of_a_minute_are_limited_by_model(limit: Any) -> None:
    world = Driver(Plan(live_tokens_per_minute=limit))
    assert status(world, body=prompt("word " * 10)) == 200
    tokens = world.ledger().live_prompt_tokens
    assert 0 < tokens < 20
    world.wait(20)
    assert status(world, body=prompt("word " * 10)) == 200, "the last one may go beyond"
    error = world.error("POST", GENERATE, prompt("x"))
    assert quota_of(error) == ("GenerateContentPaidTierInputTokensPerModelPerMinute", "20", "40s")
    assert status(world, OTHER) == 200
    world.wait(40)
    assert status(world) == 200


def test_what_is_refused_for_its_form_is_refused_for_that_first() -> None:
    world = Driver(Plan(live_requests_per_minute=0))
    assert world.error("POST", GENERATE, {"nonsense": 1})["code"] == 400
    assert quota_of(world.error("POST", GENERATE, prompt("x")))[1:] == ("0", "60s")
