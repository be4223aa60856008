"""``carpool results``: what is known of keys, and their answers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carpool import Client, Request, Settings
from carpool.emulator import Fault, Plan, expected_text

from .program import EMBED_MODEL, MODEL, PATIENCE_S, Inside, Program, Service, finish, prompts, wait_until, write_rows


def at_home(inside: Program, use: Any, **settings: Any) -> Any:
    """Do something with a client over the program's home."""

    async def work() -> Any:
        quick = {"linger_s": 0.02, "linger_max_s": 0.1, "poll_min_s": 0.02, "poll_max_s": 0.1}
        client = Client(
            api_key=inside.environ["GEMINI_API_KEY"],
            base_url=inside.environ["CARPOOL_BASE_URL"],
            home=inside.environ["CARPOOL_HOME"],
            settings=Settings(**quick | settings),
        )
        async with client:
            return await use(client)

    return asyncio.run(work())


def given(*keys: str, kind: Any = "generate", model: str = MODEL) -> Any:
    """Return what submits a request for each key, and waits for none."""

    async def use(client: Client) -> None:
        for key in keys:
            await client.submit(Request(model=model, contents=f"about {key}", key=key, kind=kind))

    return use


def answered(*keys: str, **more: Any) -> Any:
    async def use(client: Client) -> None:
        await given(*keys, **more)(client)
        await client.drain()

    return use


def test_the_answer_of_a_key_is_printed(inside: Inside) -> None:
    at_home(inside, answered("a", "b"))
    one = inside.run("results", "a")
    assert (one.code, one.out, one.err) == (0, expected_text("about a") + "\n", "")
    both = inside.run("results", "b", "a")
    assert both.out == f"== b\n{expected_text('about b')}\n== a\n{expected_text('about a')}\n"
    rows = [json.loads(line) for line in inside.run("results", "a", "b", "--json").out.splitlines()]
    assert [row["key"] for row in rows] == ["a", "b"]
    assert rows[0]["response"]["candidates"][0]["content"]["parts"][0]["text"] == expected_text("about a")


def test_a_vector_is_printed_as_json(inside: Inside) -> None:
    at_home(inside, answered("v", kind="embed", model=EMBED_MODEL))
    assert len(inside.run("results", "v").data) == 3_072


def test_what_has_no_answer_yet_is_waited_for(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=0.3))
    at_home(inside, given("a"))
    done = inside.run("results", "a", "--deadline", "1h")
    assert (done.code, done.out) == (0, expected_text("about a") + "\n")


def test_a_row_of_a_map_can_be_looked_up(inside: Inside) -> None:
    write_rows(inside.folder / "in.jsonl", prompts(2))
    assert inside.map("in.jsonl", "out.jsonl").code == 0
    assert inside.run("results", "k1").out == expected_text("prompt 1") + "\n"


def test_an_answer_that_is_late_is_exit_3_and_the_others_are_printed(inside: Inside, service: Service) -> None:
    at_home(inside, answered("quick"))
    service.play(Plan(latency_s=600))
    at_home(inside, given("slow"))
    done = inside.run("results", "slow", "quick", "--deadline", "0.3s")
    assert done.code == 3
    assert done.out == f"== quick\n{expected_text('about quick')}\n"
    assert done.err.startswith("carpool: 1 answer had not come by the deadline: slow. ")


def test_unknown_and_failed_keys_are_exit_1(inside: Inside, service: Service) -> None:
    at_home(inside, answered("fine"))
    service.play(Plan(latency_s=0.02, faults={"row.error": Fault(code=3, message="no such word")}))
    at_home(inside, answered("bad"))
    done = inside.run("results", "fine", "bad", "never-given")
    assert (done.code, done.out) == (1, f"== fine\n{expected_text('about fine')}\n")
    errors = done.err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("carpool: bad: ")
    assert "no such word" in errors[0]
    assert errors[1].startswith("carpool: never-given: nothing is known of key 'never-given'")
    row = inside.run("results", "bad", "--json").data
    assert (row["key"], row["error"]["code"]) == ("bad", 3)


def test_keys_are_found_in_whichever_slot_they_are(inside: Inside) -> None:
    async def in_two_slots(first: Client) -> None:
        await answered("in-slot-0")(first)
        await asyncio.to_thread(at_home, inside, answered("in-slot-1"))

    at_home(inside, in_two_slots)
    assert {path.name for path in Path(inside.environ["CARPOOL_HOME"]).iterdir()} == {"slot-0", "slot-1"}
    done = inside.run("results", "in-slot-1", "in-slot-0")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("==")] == ["== in-slot-1", "== in-slot-0"]
    assert {known["key"] for known in inside.run("results", "--json").data} == {"in-slot-0", "in-slot-1"}


def test_a_key_that_a_running_program_holds_is_not_listed_and_its_answer_is_printed(inside: Inside) -> None:
    async def meanwhile(client: Client) -> Any:
        await answered("held")(client)
        listed = await asyncio.to_thread(_child, inside, "results", "--json")
        asked = await asyncio.to_thread(_child, inside, "results", "held")
        return listed, asked

    listed, asked = at_home(inside, meanwhile)
    assert json.loads(listed.stdout) == []
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, expected_text("about held") + "\n", "")


def test_what_a_running_program_has_under_way_is_waited_for(inside: Inside, service: Service) -> None:
    service.play(Plan(latency_s=1.0))

    async def meanwhile(client: Client) -> Any:
        await given("held")(client)
        return await asyncio.to_thread(_child, inside, "results", "held")

    asked = at_home(inside, meanwhile)
    assert (asked.returncode, asked.stdout) == (0, expected_text("about held") + "\n")
    assert service.ledger.rows_billed == 1


def _child(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "carpool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=program.environ, timeout=PATIENCE_S, check=False)


def test_without_keys_what_is_known_is_listed(inside: Inside, service: Service) -> None:
    at_home(inside, answered("done"))
    service.play(Plan(latency_s=0.02, faults={"row.error": Fault(code=3)}))
    at_home(inside, answered("bad"))
    service.play(Plan(latency_s=600))
    at_home(inside, given("under-way"))
    with pytest.raises(ZeroDivisionError):
        at_home(inside, _leave_unsent, linger_s=600, linger_max_s=600)
    before = service.calls
    known = inside.run("results", "--json", GEMINI_API_KEY="", CARPOOL_BASE_URL="").data
    states = {one["key"]: one["state"] for one in known}
    assert states == {"done": "answered", "bad": "failed", "under-way": "sent", "unsent": "waiting"}
    assert known[0]["key"] == "unsent"
    assert known[0]["since"].endswith("Z")
    assert {one["key"]: bool(one["job"]) for one in known} == {
        "done": True, "bad": True, "under-way": False, "unsent": False,
    }  # fmt: skip
    table = inside.run("results", "--limit", "3")
    assert [line.split()[0] for line in table.out.splitlines()] == ["key", *(one["key"] for one in known[:3])]
    assert table.err == "carpool: not shown: 1 older key; --limit 0 shows all\n"
    assert service.calls == before


async def _leave_unsent(client: Client) -> None:
    await given("unsent")(client)
    raise ZeroDivisionError


def test_a_home_that_is_not_there_is_empty_and_stays_away(inside: Inside) -> None:
    assert inside.run("results", "--json").data == []
    assert not (inside.folder / "home").exists()


def test_ctrl_c_while_it_waits_is_130(program: Program, service: Service) -> None:
    service.play(Plan(latency_s=600))
    at_home(program, given("slow"))
    before = service.calls
    with program.start("results", "slow") as process:
        wait_until(lambda: service.calls > before + 2, process)
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert (done.code, done.out, done.err) == (130, "", "carpool: interrupted\n")
    assert service.jobs[-1].state != "CANCELLED"


def test_wrong_usage_is_2(inside: Inside) -> None:
    for arguments in (["--limit", "-1"], ["a", "--deadline", "soon"], ["a", "--no-such-option"]):
        done = inside.run("results", *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1


def test_images_are_counted_where_only_text_is_printed(inside: Inside) -> None:
    at_home(inside, answered("picture", model="gemini-2.5-flash-image"))
    done = inside.run("results", "picture")
    assert done.code == 0
    assert done.err == "carpool: picture: 1 image, to be had with --json\n"
