"""A JSON Schema in the words that the model can be shown.

The renderer of declarations (module `harmony.typescript`) writes `any` for a reference, an `anyOf`, a `const` or an
enumeration without a type, so a schema of pydantic's or of an MCP server would hide half of what it says. `simplify`
says the same with `oneOf`, lists of types and typed enumerations, and with every definition where it is used.

What it returns accepts exactly what the schema accepted. Where variants overlap, a `oneOf` would refuse what fits
two of them: each then excludes the ones before it by a `not`, which the renderer does not show. Only a schema that
nests deeper than `MAX_DEPTH` ends in schemas that accept anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import HarmonyError
from ..harmony.typescript import compact_json
from .schema_keywords import (
    IN_PLACE,
    ONE_SCHEMA,
    SCHEMA_LISTS,
    SCHEMA_MAPS,
    STRUCTURE,
    Schema,
    accepts_all,
    annotations_of,
    as_list,
    as_text,
    constraints_of,
    kind_of,
)
from .schema_union import all_disjoint, union

MAX_DEPTH = 64
"""How deeply the result may nest; the renderer refuses more than 100."""
MAX_INLINED_DEPTH = 32
"""How deeply definitions are put in place of references to them."""
MAX_NODES = 10_000
"""After this many subschemas references stay: definitions that use each other twice double at every step."""
MAX_VARIANTS = 100
"""An `anyOf` of more stays as it is: every two variants are compared."""

DROPPED = {"title", "$defs", "definitions", "$schema", "$id", "$comment", "discriminator"}


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
        self._names: set[str] = set()

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
            name = self._kept.get(pointer) or self._keep(pointer)
            kind = target.get("type") if isinstance(target, Mapping) else None
            shown = {"type": kind} if isinstance(kind, str) and kind != "null" else {}
            return {**shown, **node, "$ref": f"#/$defs/{name}"}
        rest = {key: value for key, value in node.items() if key != "$ref"}
        parts = rest.get("allOf")
        inlined = self._schema(target, (*through, pointer), depth + 1)
        return {**rest, "allOf": [inlined, *(parts if isinstance(parts, list) else ())]}

    def _keep(self, pointer: str) -> str:
        """Name the definition that a reference leads to; it is simplified at the end."""
        name = re.sub(r"[^\w.-]", "_", pointer.rpartition("/")[2]).strip("_") or "root"
        while name in self._names:
            name = f"{name}_{len(self._names)}"
        self._names.add(name)
        self._kept[pointer] = name
        return name

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


def _join_parts(node: Schema) -> Schema:
    """An `allOf` of one part that stands alone becomes that part; what stands outside describes it better."""
    parts = node.get("allOf")
    if not isinstance(parts, list):
        return node
    said = {key: value for part in parts if accepts_all(part) and part is not True for key, value in part.items()}
    deciding = [part for part in parts if not accepts_all(part)]
    rest = {**said, **{key: value for key, value in node.items() if key != "allOf"}}
    if not deciding:
        return rest
    if len(deciding) == 1 and isinstance(deciding[0], dict) and not constraints_of(rest):
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
            groups.setdefault(kind_of(value), []).append(value)
    variants = [_enumeration(kind, group) for kind, group in groups.items()]
    rest = {key: value for key, value in node.items() if key not in {"type", "enum"}}
    constraints = constraints_of(rest)
    if len(variants) == 1:
        described = _described(rest.get("description"), variants[0].get("description"))
        return {**rest, **variants[0], **described}
    if not variants or constraints.keys() & IN_PLACE:
        return node
    return {**annotations_of(rest), "oneOf": [{**constraints, **variant} for variant in variants]}


def _enumeration(kind: str, values: list[Any]) -> Schema:
    """The values of one kind; those that the renderer does not list are told in a description."""
    if kind == "null":
        return {"type": ["null"]}  # the renderer knows it in a list only
    if kind == "string":
        return {"type": "string", "enum": values}
    if kind == "boolean" and len(set(values)) == 2:
        return {"type": "boolean"}
    listed = f"one of {', '.join(map(as_text, values))}"
    if kind == "number" and all(isinstance(value, int) for value in values):
        kind = "integer"
    shown = {} if kind in STRUCTURE else {"type": kind}
    return {**shown, "enum": values, "description": listed}


def _described(description: Any, listed: str | None) -> Schema:
    """The description with the values that are allowed, unless it lists them already."""
    if listed is None or not isinstance(description, str) or not description:
        return {"description": listed or description} if listed or description else {}
    return {"description": description if listed in description else f"{description}; {listed}"}


def _has_type(value: Any, types: Any) -> bool:
    """Whether a value is of a type, or of one in a list; None is every type."""
    if types is None:
        return True
    kind = kind_of(value)
    whole = kind == "number" and (isinstance(value, int) or value.is_integer())
    return any(name == kind or (name == "integer" and whole) for name in as_list(types))


def _any_of(node: Schema) -> Schema:
    """`anyOf` alone becomes a union that the renderer shows; beside other constraints it stays."""
    variants = node.get("anyOf")
    if not isinstance(variants, list) or len(variants) > MAX_VARIANTS or constraints_of(node).keys() != {"anyOf"}:
        return node
    return {**union(variants), **annotations_of(node)}


def _one_of(node: Schema) -> Schema:
    """A `oneOf` whose variants exclude each other is a union; beside other constraints it would hide them."""
    variants = node.get("oneOf")
    if not isinstance(variants, list) or len(variants) > MAX_VARIANTS:
        return node
    rest = {key: value for key, value in node.items() if key != "oneOf"}
    if constraints_of(rest):
        parts = rest.get("allOf")
        return {**rest, "allOf": [*(parts if isinstance(parts, list) else ()), {"oneOf": variants}]}
    return {**union(variants), **rest} if all_disjoint(variants) else node


def _split_types(node: Schema) -> Schema:
    """A list of types with an object or array that says more becomes variants, of which each says its own."""
    types = node.get("type")
    if types == "null":
        return {**node, "type": ["null"]}
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        return node
    if len(types) == 1 and types != ["null"]:
        return {**node, "type": types[0]}
    constraints = {key: value for key, value in constraints_of(node).items() if key != "type"}
    structured = [name for name in types if STRUCTURE.get(name, set()) & constraints.keys()]
    if not structured or len(types) == 1 or constraints.keys() & (IN_PLACE | {"enum", "const"}):
        return node
    variants = [_of_types(constraints, [name]) for name in structured]
    if others := [name for name in types if name not in structured]:
        variants.append(_of_types(constraints, others))
    return {**annotations_of(node), "oneOf": variants}


def _of_types(constraints: Schema, types: list[str]) -> Schema:
    """The constraints for some of the types, without what says something of other objects or arrays only."""
    foreign = set().union(*(keywords for name, keywords in STRUCTURE.items() if name not in types))
    kept = {key: value for key, value in constraints.items() if key not in foreign}
    return {**kept, "type": types if len(types) > 1 or types == ["null"] else types[0]}


def _uniform_tuple(node: Schema) -> Schema:
    """A tuple whose places are all alike is an array of them of that length."""
    places = node.get("prefixItems")
    if not isinstance(places, list) or not places or "items" in node or node.get("maxItems") != len(places):
        return node
    if len(set(map(as_text, places))) > 1:
        return node
    return {**{key: value for key, value in node.items() if key != "prefixItems"}, "items": places[0]}
