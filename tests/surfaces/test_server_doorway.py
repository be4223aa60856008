"""How connections come in where the system does not play along."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import sys
from typing import Any

import pytest

from carpool.errors import ConfigurationError
from carpool.surfaces.sidecar.connections import Turn
from carpool.surfaces.sidecar.limits import Limits, connections_of
from carpool.surfaces.sidecar.server import Sidecar

from .sidecars import OK, Desk, house, until

WORDS = "the canary sings in the dark"


def failing(monkeypatch: pytest.MonkeyPatch, name: str, *errors: BaseException) -> None:
    """Have a method of the loop fail so many times, and then do what it does."""
    loop = asyncio.get_running_loop()
    real = getattr(loop, name)
    left = list(errors)

    async def fail(*arguments: Any, **more: Any) -> Any:
        if left:
            raise left.pop(0)
        return await real(*arguments, **more)

    monkeypatch.setattr(loop, name, fail)


async def test_a_caller_that_is_gone_before_it_is_let_in_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "sock_accept", ConnectionAbortedError(), ConnectionAbortedError())
    async with house(Desk(OK)) as place:
        assert (await place.ask(place.post())).status == 200
        assert place.seen["not_let_in"] == 0


@pytest.mark.parametrize(("number", "told"), [(errno.EMFILE, False), (errno.ENOBUFS, False), (errno.ENETDOWN, True)])
async def test_what_the_system_cannot_do_now_is_tried_again_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, told: bool
) -> None:
    monkeypatch.setattr("carpool.surfaces.sidecar.doorway._RETRY_S", 0.001)
    failing(monkeypatch, "sock_accept", OSError(number, "not now"))
    async with house(Desk(OK)) as place:
        assert (await place.ask(place.post())).status == 200
        assert place.seen["not_let_in"] == 1
    assert ("could not be let in: not now" in caplog.text) is told


async def test_a_socket_that_breaks_while_it_is_set_up_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "connect_accepted_socket", OSError(errno.EINVAL, "gone"))
    async with house(Desk(OK)) as place:
        broken = await place.caller()
        assert await broken.ended()
        assert (await place.ask(place.post())).status == 200
        await until(lambda: len(place.connections) == 0)


async def test_a_bug_at_the_door_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    failing(monkeypatch, "connect_accepted_socket", ValueError(WORDS))
    async with house(Desk(OK)) as place:
        await place.caller()
        await until(lambda: "a bug of carpool: connections cannot be let in" in caplog.text)
    assert WORDS not in caplog.text


async def test_a_bug_in_sending_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(WORDS)

    async with house(Desk(OK)) as place:
        monkeypatch.setattr(place.connections, "send", broken)
        reply = await place.ask(place.post())
        assert reply.status == 500
        assert b"a bug of carpool" in reply.body
        monkeypatch.undo()
        assert (await place.ask(place.post())).status == 200
    assert "a bug of carpool broke the answer" in caplog.text
    assert WORDS not in caplog.text


def _addresses(*found: tuple[int, str]) -> Any:
    async def getaddrinfo(_: str, port: int, **__: Any) -> list[Any]:
        kinds = [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]
        return [(*one[:4], (*one[4], 0, 0)) if one[0] == socket.AF_INET6 else one for one in kinds]

    return getaddrinfo


async def test_addresses_that_this_machine_does_not_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _addresses((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    async with Sidecar(Desk(), host="a.name") as sidecar:
        assert sidecar.url == f"http://127.0.0.1:{sidecar.port}"


async def test_a_name_without_any_address_of_this_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", _addresses((socket.AF_INET, "192.0.2.1")))
    with pytest.raises(OSError, match="assign"):
        await Sidecar(Desk(), host="a.name").start()


async def test_a_name_that_is_partly_taken_is_not_taken_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        found = _addresses((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2"))
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        with pytest.raises(OSError, match="in use"):
            await Sidecar(Desk(), host="a.name", port=port).start()
        with socket.create_server(("127.0.0.1", port)):
            pass  # it was let go


async def test_what_is_shown_of_it_is_where_it_stands_and_nothing_of_its_callers() -> None:
    async with house(token="sesame-0123456789") as place:
        caller = await place.caller()
        await caller.send(place.post("/secret", "X-Goog-Api-Key: sesame-0123456789", body=b"canary"))
        await until(lambda: place.connections.waiting == 1)
        turn: Turn = next(iter(place.connections._turns.values()))
        text = f"{place.sidecar!r} {place.connections!r} {turn!r} {place.connections._waiting!r}"
        assert "turns=1" in text
        assert "held_bytes=6" in text
        assert "Turn(ANSWERING, interrupted=False)" in text
        for secret in ("sesame", "secret", "canary"):
            assert secret not in text


# -- open files


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int) -> list[int]:
    """Have a process of so many files, of which the system really allows ``most``."""
    now = [soft]

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        if limits[0] > most:
            raise ValueError("not so many")
        now.append(limits[0])

    monkeypatch.setattr(resource, "getrlimit", lambda _: (now[-1], hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return now


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised", "connections"),
    [
        (1_024, 1_048_576, 1_048_576, 11_024, 10_000),
        (1_024, 4_096, 4_096, 4_096, 3_072),
        (1_024, 1_024, 1_024, 1_024, 768),
        (20_000, 20_000, 20_000, 20_000, 10_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1, resource.RLIM_INFINITY, 10_000),
        (256, resource.RLIM_INFINITY, 1_048_576, 11_024, 10_000),
        (256, resource.RLIM_INFINITY, 10_240, 10_240, 9_216),
        (256, resource.RLIM_INFINITY, 300, 256, 192),
        (24, 24, 24, 24, 18),
    ],
)
def test_room_for_callers_is_made_as_far_as_the_system_goes(  # noqa: PLR0917 - pytest gives them by name
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, raised: int, connections: int
) -> None:
    now = limited(monkeypatch, soft, hard, most)
    assert connections_of(Limits()) == connections
    assert now[-1] == raised


def test_a_process_that_may_hardly_open_files_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 20, 20, 20)
    with pytest.raises(ConfigurationError, match="ulimit -n"):
        connections_of(Limits())


def test_where_the_system_does_not_say_how_many_files_there_may_be_some_are_assumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert connections_of(Limits()) == 2_000


def test_a_number_of_connections_that_was_given_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = limited(monkeypatch, 64, 4_096, 4_096)
    assert connections_of(Limits(connections_max=500)) == 500
    assert now == [64]


async def test_a_second_sidecar_in_one_process_is_another() -> None:
    async with house(Desk(OK)) as one, house(Desk(OK)) as two:
        assert one.sidecar.port != two.sidecar.port
        assert (await one.ask(one.post())).status == 200
        assert not two.desk.calls
