"""A client lives as long as an application: by ASGI's lifespan, and by aiohttp's cleanup contexts.

FastAPI, Starlette and Litestar themselves are tried in `tests/frameworks`, in an environment that has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from tests.end_to_end.support import MODEL, quick

import carpool
from carpool import Client, ConfigurationError
from carpool.emulator import Emulator, Plan, expected_text

OTHER = web.AppKey("other", Client)
CLIENT = web.AppKey("client", Client)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(Plan(latency_s=0.0)) as emulator:
        yield emulator


def options_of(emulator: Emulator, home: Path) -> dict[str, Any]:
    return {"base_url": emulator.base_url, "api_key": "none", "home": home, "settings": quick()}


class Asgi:
    """As little of an ASGI framework as has a lifespan: one state of the application, and one that requests get."""

    def __init__(self, lifespan: Any) -> None:
        self.state = SimpleNamespace()
        self._lifespan = lifespan

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        try:
            async with self._lifespan(self) as state:
                scope["state"].update(state)
                await send({"type": "lifespan.startup.complete"})
                assert (await receive())["type"] == "lifespan.shutdown"
        except Exception as error:  # noqa: BLE001 - what a framework tells its server
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def served(app: Asgi) -> AsyncGenerator[dict[str, Any]]:
    """Start an application as a server does, in a task of its own; give what requests find in their state."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "state": {}}
    task = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    said = await from_app.get()
    if said["type"] != "lifespan.startup.complete":
        await task
        raise RuntimeError(said["message"])
    yield scope["state"]
    await to_app.put({"type": "lifespan.shutdown"})
    said = await from_app.get()
    await task
    assert said == {"type": "lifespan.shutdown.complete"}


async def test_requests_share_the_client_of_their_application(emulator: Emulator, tmp_path: Path) -> None:
    app = Asgi(carpool.lifespan(**options_of(emulator, tmp_path)))
    async with served(app) as state:
        client = state["carpool"]
        assert app.state.carpool is client
        prompts = [f"question {number}" for number in range(20)]
        answers = await asyncio.gather(*(client.generate(MODEL, prompt) for prompt in prompts))
        assert [answer.text for answer in answers] == [expected_text(prompt) for prompt in prompts]
        assert client.stats().jobs_created == 1
    assert client.health().status == "failed"  # it was left
    assert not hasattr(app.state, "carpool")


async def test_an_application_may_be_started_again(emulator: Emulator, tmp_path: Path) -> None:
    app = Asgi(carpool.lifespan(**options_of(emulator, tmp_path)))
    clients = []
    for _ in range(2):
        async with served(app) as state:
            clients.append(state["carpool"])
            assert (await clients[-1].generate(MODEL, "q")).text == expected_text("q")
    assert clients[0] is not clients[1]


async def test_the_application_s_own_lifespan_runs_while_the_client_is_open(emulator: Emulator, tmp_path: Path) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: Asgi) -> AsyncGenerator[Mapping[str, Any]]:
        seen.append((await app.state.carpool.generate(MODEL, "at the start")).text)
        yield {"greeting": "hello"}
        seen.append((await app.state.carpool.generate(MODEL, "at the stop")).text)

    app = Asgi(carpool.lifespan(own, **options_of(emulator, tmp_path)))
    async with served(app) as state:
        assert set(state) == {"carpool", "greeting"}
        assert seen == [expected_text("at the start")]
    assert seen == [expected_text("at the start"), expected_text("at the stop")]


async def test_an_own_lifespan_that_yields_nothing_is_fine(emulator: Emulator, tmp_path: Path) -> None:
    @asynccontextmanager
    async def own(_: object) -> AsyncGenerator[None]:
        yield

    async with served(Asgi(carpool.lifespan(own, **options_of(emulator, tmp_path)))) as state:
        assert set(state) == {"carpool"}


async def test_several_clients_have_several_names(emulator: Emulator, tmp_path: Path) -> None:
    second = carpool.lifespan(name="night", **options_of(emulator, tmp_path / "night"))
    app = Asgi(carpool.lifespan(second, name="day", **options_of(emulator, tmp_path / "day")))
    async with served(app) as state:
        assert set(state) == {"day", "night"}
        assert state["day"] is app.state.day
        assert state["night"] is app.state.night
        texts = [(await client.generate(MODEL, name)).text for name, client in state.items()]
        assert texts == [expected_text(name) for name in state]


async def test_an_application_without_a_state_of_its_own_gives_it_to_requests(
    emulator: Emulator, tmp_path: Path
) -> None:
    async with carpool.lifespan(**options_of(emulator, tmp_path))(object()) as state:
        assert (await state["carpool"].generate(MODEL, "q")).text == expected_text("q")


async def test_a_name_that_is_taken_is_said_at_the_start(emulator: Emulator, tmp_path: Path) -> None:
    app = Asgi(carpool.lifespan(**options_of(emulator, tmp_path)))
    app.state.carpool = "something else"
    with pytest.raises(RuntimeError, match=r"app\.state\.carpool is taken; give carpool\.lifespan another name"):
        async with served(app):
            raise AssertionError("it started")
    assert app.state.carpool == "something else"

    @asynccontextmanager
    async def own(_: object) -> AsyncGenerator[Mapping[str, Any]]:
        yield {"carpool": "something else"}

    app = Asgi(carpool.lifespan(own, **options_of(emulator, tmp_path)))
    with pytest.raises(RuntimeError, match="the inner lifespan yields 'carpool' too"):
        async with served(app):
            raise AssertionError("it started")
    assert not hasattr(app.state, "carpool")


async def test_a_lifespan_that_was_not_decorated_is_said_at_the_start(emulator: Emulator, tmp_path: Path) -> None:
    async def own(_: object) -> AsyncGenerator[None]:
        yield

    inner: Any = own
    with pytest.raises(RuntimeError, match=r"is it decorated with @contextlib\.asynccontextmanager\?"):
        async with served(Asgi(carpool.lifespan(inner, **options_of(emulator, tmp_path)))):
            raise AssertionError("it started")


async def test_a_missing_key_ends_the_start_and_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "CARPOOL_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    app = Asgi(carpool.lifespan(home=tmp_path))  # a module that is imported without a key makes no trouble
    with pytest.raises(RuntimeError, match="GOOGLE_API_KEY"):
        async with served(app):
            raise AssertionError("it started")
    assert not hasattr(app.state, "carpool")


async def test_an_error_at_the_start_of_an_own_lifespan_leaves_the_client(emulator: Emulator, tmp_path: Path) -> None:
    clients: list[Client] = []

    @asynccontextmanager
    async def own(app: Asgi) -> AsyncGenerator[None]:
        clients.append(app.state.carpool)
        raise OSError("no database")
        yield

    with pytest.raises(RuntimeError, match="no database"):
        async with served(Asgi(carpool.lifespan(own, **options_of(emulator, tmp_path)))):
            raise AssertionError("it started")
    assert clients[0].health().status == "failed"


@pytest.mark.parametrize("inner", [{"a": 1}, "module:lifespan", 7])
def test_what_is_no_lifespan_is_refused_at_once(inner: Any) -> None:
    with pytest.raises(ConfigurationError, match="the inner lifespan must be a function of the application"):
        carpool.lifespan(inner)


@pytest.mark.parametrize("name", ["", "my client", 3, None, "a.b"])
def test_a_name_that_no_attribute_can_have_is_refused_at_once(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be the name of an attribute, such as 'carpool'"):
        carpool.lifespan(name=name)


def test_an_argument_that_a_client_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="api_kye"):
        carpool.lifespan(api_kye="none")
    with pytest.raises(TypeError, match="api_kye"):
        carpool.cleanup_ctx(CLIENT, api_kye="none")


# -- aiohttp


async def answer(request: web.Request) -> web.Response:
    response = await request.app[CLIENT].generate(MODEL, request.query["q"])
    return web.Response(text=response.text)


async def test_handlers_of_aiohttp_share_the_client_of_their_application(emulator: Emulator, tmp_path: Path) -> None:
    app = web.Application()
    app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT, **options_of(emulator, tmp_path)))
    app.router.add_get("/", answer)

    async def ask(session: ClientSession, prompt: str) -> str:
        async with session.get(server.make_url("/"), params={"q": prompt}) as reply:
            return await reply.text()

    async with TestServer(app) as server, ClientSession() as session:
        prompts = [f"question {number}" for number in range(20)]
        texts = await asyncio.gather(*(ask(session, prompt) for prompt in prompts))
        assert texts == [expected_text(prompt) for prompt in prompts]
        client = app[CLIENT]
        assert client.health().status == "ok"
    assert client.health().status == "failed"


async def test_contexts_that_follow_may_use_the_client_until_their_own_end(emulator: Emulator, tmp_path: Path) -> None:
    seen: list[str] = []

    async def own(app: web.Application) -> AsyncGenerator[None]:
        seen.append((await app[CLIENT].generate(MODEL, "at the start")).text)
        yield
        seen.append((await app[CLIENT].generate(MODEL, "at the stop")).text)

    app = web.Application()
    app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT, **options_of(emulator, tmp_path / "one")))
    app.cleanup_ctx.append(carpool.cleanup_ctx(OTHER, **options_of(emulator, tmp_path / "two")))
    app.cleanup_ctx.append(own)
    async with TestServer(app):
        assert app[CLIENT] is not app[OTHER]
    assert seen == [expected_text("at the start"), expected_text("at the stop")]


async def test_a_key_that_is_taken_ends_the_start(emulator: Emulator, tmp_path: Path) -> None:
    app = web.Application()
    for folder in ("one", "two"):
        app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT, **options_of(emulator, tmp_path / folder)))
    server = TestServer(app)
    with pytest.raises(ConfigurationError, match="give each client a key of its own"):
        await server.start_server()
    await server.close()
    await app.cleanup()
    assert app[CLIENT].health().status == "failed"


@pytest.mark.parametrize("key", ["carpool", None, Client])
def test_a_key_that_is_no_app_key_is_refused_at_once(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"must be an aiohttp\.web\.AppKey: CLIENT = "):
        carpool.cleanup_ctx(key)
