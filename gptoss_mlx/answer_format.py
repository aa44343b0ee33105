"""What form an answer is to have: told to the model, held to by a grammar, and read back as a value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .engine.grammar import Grammar
from .errors import RequestError
from .harmony import ResponseFormat

NAME = "answer"
"""What a schema without a title is called in front of the model."""

_VALUES = ("const", "enum", "default", "examples")
"""Keywords of a schema whose values are no schemas."""


@dataclass(frozen=True)
class AnswerFormat:
    """A response format in its three roles."""

    declared: ResponseFormat
    grammar: Grammar
    parse: Callable[[str], Any]
    """The value of an answer; RequestError if it has none."""

    @classmethod
    def of(cls, wanted: Any) -> AnswerFormat | None:
        """The format that somebody asks for.

        Args:
            wanted: a JSON Schema; OpenAI's `{"type": "json_object"}`, `{"type": "json_schema", "json_schema": ...}` or
                `{"type": "text"}`; a pydantic model, a dataclass or another type that pydantic knows; None.

        Returns:
            None where any text will do.

        Raises:
            RequestError: it is none of these, or a schema that no answer can be held to.
        """
        if wanted is None:
            return None
        if isinstance(wanted, str):  # which pydantic would take for the name of a type
            raise RequestError(f"response_format: a JSON Schema or a type expected, {wanted!r} found")
        if not isinstance(wanted, Mapping):
            return _of_type(wanted)
        match wanted.get("type"):
            case "text":
                return None
            case "json_object":
                return _of_schema({"type": "object"}, NAME)
            case "json_schema":
                return _of_openai(wanted.get("json_schema"))
            case _:
                return _of_schema(wanted, NAME)


def _of_openai(described: Any) -> AnswerFormat:
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise RequestError("response_format: an object under json_schema.schema expected, none found")
    return _of_schema(schema, described.get("name") or NAME, described.get("description"))


def _of_schema(
    schema: Mapping[str, Any], name: str, description: str | None = None, parse: Callable[[str], Any] | None = None
) -> AnswerFormat:
    grammar = Grammar.json_schema(schema)
    title, about = schema.get("title"), schema.get("description")
    if name == NAME and isinstance(title, str) and title:
        name = title
    if description is None and isinstance(about, str):
        description = about
    return AnswerFormat(ResponseFormat(name, schema, description), grammar, parse or _json)


def _of_type(wanted: Any) -> AnswerFormat:
    try:
        from pydantic import PydanticUserError, TypeAdapter, ValidationError
    except ImportError:
        raise RequestError("response_format: classes need pydantic; run pip install 'gptoss-mlx[tools]'") from None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(wanted)
        schema = _closed(adapter.json_schema())
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"response_format: a schema or a type with a JSON form expected: {reason}") from None

    def parse(text: str) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            problem = " ".join((*map(str, first["loc"]), first["msg"]))
            raise RequestError(f"parsed: {_named(wanted)} expected: {problem}") from None

    return _of_schema(schema, _named(wanted), parse=parse)


def _closed(schema: Any) -> Any:
    """A class's schema with no other fields in an object than the class has, unless it allows them itself."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: part if key in _VALUES else _closed(part) for key, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _named(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"parsed: JSON expected, none found ({error}); was the answer cut off?") from None
