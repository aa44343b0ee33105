"""Parsing: equal to the openai-harmony package on what is well formed, total and lossless on anything."""

from __future__ import annotations

import json

import openai_harmony
import pytest
from harmony_malformed import GOOD, NEXT, TABLE, Row
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
