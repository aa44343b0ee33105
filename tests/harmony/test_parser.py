"""Parsing: equal to the openai-harmony package on what is well formed, total and lossless on anything."""

from __future__ import annotations

import json

import openai_harmony
import pytest
from harmony_strategies import parse, spelled, texts, token_streams, well_formed_messages
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import HarmonyEncoding

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    ContentDelta,
    Conversation,
    Event,
    HarmonyParser,
    Message,
    MessageCompleted,
    MessageStarted,
    Role,
    render,
)
from gptoss_mlx.harmony.header import nearest_channel
from gptoss_mlx.harmony.parser import LOOKAHEAD, MAX_HEADER
from gptoss_mlx.tokenizer import Tokenizer
from tiny_tokenizer import tiny_tokenizer

TINY = tiny_tokenizer()
Row = tuple[str | None, str | None, str | None, str]
"""Channel, recipient, content type and text of a message of the assistant."""


def rows(text: str, tools: tuple[str, ...] = ()) -> list[Row]:
    """What the assistant said in `text`, where control tokens stand by their spelling."""
    messages, events = parse(TINY, spelled(TINY, text), tools=tools)
    check_events(messages, events)
    assert all(message.role is Role.ASSISTANT for message in messages)
    return [(message.channel, message.recipient, message.content_type, message.text) for message in messages]


def check_events(messages: tuple[Message, ...], events: list[Event]) -> None:
    """Events come in order, and the deltas of each message join to its text."""
    text: list[str] = []
    header: MessageStarted | None = None
    waiting: list[tuple[MessageStarted, str]] = []
    completed = []
    for event in events:
        if isinstance(event, MessageStarted):
            assert not waiting, "the last message must be complete before the next one starts"
            text, header = [], event
            waiting.append((event, ""))
        elif isinstance(event, ContentDelta):
            assert header is not None
            assert event.text
            assert (event.channel, event.recipient) == (header.channel, header.recipient)
            text.append(event.text)
        else:
            (started, _) = waiting.pop()
            told = event.message
            assert told.text == "".join(text)
            assert (told.author, told.recipient) == (started.author, started.recipient)
            assert started.channel in (None, told.channel)
            completed.append(told)
    assert not waiting
    assert tuple(completed) == messages


CALL: Row = ("commentary", "functions.f", None, "{}")
JSON_CALL: Row = ("commentary", "functions.f", "json", "{}")
CONSTRAINED: Row = ("commentary", "functions.f", "<|constrain|>json", "{}")
THOUGHT: Row = ("analysis", None, None, "x")
ANSWER: Row = ("final", None, None, "z")
GOOD = "<|channel|>final<|message|>z<|return|>"
THINK = "<|channel|>analysis<|message|>x<|end|>"
NEXT = "<|start|>assistant"
TABLE: dict[str, tuple[str, list[Row]]] = {
    "recipient after the channel": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "recipient before the channel": (
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "no space before the marker": (
        "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "space after the marker": (
        "<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>", [CONSTRAINED]),
    "marker without a type": ("<|channel|>commentary to=functions.f <|constrain|><|message|>{}<|call|>", [CALL]),
    "bare type": ("<|channel|>commentary to=functions.f json<|message|>{}<|call|>", [JSON_CALL]),
    "type before the recipient": ("<|channel|>commentary json to=functions.f<|message|>{}<|call|>", [JSON_CALL]),
    "recipient without to=": ("<|channel|>commentary functions.f<|message|>{}<|call|>", [CALL]),
    "recipient glued to the channel": ("<|channel|>commentaryto=functions.f<|message|>{}<|call|>", [CALL]),
    "recipient before a bare channel": (" to=functions.f commentary<|message|>{}<|call|>", [CALL]),
    "type on a final message": (
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>", [("final", None, "<|constrain|>json", "{}")]),
    "bare type on a final message": ("<|channel|>final json<|message|>{}<|return|>", [("final", None, "json", "{}")]),
    "other type on a final message": ("<|channel|>final xml<|message|>{}<|return|>", [("final", None, "xml", "{}")]),
    "recipient twice": ("<|channel|>commentary to=functions.f to=functions.f<|message|>{}<|call|>", [CALL]),
    "recipient in role and channel": (
        " to=functions.f<|channel|>commentary to=functions.f<|message|>{}<|call|>", [CALL]),
    "to= doubled": ("<|channel|>commentary to= to=functions.f<|message|>{}<|call|>", [CALL]),
    "blank inside the recipient": ("<|channel|>commentary to= functions.f<|message|>{}<|call|>", [CALL]),
    "second channel marker": ("<|channel|>commentary<|channel|>analysis<|message|>x<|end|>", [THOUGHT]),
    "inserted commentary": ("<|channel|>commentary to=assistant<|channel|>analysis<|message|>x<|end|>", [THOUGHT]),
    "second channel marker after the recipient": (
        "<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}<|call|>", [JSON_CALL]),
    "empty channel, the last": ("<|channel|><|message|>z<|return|>", [ANSWER]),
    "empty channel, then another": (f"<|channel|><|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "no channel": ("<|message|>x<|return|>", [(None, None, None, "x")]),
    "channel without its marker": ("final<|message|>z<|return|>", [ANSWER]),
    "unknown channel, the last": ("<|channel|>??<|message|>z<|return|>", [ANSWER]),
    "unknown channel, then another": (f"<|channel|>42<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "unknown channel of a call": ("<|channel|>?? to=functions.f<|message|>{}<|call|>", [CALL]),
    "nearly a channel": ("<|channel|>finalx<|message|>z<|return|>", [ANSWER]),
    "channel in another case": ("<|channel|>Final<|message|>z<|return|>", [ANSWER]),
    "channel cut short": (
        f"<|channel|>comment<|message|>x<|end|>{NEXT}{GOOD}", [("commentary", None, None, "x"), ANSWER]),
    "channel misspelt": (f"<|channel|>analisys<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "text after the channel": ("<|channel|>commentary? hmm<|message|>x<|end|>", [("commentary", None, None, "x")]),
    "prose after the channel": (
        f"<|channel|>analysis of it all<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "prose after the marker": (
        "<|channel|>commentary to=functions.f<|constrain|>json: a file<|message|>{}<|call|>",
        [("commentary", "functions.f", "<|constrain|>json:", "{}")]),
    "message missing": ("<|channel|>final hello   big world<|return|>", [("final", None, None, "hello   big world")]),
    "message missing, glued": ("<|channel|>finalHello<|return|>", [("final", None, None, "Hello")]),
    "message missing, long": (
        "<|channel|>final " + "word " * 40 + "end<|return|>", [("final", None, None, "word " * 40 + "end")]),
    "message missing, unknown channel": ("<|channel|>Sure, I can.<|return|>", [("final", None, None, "Sure, I can.")]),
    "message missing, with a recipient": ("<|channel|>commentary to=functions.f {}<|call|>", [CALL]),
    "message missing, recipient first": (" to=functions.f<|channel|>commentary {}<|call|>", [CALL]),
    "message missing, with a type": ("<|channel|>commentary to=functions.f <|constrain|>json{}<|call|>", [CONSTRAINED]),
    "message missing, bare type": ("<|channel|>commentary to=functions.f json {}<|call|>", [JSON_CALL]),
    "message missing, no channel": (" to=functions.f {}<|call|>", [(None, "functions.f", None, "{}")]),
    "message missing, arguments glued": ("<|channel|>commentary to=functions.f{}<|call|>", [CALL]),
    "message missing in the second message": (f"{THINK}{NEXT}<|channel|>final z<|return|>", [THOUGHT, ANSWER]),
    "message missing, cut off": ("<|channel|>final z", [ANSWER]),
    "call without arguments": (
        "<|channel|>commentary to=functions.f<|call|>", [("commentary", "functions.f", None, "")]),
    "bare text": ("I cannot help.<|end|>", [("final", None, None, "I cannot help.")]),
    "bare text, stopped": ("I cannot help.<|return|>", [("final", None, None, "I cannot help.")]),
    "bare text, cut off": ("I cannot", [("final", None, None, "I cannot")]),
    "bare text that begins like a header": ("final answer: z", [("final", None, None, "final answer: z")]),
    "bare text, then a message": (f"x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "bare text, its end missing": (f"x{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "bare text, start and end missing": (f"x{GOOD}", [THOUGHT, ANSWER]),
    "bare text after a role": (f"{THINK}{NEXT} z<|return|>", [THOUGHT, ANSWER]),
    "bare text instead of a role": (f"{THINK}<|start|>Sure, I can.", [THOUGHT, ("final", None, None, "Sure, I can.")]),
    "bare text that begins like a role": (
        f"{THINK}<|start|>tooling up.", [THOUGHT, ("final", None, None, "tooling up.")]),
    "text after a finished message": (f"{THINK} y{NEXT}{GOOD}", [THOUGHT, ("analysis", None, None, "y"), ANSWER]),
    "answer right after a thought": (f"{THINK}z<|return|>", [THOUGHT, ANSWER]),
    "white space after a message": (f"{THINK}\n {NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "header without start": (f"{THINK}{GOOD}", [THOUGHT, ANSWER]),
    "generation goes on after a call": (
        "<|channel|>commentary to=functions.f<|message|>{}<|call|>commentary",
        [CALL, ("analysis", None, None, "commentary")]),
    "generation goes on after an answer": (f"{GOOD}x", [ANSWER, THOUGHT]),
    "two stop tokens": (f"{GOOD}<|return|><|end|>", [ANSWER]),
    "start doubled": (f"{THINK}<|start|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "role doubled": (f"{THINK}{NEXT}assistant{GOOD}", [THOUGHT, ANSWER]),
    "role doubled with start": (f"{THINK}{NEXT}{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "role repeated at the beginning": (f"assistant{GOOD}", [ANSWER]),
    "role and channel glued": (f"{THINK}{NEXT}final<|message|>z<|return|>", [THOUGHT, ANSWER]),
    "role and text glued": (f"{THINK}{NEXT}Hello, you.<|return|>", [THOUGHT, ("final", None, None, "Hello, you.")]),
    "header begun anew": (f"<|channel|>analysis{NEXT}{GOOD}", [ANSWER]),
    "end missing between messages": (f"<|channel|>analysis<|message|>x{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "end and start missing": (f"<|channel|>analysis<|message|>x{GOOD}", [THOUGHT, ANSWER]),
    "control token inside the text": (
        "<|channel|>final<|message|>a<|channel|>b<|return|>", [("final", None, None, "ab")]),
    "channel word inside the text": (
        "<|channel|>final<|message|>a<|channel|>final b<|return|>", [("final", None, None, "afinal b")]),
    "stray tokens inside the text": (
        "<|channel|>final<|message|><|message|>a<|constrain|>b<|reserved_a|>c<|return|>",
        [("final", None, None, "abc")]),
    "endoftext inside the text": ("<|channel|>final<|message|>z<|endoftext|>x<|return|>", [ANSWER, THOUGHT]),
    "endoftext at the end": ("<|channel|>final<|message|>z<|endoftext|>", [ANSWER]),
    "call closed with end": ("<|channel|>commentary to=functions.f<|message|>{}<|end|>", [CALL]),
    "call closed with return": ("<|channel|>commentary to=functions.f<|message|>{}<|return|>", [CALL]),
    "call cut off": ("<|channel|>commentary to=functions.f<|message|>{}", [CALL]),
    "cut off inside the text": ("<|channel|>final<|message|>z", [ANSWER]),
    "cut off inside a header": (f"{THINK}{NEXT}<|channel|>commentary to=functions.f", [THOUGHT]),
    "header ended": ("<|channel|>final<|return|>", [("final", None, None, "")]),
    "nothing": ("", []),
    "nothing but an end": ("<|return|>", []),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_malformed_and_well_formed(case: str) -> None:
    text, expected = TABLE[case]
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("text", "role", "name", "recipient"),
    [
        ("<|start|>user<|message|>42<|end|>", Role.USER, None, None),
        (
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>42<|end|>",
            Role.TOOL, "functions.f", "assistant",
        ),
        ("<|start|>functions.f<|channel|>commentary<|message|>42<|end|>", Role.TOOL, "functions.f", None),
        ("<|start|>python<|channel|>analysis<|message|>42<|end|>", Role.TOOL, "python", None),
        ("<|start|>user:kim<|message|>42<|end|>", Role.USER, "kim", None),
        ("user<|message|>42<|end|>", Role.USER, None, None),
        ("<|start|>user 42<|end|>", Role.USER, None, None),
        ("<|start|>tool<|message|>42<|end|>", Role.TOOL, "tool", None),
        ("<|start|>user_lookup to=assistant<|message|>42<|end|>", Role.TOOL, "user_lookup", "assistant"),
        ("<|start|>lookup to=assistant 42<|end|>", Role.TOOL, "lookup", "assistant"),
    ],
)  # fmt: skip
def test_other_speakers(text: str, role: Role, name: str | None, recipient: str | None) -> None:
    (message,), _ = parse(TINY, spelled(TINY, text), None)
    assert (message.role, message.author.name, message.recipient, message.text) == (role, name, recipient, "42")
    assert render([message], TINY), "what was parsed can be rendered"


@pytest.mark.parametrize(
    ("written", "tools", "recipient"),
    [
        ("to=f", ("functions.f",), "functions.f"),
        ("f", ("functions.f",), "functions.f"),
        ("to=functions.python", ("python",), "python"),
        ("to=functions.python", ("functions.python",), "functions.python"),
        ("to=functions.browser.search", ("browser.search",), "browser.search"),
        ("to=functions.functions.f", ("functions.f",), "functions.f"),
        ("to=functions.unknown", ("functions.f",), "functions.unknown"),
        ("to=functions.get-tide.v2", (), "functions.get-tide.v2"),
        ("to=all", (), None),
    ],
)
def test_recipients_are_matched_with_declared_tools(
    written: str, tools: tuple[str, ...], recipient: str | None
) -> None:
    for channel in ("commentary", "analysis"):
        found = rows(f"<|channel|>{channel} {written}<|message|>{{}}<|call|>", tools)
        assert found == [(channel, recipient, None, "{}")]


@pytest.mark.parametrize(
    ("word", "channel"),
    [("final", "final"), ("FINAL", "final"), ("comm", "commentary"), ("commentry", "commentary"),
     ("analysis:", "analysis"), ("fin", "final"),
     ("", None), ("banana", None), ("assistant", None)],
)  # fmt: skip
def test_nearest_channel(word: str, channel: str | None) -> None:
    assert nearest_channel(word) == channel


# Total and lossless


@given(tokens=token_streams(TINY), role=st.sampled_from(("assistant", None, "user", "tool")))
@settings(max_examples=400)
def test_any_tokens_give_messages_without_markup(tokens: list[int], role: str | None) -> None:
    messages, events = parse(TINY, tokens, role)
    check_events(messages, events)
    plain = TINY.decode(token for token in tokens if not TINY.is_special(token))
    for message in messages:
        assert message.role is not Role.ASSISTANT or message.channel in (None, "analysis", "commentary", "final")
        if "<|" not in plain:
            assert "<|" not in message.text
        render([message], TINY)  # whatever came can go into a history


def is_text(token: int) -> bool:
    """Whether `token` is ordinary ASCII, so that cuts between tokens cut no character."""
    return not TINY.is_special(token) and TINY.token_bytes(token).isascii()


def told_by(events: list[Event]) -> tuple[list[str], str]:
    """The headers as they were read, and all text of the stream: headers and contents in their order."""
    headers = [event.raw_header for event in events if isinstance(event, MessageStarted)]
    parts = (
        event.raw_header if isinstance(event, MessageStarted) else event.text
        for event in events
        if not isinstance(event, MessageCompleted)
    )
    return headers, "".join(parts)


@given(tokens=token_streams(TINY), role=st.sampled_from(("assistant", None)))
@settings(max_examples=400)
def test_no_text_is_lost(tokens: list[int], role: str | None) -> None:
    """Every character stands in a content or in a header that was read as such."""
    tokens = [token for token in tokens if TINY.is_special(token) or is_text(token)]
    tokens += spelled(TINY, f"<|end|>{NEXT}{GOOD}")  # what is left of a header is told with the next one
    _, told = told_by(parse(TINY, tokens, role)[1])
    assert told == TINY.decode(filter(is_text, tokens))


@given(tokens=token_streams(TINY), role=st.sampled_from(("assistant", None)))
@settings(max_examples=400)
def test_no_header_swallows_an_answer(tokens: list[int], role: str | None) -> None:
    """Where no `<|message|>` says that prose belongs to a header, it never does."""
    tokens = [token for token in tokens if token != TINY.message and (TINY.is_special(token) or is_text(token))]
    headers, told = told_by(parse(TINY, [*tokens, TINY.return_], role)[1])
    assert not any("can." in header for header in headers)
    assert told.count("can.") == TINY.decode(filter(is_text, tokens)).count("can.")


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip(" \t\r\n")))
def test_text_without_any_markup_is_the_answer(text: str) -> None:
    ((channel, recipient, _, told),) = rows_of_plain(text)
    assert (channel, recipient) == ("final", None)
    assert told == text.lstrip(" \t\r\n")


def rows_of_plain(text: str) -> list[Row]:
    """What a stream of plain text gives."""
    messages, events = parse(TINY, TINY.encode(text))
    check_events(messages, events)
    return [(message.channel, message.recipient, message.content_type, message.text) for message in messages]


@given(data=st.lists(st.integers(0, 255)), flush=st.booleans())
def test_deltas_join_to_the_text_even_of_broken_characters(data: list[int], flush: bool) -> None:
    tokens = [*spelled(TINY, "<|channel|>final<|message|>"), *data, *([TINY.return_] if flush else [])]
    (message,), events = parse(TINY, tokens)
    assert message.text == bytes(map(ord_of, data)).decode("utf-8", "replace")
    assert message.text == "".join(event.text for event in events if isinstance(event, ContentDelta))


def ord_of(token: int) -> int:
    """The byte of one of the first 256 tokens."""
    return TINY.token_bytes(token)[0]


def test_unknown_ids_are_passed_over() -> None:
    tokens = spelled(TINY, GOOD)
    for unknown in (-1, TINY.size, 201087, 2**70):
        mixed = [token for known in tokens for token in (unknown, known)]
        assert parse(TINY, mixed)[0] == parse(TINY, tokens)[0]


def test_finish_is_final_and_may_be_repeated() -> None:
    parser = HarmonyParser(TINY)
    for token in spelled(TINY, "<|channel|>final<|message|>z"):
        parser.push(token)
    (completed,) = parser.finish()
    assert isinstance(completed, MessageCompleted)
    assert completed.ended_by is None
    assert parser.finish() == []
    assert parser.tokens == spelled(TINY, "<|channel|>final<|message|>z")


def test_unknown_role_is_refused() -> None:
    with pytest.raises(HarmonyError, match="found 'robot'"):
        HarmonyParser(TINY, "robot")


# Streaming


def test_text_is_told_as_it_comes() -> None:
    parser = HarmonyParser(TINY)
    header = spelled(TINY, "<|channel|>final<|message|>")
    events = [event for token in header for event in parser.push(token)]
    assert events == [MessageStarted(Message.assistant("").author, "final", None, None, "final")]
    assert parser.current == events[0]
    for token in TINY.encode("Sure, I can."):
        assert parser.push(token) == [ContentDelta(TINY.decode([token]), "final", None)]
    (completed,) = parser.push(TINY.return_)
    assert completed == MessageCompleted(Message.assistant("Sure, I can."), TINY.return_)
    assert parser.current is None


@pytest.mark.parametrize("before", ["", "<|channel|>final ", "<|channel|>", "<|start|>assistant ", "assistant: "])
def test_text_without_message_token_is_not_held_back_for_long(before: str) -> None:
    parser = HarmonyParser(TINY)
    for token in spelled(TINY, before):
        parser.push(token)
    told, text = "", "xyz " * (LOOKAHEAD + 20)
    for i, token in enumerate(TINY.encode(text)):
        told += "".join(event.text for event in parser.push(token) if isinstance(event, ContentDelta))
        if i > LOOKAHEAD:
            assert len(TINY.encode(told)) >= i - LOOKAHEAD


@pytest.mark.parametrize(
    "endless", [" ", "to=f ", "to=", "a", "json ", "<|channel|>", "functions.f", "<|constrain|>json "]
)
def test_endless_headers_come_to_an_end(endless: str) -> None:
    parser = HarmonyParser(TINY)
    for token in spelled(TINY, f"<|channel|>final {endless * 2 * MAX_HEADER}"):
        parser.push(token)
    for token in spelled(TINY, " answer here"):
        parser.push(token)
    parser.finish()
    assert parser.messages[-1].text.endswith("answer here")


def test_a_bare_text_is_announced_without_a_channel_and_settled_by_what_follows() -> None:
    for after, channel in (("", "final"), ("<|start|>user<|message|>q", "final"), (f"{NEXT}{GOOD}", "analysis")):
        messages, events = parse(TINY, spelled(TINY, f"Well.<|end|>{after}"))
        assert isinstance(events[0], MessageStarted)
        assert events[0].channel is None
        assert messages[0].channel == channel


# Equality on what is well formed


def check_equal(messages: list[Message], tokenizer: Tokenizer, oracle: HarmonyEncoding) -> None:
    """Ours reads the rendered messages as the package does, whole and streamed."""
    tokens = render(messages, tokenizer, None, "never")
    parser = openai_harmony.StreamableParser(oracle, None)
    for token in tokens:
        parser.process(token)
    parser.process_eos()
    theirs = openai_harmony.Conversation.from_messages(parser.messages)
    expected = Conversation.from_dict(json.loads(theirs.to_json())).messages
    found, events = parse(tokenizer, tokens, None)
    check_events(found, events)
    assert found == expected
    assert found == tuple(messages)


@given(messages=st.lists(well_formed_messages(), max_size=5))
@settings(max_examples=150)
def test_equals_openai_harmony(real_tokenizer: Tokenizer, oracle: HarmonyEncoding, messages: list[Message]) -> None:
    check_equal(messages, real_tokenizer, oracle)


@pytest.mark.slow
@given(messages=st.lists(well_formed_messages(), max_size=8))
@settings(max_examples=4000)
def test_equals_openai_harmony_thousands_of_times(
    real_tokenizer: Tokenizer, oracle: HarmonyEncoding, messages: list[Message]
) -> None:
    check_equal(messages, real_tokenizer, oracle)


@given(
    text=texts,
    channel=st.sampled_from(("analysis", "commentary", "final")),
    stop=st.sampled_from(("<|return|>", "<|call|>", "")),
)
def test_a_generated_message_equals_openai_harmony(
    real_tokenizer: Tokenizer, oracle: HarmonyEncoding, text: str, channel: str, stop: str
) -> None:
    """With the role preset and the recipient where the model puts it."""
    header = f"<|channel|>{channel} to=functions.f <|constrain|>json<|message|>"
    tokens = [*spelled(real_tokenizer, header), *real_tokenizer.encode(text), *spelled(real_tokenizer, stop)]
    (theirs,) = oracle.parse_messages_from_completion_tokens(tokens, openai_harmony.Role.ASSISTANT)
    (ours,), _ = parse(real_tokenizer, tokens)
    expected = Conversation.from_dict({"messages": [theirs.to_dict()]}).messages
    assert (ours,) == expected
