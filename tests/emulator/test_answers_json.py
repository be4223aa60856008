"""JSON answers: valid for the schema that the request has, in either style, and the spelling of field names."""

from __future__ import annotations

import enum
import json
from typing import Any

import pydantic
import pytest

from carpool.emulator import expected_text
from carpool.emulator.fields import camel, camelise, needs_camel
from carpool.emulator.schema import Unsatisfiable, instance_of

from .driver import MODEL, Driver, prompt, text_of

JSON_CONFIG = {"responseMimeType": "application/json"}


def ask(request: dict[str, Any]) -> Any:
    return Driver().ok("POST", f"/v1/models/{MODEL}:generateContent", request)


def asked_for_json(text: str = "x", **config: Any) -> Any:
    return json.loads(text_of(ask(prompt(text, generationConfig={**JSON_CONFIG, **config}))))


# -- JSON


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=3, max_length=20)
    amount: int = pydantic.Field(ge=5, le=7)
    price: float = pydantic.Field(gt=0.5, lt=0.75)
    colour: Colour
    tags: list[str] = pydantic.Field(min_length=3, max_length=4)
    note: str | None


class Node(pydantic.BaseModel):
    value: int
    children: list[Node]
    parent: Node | None = None


class Order(pydantic.BaseModel):
    items: list[Item] = pydantic.Field(min_length=1)
    root: Node
    extra: dict[str, int]
    choice: Item | Colour
    pair: tuple[int, str]
    step: int = pydantic.Field(multiple_of=7, ge=100)
    unique: set[Colour] = pydantic.Field(min_length=2)


@pytest.mark.parametrize("text", ["a", "b", "c", "d", "e"])
def test_json_answers_are_valid_for_a_json_schema(text: str) -> None:
    answer = asked_for_json(text, responseJsonSchema=Order.model_json_schema())
    order = Order.model_validate(answer)
    assert len(order.unique) == 2


def test_json_answers_are_valid_for_a_google_schema() -> None:
    schema = {
        "type": "OBJECT",
        "property_ordering": ["b", "a"],
        "required": ["a"],
        "properties": {
            "a": {"type": "ARRAY", "min_items": "3", "max_items": "3", "items": {"type": "INTEGER", "minimum": 4}},
            "b": {"type": "STRING", "enum": ["only"]},
            "any_of": {"any_of": [{"type": "BOOLEAN"}, {"type": "BOOLEAN"}]},
            "when": {"type": "STRING", "format": "date-time"},
            "n": {"type": "NUMBER", "nullable": True},
        },
    }
    answer = asked_for_json(responseSchema=schema)
    assert list(answer) == ["b", "a", "any_of", "when", "n"]
    assert (answer["b"], len(answer["a"]), min(answer["a"]) >= 4) == ("only", 3, True)
    assert isinstance(answer["any_of"], bool)
    assert answer["when"].endswith("Z")
    assert isinstance(answer["n"], float)


def test_strings_in_json_answers_show_their_prompt() -> None:
    answer = asked_for_json("Why?", responseSchema={"type": "OBJECT", "properties": {"a": {"type": "STRING"}}})
    assert expected_text("Why?").startswith(answer["a"])
    assert expected_text("Why?").startswith(asked_for_json("Why?")["answer"])


def test_enum_answers_are_plain() -> None:
    config = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["yes", "no"]}}
    assert text_of(ask(prompt("x", generationConfig=config))) in {"yes", "no"}


def made(schema: Any) -> Any:
    return instance_of(schema, seed=b"seed", echo="echo")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, "echo"),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"type": ["null", "integer"], "minimum": 3, "maximum": 3}, 3),
        ({"type": "null"}, None),
        ({"type": "string", "maxLength": 2}, "ec"),
        ({"type": "string", "minLength": 6}, "echo.."),
        ({"type": "string", "pattern": "^[0-9]{3}$"}, "123"),
        ({"type": "string", "pattern": "^(unclosed"}, "echo"),
        ({"type": "string", "format": "uuid"}, "0b4e7a52-6c1d-4f7e-9a3b-2d5f8c6e1a90"),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, 4),
        ({"type": "integer", "maximum": -10, "multipleOf": 4}, -12),
        ({"type": "number", "minimum": 1, "maximum": 2}, 1.5),
        ({"type": "number", "multipleOf": 0.5, "minimum": 1000, "maximum": 1000.2}, 1000.0),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"type": "array", "items": {"const": 1}, "maxItems": 1}, [1]),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["1 echo", "2 echo"]),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}, {"required": ["y"]}],
                "$defs": {"a": {"properties": {"x": {"const": 1}}, "required": ["x"]}},
            },
            {"x": 1, "y": "echo"},
        ),
        ({"properties": {"x": False, "y": {"const": 2}}}, {"y": 2}),
        ({"additionalProperties": {"const": 1}, "minProperties": 2}, {"key1": 1, "key2": 1}),
        ({"anyOf": [{"type": "integer", "minimum": 2, "maximum": 1}, {"const": "fine"}]}, "fine"),
        ({"items": {"const": 0}}, [0, 0]),
        ({"minimum": 1, "maximum": 1}, 1.0),
    ],
)
def test_instances(schema: Any, expected: Any) -> None:
    assert made(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"enum": [1, 2]}},
        {"type": "number", "minimum": 2, "maximum": 1},
        {"type": "integer", "multipleOf": 10, "minimum": 1, "maximum": 9},
        {"allOf": [False]},
        {"anyOf": [False]},
    ],
)
def test_schemas_without_an_instance_say_so(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        made(schema)


def test_recursive_schemas_end() -> None:
    chain = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    nullable = {"type": "OBJECT", "properties": {"next": {"$ref": "#", "nullable": True}}, "required": ["next"]}
    assert "next" in made(chain)
    assert "next" in made(nullable)


# -- names


@pytest.mark.parametrize(
    ("snake", "expected"),
    [("response_mime_type", "responseMimeType"), ("topP", "topP"), ("_private", "_private"), ("a__b", "aB"), ("", "")],
)
def test_names_in_camel_case(snake: str, expected: str) -> None:
    assert camel(snake) == expected


def test_names_of_the_user_are_left_alone() -> None:
    request = {
        "generation_config": {
            "response_schema": {
                "type": "OBJECT",
                "properties": {"my_name": {"min_items": 1}},
                "property_ordering": ["my_name"],
            },
            "response_json_schema": {"$defs": {"a_b": {"min_items": 1}}},
        },
        "labels": {"my_label": "x"},
        "contents": [{"parts": [{"function_call": {"name": "f", "args": {"my_arg": {"deep_arg": 1}}}}]}],
    }
    assert camelise(request) == {  # type: ignore[arg-type]
        "generationConfig": {
            "responseSchema": {
                "type": "OBJECT",
                "properties": {"my_name": {"minItems": 1}},
                "propertyOrdering": ["my_name"],
            },
            "responseJsonSchema": {"$defs": {"a_b": {"min_items": 1}}},
        },
        "labels": {"my_label": "x"},
        "contents": [{"parts": [{"functionCall": {"name": "f", "args": {"my_arg": {"deep_arg": 1}}}}]}],
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a_b": 1}', True),
        (b'{"a_b" : 1}', True),
        (b'{"aB": "c_d"}', False),
        (b'{"a": "x_y\\": 1"}', False),
        (b"{}", False),
    ],
)
def test_rows_that_need_no_other_spelling_are_told_apart(raw: bytes, expected: bool) -> None:
    assert needs_camel(raw) is expected
