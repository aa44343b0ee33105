"""What a synthetic conversation is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from demo_thoughts import Effort

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."


@dataclass(frozen=True)
class Function:
    """A function that the developer message offers."""

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...] = ()
    topic: str = ""
    """What it is about; a question about the same topic suits it."""

    @property
    def schema(self) -> dict[str, Any] | None:
        if not self.properties:
            return None
        return {"type": "object", "properties": self.properties, "required": list(self.required)}


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    result: str
    afterthought: str


@dataclass(frozen=True)
class Turn:
    kind: str
    question: str
    thought: str
    answer: str
    call: Call | None = None


@dataclass(frozen=True)
class Talk:
    turns: list[Turn]
    effort: Effort = "medium"
    identity: str | None = IDENTITY
    """None: no system message at all."""
    date: str | None = None
    instructions: str = ""
    functions: list[Function] = field(default_factory=list)


def json_text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
