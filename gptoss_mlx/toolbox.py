"""What the model may call in one conversation: who answers a call, and what a turn with calls must look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .engine.grammar import Grammar
from .engine.structure import Rules
from .errors import RequestError
from .harmony import Conversation, Message, ResponseFormat, Tool, ToolNamespace
from .harmony.message import FUNCTIONS
from .history import History, as_tool, to_conversation
from .tools import Citation, RunnableTool

ToolLike = Tool | Mapping[str, Any] | RunnableTool | Callable[..., Any]
"""A declaration, whose calls the caller answers; or a callable or tool that runs here."""

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
CHOICES = ("auto", "none", "required")


class Toolbox:
    """The tools that the caller offers.

    Args:
        tools: see `ToolLike`.

    Raises:
        RequestError: this is no list, something in it is no tool, or two functions have the same name.
    """

    def __init__(self, tools: Iterable[ToolLike] = ()) -> None:
        self._runnable: list[RunnableTool] = []
        self._functions: dict[str, Tool] = {}
        self._strict: set[str] = set()
        if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable):
            raise RequestError(f"tools: a list of functions or tools expected, {tools!r} found")
        for tool in tools:
            self._add(tool)

    def _add(self, tool: ToolLike) -> None:
        if isinstance(tool, RunnableTool):
            self._runnable.append(tool)
            self._declare(tool.functions)
        elif isinstance(tool, (Tool, Mapping)):
            declared = as_tool(tool)
            self._declare([declared])
            if isinstance(tool, Mapping) and tool.get("function", tool).get("strict"):
                self._strict.add(f"{FUNCTIONS}.{declared.name}")
        elif callable(tool) and not (isinstance(tool, type) and issubclass(tool, RunnableTool)):
            from .tools.function import FunctionTool  # here: pydantic is an extra

            self._add(FunctionTool(tool))
        else:
            raise RequestError(f"tools: a function, its declaration or a RunnableTool expected, {tool!r} found")

    def _declare(self, functions: Iterable[Tool]) -> None:
        for function in functions:
            if function.name in self._functions:
                raise RequestError(f"tools: one function named {function.name!r} expected, two found; rename one")
            self._functions[function.name] = function

    @property
    def functions(self) -> list[Tool]:
        """What the developer message declares."""
        return list(self._functions.values())

    def conversation(
        self,
        history: History,
        *,
        effort: str | None = None,
        instructions: str | None = None,
        date: str | None = None,
        formats: Iterable[ResponseFormat] = (),
    ) -> Conversation:
        """The conversation with these tools declared; arguments and errors are those of `to_conversation`."""
        return to_conversation(
            history,
            effort=effort,
            instructions=instructions,
            tools=self.functions,
            date=date,
            namespaces=[tool.namespace for tool in self._runnable if tool.namespace is not None],
            hints=[tool.instructions for tool in self._runnable if tool.instructions],
            formats=formats,
        )

    def runner(self, recipient: str) -> RunnableTool | None:
        """What answers calls to `recipient` here, if anything does."""
        return next((tool for tool in self._runnable if tool.handles(recipient)), None)

    def citations(self, text: str) -> list[Citation]:
        """What an answer cites of what the tools have shown, in the order of the answer."""
        found = (citation for tool in self._runnable for citation in tool.citations(text))
        return sorted(found, key=lambda citation: citation.start)

    def rules(
        self, choice: str, offered: Iterable[Message], answer: Grammar | None
    ) -> tuple[Rules | None, Rules | None]:
        """What the first turn must look like, and what those after a call must; None where anything goes.

        The arguments of strict functions are held to their schemas, and those of others to JSON.

        Args:
            choice: `auto`, `none`, `required` or the name of a function; it binds the first turn only, so that the
                model can answer after its call. `none` binds all.
            offered: the conversation that declares everything.
            answer: what the answer must be.

        Raises:
            RequestError: the choice names nothing that is offered, or a strict function's schema cannot be enforced.
        """
        known = declarations(offered)
        calls = {recipient: self._arguments(recipient, tool) for recipient, tool in known.items()}
        later = Rules(answer, calls) if answer is not None or not self._strict.isdisjoint(calls) else None
        if choice == "auto":
            return later, later
        if choice == "none":
            return Rules(answer), Rules(answer)
        if choice == "required":
            chosen = calls
        else:
            chosen = {r: grammar for r, grammar in calls.items() if r in (choice, f"{FUNCTIONS}.{choice}")}
        if not chosen:
            expected = f"{', '.join(CHOICES)} or the name of a tool ({', '.join(known) or 'none is offered'})"
            raise RequestError(f"tool_choice: {expected} expected, {choice!r} found")
        return Rules(answer, chosen, must_call=True), later

    def _arguments(self, recipient: str, tool: Tool | None) -> Grammar | None:
        """What the arguments of a call must be, where a turn is held to rules at all."""
        if recipient in self._strict:
            return Grammar.json_schema(tool.parameters if tool and tool.parameters else NO_ARGUMENTS)
        takes_object = tool is not None and (tool.parameters is None or tool.parameters.get("type") == "object")
        return Grammar.json_object() if takes_object else None


def declarations(conversation: Iterable[Message]) -> dict[str, Tool | None]:
    """Whom calls may be addressed to: every declared function, and namespaces that are tools themselves."""
    return {
        recipient: tool
        for message in conversation
        for content in message.content
        for namespace in getattr(content, "tools", ())
        for recipient, tool in _recipients(namespace)
    }


def _recipients(namespace: ToolNamespace) -> Iterator[tuple[str, Tool | None]]:
    if not namespace.tools:
        yield namespace.name, None
    for tool in namespace.tools:
        yield f"{namespace.name}.{tool.name}", tool
