"""Schemas: what batches honour says the same as what the user has, and what it cannot say is refused by name."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from google.genai import types
from google.genai._transformers import t_schema
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from carpool._gemini.schema import Reader, lower, schema_of
from carpool.errors import ConfigurationError


class CannotError(Exception):
    pass


def lowered(schema: Any, **kwargs: Any) -> dict[str, Any]:
    found, _ = schema_of(schema, "$")
    return lower(found, "$", CannotError, **kwargs)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Step(BaseModel):
    text: str = Field(description="what to do", min_length=1, max_length=80, pattern="^[a-z]")
    seconds: float | None = None


class Recipe(BaseModel):
    """A dish."""

    title: str
    zebra: int
    apple: str
    colour: Colour
    steps: list[Step] = Field(min_length=1, max_length=5)
    best: Step
    either: int | str
    maybe: Step | None = None
    nested: list[list[int]]


class Wrapped(BaseModel):
    only: str


# ----------------------------------------------------------------------- the official client's own rewriting


@pytest.mark.parametrize("schema", [Recipe, Wrapped, Step, list[str], list[Step], Step | None, int, bool])
def test_types_become_what_the_official_client_makes_of_them(schema: Any) -> None:
    theirs = t_schema(None, schema).model_dump(mode="json", by_alias=True, exclude_none=True)  # type: ignore[arg-type]
    theirs.pop("title", None)  # theirs comes out of a wrapper of their own making
    ours = lowered(schema)
    ours.pop("title", None)
    assert json.loads(json.dumps(ours)) == theirs


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"b": {"type": "string"}, "a": {"any_of": [{"type": "integer"}, {"type": "null"}]}},
        },
        {"type": "ARRAY", "items": {"type": "NUMBER"}, "min_items": 1, "max_items": 3, "description": "d"},
        {"type": "string", "format": "date-time", "nullable": True, "example": "x"},
        {"$defs": {"A": {"type": "object", "properties": {"x": {"type": "string"}}}}, "$ref": "#/$defs/A"},
    ],
)
def test_dicts_become_what_the_official_client_makes_of_them(schema: dict[str, Any]) -> None:
    ours = lowered(json.loads(json.dumps(schema)))
    theirs = t_schema(None, schema).model_dump(mode="json", by_alias=True, exclude_none=True)  # type: ignore[arg-type]
    assert ours == theirs


def test_an_enum_is_a_string_of_its_values() -> None:
    ours = lowered(Colour)
    assert (ours["type"], sorted(ours["enum"])) == ("STRING", ["blue", "red"])


def test_googles_own_schema_objects_are_taken() -> None:
    schema = types.Schema(
        type=types.Type.OBJECT,
        properties={"some_name": types.Schema(type=types.Type.STRING, nullable=True)},
        required=["some_name"],
        property_ordering=["some_name"],
    )
    assert lowered(schema) == {
        "type": "OBJECT",
        "properties": {"some_name": {"type": "STRING", "nullable": True}},
        "required": ["some_name"],
        "propertyOrdering": ["some_name"],
    }


# ------------------------------------------------------------------------------------------- kinds of types


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Place(msgspec.Struct):
    at: Point
    name: str | None = None
    height: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Draft(TypedDict):
    title: str


def test_dataclasses_structs_and_typed_dicts_are_schemas() -> None:
    assert lowered(Place) == {
        "title": "Place",
        "type": "OBJECT",
        "properties": {
            "at": {
                "title": "Point",
                "type": "OBJECT",
                "properties": {"x": {"type": "INTEGER"}, "tags": {"type": "ARRAY", "items": {"type": "STRING"}}},
                "required": ["x"],
                "propertyOrdering": ["x", "tags"],
            },
            "name": {"type": "STRING", "nullable": True},
            "height": {"type": "NUMBER", "minimum": 0, "default": 0.0},
        },
        "required": ["at"],
        "propertyOrdering": ["at", "name", "height"],
    }
    assert lowered(Draft)["properties"] == {"title": {"type": "STRING"}}
    assert lowered(list[Point])["items"]["title"] == "Point"


def test_readers_read_what_is_no_class() -> None:
    for schema in (list[Point], Point | None, dict[str, list[int]], list[Step]):
        _, reader = schema_of(schema, "$")
        assert isinstance(reader, Reader)
    assert schema_of(list[Point], "$")[1].model_validate_json('[{"x":1}]') == [Point(1)]
    assert schema_of(Point, "$")[1] is Point
    assert schema_of({"type": "string"}, "$")[1] is Any


def test_a_dataclass_with_a_pydantic_field_is_a_schema() -> None:
    @dataclass
    class Mixed:
        step: Step

    Mixed.__annotations__["step"] = Step
    schema, reader = schema_of(Mixed, "$")
    assert lower(schema, "$", CannotError)["properties"]["step"]["title"] == "Step"
    assert reader.model_validate_json('{"step":{"text":"a"}}') == Mixed(Step(text="a"))


@pytest.mark.parametrize("schema", ["string", 5, ["a"], b"{}", object(), None])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises((ConfigurationError, CannotError)):
        lowered(schema) if schema is not None else lower(5, "$", CannotError)


def test_what_only_pydantic_could_describe_is_refused_where_it_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        pass

    with pytest.raises(ConfigurationError, match="Plain"):
        schema_of(list[Plain], "$")
    monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(ConfigurationError, match="Plain"):
        schema_of(list[Plain], "$")


# ------------------------------------------------------------------------------------------------ rewriting


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        (
            {"type": ["string", "integer"], "minLength": 2, "minimum": 1, "description": "d"},
            {
                "anyOf": [{"type": "STRING", "minLength": 2}, {"type": "INTEGER", "minimum": 1}],
                "description": "d",
            },
        ),
        ({"type": "null"}, {"type": "NULL"}),
        ({"type": "TYPE_UNSPECIFIED", "description": "d"}, {"description": "d"}),
        ({"anyOf": [{"type": "null"}]}, {"type": "NULL", "nullable": True}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"enum": ["a", "b", None]}, {"type": "STRING", "enum": ["a", "b"], "nullable": True}),
        ({"type": "boolean", "enum": [True, False]}, {"type": "BOOLEAN"}),
        (
            {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            {"type": "INTEGER", "minimum": 1, "maximum": 9},
        ),
        ({"type": "integer", "exclusiveMinimum": 0, "minimum": 5}, {"type": "INTEGER", "minimum": 5}),
        ({"items": {"type": "string"}}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        ({"type": "array", "items": True}, {"type": "ARRAY", "items": {}}),
        ({"properties": {"a": {"type": "string"}}}, {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}),
        ({"allOf": [{"type": "string"}], "description": "d"}, {"type": "STRING", "description": "d"}),
        (
            {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            {"anyOf": [{"type": "STRING"}, {"type": "ARRAY", "items": {"type": "STRING"}}]},
        ),
        (
            {"type": "object", "anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {}}]},
            {
                "anyOf": [
                    {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
                    {"type": "OBJECT", "properties": {}},
                ]
            },
        ),
        (
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": "x",
                "$comment": "c",
                "type": "object",
                "title": "T",
                "default": {"a": 1},
                "examples": [1],
                "additionalProperties": False,
                "x-mine": 1,
                "readOnly": True,
                "properties": {"a": {"type": "string", "additionalProperties": {}, "uniqueItems": False}},
            },
            {"type": "OBJECT", "title": "T", "default": {"a": 1}, "properties": {"a": {"type": "STRING"}}},
        ),
        (
            {"definitions": {"a/b": {"type": "string"}}, "type": "array", "items": {"$ref": "#/definitions/a~1b"}},
            {"type": "ARRAY", "items": {"type": "STRING"}},
        ),
    ],
)
def test_json_schema_is_rewritten(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert lowered(schema) == expected


def test_a_tagged_union_becomes_any_of() -> None:
    class Cat(BaseModel):
        name: str
        kind: Literal["cat"]
        lives: int = Field(ge=0, le=9)

    class Dog(BaseModel):
        name: str
        kind: Literal["dog"]
        good: bool

    class Owner(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    pet = lowered(Owner)["properties"]["pet"]
    assert [branch["title"] for branch in pet["anyOf"]] == ["Cat", "Dog"]
    assert pet["anyOf"][0]["properties"]["kind"] == {"title": "Kind", "type": "STRING", "enum": ["cat"]}


def test_the_order_of_properties_is_kept() -> None:
    class Ordered(BaseModel):
        zebra: str
        apple: str

    assert lowered(Ordered)["propertyOrdering"] == ["zebra", "apple"]
    assert "propertyOrdering" not in lowered(Ordered, ordered=False)
    given_order = {"type": "object", "properties": {"a": {}, "b": {}}, "propertyOrdering": ["b", "a"]}
    assert lowered(given_order)["propertyOrdering"] == ["b", "a"]


# -------------------------------------------------------------------------------------------------- refusal


class Tree(BaseModel):
    children: list[Tree]


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        (Tree, "$ref"),
        ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties"),
        (dict[str, int], "additionalProperties"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "prefixItems"),
        (tuple[int, str], "prefixItems"),
        ({"type": "array", "items": [{"type": "string"}]}, "items"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "number", "multipleOf": 2}, "multipleOf"),
        ({"type": "number", "exclusiveMinimum": 2}, "exclusiveMinimum"),
        ({"type": "integer", "exclusiveMaximum": True, "maximum": 3}, "exclusiveMaximum"),
        ({"enum": [1, 2]}, "enum"),
        ({"type": "integer", "const": 1}, "const"),
        ({"enum": [None]}, "enum"),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "allOf"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        (
            {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]},
            "oneOf",
        ),
        ({"anyOf": [{"type": "string"}], "properties": {}}, "anyOf"),
        ({"$ref": "#/$defs/A", "minLength": 3, "$defs": {"A": {"type": "string"}}}, "$ref"),
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"$ref": "#"}, "$ref"),
        ({"type": "object", "required": ["a"]}, "required"),
        ({"type": "object", "properties": {"a": {}}, "required": ["a", "b"]}, "required"),
        ({"type": "object", "properties": {"a": {"dependentRequired": {"a": ["b"]}}}}, "dependentRequired"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(schema: Any, keyword: str) -> None:
    with pytest.raises(CannotError) as caught:
        lowered(schema)
    assert repr(keyword) in str(caught.value)
    assert str(caught.value).startswith("$")


def test_a_refusal_says_where() -> None:
    schema = {"type": "object", "properties": {"list": {"type": "array", "items": {"anyOf": [{}, {"not": {}}]}}}}
    with pytest.raises(CannotError, match=r"^\$\.properties\.list\.items\.anyOf\[1\]: "):
        lowered(schema)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"tpye": "string"}, "Did you mean 'type'"),
        ({"type": "strin"}, "STRING"),
        ({"type": "object", "properties": ["a"]}, "properties"),
        ({"type": "object", "properties": {"a": "string"}}, "dict"),
        ({"$ref": "#/$defs/Missing", "$defs": {}}, "#/$defs/Missing"),
        ({"$ref": "#/title/x", "title": "string"}, "does not hold"),
        ({"anyOf": []}, "anyOf"),
        ({"enum": []}, "enum"),
        ({"type": "object", "properties": {"a": False}}, "dict"),
    ],
)
def test_what_is_wrong_is_an_error(schema: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        lowered(schema)
    assert words in str(caught.value)


def test_references_that_double_at_every_step_end() -> None:
    defs: dict[str, Any] = {"L0": {"type": "string"}}
    for level in range(1, 40):
        ref = {"$ref": f"#/$defs/L{level - 1}"}
        defs[f"L{level}"] = {"type": "object", "properties": {"a": ref, "b": ref}}
    with pytest.raises(CannotError, match="too large"):
        lowered({"$defs": defs, "$ref": "#/$defs/L39"})


def test_the_users_schema_is_left_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": ["string", "null"]}},
    }
    before = json.dumps(schema)
    lowered(schema)
    assert json.dumps(schema) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keywords = st.sampled_from(
    ["type", "properties", "items", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "required", "title", "minimum"]
)


@given(st.dictionaries(keywords, json_values | st.just("string") | st.just({"a": {"type": "string"}}), max_size=4))
def test_any_dict_is_rewritten_or_refused(schema: dict[str, Any]) -> None:
    try:
        said = json.dumps(lowered(schema))
    except (ConfigurationError, CannotError) as error:
        said = str(error)
    assert said.startswith(("$", "{"))
