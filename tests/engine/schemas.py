"""JSON Schemas: what people send, and what hypothesis thinks of."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
CLOSED: Schema = {"type": "object", "additionalProperties": False}


def closed(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    """An object of these properties and no others; all of them required unless said otherwise."""
    return {**CLOSED, "properties": properties, "required": list(properties) if required is None else required}


PERSON = closed({"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}})
STEP = closed({"explanation": {"type": "string"}, "output": {"type": "string"}})
CIRCLE = closed({"kind": {"const": "circle"}, "radius": {"type": "number", "exclusiveMinimum": 0}})
SQUARE = closed({"kind": {"const": "square"}, "side": {"type": "number", "minimum": 0.5, "maximum": 10}})

REALISTIC: dict[str, Schema | bool] = {
    "person": PERSON,
    "anything": True,
    "any object": {"type": "object"},
    "nested": closed({"order": closed({"sku": {"type": "string", "pattern": "^[A-Z]{3}-\\d{4}$"}, "buyer": PERSON})}),
    "steps": closed({"steps": {"type": "array", "items": STEP, "minItems": 1, "maxItems": 3}, "answer": {}}),
    "enums": closed({"unit": {"enum": ["C", "F", 'say "K"', None]}, "level": {"type": "integer", "enum": [1, 2, 3]}}),
    "optional": closed({"a": {"type": "string"}, "b": {"type": ["number", "null"]}}, required=["b"]),
    "bounds": closed(
        {
            "latitude": {"type": "number", "minimum": -90, "maximum": 90},
            "count": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 12},
            "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 100},
        }
    ),
    "variants": {"type": "array", "items": {"oneOf": [CIRCLE, SQUARE]}, "minItems": 2, "maxItems": 2},
    "either": {"anyOf": [PERSON, {"type": "string", "minLength": 3}, {"type": "array", "items": {"type": "boolean"}}]},
    "references": {
        "$defs": {"leaf": {"type": "integer"}, "pair": closed({"left": {"$ref": "#/$defs/leaf"}, "right": PERSON})},
        "$ref": "#/$defs/pair",
    },
    "recursive": {
        "$defs": {"node": closed({"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}})},
        "$ref": "#/$defs/node",
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
    "map by pattern": {**CLOSED, "patternProperties": {"^x_[a-z]+$": {"type": "boolean"}}},
    "open": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    "merged": {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]},
    "formats": closed({"on": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"}}),
    "unicode": closed({"größe": {"enum": ["klein", "日本", "🙂"]}, 'q"\\/': {"const": "\n"}}),
}

names = st.sampled_from(("a", "b", "name", "x y", "é", "a/b", 'q"', ""))
_maybe = st.sampled_from((None, None, 0, 1, 2, 3))
_numbers = st.sampled_from((None, None, None, -50, -1, 0, 0.5, 3, 7.25, 1000))
_values = st.sampled_from((1, -2, 1.5, "a", 'b"c', "é", None, True, False, {"x": 1}, [1, 2], "", "a/b", "\n"))
_patterns = st.sampled_from(("^[a-z]+$", "[0-9]{2}", "a|b", "^(foo|bar)", '^[^"\\\\]*$', "^.{2,4}$", "é+", "\\s", "^$"))


def _made(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    """A schema of `fields`, without those that come out as None."""
    return st.fixed_dictionaries(fields).map(
        lambda made: {key: value for key, value in made.items() if value is not None}
    )


_bounds = dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _numbers)
_multiples = st.sampled_from((None, None, None, 2, 0.25, 10))
_scalars = st.one_of(
    _made(type=st.just("string"), minLength=_maybe, maxLength=_maybe),
    _made(type=st.just("string"), pattern=_patterns),
    _made(type=st.sampled_from(("integer", "number")), multipleOf=_multiples, **_bounds),
    _made(type=st.sampled_from(("boolean", "null", ["string", "null"], ["integer", "object"]))),
    _made(enum=st.lists(_values, min_size=1, max_size=3)),
    _made(const=st.sampled_from((1, "x", {"a": [1]}, 0.1))),
    st.sampled_from(({}, {"minimum": 3}, {"required": ["a"]}, {"$ref": "#/$defs/d"}, {"$ref": "#"})),
)


def _composed(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    some = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        _made(
            type=st.just("object"),
            properties=st.dictionaries(names, inner, max_size=3),
            required=st.lists(names, max_size=2, unique=True),
            additionalProperties=st.sampled_from((None, False, False)) | inner,
            minProperties=_maybe,
            maxProperties=_maybe,
        ),
        _made(
            type=st.just("array"),
            items=st.none() | inner,
            prefixItems=st.none() | some,
            minItems=_maybe,
            maxItems=_maybe,
        ),
        *(_made(**{word: some}) for word in ("anyOf", "allOf", "oneOf")),
    )


schemas: st.SearchStrategy[Schema] = st.builds(
    lambda schema, shared: {**schema, "$defs": {"d": shared}}, st.recursive(_scalars, _composed, max_leaves=6), _scalars
)
