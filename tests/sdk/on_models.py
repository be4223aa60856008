"""The calls of models, but for embeddings: what they answer, and what is refused."""

from __future__ import annotations

import base64
import enum
import json
from typing import Any

from google import genai
from google.genai import types
from pydantic import BaseModel
from sides import (
    IMAGE_MODEL,
    MODEL,
    SPEECH_MODEL,
    Side,
    counted,
    drives,
    holds,
    refused,
    refused_by_the_client,
    same,
    spoke,
)

GENERATE = "models.generate_content"
VERTEX_ONLY = "exists on Vertex AI only: the SDK raises ValueError before it sends anything"
# One pixel.
PNG = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Recipe(BaseModel):
    """What an answer is to be parsed into."""

    name: str
    minutes: int
    steps: list[str]


class Mood(enum.Enum):
    """What an answer is to be one of."""

    GOOD = "good"
    BAD = "bad"


async def generate(side: Side, contents: Any, model: str = MODEL, **config: Any) -> Any:
    return await side.do(
        side.client.models.generate_content,
        model=model,
        contents=contents,
        config=types.GenerateContentConfig(**config) if config else None,
    )


# -- text


@drives(GENERATE, "text")
async def text(side: Side) -> None:
    first = spoke(await generate(side, "Why is the sky blue?"))
    holds("Why is the sky blue?" in first, first)
    same(spoke(await generate(side, "Why is the sky blue?")), first)
    holds(spoke(await generate(side, "Why is the sea blue?")) != first, first)


@drives(GENERATE, "every field of the config")
async def full_config(side: Side) -> None:
    answer = await generate(
        side,
        "hi",
        system_instruction="be brief",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        candidate_count=2,
        max_output_tokens=4000,
        stop_sequences=["NEVER SAID"],
        presence_penalty=0.1,
        frequency_penalty=0.2,
        seed=7,
        response_mime_type="text/plain",
        response_modalities=["TEXT"],
        media_resolution="MEDIA_RESOLUTION_LOW",
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=128),
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.BLOCK_NONE
            )
        ],
        labels={"team": "x"},
        service_tier="flex",
    )
    spoke(answer)
    same([candidate.index or 0 for candidate in answer.candidates], [0, 1])
    holds(0 < answer.usage_metadata.thoughts_token_count <= 128, answer.usage_metadata)


@drives(GENERATE, "several turns")
async def turns(side: Side) -> None:
    told = [
        types.UserContent("My name is Ada."),
        types.ModelContent("Hello, Ada."),
        types.Content(role="user", parts=[types.Part(text="What is my name?")]),
    ]
    holds("What is my name?" in spoke(await generate(side, told)), "the last turn is not answered")


@drives(GENERATE, "bytes, a file and an https address")
async def multimodal(side: Side) -> None:
    parts = [
        "What is on it?",
        types.Part.from_bytes(data=PNG, mime_type="image/png"),
        types.Part.from_uri(file_uri="https://example.com/picture.png", mime_type="image/png"),
    ]
    answer = await generate(side, parts)
    spoke(answer)
    details = {one.modality.value: one.token_count for one in answer.usage_metadata.prompt_tokens_details}
    holds(details.get("IMAGE", 0) > 0 and details.get("TEXT", 0) > 0, details)


@drives(GENERATE, "thinking")
async def thinking(side: Side) -> None:
    answer = await generate(
        side, "Think.", thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_level="HIGH")
    )
    spoke(answer)
    holds([part for part in answer.candidates[0].content.parts if part.thought], answer.candidates[0].content)
    holds(answer.usage_metadata.thoughts_token_count, answer.usage_metadata)


@drives(GENERATE, "max_output_tokens reached")
async def too_long(side: Side) -> None:
    answer = await generate(side, "Tell me everything.", max_output_tokens=5)
    same(answer.candidates[0].finish_reason, types.FinishReason.MAX_TOKENS)
    holds(answer.usage_metadata.candidates_token_count <= 5, answer.usage_metadata)


@drives(GENERATE, "no contents: refused with 400")
async def nothing_asked(side: Side) -> None:
    with refused(400, "* GenerateContentRequest.contents"):
        await generate(side, [types.Content(role="user", parts=[])])


@drives(GENERATE, "unknown model: refused with 404")
async def unknown_model(side: Side) -> None:
    words = f"models/palm is not found for API version {side.version}, or is not supported for generateContent."
    with refused(404, words):
        await generate(side, "hi", model="palm")


# -- structure


@drives(GENERATE, "JSON by a pydantic schema")
async def pydantic_schema(side: Side) -> None:
    answer = await generate(side, "Soup?", response_mime_type="application/json", response_schema=Recipe)
    spoke(answer)
    holds(isinstance(answer.parsed, Recipe), answer.parsed)
    several = await generate(side, "Soups?", response_mime_type="application/json", response_schema=list[Recipe])
    holds(isinstance(several.parsed, list) and all(isinstance(one, Recipe) for one in several.parsed), several.text)


@drives(GENERATE, "JSON by a dict schema")
async def dict_schema(side: Side) -> None:
    schema = {"type": "OBJECT", "properties": {"a_b": {"type": "INTEGER"}}, "required": ["a_b"]}
    answer = await generate(side, "x", response_mime_type="application/json", response_schema=schema)
    holds(isinstance(answer.parsed["a_b"], int), answer.text)


@drives(GENERATE, "JSON by response_json_schema")
async def json_schema(side: Side) -> None:
    answer = await generate(
        side, "x", response_mime_type="application/json", response_json_schema=Recipe.model_json_schema()
    )
    Recipe.model_validate(json.loads(answer.text))


@drives(GENERATE, "one of an enum")
async def enum_schema(side: Side) -> None:
    answer = await generate(side, "How are you?", response_mime_type="text/x.enum", response_schema=Mood)
    holds(answer.parsed in set(Mood), answer.text)


# -- tools


def weather_in(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: its name.
    """
    return f"rain over {len(city)} letters"


@drives(GENERATE, "a function, called by the user")
async def declared(side: Side) -> None:
    calling = types.FunctionCallingConfig(mode="ANY", allowed_function_names=["weather_in"])
    answer = await generate(
        side,
        "What is the weather in Oslo?",
        tools=[weather_in],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        tool_config=types.ToolConfig(function_calling_config=calling),
    )
    (call,) = answer.function_calls
    same(call.name, "weather_in")
    holds(isinstance(call.args["city"], str), call)
    counted(answer)


@drives(GENERATE, "a function, called by the SDK")
async def called_automatically(side: Side) -> None:
    answer = await generate(side, "Use weather_in for Oslo.", tools=[weather_in])
    spoke(answer)
    history = answer.automatic_function_calling_history
    (response,) = [part.function_response for turn in history for part in turn.parts if part.function_response]
    same((response.name, list(response.response)), ("weather_in", ["result"]))
    holds(response.response["result"].startswith("rain over"), response)


@drives(GENERATE, "Google Search, code execution, URL context")
async def google_tools(side: Side) -> None:
    search = await generate(side, "Who won?", tools=[types.Tool(google_search=types.GoogleSearch())])
    spoke(search)
    holds(search.candidates[0].grounding_metadata, search.candidates[0])
    tools = [types.Tool(code_execution=types.ToolCodeExecution()), types.Tool(url_context=types.UrlContext())]
    spoke(await generate(side, "Compute 2 + 2.", tools=tools))


# -- pictures and speech


@drives(GENERATE, "a picture")
async def picture(side: Side) -> None:
    answer = await generate(
        side,
        "a cat",
        model=IMAGE_MODEL,
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(aspect_ratio="16:9"),
    )
    blobs = [part.inline_data for part in answer.candidates[0].content.parts if part.inline_data]
    same([blob.mime_type for blob in blobs], ["image/png"])
    data = blobs[0].data
    same(data[:8], b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    holds(abs(width / height - 16 / 9) < 0.1, (width, height))
    details = {one.modality.value: one.token_count for one in answer.usage_metadata.candidates_tokens_details}
    holds(details.get("IMAGE", 0) > 0, details)


@drives(GENERATE, "speech")
async def speech(side: Side) -> None:
    voice = types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Kore"))
    answer = await generate(
        side,
        "Say hello.",
        model=SPEECH_MODEL,
        response_modalities=["AUDIO"],
        speech_config=types.SpeechConfig(voice_config=voice),
    )
    (blob,) = [part.inline_data for part in answer.candidates[0].content.parts if part.inline_data]
    holds(blob.mime_type.startswith("audio/") and blob.data, blob.mime_type)


# -- streams, counts, and the models themselves


@drives("models.generate_content_stream", "text")
async def stream(side: Side) -> None:
    whole = spoke(await generate(side, "Tell a story."))
    chunks = await side.every(
        await side.do(side.client.models.generate_content_stream, model=MODEL, contents="Tell a story.")
    )
    holds(len(chunks) > 1, chunks)
    same("".join(chunk.text or "" for chunk in chunks), whole)
    same(chunks[-1].candidates[0].finish_reason, types.FinishReason.STOP)
    for chunk in chunks:
        counted(chunk)


@drives("models.generate_content_stream", "unknown model: refused with 404")
async def stream_refused(side: Side) -> None:
    with refused(404, "models/palm is not found"):
        await side.every(await side.do(side.client.models.generate_content_stream, model="palm", contents="x"))


@drives("models.count_tokens", "text and a picture")
async def count_tokens(side: Side) -> None:
    short = await side.do(side.client.models.count_tokens, model=MODEL, contents="hello there")
    long = await side.do(
        side.client.models.count_tokens,
        model=MODEL,
        contents=["hello there", types.Part.from_bytes(data=PNG, mime_type="image/png")],
    )
    holds(0 < short.total_tokens < long.total_tokens, (short, long))
    answer = await generate(side, "hello there")
    same(short.total_tokens, answer.usage_metadata.prompt_token_count)


@drives("models.get", "a model")
async def get_model(side: Side) -> None:
    model = await side.do(side.client.models.get, model=MODEL)
    same(model.name, f"models/{MODEL}")
    holds("generateContent" in model.supported_actions, model)
    holds(model.input_token_limit and model.output_token_limit and model.display_name, model)
    with refused(404):
        await side.do(side.client.models.get, model="palm")


@drives("models.list", "in pages")
async def list_models(side: Side) -> None:
    pages = await side.do(side.client.models.list, config={"page_size": 2})
    same(len(pages.page), 2)
    names = [model.name for model in await side.every(pages)]
    same(sorted(set(names)), sorted(names))
    holds({f"models/{MODEL}", "models/gemini-embedding-001"} <= set(names), names)


@drives("models.list", "tuned models: none")
async def list_tuned(side: Side) -> None:
    same(await side.every(await side.do(side.client.models.list, config={"query_base": False})), [])


# -- what is refused


@drives("models.update", "a tuned model", why_not="nobody can tune models through this API any more: 404")
async def update(side: Side) -> None:
    with refused(404):
        await side.do(side.client.models.update, model="tunedModels/mine", config={"display_name": "x"})


@drives("models.delete", "a tuned model", why_not="nobody can tune models through this API any more: 404")
async def delete(side: Side) -> None:
    with refused(404):
        await side.do(side.client.models.delete, model="tunedModels/mine")


@drives("models.compute_tokens", "text", why_not=VERTEX_ONLY)
async def compute_tokens(side: Side) -> None:
    with refused_by_the_client("only supported"):
        await side.do(side.client.models.compute_tokens, model=MODEL, contents="x")


@drives("models.generate_images", "Imagen", why_not=VERTEX_ONLY)
async def imagen(side: Side) -> None:
    with refused_by_the_client("only supported"):
        await side.do(side.client.models.generate_images, model="imagen-4.0-generate-001", prompt="a cat")


@drives(
    "models.generate_videos",
    "Veo",
    why_not="3.x: Vertex AI only, the SDK raises ValueError before it sends anything; 2.x: Veo is not emulated, 404",
)
async def veo(side: Side) -> None:
    model = "veo-3.1-generate-preview"
    sends = genai.__version__.startswith("2.")
    with refused(404, f"models/{model} is not found") if sends else refused_by_the_client("only supported"):
        await side.do(side.client.models.generate_videos, model=model, source={"prompt": "a cat"})


IMAGE = types.Image(image_bytes=PNG, mime_type="image/png")


@drives("models.edit_image", "a picture", why_not=VERTEX_ONLY)
async def edit_image(side: Side) -> None:
    reference = types.RawReferenceImage(reference_id=1, reference_image=IMAGE)
    with refused_by_the_client("only supported"):
        await side.do(
            side.client.models.edit_image, model="imagen-3.0", prompt="x", reference_images=[reference], config=None
        )


@drives("models.upscale_image", "a picture", why_not=VERTEX_ONLY)
async def upscale_image(side: Side) -> None:
    with refused_by_the_client("only supported"):
        await side.do(side.client.models.upscale_image, model="imagen-3.0", image=IMAGE, upscale_factor="x2")


@drives("models.recontext_image", "a picture", why_not=VERTEX_ONLY)
async def recontext_image(side: Side) -> None:
    with refused_by_the_client("only supported"):
        await side.do(
            side.client.models.recontext_image, model="imagen-x", source=types.RecontextImageSource(prompt="x")
        )


@drives("models.segment_image", "a picture", why_not=VERTEX_ONLY)
async def segment_image(side: Side) -> None:
    with refused_by_the_client("only supported"):
        await side.do(side.client.models.segment_image, model="imagen-x", source=types.SegmentImageSource(image=IMAGE))
