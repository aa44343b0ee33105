"""Chat Completions: `POST /v1/chat/completions`.

The answer is the sum of the deltas that a stream would have brought, so both ways tell the same. Thoughts are in
`reasoning_content` and, for clients that look there, in `reasoning`; what the model tells the user before a call is
content like the answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.events import CallDelta, CallStarted, Done, Event, TextDelta, Usage
from gptoss_mlx.tokenizer import Tokenizer

from .backend import TurnRequest
from .chat_types import ChatRequest
from .errors import openai_shape
from .service import Service
from .wire import DONE_FRAME, PING_FRAME, EventStream, Json, Merged, frame, read, reporting, unless_gone

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    wanted = await read(request, ChatRequest)
    backend = service.backend(wanted.model)
    turns = [wanted.turn(backend.tokenizer, i) for i in range(wanted.choices(service.most_choices(backend)))]
    reply = _ChatReply(backend.model_id, turns, backend.tokenizer)
    if not wanted.stream:
        return Json(await unless_gone(request, _answer(service, reply)))
    async with AsyncExitStack() as held:
        events = await _start(service, reply, held)
        frames = reporting(_frames(events, reply, wanted.includes_usage), openai_shape)
        return EventStream(frames, held.pop_all())


async def _start(service: Service, reply: _ChatReply, held: AsyncExitStack) -> Merged[Event]:
    streams = [await held.enter_async_context(await service.start(reply.model, turn)) for turn in reply.turns]
    return await held.enter_async_context(Merged(streams, service.settings.ping_seconds))


async def _answer(service: Service, reply: _ChatReply) -> dict[str, Any]:
    async with AsyncExitStack() as held:
        async for item in await _start(service, reply, held):
            if item is not None:
                choice, event = item
                for part in reply.choices[choice].parts(event):
                    reply.choices[choice].add(part)
    return reply.completion()


async def _frames(events: Merged[Event], reply: _ChatReply, usage: bool) -> AsyncGenerator[bytes, None]:
    for choice in reply.choices:
        yield frame(reply.chunk(choice, {"delta": {"role": "assistant", "content": ""}}, usage))
    async for item in events:
        if item is None:
            yield PING_FRAME
            continue
        number, event = item
        for part in reply.choices[number].parts(event):
            yield frame(reply.chunk(reply.choices[number], part, usage))
    if usage:
        yield frame({**reply.head("chat.completion.chunk"), "choices": [], "usage": reply.usage()})
    yield DONE_FRAME


class _ChatReply:
    """The choices of one request."""

    def __init__(self, model: str, turns: Sequence[TurnRequest], tokenizer: Tokenizer) -> None:
        self.model = model
        self.turns = turns
        self.choices = [_Choice(i, turn, tokenizer) for i, turn in enumerate(turns)]
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def chunk(self, choice: _Choice, part: dict[str, Any], usage: bool) -> dict[str, Any]:
        told = {"index": choice.index, "logprobs": None, "finish_reason": None, **part}
        return {**self.head("chat.completion.chunk"), "choices": [told], **({"usage": None} if usage else {})}

    def completion(self) -> dict[str, Any]:
        choices = [choice.whole() for choice in self.choices]
        return {**self.head("chat.completion"), "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        return chat_usage([choice.usage for choice in self.choices])


def chat_usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage of a request with one or more choices; they share its prompt."""
    prompt, cached = usages[0].prompt_tokens, max(usage.cached_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)},
    }


class _Choice:
    """One answer: what each event adds to it, and the sum."""

    def __init__(self, index: int, turn: TurnRequest, tokenizer: Tokenizer) -> None:
        self.index = index
        self.usage = Usage()
        self._turn = turn
        self._tokenizer = tokenizer
        self._calls: dict[int, int] = {}  # index among the reply's calls -> index among those for the client
        self._channel: str | None = None  # of the content's last piece
        self._message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        self._logprobs: list[dict[str, Any]] = []
        self._finish_reason = "stop"

    def parts(self, event: Event) -> Iterator[dict[str, Any]]:
        """What a stream tells of an event: `delta`, and `logprobs` or `finish_reason` where there is one."""
        match event:
            case TextDelta("analysis", text):
                yield {"delta": {"reasoning_content": text, "reasoning": text}}
            case TextDelta(channel, text, logprobs):
                text = self._separated(channel, text)
                told = [token_logprob(self._tokenizer, each) for each in logprobs]
                shown = {"logprobs": {"content": told, "refusal": None}} if self._turn.logprobs is not None else {}
                yield {"delta": {"content": text}, **shown}
            case CallStarted(index, number, recipient, name) if self._turn.is_for_client(recipient):
                self._calls[index] = len(self._calls)
                function = {"name": name, "arguments": ""}
                yield self._call(index, id=number, type="function", function=function)
            case CallDelta(index, _, _, text) if index in self._calls:
                yield self._call(index, function={"arguments": text})
            case Done(reply):
                self.usage = reply.usage
                reason = reply.finish_reason
                yield {"delta": {}, "finish_reason": "stop" if reason == "cancelled" else reason}

    def _separated(self, channel: str, text: str) -> str:
        """A preamble and the answer are paragraphs of one content."""
        before, self._channel = self._channel, channel
        return text if before in (None, channel) else f"\n\n{text}"

    def _call(self, index: int, **fields: Any) -> dict[str, Any]:
        return {"delta": {"tool_calls": [{"index": self._calls[index], **fields}]}}

    def add(self, part: dict[str, Any]) -> None:
        """Take a part into the sum."""
        for name, value in part["delta"].items():
            if name == "tool_calls":
                self._add_call(value[0])
            else:
                self._message[name] = (self._message.get(name) or "") + value
        self._logprobs += (part.get("logprobs") or {}).get("content", ())
        self._finish_reason = part.get("finish_reason") or self._finish_reason

    def _add_call(self, told: dict[str, Any]) -> None:
        calls = self._message.setdefault("tool_calls", [])
        if told["index"] == len(calls):
            calls.append({"id": told["id"], "type": "function", "function": dict(told["function"])})
        else:
            calls[told["index"]]["function"]["arguments"] += told["function"]["arguments"]

    def whole(self) -> dict[str, Any]:
        """The sum."""
        if self._message["content"] is None and "tool_calls" not in self._message:
            self._message["content"] = ""
        logprobs = {"content": self._logprobs, "refusal": None} if self._turn.logprobs is not None else None
        return {
            "index": self.index,
            "message": self._message,
            "logprobs": logprobs,
            "finish_reason": self._finish_reason,
        }


def token_logprob(tokenizer: Tokenizer, told: TokenLogprobs) -> dict[str, Any]:
    """A token's log-probability as Chat Completions and Responses write it."""
    top = [_logprob(tokenizer, token, logprob) for token, logprob in told.top]
    return {**_logprob(tokenizer, told.token, told.logprob), "top_logprobs": top}


def _logprob(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}
