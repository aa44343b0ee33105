"""A session keeps what was said, and renders it so that each prompt begins with the one before."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gptoss_mlx import Conversation, GptOss, Message, SamplingParams
from gptoss_mlx.errors import HarmonyError, RequestError
from gptoss_mlx.events import Done, TextDelta
from gptoss_mlx.harmony import Role, SystemContent, Tool, render
from gptoss_mlx.session import ChatSession
from scripted import ANSWER, THOUGHT, call

GREEDY = SamplingParams(temperature=0.0)
BOOK = Tool("book", "Books.")


def double(number: int) -> int:
    """Doubles."""
    return 2 * number


def test_the_history_is_kept(demo_model: GptOss) -> None:
    session = demo_model.session(sampling=GREEDY, date=None)
    assert session.say("What is the capital of France?").final == "The capital of France is Paris."
    assert "Rome" in session.say("And of Italy?").final
    assert [m.role.value for m in session.messages] == ["user", "assistant", "assistant"] * 2
    assert session.undo() == "And of Italy?"
    assert "Madrid" in session.say("And of Spain?").final
    assert (session.undo(), session.undo(), session.undo()) == ("And of Spain?", "What is the capital of France?", None)
    assert session.messages == []


def test_each_prompt_begins_with_the_one_before(scripted: Any, demo_model: GptOss) -> None:
    script = scripted(THOUGHT + call("functions.double", '{"number": 4}'), ANSWER, ANSWER)
    session = demo_model.session(tools=[double], instructions="Be kind.", effort="high")
    session.say("one")
    session.say("two")
    first, _, last = (request.prompt for request in script.requests)
    opening = len(demo_model.tokenizer.encode("assistant")) + 1
    assert last[: len(first) - opening] == first[:-opening]
    said = [message for message in session.conversation.messages if message.channel != "analysis"][:-1]
    assert last == render(said, demo_model.tokenizer)
    assert len(session.date or "") == len("2026-01-31")


def test_async_forms(demo_model: GptOss) -> None:
    session = demo_model.session(sampling=GREEDY, date=None)

    async def talk() -> str:
        reply = await session.asay("What is the capital of France?")
        events = [event async for event in session.astream("And of Italy?")]
        assert isinstance(events[-1], Done)
        return reply.final + events[-1].reply.final

    assert asyncio.run(talk()) == "The capital of France is Paris.The capital of Italy is Rome."
    assert len(session.messages) == 6


def test_an_answer_not_heard_to_its_end_is_forgotten(demo_model: GptOss) -> None:
    session = demo_model.session(sampling=GREEDY)
    events = session.stream("What is the capital of France?")
    assert isinstance(next(events), TextDelta)
    events.close()
    assert session.messages == []


def test_settings_may_change_and_options_hold_once(scripted: Any, demo_model: GptOss) -> None:
    script = scripted(ANSWER, "final<|message|>{}<|return|>", ANSWER)  # the channel marker is forced
    session = demo_model.session(max_tokens=50)
    session.say("one")
    session.effort, session.max_tokens = "low", 60
    assert session.say("two", response_format={"type": "json_object"}).parsed == {}
    assert session.say("three").parsed is None
    assert [request.max_tokens for request in script.requests] == [50, 60, 60]
    assert ["Reasoning: low" in demo_model.tokenizer.decode(r.prompt) for r in script.requests] == [False, True, True]
    with pytest.raises(TypeError, match="volume"):
        session.say("four", volume=3)


def test_the_caller_answers_and_goes_on(scripted: Any, demo_model: GptOss) -> None:
    scripted(call("functions.book", "{}"), ANSWER)
    session = demo_model.session(tools=[BOOK])
    with pytest.raises(RequestError, match="begin the conversation"):
        session.say()
    assert session.say("Book a boat.").finish_reason == "tool_calls"
    session.messages.append(Message.tool("functions.book", "booked"))
    assert session.say().final == "It is so."
    assert [m.role for m in session.messages].count(Role.USER) == 1


def test_saving_and_loading(scripted: Any, demo_model: GptOss) -> None:
    scripted(THOUGHT + ANSWER, ANSWER)
    session = demo_model.session(tools=[double, BOOK], instructions="Be kind.", effort="high", date="2026-01-31")
    session.say("one")
    data = json.loads(json.dumps(session.to_dict()))
    again = ChatSession.from_dict(demo_model, data, tools=[double])
    assert again.conversation == session.conversation == Conversation.from_dict(data)
    assert (again.instructions, again.effort) == ("Be kind.", "high")
    assert [tool.name for tool in again.declared] == ["double", "book"]
    again.restore(data)
    assert len(again.declared) == 2
    assert again.to_dict() == data
    again.say("two")
    again.effort, again.instructions = "low", None
    text = demo_model.tokenizer.decode(render(again.conversation, demo_model.tokenizer))
    assert "Be kind." not in text
    assert "Reasoning: low" in text
    again.clear()
    assert [m.role for m in again.messages] == [Role.SYSTEM]
    assert again.undo() is None


def test_a_foreign_conversation_is_kept_whole(demo_model: GptOss) -> None:
    content = SystemContent("I am Kelp.", None, None, None)
    messages = (Message.system(content), Message.user("hi"), Message.developer("Late."), Message.assistant("a"))
    data = Conversation(messages).to_dict()
    session = ChatSession.from_dict(demo_model, data)
    assert session.conversation.messages == messages
    assert session.effort is None
    with pytest.raises(HarmonyError):
        ChatSession.from_dict(demo_model, {"messages": [{"role": "wizard"}]})
