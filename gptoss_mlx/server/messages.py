"""Anthropic's Messages API: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

The answer is the sum of the events that a stream would have brought, so both ways tell the same. Thoughts are shown
where the request turns thinking on. The input of a tool_use comes as one piece: only then is it known to be JSON.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response

from gptoss_mlx.events import CallCompleted, Done, Event, Reply, TextDelta, ToolCall

from .backend import Stream, TurnRequest
from .errors import ApiError
from .messages_types import CountTokens, CreateMessage
from .sealing import seal
from .service import Service
from .wire import EventStream, Json, Merged, frame, read, reporting, unless_gone

PATH = "/v1/messages"
SIGNATURE = "gpt-oss"
"""What stands where Anthropic signs thoughts; nothing here checks it."""
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_STOPS = {"length": "max_tokens", "tool_calls": "tool_use"}

router = APIRouter()


@router.post(PATH, response_model=None)
async def create(request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    body = await read(request, CreateMessage)
    backend, turn = service.backend(body.model), body.turn()
    prompt = len(await backend.prompt(turn)) if body.stream else 0  # else the usage at the end has it
    message = MessageEvents(backend.model_id, body, turn, prompt)
    async with AsyncExitStack() as held:
        source = await held.enter_async_context(await service.start(body.model, turn))
        if body.stream:
            events = await held.enter_async_context(Merged([source], service.settings.ping_seconds))
            return EventStream(reporting(_frames(message, events), anthropic_shape, "error"), held.pop_all())
        return Json(await unless_gone(request, _whole(message, source)))


@router.post(f"{PATH}/count_tokens", response_model=None)
async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation's prompt has."""
    service: Service = request.app.state.service
    body = await read(request, CountTokens)
    return Json({"input_tokens": len(await service.backend(body.model).prompt(body.turn()))})


def anthropic_shape(error: ApiError) -> dict[str, Any]:
    """The body that Anthropic's clients read."""
    kind = _ERRORS.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "api_error")
    message = error.message
    if error.too_long is not None:  # in the words that clients look for
        message = f"prompt is too long: {error.too_long.tokens} tokens > {error.too_long.limit} maximum"
    return {"type": "error", "error": {"type": kind, "message": message}}


async def _whole(message: MessageEvents, source: Stream[Event]) -> dict[str, Any]:
    async for event in source:
        for _ in message.push(event):
            pass
    return message.body


async def _frames(message: MessageEvents, events: Merged[Event]) -> AsyncGenerator[bytes, None]:
    yield _frame({"type": "message_start", "message": message.body})
    async for item in events:
        for told in [{"type": "ping"}] if item is None else message.push(item[1]):
            yield _frame(told)


def _frame(event: dict[str, Any]) -> bytes:
    return frame(event, event["type"])


class MessageEvents:
    """The events of a reply -> those of a message, and their sum, `body`.

    Args:
        model: its name.
        asked: the request.
        turn: the same as the backend is asked it.
        prompt: tokens of the prompt.
    """

    def __init__(self, model: str, asked: CreateMessage, turn: TurnRequest, prompt: int) -> None:
        self._turn = turn
        self._shows_thoughts = asked.shows_thoughts
        self._omits_text = asked.thinking is not None and asked.thinking.display == "omitted"
        self._channel: str | None = None  # of the block that is open
        self._texts: list[str] = []  # of that block
        self.body: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": prompt, "output_tokens": 0},
        }

    def push(self, event: Event) -> Iterator[dict[str, Any]]:
        """Take an event of the reply, and say what a client is told."""
        match event:
            case TextDelta("analysis", _) if not self._shows_thoughts:
                return
            case TextDelta(channel, text):
                if channel != self._channel:
                    yield from self._close()
                    yield from self._open(channel)
                yield from self._add(text)
            case CallCompleted(_, call) if self._turn.is_for_client(call.recipient):
                yield from self._close()
                yield from self._call(call)
            case Done(reply):
                yield from self._close()
                yield from self._end(reply)

    def _open(self, channel: str) -> Iterator[dict[str, Any]]:
        self._channel, self._texts = channel, []
        block: dict[str, Any] = {"type": "text", "text": ""}
        if channel == "analysis":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        yield self._begin(block)

    def _add(self, text: str) -> Iterator[dict[str, Any]]:
        self._texts.append(text)
        if self._channel != "analysis":
            yield self._delta({"type": "text_delta", "text": text})
        elif not self._omits_text:
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _close(self) -> Iterator[dict[str, Any]]:
        """The end of the block of text that is open, if one is."""
        channel, text = self._channel, "".join(self._texts)
        self._channel = None
        if channel is None:
            return
        block = self.body["content"][-1]
        if channel == "analysis":
            block["signature"] = seal(text) if self._omits_text else SIGNATURE
            block["thinking"] = "" if self._omits_text else text
            yield self._delta({"type": "signature_delta", "signature": block["signature"]})
        else:
            block["text"] = text
        yield self._stop()

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        block = {"type": "tool_use", "id": call.id.replace("call_", "toolu_"), "name": call.name, "input": {}}
        yield self._begin(block)
        arguments = tool_input(call.arguments)
        self.body["content"][-1]["input"] = arguments
        yield self._delta({"type": "input_json_delta", "partial_json": json.dumps(arguments, ensure_ascii=False)})
        yield self._stop()

    def _end(self, reply: Reply) -> Iterator[dict[str, Any]]:
        usage = reply.usage
        told = {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        }
        reason = "stop_sequence" if reply.stop_text is not None else _STOPS.get(reply.finish_reason, "end_turn")
        ending = {"stop_reason": reason, "stop_sequence": reply.stop_text}
        self.body.update(ending, usage=told)
        yield {"type": "message_delta", "delta": ending, "usage": told}
        yield {"type": "message_stop"}

    def _begin(self, block: dict[str, Any]) -> dict[str, Any]:
        self.body["content"].append(block)
        return {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> dict[str, Any]:
        return {"type": "content_block_stop", "index": self._index}

    @property
    def _index(self) -> int:
        return len(self.body["content"]) - 1


def tool_input(arguments: str) -> dict[str, Any]:
    """The arguments of a call as the object that clients expect; what is none is handed on under `arguments`."""
    try:
        read = json.loads(arguments or "{}", parse_constant=str)
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"arguments": arguments}
