"""A tool's JSON schema as the TypeScript-like type that the model was trained to read.

The form is the one of the openai-harmony renderer to the byte, its oddities included: they were in the training
data, so a tidier rendering would be a worse prompt. Each rule stands where it applies. A schema is any JSON value;
what a rule does not recognise becomes `any`, never an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ..errors import HarmonyError

MAX_DEPTH = 100
"""How deeply a schema may nest; the reference's JSON reader stops a little later."""


def function_type(name: str, parameters: object | None) -> str:
    """The declaration of one function: `type name = () => any;` without a schema, else with its type."""
    if parameters is None:
        return f"type {name} = () => any;"
    return f"type {name} = (_: {type_of(parameters)}) => any;"


def type_of(schema: object, indent: str = "", depth: int = 0) -> str:
    """The type that `schema` describes; lines after the first start with `indent`, or deeper."""
    if depth > MAX_DEPTH:
        raise HarmonyError(f"a tool's parameters nest deeper than {MAX_DEPTH} levels; flatten the schema")
    node = _object(schema)
    if isinstance(variants := _array(node.get("oneOf")), tuple):
        return "".join(f"\n{indent} | {_union_member(v, indent, depth)}" for v in variants)
    kind = node.get("type")
    if isinstance(names := _array(kind), tuple):
        known = ["number" if name == "integer" else name for name in names if isinstance(name, str)]
        return " | ".join(known) if known else "any"
    if kind == "object":
        return _object_type(node, indent, depth)
    if kind == "array":
        return f"{type_of(node['items'], indent, depth + 1)}[]" if "items" in node else "Array<any>"
    if kind == "string":
        return _string_type(node)
    return {"number": "number", "integer": "number", "boolean": "boolean"}.get(str(kind), "any")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _array(value: object) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _string_type(node: Mapping[str, Any]) -> str:
    members = [f'"{member}"' for member in _array(node.get("enum")) or () if isinstance(member, str)]
    return " | ".join(members) or "string"


def _object_type(node: Mapping[str, Any], indent: str, depth: int) -> str:
    description = _string(node.get("description"))
    # The description is indented and the brace after it is not.
    opening = "{\n" if description is None else f"{indent}// {description}\n{{\n"
    required = {name for name in _array(node.get("required")) or () if isinstance(name, str)}
    properties = _object(node.get("properties"))
    body = (_property(name, value, name in required, indent, depth) for name, value in properties.items())
    return f"{opening}{''.join(body)}{indent}}}"


def _property(name: str, schema: object, required: bool, indent: str, depth: int) -> str:
    node = _object(schema)
    head = f"{name}{'' if required else '?'}:"
    variants = _array(node.get("oneOf"))
    if variants is not None:
        return _union_property(head, node, variants, indent, depth)
    written = _nullable(node, type_of(node, indent + "    ", depth + 1))
    plain = "oneOf" not in node  # a oneOf that is no list hides description and default
    comment = f" // {_default(node)}" if plain and "default" in node else ""
    description = _comment(node.get("description"), indent) if plain else ""
    above = _title(node, indent) + description + _examples(node, indent)
    return f"{above}{indent}{head} {written},{comment}\n"


def _union_property(head: str, node: Mapping[str, Any], variants: Sequence[Any], indent: str, depth: int) -> str:
    """A property with `oneOf`: its variants on lines of their own, with their comments, and a comma below."""
    description = _string(node.get("description"))
    first = _string(_object(variants[0]).get("description")) if variants else None
    lines = _title(node, indent) + _examples(node, indent)
    if description != first:
        lines += _comment(description, indent)
    if "default" in node:
        lines += f"{indent}// {_default(node)}\n"
    lines += f"{indent}{head}\n"
    for i, variant in enumerate(variants):
        told = _string(_object(variant).get("description"))
        if description is not None and (i == 0 or told == description):
            told = None  # the property's description stands for the first variant's, and for an equal one
        lines += f"{indent} | {_variant(variant, indent, depth, told, _default)}\n"
    return f"{lines}{indent},\n"


def _union_member(variant: object, indent: str, depth: int) -> str:
    told = _string(_object(variant).get("description"))
    return _variant(variant, indent, depth, told, _member_default)


def _variant(
    variant: object, indent: str, depth: int, description: str | None, default: Callable[[Mapping[str, Any]], str]
) -> str:
    node = _object(variant)
    written = _nullable(node, type_of(variant, indent + "   ", depth + 1))
    told = [] if description is None else [description]
    if "default" in node:
        told.append(default(node))
    return f"{written} // {' '.join(told)}" if told else written


def _comment(text: object, indent: str) -> str:
    """A comment line, if `text` is one. Line breaks inside it are copied without a comment sign."""
    return f"{indent}// {text}\n" if isinstance(text, str) else ""


def _title(node: Mapping[str, Any], indent: str) -> str:
    title = _comment(node.get("title"), indent)
    return f"{title}{indent}//\n" if title else ""


def _examples(node: Mapping[str, Any], indent: str) -> str:
    examples = _array(node.get("examples"))
    if not examples:
        return ""
    quoted = (_comment(f'- "{example}"', indent) for example in examples if isinstance(example, str))
    return _comment("Examples:", indent) + "".join(quoted)


def _nullable(node: Mapping[str, Any], written: str) -> str:
    return f"{written} | null" if node.get("nullable") is True and "null" not in written else written


def _default(node: Mapping[str, Any]) -> str:
    """`default: value`; a string stands in quotes unless there is an enum, and is not escaped."""
    value = node["default"]
    if isinstance(value, str):
        return f"default: {value}" if _array(node.get("enum")) else f'default: "{value}"'
    return f"default: {compact_json(value)}"


def _member_default(node: Mapping[str, Any]) -> str:
    """The same inside a `oneOf` that is no property's: a string beside an enum stands there as JSON."""
    value = node["default"]
    if isinstance(value, str) and not _array(node.get("enum")):
        return f'default: "{value}"'
    return f"default: {compact_json(value)}"


def compact_json(value: object, depth: int = 0) -> str:
    """`value` as JSON without blanks, with the number forms of the reference (serde_json).

    Raises HarmonyError for what JSON does not know.
    """
    if depth > MAX_DEPTH:
        raise HarmonyError(f"a JSON value nests deeper than {MAX_DEPTH} levels; flatten it")
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(compact_json(item, depth + 1) for item in value)}]"
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        pairs = (f"{compact_json(key)}:{compact_json(item, depth + 1)}" for key, item in value.items())
        return f"{{{','.join(pairs)}}}"
    raise HarmonyError(f"expected a JSON value, found {type(value).__name__}; convert it before declaring the tool")


def _number(value: float) -> str:
    """A number as the reference reads and writes it: plain from 1e-5 up to below 1e16, else with an exponent."""
    number = _as_read(value)
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)  # the decimal point stands after this many digits
    minus = "-" if sign else ""
    if number == 0:
        return f"{minus}0.0"
    if 0 < point <= 16:
        return f"{minus}{text[:point]:0<{point}}.{text[point:] or '0'}"
    if -5 < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
    return f"{minus}{mantissa}e{point - 1}"


def _as_read(value: float) -> float:
    """The float that the reference's JSON reader makes of the number: its digits times or over a power of ten.

    It is the number itself up to 15 digits and 22 places, and may be the float beside it beyond.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise HarmonyError(f"expected a finite number in JSON, found {value}; leave it out of the schema")
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text, shift = "".join(map(str, digits)), int(exponent)
    kept = next(n for n in (20, 19) if int(text[:n]) < 2**64)
    result, shift = float(int(text[:kept])), shift + max(0, len(text) - kept)
    if shift < -308:
        result, shift = result / 1e308, shift + 308
    result = result * float(f"1e{shift}") if shift >= 0 else result / float(f"1e{-shift}")
    if math.isinf(result):
        raise HarmonyError(f"expected a number of at most 1.8e308 in JSON, found one of {len(text)} digits")
    return -result if sign else result
