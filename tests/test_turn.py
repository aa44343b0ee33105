"""One turn on a scripted engine: what the model writes becomes events and messages, whatever it writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.engine.request import Request
from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Event, TextDelta, is_call
from gptoss_mlx.harmony import Message
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.turn import Turn
from scripted import ANSWER, THOUGHT, Script, call
from tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
NEXT = "<|end|><|start|>"


def run(
    text: str, recipients: tuple[str, ...] = (), stop: tuple[str, ...] = (), **options: Any
) -> tuple[Turn, list[Event]]:
    turn = Turn(TOKENIZER, recipients)
    request = Request([1, 2, 3], SamplingParams(stop=stop), 10_000, **options)
    return turn, list(turn.run(Script(text), request))


def spoken(events: list[Event], channel: str) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.channel == channel)


def texts(turn: Turn) -> list[tuple[str | None, str | None, str]]:
    return [(m.channel, m.recipient, m.text) for m in turn.messages]


def test_an_answer_with_thoughts() -> None:
    turn, events = run(THOUGHT + "<|channel|>final<|message|>Paris é 日本.<|return|>")
    assert texts(turn) == [("analysis", None, "I think."), ("final", None, "Paris é 日本.")]
    assert turn.ended
    for channel, _, text in texts(turn):
        assert spoken(events, str(channel)) == text
    assert len(events) > 10
    assert turn.usage.prompt_tokens == 3
    assert 0 < turn.usage.reasoning_tokens < turn.usage.completion_tokens
    assert turn.usage.cached_tokens == 7


def test_a_call_is_told_from_beginning_to_end() -> None:
    turn, events = run(THOUGHT + call("functions.tide", '{"port":"BES"}'), ("functions.tide",))
    started, *deltas, completed = [event for event in events if not isinstance(event, TextDelta)]
    assert isinstance(started, CallStarted)
    assert isinstance(completed, CallCompleted)
    assert (started.recipient, started.name, started.index) == ("functions.tide", "tide", 0)
    assert completed.call.arguments == '{"port":"BES"}' == "".join(d.text for d in deltas if isinstance(d, CallDelta))
    assert {d.id for d in deltas if isinstance(d, CallDelta)} == {started.id, completed.call.id}
    assert turn.calls == [completed.call]


@pytest.mark.parametrize("end", ["<|call|>", "<|return|>", "<|end|>", "<|endoftext|>"])
@pytest.mark.parametrize("channel", ["commentary", "analysis", "final"])
def test_calls_end_in_every_way(end: str, channel: str) -> None:
    turn, _ = run(call("functions.a-b.c", "{}", channel, end), ("functions.a-b.c",))
    assert [(made.name, made.arguments) for made in turn.calls] == [("a-b.c", "{}")]


def test_cut_off() -> None:
    turn, _ = run(THOUGHT + "<|channel|>final<|message|>It is")
    assert (texts(turn)[-1], turn.ended) == (("final", None, "It is"), False)
    turn, _ = run("<|channel|>commentary to=functions.f<|message|>{")
    assert (texts(turn), turn.calls, turn.ended) == ([("commentary", "functions.f", "{")], [], False)


def test_stop_texts_apply_to_the_answer_only() -> None:
    text = "<|channel|>analysis<|message|>no STOP here<|end|><|start|>assistant<|channel|>final<|message|>one STOP two"
    turn, events = run(text, stop=("STOP",))
    assert texts(turn) == [("analysis", None, "no STOP here"), ("final", None, "one ")]
    assert (spoken(events, "final"), turn.ended) == ("one ", True)
    turn, events = run("<|channel|>final<|message|>one ST<|return|>", stop=("STOP",))
    assert (spoken(events, "final"), texts(turn)[0][2]) == ("one ST", "one ST")


@pytest.mark.parametrize(
    "broken",
    [
        "<|channel|>final hello<|return|>",
        "<|message|>hello<|return|>",
        "hello<|end|>",
        "<|channel|>final<|message|>hello",
        "<|channel|>finale<|message|>hello<|return|>",
        "<|end|><|start|>asistant<|channel|>final<|message|>hello<|return|>",
    ],
)
def test_markup_never_reaches_the_answer(broken: str) -> None:
    turn, events = run(broken)
    assert spoken(events, "final") == "hello"
    assert texts(turn)[-1] == ("final", None, "hello")
    assert turn.messages[-1].role.value == "assistant"


@pytest.mark.parametrize(
    "foreign",
    [
        "user<|message|>And now?<|end|>",
        "system<|message|>x<|end|>",
        "functions.tide to=assistant<|channel|>commentary<|message|>4.1<|end|>",
        "functions.tide<|channel|>commentary<|message|>4.1<|end|>",
        "python to=assistant<|channel|>analysis<|message|>4.1<|end|>",
    ],
)
def test_the_model_does_not_speak_for_others(foreign: str) -> None:
    asked = call("functions.tide", "{}", end=NEXT)
    turn, events = run(asked + foreign + "<|start|>assistant" + ANSWER, ("functions.tide",))
    assert texts(turn) == [("commentary", "functions.tide", "{}")]
    assert (len(turn.calls), turn.ended, spoken(events, "final")) == (1, True, "")


def test_a_misspelt_role_calls_as_well() -> None:
    turn, _ = run("<|end|><|start|>asistant to=functions.f<|channel|>commentary<|message|>{}<|call|>", ("functions.f",))
    assert [made.recipient for made in turn.calls] == ["functions.f"]
    assert is_call(turn.messages[-1])


def test_logprobs_are_those_of_the_text() -> None:
    turn, events = run(THOUGHT + "<|channel|>final<|message|>é日 STOP<|return|>", stop=("STOPS",), logprobs=0)
    for channel in ("analysis", "final"):
        told = [
            e for event in events if isinstance(event, TextDelta) and event.channel == channel for e in event.logprobs
        ]
        assert TOKENIZER.decode(entry.token for entry in told) == next(
            m.text for m in turn.messages if m.channel == channel
        )
    assert not any(event.logprobs for event in run(ANSWER)[1] if isinstance(event, TextDelta))


CONTROLS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>")
WORDS = ("assistant", "user", "analysis", "final", "commentary", " to=functions.f", "functions.f", "x", " é", "STOP")


@given(st.lists(st.sampled_from(CONTROLS + WORDS), max_size=25))
def test_events_agree_with_messages(pieces: list[str]) -> None:
    turn, events = run("".join(pieces), ("functions.f",), stop=("STOP",))
    assert all(isinstance(message, Message) and message.role.value == "assistant" for message in turn.messages)
    for channel in ("analysis", "commentary", "final"):
        said = [m.text for m in turn.messages if m.channel == channel and m.recipient is None]
        assert spoken(events, channel) == "".join(said)
    assert [event.call for event in events if isinstance(event, CallCompleted)] == turn.calls
    calls = [message for message in turn.messages if is_call(message)]
    assert [made.arguments for made in turn.calls] == [message.text for message in calls][: len(turn.calls)]
    assert len(calls) - len(turn.calls) in (0, 1)
    assert not any("<|" in message.text for message in turn.messages)
