"""What a client may ask of Anthropic's Messages API. A field that is unknown here is refused.

Taken and ignored, as they change nothing here: `cache_control` (prompts are remembered anyway), `metadata`,
`service_tier`, `speed`, `inference_geo`, `diagnostics`, `container`, `context_management`, and of tools
`input_examples`, `eager_input_streaming`, `defer_loading`, `allowed_callers`.

Thinking: gpt-oss always thinks, and how long follows its effort. `output_config.effort` names it; else `thinking`
enabled with up to 4096 tokens means low, with up to 16384 medium, with more high; disabled means low with no room for
thoughts. `budget_tokens` is a bound beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from gptoss_mlx.errors import RequestError
from gptoss_mlx.sampling import SamplingParams

from .backend import TurnRequest
from .chat_types import EFFORTS as CHAT_EFFORTS
from .messages_input import MessageReader, as_blocks, joined_text
from .wire import Body, NullsLeftOut

EFFORTS = {**CHAT_EFFORTS, "max": "high"}
BUDGETS = ((4096, "low"), (16384, "medium"))
"""Budgets up to so many tokens of thoughts -> effort; more is high."""


class Thinking(Body):
    """Whether to think, and how long."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=0)
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body):
    """What the answer must be."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """How to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ToolChoice(Body):
    """Whether, and what, to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ClientTool(Body):
    """A tool that the client runs."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    allowed_callers: Any = None
    cache_control: Any = None
    defer_loading: Any = None
    eager_input_streaming: Any = None
    input_examples: Any = None

    def function(self) -> dict[str, Any]:
        """The tool in the form of Chat Completions."""
        function = {"name": self.name, "description": self.description or "", "parameters": self.input_schema}
        return {"type": "function", "function": {**function, "strict": bool(self.strict)}}


class CountTokens(NullsLeftOut):
    """The body of `POST /v1/messages/count_tokens`."""

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    tools: list[ClientTool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    cache_control: Any = None
    container: Any = None
    context_management: Any = None
    diagnostics: Any = None
    inference_geo: Any = None
    metadata: Any = None
    service_tier: Any = None
    speed: Any = None

    @property
    def effort(self) -> str | None:
        """The effort in gpt-oss' terms; None for its default."""
        if self.output_config is not None and self.output_config.effort is not None:
            return EFFORTS[self.output_config.effort]
        if self.thinking is None or self.thinking.type in ("adaptive", "between_tools"):
            return None
        if self.thinking.budget_tokens is None:
            return "low" if self.thinking.type == "disabled" else None
        return next((effort for most, effort in BUDGETS if self.thinking.budget_tokens <= most), "high")

    def turn(self) -> TurnRequest:
        """What the backend is asked.

        Raises:
            RequestError: a message or a tool that means nothing here.
        """
        choice = self.tool_choice or ToolChoice(type="auto")
        form = self.output_config.format if self.output_config is not None else None
        return TurnRequest(
            messages=MessageReader().read(self.messages),
            effort=self.effort,
            instructions=joined_text(as_blocks(self.system, "system"), "system") if self.system else None,
            tools=[tool.function() for tool in self.tools],
            tool_choice=self._chosen(choice),
            parallel_calls=not choice.disable_parallel_tool_use,
            response_format=None if form is None else _json_schema(form.schema_),
            reasoning_budget=self.budget,
        )

    def _chosen(self, choice: ToolChoice) -> str:
        if choice.type != "tool":
            return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
        names = [tool.name for tool in self.tools]
        if choice.name not in names:
            known = ", ".join(names) or "none is offered"
            raise RequestError(f"tool_choice.name: the name of a tool ({known}) expected, {choice.name!r} found")
        return choice.name

    @property
    def shows_thoughts(self) -> bool:
        """Whether the answer has thinking blocks."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def budget(self) -> int | None:
        """Tokens of thoughts at most; None: no bound of its own."""
        if self.thinking is None:
            return None
        return 0 if self.thinking.type == "disabled" else self.thinking.budget_tokens


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


class CreateMessage(CountTokens):
    """The body of `POST /v1/messages`."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=16)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)

    def turn(self) -> TurnRequest:
        """What the backend is asked; see `CountTokens.turn`."""
        stop = tuple(self.stop_sequences)
        sampling = SamplingParams(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, stop=stop)
        return replace(super().turn(), sampling=sampling, max_tokens=self.max_tokens)
