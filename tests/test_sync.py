"""The client without ``await``: the same promises from threads, scripts and running loops."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import carpool
from carpool import _portal, sync
from carpool.emulator import Fault, Plan, expected_text

from .cli.program import API_KEY, EMBED_MODEL, MODEL, PATIENCE_S, Service

_QUICK: Final[dict[str, Any]] = {
    "linger_s": 0.02,
    "linger_max_s": 0.1,
    "poll_min_s": 0.01,
    "poll_max_s": 0.05,
    "retry_min_s": 0.01,
    "retry_max_s": 0.05,
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    """A service whose jobs take no time; jobs and books of other tests are there too."""
    shared.play(Plan(latency_s=0.02))
    return shared


def make(service: Service, home: Path | None = None, **settings: Any) -> sync.Client:
    return sync.Client(
        api_key=API_KEY,
        base_url=service.base_url,
        home=home,
        store=carpool.MemoryStore() if home is None else None,
        settings=carpool.Settings(**_QUICK | settings),
    )


@pytest.fixture
def client(service: Service) -> Iterator[sync.Client]:
    with make(service) as client:
        yield client


def request(text: str, **more: Any) -> carpool.Request:
    return carpool.Request(model=MODEL, contents=text, **more)


def until(condition: Callable[[], object]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_at, "it never came to that"
        time.sleep(0.005)


def in_threads(*functions: Callable[[], object]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def interrupt_when(condition: Callable[[], object]) -> threading.Thread:
    """Send Ctrl-C to the main thread once a condition holds."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(condition)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


# -- calls


def test_a_call_returns_its_answer(client: sync.Client) -> None:
    answer = client.generate(MODEL, "a call", config={"temperature": 0})
    assert answer.text == expected_text("a call")
    vector = client.embed(EMBED_MODEL, "a text", config={"output_dimensionality": 8})
    assert len(vector.values) == 8
    assert client.receipt().requests == 2
    assert client.stats().answered == 2


def test_two_hundred_threads_share_one_job(service: Service) -> None:
    before = len(service.jobs)
    answers: dict[int, str] = {}
    with make(service, linger_s=600, linger_max_s=600) as client:

        def ask(number: int) -> None:
            answers[number] = client.generate(MODEL, f"thread {number}").text

        def send() -> None:
            until(lambda: client.stats().waiting == 200)
            client.flush()

        in_threads(send, *(lambda number=number: ask(number) for number in range(200)))
    assert answers == {number: expected_text(f"thread {number}") for number in range(200)}
    assert [job.rows for job in service.jobs[before:]] == [200]


async def test_it_works_where_a_loop_runs_already(service: Service) -> None:
    assert asyncio.get_running_loop().is_running()
    with make(service) as client:
        assert client.generate(MODEL, "in a notebook").text == expected_text("in a notebook")
        assert [outcome.ok for outcome in client.map([request("a row of a notebook")])] == [True]


def test_errors_are_those_of_the_async_client_and_show_the_callers_way(client: sync.Client) -> None:
    with pytest.raises(carpool.JobError, match="no-such-job") as caught:
        client.jobs.get("batches/no-such-job")
    assert caught.value.code == 404
    frames = [Path(frame.filename).name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[0] == "test_sync.py"
    assert set(frames) == {"test_sync.py", "sync.py", "_portal.py"}
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(carpool.ConfigurationError, match="temprature"):
        client.generate(MODEL, "a call", config={"temprature": 1})
    with pytest.raises(carpool.RequestError, match="nothing is known"):
        client.result("never given")


def test_a_refused_request_is_refused_to_its_thread_alone(service: Service, client: sync.Client) -> None:
    service.play(Plan(latency_s=0.02, faults={"row.error": Fault(count=1, code=3)}))
    found: list[object] = []

    def ask(number: int) -> None:
        try:
            found.append(client.generate(MODEL, f"one of two {number}").text == expected_text(f"one of two {number}"))
        except carpool.RequestError as error:
            found.append(type(error))

    in_threads(lambda: ask(1), lambda: ask(2))
    assert Counter(found) == {True: 1, carpool.RequestRejected: 1}


# -- Ctrl-C


def test_ctrl_c_withdraws_the_request_and_the_client_goes_on(service: Service) -> None:
    with make(service, linger_s=600, linger_max_s=600) as client:
        thread = interrupt_when(lambda: client.stats().waiting == 1)
        with pytest.raises(KeyboardInterrupt):
            client.generate(MODEL, "interrupted call")
        thread.join()
        until(lambda: client.stats().waiting == 0)
        in_threads(
            lambda: client.generate(MODEL, "next call"), lambda: (until(lambda: client.stats().waiting), client.flush())
        )
        assert client.receipt().requests == 1


def test_ctrl_c_in_a_map_withdraws_its_rows(service: Service) -> None:
    with make(service, linger_s=600, linger_max_s=600) as client:
        thread = interrupt_when(lambda: client.stats().waiting == 3)
        with pytest.raises(KeyboardInterrupt):
            list(client.map(request(f"interrupted row {number}") for number in range(3)))
        thread.join()
        until(lambda: client.stats().waiting == 0)


def test_ctrl_c_while_it_drains_lets_go_of_the_home(service: Service, tmp_path: Path) -> None:
    service.play(Plan(latency_s=600))
    client = make(service, tmp_path, on_close="drain").open()
    client.submit(request("takes long"))
    thread = interrupt_when(lambda: client.stats().sent)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    thread.join()
    assert (tmp_path / "slot-0" / "clean").exists()
    with pytest.raises(carpool.ClientClosed):
        client.flush()


# -- leaving


def test_what_was_submitted_is_sent_on_a_clean_exit(service: Service, tmp_path: Path) -> None:
    before = len(service.jobs)
    with make(service, tmp_path, linger_s=600, linger_max_s=600) as client:
        client.submit(request("sent at the end"))
    assert len(service.jobs) == before + 1


def test_after_an_exception_nothing_is_sent_and_the_ticket_stays(service: Service, tmp_path: Path) -> None:
    before = len(service.jobs)
    error = ValueError("mine")
    client = make(service, tmp_path, linger_s=600, linger_max_s=600)
    with pytest.raises(ValueError, match="mine") as caught, client:  # noqa: PT012 - the block is the point
        key = client.submit(request("sent later")).key
        raise error
    assert caught.value is error
    assert len(service.jobs) == before
    with make(service, tmp_path) as client:
        answer = client.result(key)
        assert isinstance(answer, carpool.GenerateResponse)
        assert answer.text == expected_text("sent later")


def test_a_call_of_another_thread_ends_when_the_client_is_closed(service: Service) -> None:
    ended: list[object] = []
    client = make(service, linger_s=600, linger_max_s=600).open()

    def ask(call: Callable[[], object]) -> None:
        try:
            call()
        except carpool.CarpoolError as error:
            ended.append(type(error))

    def close() -> None:
        until(lambda: client.stats().waiting == 3)
        client.close()

    ticket = client.submit(request("awaited", key="awaited"))
    in_threads(
        close,
        lambda: ask(lambda: client.generate(MODEL, "never sent")),
        lambda: ask(lambda: list(client.map([request("a row")]))),
        lambda: ask(ticket.result),
    )
    assert set(ended) == {carpool.ClientClosed}
    assert "closed" in repr(client)


def test_used_before_and_after_it_says_so(service: Service) -> None:
    client = make(service)
    with pytest.raises(carpool.ConfigurationError, match="with carpool"):
        client.generate(MODEL, "too early")
    with pytest.raises(carpool.ConfigurationError, match="not open"):
        client.stats()
    client.close()  # does no harm
    with client:
        client.generate(MODEL, "in time")
        with pytest.raises(carpool.ConfigurationError, match="make a new one"):
            client.open()
    for call in (client.flush, client.drain, lambda: client.result("k"), lambda: next(client.jobs.list())):
        with pytest.raises(carpool.ClientClosed, match="make a new one"):
            call()
    client.close()
    assert client.stats().answered == client.receipt().requests == 1


def test_without_a_key_it_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "CARPOOL_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(carpool.ConfigurationError, match="GEMINI_API_KEY"):
        sync.Client()


def test_a_home_that_cannot_be_used_is_told_and_no_thread_is_left(service: Service, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    threads = threading.active_count()
    client = make(service, tmp_path / "file")
    with pytest.raises(carpool.ConfigurationError, match="not a folder"):
        client.open()
    until(lambda: threading.active_count() == threads)
    with pytest.raises(carpool.ClientClosed):
        client.flush()


def test_after_a_fork_and_from_its_own_thread_it_says_so(client: sync.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(client._portal, "_pid", os.getpid() + 1)
        with pytest.raises(carpool.ConfigurationError, match="fork"):
            client.flush()
    found: list[object] = []

    def ask() -> None:
        try:
            client.flush()
        except carpool.ConfigurationError as error:
            found.append(error)

    client._portal.post(ask)
    until(lambda: found)
    assert "own thread" in str(found[0])


def test_one_that_is_never_closed_ends_with_the_interpreter(service: Service, tmp_path: Path) -> None:
    script = f"""
import carpool
client = carpool.sync.Client(api_key="k", base_url={service.base_url!r}, home={str(tmp_path)!r}).open()
client.submit(carpool.Request(model={MODEL!r}, contents="left behind", key="left"))
"""
    before = len(service.jobs)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "slot-0" / "clean").exists()
    assert len(service.jobs) == before


# -- tickets


def test_a_ticket_can_be_waited_for_again_and_again(service: Service) -> None:
    with make(service, linger_s=600, linger_max_s=600) as client:
        ticket = client.submit(request("a ticket", key="ticket"))
        assert (ticket.key, ticket.done()) == ("ticket", False)
        with pytest.raises(TimeoutError):
            ticket.result(timeout_s=0.01)
        client.flush()
        assert ticket.result(PATIENCE_S).text == ticket.result().text == expected_text("a ticket")
        assert "done=True" in repr(ticket)
        assert client.result("ticket").receipt.reused
    assert ticket.result().text == expected_text("a ticket")


# -- rows


def test_map_gives_an_outcome_for_each_row(client: sync.Client) -> None:
    rows: list[Any] = [request(f"row {number}", key=f"k{number}") for number in range(250)]
    rows[7] = request("row 7", key="k7", config={"temprature": 1})
    rows[8] = {"key": "k8", "request": {"contents": [{"parts": [{"text": "row 8"}]}]}}
    outcomes = {outcome.key: outcome for outcome in client.map(rows, model=MODEL)}
    assert set(outcomes) == {f"k{number}" for number in range(250)}
    assert isinstance(outcomes.pop("k7").error, carpool.ConfigurationError)
    for key, outcome in outcomes.items():
        assert isinstance(outcome.response, carpool.GenerateResponse)
        assert outcome.response.text == expected_text(f"row {key[1:]}")


@pytest.mark.parametrize("window", [1, 3])
def test_map_reads_no_further_ahead_than_its_window(client: sync.Client, window: int) -> None:
    read = taken = 0
    furthest = 0
    threads: set[int] = set()

    def rows() -> Iterator[carpool.Request]:
        nonlocal read, furthest
        for number in range(12):
            read += 1
            furthest = max(furthest, read - taken)
            threads.add(threading.get_ident())
            yield request(f"windowed row {number}")

    for outcome in client.map(rows(), window=window):
        assert outcome.ok
        taken += 1
    assert (read, taken) == (12, 12)
    assert furthest <= 4 * window
    assert threads == {threading.get_ident()}


def test_map_of_nothing_is_empty(client: sync.Client) -> None:
    assert list(client.map([])) == []


def test_rows_may_use_the_client_themselves(client: sync.Client) -> None:
    def rows() -> Iterator[carpool.Request]:
        first = client.generate(MODEL, "first").text
        yield request(first)

    [outcome] = client.map(rows())
    assert isinstance(outcome.response, carpool.GenerateResponse)
    assert outcome.response.text == expected_text(expected_text("first"))


def test_a_map_that_is_dropped_takes_its_rows_back(service: Service) -> None:
    with make(service, linger_s=600, linger_max_s=600) as client:
        never = client.map(request(f"never taken {number}") for number in range(3))
        del never
        service_jobs = len(service.jobs)
        outcomes = client.map(
            [request("bad", config={"temprature": 1}), *(request(f"dropped {number}") for number in range(3))]
        )
        assert not next(outcomes).ok
        until(lambda: client.stats().waiting == 3)
        del outcomes
        until(lambda: client.stats().waiting == 0)
        assert len(service.jobs) == service_jobs


def test_an_error_of_the_rows_comes_out_and_takes_the_others_back(service: Service) -> None:
    def rows() -> Iterator[carpool.Request]:
        yield request("a good row")
        raise ZeroDivisionError

    with make(service, linger_s=600, linger_max_s=600) as client:
        with pytest.raises(ZeroDivisionError):
            list(client.map(rows()))
        until(lambda: client.stats().waiting == 0)


def test_map_refuses_what_it_cannot_use_at_once(client: sync.Client) -> None:
    async def rows() -> AsyncIterator[carpool.Request]:
        yield request("async")

    with pytest.raises(carpool.ConfigurationError, match="window"):
        client.map([], window=0)
    with pytest.raises(carpool.ConfigurationError, match="plain iterable"):
        client.map(rows())  # type: ignore[arg-type]


# -- jobs, files, caches


def test_jobs(service: Service, client: sync.Client) -> None:
    service.play(Plan(latency_s=600))
    name = service.create_job("by hand")
    assert next(client.jobs.list()).name == name
    assert client.jobs.get(name).stats.requests == 1
    client.jobs.cancel(name)
    assert client.jobs.get(name).state == "CANCELLED"
    with pytest.raises(carpool.JobError, match="no output"):
        list(client.jobs.results(name))
    client.jobs.delete(name)
    assert name not in [job.name for job in client.jobs.list()]
    service.play(Plan(latency_s=0))
    done = service.create_job("one", "two")
    until(lambda: client.jobs.get(done).ended)
    texts = {outcome.key: getattr(outcome.response, "text", None) for outcome in client.jobs.results(done)}
    assert texts == {"k0": expected_text("one"), "k1": expected_text("two")}


def test_files(client: sync.Client, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a note")
    file = client.files.upload(tmp_path / "note.txt", display_name="note")
    assert (file.state, file.mime_type, file.display_name) == ("ACTIVE", "text/plain", "note")
    assert client.files.get(file.name).size_bytes == 6
    assert client.files.upload(b"bytes", mime_type="text/plain").name in [each.name for each in client.files.list()]
    assert client.generate(MODEL, ["what is this?", file]).text
    client.files.delete(file.name)
    with pytest.raises(carpool.FileError):
        client.files.get(file.name)


def test_caches(client: sync.Client) -> None:
    cache = client.caches.create(MODEL, "a long text " * 1_000, ttl_s=600, display_name="long")
    assert cache.name.startswith("cachedContents/")
    assert client.caches.get(cache.name).display_name == "long"
    assert client.caches.extend(cache.name, ttl_s=7_200).expires_at > cache.expires_at
    assert [each.name for each in client.caches.list()] == [cache.name]
    client.caches.delete(cache.name)
    with pytest.raises(carpool.CacheError):
        client.caches.get(cache.name)


# -- the module


def test_nobody_pays_for_it_who_does_not_use_it() -> None:
    script = (
        "import sys, carpool; before = 'carpool.sync' in sys.modules; "
        "print(before, carpool.sync.Client.__module__, 'carpool.sync' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "carpool.sync", "True"]


def public(kind: type) -> dict[str, list[str]]:
    """Return the parameters of each public method."""
    methods = {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: list(inspect.signature(method).parameters) for name, method in methods.items()}


def test_it_has_all_that_the_async_client_has(service: Service) -> None:
    client = make(service)
    ours, theirs = public(sync.Client), public(carpool.Client)
    assert set(ours) - set(theirs) == {"open", "close", "start"}
    for adapters_own in ("ask", "begin"):  # which ask on the loop, by way of start
        del theirs[adapters_own]
    assert {name: ours.get(name) for name in theirs} == theirs
    assert list(inspect.signature(sync.Client).parameters) == list(inspect.signature(carpool.Client).parameters)
    for name in ("jobs", "files", "caches"):
        assert public(type(getattr(client, name))) == public(type(getattr(client._client, name)))


def test_rows_are_gathered_as_they_come_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow source hands over what it has; a quick one is handed over in blocks."""
    ticks = Counter[str]()

    def clock() -> float:
        ticks["now"] += 1
        return ticks["now"] * 0.006

    rows = iter(range(10))
    assert _portal._gathered(rows, 4) == ([0, 1, 2, 3], False)
    with monkeypatch.context() as patch:
        patch.setattr(_portal.time, "monotonic", clock)
        assert _portal._gathered(rows, 4) == ([4, 5], False)
    assert _portal._gathered(rows, 100) == ([6, 7, 8, 9], True)
    assert _portal._gathered(rows, 100) == ([], True)
