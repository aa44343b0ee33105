"""Response formats: what the model is told, what its answer is held to, and what becomes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, field_validator

import gptoss_mlx
from gptoss_mlx import GptOss, SamplingParams
from gptoss_mlx.answer_format import AnswerFormat
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import DeveloperContent


class Boat(BaseModel):
    """A boat."""

    name: str
    masts: int = Field(ge=1, le=3)

    @field_validator("name")
    @classmethod
    def is_named(cls, name: str) -> str:
        if name == "none":
            raise ValueError("a boat has a name")
        return name


class Loose(BaseModel, extra="allow"):
    type: str = "object"
    properties: dict[str, int] = {"properties": 1}
    inner: list[Boat] = []


@dataclass
class Sum:
    total: Annotated[int, Field(ge=0, le=999)]  # a toy may not find an end of a number
    certain: bool


SCHEMA = {"title": "tide", "description": "A tide.", "type": "object", "properties": {"m": {"type": "number"}}}


def form(wanted: Any) -> AnswerFormat:
    found = AnswerFormat.of(wanted)
    assert found is not None
    return found


def test_any_text() -> None:
    assert AnswerFormat.of(None) is None
    assert AnswerFormat.of({"type": "text"}) is None


@pytest.mark.parametrize(
    ("wanted", "name", "description", "schema"),
    [
        (SCHEMA, "tide", "A tide.", SCHEMA),
        ({"enum": [1]}, "answer", None, {"enum": [1]}),
        ({"type": "json_object"}, "answer", None, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1]}, "strict": True}}, "x", None,
         {"enum": [1]}),
        (Boat, "Boat", "A boat.", {**Boat.model_json_schema(), "additionalProperties": False}),
        (list[int], "list", None, {"type": "array", "items": {"type": "integer"}}),
    ],
)  # fmt: skip
def test_what_the_model_is_told(wanted: Any, name: str, description: str | None, schema: Any) -> None:
    found = form(wanted)
    assert (found.declared.name, found.declared.description, found.declared.schema) == (name, description, schema)
    assert json.loads(found.grammar.text) == schema


def test_objects_of_a_class_have_its_fields_only() -> None:
    schema = form(Loose).declared.schema
    assert schema["additionalProperties"] is True
    assert schema["$defs"]["Boat"]["additionalProperties"] is False
    assert schema["properties"] == Loose.model_json_schema()["properties"]


def test_values() -> None:
    assert form(SCHEMA).parse('{"m": 4.1}') == {"m": 4.1}
    assert form(Boat).parse('{"name": "Kelp", "masts": 2}') == Boat(name="Kelp", masts=2)
    assert form(Sum).parse('{"total": 3, "certain": true}') == Sum(3, True)
    assert form(list[int]).parse("[1, 2]") == [1, 2]


@pytest.mark.parametrize(
    ("wanted", "text", "says"),
    [
        (SCHEMA, '{"m": 4', "JSON expected, none found"),
        (SCHEMA, "[" * 100_000, "JSON expected, none found"),
        (Boat, '{"name": "none", "masts": 2}', "Boat expected: name Value error, a boat has a name"),
        (Boat, '{"name"', "Boat expected: Invalid JSON"),
    ],
)
def test_answers_that_have_no_value(wanted: Any, text: str, says: str) -> None:
    with pytest.raises(RequestError, match=f"^parsed: {says}"):
        form(wanted).parse(text)


@pytest.mark.parametrize("wanted", [3, "json", {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}])
def test_what_is_no_format(wanted: Any) -> None:
    with pytest.raises(RequestError, match=r"^response_format: "):
        AnswerFormat.of(wanted)


def test_a_schema_that_cannot_be_enforced() -> None:
    with pytest.raises(RequestError, match="json_schema"):
        AnswerFormat.of({"type": "object", "minProperties": 3})


@pytest.fixture(scope="module")
def model() -> GptOss:
    return gptoss_mlx.load("demo")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_embedded_model_keeps_to_a_class(model: GptOss, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=3)
    reply = model.chat("What is 12 + 30?", response_format=Sum, sampling=sampling, date=None, max_tokens=800)
    assert reply.finish_reason == "stop"
    assert isinstance(reply.parsed, Sum)
    assert json.loads(reply.final).keys() == {"total", "certain"}
    assert reply.analysis
    developer = reply.conversation.messages[1].content[0]
    assert isinstance(developer, DeveloperContent)
    assert [declared.name for declared in developer.response_formats] == ["Sum"]


def test_an_answer_that_is_cut_off_says_so(model: GptOss) -> None:
    schema = {"type": "array", "items": {"enum": ["x" * 100]}, "minItems": 50}
    reply = model.chat("What is 12 + 30?", response_format=schema, max_tokens=60, date=None)
    assert reply.finish_reason == "length"
    with pytest.raises(RequestError, match="was the answer cut off"):
        _ = reply.parsed
    assert model.chat("hi", max_tokens=5).parsed is None
