"""Cached contents: their life, and what requests get of them."""

from __future__ import annotations

from typing import Any

import pytest

from carpool.emulator import Plan, request_digest

from .driver import EMBED_MODEL, MODEL, Driver, jsonl, prompt, text_of

CACHES = "/v1beta/cachedContents"
GENERATE = f"/v1beta/models/{MODEL}:generateContent"
BOOK = "word " * 1000
MISSING = "CachedContent not found (or permission denied)"


def cached(world: Driver, text: str = BOOK, **more: Any) -> Any:
    return world.ok("POST", CACHES, {"model": f"models/{MODEL}", **prompt(text), **more})


def test_a_cache_is_made_shown_listed_extended_and_deleted() -> None:
    world = Driver()
    assert world.ok("GET", CACHES) == {}
    cache = cached(world, displayName="book", ttl="600s")
    assert cache["name"].startswith("cachedContents/")
    assert (cache["model"], cache["displayName"]) == (f"models/{MODEL}", "book")
    assert cache["usageMetadata"] == {"totalTokenCount": 1250}
    assert (cache["createTime"], cache["expireTime"]) == (
        "2027-01-15T08:00:00.000000000Z",
        "2027-01-15T08:10:00.000000000Z",
    )
    assert "contents" not in cache
    assert world.ok("GET", f"/v1/{cache['name']}") == cache
    world.wait(60)
    longer = world.ok("PATCH", f"/v1beta/{cache['name']}", {"ttl": "3600.5s"}, query={"updateMask": "ttl"})
    assert (longer["expireTime"], longer["updateTime"]) == (
        "2027-01-15T09:01:00.500000000Z",
        "2027-01-15T08:01:00.000000000Z",
    )
    moment = world.ok("PATCH", f"/v1beta/{cache['name']}", {"expire_time": "2027-01-15T10:00:00.123456789Z"})
    assert moment["expireTime"].startswith("2027-01-15T10:00:00.12345")
    assert world.ok("GET", CACHES) == {"cachedContents": [moment]}
    assert world.ok("DELETE", f"/v1beta/{cache['name']}") == {}
    assert world.ok("GET", CACHES) == {}
    for method in ("GET", "PATCH", "DELETE"):
        body = {"ttl": "1s"} if method == "PATCH" else None
        error = world.error(method, f"/v1beta/{cache['name']}", body)
        assert (error["code"], error["status"], error["message"]) == (403, "PERMISSION_DENIED", MISSING)


def test_caches_live_an_hour_unless_told_otherwise_and_are_listed_in_pages() -> None:
    world = Driver()
    names = [cached(world)["name"] for _ in range(3)]
    page = world.ok("GET", CACHES, query={"pageSize": "2"})
    rest = world.ok("GET", CACHES, query={"pageSize": "2", "pageToken": page["nextPageToken"]})
    assert [one["name"] for one in page["cachedContents"] + rest["cachedContents"]] == names[::-1]
    assert "nextPageToken" not in rest
    world.wait(3599)
    assert world.call("GET", f"/v1beta/{names[0]}").status == 200
    world.wait(1)
    assert world.call("GET", f"/v1beta/{names[0]}").status == 403
    assert world.ok("GET", CACHES) == {}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"contents": []}, 400, "model is not specified"),
        ({"model": "models/palm", **prompt(BOOK)}, 404, "not supported for createCachedContent"),
        ({"model": f"models/{EMBED_MODEL}", **prompt(BOOK)}, 404, "not supported for createCachedContent"),
        ({"model": MODEL, **prompt("x" * 1664)}, 400, "total_token_count=416, min_total_token_count=1024"),
        ({"model": MODEL, **prompt(BOOK), "ttl": "1 hour"}, 400, "Invalid value at 'ttl'"),
        ({"model": MODEL, **prompt(BOOK), "expireTime": "tomorrow"}, 400, "Invalid value at 'expire_time'"),
        ({"model": MODEL, **prompt(BOOK), "expireTime": "2027-01-15T10:00:00"}, 400, "Invalid value at 'expire_time'"),
        ({"model": MODEL, **prompt(BOOK), "expireTime": "2020-01-01T00:00:00Z"}, 400, "must be in the future"),
        ({"model": MODEL, **prompt(BOOK), "ttl": "1s", "expireTime": "2030-01-01T00:00:00Z"}, 400, "oneof"),
        ({"model": MODEL, **prompt(BOOK), "generationConfig": {}}, 400, 'Unknown name "generationConfig"'),
        (b"{", 400, "Invalid JSON payload received."),
    ],
)
def test_bad_caches_are_refused(body: Any, code: int, words: str) -> None:
    error = Driver().error("POST", CACHES, body)
    assert error["code"] == code
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "query"), [({}, {}), ({"displayName": "x"}, {}), ({"ttl": "9s"}, {"updateMask": "displayName"})]
)
def test_nothing_but_the_end_of_a_cache_can_be_changed(body: Any, query: dict[str, str]) -> None:
    world = Driver()
    name = cached(world)["name"]
    assert world.error("PATCH", f"/v1beta/{name}", body, query=query)["code"] == 400


def test_a_cached_prompt_is_answered_like_the_whole_one_and_billed_as_cached() -> None:
    world = Driver()
    whole = {
        "systemInstruction": {"parts": [{"text": "short"}]},
        "contents": [*prompt(BOOK)["contents"], *prompt("why")["contents"]],
    }
    cache = world.ok("POST", CACHES, {"model": MODEL, **whole, "contents": whole["contents"][:1]})
    answer = world.ok("POST", GENERATE, prompt("why", cachedContent=cache["name"]))
    usage = answer["usageMetadata"]

    assert text_of(answer) == text_of(world.ok("POST", GENERATE, whole))
    tokens = cache["usageMetadata"]["totalTokenCount"]
    assert usage["cachedContentTokenCount"] == tokens
    assert usage["cacheTokensDetails"] == [{"modality": "TEXT", "tokenCount": tokens}]
    assert usage["promptTokenCount"] == tokens + 1
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]
    (bill,) = world.ledger().live
    assert (bill.calls, bill.cached_tokens) == (2, tokens)
    counted = world.ok(
        "POST",
        f"/v1beta/models/{MODEL}:countTokens",
        {"generateContentRequest": prompt("why", model=f"models/{MODEL}", cachedContent=cache["name"])},
    )
    assert (counted["totalTokens"], counted["cachedContentTokenCount"]) == (tokens + 1, tokens)


def test_tools_of_a_cache_are_used() -> None:
    world = Driver()
    tools = [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT"}}]}]
    forced = {"functionCallingConfig": {"mode": "ANY"}}
    cache = cached(world, tools=tools, toolConfig=forced)
    answer = world.ok("POST", GENERATE, prompt("x", cachedContent=cache["name"]))
    assert answer["candidates"][0]["content"]["parts"] == [{"functionCall": {"name": "look", "args": {}}}]


@pytest.mark.parametrize("field", ["systemInstruction", "tools", "toolConfig"])
def test_what_a_cache_may_set_a_request_with_a_cache_may_not(field: str) -> None:
    world = Driver()
    more = {
        "systemInstruction": {"parts": [{"text": "x"}]},
        "tools": [{"googleSearch": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    }
    request = prompt("x", cachedContent="cachedContents/none", **{field: more[field]})
    words = (
        "CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config."
    )
    assert world.error("POST", GENERATE, request)["message"].startswith(words)
    assert world.refused_create({"requests": {"requests": [{"request": request}]}})["message"].startswith(words)
    file = world.upload(jsonl({"key": "a", "request": prompt("x")}, {"key": "b", "request": request}))
    assert world.refused_create({"fileName": file})["message"].startswith(f"Error on line 2: {words} Proposed fix")
    assert world.world.jobs(world.now) == []


def test_a_cache_that_is_missing_or_of_another_model_is_refused() -> None:
    world = Driver()
    cache = cached(world)
    other = world.error(
        "POST", "/v1beta/models/gemini-2.5-pro:generateContent", prompt("x", cachedContent=cache["name"])
    )
    missing = world.error("POST", GENERATE, prompt("x", cached_content="cachedContents/none"))
    assert other["code"] == 400
    assert other["message"] == (
        "Model used by GenerateContent request (models/gemini-2.5-pro) "
        f"and CachedContent (models/{MODEL}) has to be the same."
    )
    assert (missing["code"], missing["message"]) == (403, MISSING)


# -- in batches


def test_rows_use_caches_and_are_billed_as_cached() -> None:
    world = Driver()
    cache = cached(world)
    tokens = cache["usageMetadata"]["totalTokenCount"]
    requests = [prompt(f"question {index}", cachedContent=cache["name"]) for index in range(3)]
    operation = world.create_from(
        world.upload(jsonl(*({"key": str(n), "request": one} for n, one in enumerate(requests))))
    )
    answers = [line["response"] for line in world.lines(operation)]

    assert answers == [world.ok("POST", GENERATE, request) for request in requests]
    ledger = world.ledger()
    (bill,) = ledger.jobs
    assert (bill.cached_tokens, bill.prompt_tokens) == (
        3 * tokens,
        sum(one["usageMetadata"]["promptTokenCount"] for one in answers),
    )
    assert ledger.cached_tokens == 3 * tokens
    assert ledger.billed_by_request[request_digest(MODEL, requests[0])] == 1


def test_rows_whose_cache_ends_before_they_are_answered_have_errors_and_are_not_billed() -> None:
    world = Driver(Plan(latency_s=100.0, pending_share=0.0))
    cache = cached(world, ttl="50s")
    requests = [prompt(f"q{index}", cachedContent=cache["name"]) for index in range(10)]
    operation = world.create(*({"request": one, "metadata": {"key": str(n)}} for n, one in enumerate(requests)))
    world.wait(100)
    items = world.inline(operation)

    assert ["error" in item for item in items] == [False] * 4 + [True] * 6, "row n is answered after 10 (n + 1) s"
    assert items[9]["error"] == {"code": 7, "message": MISSING}
    stats = world.get(operation)["metadata"]["batchStats"]
    assert stats == {"requestCount": "10", "successfulRequestCount": "4", "failedRequestCount": "6"}
    assert world.ledger().jobs[0].rows_ok == 4


def test_a_cache_that_is_kept_alive_serves_to_the_end_and_one_that_is_deleted_does_not() -> None:
    world = Driver(Plan(latency_s=100.0))
    kept, deleted = cached(world, ttl="50s"), cached(world)
    operations = [world.create({"request": prompt("q", cachedContent=one["name"])}) for one in (kept, deleted)]
    world.wait(40)
    world.ok("PATCH", f"/v1beta/{kept['name']}", {"ttl": "61s"})
    world.ok("DELETE", f"/v1beta/{deleted['name']}")
    world.wait(1000)
    assert ["error" in world.inline(operation)[0] for operation in operations] == [False, True]


def test_a_row_with_a_cache_that_never_was_has_an_error() -> None:
    world = Driver()
    operation = world.create({"request": prompt("x", cachedContent="cachedContents/none")}, {"request": prompt("y")})
    first, second = world.inline(operation)
    assert (first["error"]["code"], "response" in second) == (7, True)


def test_storage_is_counted_in_tokens_and_seconds() -> None:
    world = Driver()
    tokens = cached(world, ttl="100s")["usageMetadata"]["totalTokenCount"]
    world.wait(10)
    assert world.ledger().cache_token_s == 10 * tokens
    world.wait(1000)
    assert world.ledger().cache_token_s == 100 * tokens
