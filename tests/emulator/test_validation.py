"""What a message may hold: unknown fields and wrong types, with both kinds of words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carpool.emulator.knownfields import MESSAGES, snake
from carpool.emulator.validation import check, is_clean, line_refusal, wrongs

from .driver import MODEL, Driver, jsonl, prompt

GENERATE = f"/v1beta/models/{MODEL}:generateContent"
FULL: dict[str, Any] = {
    "model": f"models/{MODEL}",
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "x", "thought": True, "thoughtSignature": "AP_-"},
                {
                    "inlineData": {"mimeType": "image/png", "data": "AP/+"},
                    "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"},
                },
                {
                    "fileData": {"fileUri": "https://example.com/x", "mimeType": "video/mp4"},
                    "videoMetadata": {"fps": 2},
                },
                {"functionCall": {"name": "f", "args": {"any_thing": {"goes_here": [1]}}}},
                {"functionResponse": {"name": "f", "response": {"any": None}}},
                {"executableCode": {"language": "PYTHON", "code": "1"}},
                {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            ],
        }
    ],
    "systemInstruction": {"parts": [{"text": "be brief"}]},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "f",
                    "description": "d",
                    "parameters": {"type": "object", "properties": {"snake_name": {"type": "STRING", "enum": ["a"]}}},
                    "responseJsonSchema": {"$defs": {"anything": 1}},
                }
            ]
        },
        {"googleSearch": {}},
        {"codeExecution": {}},
        {"urlContext": {}},
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["f"]}},
    "generationConfig": {
        "temperature": 0.5,
        "topP": "0.5",
        "topK": 40.0,
        "candidateCount": "1",
        "maxOutputTokens": 10,
        "stopSequences": ["x"],
        "seed": 7,
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "OBJECT",
            "properties": {"a": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER", "nullable": True, "minimum": 1}]}},
            "propertyOrdering": ["a"],
            "required": ["a"],
        },
        "responseJsonSchema": {"type": ["object", "null"], "additionalProperties": False, "my_key": 1},
        "responseModalities": ["TEXT", "IMAGE"],
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 10, "thinkingLevel": "LOW"},
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "1K"},
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
    },
    "labels": {"any_label": "x"},
    "cachedContent": "cachedContents/x",
    "serviceTier": "flex",
}


def in_snake(value: Any) -> Any:
    """Spell the names of fields in snake_case, as far as they are fields."""
    if isinstance(value, list):
        return [in_snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    free = {"args", "response", "labels", "responseJsonSchema", "properties"}
    return {snake(name): item if name in free else in_snake(item) for name, item in value.items()}


def test_all_that_is_known_is_taken_in_both_spellings() -> None:
    assert is_clean("GenerateContentRequest", FULL)
    assert in_snake(FULL)["generation_config"]["thinking_config"]["include_thoughts"] is True
    assert is_clean("GenerateContentRequest", in_snake(FULL))
    check("GenerateContentLine", {"key": "k", "request": FULL, "metadata": {"any": 1}})
    assert list(wrongs("GenerateContentRequest", FULL, "")) == []


def test_every_message_that_a_field_is_has_a_table() -> None:
    fields = [field for table in MESSAGES.values() for field in table.values()]
    assert {field.message for field in fields if field.message} <= MESSAGES.keys()
    assert {field.enum for field in fields if field.code == "e"} >= {"HarmCategory", "Type", ""}
    assert {field.code for field in fields} <= {*"silfdbyex", ""}


def test_a_single_value_stands_for_a_list_and_null_for_nothing() -> None:
    single = {"contents": {"parts": {"text": "x"}}, "tools": None, "generationConfig": {"stopSequences": "y"}}
    assert is_clean("GenerateContentRequest", single)
    world = Driver()
    answer = world.ok("POST", GENERATE, {"contents": {"parts": {"text": "x"}}})
    assert answer == world.ok("POST", GENERATE, {"contents": [{"parts": [{"text": "x"}]}]})


NO_FIELD = "Cannot find field."
NO_LIST = "Proto field is not repeating, cannot start list."
PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1beta."


@pytest.mark.parametrize(
    ("request_", "field", "text", "line"),
    [
        (
            {"content": []},
            "",
            f'Invalid JSON payload received. Unknown name "content": {NO_FIELD}',
            "no such field: 'content'",
        ),
        (
            {"contents": [{}, {"parts": [{"text": "x", "txt": 1}]}]},
            "contents[1].parts[0]",
            f"Invalid JSON payload received. Unknown name \"txt\" at 'contents[1].parts[0]': {NO_FIELD}",
            "no such field: 'txt'",
        ),
        (
            {"generationConfig": {"cachedContent": "x"}},
            "generation_config",
            f"Invalid JSON payload received. Unknown name \"cachedContent\" at 'generation_config': {NO_FIELD}",
            "no such field: 'cachedContent'",
        ),
        (
            {"generation_config": {"response_schema": {"additionalProperties": False}}},
            "generation_config.response_schema",
            (
                'Invalid JSON payload received. Unknown name "additionalProperties" at '
                f"'generation_config.response_schema': {NO_FIELD}"
            ),
            "no such field: 'additionalProperties'",
        ),
        (
            {"generationConfig": {"responseSchema": {"properties": {"a": {}, "b": {"type": ["STRING"]}}}}},
            "generation_config.response_schema.properties[1].value",
            (
                'Invalid JSON payload received. Unknown name "type" at '
                f"'generation_config.response_schema.properties[1].value': {NO_LIST}"
            ),
            "expected a string",
        ),
        (
            {"generationConfig": {"responseSchema": {"type": "text"}}},
            "generation_config.response_schema.type",
            f"Invalid value at 'generation_config.response_schema.type' ({PACKAGE}Type), \"text\"",
            "unknown enum value: 'text'",
        ),
        (
            {"generationConfig": {"temperature": "hot"}},
            "generation_config.temperature",
            "Invalid value at 'generation_config.temperature' (TYPE_FLOAT), \"hot\"",
            "expected a number",
        ),
        (
            {"generationConfig": {"maxOutputTokens": 1.5}},
            "generation_config.max_output_tokens",
            "Invalid value at 'generation_config.max_output_tokens' (TYPE_INT32), 1.5",
            "expected a number",
        ),
        (
            {"systemInstruction": "be brief"},
            "system_instruction",
            f"Invalid value at 'system_instruction' ({PACKAGE}Content), \"be brief\"",
            "expected an object",
        ),
        (
            {"contents": [{"parts": [{"text": {"a": 1}}]}]},
            "contents[0].parts[0]",
            "Invalid value at 'contents[0].parts[0]' (text), Starting an object on a scalar field",
            "expected a string",
        ),
        (
            {"contents": [{"parts": [{"text": "x", "inlineData": {}}]}]},
            "contents[0].parts[0]",
            (
                "Invalid value at 'contents[0].parts[0]' (oneof), oneof field 'data' is already set. "
                "Cannot set 'inlineData'"
            ),
            "'inlineData' has already been set (either directly or as part of a oneof)",
        ),
        (
            {"contents": [{"parts": [{"inlineData": {"data": "a*"}}]}]},
            "contents[0].parts[0].inline_data.data",
            "Invalid value at 'contents[0].parts[0].inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"a*\"",
            "corrupt base64",
        ),
        (
            {"safetySettings": [{"category": "NOPE"}]},
            "safety_settings[0].category",
            f"Invalid value at 'safety_settings[0].category' ({PACKAGE}HarmCategory), \"NOPE\"",
            "unknown enum value: 'NOPE'",
        ),
        (
            {"generationConfig": {"responseModalities": ["text", "NO"]}},
            "generation_config.response_modalities[1]",
            f"Invalid value at 'generation_config.response_modalities[1]' ({PACKAGE}GenerationConfig.Modality), \"NO\"",
            "unknown enum value: 'NO'",
        ),
        (
            {"tools": [{"functionDeclarations": [{"parameters": {"properties": 3}}]}]},
            "tools[0].function_declarations[0].parameters.properties",
            "Invalid value at 'tools[0].function_declarations[0].parameters.properties' (Map), 3",
            "expected an object",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(request_: Any, field: str, text: str, line: str) -> None:
    error = Driver().error("POST", GENERATE, request_)
    assert (error["code"], error["status"], error["message"]) == (400, "INVALID_ARGUMENT", text)
    (violation,) = error["details"][0]["fieldViolations"]
    assert violation == ({"field": field, "description": text} if field else {"description": text})

    raw = json.dumps({"key": "k", "request": request_}).encode()
    said = line_refusal("GenerateContentLine", json.loads(raw), raw)
    assert said is not None
    assert said.endswith(f": {line}")
    column = int(said.removeprefix("invalid JSON, near column ").partition(":")[0])
    assert raw[column - 1 :].startswith(b'"')


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1"])
def test_a_body_must_be_an_object(body: bytes) -> None:
    error = Driver().error("POST", GENERATE, body)
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert error["message"] == 'Invalid JSON payload received. Unknown name "": Root element must be a message.'


def test_one_bad_row_refuses_them_all_in_both_forms() -> None:
    world = Driver()
    bad = prompt("x", generationConfig={"thinkingConfig": {"budget": 1}})
    rows = [prompt("fine"), bad, prompt("y", tools=[{"google_serch": {}}])]
    inline = world.refused_create({"requests": {"requests": [{"request": row} for row in rows]}})
    place = "batch.input_config.requests.requests"
    assert [one["field"] for one in inline["details"][0]["fieldViolations"]] == [
        f"{place}[1].request.generation_config.thinking_config",
        f"{place}[2].request.tools[0]",
    ]
    lines = jsonl(*({"key": str(number), "request": row} for number, row in enumerate(rows)))
    error = world.refused_create({"fileName": world.upload(lines)})
    columns = [line.index(name) + 1 for line, name in zip(lines.split(b"\n")[1:], (b'"budget"', b'"google_serch"'))]  # noqa: B905 (the rest is empty)
    assert error["message"].split("\n") == [
        f"Error on line 2: invalid JSON, near column {columns[0]}: no such field: 'budget'",
        f"Error on line 3: invalid JSON, near column {columns[1]}: no such field: 'google_serch'",
    ]
    assert world.world.jobs(world.now) == []


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([], "* GenerateContentRequest.contents: contents is not specified\n"),
        ([{"role": "system", "parts": [{"text": "x"}]}], "Please use a valid role: user, model."),
        ([{"parts": []}], "* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.\n"),
        (
            [{"parts": [{"text": "x"}]}, {"parts": [{"text": "y"}, {}]}],
            (
                "* GenerateContentRequest.contents[1].parts[1].data: "
                "required oneof field 'data' must have one initialized field\n"
            ),
        ),
    ],
)
def test_empty_contents_are_errors_of_their_rows(contents: Any, words: str) -> None:
    world = Driver()
    error = world.error("POST", GENERATE, {"contents": contents, "systemInstruction": {"parts": [{"text": "s"}]}})
    assert (error["code"], error["message"]) == (400, words)
    bad, good = world.inline(world.create({"request": {"contents": contents}}, {"request": prompt("x")}))
    assert (bad["error"], "response" in good) == ({"code": 3, "message": words}, True)
