"""Variants of a schema, of which a value fits one or more, as one schema that the renderer shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from .schema_keywords import CONSTRAINTS, Schema, accepts_all, as_list, as_text, constraints_of, kinds_of


def union(variants: Sequence[Any]) -> Schema:
    """What accepts all that any of the variants accepts, and is shown as such."""
    flat: list[Any] = []
    for variant in variants:
        nested = variant.get("oneOf") if isinstance(variant, dict) and set(variant) == {"oneOf"} else None
        flat += nested if isinstance(nested, list) and all_disjoint(nested) else [variant]
    if any(accepts_all(variant) for variant in flat):
        return {}
    unique = {as_text(constraints_of(variant)): variant for variant in reversed(flat) if isinstance(variant, dict)}
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
            scalar |= {**variant, "type": [*as_list(scalar["type"]), *as_list(variant["type"])]}
    return result


def _is_scalar(schema: Schema) -> bool:
    """Whether a schema is scalar types and what narrows each of them, without a word about them."""
    types = as_list(schema.get("type"))
    if not all(isinstance(name, str) and name in CONSTRAINTS for name in types):
        return False
    return schema.keys() <= {"type"}.union(*(CONSTRAINTS[name] for name in types))


def _exclusive(variants: list[Schema]) -> list[Schema]:
    """The variants, each without what an earlier one accepts, where that is not clear from their types."""
    result = []
    for i, variant in enumerate(variants):
        overlapping = [constraints_of(earlier) for earlier in variants[:i] if not _disjoint(earlier, variant)]
        if overlapping and "not" in variant:
            overlapping.append(variant["not"])
        excluded = overlapping[0] if len(overlapping) == 1 else {"anyOf": overlapping}
        result.append({**variant, "not": excluded} if overlapping else variant)
    return result


def all_disjoint(variants: Sequence[Any]) -> bool:
    """Whether it is plain to see that no value fits two of the variants."""
    return all(_disjoint(one, other) for one, other in combinations(variants, 2))


def _disjoint(one: Any, other: Any) -> bool:
    """Whether it is plain to see that nothing fits both: by type, by enumeration, by a property both require."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    common = kinds_of(one) & kinds_of(other)
    if not common:
        return True
    if isinstance(one.get("enum"), list) and isinstance(other.get("enum"), list):
        return not set(map(_key, one["enum"])) & set(map(_key, other["enum"]))
    if common != {"object"}:
        return False
    shared = _required(one).keys() & _required(other).keys()
    return any(_disjoint(_required(one)[name], _required(other)[name]) for name in shared)


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
