"""What users of other runtimes suffer from in the format, and that it does not happen here."""

from __future__ import annotations

import itertools

import pytest
from harmony_strategies import parse, spelled

from gptoss_mlx.harmony import ContentDelta, HarmonyParser, Message, render
from tiny_tokenizer import tiny_tokenizer

TINY = tiny_tokenizer()
TURN = (
    "<|channel|>analysis<|message|>They want a tide.<|end|><|start|>assistant<|channel|>commentary<|message|>"
    "Looking it up.<|end|><|start|>assistant<|channel|>final<|message|>High at noon.<|return|>"
)


def test_markup_never_leaks_into_the_answer_and_thoughts_are_apart() -> None:
    """Pain 1: everything is content, markup included, and nothing is reasoning."""
    parser, told = HarmonyParser(TINY), {"analysis": "", "commentary": "", "final": ""}
    for token in spelled(TINY, TURN):
        for event in parser.push(token):
            if isinstance(event, ContentDelta):
                told[event.channel or "final"] += event.text
    assert told == {"analysis": "They want a tide.", "commentary": "Looking it up.", "final": "High at noon."}
    assert [message.channel for message in parser.messages] == list(told)


def test_the_second_turn_lives() -> None:
    """Pain 2: a history with markup in an answer is refused; here what was parsed is rendered again."""
    said, _ = parse(TINY, spelled(TINY, TURN))
    history = [Message.user("q"), *said, Message.user("<|channel|>final<|message|>and?")]
    expected = (
        "<|start|>user<|message|>q<|end|><|start|>assistant<|channel|>commentary<|message|>Looking it up.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>High at noon.<|end|>"
        "<|start|>user<|message|><|channel|>final<|message|>and?<|end|><|start|>assistant"
    )
    tokens = render(history, TINY)
    assert TINY.decode(tokens) == expected
    assert tokens.count(TINY.channel) == 2


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.f to=functions.f<|message|>", "<|channel|>?? <|message|>",
        "<|channel|>final ", "<|channel|>commentary<|constrain|><|channel|>final<|message|>",
        "<|start|><|start|>assistantassistant<|channel|>final<|message|>", "<|channel|>", "",
    ],
)  # fmt: skip
def test_malformed_headers_are_no_error(header: str) -> None:
    """Pain 3: about four of a hundred turns at temperature 1 end in an exception or a server error."""
    whole = spelled(TINY, f"{header}Noon.<|return|>")
    messages, _ = parse(TINY, whole)
    assert [message.text for message in messages] == ["Noon."]
    for cut in range(len(whole)):  # cut off anywhere, inside a header too
        assert all("<|" not in message.text for message in parse(TINY, whole[:cut])[0])


ENDS = ("<|call|>", "<|return|>", "<|end|>", "")
SHAPES = (
    " to={name}<|channel|>{channel} <|constrain|>json<|message|>{arguments}{end}",
    "<|channel|>{channel} to={name} <|constrain|>json<|message|>{arguments}{end}",
    "<|channel|>{channel} to={name}<|message|>{arguments}{end}",
    "<|channel|>{channel} to={name}<|channel|>{channel} json<|message|>{arguments}{end}",
    "<|channel|>{channel} to={name} {arguments}{end}",
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["functions.get-tide", "functions.sea.tide_at", "functions.f"])
def test_tool_calls_are_never_lost_or_polluted(shape: str, name: str) -> None:
    """Pain 4: recipient on either side, calls in the thoughts, dotted names, any end, several calls."""
    for channel, end in itertools.product(("commentary", "analysis"), ENDS):
        arguments = '{"port": "BES"}'
        text = shape.format(name=name, channel=channel, arguments=arguments, end=end)
        (call,), _ = parse(TINY, spelled(TINY, text))
        assert (call.channel, call.recipient, call.text) == (channel, name, arguments)
    several = "<|end|><|start|>assistant".join(
        shape.format(name=name, channel="commentary", arguments=f'{{"n": {n}}}', end="") for n in range(3)
    )
    calls, _ = parse(TINY, spelled(TINY, several))
    assert [call.text for call in calls] == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert {call.recipient for call in calls} == {name}
