"""What an answer shows of a search.

Owns grounding metadata: the queries, the pages and which part of a text each supports. The pages are made up. It must
not know how texts are made.
"""

from __future__ import annotations

from typing import Final

from .fields import as_object, as_str
from .messages import Json, JsonObject
from .prompts import items_of

_QUERY_CHARS: Final = 60
_PAGE: Final = "https://vertexaisearch.cloud.google.com/grounding-api-redirect/emulator"


def _has(tools: list[Json], *names: str) -> bool:
    return any(name in as_object(tool) for tool in tools for name in names)


def grounding_of(tools: Json, asked: str, parts: list[Json]) -> JsonObject:
    """Return the metadata that tools of the service add to a candidate; empty without such tools.

    Args:
        tools: of the request, in camelCase.
        asked: the last text of the user.
        parts: of the candidate.
    """
    if not tools:
        return {}
    given = items_of(tools)
    found: JsonObject = {}
    if _has(given, "urlContext"):
        words = (word for word in asked.split() if word.startswith(("http://", "https://")))
        pages: list[Json] = [
            {"retrievedUrl": url, "urlRetrievalStatus": "URL_RETRIEVAL_STATUS_SUCCESS"} for url in words
        ]
        found["urlContextMetadata"] = {"urlMetadata": pages} if pages else {}
    text = next((as_str(as_object(part)["text"]) for part in parts if "text" in as_object(part)), "")
    if text and _has(given, "googleSearch", "googleSearchRetrieval"):
        found["groundingMetadata"] = {
            "searchEntryPoint": {"renderedContent": '<div class="container"></div>'},
            "groundingChunks": [{"web": {"uri": _PAGE, "title": "example.com"}}],
            "groundingSupports": [
                {
                    "segment": {"endIndex": len(text.encode("utf-8", "surrogatepass")), "text": text},
                    "groundingChunkIndices": [0],
                }
            ],
            "webSearchQueries": [asked[:_QUERY_CHARS]],
        }
    return found
