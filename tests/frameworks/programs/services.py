"""Web services that hold one client as long as they run: FastAPI, Starlette, Litestar, aiohttp.

Fifty callers at once, each of whom the service asks the model for, share a job.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from asking import MODEL, Told, at_once, questions, run
from fastapi import FastAPI
from fastapi import Request as FastRequest
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from starlette.applications import Starlette
from starlette.requests import Request as StarRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import carpool

CLIENT = web.AppKey("carpool", carpool.Client)


def fastapi() -> FastAPI:
    app = FastAPI(lifespan=carpool.lifespan())

    @app.get("/ask")
    async def ask(request: FastRequest, prompt: str) -> str | None:
        return (await request.state.carpool.generate(MODEL, prompt)).text

    return app


def starlette() -> Starlette:
    async def ask(request: StarRequest) -> PlainTextResponse:
        answer = await request.state.carpool.generate(MODEL, request.query_params["prompt"])
        return PlainTextResponse(answer.text)

    return Starlette(routes=[Route("/ask", ask)], lifespan=carpool.lifespan())


def litestar() -> Litestar:
    @get("/ask", media_type="text/plain")
    async def ask(request: LitestarRequest[Any, Any, Any], prompt: str) -> str:
        return (await request.app.state.carpool.generate(MODEL, prompt)).text or ""

    return Litestar([ask], lifespan=[carpool.lifespan()])


def aiohttp_app() -> web.Application:
    async def ask(request: web.Request) -> web.Response:
        answer = await request.app[CLIENT].generate(MODEL, request.query["prompt"])
        return web.Response(text=answer.text)

    app = web.Application()
    app.cleanup_ctx.append(carpool.cleanup_ctx(CLIENT))
    app.router.add_get("/ask", ask)
    return app


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application on a free port, and yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the service has started, waits
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if isinstance(app, web.Application):
            runner = web.AppRunner(app)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            yield url
            await runner.cleanup()
        else:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            serving = asyncio.create_task(server.serve([listener]))
            yield url
            server.should_exit = True
            await serving


APPS: dict[str, Callable[[], Any]] = {
    "FastAPI": fastapi, "Starlette": starlette, "Litestar": litestar, "aiohttp": aiohttp_app
}  # fmt: skip


async def ask_each(told: Told, count: int) -> None:
    told.stack = "aiohttp"
    for name, make in APPS.items():
        async with served(make()) as url, aiohttp.ClientSession() as session:

            async def ask(prompt: str, url: str = url, session: aiohttp.ClientSession = session) -> str:
                async with session.get(f"{url}/ask", params={"prompt": prompt}) as reply:
                    reply.raise_for_status()
                    return (await reply.json()) if "json" in reply.content_type else await reply.text()

            asked = questions(name)[:count]
            for prompt, answer in zip(asked, await at_once(ask, asked), strict=True):
                told.answer(prompt, answer, what=name, alone=True)


async def gather_async(told: Told, nothing: None) -> None:
    await ask_each(told, 50)


async def features_async(told: Told, nothing: None) -> None:
    await ask_each(told, 1)


def made(wanted: argparse.Namespace) -> None:
    """Make nothing: each service makes its own client."""


if __name__ == "__main__":
    run(["fastapi", "starlette", "litestar"], made, gather_async, features_async)
