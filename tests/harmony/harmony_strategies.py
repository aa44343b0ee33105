"""Hypothesis strategies for harmony: hostile texts and schemas, whole conversations, tokens of any kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from gptoss_mlx.harmony import (
    Author,
    ChannelConfig,
    Conversation,
    DeveloperContent,
    HarmonyParser,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    TextContent,
    Tool,
    ToolNamespace,
)
from gptoss_mlx.harmony.parser import Event
from gptoss_mlx.tokenizer import Tokenizer

Strategy = st.SearchStrategy

SAMPLES = (
    "", "hi", " lead", "trail ", "x\r\ny\n", "\n\n", '{"a": 1}', "日本語 🙂", "e\u0301", "null", 'q"q',
    "<|end|>", "a <|start|>user<|message|> b", "<|constrain|>json", "<|return|>", "to=functions.f",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(SAMPLES),
    st.lists(st.sampled_from(SAMPLES), max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
names = st.sampled_from(("a", "b c", "null", "", "é", "string", "x\ny", 'q"q', "oneOf", "type"))

numbers = st.one_of(
    st.integers(-(10**25), 10**25), st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9)
)
values: Strategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
_types = st.sampled_from(
    ("object", "object", "string", "string", "number", "integer", "boolean", "array", "null")
) | st.lists(st.sampled_from(("string", "integer", "null", 7)), max_size=3)


def _schema(inner: Strategy[Any]) -> Strategy[Any]:
    """A schema whose every field is there or not, of the kind it should be or not."""
    fields: dict[str, Strategy[Any]] = {
        "type": _types,
        "description": st.sampled_from(("d", "e", "d\nf", "")),
        "title": names,
        "default": values,
        "enum": st.lists(names | st.just(7), max_size=2),
        "nullable": st.just(True),
        "examples": st.lists(names | st.just(7), max_size=2),
        "required": st.lists(names, max_size=3),
        "properties": st.dictionaries(names, inner, max_size=3),
        "items": inner,
        "oneOf": st.lists(inner, max_size=3),
        "anyOf": st.lists(inner, max_size=1),
        "additionalProperties": st.booleans(),
    }
    proper = st.fixed_dictionaries({}, optional=fields)
    wrong = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, values))
    return st.one_of(proper, proper, proper, wrong, values)


schemas: Strategy[Any] = st.recursive(_schema(st.just({"type": "string"})), _schema, max_leaves=8)
object_schemas = schemas.filter(lambda schema: isinstance(schema, dict))

tools = st.builds(Tool, st.sampled_from(("t", "get_x", "a.b-c")) | names, texts, st.none() | object_schemas)


def _namespaces(pool: Iterable[str]) -> Strategy[tuple[ToolNamespace, ...]]:
    one = st.builds(
        ToolNamespace, st.sampled_from(tuple(pool)), st.none() | texts, st.lists(tools, max_size=2).map(tuple)
    )
    return st.lists(one, max_size=2, unique_by=lambda namespace: namespace.name).map(tuple)


_built_in = st.sampled_from((ToolNamespace.browser(), ToolNamespace.python()))
namespaces = st.one_of(
    _namespaces(("functions", "zoo", "é", "A", "")),
    st.lists(_built_in, max_size=2, unique_by=lambda namespace: namespace.name).map(tuple),
)
_channel_configs = st.builds(
    ChannelConfig, st.lists(st.sampled_from(("analysis", "commentary", "final")), max_size=3), st.booleans()
)
_maybe_text = st.none() | texts
system_contents = st.builds(
    SystemContent,
    model_identity=_maybe_text,
    knowledge_cutoff=_maybe_text,
    conversation_start_date=st.none() | st.just("2026-01-31"),
    reasoning_effort=st.none() | st.sampled_from(ReasoningEffort),
    tools=namespaces,
    channel_config=st.none() | _channel_configs,
)
_formats = st.builds(
    ResponseFormat, texts, st.fixed_dictionaries({"type": st.just("object"), "x": values}), _maybe_text
)
developer_contents = st.builds(DeveloperContent, _maybe_text, namespaces, st.lists(_formats, max_size=1).map(tuple))

_channels = st.sampled_from(("analysis", "analysis", "commentary", "final", "final")) | _maybe_text
_recipients = st.none() | st.sampled_from(("all", "assistant", "functions.f", "python")) | texts
_content_types = st.none() | st.sampled_from(("json", "<|constrain|>json", "code", "<|constrain|>")) | texts
_text_parts = st.lists(texts.map(TextContent), min_size=1, max_size=2)


def _message(role: Role) -> Strategy[Message]:
    parts: Strategy[Any] = _text_parts
    if role is Role.SYSTEM:
        parts = st.lists(system_contents | texts.map(TextContent), max_size=2)
    elif role is Role.DEVELOPER:
        parts = st.lists(developer_contents | texts.map(TextContent), max_size=2)
    name = st.sampled_from(("functions.f", "python", "browser.open")) if role is Role.TOOL else _maybe_text
    header = (_channels, _recipients, _content_types)
    return st.builds(Message, name.map(lambda name: Author(role, name)), parts.map(tuple), *header)


messages = st.sampled_from((*Role, Role.ASSISTANT, Role.ASSISTANT)).flatmap(_message)
conversations = st.lists(messages, max_size=7).map(lambda found: Conversation(tuple(found)))


@st.composite
def turns(draw: st.DrawFn) -> Conversation:
    """A conversation as it really goes: questions, thoughts, calls and their results, answers."""
    found = [Message.system(draw(system_contents)), Message.developer(draw(developer_contents))]
    for _ in range(draw(st.integers(0, 3))):
        found.append(Message.user(draw(texts)))
        for _ in range(draw(st.integers(0, 2))):
            found.append(Message.assistant(draw(texts), "analysis"))
            name = draw(st.sampled_from(("functions.f", "python")))
            channel = "commentary" if name == "functions.f" else "analysis"
            found += [Message.call(name, draw(texts), channel), Message.tool(name, draw(texts), channel)]
        if draw(st.booleans()):
            found.append(Message.assistant(draw(texts), draw(st.sampled_from(("final", "commentary")))))
    return Conversation(tuple(found))


_well_formed_header = st.tuples(
    st.sampled_from((None, "analysis", "commentary", "final")),
    st.sampled_from((None, "functions.get_tide", "functions.a-b.c", "python", "browser.search")),
    st.sampled_from((None, "json", "code", "xml", "<|constrain|>json")),
)


@st.composite
def well_formed_messages(draw: st.DrawFn) -> Message:
    """A message that the renderer writes and openai-harmony's parser can read back."""
    role = draw(st.sampled_from((Role.ASSISTANT, Role.ASSISTANT, Role.USER, Role.SYSTEM, Role.TOOL)))
    channel, recipient, kind = draw(_well_formed_header)
    content = (TextContent(draw(texts)),)
    if role is Role.TOOL:
        return Message(Author(role, recipient or "python"), content, channel, "assistant", None)
    if role is not Role.ASSISTANT:
        return Message(Author(role), content)
    return Message(Author(role), content, channel, recipient, kind if recipient else None)


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of `text` in which control tokens stand by their spelling."""
    parts = re.split("(" + "|".join(map(re.escape, tokenizer.special)) + ")", text)
    return [
        token
        for part in parts
        for token in ([tokenizer.special[part]] if part in tokenizer.special else tokenizer.encode(part))
    ]


WORDS = (
    "assistant", "user", "tool", "functions.f", " to=", "to=", "analysis", "commentary", "final", "fin", " ", "\n",
    "json", "{}", "hello", " world", ": ", "??", "Sure, I can.", "finalx",
)  # fmt: skip


def token_streams(tokenizer: Tokenizer) -> Strategy[list[int]]:
    """Tokens as no model should write them: many control tokens, header words, ids that do not exist."""
    special = st.sampled_from(tuple(tokenizer.special.values())).map(lambda token: [token])
    word = st.sampled_from(WORDS).map(tokenizer.encode)
    outside = st.sampled_from((-1, -(2**70), tokenizer.size, 201087, 2**70)).map(lambda token: [token])
    any_token = st.integers(0, tokenizer.size - 1).map(lambda token: [token])
    pieces = st.lists(st.one_of(special, word, word, outside, any_token), max_size=40)
    return pieces.map(lambda found: [token for piece in found for token in piece])


def parse(
    tokenizer: Tokenizer, tokens: Iterable[int], role: str | None = "assistant", tools: Iterable[str] = ()
) -> tuple[tuple[Message, ...], list[Event]]:
    """The messages and events of a whole stream."""
    parser = HarmonyParser(tokenizer, role, tuple(tools))
    events = [event for token in tokens for event in parser.push(token)]
    events += parser.finish()
    return parser.messages, events
