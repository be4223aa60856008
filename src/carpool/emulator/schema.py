"""A valid instance for a schema.

Owns the making of JSON values that satisfy a Google ``Schema`` (upper-case types, ``nullable``) or a JSON Schema
(``$ref``, ``$defs``, ``anyOf``, type lists). Deterministic: the same schema and seed give the same value. It must not
know where schemas come from.

``pattern`` is met where one of a few usual strings meets it and ignored elsewhere, and so are ``not``, ``if`` and
``patternProperties``.
"""

from __future__ import annotations

import math
import re
from itertools import chain
from typing import Final

from .fields import as_list, as_object, as_str
from .messages import Json, JsonObject

_SOFT_DEPTH: Final = 5  # from here on only what must be there
_HARD_DEPTH: Final = 40  # from here on there is no finite instance

_FORMATS: Final[dict[str, str]] = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT3H4M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "0b4e7a52-6c1d-4f7e-9a3b-2d5f8c6e1a90",
}
_PATTERN_TRIES: Final = (
    "abc",
    "ABC",
    "a",
    "A",
    "0",
    "7",
    "42",
    "123",
    "1234",
    "12345",
    "abc-123",
    "ABC-123",
    "abc_123",
    "A1",
    "AB12",
    "1.2.3",
    "12:34",
    "#a1b2c3",
    "+491234567",
    *_FORMATS.values(),
)


class Unsatisfiable(ValueError):
    """No finite instance of the schema was found."""


def instance_of(schema: Json, *, seed: bytes, echo: str) -> Json:
    """Return a value that is valid for a schema.

    Args:
        schema: the schema, with its ``$defs``.
        seed: at least one byte; decides between what is equally good.
        echo: the text of strings that are free to be anything.

    Raises:
        Unsatisfiable: none was found.
    """
    return _Maker(schema, seed, echo).make(schema, 0)


class _Maker:
    def __init__(self, root: Json, seed: bytes, echo: str) -> None:
        self._root = root
        self._seed = seed
        self._echo = echo
        self._picks = 0
        self._distinct = 0

    def _pick(self, choices: int) -> int:
        self._picks += 1
        return (self._seed[self._picks % len(self._seed)] + self._picks) % choices

    def make(self, schema: Json, depth: int) -> Json:
        """Return an instance of a part of the schema, ``depth`` levels below the root."""
        if schema is False or depth > _HARD_DEPTH:
            raise Unsatisfiable("the schema has no finite instance")
        rules = as_object(schema)
        if "$ref" in rules:
            return self.make(_merged(self._resolve(as_str(rules["$ref"])), _without(rules, "$ref")), depth + 1)
        if "allOf" in rules:
            merged: JsonObject = _without(rules, "allOf")
            for part in as_list(rules["allOf"]):
                merged = _merged(self._resolved(part, depth), merged)
            return self.make(merged, depth + 1)
        if "const" in rules:
            return rules["const"]
        values = as_list(rules.get("enum"))
        if values:
            return values[self._pick(len(values))]
        for word in ("anyOf", "oneOf"):
            if as_list(rules.get(word)):
                return self._one_of(as_list(rules[word]), _without(rules, word), depth)
        if depth >= _SOFT_DEPTH and rules.get("nullable") is True:
            return None
        return self._of_type(_type_of(rules, deep=depth >= _SOFT_DEPTH), rules, depth)

    def _of_type(self, kind: str, rules: JsonObject, depth: int) -> Json:
        match kind:
            case "object":
                return self._object(rules, depth)
            case "array":
                return self._array(rules, depth)
            case "integer":
                return _integer(rules, self._pick(100))
            case "number":
                return _number(rules, self._pick(100))
            case "boolean":
                return self._pick(2) == 0
            case "null":
                return None
            case _:
                return self._string(rules)

    def _resolve(self, ref: str) -> Json:
        if not ref.startswith("#"):
            raise Unsatisfiable(f"cannot resolve {ref!r}")
        here = self._root
        for step in ref[1:].strip("/").split("/") if len(ref) > 1 else ():
            here = as_object(here).get(step.replace("~1", "/").replace("~0", "~"))
            if here is None:
                raise Unsatisfiable(f"cannot resolve {ref!r}")
        return here

    def _resolved(self, schema: Json, depth: int) -> Json:
        rules = as_object(schema)
        if "$ref" not in rules:
            return schema
        if depth > _HARD_DEPTH:
            raise Unsatisfiable("the schema refers to itself")
        target = self._resolved(self._resolve(as_str(rules["$ref"])), depth + 1)
        return _merged(target, _without(rules, "$ref"))

    def _one_of(self, options: list[Json], rest: JsonObject, depth: int) -> Json:
        start = self._pick(len(options))
        order = options[start:] + options[:start]
        if depth >= _SOFT_DEPTH:
            order.sort(key=lambda option: _WEIGHT.get(_type_of(as_object(option), deep=True), 3))
        for option in order:
            try:
                return self.make(_merged(option, rest), depth + 1)
            except Unsatisfiable:
                continue
        raise Unsatisfiable("no member of anyOf has a finite instance")

    def _object(self, rules: JsonObject, depth: int) -> Json:
        properties = as_object(rules.get("properties"))
        required = [name for name in as_list(rules.get("required")) if isinstance(name, str)]
        wanted = as_list(rules.get("propertyOrdering")) or as_list(rules.get("property_ordering"))
        order = dict.fromkeys(name for name in chain(wanted, properties, required) if isinstance(name, str))
        extra = rules.get("additionalProperties", True)
        result: JsonObject = {}
        for name in order:
            if name in required:
                result[name] = self.make(properties.get(name, extra), depth + 1)
            elif name in properties and depth < _SOFT_DEPTH:
                try:
                    result[name] = self.make(properties[name], depth + 1)
                except Unsatisfiable:
                    continue
        least = _count(rules, "minProperties") or 0
        if isinstance(extra, dict) and not properties and depth < _SOFT_DEPTH:
            least = max(least, 1)
        for name in properties:
            if len(result) < least and name not in result:
                result[name] = self.make(properties[name], depth + 1)
        while len(result) < least:
            result[f"key{len(result) + 1}"] = self.make(extra, depth + 1)
        return result

    def _array(self, rules: JsonObject, depth: int) -> Json:
        result: list[Json] = [self.make(item, depth + 1) for item in as_list(rules.get("prefixItems"))]
        least = _count(rules, "minItems") or 0
        most = _count(rules, "maxItems")
        wanted = max(least, 2 if depth < _SOFT_DEPTH else 0)
        if most is not None:
            wanted = min(wanted, most)
        items = rules.get("items", True)
        unique = rules.get("uniqueItems") is True
        for _ in range(8 * wanted):
            if len(result) >= wanted:
                break
            self._distinct += unique
            try:
                item = self.make(items, depth + 1)
            except Unsatisfiable:
                if len(result) < least:
                    raise
                break
            if not unique or item not in result:
                result.append(item)
        if len(result) < least:
            raise Unsatisfiable("too few distinct items")
        return result

    def _string(self, rules: JsonObject) -> str:
        least = _count(rules, "minLength") or 0
        most = _count(rules, "maxLength")
        text = _FORMATS.get(as_str(rules.get("format")), "")
        if not text:
            text = f"{self._distinct} {self._echo}" if self._distinct else self._echo
        pattern = as_str(rules.get("pattern"))
        if pattern:
            text = next((one for one in (text, *_PATTERN_TRIES) if _matches(pattern, one, least, most)), text)
        text = text.ljust(least, ".")
        return text if most is None else text[:most]


_WEIGHT: Final = {"null": 0, "boolean": 1, "integer": 1, "number": 1, "string": 1, "array": 2}


def _type_of(rules: JsonObject, *, deep: bool) -> str:
    kind = rules.get("type")
    if isinstance(kind, list):
        kinds = [as_str(one).lower() for one in kind]
        return "null" if deep and "null" in kinds else next((one for one in kinds if one != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    if "properties" in rules or "additionalProperties" in rules or "required" in rules:
        return "object"
    if "items" in rules or "prefixItems" in rules:
        return "array"
    return "number" if "minimum" in rules or "maximum" in rules else "string"


def _without(rules: JsonObject, name: str) -> JsonObject:
    return {key: value for key, value in rules.items() if key != name}


def _merged(base: Json, over: JsonObject) -> JsonObject:
    if base is False:
        raise Unsatisfiable("false has no instance")
    under = as_object(base)
    result = {**under, **over}
    if "properties" in under and "properties" in over:
        result["properties"] = {**as_object(under["properties"]), **as_object(over["properties"])}
    if "required" in under and "required" in over:
        result["required"] = [*as_list(under["required"]), *as_list(over["required"])]
    return result


def _limit(rules: JsonObject, name: str) -> float | None:
    value = rules.get(name)
    if isinstance(value, str):  # int64 travels as a string
        value = float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(rules: JsonObject, name: str) -> int | None:
    value = _limit(rules, name)
    return None if value is None else int(value)


def _integer(rules: JsonObject, wish: int) -> int:
    low, high = _limit(rules, "minimum"), _limit(rules, "maximum")
    above, below = _limit(rules, "exclusiveMinimum"), _limit(rules, "exclusiveMaximum")
    least = max(
        (math.ceil(low) if low is not None else None, math.floor(above) + 1 if above is not None else None),
        key=lambda bound: -math.inf if bound is None else bound,
    )
    most = min(
        (math.floor(high) if high is not None else None, math.ceil(below) - 1 if below is not None else None),
        key=lambda bound: math.inf if bound is None else bound,
    )
    step = int(_limit(rules, "multipleOf") or 1) or 1
    value = wish
    if least is not None and most is not None and least > most:
        raise Unsatisfiable("minimum above maximum")
    if least is not None:
        value = max(value, least)
    if most is not None:
        value = min(value, most)
    value = -(-value // step) * step
    if most is not None and value > most:
        value = most // step * step
    if least is not None and value < least:
        raise Unsatisfiable("no multiple within the bounds")
    return value


def _number(rules: JsonObject, wish: int) -> float:
    low, high = _limit(rules, "minimum"), _limit(rules, "maximum")
    above, below = _limit(rules, "exclusiveMinimum"), _limit(rules, "exclusiveMaximum")
    step = _limit(rules, "multipleOf")
    if step:
        # A whole multiple, found among the integers of the bounds divided by the step.
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        scaled: JsonObject = {name: bound / step for name in names if (bound := _limit(rules, name)) is not None}
        return _integer(scaled, wish) * step
    least = max((bound for bound in (low, above) if bound is not None), default=None)
    most = min((bound for bound in (high, below) if bound is not None), default=None)
    if least is not None and most is not None:
        if least > most:
            raise Unsatisfiable("minimum above maximum")
        return (least + most) / 2
    if least is not None:
        return max(wish + 0.5, least + 1)
    return wish + 0.5 if most is None else min(wish + 0.5, most - 1)


def _matches(pattern: str, text: str, least: int, most: int | None) -> bool:
    if len(text) < least or (most is not None and len(text) > most):
        return False
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False
