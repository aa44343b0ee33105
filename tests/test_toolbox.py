"""What the model is offered, who answers, and what a choice of tools demands."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gptoss_mlx.engine.grammar import Grammar
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Conversation, DeveloperContent, Message, SystemContent, Tool, ToolNamespace
from gptoss_mlx.toolbox import Toolbox, declarations
from gptoss_mlx.tools import RunnableTool, ToolResult

SCHEMA = {"type": "object", "properties": {"port": {"enum": ["BES"]}}, "required": ["port"]}
STRICT = {"type": "function", "function": {"name": "tide", "parameters": SCHEMA, "strict": True}}
BOOK = Tool("book", "Books.", {"type": "object", "properties": {}})


def sail(knots: int) -> str:
    """Sail.

    Args:
        knots: how fast
    """
    return f"{knots} kn"


class Code(RunnableTool):
    """A built-in tool with a function beside it."""

    namespace = ToolNamespace("python", "Runs code.")
    functions = (Tool("reset"),)
    instructions = "Print what you want to see."

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        return ToolResult(recipient)


def test_everything_is_declared_in_its_place() -> None:
    box = Toolbox([STRICT, BOOK, sail, Code()])
    conversation = box.conversation("q", instructions="Be brief.", effort="low")
    system, developer, _ = conversation
    assert isinstance(system.content[0], SystemContent)
    assert [namespace.name for namespace in system.content[0].tools] == ["python"]
    assert isinstance(developer.content[0], DeveloperContent)
    assert developer.content[0].instructions == "Be brief.\n\nPrint what you want to see."
    assert list(declarations(conversation)) == [
        "python", "functions.tide", "functions.book", "functions.sail", "functions.reset",
    ]  # fmt: skip


def test_declaring_again_changes_nothing() -> None:
    box = Toolbox([STRICT, sail, Code()])
    once = box.conversation("q", instructions="Be brief.")
    assert box.conversation(once, instructions="Be brief.") == once
    assert box.conversation(once) == once


def test_runners() -> None:
    code = Code()
    box = Toolbox([BOOK, sail, code])
    assert box.runner("functions.book") is None
    assert box.runner("functions.none") is None
    assert box.runner("python") is box.runner("functions.reset") is code
    runner = box.runner("functions.sail")
    assert runner is not None
    assert asyncio.run(runner.run("functions.sail", '{"knots": 5}')).text == "5 kn"


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([3], "a function, its declaration or a RunnableTool expected, 3 found"),
        ([Code], "a RunnableTool expected, .*Code"),
        ([BOOK, {"name": "book"}], "one function named 'book' expected, two found"),
        ([sail, sail], "one function named 'sail'"),
        ([{"type": "web_search"}], "a function with a name"),
        (sail, "a list of functions or tools expected, <function sail"),
        ("sail", "a list of functions or tools expected, 'sail'"),
        (None, "a list of functions or tools expected, None"),
        ({"name": "book"}, "a list of functions or tools expected"),
    ],
)
def test_what_is_no_tool(tools: Any, says: str) -> None:
    with pytest.raises(RequestError, match=f"^tools: .*{says}"):
        Toolbox(tools)


def test_a_built_in_tool_needs_a_system_message_of_fields() -> None:
    box = Toolbox([Code()])
    with pytest.raises(RequestError, match="python must be declared in a system message of SystemContent"):
        box.conversation([Message.system("Only this."), Message.user("q")])


def rules(box: Toolbox, choice: str, answer: Grammar | None = None) -> Any:
    return box.rules(choice, box.conversation("q"), answer)


def test_a_free_choice_has_no_rules() -> None:
    assert rules(Toolbox([BOOK, sail, Code()]), "auto") == (None, None)
    assert rules(Toolbox(), "auto") == (None, None)


def test_strict_functions_are_held_to_their_schemas() -> None:
    first, later = rules(Toolbox([STRICT, BOOK, Code()]), "auto")
    assert first == later
    assert not first.must_call
    grammars = {recipient: grammar and json.loads(grammar.text) for recipient, grammar in first.calls.items()}
    assert grammars == {
        "functions.tide": SCHEMA,
        "functions.book": {"type": "object"},
        "functions.reset": {"type": "object"},
        "python": None,
    }
    flat = {"type": "function", "name": "now", "strict": True}
    assert json.loads(rules(Toolbox([flat]), "auto")[0].calls["functions.now"].text)["additionalProperties"] is False
    bad = {"name": "f", "parameters": {"oneOf": [{"type": "number"}, {"type": "integer"}]}, "strict": True}
    with pytest.raises(RequestError, match="oneOf"):
        rules(Toolbox([bad]), "auto")


def test_an_answer_s_grammar_binds_every_turn() -> None:
    form = Grammar.json_object()
    first, later = rules(Toolbox([BOOK]), "auto", form)
    assert first == later
    assert (first.answer, list(first.calls)) == (form, ["functions.book"])


def test_no_calls() -> None:
    first, later = rules(Toolbox([BOOK, Code()]), "none")
    assert first == later
    assert not first.calls


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ("required", ["python", "functions.book", "functions.sail", "functions.reset"]),
        ("sail", ["functions.sail"]),
        ("functions.sail", ["functions.sail"]),
        ("python", ["python"]),
    ],
)
def test_a_demanded_call_is_demanded_once(choice: str, allowed: list[str]) -> None:
    first, later = rules(Toolbox([BOOK, sail, Code()]), choice)
    assert (list(first.calls), first.must_call, later) == (allowed, True, None)


@pytest.mark.parametrize("choice", ["fly", "", "Auto"])
def test_a_choice_of_nothing(choice: str) -> None:
    with pytest.raises(RequestError, match=r"auto, none, required or the name of a tool \(functions.book\) expected"):
        rules(Toolbox([BOOK]), choice)
    with pytest.raises(RequestError, match="none is offered"):
        rules(Toolbox(), "required")


def test_functions_of_the_history_count() -> None:
    history = Conversation((Message.developer("", [BOOK]), Message.user("q")))
    first, _ = Toolbox().rules("book", Toolbox().conversation(history), None)
    assert first is not None
    assert list(first.calls) == ["functions.book"]
