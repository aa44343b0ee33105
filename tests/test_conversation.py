"""A reply of several turns: who answers which call, and what ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gptoss_mlx.conversation import ANSWER_TOKENS, Dialogue, Settings, tool_loop
from gptoss_mlx.engine.structure import Rules
from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import (
    CallCompleted,
    CallDelta,
    CallStarted,
    Done,
    Reply,
    TextDelta,
    ToolCall,
    ToolOutput,
)
from gptoss_mlx.harmony import Message, Role, Tool, render
from gptoss_mlx.toolbox import Toolbox
from gptoss_mlx.tools import Citation, ToolResult
from scripted import ANSWER, THOUGHT, Script, call
from scripted_tools import TIDE, Notebook, Tide, dialogue, run, shapes

DECLARED = Tool("book", "Books a boat.", {"type": "object", "properties": {}})
BOOK = call("functions.book", "{}")
CODE = "<|channel|>analysis to=python code<|message|>6 * 7<|call|>"
UNFINISHED_ANSWER = "<|channel|>final<|message|>It is"
FORCED = "<|end|><|start|>assistant<|channel|>final<|message|>"


def test_a_call_runs_and_the_model_goes_on() -> None:
    tide, script = Tide(), Script(THOUGHT + TIDE, THOUGHT + ANSWER)
    events, reply = run(script, tide)
    assert tide.asked == [("functions.tide", '{"port":"BES"}')]
    assert shapes(reply) == [
        ("assistant", "analysis", None, "I think."),
        ("assistant", "commentary", "functions.tide", '{"port":"BES"}'),
        ("functions.tide", "commentary", "assistant", "4.1"),
        ("assistant", "analysis", None, "I think."),
        ("assistant", "final", None, "It is so."),
    ]
    assert (reply.final, reply.finish_reason, reply.calls) == ("It is so.", "stop", ())
    assert [(output.call.name, output.result.text) for output in reply.outputs] == [("tide", "4.1")]
    assert reply.conversation.messages[-5:] == reply.messages
    kinds = [type(event) for event in events if not isinstance(event, (TextDelta, CallDelta))]
    assert kinds == [CallStarted, CallCompleted, ToolOutput, Done]


def test_the_second_prompt_is_the_first_with_what_was_said() -> None:
    tide, script = Tide(), Script(THOUGHT + TIDE, ANSWER)
    _, reply = run(script, tide)
    first, second = (request.prompt for request in script.requests)
    assert second[: len(first)] == first
    assert second == render(reply.conversation.messages[:-1], script.tokenizer)
    starts = [i for i, token in enumerate(second) if token == script.tokenizer.start]
    assert script.requests[1].boundaries == tuple(starts)


def test_usage_counts_all_turns() -> None:
    _, reply = run(Script(THOUGHT + TIDE, THOUGHT + ANSWER), Tide())
    single = run(Script(THOUGHT + ANSWER))[1].usage
    assert reply.usage.cached_tokens == 14
    assert reply.usage.completion_tokens > single.completion_tokens
    assert reply.usage.reasoning_tokens == 2 * single.reasoning_tokens > 0
    assert reply.usage.prompt_tokens > 2 * single.prompt_tokens


def test_several_calls_in_a_turn_run_in_order() -> None:
    tide = Tide()
    both = call("functions.ports", "{}", end="<|end|><|start|>assistant") + TIDE
    events, reply = run(Script(both, ANSWER), tide)
    assert [name for name, _ in tide.asked] == ["functions.ports", "functions.tide"]
    assert [m.author.name for m in reply.messages if m.role is Role.TOOL] == ["functions.ports", "functions.tide"]
    started = [event for event in events if isinstance(event, CallStarted)]
    completed = [event for event in events if isinstance(event, CallCompleted)]
    assert [(event.index, event.name) for event in started] == [(0, "ports"), (1, "tide")]
    assert [event.call.id for event in completed] == [event.id for event in started]
    assert len({event.id for event in started}) == 2
    for event in completed:
        written = [e.text for e in events if isinstance(e, CallDelta) and e.index == event.index]
        assert "".join(written) == event.call.arguments


def test_ids_and_indices_go_on_over_turns() -> None:
    events, reply = run(Script(TIDE, TIDE, ANSWER), Tide())
    assert [event.index for event in events if isinstance(event, CallStarted)] == [0, 1]
    ids = [output.call.id for output in reply.outputs]
    assert len(set(ids)) == 2
    assert all(len(number) == len("call_") + 24 for number in ids)


def test_a_built_in_tool_answers_on_the_channel_of_its_call() -> None:
    _, reply = run(Script(CODE, ANSWER), Notebook())
    assert shapes(reply)[:2] == [
        ("assistant", "analysis", "python", "6 * 7"),
        ("python", "analysis", "assistant", "42"),
    ]
    assert reply.outputs[0].call.name == "python"
    assert reply.outputs[0].result.images == (b"png",)


def test_declared_functions_are_the_callers() -> None:
    _, reply = run(Script(THOUGHT + BOOK), DECLARED)
    assert reply.finish_reason == "tool_calls"
    assert [(c.name, c.arguments, c.recipient) for c in reply.calls] == [("book", "{}", "functions.book")]
    assert not reply.outputs


def test_what_runs_here_runs_before_the_caller_is_asked() -> None:
    tide = Tide()
    both = call("functions.tide", "{}", end="<|end|><|start|>assistant") + BOOK
    _, reply = run(Script(both), DECLARED, tide)
    assert (len(tide.asked), reply.finish_reason) == (1, "tool_calls")
    assert [c.name for c in reply.calls] == ["book"]
    assert reply.conversation.messages[-1].role is Role.TOOL


@pytest.mark.parametrize(
    ("tools", "says"), [((DECLARED,), "you can call functions.book"), ((), "nothing that you can call")]
)
def test_the_model_is_told_what_exists(tools: tuple[Tool, ...], says: str) -> None:
    _, reply = run(Script(call("functions.fly", "{}"), ANSWER), *tools)
    result = reply.outputs[0].result
    assert result.failed
    assert result.text.startswith("functions.fly does not exist; ")
    assert says in result.text
    assert (reply.final, reply.finish_reason) == ("It is so.", "stop")


async def later_no(_: ToolCall) -> bool:
    await asyncio.sleep(0)
    return False


@pytest.mark.parametrize("confirm", [lambda _: False, later_no, lambda c: later_no(c)])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_refused_call_does_not_run(confirm: Callable[[ToolCall], bool | Awaitable[bool]], asynchronous: bool) -> None:
    tide, script = Tide(), Script(TIDE, ANSWER)
    made = dialogue(script, tide, confirm=confirm)
    reply = asyncio.run(made.areply()) if asynchronous else made.reply()
    assert not tide.asked
    assert reply.outputs[0].result == ToolResult("The user did not allow this call.", failed=True)
    assert reply.final == "It is so."


def test_only_what_would_run_is_asked_about() -> None:
    asked: list[str] = []

    def confirm(made: ToolCall) -> bool:
        asked.append(made.recipient)
        return True

    run(Script(call("functions.fly", "{}"), TIDE, BOOK), Tide(), DECLARED, confirm=confirm)
    assert asked == ["functions.tide"]


def test_the_last_turn_s_calls_are_answered() -> None:
    tide, script = Tide(), Script(TIDE, TIDE)
    _, reply = run(script, tide, max_turns=2)
    assert (reply.finish_reason, len(tide.asked), len(script.requests)) == ("length", 2, 2)
    assert reply.conversation.messages[-1].role is Role.TOOL
    assert reply.calls == ()


def test_max_tokens_is_for_all_turns() -> None:
    tide = Tide()
    _, whole = run(Script(TIDE, ANSWER), tide)
    limit = whole.usage.completion_tokens - 2
    _, reply = run(Script(TIDE, ANSWER), tide, max_tokens=limit)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", limit)
    assert "It is so.".startswith(reply.final)


def test_a_call_that_is_cut_off_is_none() -> None:
    tide = Tide()
    _, reply = run(Script('<|channel|>commentary to=functions.tide<|message|>{"po'), tide)
    assert (reply.finish_reason, reply.calls, tide.asked) == ("length", (), [])
    assert reply.messages[-1].text == '{"po'


class Long(Tide):
    """Answers with more than a context holds."""

    text = "x" * 50_000

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        return ToolResult(self.text)


def test_a_result_leaves_room_for_the_answer() -> None:
    both = call("functions.ports", "{}", end="<|end|><|start|>assistant") + TIDE
    reply = dialogue(Script(both, ANSWER), Long(), context=3000).reply()
    assert (reply.final, reply.finish_reason) == ("It is so.", "stop")
    first, second = (m.text for m in reply.messages if m.role is Role.TOOL)
    assert len(first) > len(second) > 100
    for read in (first, second):
        kept, _, told = read.partition("\n")
        assert set(kept) == {"x"}
        assert told == f"[{50_000 - len(kept)} more characters do not fit the context and are left out]"
    assert [output.result.text for output in reply.outputs] == [Long.text] * 2  # the person gets all


def test_a_result_is_not_cut_inside_of_a_character() -> None:
    class Pictures(Long):
        text = "\U0001f30a" * 5000

    reply = dialogue(Script(TIDE, ANSWER), Pictures(), context=3000).reply()
    read = next(m.text for m in reply.messages if m.role is Role.TOOL)
    assert "\ufffd" not in read
    assert read.startswith("\U0001f30a")


def test_a_conversation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 99 tokens fit"):
        dialogue(Script(), context=100)


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^messages: something to answer expected"):
        Dialogue(Script().backend(), Toolbox().conversation([]))


# Citations


class Library(Tide):
    """A tool whose pages can be cited."""

    def citations(self, text: str) -> list[Citation]:
        at = text.find("【0】")
        return [] if at < 0 else [Citation(at, at + 3, 0, "https://a.example/", "A")]


def test_a_reply_has_the_citations_of_its_answer() -> None:
    script = Script(TIDE, "<|channel|>final<|message|>High【0】.<|return|>")
    _, reply = run(script, Notebook(), Library())
    assert [(c.start, c.end, c.url) for c in reply.citations] == [(4, 7, "https://a.example/")]
    assert run(Script(ANSWER), Library())[1].citations == ()


# Async


def test_both_forms_give_the_same() -> None:
    turns = (THOUGHT + TIDE, THOUGHT + ANSWER)
    expected = run(Script(*turns), Tide())[1]
    reply = asyncio.run(dialogue(Script(*turns), Tide()).areply())
    assert reply.messages == expected.messages
    assert (reply.finish_reason, reply.final) == (expected.finish_reason, expected.final)


def test_tools_are_awaited_in_the_callers_loop_and_the_model_works_elsewhere() -> None:
    tide = Tide()
    threads: list[str] = []

    def cancelled() -> bool:
        threads.append(threading.current_thread().name)
        return False

    script = Script(TIDE, ANSWER)
    asyncio.run(dialogue(script, tide, cancelled=cancelled).areply())
    assert tide.threads == [threading.main_thread().name]
    assert any(name.startswith("gptoss-mlx generation") for name in threads)


def test_the_sync_form_runs_tools_inside_a_running_loop_too() -> None:
    tide = Tide()

    async def notebook() -> Reply:
        return dialogue(Script(TIDE, ANSWER), tide).reply()

    assert asyncio.run(notebook()).final == "It is so."
    assert tide.threads == ["gptoss-mlx tools"]
    assert tool_loop() is tool_loop()


def test_errors_of_the_engine_arrive() -> None:
    script = Script()  # has nothing to say

    async def listen() -> None:
        await dialogue(script).areply()

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(listen())


# The reasoning budget


def endless(script: str = "<|channel|>analysis<|message|>", count: int = 5000) -> str:
    return script + "a" * count


def test_the_budget_ends_the_thoughts_and_opens_the_answer() -> None:
    script = Script(endless())
    _, reply = run(script, reasoning_budget=10, max_tokens=100)
    assert FORCED in script.tokenizer.decode(script.said)
    assert reply.analysis == "a" * 10
    assert reply.final.startswith("aaaa")
    assert reply.finish_reason == "length"


@pytest.mark.parametrize("max_tokens", [40, 400, 4800])
@pytest.mark.parametrize("short_of", [None, 1])
def test_thoughts_never_use_up_everything(max_tokens: int, short_of: int | None) -> None:
    budget = None if short_of is None else max_tokens - short_of
    _, reply = run(Script(endless()), max_tokens=max_tokens, reasoning_budget=budget)
    assert reply.usage.completion_tokens == max_tokens
    assert len(reply.final) == min(max_tokens // 4, ANSWER_TOKENS)


def test_neither_do_many_short_ones() -> None:
    script = Script(
        endless("<|channel|>analysis<|message|><|end|><|start|>assistant" * 24 + "<|channel|>analysis<|message|>")
    )
    _, reply = run(script, max_tokens=200)
    assert (len(reply.final), reply.finish_reason) == (50 - 3, "length")  # the last header came late


def test_a_budget_of_all_tokens_lets_it_think_to_the_end() -> None:
    _, reply = run(Script(endless()), max_tokens=100, reasoning_budget=100)
    assert (len(reply.analysis), reply.final) == (97, "")


def test_the_context_counts_as_well() -> None:
    script = Script(endless())
    prompt = len(render(Toolbox().conversation("q"), script.tokenizer))
    reply = dialogue(script, context=prompt + 200).reply()
    assert (reply.usage.completion_tokens, len(reply.final)) == (200, 50)


def test_the_budget_is_for_all_turns() -> None:
    think = "<|channel|>analysis<|message|>aaaaa<|end|><|start|>assistant"
    script = Script(think + TIDE, endless(count=100))
    _, reply = run(script, Tide(), reasoning_budget=8, max_tokens=1000)
    assert reply.analysis == "aaaaa\n\naaa"


def test_where_a_call_is_demanded_the_budget_opens_one() -> None:
    tide = Tide()
    said = "t" + "commentary<|message|>{}<|call|>"  # what lies between is certain, and therefore forced
    script = Script(endless(count=5) + said, ANSWER)
    rules = Rules(calls={"functions.tide": None, "functions.ports": None}, must_call=True)
    _, reply = run(script, tide, first=rules, reasoning_budget=5)
    assert [m.text for m in reply.messages[:2]] == ["aaaaa", "{}"]
    assert (tide.asked, reply.final) == ([("functions.tide", "{}")], "It is so.")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_turns": 0},
        {"reasoning_budget": -1},
        {"logprobs": 21},
        {"max_tokens": 1.5},
        {"max_tokens": True},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"^{next(iter(wrong))}: an integer of . (or more|to 20) expected"):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sampling": {"temperature": 0}}, "sampling: SamplingParams expected, {'temperature': 0} found"),
        ({"confirm": True}, "confirm: a function expected, True found"),
        ({"cancelled": False}, "cancelled: a function expected, False found"),
    ],
)
def test_settings_of_the_wrong_kind(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as error:
        Settings(**wrong)
    assert str(error.value) == says


def test_messages_of_the_reply_are_messages() -> None:
    _, reply = run(Script(UNFINISHED_ANSWER))
    assert all(isinstance(message, Message) for message in reply.messages)
    assert (reply.final, reply.finish_reason) == ("It is", "length")
