"""Callables of every kind: what the model is told of them, what they are called with, what it reads back."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony.typescript import function_type
from gptoss_mlx.tools.function import FunctionTool
from gptoss_mlx.tools.tool import ToolResult


class Unit(Enum):
    METRES = "m"
    FEET = "ft"


@dataclass
class Place:
    lat: float
    lon: float = 0.0


class Stop(BaseModel):
    place: Place
    next: Stop | None = None


class Row(TypedDict):
    name: str


class Opaque:
    pass


class UnreadableError(Exception):
    """Has no message."""

    def __str__(self) -> str:
        raise KeyError


class GroupedError(Exception):
    """Stands for an ExceptionGroup, which Python 3.10 has not."""

    def __init__(self, message: str, exceptions: list[Exception]) -> None:
        super().__init__(message)
        self.exceptions = tuple(exceptions)


def call(tool: FunctionTool, arguments: str = "") -> ToolResult:
    return asyncio.run(tool.run(f"functions.{tool.functions[0].name}", arguments))


def declared(tool: FunctionTool) -> str:
    return function_type(tool.functions[0].name, tool.functions[0].parameters)


def tide(
    port: str,
    unit: Unit = Unit.METRES,
    *,
    hours: Annotated[int, Field(ge=0, description="How far ahead")] = 0,
    tags: list[str] | None = None,
    kind: Literal["spring", "neap"] = "spring",
) -> str:
    """Height of the tide.

    Args:
        port: Three letters.
        hours: The annotation says it better.
    """
    return f"{port} {unit} {hours} {tags} {kind}"


def test_the_model_reads_signature_and_docstring() -> None:
    tool = FunctionTool(tide)
    assert tool.functions[0].description == "Height of the tide."
    assert tool.handles("functions.tide")
    assert not tool.handles("functions.other")
    assert declared(tool) == (
        "type tide = (_: {\n"
        "// Three letters.\n"
        "port: string,\n"
        'unit?: "m" | "ft", // default: m\n'
        "// How far ahead\n"
        "hours?: number, // default: 0\n"
        "// default: null\n"
        "tags?:\n | string[]\n | null\n,\n"
        'kind?: "spring" | "neap", // default: spring\n'
        "}) => any;"
    )


def test_arguments_arrive_as_their_types() -> None:
    text = '{"port": "BES", "unit": "ft", "hours": "3", "tags": ["a"]}'
    assert call(FunctionTool(tide), text) == ToolResult("BES Unit.FEET 3 ['a'] spring")


def test_nested_types_arrive_as_themselves() -> None:
    def route(stop: Stop, rows: list[Row], places: dict[str, Place]) -> str:
        return f"{stop.next} {rows[0]['name']} {places['a']}"

    text = '{"stop": {"place": {"lat": 1}, "next": null}, "rows": [{"name": "x"}], "places": {"a": {"lat": 2}}}'
    assert call(FunctionTool(route), text) == ToolResult("None x Place(lat=2.0, lon=0.0)")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{}", "arguments.port: required, but missing"),
        ('{"port": "a", "hours": -1}', "arguments.hours: Input should be greater than or equal to 0, found -1"),
        ('{"port": "a", "kind": "x"}', "arguments.kind: Input should be 'spring' or 'neap', found \"x\""),
        ('{"port": "a", "prot": 1}', "arguments.prot: no such parameter; there are port, unit, hours, tags, kind"),
        (
            '{"port": "a"',
            'arguments: Invalid JSON: EOF while parsing an object at line 1 column 12, found "{\\"port\\"',
        ),
        ("[1]", "arguments: Input should be an object, found [1]"),
    ],
)
def test_the_model_reads_what_is_wrong(arguments: str, told: str) -> None:
    result = call(FunctionTool(tide), arguments)
    assert result.failed
    assert result.text.startswith(told)
    assert "\n" not in result.text


def test_of_many_wrong_arguments_the_model_reads_two() -> None:
    result = call(FunctionTool(tide), '{"hours": "x", "kind": 1, "unit": 2}')
    assert result.failed
    assert result.text.endswith(" (and 2 more)")
    assert result.text.count("\n") == 1


@given(st.text() | st.recursive(st.none() | st.text() | st.integers() | st.floats(), st.lists).map(json.dumps))
def test_any_arguments_give_a_result(arguments: str) -> None:
    result = call(FunctionTool(tide), arguments)
    assert result.failed
    result.text.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        (3, "3"),
        ([Place(1.5)], '[{"lat":1.5,"lon":0.0}]'),
        (Stop(place=Place(1)), '{"place":{"lat":1.0,"lon":0.0},"next":null}'),
        ({"p": Path("/x"), "u": Unit.FEET}, '{"p":"/x","u":"ft"}'),
        pytest.param((i for i in range(2)), "[0,1]", id="generator"),
        (b"\xff", "b'\\xff'"),
        (np.arange(3), "[0,1,2]"),
        ({"mean": np.float32(1.5)}, '{"mean":1.5}'),
        (mx.array([1, 2]), "[1,2]"),
        ("\udc80", "?"),
        (ToolResult("r", failed=True), "r"),
    ],
    ids=repr,
)
def test_what_the_model_reads_of_a_value(value: Any, text: str) -> None:
    result = call(FunctionTool(lambda: value, name="f"))
    assert result.text == text
    assert result.failed == isinstance(value, ToolResult)


def test_a_value_that_contains_itself_is_shown() -> None:
    value: list[Any] = []
    value.append(value)
    assert call(FunctionTool(lambda: value, name="f")).text == "[[...]]"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such port"), "ValueError: no such port"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (StopIteration(), "RuntimeError: StopIteration"),
        (SystemExit(2), "SystemExit: 2"),
        (UnreadableError(), "UnreadableError: (its message cannot be read: KeyError)"),
        (GroupedError("two", [KeyError("x"), OSError("y")]), "GroupedError: two: KeyError: 'x'; OSError: y"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("coroutine", [False, True])
def test_an_exception_is_told_not_raised(error: BaseException, told: str, coroutine: bool) -> None:
    def fails() -> None:
        raise error

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise error

    result = call(FunctionTool(fails_later if coroutine else fails))
    assert result.failed
    expected = "RuntimeError: coroutine raised StopIteration" if coroutine and "Stop" in told else told
    assert result.text == expected


def broken(value: int) -> int:
    raise KeyError(value)


def test_a_validator_that_breaks_is_told() -> None:
    def f(x: Annotated[int, AfterValidator(broken)]) -> None:
        pass

    assert call(FunctionTool(f), '{"x": 1}') == ToolResult("KeyError: 1", failed=True)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_generator_yields_is_a_list(asynchronous: bool, fails: bool) -> None:
    threads: set[threading.Thread] = set()

    def yields() -> Iterator[int]:
        threads.add(threading.current_thread())
        yield 1
        if fails:
            raise OSError("gone")

    async def yields_later() -> AsyncIterator[int]:
        for value in yields():
            yield value

    result = call(FunctionTool(yields_later if asynchronous else yields))
    assert result == (ToolResult("OSError: gone", failed=True) if fails else ToolResult("[1]"))
    assert (threading.main_thread() in threads) == asynchronous


def test_functions_run_in_a_thread_and_coroutines_in_the_loop() -> None:
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def here() -> bool:
        return where()

    @functools.wraps(here)
    def wrapped() -> Any:
        return here()

    assert [call(FunctionTool(f)).text for f in (where, here, wrapped)] == ["false", "true", "true"]


class Harbour:
    """A harbour."""

    def __init__(self, name: str = "BES") -> None:
        self.name = name

    def depth(self, at: int) -> str:
        """Depth."""
        return f"{self.name} {at}"

    async def __call__(self, at: int) -> str:
        """Ask the harbour."""
        return f"{self.name} {at}!"

    @classmethod
    def known(cls) -> str:
        return cls.__name__

    def __str__(self) -> str:
        return f"<{self.name}>"


def test_callables_of_every_kind() -> None:
    harbour = Harbour()
    method, instance, kind = FunctionTool(harbour.depth), FunctionTool(harbour), FunctionTool(Harbour)
    assert [(t.functions[0].name, t.functions[0].description) for t in (method, instance, kind)] == [
        ("depth", "Depth."),
        ("Harbour", "Ask the harbour."),
        ("Harbour", "A harbour."),
    ]
    assert call(method, '{"at": 1}').text == "BES 1"
    assert call(instance, '{"at": 1}').text == "BES 1!"
    assert call(kind, '{"name": "X"}').text == '"<X>"'
    assert call(FunctionTool(Harbour.known)).text == "Harbour"
    assert call(FunctionTool(functools.partial(harbour), name="p"), '{"at": 1}').text == "BES 1!"


def test_the_model_does_not_see_what_a_partial_binds() -> None:
    def ask(question: str, key: str, limit: int = 3) -> str:
        """Ask.

        Args:
            key: secret
        """
        return f"{question} {key} {limit}"

    tool = FunctionTool(functools.partial(ask, key="hush"))
    assert declared(tool) == "type ask = (_: {\nquestion: string,\nlimit?: number, // default: 3\n}) => any;"
    assert call(tool, '{"question": "q"}').text == "q hush 3"
    assert call(tool, '{"question": "q", "key": "k"}').failed


def test_positional_parameters_and_defaults_of_any_kind() -> None:
    missing = object()

    def f(a: int, b: Any = missing, c: int = Field(7, description="seven"), /, *, d=missing, schema: int = 1) -> str:  # type: ignore[no-untyped-def]
        return f"{a} {b is missing} {c} {d is missing} {schema}"

    tool = FunctionTool(f)
    assert declared(tool) == (
        "type f = (_: {\na: number,\nb?: any,\n// seven\nc?: number, // default: 7\n"
        "d?: any,\nschema?: number, // default: 1\n}) => any;"
    )
    assert call(tool, '{"a": 1}').text == "1 True 7 True 1"
    assert call(tool, '{"a": 1, "c": 2, "d": null, "schema": 5}').text == "1 True 2 False 5"


def test_a_mutable_default_stays_the_functions_own() -> None:
    seen: list[int] = []

    def f(into: list[int] = seen) -> bool:
        return into is seen

    assert call(FunctionTool(f)).text == "true"


def test_no_parameters_no_type() -> None:
    @FunctionTool
    def ping() -> str:
        return "pong"

    assert declared(ping) == "type ping = () => any;"
    assert [call(ping, text).text for text in ("", " ", "{}")] == ["pong"] * 3
    assert call(ping, '{"x": 1}').text == "arguments.x: no such parameter; there are none"


def any_number(*values: int) -> None: ...


def any_names(**values: int) -> None: ...


def opaque(x: Opaque) -> None: ...


def deep(x: list[Callable[[Opaque], None]]) -> None: ...


class Boat:
    def sail(self, port: str) -> None: ...


def unknown(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "name", "told"),
    [
        (lambda: 1, None, "function '<lambda>': a name of letters, digits, _ and - expected; pass name="),
        (tide, "functions.tide", "function 'functions.tide': a name of"),
        (tide, "", "function '': a name of"),
        (tide, "x\n", "function 'x\\n': a name of"),
        (any_number, None, "function 'any_number': *values: int takes any arguments; wrap it to name each parameter"),
        (Boat.sail, None, "function 'sail': a method of an object expected, found one without it; pass object.sail"),
        (any_names, None, "function 'any_names': **values: int takes any arguments"),
        (opaque, None, "function 'opaque': parameters of types with a JSON form expected: Unable to generate"),
        (deep, None, "function 'deep': parameters of types with a JSON form expected: "),
        (unknown, None, "function 'unknown': a readable signature expected, found none (name 'Missing' is not"),
        (dict.update, None, "function 'update': "),
    ],
)
def test_a_callable_that_cannot_be_declared_is_refused(function: Any, name: str | None, told: str) -> None:
    with pytest.raises(RequestError) as refused:
        FunctionTool(function, name=name)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_pydantic_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(RequestError, match=r"pip install 'gptoss-mlx\[tools\]'"):
        FunctionTool(tide)


def test_a_text_in_an_annotation_describes() -> None:
    def at(port: Annotated[str, "its code"], hour: Annotated[int, "from 0", Field(ge=0)] = 0) -> None:
        """Tide.

        Args:
            port: is described elsewhere.
        """

    schema = FunctionTool(at).functions[0].parameters
    assert schema is not None
    assert [p["description"] for p in schema["properties"].values()] == ["its code", "from 0"]
    assert schema["properties"]["hour"]["minimum"] == 0


def test_name_and_description_may_be_given() -> None:
    tool = FunctionTool(tide, name="tide-at", description="Tides.")
    assert (tool.functions[0].name, tool.functions[0].description) == ("tide-at", "Tides.")
