"""Answers calls to the Gemini API, from wherever they come: in batches what can be, all else by handing it on.

Owns how a call becomes requests of a client, and how their answers become one. It must not know sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from carpool._ports import UPLOAD_URLS, ProviderError
from carpool._showing import shown, where_raised
from carpool.errors import CarpoolError, NotBatchable
from carpool.settings import read_ladder
from carpool.surfaces.deadlines import deadline_of
from carpool.surfaces.google import one_vector, requests_of, several_vectors, unnamed
from carpool.surfaces.messages import JSON, SSE, Answer, Call
from carpool.surfaces.openai.answers import chat_completion, chat_events, embeddings_list
from carpool.surfaces.openai.requests import read_chat, read_embeddings
from carpool.surfaces.openai.values import Untranslatable
from carpool.surfaces.refusals import Refusal, google_body, openai_body, refusal_of
from carpool.surfaces.routes import Chat, Embed, Embeddings, EmbedMany, Generate, Pass, passed, route
from carpool.types import Kind, Request

if TYPE_CHECKING:
    from carpool._asking import Begun
    from carpool.client import Client
    from carpool.responses import Response
    from carpool.settings import Ladder
    from carpool.types import Deadline

logger: Final = logging.getLogger("carpool")

KEY: Final = "x-carpool-key"
LADDER: Final = "x-carpool-ladder"
Held: TypeAlias = list[Call]
"""A call, or nothing once it was taken in."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What came through so far."""

    asked: dict[str, int]
    """Requests for the client, by kind."""
    passed: dict[str, int]
    """Calls that were handed on at the service's own price, by what they ask for."""
    refused: dict[str, int]
    """Calls that were answered with an error of ours, by its status word."""


class Exchange:
    """Answers calls by one client.

    Args:
        client: an open client; calls are answered on its event loop.
        deadline: of calls that say nothing of when they must be answered.
        ladder: of calls that name none; ``None``: the client's.
    """

    def __init__(
        self,
        client: Client,
        *,
        deadline: Deadline | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self._client = client
        self._deadline = deadline
        self._ladder = ladder
        self._asked: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Exchange(asked={self._asked.total()}, passed={self._passed.total()})"

    def traffic(self) -> Traffic:
        """Return what came through so far."""
        return Traffic(asked=dict(self._asked), passed=dict(self._passed), refused=dict(self._refused))

    async def answer(self, call: Call) -> Answer:
        """Answer a call, however long that takes; failures are answers too."""
        held = [call]  # until its requests are on disk: nobody keeps a body in memory for hours
        asked = route(call)
        del call
        try:
            match asked:
                case Generate():
                    return await self._generate(asked, held)
                case Embed():
                    return await self._embed(asked, held)
                case EmbedMany():
                    return await self._embed_many(asked, held)
                case Chat():
                    return await self._chat(held)
                case Embeddings():
                    return await self._embeddings(held)
                case Pass():
                    return await self._pass(asked, held)
                case _:
                    assert_never(asked)
        except NotBatchable:
            return await self._pass(passed(held[0]), held)
        except Untranslatable as error:
            refusal = Refusal(code=400, status="INVALID_ARGUMENT", message=error.message, param=error.param)
        except CarpoolError as error:
            refusal = refusal_of(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not look like one of the network
            logger.error(  # noqa: TRY400 - its words may quote the request
                "a bug of carpool broke the answer to %s\n%s", type(asked).__name__, where_raised(error)
            )
            refusal = Refusal(code=500, status="INTERNAL", message=f"a bug of carpool: {type(error).__name__}")
        return self._refuse(refusal, openai=isinstance(asked, Chat | Embeddings))

    # -- Google's own shapes

    async def _generate(self, asked: Generate, held: Held) -> Answer:
        [response] = await self._ask("generate", asked.model, [held[0].body], held)
        body = response.raw
        headers = told([response])
        if asked.sse:
            return Answer(status=200, headers={**SSE, **headers}, body=b"data: " + body + b"\r\n\r\n")
        return Answer(status=200, headers={**JSON, **headers}, body=b"[" + body + b"]" if asked.streamed else body)

    async def _embed(self, asked: Embed, held: Held) -> Answer:
        [response] = await self._ask("embed", asked.model, [held[0].body], held)
        return Answer(status=200, headers={**JSON, **told([response])}, body=one_vector(response.raw))

    async def _embed_many(self, asked: EmbedMany, held: Held) -> Answer:
        bodies = requests_of(asked.model, held[0].body)
        if not bodies:
            return await self._pass(passed(held[0]), held)
        responses = await self._ask("embed", asked.model, bodies, held)
        body = several_vectors([response.raw for response in responses])
        return Answer(status=200, headers={**JSON, **told(responses)}, body=body)

    # -- OpenAI's shapes

    async def _chat(self, held: Held) -> Answer:
        asked = read_chat(held[0].body)
        bodies = [asked.body]
        asked = replace(asked, body=b"")
        [response] = await self._ask("generate", asked.model, bodies, held)
        write, shape = (chat_events, SSE) if asked.stream else (chat_completion, JSON)
        body = write(asked, response.raw, completion_id=f"chatcmpl-{token_hex(12)}", created=int(time()))
        return Answer(status=200, headers={**shape, **told([response])}, body=body)

    async def _embeddings(self, held: Held) -> Answer:
        asked = read_embeddings(held[0].body)
        bodies = list(asked.bodies)
        asked = replace(asked, bodies=())
        responses = await self._ask("embed", asked.model, bodies, held)
        body = embeddings_list(asked, [response.raw for response in responses])
        return Answer(status=200, headers={**JSON, **told(responses)}, body=body)

    # -- how requests are asked

    async def _ask(self, kind: Kind, model: str, bodies: list[bytes], held: Held) -> list[Response]:
        """Ask for the requests of a call. The first error is that of all; what was sent is there for who asks again.

        Args:
            kind: of the requests.
            model: of the requests.
            bodies: the requests; emptied, and the call with them, as soon as they are taken in.
            held: the call.
        """
        headers = held[0].headers
        begun: list[Begun] = []
        try:
            for number in range(len(bodies)):
                part = f".{number}" if len(bodies) > 1 else ""
                begun.append(await self._client.begin(self._request(kind, model, bodies[number], headers, part)))
            self._asked[kind] += len(begun)
            bodies.clear()
            held.clear()
            await asyncio.gather(*(one.future for one in begun))
        except BaseException:
            for one in begun:
                one.leave()
            raise
        return [one.response() for one in begun]

    def _request(self, kind: Kind, model: str, body: bytes, headers: Mapping[str, str], part: str) -> Request:
        key = headers.get(KEY)
        return Request(
            model=model,
            kind=kind,
            body=unnamed(body),
            key=f"{key}{part}" if key else None,
            deadline=deadline_of(headers, self._deadline),
            ladder=_ladder_of(headers) or self._ladder,
        )

    # -- all else

    async def _pass(self, asked: Pass, held: Held) -> Answer:
        [call] = held
        held.clear()
        self._passed[asked.name] += 1
        try:
            reply = await self._client.upstream.forward(call.method, asked.target, call.headers, call.body)
        except ProviderError as error:
            fault = error.fault
        else:
            headers = dict(reply.headers)
            for name in UPLOAD_URLS:
                if headers.get(name, "").startswith("/"):
                    headers[name] = call.origin + headers[name]
            return Answer(status=reply.status, headers={**headers, "x-carpool-route": "passed"}, pieces=reply.pieces)
        if fault.kind == "refused":
            return self._refuse(Refusal(code=400, status="INVALID_ARGUMENT", message=fault.error.message))
        # 502 says that it may have taken effect, as it would from any proxy.
        code, status = (503, "UNAVAILABLE") if fault.kind == "not_sent" else (502, "UNKNOWN")
        return self._refuse(Refusal(code=code, status=status, message=f"no reply: {shown(fault.error.message)}"))

    def _refuse(self, refusal: Refusal, *, openai: bool = False) -> Answer:
        self._refused[refusal.status] += 1
        headers = dict(JSON)
        if refusal.retry_after_s:
            headers["retry-after"] = str(refusal.retry_after_s)
        body = openai_body(refusal) if openai else google_body(refusal)
        return Answer(status=refusal.code, headers=headers, body=body)


def told(responses: Sequence[Response]) -> dict[str, str]:
    """Return the headers that tell what became of the requests of a call: route, job, waiting time, cost."""
    receipts = [response.receipt for response in responses]
    routes = sorted({receipt.route for receipt in receipts})
    jobs = sorted({receipt.job for receipt in receipts if receipt.job})
    headers = {
        "x-carpool-route": ",".join(routes),
        "x-carpool-waited": f"{max(receipt.waited_s for receipt in receipts):.3f}",
    }
    if jobs:
        headers["x-carpool-job"] = ",".join(jobs[:8])
    paid = [receipt.paid_usd for receipt in receipts]
    if None not in paid:
        headers["x-carpool-cost"] = f"{sum((one for one in paid if one is not None), Decimal(0)):f}"
    if any(receipt.reused for receipt in receipts):
        headers["x-carpool-reused"] = "true"
    return headers


def _ladder_of(headers: Mapping[str, str]) -> Ladder | None:
    text = headers.get(LADDER, "").strip().lower()
    return read_ladder(text) if text else None
