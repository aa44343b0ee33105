"""A request to the Responses API -> what the model is asked, and the response as it is before the model has begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Message, Role
from gptoss_mlx.sampling import SamplingParams

from ..backend import Backend, TurnRequest
from ..built_in import BuiltIns
from ..errors import ApiError
from .items import Json, new_id
from .output import Output, Shown
from .reading import InputReader, resolve, thoughts_in_progress
from .store import PENDING, ResponseStore, Stored
from .tools import Offer, offer
from .types import EFFORTS, CreateResponse, TextFormat

ROOM = 1024
"""Tokens that truncation leaves for the answer, unless a limit asks for more; a quarter of a small context."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the model has begun."""

    turn: TurnRequest
    response: Json
    """As the API shows it, without output."""
    input: tuple[Json, ...]
    """The request's own items."""
    messages: tuple[Message, ...]
    """What they mean in harmony."""
    output: Output
    offer: Offer
    """Closed by whoever runs this."""
    store: bool
    """Whether the response is kept."""


async def prepare(body: CreateResponse, backend: Backend, store: ResponseStore, built_ins: BuiltIns) -> Prepared:
    """Read a request.

    Raises:
        ApiError, GptOssError: something in it is wrong.
    """
    chain = await _chain(body.previous_response_id, store)
    items = await asyncio.to_thread(resolve, body.input, store.item)
    offered = offer(body.tools, body.tool_choice, built_ins)
    try:
        await offered.make()
        reader = InputReader({shown: function for function, shown in offered.mcp.items()})
        for earlier in chain:
            reader.know([*earlier.input, *earlier.response["output"]])
        own = tuple(reader.read(items))
        messages = [message for earlier in chain for message in earlier.messages] + list(own)
        if not messages:
            raise RequestError("input: a question or items expected, none found")
        messages = thoughts_in_progress(messages)
        turn = _turn(body, messages, offered)
        if body.truncation == "auto":
            turn = await truncated(turn, messages, backend)
    except BaseException:  # a client that has gone as well: what was started for it must end
        await offered.close()
        raise
    output = Output(_shown(body, offered), backend.tokenizer)
    return Prepared(turn, _envelope(body, backend.model_id), tuple(items), own, output, offered, body.store)


async def _chain(previous: str | None, store: ResponseStore) -> list[Stored]:
    if previous is None:
        return []
    chain = await asyncio.to_thread(store.chain, previous)
    named = "previous_response_id"
    if not chain:
        message = f"{named}: the id of a stored response expected, {previous[:80]!r} found; send its items as input"
        raise ApiError(400, message, code="previous_response_not_found", param=named)
    if chain[-1].response["status"] in PENDING:
        raise ApiError(400, f"{named}: a response that has ended expected, this one is being made", param=named)
    return chain


def _turn(body: CreateResponse, messages: Sequence[Message], offered: Offer) -> TurnRequest:
    effort = body.reasoning.effort
    return TurnRequest(
        messages=messages,
        effort=EFFORTS[effort] if effort is not None else None,
        instructions=body.instructions,
        tools=offered.functions,
        built_in=offered.built_in,
        tool_choice=offered.choice,
        parallel_calls=body.parallel_tool_calls,
        response_format=_response_format(body.text.format),
        sampling=SamplingParams(temperature=body.temperature, top_p=body.top_p),
        max_tokens=body.max_output_tokens,
        reasoning_budget=0 if effort == "none" else None,
        logprobs=(body.top_logprobs or 0) if _wants_logprobs(body) else None,
    )


def _response_format(form: TextFormat | None) -> dict[str, Any] | None:
    """The format in the form of Chat Completions."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.json_schema is None or not form.name:
        raise RequestError("text.format: a name and a schema expected, not both found")
    told = {"name": form.name, "schema": form.json_schema, "strict": form.strict or False}
    return {"type": "json_schema", "json_schema": {**told, "description": form.description}}


def _wants_logprobs(body: CreateResponse) -> bool:
    return body.top_logprobs is not None or "message.output_text.logprobs" in body.include


def _shown(body: CreateResponse, offered: Offer) -> Shown:
    shown = Shown(
        outputs="code_interpreter_call.outputs" in body.include,
        logprobs=_wants_logprobs(body),
        summary=(body.reasoning.summary or body.reasoning.generate_summary) is not None,
        sealed="reasoning.encrypted_content" in body.include,
    )
    return offered.shown(shown)


async def truncated(turn: TurnRequest, messages: Sequence[Message], backend: Backend) -> TurnRequest:
    """The request without its oldest turns, as far as it must be for the prompt to leave room for an answer.

    What developers say before the first turn stays. The last turn stays whole: if it is too long, that is an error
    that the backend will raise.
    """
    questions = [i for i, message in enumerate(messages) if message.role is Role.USER]
    if not questions:
        return turn
    leading = messages[: questions[0]]
    room = backend.context - min(turn.max_tokens or ROOM, backend.context // 4)

    def since(question: int) -> TurnRequest:
        return replace(turn, messages=[*leading, *messages[questions[question] :]])

    async def fits(shorter: TurnRequest) -> bool:
        try:
            return len(await backend.prompt(shorter)) <= room
        except RequestError:  # longer than the context, or wrong in a way that the last try will tell
            return False

    first, last = 0, len(questions) - 1
    while first < last:
        middle = (first + last) // 2
        if await fits(since(middle)):
            last = middle
        else:
            first = middle + 1
    return since(first)


def _envelope(body: CreateResponse, model: str) -> Json:
    form = body.text.format
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if body.background else "in_progress",
        "background": body.background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort or "medium", "summary": body.reasoning.summary},
        "service_tier": "default",
        "store": body.store,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": body.tool_choice,
        "tools": body.tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": body.truncation,
        "usage": None,
    }
