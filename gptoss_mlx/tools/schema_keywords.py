"""The keywords of JSON Schema by what they say, and what to ask of a schema."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

IN_PLACE = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"}
ONE_SCHEMA = {
    "items", "additionalItems", "unevaluatedItems", "contains", "contentSchema", "additionalProperties",
    "unevaluatedProperties", "propertyNames", "not", "if", "then", "else",
}  # fmt: skip
SCHEMA_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
SCHEMA_MAPS = {"properties", "patternProperties", "dependentSchemas", "dependencies"}
SIZES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
CONSTRAINTS: dict[str, set[str]] = {
    "string": {"minLength", "maxLength", "pattern", "format", "contentMediaType", "contentEncoding"},
    "integer": SIZES,
    "number": SIZES,
    "boolean": set(),
    "null": set(),
}
"""What narrows a scalar type, and says nothing of another."""
STRUCTURE: dict[str, set[str]] = {
    "object": {
        "properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames",
        "required", "minProperties", "maxProperties", "dependentSchemas", "dependentRequired", "dependencies",
    },
    "array": {
        "items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains",
        "minItems", "maxItems", "uniqueItems",
    },
}  # fmt: skip
KINDS = {"string", "number", "boolean", "null", "object", "array"}
DECIDING = {"type", "enum", "const"}.union(
    IN_PLACE, ONE_SCHEMA, SCHEMA_LISTS, SCHEMA_MAPS, *CONSTRAINTS.values(), *STRUCTURE.values()
)
"""The keywords that accept or refuse; all others only tell."""


def constraints_of(schema: Any) -> Schema:
    """What of a schema decides."""
    return {key: value for key, value in schema.items() if key in DECIDING}


def annotations_of(schema: Any) -> Schema:
    """What of a schema only tells."""
    return {key: value for key, value in schema.items() if key not in DECIDING}


def accepts_all(schema: Any) -> bool:
    """Whether it is plain to see that a schema accepts every value."""
    return schema is True or (isinstance(schema, dict) and not constraints_of(schema))


def kind_of(value: Any) -> str:
    """The kind of a JSON value: its type, where integers are numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def kinds_of(schema: Any) -> set[str]:
    """The kinds of values that a schema may accept."""
    if not isinstance(schema, dict):
        return set() if schema is False else KINDS
    if (types := schema.get("type")) is not None:
        return {"number" if name == "integer" else name for name in as_list(types) if isinstance(name, str)}
    if isinstance(values := schema.get("enum"), list):
        return set(map(kind_of, values))
    if isinstance(variants := schema.get("oneOf"), list):
        return set().union(*map(kinds_of, variants))
    return KINDS


def as_list(types: Any) -> list[Any]:
    """The types that the keyword `type` names."""
    return types if isinstance(types, list) else [types]


def as_text(value: Any) -> str:
    """JSON text, the same for schemas that differ in the order of their keys only."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
