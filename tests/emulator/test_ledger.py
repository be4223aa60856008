"""The books: what would have been billed, and how often."""

from __future__ import annotations

from carpool.emulator import Plan, request_digest

from .driver import EMBED_MODEL, MODEL, Driver, content, numbered, prompt


def test_the_ledger_counts_every_billing_of_a_key_and_of_a_request() -> None:
    world = Driver(Plan(latency_s=10.0))
    file = world.upload(numbered(2))
    world.create_from(file, name="first")
    world.create_from(file, name="second")
    assert world.ledger().rows_billed == 0
    world.wait(10)
    ledger = world.ledger()

    assert ledger.billed_by_key == {"k0": 2, "k1": 2}
    assert ledger.twice == ["k0", "k1"]
    assert ledger.billed_by_request == {request_digest(MODEL, prompt(f"prompt {index}")): 2 for index in range(2)}
    assert [(bill.display_name, bill.rows_ok, bill.state) for bill in ledger.jobs] == [
        ("first", 2, "SUCCEEDED"),
        ("second", 2, "SUCCEEDED"),
    ]
    usage = [text["response"]["usageMetadata"] for text in world.lines({"name": ledger.jobs[0].name})]
    assert ledger.jobs[0].prompt_tokens == sum(one["promptTokenCount"] for one in usage)
    assert ledger.jobs[0].output_tokens == sum(one["candidatesTokenCount"] for one in usage)
    assert ledger.prompt_tokens == 2 * ledger.jobs[0].prompt_tokens
    assert "secret-key" not in repr(ledger) + repr(world.world.requests)


def test_live_calls_are_counted_apart() -> None:
    world = Driver()
    world.ok("POST", f"/v1beta/models/{MODEL}:generateContent", prompt("x"))
    world.ok("POST", f"/v1beta/models/{EMBED_MODEL}:batchEmbedContents", {"requests": [content("a"), content("b")]})
    world.error("POST", f"/v1beta/models/{MODEL}:generateContent", prompt("[[error:503:no]]"))
    ledger = world.ledger()

    assert (ledger.live_calls, ledger.rows_billed) == (3, 0)
    assert ledger.live_by_request[request_digest(MODEL, prompt("x"))] == 1
    assert ledger.live_prompt_tokens == 3
    assert ledger.live_output_tokens > 0
