"""A JSON Schema in the words that the model can be shown.

The renderer of declarations (module `harmony.typescript`) writes `any` for a reference, an `anyOf`, a `const` or an
enumeration without a type, so a schema of pydantic's or of an MCP server would hide half of what it says. `simplify`
says the same with `oneOf`, lists of types and typed enumerations, and with every definition where it is used.

What it returns accepts exactly what the schema accepted. Where variants overlap, a `oneOf` would refuse what fits
two of them: each then excludes the ones before it by a `not`, which the renderer does not show. Only a schema that
nests deeper than `MAX_DEPTH` ends in schemas that accept anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from ..errors import HarmonyError
from ..harmony.typescript import compact_json

Schema = dict[str, Any]

MAX_DEPTH = 64
"""How deeply the result may nest; the renderer refuses more than 100."""
MAX_INLINED_DEPTH = 32
"""How deeply definitions are put in place of references to them."""
MAX_NODES = 10_000
"""After this many subschemas references stay: definitions that use each other twice double at every step."""
MAX_VARIANTS = 100
"""An `anyOf` of more stays as it is: every two variants are compared."""

DROPPED = {"title", "$defs", "definitions", "$schema", "$id", "$comment", "discriminator"}
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


def simplify(schema: Mapping[str, Any]) -> Schema:
    """The same schema without what the renderer cannot show.

    Args:
        schema: any JSON Schema; references may lead to its own parts. A reference that closes a circle stays, with
            the definitions it needs, and shows as an object of any content.
    """
    return _Simplifier(schema).run()


class _Simplifier:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self._kept: dict[str, str] = {}  # pointers of references that stay -> names of their definitions

    def run(self) -> Schema:
        result = self._mapping(self._root, ("#",))
        definitions: Schema = {}
        while missing := [pointer for pointer, name in self._kept.items() if name not in definitions]:
            for pointer in missing:
                target = self._target(pointer)
                definitions[self._kept[pointer]] = self._schema(target, (pointer,), 0)
        return {**result, "$defs": definitions} if definitions else result

    def _schema(self, schema: Any, through: tuple[str, ...], depth: int) -> Any:
        """One schema, met `through` these references; what is none (a boolean, nonsense) stays as it is."""
        if not isinstance(schema, Mapping):
            return schema
        return self._mapping(schema, through, depth) if depth < MAX_DEPTH else {}

    def _mapping(self, schema: Mapping[str, Any], through: tuple[str, ...], depth: int = 0) -> Schema:
        self._nodes += 1
        node = {key: self._value(key, value, through, depth) for key, value in schema.items() if key not in DROPPED}
        _tidy_annotations(node)
        if isinstance(node.get("$ref"), str):
            node = self._reference(node, through, depth)
        for step in (_join_parts, _type_enumeration, _any_of, _one_of, _split_types, _uniform_tuple):
            node = step(node)
        return node

    def _value(self, key: str, value: Any, through: tuple[str, ...], depth: int) -> Any:
        if key in SCHEMA_LISTS and isinstance(value, list):
            return [self._schema(part, through, depth + 1) for part in value]
        if key in SCHEMA_MAPS and isinstance(value, Mapping):
            parts = {name: self._schema(part, through, depth + 1) for name, part in value.items()}
            return {name: _with_title(name, value[name], part) for name, part in parts.items()}
        if key in ONE_SCHEMA:
            return self._schema(value, through, depth + 1)
        return value

    def _reference(self, node: Schema, through: tuple[str, ...], depth: int) -> Schema:
        """The definition in the place of the reference, or the reference to a definition that is kept."""
        pointer = node["$ref"]
        target = self._target(pointer)
        if target is None:
            return node
        if pointer in through or depth > MAX_INLINED_DEPTH or self._nodes > MAX_NODES:
            name = self._kept.setdefault(pointer, self._free_name(pointer))
            kind = target.get("type") if isinstance(target, Mapping) else None
            shown = {"type": kind} if isinstance(kind, str) and kind != "null" else {}
            return {**shown, **node, "$ref": f"#/$defs/{name}"}
        rest = {key: value for key, value in node.items() if key != "$ref"}
        parts = rest.get("allOf")
        inlined = self._schema(target, (*through, pointer), depth + 1)
        return {**rest, "allOf": [inlined, *(parts if isinstance(parts, list) else ())]}

    def _free_name(self, pointer: str) -> str:
        name = "".join(c if c.isalnum() or c in "_-." else "_" for c in pointer.rpartition("/")[2]).strip("_") or "root"
        taken = set(self._kept.values())
        return next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)

    def _target(self, pointer: str) -> Any:
        """What a JSON pointer of the document leads to; None for other references, and those that lead nowhere."""
        if pointer != "#" and not pointer.startswith("#/"):
            return None
        value: Any = self._root
        for part in pointer.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return None
        return value if isinstance(value, Mapping | bool) else None


def _tidy_annotations(node: Schema) -> None:
    description = node.get("description")
    if isinstance(description, str):
        node["description"] = " ".join(description.split())  # the renderer opens a comment on the first line only
    try:
        compact_json(node.get("default"))
    except HarmonyError:
        del node["default"]  # it has no JSON form (an infinite number): the declaration can only leave it out


def _with_title(name: str, original: Any, schema: Any) -> Any:
    """A property with its title, if that is more than its name in other letters."""
    title = original.get("title") if isinstance(original, Mapping) else None
    if not isinstance(title, str) or _letters(title) == _letters(name):
        return schema
    return {"title": title, **schema} if isinstance(schema, dict) else schema


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _constraints(schema: Any) -> Schema:
    """What of a schema decides."""
    return {key: value for key, value in schema.items() if key in DECIDING}


def _annotations(schema: Any) -> Schema:
    return {key: value for key, value in schema.items() if key not in DECIDING}


def _accepts_all(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and not _constraints(schema))


def _join_parts(node: Schema) -> Schema:
    """An `allOf` of one part that stands alone becomes that part; what stands outside describes it better."""
    parts = node.get("allOf")
    if not isinstance(parts, list):
        return node
    said = {key: value for part in parts if _accepts_all(part) and part is not True for key, value in part.items()}
    deciding = [part for part in parts if not _accepts_all(part)]
    rest = {**said, **{key: value for key, value in node.items() if key != "allOf"}}
    if not deciding:
        return rest
    if len(deciding) == 1 and isinstance(deciding[0], dict) and not _constraints(rest):
        return {**deciding[0], **rest}
    return {**rest, "allOf": deciding}


def _type_enumeration(node: Schema) -> Schema:
    """A `const` is an enumeration of one; its values say the types, one variant for each."""
    if "const" in node and "enum" not in node:
        node = {**{key: value for key, value in node.items() if key != "const"}, "enum": [node["const"]]}
    values = node.get("enum")
    if not isinstance(values, list):
        return node
    groups: dict[str, list[Any]] = {}
    for value in values:
        if _has_type(value, node.get("type")):
            groups.setdefault(_kind(value), []).append(value)
    variants = [_enumeration(kind, group) for kind, group in groups.items()]
    rest = {key: value for key, value in node.items() if key not in {"type", "enum"}}
    constraints = _constraints(rest)
    if len(variants) == 1:
        described = _described(rest.get("description"), variants[0].get("description"))
        return {**rest, **variants[0], **described}
    if not variants or constraints.keys() & IN_PLACE:
        return node
    return {**_annotations(rest), "oneOf": [{**constraints, **variant} for variant in variants]}


def _enumeration(kind: str, values: list[Any]) -> Schema:
    """The values of one kind; those that the renderer does not list are told in a description."""
    if kind == "null":
        return {"type": ["null"]}  # the renderer knows it in a list only
    if kind == "string":
        return {"type": "string", "enum": values}
    if kind == "boolean" and len(set(values)) == 2:
        return {"type": "boolean"}
    listed = f"one of {', '.join(json.dumps(value, ensure_ascii=False) for value in values)}"
    if kind == "number" and all(isinstance(value, int) for value in values):
        kind = "integer"
    shown = {} if kind in STRUCTURE else {"type": kind}
    return {**shown, "enum": values, "description": listed}


def _described(description: Any, listed: str | None) -> Schema:
    """The description with the values that are allowed, unless it lists them already."""
    if listed is None or not isinstance(description, str) or not description:
        return {"description": listed or description} if listed or description else {}
    return {"description": description if listed in description else f"{description}; {listed}"}


def _kind(value: Any) -> str:
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


def _has_type(value: Any, types: Any) -> bool:
    """Whether a value is of a type, or of one in a list; None is every type."""
    if types is None:
        return True
    kind = _kind(value)
    whole = kind == "number" and (isinstance(value, int) or value.is_integer())
    return any(name == kind or (name == "integer" and whole) for name in _listed(types))


def _listed(types: Any) -> list[Any]:
    return types if isinstance(types, list) else [types]


def _any_of(node: Schema) -> Schema:
    """`anyOf` alone becomes a union that the renderer shows; beside other constraints it stays."""
    variants = node.get("anyOf")
    if not isinstance(variants, list) or len(variants) > MAX_VARIANTS or _constraints(node).keys() != {"anyOf"}:
        return node
    return {**_union(variants), **_annotations(node)}


def _one_of(node: Schema) -> Schema:
    """A `oneOf` whose variants exclude each other is a union; beside other constraints it would hide them."""
    variants = node.get("oneOf")
    if not isinstance(variants, list) or len(variants) > MAX_VARIANTS:
        return node
    rest = {key: value for key, value in node.items() if key != "oneOf"}
    if _constraints(rest):
        parts = rest.get("allOf")
        return {**rest, "allOf": [*(parts if isinstance(parts, list) else ()), {"oneOf": variants}]}
    return {**_union(variants), **rest} if _all_disjoint(variants) else node


def _union(variants: Sequence[Any]) -> Schema:
    """What accepts all that any of the variants accepts, and is shown as such."""
    flat: list[Any] = []
    for variant in variants:
        nested = variant.get("oneOf") if isinstance(variant, dict) and set(variant) == {"oneOf"} else None
        flat += nested if isinstance(nested, list) and _all_disjoint(nested) else [variant]
    if any(_accepts_all(variant) for variant in flat):
        return {}
    unique = {json.dumps(_constraints(v), sort_keys=True): v for v in reversed(flat) if isinstance(v, dict)}
    merged = _merge_scalars(list(reversed(unique.values())))
    if not merged:
        return {"not": {}}
    return merged[0] if len(merged) == 1 else {"oneOf": _exclusive(merged)}


def _merge_scalars(variants: list[Schema]) -> list[Schema]:
    """Scalars of different types become one schema with a list of types, in the place of the first."""
    whole = any(variant == {"type": "number"} for variant in variants)
    result: list[Schema] = []
    scalar: Schema | None = None
    for variant in variants:
        if whole and variant.get("type") == "integer" and _is_scalar(variant):
            continue  # every integer is a number
        if not _is_scalar(variant) or (scalar is not None and not _disjoint(scalar, variant)):
            result.append(variant)
        elif scalar is None:
            scalar = dict(variant)
            result.append(scalar)
        else:
            scalar |= {**variant, "type": [*_listed(scalar["type"]), *_listed(variant["type"])]}
    return result


def _is_scalar(schema: Schema) -> bool:
    """Whether a schema is scalar types and what narrows each of them, without a word about them."""
    types = _listed(schema.get("type"))
    if not all(isinstance(name, str) and name in CONSTRAINTS for name in types):
        return False
    return schema.keys() <= {"type"}.union(*(CONSTRAINTS[name] for name in types))


def _exclusive(variants: list[Schema]) -> list[Schema]:
    """The variants, each without what an earlier one accepts, where that is not clear from their types."""
    result = []
    for i, variant in enumerate(variants):
        overlapping = [_constraints(earlier) for earlier in variants[:i] if not _disjoint(earlier, variant)]
        if overlapping and "not" in variant:
            overlapping.append(variant["not"])
        excluded = overlapping[0] if len(overlapping) == 1 else {"anyOf": overlapping}
        result.append({**variant, "not": excluded} if overlapping else variant)
    return result


def _all_disjoint(variants: Sequence[Any]) -> bool:
    return all(_disjoint(one, other) for one, other in combinations(variants, 2))


def _disjoint(one: Any, other: Any) -> bool:
    """Whether it is plain to see that nothing fits both: by type, by enumeration, by a property both require."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    common = _kinds(one) & _kinds(other)
    if not common:
        return True
    if isinstance(one.get("enum"), list) and isinstance(other.get("enum"), list):
        return not set(map(_key, one["enum"])) & set(map(_key, other["enum"]))
    if common != {"object"}:
        return False
    shared = _required(one).keys() & _required(other).keys()
    return any(_disjoint(_required(one)[name], _required(other)[name]) for name in shared)


def _kinds(schema: Any) -> set[str]:
    """The kinds of values that a schema may accept."""
    if not isinstance(schema, dict):
        return set() if schema is False else KINDS
    if (types := schema.get("type")) is not None:
        return {"number" if name == "integer" else name for name in _listed(types) if isinstance(name, str)}
    if isinstance(values := schema.get("enum"), list):
        return set(map(_kind, values))
    if isinstance(variants := schema.get("oneOf"), list):
        return set().union(*map(_kinds, variants))
    return KINDS


def _key(value: Any) -> object:
    """Equal for equal JSON values: 1 is 1.0, and not true."""
    if isinstance(value, list | dict):
        return "a value inside of which nobody looks"
    return isinstance(value, bool), value


def _required(schema: Schema) -> Mapping[str, Any]:
    properties, names = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(names, list):
        return {}
    return {name: properties[name] for name in names if isinstance(name, str) and name in properties}


def _split_types(node: Schema) -> Schema:
    """A list of types with an object or array that says more becomes variants, of which each says its own."""
    types = node.get("type")
    if types == "null":
        return {**node, "type": ["null"]}
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        return node
    if len(types) == 1 and types != ["null"]:
        return {**node, "type": types[0]}
    constraints = {key: value for key, value in _constraints(node).items() if key != "type"}
    structured = [name for name in types if STRUCTURE.get(name, set()) & constraints.keys()]
    if not structured or len(types) == 1 or constraints.keys() & (IN_PLACE | {"enum", "const"}):
        return node
    foreign = {name: _other_structure(name) for name in types}
    simple = [name for name in types if name not in structured]
    groups: Iterable[tuple[Any, set[str]]] = [(name, foreign[name]) for name in structured]
    if simple:
        groups = [*groups, (simple[0] if len(simple) == 1 and simple != ["null"] else simple, _other_structure(None))]
    variants = [
        {**{key: value for key, value in constraints.items() if key not in left_out}, "type": names}
        for names, left_out in groups
    ]
    return {**_annotations(node), "oneOf": variants}


def _other_structure(kind: str | None) -> set[str]:
    return set().union(*(keywords for name, keywords in STRUCTURE.items() if name != kind))


def _uniform_tuple(node: Schema) -> Schema:
    """A tuple whose places are all alike is an array of them of that length."""
    places = node.get("prefixItems")
    if not isinstance(places, list) or not places or "items" in node or node.get("maxItems") != len(places):
        return node
    if len({json.dumps(place, sort_keys=True) for place in places}) > 1:
        return node
    return {**{key: value for key, value in node.items() if key != "prefixItems"}, "items": places[0]}
