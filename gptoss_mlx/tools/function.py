"""Any Python callable as a function that the model may call.

The signature says what the model is told, and pydantic holds the model to it: arguments that do not fit never reach
the callable, and the model reads which one is wrong. A callable that is not a coroutine function runs in a thread.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from ..harmony.message import Tool
from .docstring import Docstring, read_docstring
from .loop import in_thread
from .schema import simplify
from .schema_keywords import Schema
from .tool import RunnableTool, ToolResult

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""What a function may be called in a harmony header."""
MAX_ERRORS = 2
"""Of how many wrong arguments the model reads."""
POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
EMPTY = inspect.Parameter.empty


class FunctionTool(RunnableTool):
    """A Python callable that the model may call. Also a decorator, for a function that only the model calls.

    A text that the callable returns is the result as it is, a `ToolResult` too; everything else becomes JSON, so that
    None is `null`, and what a generator yields a list. An exception becomes a failed result, `TypeName: message`.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> None:
        """Declare the callable.

        Args:
            function: a function, method, partial (what it binds by name is hidden from the model), class, or object
                with `__call__`. Annotations, defaults and the docstring tell of its parameters, and
                `Annotated[int, "a description"]` and `Annotated[..., pydantic.Field(...)]` do, too.
            name: what the model calls it; by default the callable's own name.
            description: what the model reads of it; by default its docstring up to the first section.

        Raises:
            RequestError: a name that a function cannot have, a method without its object, a parameter that takes any
                number of arguments or is of a type without a JSON form, or pydantic is not installed.
        """
        name = _name(function) if name is None else name
        if not NAME.fullmatch(name):
            raise RequestError(f"function {name!r}: a name of letters, digits, _ and - expected; pass name=")
        documentation = _documentation(function)
        description = documentation.description if description is None else description
        self._function = function
        self._parameters = _parameters(function, name)
        self._model, schema = _declare(name, function, self._parameters, documentation)
        self.functions = (Tool(name, description, schema),)

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Call the function; no arguments at all are an empty object."""
        from pydantic import ValidationError

        try:
            read = self._model.model_validate_json(arguments if arguments.strip() else "{}")
        except ValidationError as error:
            return ToolResult(self._told(error), failed=True)
        except Exception as error:  # noqa: BLE001 - a type's own validator may raise anything
            return _failure(error)
        try:
            return _result(await self._call(read))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - so may the callable, and the model has to read of it
            return _failure(error)

    async def _call(self, read: BaseModel) -> Any:
        given = {
            p.name: getattr(read, field)
            for field, p in zip(type(read).model_fields, self._parameters, strict=True)
            if field in read.model_fields_set or _is_field(p.default)
        }
        call = functools.partial(self._function, *self._positional(given), **given)
        value = call() if _is_async(self._function) else await in_thread(functools.partial(_called, call))
        if inspect.isasyncgen(value):
            return [each async for each in value]
        return await value if inspect.isawaitable(value) else value

    def _positional(self, given: dict[str, Any]) -> list[Any]:
        """Take the arguments that have no names out of `given`; a default stands in for one before the last."""
        named = [p.name in given for p in self._parameters if p.kind is POSITIONAL]
        last = max((i for i, there in enumerate(named, 1) if there), default=0)
        return [given.pop(p.name, p.default) for p in self._parameters[:last]]

    def _told(self, error: ValidationError) -> str:
        """Which arguments are wrong and what is expected, one line for each of the first few."""
        errors = error.errors(include_url=False, include_context=False)
        lines = [self._line(wrong["type"], wrong["loc"], wrong["msg"], wrong["input"]) for wrong in errors[:MAX_ERRORS]]
        more = len(errors) - len(lines)
        return "\n".join(lines) + (f" (and {more} more)" if more else "")

    def _line(self, kind: str, path: tuple[int | str, ...], message: str, found: Any) -> str:
        where = ".".join(["arguments", *map(str, path)])
        if kind == "missing":
            return f"{where}: required, but missing"
        if kind == "extra_forbidden" and len(path) == 1:
            return f"{where}: no such parameter; there are {', '.join(p.name for p in self._parameters) or 'none'}"
        return f"{where}: {message}, found {_short(found)}"


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that the model may give, with their annotations as types."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise RequestError(f"function {name!r}: a readable signature expected, found none ({error})") from None
    bound = function.keywords if isinstance(function, functools.partial) else {}
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RequestError(f"function {name!r}: {parameter} takes any arguments; wrap it to name each parameter")
    if _is_unbound(signature):
        raise RequestError(
            f"function {name!r}: a method of an object expected, found one without it; pass object.{name}"
        )
    return [parameter for parameter in signature.parameters.values() if parameter.name not in bound]


def _is_unbound(signature: inspect.Signature) -> bool:
    """Whether it is a method, taken from its class, that misses its object."""
    first = next(iter(signature.parameters.values()), None)
    return first is not None and first.name == "self" and first.annotation is first.default is EMPTY


def _declare(
    name: str, function: Callable[..., Any], parameters: list[inspect.Parameter], documentation: Docstring
) -> tuple[type[BaseModel], Schema | None]:
    """The model that reads the arguments, and their schema; None for a function without parameters."""
    try:
        from pydantic import PydanticUndefinedAnnotation, PydanticUserError
    except ImportError:
        raise RequestError("functions as tools need pydantic; run pip install 'gptoss-mlx[tools]'") from None
    try:
        model = _arguments_model(parameters, getattr(_underlying(function), "__module__", None) or __name__)
        schema = _json_schema(model) if parameters else None
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"function {name!r}: parameters of types with a JSON form expected: {reason}") from None
    if schema is None:
        return model, None
    for parameter, described in documentation.parameters.items():
        if parameter in schema["properties"]:
            schema["properties"][parameter].setdefault("description", described)
    return model, simplify(schema)


def _arguments_model(parameters: Iterable[inspect.Parameter], module: str) -> type[BaseModel]:
    """A model of the arguments; its fields have neutral names, as pydantic keeps some for itself."""
    from pydantic import Field, create_model

    fields: dict[str, Any] = {}
    for i, parameter in enumerate(parameters):
        kind = Any if parameter.annotation is EMPTY else parameter.annotation
        default = ... if parameter.default is EMPTY else parameter.default
        fields[f"p{i}"] = (Annotated[kind, Field(alias=parameter.name, **_described(kind))], default)
    return create_model("Arguments", __config__={"extra": "forbid"}, __module__=module, **fields)


def _described(kind: Any) -> dict[str, Any]:
    """The text in `Annotated[int, "a text"]`, which many libraries take for a description."""
    told = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next(({"description": each} for each in told if isinstance(each, str)), {})


def _json_schema(model: type[BaseModel]) -> Schema:
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as its base has it

    return model.model_json_schema(schema_generator=Quiet)


def _underlying(function: Callable[..., Any]) -> Callable[..., Any]:
    return _underlying(function.func) if isinstance(function, functools.partial) else function


def _name(function: Callable[..., Any]) -> str:
    function = _underlying(function)
    return str(getattr(function, "__name__", type(function).__name__))


def _documentation(function: Callable[..., Any]) -> Docstring:
    function = _underlying(function)
    if inspect.isclass(function) or inspect.isroutine(function):
        return read_docstring(inspect.getdoc(function))
    return read_docstring(inspect.getdoc(type(function).__call__) or inspect.getdoc(function))


def _is_async(function: Callable[..., Any]) -> bool:
    function = _underlying(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _is_field(default: Any) -> bool:
    from pydantic.fields import FieldInfo

    return isinstance(default, FieldInfo)


def _called(call: Callable[[], Any]) -> Any:
    """The call's value; a generator works here as well, not where its values are read."""
    value = call()
    return list(value) if inspect.isgenerator(value) else value


def _result(value: Any) -> ToolResult:
    from pydantic_core import PydanticSerializationError, to_json

    if isinstance(value, ToolResult):
        return value
    if isinstance(value, str):
        return ToolResult(_encodable(value))
    try:
        return ToolResult(to_json(value, fallback=_plain).decode())
    except PydanticSerializationError:  # it contains itself, or bytes that are no text
        return ToolResult(_encodable(str(value)))


def _plain(value: Any) -> Any:
    """What JSON can hold of anything else: the numbers of an array, and the text of what is not one."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic, mx.array)) else str(value)


def _failure(error: BaseException) -> ToolResult:
    return ToolResult(_encodable(_spelled(error)), failed=True)


def _spelled(error: BaseException) -> str:
    """The error's type and message, and those of the errors that it is a group of."""
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - it is anybody's class
        message = f"(its message cannot be read: {type(broken).__name__})"
    text = f"{type(error).__name__}: {message}".removesuffix(": ")
    grouped = getattr(error, "exceptions", ())  # of an ExceptionGroup, which Python 3.10 has not
    parts = [each for each in grouped if isinstance(each, BaseException)] if isinstance(grouped, tuple) else []
    return f"{text}: {'; '.join(map(_spelled, parts))}" if parts else text


def _encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate (a file name may hold some), which no tokenizer reads."""
    return text.encode(errors="replace").decode()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
