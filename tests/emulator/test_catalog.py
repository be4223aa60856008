"""Which models there are, and what is asked of others."""

from __future__ import annotations

import pytest

from carpool.emulator import Plan

from .driver import EMBED_MODEL, MODEL, Driver, prompt


def test_models_are_listed_in_pages() -> None:
    world = Driver()
    everything = world.ok("GET", "/v1beta/models", query={"pageSize": "1000"})
    assert "nextPageToken" not in everything
    query, names = {"pageSize": "5"}, []
    while True:
        page = world.ok("GET", "/v1beta/models", query=query)
        assert len(page["models"]) <= 5
        names += [model["name"] for model in page["models"]]
        if "nextPageToken" not in page:
            break
        query["pageToken"] = page["nextPageToken"]
    assert names == [model["name"] for model in everything["models"]]
    assert {f"models/{MODEL}", f"models/{EMBED_MODEL}"} <= set(names)
    by_name = {model["name"]: model for model in everything["models"]}
    assert "batchGenerateContent" in by_name[f"models/{MODEL}"]["supportedGenerationMethods"]
    assert "asyncBatchEmbedContent" in by_name[f"models/{EMBED_MODEL}"]["supportedGenerationMethods"]
    assert by_name[f"models/{MODEL}"]["inputTokenLimit"] == 1_048_576


def test_a_model_is_shown_even_if_it_is_not_listed() -> None:
    world = Driver(Plan(unknown_models=frozenset({"gemini-2.5-pro"})))
    assert world.ok("GET", f"/v1/models/{MODEL}")["name"] == f"models/{MODEL}"
    assert world.ok("GET", "/v1/models/gemini-9-ultra")["name"] == "models/gemini-9-ultra"
    assert world.error("GET", "/v1/models/palm")["code"] == 404
    assert world.error("GET", "/v1/models/gemini-2.5-pro")["code"] == 404
    listed = {model["name"] for model in world.ok("GET", "/v1/models", query={"pageSize": "1000"})["models"]}
    assert "models/gemini-2.5-pro" not in listed


def test_aliases_of_the_latest_model_are_v1betas_alone() -> None:
    world = Driver()
    assert world.call("POST", "/v1beta/models/gemini-flash-latest:generateContent", prompt("x")).status == 200
    assert world.error("POST", "/v1/models/gemini-flash-latest:generateContent", prompt("x"))["code"] == 404


@pytest.mark.parametrize(
    ("model", "verb"),
    [
        ("imagen-4.0-generate-001", "predict"),
        ("veo-3.1-generate-preview", "predictLongRunning"),
        (MODEL, "generateAnswer"),
    ],
)
def test_what_models_cannot_do_here_is_refused_in_googles_words(model: str, verb: str) -> None:
    error = Driver().error("POST", f"/v1beta/models/{model}:{verb}", {})
    assert error["message"].startswith(
        f"models/{model} is not found for API version v1beta, or is not supported for {verb}."
    )
    refused = Driver().error("POST", "/v1beta/models/imagen-4.0-generate-001:batchGenerateContent", {})
    assert refused["code"] == 404


def test_tuned_models_exist_if_the_plan_says_so() -> None:
    world = Driver(Plan(tuned_models=frozenset({"tunedModels/mine"})))
    answer = world.ok("POST", "/v1beta/tunedModels/mine:generateContent", prompt("x"))
    operation = world.ok(
        "POST",
        "/v1beta/tunedModels/mine:batchGenerateContent",
        {"batch": {"inputConfig": {"requests": {"requests": [{"request": prompt("x")}]}}}},
    )
    assert operation["metadata"]["model"] == "tunedModels/mine"
    assert world.inline(operation)[0]["response"] == answer
    assert [one["name"] for one in world.ok("GET", "/v1beta/tunedModels")["tunedModels"]] == ["tunedModels/mine"]
    assert world.ok("GET", "/v1beta/tunedModels/mine")["name"] == "tunedModels/mine"
    assert Driver().ok("GET", "/v1beta/tunedModels") == {}
    for method in ("GET", "PATCH", "DELETE"):
        assert Driver().error(method, "/v1beta/tunedModels/mine")["code"] == 404
    assert Driver().error("POST", "/v1beta/tunedModels/mine:generateContent", prompt("x"))["code"] == 404
