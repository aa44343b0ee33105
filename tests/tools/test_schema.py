"""Simplified schemas accept what the schemas accepted, and the renderer shows all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import make_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, TypeAdapter, create_model
from typing_extensions import TypedDict

from gptoss_mlx.harmony.typescript import function_type, type_of
from gptoss_mlx.tools.schema import MAX_NODES, simplify

Strategy = st.SearchStrategy


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(Enum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    """A cat."""

    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tail: float | None = None


class Tree(BaseModel):
    value: int | str
    children: list[Tree] = []


class Movie(TypedDict, total=False):
    title: str
    year: int


Point = make_dataclass("Point", [("x", float), ("y", float)])

scalars = st.sampled_from(
    [
        str, int, float, bool, None, Any, Literal["a", "b"], Literal["a", 1, None], Literal[True], Literal[3, 4],
        Annotated[int, Field(ge=0, lt=5)], Annotated[str, Field(max_length=2)], Annotated[str, Field(pattern="a")],
        Annotated[float, Field(description="a\n  number", gt=0)], Annotated[Cat | Dog, Field(discriminator="kind")],
        Colour, Level, Cat, Dog, Tree, Movie, Point,
    ]
)  # fmt: skip


def _model(fields: list[Any], extra: str) -> Any:
    named = {f"f{i}": (kind, ... if i % 2 else None) for i, kind in enumerate(fields)}
    return create_model("Made", __config__={"extra": extra}, **named)  # type: ignore[call-overload]


def _of(generic: Any, *parameters: Any) -> Any:
    return generic[parameters]


def _compound(inner: Strategy[Any]) -> Strategy[Any]:
    return st.one_of(
        st.builds(_of, st.just(list), inner),
        st.builds(_of, st.just(dict), st.just(str), inner),
        st.builds(_of, st.sampled_from([Union, tuple]), inner, inner | st.none()),
        st.builds(_model, st.lists(inner, min_size=1, max_size=3), st.sampled_from(["ignore", "forbid"])),
    )


types = st.recursive(scalars, _compound, max_leaves=5)

words = st.sampled_from(["a", "b", "abc", "cat", "dog", "red", "kind", "f0", "f1", "x", "y", "value", "children", "p"])
leaves = st.none() | st.booleans() | st.integers(-1, 10) | st.sampled_from([1.0, 2.5, -0.5]) | words
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=6)


def instances(schema: Any, root: Any, left: int = 4) -> Strategy[Any]:
    """Values near a schema: mostly what it asks for, sometimes anything."""
    if not isinstance(schema, Mapping) or left == 0:
        return values
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return instances(target, root, left - 1)
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return st.one_of([instances(part, root, left - 1) for part in schema[union]])
    if "const" in schema:
        return st.just(schema["const"]) | leaves
    if schema.get("enum"):
        return st.sampled_from(schema["enum"]) | leaves
    if "properties" in schema:
        parts = {name: instances(part, root, left - 1) for name, part in schema["properties"].items()}
        required = {name: part for name, part in parts.items() if name in schema.get("required", ())}
        optional = {name: part for name, part in parts.items() if name not in required}
        return st.fixed_dictionaries(required, optional=optional) | st.fixed_dictionaries({}, optional=parts)
    if "prefixItems" in schema:
        return st.tuples(*(instances(part, root, left - 1) for part in schema["prefixItems"])).map(list)
    if "items" in schema:
        return st.lists(instances(schema["items"], root, left - 1), max_size=3)
    return values


def accepts(schema: Any, value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


def keywords(schema: Any) -> set[str]:
    """The keywords in all places where the renderer looks."""
    if not isinstance(schema, Mapping):
        return set()
    parts = [*schema.get("properties", {}).values(), *schema.get("oneOf", ()), schema.get("items")]
    return set(schema).union(*map(keywords, parts))


@given(types, st.data())
def test_a_simplified_schema_accepts_what_pydantics_accepts(kind: Any, data: st.DataObject) -> None:
    schema = TypeAdapter(kind).json_schema()
    simple = simplify(schema)
    Draft202012Validator.check_schema(simple)
    for value in data.draw(st.lists(instances(schema, schema) | values, min_size=5, max_size=15)):
        assert accepts(simple, value) == accepts(schema, value), (schema, simple, value)
    assert not keywords(simple) & {"anyOf", "const"}
    type_of(simple)


bounds = st.integers(0, 3)
references = st.sampled_from(["#", "#/$defs/p", "#/$defs/q", "#/properties/a", "#/$defs/missing", "http://x/y"])


def _node(inner: Strategy[Any]) -> Strategy[dict[str, Any]]:
    parts = st.lists(inner, min_size=1, max_size=3)
    maps = st.dictionaries(words, inner, min_size=1, max_size=3)
    names = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
    fields: dict[str, Strategy[Any]] = {
        "type": names | st.lists(names, min_size=1, max_size=3, unique=True),
        "enum": st.lists(values, min_size=1, max_size=4), "const": values, "minimum": bounds, "maxLength": bounds,
        "minItems": bounds, "maxItems": bounds, "required": st.lists(words, max_size=2, unique=True),
        "properties": maps, "patternProperties": maps, "additionalProperties": inner, "propertyNames": inner,
        "items": inner, "prefixItems": parts, "contains": inner, "anyOf": parts, "oneOf": parts, "allOf": parts,
        "not": inner, "if": inner, "then": inner, "else": inner, "description": words, "title": words,
        "default": values, "$ref": st.sampled_from(["#/$defs/p", "#/$defs/q"]), "x-other": values,
    }  # fmt: skip
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: fields[key] for key in keys})
    )


nodes = st.recursive(st.booleans() | _node(st.booleans()), _node, max_leaves=6)


def _closed(schema: Any) -> bool:
    """Whether a definition leads to itself without a property or item between (a validator would not end)."""
    return "$ref" in str(schema)


@given(_node(nodes), nodes.filter(lambda node: not _closed(node)), nodes, st.data())
def test_any_schema_keeps_its_meaning(schema: dict[str, Any], p: Any, q: Any, data: st.DataObject) -> None:
    q = {"properties": {"a": q}, "items": q}  # it may lead to itself, but not endlessly
    schema = {**schema, "$defs": {"p": p, "q": q}}
    simple = simplify(schema)
    Draft202012Validator.check_schema(simple)
    for value in data.draw(st.lists(instances(schema, schema) | values, min_size=5, max_size=15)):
        assert accepts(simple, value) == accepts(schema, value), (schema, simple, value)


hostile = st.recursive(
    values | references,
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$ref", "anyOf", "oneOf", "allOf", "enum", "type", "properties", "$defs"]), v
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["$ref", "anyOf", "oneOf", "allOf", "enum", "const", "properties"]), hostile))
def test_nonsense_is_simplified_and_rendered(schema: dict[str, Any]) -> None:
    type_of(simplify(schema))


def test_what_the_model_reads() -> None:
    class Form(BaseModel):
        pet: Cat | Dog | None = None
        unit: Literal["m", "ft"] | None = Field(None, description="Unit\nof lengths")
        level: Level
        mixed: int | str | None
        point: tuple[float, float]
        colours: list[Colour]
        tree: Tree
        words: Literal["low", "high"] | str = Field("low", title="How much")
        limit: float = math.inf
        child: Cat = Field(Cat(), description="The young one")

    declared = function_type("f", simplify(Form.model_json_schema()))
    assert declared == (
        "type f = (_: {\n"
        "// default: null\n"
        "pet?:\n"
        ' |    // A cat.\n{\n   kind?: "cat", // default: cat\n   lives?: number, // default: 9\n   } // A cat.\n'
        ' | {\n   kind: "dog",\n   tail?: number | null, // default: null\n   }\n'
        " | null\n,\n"
        "// Unit of lengths\n"
        "// default: null\n"
        'unit?:\n | "m" | "ft"\n | null\n,\n'
        "// one of 1, 2\n"
        "level: number,\n"
        "mixed: number | string | null,\n"
        "point: number[],\n"
        'colours: "red" | "blue"[],\n'
        "tree: {\n    value: number | string,\n    children?: {\n        }[], // default: []\n    },\n"
        "// How much\n//\n"
        '// default: "low"\n'
        'words?:\n | "low" | "high"\n | string\n,\n'
        "limit?: number,\n"
        "// The young one\n"
        "child?:     // The young one\n"
        "{\n"
        '    kind?: "cat", // default: cat\n    lives?: number, // default: 9\n'
        '    }, // default: {"kind":"cat","lives":9}\n'
        "}) => any;"
    )


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "title": "Title"}, "$defs": {"const": 1}, "anyOf": {"type": "null"}},
    }
    assert simplify(schema)["properties"] == {
        "title": {"type": "string"},
        "$defs": {"type": "integer", "enum": [1], "description": "one of 1"},
        "anyOf": {"type": ["null"]},
    }


def test_definitions_that_double_at_every_step_stay_small() -> None:
    definitions: dict[str, Any] = {
        f"d{i}": {"type": "object", "properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "ab"}} for i in range(40)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": {**definitions, "d40": {"type": "integer"}}}
    simple = simplify(schema)
    assert len(str(simple)) < MAX_NODES * 100
    value: Any = 1
    for _ in range(40):
        value = {"a": value}
    assert accepts(simple, value)
    assert not accepts(simple, {"a": {"b": {"a": 1}}})


def test_a_schema_too_deep_to_render_ends_in_anything() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    assert "any[]" in type_of(simplify(schema))


STRING = {"type": "string"}
NULL = {"type": ["null"]}
REQUIRED = {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({"type": ["string", "null"], "enum": ["a", None]}, {"oneOf": [{**STRING, "enum": ["a"]}, NULL]}),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, {"type": "number"}),
        ({"anyOf": [STRING, {}]}, {}),
        ({"anyOf": [STRING, False]}, STRING),
        ({"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": STRING}}, STRING),
        ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"const": "x"}}}, {**STRING, "enum": ["x"]}),
        ({"type": ["array", "null"], "items": STRING}, {"oneOf": [{"type": "array", "items": STRING}, NULL]}),
        (REQUIRED, REQUIRED),
    ],
)
def test_rewriting(schema: dict[str, Any], simple: dict[str, Any]) -> None:
    assert simplify(schema) == simple
