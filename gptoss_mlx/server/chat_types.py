"""The request of Chat Completions -> what the backend is asked.

Effort: gpt-oss knows `low`, `medium` and `high`. `minimal` is taken as low, `xhigh` as high, and `none` as low with no
room for thoughts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tokenizer import Tokenizer

from .backend import TurnRequest
from .sampling_fields import SamplingFields
from .wire import Body

MAX_TOP_LOGPROBS = 20
EFFORTS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionSpec(Body):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Body):
    """A tool: gpt-oss has functions only."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """A tool by its name."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Body):
    """Some of the tools, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedChoice(Body):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(Body):
    """A JSON Schema with a name. Answers are always held to it, whether `strict` says so or not."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(SamplingFields):
    """A request of Chat Completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_budget: int | None = Field(None, ge=0)
    """Tokens of thoughts at most (our own parameter)."""
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None

    # What changes nothing here, and is ignored: keys of caches, classes of service, records, predictions.
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None

    def turn(self, tokenizer: Tokenizer, choice: int = 0) -> TurnRequest:
        """What the backend is asked for one choice.

        Raises:
            RequestError: values contradict each other or are out of range.
        """
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs: logprobs of true expected beside it, none found")
        tools, tool_choice = self._choice()
        return TurnRequest(
            messages=self.messages,
            effort=EFFORTS[self.reasoning_effort] if self.reasoning_effort else None,
            tools=tuple(tool.model_dump(exclude_none=True) for tool in tools),
            tool_choice=tool_choice,
            parallel_calls=self.parallel_tool_calls is not False,
            response_format=self._format(),
            sampling=self.sampling(tokenizer, choice),
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            reasoning_budget=0 if self.reasoning_effort == "none" else self.reasoning_budget,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def _choice(self) -> tuple[list[ToolSpec], str]:
        """The tools that may be called, and which of them must."""
        tools = self.tools or []
        names = [tool.function.name for tool in tools]
        chosen = self.tool_choice
        if isinstance(chosen, AllowedChoice):
            allowed = {tool.function.name for tool in chosen.allowed_tools.tools}
            self._check_names(sorted(allowed), names)
            return [tool for tool in tools if tool.function.name in allowed], chosen.allowed_tools.mode
        if isinstance(chosen, NamedTool):
            self._check_names([chosen.function.name], names)
            return tools, chosen.function.name
        if chosen == "required" and not tools:
            raise RequestError("tool_choice: tools to choose from expected beside 'required', none found")
        return tools, chosen or "auto"

    def _check_names(self, wanted: list[str], known: list[str]) -> None:
        for name in wanted:
            if name not in known:
                raise RequestError(
                    f"tool_choice: one of the tools ({', '.join(known) or 'none'}) expected, {name!r} found"
                )

    def _format(self) -> dict[str, Any] | None:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_schema" and wanted.json_schema is None:
            raise RequestError("response_format: an object json_schema expected, none found")
        return wanted.model_dump(exclude_none=True, by_alias=True)
