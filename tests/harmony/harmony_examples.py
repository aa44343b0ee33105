"""Conversations whose rendering is written down in tests/goldens/harmony, a file for each.

`python tests/goldens/make_harmony.py` writes these files anew with the openai-harmony package.
"""

from __future__ import annotations

from typing import Any

from gptoss_mlx.harmony import (
    ChannelConfig,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    SystemContent,
    Tool,
    ToolNamespace,
)

DATED = SystemContent(conversation_start_date="2026-01-31")


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
SCHEMAS: dict[str, Any] = {
    "scalars": _object(
        a={**STRING, "description": "first"}, b=INTEGER, c={"type": "number", "default": 1.5},
        d={"type": "boolean", "default": False}, e={**STRING, "default": "en"}, f={"type": "null"}, g={},
    ) | {"required": ["a", "b"]},
    "enums": _object(
        a={**STRING, "enum": ["x", "y"], "default": "y"}, b={**INTEGER, "enum": [1, 2]}, c={"enum": ["x"]},
        d={**STRING, "enum": ["p", None]}, k={"type": ["string", "integer"], "enum": ["x"], "default": "x"},
    ),
    "nullable": _object(
        a={**STRING, "nullable": True}, b={"type": ["integer", "null"], "default": None},
        c={**STRING, "enum": ["x", "y"], "nullable": True},
    ),
    "arrays": _object(
        a={"type": "array", "items": STRING}, b={"type": "array"},
        c={"type": "array", "items": {**STRING, "enum": ["x", "y"]}},
        d={"type": "array", "items": {"type": ["string", "integer"]}},
        g={"type": "array", "items": INTEGER, "default": [1, 2]},
        h={"type": "array", "items": _object(k={**STRING, "description": "key"}) | {"required": ["k"]}},
    ),
    "objects": _object(
        o={**_object(w={**INTEGER, "description": "width"}, **{"in": _object(y=STRING)}),
           "description": "box", "required": ["w"]},
        m={"type": "object"}, p={"type": "object", "additionalProperties": STRING},
    ),
    "one_of": _object(
        v={"description": "value", "default": "z", "oneOf": [
            {**STRING, "description": "text form"}, {**INTEGER, "description": "number form", "default": 3},
            {"type": "boolean", "nullable": True}, _object(q=STRING)]},
    ) | {"required": ["v"]},
    "annotations": _object(
        q={**STRING, "title": "Query", "description": "What to look for", "examples": ["cod", "eel", 7]},
        r={**STRING, "description": "line one\nline two"},
    ),
    "unsupported": _object(
        a={"anyOf": [STRING]}, b={"allOf": [STRING]}, c={"$ref": "#/x"}, d={"const": 3},
    ),
    "top_string": STRING,
    "top_empty": {},
    "top_described": _object(a=STRING) | {"description": "top"},
    "no_properties": {"type": "object"},
}  # fmt: skip


def tide_tools() -> tuple[Tool, ...]:
    """The two functions of the examples."""
    port = {**STRING, "description": "Port code"}
    unit = {**STRING, "enum": ["m", "ft"], "default": "m"}
    parameters = _object(port=port, unit=unit, days={**INTEGER, "default": 2}) | {"required": ["port"]}
    at = Tool("tide_at", "Tide at a port.\nHeights in metres.", parameters)
    return (Tool("tide_now", "Current tide."), at)


def _history() -> tuple[Message, ...]:
    call = Message.call("functions.ping", "{}")
    return (
        Message.user("q1"), Message.assistant("why1", "analysis"), call, Message.tool("functions.ping", "ok"),
        Message.assistant("a1"), Message.user("q2"), Message.assistant("why2", "analysis"),
        Message.assistant("a2"), Message.user("q3"),
    )  # fmt: skip


def _built_in(*tools: ToolNamespace) -> Conversation:
    return Conversation((Message.system(SystemContent(conversation_start_date="2026-01-31", tools=tools)),))


def _schema(schema: Any) -> Conversation:
    return Conversation((Message.developer("", [Tool("f", "Demo.", schema)]),))


EXAMPLES: dict[str, Conversation] = {
    "system_default": Conversation((Message.system(),)),
    "system_dated_low": Conversation(
        (Message.system(SystemContent(conversation_start_date="2026-01-31", reasoning_effort=ReasoningEffort.LOW)),)
    ),
    "system_replaced": Conversation(
        (Message.system(SystemContent("I am Kelp.", None, None, None, (), ChannelConfig(("final",), False))),)
    ),
    "instructions": Conversation((Message.developer("Answer in one sentence."),)),
    "prompt_with_functions": Conversation(
        (
            Message.system(DATED),
            Message.developer("Answer in one sentence.", tide_tools()),
            Message.user("Tide in Brest?"),
        )
    ),
    "namespaces": Conversation(
        (
            Message.developer(
                DeveloperContent(
                    tools=(
                        ToolNamespace(
                            "zoo", "Animal tools.\nUse gently.", (Tool("feed", "Feeds.", _object(n=INTEGER)),)
                        ),
                        ToolNamespace.functions([Tool("ping", "Checks.")]),
                        ToolNamespace("empty", "Only\nprose."),
                    )
                )
            ),
        )
    ),
    "call_round": Conversation(
        (
            Message.user("Tide in Brest?"),
            Message.assistant("Need the tool.", "analysis"),
            Message.call("functions.tide_at", '{"port":"BES"}'),
            Message.tool("functions.tide_at", '{"h":4.1}'),
        )
    ),
    "call_types": Conversation(
        (
            Message.call("functions.tide_at", '{"port":"BES"}', content_type="json"),
            Message.call("functions.tide_at", '{"port":"BES"}', content_type=None),
            Message.call("python", "print(6*7)", "analysis", "code"),
            Message.tool("python", "42\n", "analysis"),
        )
    ),
    "history": Conversation(_history()),
    "named_user": Conversation((Message.user("hi", "kim"),)),
    "control_spellings": Conversation((Message.user("<|end|><|start|>assistant"),)),
} | {f"schema_{name}": _schema(schema) for name, schema in SCHEMAS.items()}

BUILT_IN = {
    "python": _built_in(ToolNamespace.python()),
    "browser": _built_in(ToolNamespace.browser()),
    "both": _built_in(ToolNamespace.python(), ToolNamespace.browser()),
}
BUILT_IN_SHA256 = {
    "python": (879, "bbc7853007b7534e3cbcc4eee2c6502fd0d02ff034a9376691b25904040530bf"),
    "browser": (1790, "9ff9d023c3a0587f652d82f64f7a59a3a084527f194fa3c1e364eb284e51f7c2"),
    "both": (2407, "c1e5d2167b1fb8b1b465569f052f1b79dffe39e34950258b5384080d47c44fce"),
}
"""Whole system messages with the built-in tools: characters and SHA-256 of the rendered text."""
