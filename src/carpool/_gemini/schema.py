"""Answer schemas: what a user has (a class, a JSON schema, Google's own) to the ``responseSchema`` that batches honour.

In batches the live service ignores ``responseJsonSchema`` and answers garbage, so a JSON schema is rewritten as
Google's ``Schema``: an OpenAPI subset with upper-case types, without references, with ``nullable`` for null. What that
subset cannot say is refused by name; a keyword that only informs is dropped. It must not know where in a request a
schema stands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, get_origin

import msgspec

from carpool._gemini.plain import bad_value, camel, dump, is_mapping, is_model, is_sequence, unknown_field, verbatim
from carpool._showing import in_short

NODES_MAX: Final = 10_000
"""Schemas inside a schema, once references are inlined."""
_DEPTH_MAX: Final = 64

_TYPES: Final = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})
_ANNOTATIONS: Final = frozenset({"title", "description", "default", "nullable", "example"})
_COPIED: Final = _ANNOTATIONS | {
    "format",
    "pattern",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
}
_READ: Final = frozenset(
    {
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "items",
        "properties",
        "propertyOrdering",
        "required",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "$ref",
    }
)
_DROPPED: Final = frozenset(
    {
        "$schema",
        "$id",
        "$comment",
        "$anchor",
        "$defs",
        "definitions",
        "examples",
        "readOnly",
        "writeOnly",
        "deprecated",
        "contentEncoding",
        "contentMediaType",
        "discriminator",
    }
)
_DROPPED_IF_PLAIN: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "uniqueItems", "additionalItems"}
)
"""Dropped where they are a mere yes or no (but unique items); refused where they constrain."""
_REFUSED: Final = frozenset(
    {
        "patternProperties",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "unevaluatedItems",
        "prefixItems",
        "multipleOf",
        "$dynamicRef",
        "$recursiveRef",
    }
)

Refusal = Callable[[str], Exception]
"""Makes the exception for a keyword that cannot be expressed, of a message."""


class Reader:
    """Reads answers into a type that is not a class (``list[Recipe]``), for ``GenerateResponse.parsed``."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    def model_validate_json(self, text: str) -> Any:
        """Return the answer as an instance of the type; raise ``ValueError`` if it is none."""
        return self._read(text)


def schema_of(value: Any, path: str) -> tuple[Mapping[str, Any], Any]:
    """Return a user's schema as JSON schema, and what reads answers into its type.

    Args:
        value: a JSON schema or Google's own as a dict or typed object; or a pydantic model, dataclass, msgspec Struct,
            TypedDict, enum, or a generic such as ``list[Recipe]``.
        path: where the value stands in the call.

    Returns:
        The schema, and what ``GenerateResponse.parsed`` takes: a class, an object with ``model_validate_json``, or
        ``Any``.

    Raises:
        ConfigurationError: no schema can be made of it.
    """
    if is_mapping(value):
        return value, Any
    if is_model(value):
        return dump(value, path), Any
    make = getattr(value, "model_json_schema", None)
    if make is not None:
        return make(), value
    if is_sequence(value) or isinstance(value, str | bytes | int | float):
        raise bad_value(path, f"a schema must be a dict or a type, not {type(value).__name__}")
    try:
        schema: Any = msgspec.json.schema(value)
    except TypeError as error:
        why = str(error) if isinstance(value, type) or get_origin(value) is not None else type(error).__name__
    else:
        if isinstance(value, type):
            return schema, value
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(value)
        return schema, Reader(decoder.decode)
    pydantic = sys.modules.get("pydantic")
    try:
        if pydantic is not None:
            adapter = pydantic.TypeAdapter(value)
            return adapter.json_schema(), Reader(adapter.validate_json)
    except Exception as error:  # noqa: BLE001 - pydantic's own errors cannot be named without importing it
        why = type(error).__name__
    is_type = isinstance(value, type) or get_origin(value) is not None
    what = repr(value) if is_type else f"a value of type {type(value).__name__}"
    raise bad_value(path, f"no schema can be made of {what} ({why})")


def lower(schema: Any, path: str, refusal: Refusal, *, ordered: bool = True) -> dict[str, Any]:
    """Rewrite a schema as Google's ``Schema``.

    Args:
        schema: a JSON schema, or Google's own in any spelling.
        path: where it stands in the call.
        refusal: makes the exception for what cannot be expressed.
        ordered: keep the order of properties by ``propertyOrdering``.

    Raises:
        ConfigurationError: it is not a schema.
        Exception: whatever ``refusal`` makes, naming the keyword and its place.
    """
    return _Lowering(schema, refusal, ordered=ordered).lower(schema, path)


class _Lowering:
    """One rewriting: the document that references point into, and how much has been inlined."""

    def __init__(self, root: Any, refusal: Refusal, *, ordered: bool) -> None:
        self._root = root
        self._refusal = refusal
        self._ordered = ordered
        self._nodes = 0
        self._refs: list[str] = []

    def lower(self, node: Any, path: str, depth: int = 0) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > NODES_MAX or depth > _DEPTH_MAX:
            raise self._refusal(f"{path}: the schema is too large once its references are inlined")
        if node is True:
            return {}
        if not is_mapping(node):
            raise bad_value(path, "a schema must be a dict")
        fields = self._fields(node, path)
        if "$ref" in fields:
            return self._referred(fields, path, depth)
        if "allOf" in fields:
            return self._all_of(fields, path, depth)
        if "anyOf" in fields or "oneOf" in fields:
            return self._any_of(fields, path, depth)
        kind = fields.get("type")
        if is_sequence(kind):
            return self._any_of(_spread(fields, kind), path, depth)
        return self._plain(fields, path, depth)

    def _fields(self, node: Mapping[Any, Any], path: str) -> dict[str, Any]:
        """Return the keywords under their JSON schema names, once each is one that can be taken or dropped."""
        fields: dict[str, Any] = {}
        for given, value in node.items():
            name = _NAMES.get(given) or camel(str(given))
            if value is None and name != "const":
                continue
            if name in _DROPPED or name.startswith("x-"):
                continue
            if name in _DROPPED_IF_PLAIN:
                if (name == "uniqueItems" and value is True) or (name != "uniqueItems" and is_mapping(value) and value):
                    self._refuse(str(given), path)
                continue
            if name in _REFUSED:
                self._refuse(str(given), path)
            if name not in _COPIED and name not in _READ:
                raise unknown_field(str(given), _COPIED | _READ, f"{path}: a schema")
            fields[name] = value
        return fields

    def _refuse(self, keyword: str, path: str, why: str = "") -> NoReturn:
        raise self._refusal(
            f"{path}: the schema keyword {keyword!r} cannot be expressed in the schemas that batches honour{why}"
        )

    def _referred(self, fields: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        ref = fields.pop("$ref")
        if ref in self._refs:
            self._refuse("$ref", path, f" ({ref!r} is recursive)")
        self._only_annotations(fields, "$ref", path)
        self._refs.append(ref)
        try:
            lowered = self.lower(self._resolve(ref, path), path, depth + 1)
        finally:
            self._refs.pop()
        return _merged(lowered, self._annotations(fields, path))

    def _resolve(self, ref: Any, path: str) -> Any:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            self._refuse("$ref", path, f" ({ref!r} points outside the schema)")
        node = self._root
        for step in ref.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if is_mapping(node):
                found = node.get(name)
                node = node.get(_ALIASES.get(name, name)) if found is None else found
            else:
                node = None
        if node is None:
            raise bad_value(path, f"the schema refers to {ref!r}, which it does not hold")
        return node

    def _all_of(self, fields: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        branches = fields.pop("allOf")
        if not is_sequence(branches) or len(branches) != 1:
            self._refuse("allOf", path, " (of more than one schema)")
        self._only_annotations(fields, "allOf", path)
        return _merged(self.lower(branches[0], f"{path}.allOf[0]", depth + 1), self._annotations(fields, path))

    def _any_of(self, fields: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        keyword = "anyOf" if "anyOf" in fields else "oneOf"
        branches = fields.pop(keyword)
        if not is_sequence(branches) or not branches:
            raise bad_value(f"{path}.{keyword}", "it must be a list of schemas")
        kind = fields.pop("type", None)
        self._only_annotations(fields, keyword, path)
        lowered: list[dict[str, Any]] = []
        for index, branch in enumerate(branches):
            typed = {"type": kind, **branch} if kind is not None and is_mapping(branch) else branch
            lowered.append(self.lower(typed, f"{path}.{keyword}[{index}]", depth + 1))
        if keyword == "oneOf" and not _disjoint(lowered):
            self._refuse("oneOf", path, " (its branches are not told apart by their types or by a fixed property)")
        rest = [branch for branch in lowered if branch != {"type": "NULL"}]
        annotations = self._annotations(fields, path)
        if len(rest) < len(lowered):
            annotations["nullable"] = True
        if not rest:
            return _merged({"type": "NULL"}, annotations)
        if len(rest) == 1:
            return _merged(rest[0], annotations)
        return _merged({"anyOf": rest}, annotations)

    def _only_annotations(self, fields: dict[str, Any], keyword: str, path: str) -> None:
        for name in fields:
            if name not in _ANNOTATIONS:
                self._refuse(keyword, path, f" (beside {name!r})")

    def _annotations(self, fields: dict[str, Any], path: str) -> dict[str, Any]:
        return {name: verbatim(fields[name], f"{path}.{name}") for name in _ANNOTATIONS & fields.keys()}

    def _plain(self, fields: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        result = {name: verbatim(value, f"{path}.{name}") for name, value in fields.items() if name in _COPIED}
        kind = self._type(fields, path)
        if kind:
            result["type"] = kind
        self._enum(fields, kind, result, path)
        self._bounds(fields, kind, result, path)
        if "items" in fields:
            if is_sequence(fields["items"]):
                self._refuse("items", path, " (as a list)")
            result["items"] = self.lower(fields["items"], f"{path}.items", depth + 1)
        properties = fields.get("properties")
        if properties is not None:
            self._properties(properties, fields, result, path, depth)
        elif fields.get("required"):
            self._refuse("required", path, " (without properties)")
        return dict(sorted(result.items()))

    def _type(self, fields: dict[str, Any], path: str) -> str:
        kind = fields.get("type")
        if kind is None:
            if "properties" in fields:
                return "OBJECT"
            if "items" in fields:
                return "ARRAY"
            return ""
        word = str(getattr(kind, "value", kind)).upper()
        if word == "TYPE_UNSPECIFIED":
            return ""
        if word not in _TYPES:
            raise bad_value(f"{path}.type", f"{in_short(kind)} is not a type; there are {', '.join(sorted(_TYPES))}")
        return word

    def _enum(self, fields: dict[str, Any], kind: str, result: dict[str, Any], path: str) -> None:
        keyword = "const" if "const" in fields else "enum"
        if keyword not in fields:
            return
        values = [fields["const"]] if keyword == "const" else fields["enum"]
        if not is_sequence(values) or not values:
            raise bad_value(f"{path}.enum", "it must be a list of values")
        words = [str(value) for value in values if isinstance(value, str)]
        nulls = sum(value is None for value in values)
        if kind == "BOOLEAN" and set(values) == {True, False}:
            return
        if len(words) + nulls < len(values) or kind not in ("", "STRING") or not words:
            self._refuse(keyword, path, " (only strings can be enumerated)")
        result["type"] = "STRING"
        result["enum"] = words
        if nulls:
            result["nullable"] = True

    def _bounds(self, fields: dict[str, Any], kind: str, result: dict[str, Any], path: str) -> None:
        for keyword, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            limit = fields.get(keyword)
            if limit is None or limit is False:
                continue
            if kind != "INTEGER" or limit is True or int(limit) != limit:
                self._refuse(keyword, path, " (only for integers)")
            value = int(limit) + step
            known = result.get(bound)
            result[bound] = value if known is None else (max(known, value) if step > 0 else min(known, value))

    def _properties(
        self, properties: Any, fields: dict[str, Any], result: dict[str, Any], path: str, depth: int
    ) -> None:
        if not is_mapping(properties) or not all(isinstance(name, str) for name in properties):
            raise bad_value(f"{path}.properties", "it must be a dict of schemas by name")
        result["properties"] = {
            name: self.lower(node, f"{path}.properties.{name}", depth + 1) for name, node in properties.items()
        }
        required = fields.get("required")
        if required:
            missing = [name for name in required if name not in properties]
            if missing:
                self._refuse("required", path, f" ({missing[0]!r} is not among the properties)")
            result["required"] = [str(name) for name in required]
        ordering = fields.get("propertyOrdering")
        if ordering is not None:
            result["propertyOrdering"] = [str(name) for name in ordering]
        elif self._ordered and len(properties) > 1:
            result["propertyOrdering"] = [str(name) for name in properties]


_NAMES: Final = {"ref": "$ref", "defs": "$defs", "$definitions": "definitions"}
_ALIASES: Final = {"$defs": "defs", "defs": "$defs", "definitions": "$defs"}
_OF_TYPE: Final = {
    "STRING": frozenset({"enum", "const", "pattern", "minLength", "maxLength", "format"}),
    "NUMBER": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}),
    "INTEGER": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}),
    "ARRAY": frozenset({"items", "minItems", "maxItems"}),
    "OBJECT": frozenset({"properties", "required", "propertyOrdering", "minProperties", "maxProperties"}),
}


def _spread(fields: dict[str, Any], kinds: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    """Return the union that a list of types stands for: each type with the keywords that concern it."""
    outer = {name: value for name, value in fields.items() if name in _ANNOTATIONS}
    branches: list[dict[str, Any]] = []
    for kind in kinds:
        concerned = _OF_TYPE.get(str(kind).upper(), frozenset[str]())
        branches.append({"type": kind, **{name: value for name, value in fields.items() if name in concerned}})
    return {**outer, "anyOf": branches}


def _merged(schema: dict[str, Any], annotations: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted({**schema, **annotations}.items()))


def _disjoint(branches: list[dict[str, Any]]) -> bool:
    """Return whether no instance can fit two branches: by type, or by a required property of fixed values."""
    for index, left in enumerate(branches):
        for right in branches[index + 1 :]:
            kinds = {left.get("type"), right.get("type")}
            if len(kinds) == 2 and None not in kinds and kinds != {"NUMBER", "INTEGER"}:
                continue
            if kinds != {"OBJECT"} or not _told_apart(left, right):
                return False
    return True


def _told_apart(left: dict[str, Any], right: dict[str, Any]) -> bool:
    shared = [name for name in left.get("required", ()) if name in right.get("required", ())]
    for name in shared:
        words = left["properties"][name].get("enum"), right["properties"][name].get("enum")
        if words[0] and words[1] and not set(words[0]) & set(words[1]):
            return True
    return False
