"""Google's own SDK on a client of carpool: what it does is what it does without, but for the price."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from google import genai
from google.genai import errors, types
from pydantic import BaseModel
from tests.canary import API_KEY
from tests.end_to_end.support import EMBED_MODEL, MODEL, jobs_of, opened, ops_of, prompts, quick
from tests.surfaces.scaled import epoch, run_scaled

import carpool
from carpool import Client, ConfigurationError, sync
from carpool.emulator import Emulator, Fault, Plan, expected_text, expected_values

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


@asynccontextmanager
async def google(emulator: Emulator, **more: Any) -> AsyncGenerator[tuple[genai.Client, Client]]:
    """Open the SDK on a client at an emulator."""
    async with opened(emulator, canary=False, **more) as client:
        sdk = carpool.genai_client(client)
        try:
            yield sdk, client
        finally:
            await sdk.aio.aclose()


async def ask(sdk: genai.Client, text: str, **config: Any) -> Any:
    return await sdk.aio.models.generate_content(model=MODEL, contents=text, config=config or None)


# -- answers


async def test_calls_made_at_once_share_a_job_and_each_gets_its_own_answer() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        answers = await asyncio.gather(*(ask(sdk, text) for text in prompts(300)))
        assert [answer.text for answer in answers] == [expected_text(text) for text in prompts(300)]
        assert len(jobs_of(emulator)) == 1
        assert ops_of(emulator)["generate"] == 0


async def test_an_answer_tells_route_job_waiting_time_and_cost() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, client):
        answer = await ask(sdk, "hello")
        headers = answer.sdk_http_response.headers
        assert headers["x-carpool-route"] == "batch"
        assert headers["x-carpool-job"] == jobs_of(emulator)[0].name
        assert float(headers["x-carpool-waited"]) >= 0
        assert headers["x-carpool-cost"] == f"{client.receipt().paid_usd:f}"
        assert answer.usage_metadata.prompt_token_count > 0


class Recipe(BaseModel):
    name: str
    minutes: int


async def test_a_schema_works_either_way() -> None:
    plan = Plan(batch_ignores_json_schema=True)
    async with Emulator(plan) as emulator, google(emulator) as (sdk, _):
        shape = {"response_mime_type": "application/json"}
        by_type = await ask(sdk, "a recipe", response_schema=Recipe, **shape)
        assert isinstance(by_type.parsed, Recipe)
        by_json = await ask(sdk, "a recipe", response_json_schema=Recipe.model_json_schema(), **shape)
        assert Recipe.model_validate(by_json.parsed)
        assert ops_of(emulator)["generate"] == 0


async def test_a_schema_that_no_batch_honours_is_handed_on() -> None:
    schema = {"type": "object", "patternProperties": {"^x": {"type": "integer"}}}
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        answer = await ask(sdk, "x", response_mime_type="application/json", response_json_schema=schema)
        assert answer.sdk_http_response.headers["x-carpool-route"] == "passed"
        assert isinstance(json.loads(answer.text), dict)
        assert (ops_of(emulator)["generate"], ops_of(emulator)["create"]) == (1, 0)


async def test_functions_are_called_automatically() -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """Tell the weather of a city."""
        asked.append(city)
        return "sunny"

    async with Emulator() as emulator, google(emulator) as (sdk, _):
        chat = sdk.aio.chats.create(model=MODEL, config=types.GenerateContentConfig(tools=[weather]))
        answer = await chat.send_message("What is the weather in Paris?")
        assert asked
        assert answer.text
        assert ops_of(emulator)["generate"] == 0
        history = [part for turn in chat.get_history() for part in turn.parts or []]
        assert any(part.function_response for part in history)


async def test_a_chat_remembers() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        chat = sdk.aio.chats.create(model=MODEL)
        await chat.send_message("one")
        await chat.send_message("two")
        assert [turn.role for turn in chat.get_history()] == ["user", "model", "user", "model"]
        assert ops_of(emulator)["generate"] == 0


async def test_a_stream_is_one_event() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        stream = await sdk.aio.models.generate_content_stream(model=MODEL, contents="hello")
        assert [event.text async for event in stream] == [expected_text("hello")]
        assert (ops_of(emulator)["stream"], ops_of(emulator)["create"]) == (0, 1)


async def test_embeddings_of_several_texts_are_split_and_joined() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        config = {"output_dimensionality": 64}
        calls = [
            sdk.aio.models.embed_content(model=EMBED_MODEL, contents=[f"{number} a", f"{number} b"], config=config)
            for number in range(25)
        ]
        for number, answer in enumerate(await asyncio.gather(*calls)):
            values = [vector.values for vector in answer.embeddings or []]
            assert values == [expected_values(f"{number} {name}", 64) for name in "ab"]
        [job] = jobs_of(emulator)
        assert job.rows == 50


async def test_a_newer_model_tells_the_tokens_of_its_vectors() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        content = types.Content(parts=[types.Part(text="a text")])
        answer = await sdk.aio.models.embed_content(model="gemini-embedding-2", contents=[content, content])
        assert len(answer.embeddings or []) == 2
        assert ops_of(emulator)["create"] == 1


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_either_http_library_will_do(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_HTTP_CLIENT", library)
    async with Emulator() as emulator, google(emulator) as (sdk, client):
        inner: Any = sdk.aio._api_client._async_httpx_client
        assert any(base.__module__.partition(".")[0] == library for base in type(inner).__mro__)
        assert (await ask(sdk, "hello")).text == expected_text("hello")
        stream = await sdk.aio.models.generate_content_stream(model=MODEL, contents="hello")
        assert [event.text async for event in stream] == [expected_text("hello")]
        blocking = await asyncio.to_thread(sdk.models.generate_content, model=MODEL, contents="again")
        assert blocking.text == expected_text("again")
        assert [model async for model in await sdk.aio.models.list()]
        assert client.receipt().requests == 3


# -- what is handed on


async def test_all_else_goes_to_the_service_untouched(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"some words " * 900_000)  # more than one chunk of an upload
    async with Emulator() as emulator, google(emulator) as (sdk, client):
        file = await sdk.aio.files.upload(file=path, config={"mime_type": "text/plain"})
        assert file.size_bytes == path.stat().st_size
        assert (await client.files.get(str(file.name))).size_bytes == file.size_bytes
        tokens = await sdk.aio.models.count_tokens(model=MODEL, contents="hello world")
        assert tokens.total_tokens
        names = [model.name async for model in await sdk.aio.models.list()]
        assert f"models/{MODEL}" in names
        answer = await sdk.aio.models.generate_content(model=MODEL, contents=["read this", file])
        assert answer.text
        await sdk.aio.files.delete(name=str(file.name))
        assert [file async for file in client.files.list()] == []
        assert ops_of(emulator)["generate"] == 0


async def test_a_download_comes_in_pieces() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, client):
        lines = [
            json.dumps({"key": str(n), "request": {"contents": [{"parts": [{"text": f"{n}"}]}]}}) for n in range(9)
        ]
        file = await sdk.aio.files.upload(
            file=io.BytesIO("\n".join(lines).encode()), config={"mime_type": "application/jsonl"}
        )
        job = await sdk.aio.batches.create(model=MODEL, src=str(file.name))
        while not job.done:
            job = await sdk.aio.batches.get(name=str(job.name))
        body = await sdk.aio.files.download(file=str(job.dest.file_name))  # type: ignore[union-attr]
        assert len(body.splitlines()) == 9
        blocking = carpool.genai_client(client)
        assert body == await asyncio.to_thread(blocking.files.download, file=str(job.dest.file_name))  # type: ignore[union-attr]


async def test_a_body_that_breaks_off_is_an_error_of_the_http_library() -> None:
    plan = Plan(faults={"models.list.cut": Fault()})
    async with Emulator(plan) as emulator, google(emulator) as (sdk, _):
        with pytest.raises(httpx2.ReadError):
            await sdk.aio.models.list()
        with pytest.raises(httpx2.ReadError):
            await asyncio.to_thread(sdk.models.list)


async def test_credentials_of_the_sdk_stay_here() -> None:
    seen: list[web.BaseRequest] = []

    async def reply(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.json_response({"totalTokens": 3}, headers={"Set-Cookie": "a=b", "X-Own": "1"})

    runner = web.ServerRunner(web.Server(reply))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with Client(
        api_key=API_KEY, base_url=f"http://{host}:{port}/gateway", store=carpool.MemoryStore(), settings=quick()
    ) as client:
        sdk = carpool.genai_client(client, api_key="what-the-sdk-was-given", http_options={"headers": {"X-Mine": "2"}})
        answer = await sdk.aio.models.count_tokens(model=MODEL, contents="x")
        await sdk.aio.aclose()
    await runner.cleanup()
    [counted] = [request for request in seen if request.path.endswith(":countTokens")]
    assert counted.path == f"/gateway/v1/models/{MODEL}:countTokens"
    assert counted.headers["x-goog-api-key"] == API_KEY
    assert "what-the-sdk-was-given" not in str(counted.headers)
    assert (counted.headers["X-Mine"], counted.headers["Via"]) == ("2", "1.1 carpool")
    headers = answer.sdk_http_response.headers  # type: ignore[union-attr]
    assert (headers["x-own"], headers["x-carpool-route"]) == ("1", "passed")  # type: ignore[index]
    assert "set-cookie" not in headers  # type: ignore[operator]


# -- errors


async def test_a_refusal_is_the_sdks_own_error_with_the_services_words() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        with pytest.raises(errors.ClientError) as caught:
            await sdk.aio.models.generate_content(model="no-such-model", contents="x")
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
        assert "no-such-model is not found" in str(caught.value.message)
        with pytest.raises(errors.ClientError) as caught:
            await ask(sdk, "x", cached_content="cachedContents/gone")
        assert 400 <= caught.value.code < 500


@pytest.mark.parametrize("attempts", [1, 5])
async def test_a_job_that_fails_for_good_costs_one_attempt_however_often_the_sdk_would_try(attempts: int) -> None:
    plan = Plan(faults={"row.error": Fault(code=13)})
    async with Emulator(plan) as emulator, opened(emulator, canary=False, attempts_max=1) as client:
        retry = types.HttpRetryOptions(attempts=attempts, initial_delay=0.01, max_delay=0.02)
        sdk = carpool.genai_client(client, http_options={"retry_options": retry})
        with pytest.raises(errors.ClientError) as caught:
            await ask(sdk, "hello")
        assert (caught.value.code, caught.value.status) == (400, "FAILED_PRECONDITION")
        assert client.stats().failed == 1
        assert ops_of(emulator)["create"] == 1
        await sdk.aio.aclose()


async def test_a_field_that_nobody_knows_is_refused_at_once() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        options = types.HttpOptions(extra_body={"nonsense": 1})
        with pytest.raises(errors.ClientError, match="nonsense"):
            await ask(sdk, "x", http_options=options)
        assert ops_of(emulator)["create"] == 0


# -- deadlines


async def test_a_block_gives_a_deadline_to_the_calls_in_it() -> None:
    async with Emulator() as emulator, google(emulator, ladder=None) as (sdk, client):
        with carpool.deadline("30s"):
            answer = await ask(sdk, "hello")
            direct = await client.generate(MODEL, "hello too")
        assert answer.sdk_http_response.headers["x-carpool-route"] == "standard"
        assert direct.receipt.route == "standard"
        assert (await ask(sdk, "later")).sdk_http_response.headers["x-carpool-route"] == "batch"


async def test_the_sdks_own_timeout_is_a_deadline() -> None:
    async with Emulator() as emulator, google(emulator, ladder=None) as (sdk, _):
        answer = await ask(sdk, "hello", http_options=types.HttpOptions(timeout=60_000))
        assert answer.sdk_http_response.headers["x-carpool-route"] == "standard"
        assert ops_of(emulator)["create"] == 0


def test_twenty_minutes_and_a_batch_of_three_hours(tmp_path: Path) -> None:
    """Before anything of the model is known, and after jobs of a minute, which tempt the call into a batch."""

    async def story() -> None:
        async with Emulator(Plan(latency_s=60.0), clock=epoch) as emulator:
            settings = carpool.Settings(linger_s=1.0)
            async with Client(api_key=API_KEY, base_url=emulator.base_url, home=tmp_path, settings=settings) as client:
                sdk = carpool.genai_client(client)
                options = types.HttpOptions(timeout=1_200_000)
                began = asyncio.get_running_loop().time()
                unseen = await ask(sdk, "nothing is known", http_options=options)
                assert unseen.sdk_http_response.headers["x-carpool-route"] == "flex"
                for number in range(3):
                    await ask(sdk, f"quick {number}")
                emulator.plan = Plan(latency_s=3 * 3_600.0)
                began = asyncio.get_running_loop().time()
                answer = await ask(sdk, "slow", http_options=options)
                took_s = asyncio.get_running_loop().time() - began
                assert answer.text == expected_text("slow")
                assert answer.sdk_http_response.headers["x-carpool-route"] in ("flex", "standard")
                assert took_s < 1_200
                assert ops_of(emulator)["create"] == 4, "it was in a batch first"
                await sdk.aio.aclose()

    run_scaled(story(), scale=300.0)


# -- loops, threads, clients


async def test_threads_share_the_client_of_a_loop() -> None:
    async with Emulator() as emulator, google(emulator, linger_s=0.2) as (sdk, _):

        def blocking(text: str) -> Any:
            return sdk.models.generate_content(model=MODEL, contents=text).text

        answers = await asyncio.gather(*(asyncio.to_thread(blocking, text) for text in prompts(4)))
        assert answers == [expected_text(text) for text in prompts(4)]


async def test_a_blocking_call_on_the_loop_of_its_client_is_refused() -> None:
    async with Emulator() as emulator, google(emulator) as (sdk, _):
        with pytest.raises(ConfigurationError, match=r"client\.aio"):
            sdk.models.generate_content(model=MODEL, contents="x")


def test_a_blocking_client_serves_both_faces(gemini_emulator: Any) -> None:
    settings = quick(linger_s=0.2)
    store = carpool.MemoryStore()
    with sync.Client(api_key=API_KEY, base_url=gemini_emulator.base_url, store=store, settings=settings) as client:
        sdk = carpool.genai_client(client)
        found: dict[str, Any] = {}

        def work(text: str) -> None:
            found[text] = sdk.models.generate_content(model=MODEL, contents=text).text

        threads = [threading.Thread(target=work, args=(text,)) for text in prompts(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {text: expected_text(text) for text in prompts(60)}

        async def story() -> list[Any]:
            answers = await asyncio.gather(*(ask(sdk, text) for text in prompts(5, "async")))
            stream = await sdk.aio.models.generate_content_stream(model=MODEL, contents="s")
            return [*(answer.text for answer in answers), *[event.text async for event in stream]]

        expected = [*(expected_text(text) for text in prompts(5, "async")), expected_text("s")]
        assert asyncio.run(story()) == expected
        file = sdk.files.upload(file=io.BytesIO(b"words"), config={"mime_type": "text/plain"})
        assert file.size_bytes == 5
        assert client.receipt().requests == 66
        sdk.close()
        assert client.generate(MODEL, "still open").text


def test_without_a_client_one_is_made_and_closed_with_the_sdks(
    gemini_emulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": tmp_path, "LINGER_S": "0.05", "POLL_MIN_S": "0.01", "POLL_MAX_S": "0.05"}.items():
        monkeypatch.setenv(f"CARPOOL_{name}", str(value))
    sdk = carpool.genai_client(api_key=API_KEY, http_options={"base_url": gemini_emulator.base_url})
    before = threading.active_count()
    assert threading.active_count() == before, "nothing is opened before the first call"
    assert sdk.models.generate_content(model=MODEL, contents="one").text == expected_text("one")
    for _ in range(2):  # one loop after another
        assert asyncio.run(ask(sdk, "two")).text == expected_text("two")
    assert len(list(tmp_path.iterdir())) > 0
    sdk.close()
    assert threading.active_count() == before
    assert asyncio.run(ask(sdk, "three")).text == expected_text("three"), "it opens anew"
    asyncio.run(sdk.aio.aclose())
    assert threading.active_count() == before


def test_options_for_a_client_that_somebody_else_makes(gemini_emulator: Any) -> None:
    store, settings = carpool.MemoryStore(), quick()
    with sync.Client(api_key=API_KEY, base_url=gemini_emulator.base_url, store=store, settings=settings) as client:
        options = carpool.http_options(client, timeout=50_000)
        assert isinstance(options, types.HttpOptions)
        sdk = genai.Client(api_key="any", http_options=options)
        assert sdk.models.generate_content(model=MODEL, contents="x").text == expected_text("x")
        transport = options.client_args["transport"]  # type: ignore[index]
        with httpx2.Client(transport=transport) as plain:
            assert plain.get("https://anything/v1beta/models").json()["models"]


async def test_what_cannot_be_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        await carpool.genai_client(Client(api_key=API_KEY)).aio.models.generate_content(model=MODEL, contents="x")
    with pytest.raises(ConfigurationError, match=r"must be a carpool\.Client"):
        carpool.genai_client("client")  # type: ignore[arg-type]
    for name in ("vertexai", "enterprise"):
        with pytest.raises(ConfigurationError, match="Vertex AI"):
            carpool.genai_client(**{name: True})
        assert not carpool.genai_client(**{name: False}).vertexai
    with pytest.raises(ConfigurationError, match="has a transport already"):
        carpool.http_options(client_args={"transport": object()})
    with pytest.raises(ConfigurationError, match="would go around"):
        carpool.http_options(httpx_client=httpx2.Client())
