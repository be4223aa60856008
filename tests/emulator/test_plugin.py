"""The pytest plugin, as a user's own tests see it; and the emulator in a thread that it serves from."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

import pytest

from carpool.emulator import EmulatorThread, Fault, Plan, expected_text

from .driver import MODEL, prompt, text_of

PLUGIN = "carpool.emulator.pytest_plugin"
# Of this environment's plugins only ours and anyio's matter to a user's tests; one of them fails by itself here.
QUIET = ("-p", PLUGIN, "-p", "no:looptime_plugin", "-p", "no:cacheprovider", "-W", "error")
CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"
GENERATE = f"/v1beta/models/{MODEL}:generateContent"

SYNC = """
    import pytest
    from carpool.emulator import Fault, Plan, expected_text
    from google import genai
    from google.genai import errors

    MODEL = "gemini-3.5-flash"

    def client(emulator):
        return genai.Client(api_key="any", http_options={"base_url": emulator.base_url})

    def test_google_genai_gets_an_answer(gemini_emulator):
        with client(gemini_emulator) as google:
            assert google.models.generate_content(model=MODEL, contents="hi").text == expected_text("hi")
        assert gemini_emulator.ledger().live_calls == 1
        assert [call.op for call in gemini_emulator.requests] == ["generate"]

    def test_each_test_has_an_emulator_of_its_own(gemini_emulator):
        assert gemini_emulator.requests == []

    def test_another_plan_is_in_force_at_once(gemini_emulator):
        gemini_emulator.plan = Plan(faults={"generate.503": Fault(count=1)})
        with client(gemini_emulator) as google:
            with pytest.raises(errors.ServerError):
                google.models.generate_content(model=MODEL, contents="hi")
            assert google.models.generate_content(model=MODEL, contents="hi").text
        assert gemini_emulator.plan.faults == {"generate.503": Fault(count=1)}
        gemini_emulator.replan(Plan())
        assert gemini_emulator.plan == Plan()
"""

ASYNC = """
    import pytest
    from carpool import Client, MemoryStore, Settings
    from carpool.emulator import expected_text

    pytestmark = pytest.mark.anyio
    QUICK = Settings(linger_s=0.01, poll_min_s=0.01)

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    async def test_carpool_gets_an_answer(gemini_emulator):
        async with Client(
            api_key="any", base_url=gemini_emulator.base_url, store=MemoryStore(), settings=QUICK
        ) as client:
            assert (await client.generate("gemini-3.5-flash", "hi")).text == expected_text("hi")
        assert gemini_emulator.ledger().rows_billed == 1
        assert [job.state for job in gemini_emulator.jobs()] == ["SUCCEEDED"]
"""

PLANNED = """
    import os
    import pytest
    from carpool.emulator import Plan

    NAMES = ("CARPOOL_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", "GOOGLE_API_KEY")

    @pytest.fixture
    def gemini_emulator_plan():
        return Plan(latency_s=7.0)

    def test_the_plan_is_the_user_s(gemini_emulator):
        assert gemini_emulator.plan.latency_s == 7.0
        assert [os.environ.get(name) for name in NAMES] == [None, None, None, "real"]

    def test_the_environment_points_at_it(gemini_emulator_env, gemini_emulator):
        assert gemini_emulator_env is gemini_emulator
        base_url = gemini_emulator.base_url
        assert [os.environ.get(name) for name in NAMES[:2]] == [base_url, base_url]
        assert os.environ["GEMINI_API_KEY"]
        assert "GOOGLE_API_KEY" not in os.environ

    def test_the_environment_is_as_it_was():
        assert [os.environ.get(name) for name in NAMES] == [None, None, None, "real"]
"""

NO_ANYIO = """
    import asyncio
    import urllib.request
    from carpool.emulator import expected_text

    def test_it_needs_no_plugin_beside_itself(gemini_emulator):
        with urllib.request.urlopen(gemini_emulator.base_url + "/emulator/ledger") as reply:
            assert reply.status == 200

    def test_a_loop_of_the_test_s_own_does_not_meet_it(gemini_emulator):
        async def look():
            port = int(gemini_emulator.base_url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /emulator/requests HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
        asyncio.run(look())
"""


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess(*QUIET, *arguments)


def test_google_s_client_works_in_plain_tests(pytester: pytest.Pytester) -> None:
    ignored = ("-W", "ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
    run(pytester, SYNC, *ignored).assert_outcomes(passed=3)


def test_carpool_works_in_asynchronous_tests(pytester: pytest.Pytester) -> None:
    run(pytester, ASYNC).assert_outcomes(passed=1)


def test_plan_and_environment_are_the_user_s_choice(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CARPOOL_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_API_KEY", "real")
    run(pytester, PLANNED).assert_outcomes(passed=3)


def test_it_works_where_there_is_no_anyio_plugin(pytester: pytest.Pytester) -> None:
    run(pytester, NO_ANYIO, "-p", "no:anyio").assert_outcomes(passed=2)


def test_its_fixtures_say_what_they_are(pytester: pytest.Pytester) -> None:
    shown = run(pytester, "def test_nothing(): pass", "--fixtures").stdout.str()
    ours = shown.partition(f"fixtures defined from {PLUGIN}")[2].partition("fixtures defined from")[0]
    for name in ("gemini_emulator", "gemini_emulator_plan", "gemini_emulator_env"):
        assert f"\n{name} " in ours
    assert "no docstring" not in ours


def test_it_is_registered_once_however_often_it_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"pytest_plugins = [{PLUGIN!r}]")
    source = f"""
        def test_once(pytestconfig, gemini_emulator):
            plugins = [name for name, plugin in pytestconfig.pluginmanager.list_name_plugin()
                       if getattr(plugin, "__name__", "") == {PLUGIN!r}]
            assert plugins == [{PLUGIN!r}]
    """
    run(pytester, source).assert_outcomes(passed=1)


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    script = f"import json, pytest, sys; old = {{*sys.modules}}; import {PLUGIN}; new = {{*sys.modules}} - old"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(json.dumps([*new]))"], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert PLUGIN in loaded
    heavy = {"aiohttp", "anyio", "diskcache", "sqlite3", "google", "rich", "cyclopts", "yarl"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    assert [name for name in loaded if name.startswith("carpool.emulator.")] == [PLUGIN]


# -- the thread


def post(url: str, body: Any) -> Any:
    headers = {"x-goog-api-key": "any", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own emulator
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - our own emulator
        return json.load(reply)


def test_a_thread_serves_until_it_is_stopped_and_tells_afterwards_what_happened() -> None:
    with EmulatorThread(Plan(latency_s=0.0)) as emulator:
        answer = post(emulator.base_url + GENERATE, prompt("x"))
        rows = {"requests": {"requests": [{"request": prompt("y")}]}}
        post(emulator.base_url + CREATE, {"batch": {"inputConfig": rows}})
    assert text_of(answer) == expected_text("x")
    assert [call.op for call in emulator.requests] == ["generate", "create"]
    assert [job.rows for job in emulator.jobs()] == [1]
    assert (emulator.ledger().live_calls, emulator.ledger().rows_billed) == (1, 1)
    with pytest.raises(OSError, match="refused"):
        post(emulator.base_url + GENERATE, prompt("x"))
    emulator.stop()


def test_a_thread_leaves_none_behind() -> None:
    before = set(threading.enumerate())
    with EmulatorThread() as emulator:
        assert [thread.name for thread in set(threading.enumerate()) - before] == ["gemini-emulator"]
        post(emulator.base_url + GENERATE, prompt("x"))
    assert set(threading.enumerate()) <= before


def test_a_thread_that_cannot_listen_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        emulator = EmulatorThread(port=taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"):
            emulator.start()
    emulator.stop()


def test_a_thread_starts_once() -> None:
    with EmulatorThread() as emulator, pytest.raises(RuntimeError, match="started once"):
        emulator.start()
    with pytest.raises(RuntimeError, match="not started"):
        _ = EmulatorThread().base_url


def test_an_open_call_does_not_hold_the_end_up() -> None:
    with EmulatorThread(Plan(faults={"generate.slow": Fault(seconds=3_600)})) as emulator:
        host, port = emulator.base_url.removeprefix("http://").split(":")
        caller = socket.create_connection((host, int(port)))
        body = json.dumps(prompt("x")).encode()
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: a\r\nx-goog-api-key: k\r\nContent-Length: {len(body)}\r\n\r\n"
        caller.sendall(head.encode() + body)
        for _ in range(2_000):
            if emulator.requests:
                break
            threading.Event().wait(0.005)
        assert [call.op for call in emulator.requests] == ["generate"]
    with caller:
        assert caller.recv(1) == b""


def test_many_threads_ask_and_change_it_at_once() -> None:
    with EmulatorThread() as emulator:
        wrong: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for _ in range(10):
                    emulator.plan = Plan(latency_s=number)
                    post(emulator.base_url + GENERATE, prompt(f"prompt {number}"))
                    assert emulator.plan.latency_s in range(8)
                    assert emulator.ledger().live_calls > 0
            except BaseException as error:  # noqa: BLE001 - to be seen by the test
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert emulator.ledger().live_calls == 80


async def test_it_can_be_asked_from_within_a_loop() -> None:
    with EmulatorThread() as emulator:
        await asyncio.to_thread(post, emulator.base_url + GENERATE, prompt("x"))
        assert emulator.ledger().live_calls == 1
