"""What a client may ask of the Responses API. A field that is unknown here is refused: it might change the answer.

Null means what leaving out means. The last fields of `CreateResponse` are taken and change nothing: billing, caching
and abuse monitoring have no counterpart on one's own machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..chat_types import EFFORTS as CHAT_EFFORTS
from ..wire import NullsLeftOut

EFFORTS = {**CHAT_EFFORTS, "max": "high"}
"""Efforts of the API -> those that gpt-oss was trained on."""

Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""What a response may hold beside the usual; those of items that there are none of here bring nothing."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Detail = Literal["auto", "concise", "detailed"]


class ReasoningOptions(NullsLeftOut):
    """How to think, and how to show it."""

    effort: Effort | None = None
    summary: Detail | None = None
    generate_summary: Detail | None = None
    """The older name of `summary`."""


class TextFormat(NullsLeftOut):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(NullsLeftOut):
    """The form of the answer."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None
    """gpt-oss was not trained to follow any other."""


class CreateResponse(NullsLeftOut):
    """The body of `POST /v1/responses`."""

    model: str | None = None
    input: str | list[dict[str, Any]] = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    background: bool = False
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = Field(default_factory=ReasoningOptions)
    text: TextOptions = Field(default_factory=TextOptions)
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    include: list[Include] = Field(default_factory=list)
    metadata: Annotated[dict[str, str], Field(max_length=16)] = Field(default_factory=dict)
    client_metadata: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    stream_options: Any = None
    user: Any = None
