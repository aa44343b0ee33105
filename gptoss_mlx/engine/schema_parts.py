"""The parts of a JSON Schema with their places, and those to which llguidance would hold only loosely."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords of a schema whose values hold schemas under names."""
_VALUES = ("const", "enum", "default", "examples", "x-guidance")
"""Keywords whose values are no schemas."""
_MOST = 1 << 53  # llguidance rounds numbers further from 0

# llguidance leaves out of a text what JSON would have to spell as "\\u001f", of which `JSON_OPTIONS` has none.
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_CODE = r"(?:0[0-7bBeEfF]|1[0-9a-fA-F]|7[fF])"
_CONTROL_IN_PATTERN = re.compile(rf"{_CONTROL.pattern}|\\(?:[av]|(?:x|u00|U000000){_CODE}|[xuU]\{{0*{_CODE}\}})")
_RANGES = re.compile(r"\[\^?(?:\\.|[^\]\\])+-(?:\\.|[^\]\\])+\]|\[\^(?:\\.|[^\]\\])+\]")
"""Sets in a pattern that hold more than the control characters that they name."""


def loose_parts(schema: Any) -> Iterator[tuple[str, str, str]]:
    """Keywords to which llguidance would hold only loosely, their places, and when that is so."""
    for place, part in _all_parts("#", schema):
        if _repeats(part):
            yield "minProperties", place, " where keys are free"
        for keyword in ("const", "enum"):
            if not _is_exact(part.get(keyword)):
                yield keyword, place, " with control characters or numbers beyond 2**53"
        pattern = part.get("pattern")
        if isinstance(pattern, str) and _CONTROL_IN_PATTERN.search(_RANGES.sub("", pattern)):
            yield "pattern", place, " with control characters"


def _is_exact(value: Any) -> bool:
    """Whether llguidance writes a value as it is."""
    if isinstance(value, str):
        return _CONTROL.search(value) is None
    if isinstance(value, (int, float)):
        return abs(value) <= _MOST
    if isinstance(value, dict):
        value = list(value.values())
    return all(map(_is_exact, value)) if isinstance(value, list) else True


def refusal(keyword: str, place: str, where: str = "") -> str:
    """Why a schema with this keyword is not served."""
    return f"{keyword} (at {place}) cannot be enforced{where}; leave it out and check the answer yourself"


def _repeats(part: dict[str, Any]) -> bool:
    """Whether a key written twice could stand for two of the keys that an object must have at least."""
    least, required = part.get("minProperties"), part.get("required")
    certain = len(required) if isinstance(required, list) else 0
    free = part.get("additionalProperties") is not False or "patternProperties" in part
    return free and isinstance(least, (int, float)) and least > max(1, certain)


def _all_parts(place: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield place, schema
        for inner_place, inner in parts(place, schema):
            yield from _all_parts(inner_place, inner)


def parts(place: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas directly inside `schema`, with their JSON pointers."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in _MAPS and isinstance(value, dict):
            inner = [(f"{place}/{key}/{_escaped(name)}", part) for name, part in value.items()]
        elif key in _VALUES:
            continue
        elif isinstance(value, list):
            inner = [(f"{place}/{key}/{i}", part) for i, part in enumerate(value)]
        else:
            inner = [(f"{place}/{key}", value)]
        yield from ((where, part) for where, part in inner if isinstance(part, dict))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
