"""Rendering: equal to the openai-harmony package token for token, and the dropping rules one by one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import openai_harmony
import pytest
from harmony_examples import BUILT_IN, BUILT_IN_SHA256, EXAMPLES
from harmony_strategies import conversations, messages, schemas, turns
from hypothesis import given, settings
from openai_harmony import HarmonyEncoding

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    Author,
    Conversation,
    DeveloperContent,
    DropAnalysis,
    HarmonyParser,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    TextContent,
    Tool,
    ToolNamespace,
    render,
    render_message,
)
from gptoss_mlx.harmony.typescript import compact_json, function_type, type_of
from gptoss_mlx.tokenizer import Tokenizer
from tiny_tokenizer import tiny_tokenizer

TINY = tiny_tokenizer()
GOLDENS = Path(__file__).parent.parent / "goldens" / "harmony"


def text_of(conversation: Conversation, **options: object) -> str:
    """The rendering with control tokens as their spelling."""
    return TINY.decode(render(conversation, TINY, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples(name: str) -> None:
    golden = (GOLDENS / f"{name}.txt").read_bytes().decode()
    assert text_of(EXAMPLES[name], drop_analysis="openai-harmony") == golden


def test_every_golden_has_its_example() -> None:
    assert {path.stem for path in GOLDENS.glob("*.txt")} == set(EXAMPLES)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tools_have_the_trained_wording(name: str) -> None:
    text = text_of(BUILT_IN[name], next_role=None)
    assert (len(text), hashlib.sha256(text.encode()).hexdigest()) == BUILT_IN_SHA256[name]


def check_equal(conversation: Conversation, tokenizer: Tokenizer, oracle: HarmonyEncoding) -> None:
    """Ours equals the package's for completion, without opening, and for training."""
    theirs = openai_harmony.Conversation.from_json(json.dumps(conversation.to_dict()))
    user = openai_harmony.Role.USER
    ours = render(conversation, tokenizer, "user", "openai-harmony")
    assert ours == oracle.render_conversation_for_completion(theirs, user)
    assert render(conversation, tokenizer, None, "openai-harmony") == oracle.render_conversation(theirs)
    training = render(conversation, tokenizer, None, "openai-harmony", training=True)
    assert training == oracle.render_conversation_for_training(theirs)
    keep = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)
    assert render(conversation, tokenizer, None, "never") == oracle.render_conversation(theirs, keep)


@given(conversation=conversations | turns())
@settings(max_examples=150)
def test_equals_openai_harmony(real_tokenizer: Tokenizer, oracle: HarmonyEncoding, conversation: Conversation) -> None:
    check_equal(conversation, real_tokenizer, oracle)


@pytest.mark.slow
@given(conversation=conversations | turns())
@settings(max_examples=2500)
def test_equals_openai_harmony_thousands_of_times(
    real_tokenizer: Tokenizer, oracle: HarmonyEncoding, conversation: Conversation
) -> None:
    check_equal(conversation, real_tokenizer, oracle)


@pytest.mark.parametrize("name", [*EXAMPLES, *BUILT_IN])
def test_examples_equal_openai_harmony(real_tokenizer: Tokenizer, oracle: HarmonyEncoding, name: str) -> None:
    check_equal((EXAMPLES | BUILT_IN)[name], real_tokenizer, oracle)


@given(message=messages)
def test_a_single_message_equals_openai_harmony(
    real_tokenizer: Tokenizer, oracle: HarmonyEncoding, message: Message
) -> None:
    (written,) = Conversation((message,)).to_dict()["messages"]
    theirs = openai_harmony.Message.from_dict(written)
    assert render_message(message, real_tokenizer) == oracle.render(theirs)


def test_prompt_tokens_of_the_released_vocabulary(real_tokenizer: Tokenizer) -> None:
    question = [200006, 1428, 200008, 3031, 220, 8956, 9197, 30, 200007, 200006, 173781]
    assert render([Message.user("Is 91 prime?")], real_tokenizer) == question
    call = render([Message.call("functions.tide_at", '{"port":"BES"}')], real_tokenizer, None)
    begin = [200006, 173781, 316, 28, 44580, 1370, 617, 8254, 200005, 12606, 815, 220, 200003, 4108, 200008]
    assert call == [*begin, 10848, 447, 7534, 33, 1759, 18583, 200012]


@given(message=messages)
def test_control_tokens_come_from_the_format_alone(message: Message) -> None:
    tokens = render_message(message, TINY)
    assert tokens.count(TINY.start) == tokens.count(TINY.message) == 1
    assert tokens.count(TINY.end) + tokens.count(TINY.call) == 1
    assert tokens[0] == TINY.start
    assert tokens[-1] in (TINY.end, TINY.call)


# What is dropped (pain: histories with markup or old thoughts kill the second turn)

WHY1, WHY2, CALL = (
    Message.assistant("why1", "analysis"),
    Message.assistant("why2", "analysis"),
    Message.call("python", "1"),
)
TURN1 = (Message.user("q1"), WHY1, Message.assistant("a1"))
RULES: dict[str, tuple[tuple[Message, ...], dict[DropAnalysis, set[str]]]] = {
    "one finished turn": ((*TURN1, Message.user("q2")), {"finished": {"why1"}, "openai-harmony": {"why1"}}),
    "two finished turns": (
        (*TURN1, Message.user("q2"), WHY2, Message.assistant("a2"), Message.user("q3")),
        {"finished": {"why1", "why2"}, "openai-harmony": {"why1"}},
    ),
    "call in progress after a finished turn": (
        (*TURN1, Message.user("q2"), WHY2, CALL, Message.tool("python", "2")),
        {"finished": {"why1"}, "openai-harmony": set()},
    ),
    "thoughts in progress": (
        (*TURN1, Message.user("q2"), WHY2), {"finished": {"why1"}, "openai-harmony": set()}
    ),
    "no channel is not final": (
        (Message.user("q"), WHY1, Message.assistant("a", None)), {"finished": set(), "openai-harmony": set()}
    ),
    "nothing": ((), {"finished": set(), "openai-harmony": set()}),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("rule", ["finished", "openai-harmony", "never"])
def test_dropping(case: str, rule: DropAnalysis) -> None:
    history, dropped = RULES[case]
    kept = [message for message in history if message.text not in dropped.get(rule, set())]
    assert render(history, TINY, None, rule) == render(kept, TINY, None, "never")


def test_a_second_turn_renders_though_the_answer_spells_markup() -> None:
    """Pain 2: in template-based runtimes such a history is refused."""
    said = "<|channel|>analysis<|message|>I think<|end|>"
    history = [Message.user("q"), Message.assistant(said), Message.user("again")]
    tokens = render(history, TINY)
    assert tokens.count(TINY.channel) == 1
    parser = HarmonyParser(TINY, None)
    for token in tokens:
        parser.push(token)
    assert [message.text for message in parser.messages] == ["q", said, "again"]


def test_training_closes_a_final_answer_with_return() -> None:
    final = [Message.user("q"), Message.assistant("a")]
    assert render(final, TINY, None, training=True)[-1] == TINY.return_
    assert render(final, TINY, None)[-1] == TINY.end
    assert render([Message.user("q")], TINY, None, training=True)[-1] == TINY.end
    assert render([CALL], TINY, None, training=True)[-1] == TINY.call


def test_openings() -> None:
    assert TINY.decode(render([], TINY)) == "<|start|>assistant"
    assert TINY.decode(render([], TINY, Role.USER)) == "<|start|>user"
    assert render([], TINY, None) == []


def test_response_formats_close_the_developer_message() -> None:
    order = ResponseFormat("order", {"type": "object", "required": ["sku"]}, "One line\nof an order.")
    content = DeveloperContent("Fill the form.", (ToolNamespace.functions([Tool("f", "F.")]),), (order,))
    text = text_of(Conversation((Message.developer(content),)), next_role=None)
    assert text.endswith(
        "} // namespace functions\n\n# Response Formats\n\n## order\n\n// One line\n// of an order.\n"
        '{"type":"object","required":["sku"]}<|end|>'
    )
    alone = Conversation((Message.developer(DeveloperContent(response_formats=(order,))),))
    assert text_of(alone).startswith("<|start|>developer<|message|># Response Formats\n\n## order")


def test_functions_are_announced_in_the_system_message_only_if_declared() -> None:
    sentence = "Calls to these tools must go to the commentary channel: 'functions'."
    for tools, told in (([Tool("f")], True), ([], False)):
        content = DeveloperContent("Hi", (ToolNamespace.functions(tools),))
        text = text_of(Conversation((Message.system(), Message.developer(content))))
        assert (sentence in text) is told
    zoo = DeveloperContent("Hi", (ToolNamespace("zoo", None, (Tool("f"),)),))
    assert sentence not in text_of(Conversation((Message.system(), Message.developer(zoo))))


def test_what_harmony_cannot_express_is_one_clear_line() -> None:
    nameless = Message(Author(Role.TOOL), (TextContent("x"),))
    with pytest.raises(HarmonyError, match=r"tool's name, for instance functions\.get_weather"):
        render([nameless], TINY)
    for content, word in ((SystemContent(), "system"), (DeveloperContent(), "developer")):
        with pytest.raises(
            HarmonyError, match=f"{word} content belongs into a {word} message, found it in one of user"
        ):
            render([Message(Author(Role.USER), (content,))], TINY)
    with pytest.raises(HarmonyError, match=r"role: expected one of system, .* found 'robot'"):
        render([], TINY, "robot")
    with pytest.raises(HarmonyError, match="drop_analysis: expected one of finished"):
        render([], TINY, None, "sometimes")  # type: ignore[arg-type]
    with pytest.raises(HarmonyError, match="reasoning effort: expected one of low, medium, high, found 'huge'"):
        SystemContent(reasoning_effort="huge")  # type: ignore[arg-type]
    with pytest.raises(HarmonyError, match="'a' is declared twice"):
        DeveloperContent(tools=(ToolNamespace("a"), ToolNamespace("a")))


def test_effort_is_read_in_any_case() -> None:
    assert SystemContent(reasoning_effort="High").reasoning_effort is ReasoningEffort.HIGH  # type: ignore[arg-type]


# TypeScript


@given(schema=schemas)
@settings(max_examples=300)
def test_any_schema_gives_a_type(schema: object) -> None:
    try:
        assert function_type("f", schema).endswith(" => any;")
    except HarmonyError as error:
        assert "expected a number" in str(error)  # noqa: PT017 - both outcomes are fine


def test_numbers_are_written_as_the_reference_does() -> None:
    cases = {
        1e16: "1e16", 1e15: "1000000000000000.0", 1e-5: "0.00001", 1e-7: "1e-7", -0.0: "-0.0", 1.5: "1.5",
        2**64 - 1: "18446744073709551615", 2**64: "1.8446744073709552e19", -(2**63): "-9223372036854775808",
        1e22: "1e22", 1.25e-300: "1.2499999999999998e-300",
    }  # fmt: skip
    assert {value: compact_json(value) for value in cases} == cases


def test_what_json_does_not_know_is_refused() -> None:
    for value in (object(), {1: 2}, {"a": {3}}):
        with pytest.raises(HarmonyError, match="expected a JSON value"):
            compact_json(value)
    for number in (float("nan"), float("inf")):
        with pytest.raises(HarmonyError, match="expected a finite number"):
            compact_json(number)
    with pytest.raises(HarmonyError, match="expected a number of at most"):
        compact_json(10**400)


def test_endless_nesting_is_refused() -> None:
    schema: dict[str, object] = {}
    value: list[object] = []
    for _ in range(200):
        schema = {"type": "array", "items": schema}
        value = [value]
    with pytest.raises(HarmonyError, match="nest deeper than"):
        type_of(schema)
    with pytest.raises(HarmonyError, match="nests deeper than"):
        compact_json(value)
