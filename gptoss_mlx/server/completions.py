"""Completions: `POST /v1/completions`, text or tokens to be continued without harmony, a batch of them at a time.

The prompt is taken as it is. A text is ordinary text, whatever it spells; who wants control tokens gives token ids.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.errors import RequestError
from gptoss_mlx.runtime import Token
from gptoss_mlx.tokenizer import StreamDecoder, Tokenizer

from .backend import Backend, CompletionRequest
from .errors import openai_shape
from .sampling_fields import SamplingFields
from .service import Service
from .wire import DONE_FRAME, PING_FRAME, EventStream, Json, Merged, frame, read, reporting, unless_gone

DEFAULT_MAX_TOKENS = 16
"""As OpenAI has it."""
MAX_LOGPROBS = 20
MAX_PROMPTS = 256

PATH = "/v1/completions"

router = APIRouter()


class CompletionsRequest(SamplingFields):
    """A request of Completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(DEFAULT_MAX_TOKENS, ge=0)
    """0 is for `echo`."""
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = None
    suffix: None = None

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The prompts as tokens.

        Raises:
            RequestError: there is none, there are too many, or one is empty.
        """
        given = self.prompt
        if isinstance(given, str):
            prompts = [tokenizer.encode(given)]
        elif given and isinstance(given[0], int):
            prompts = [[token for token in given if isinstance(token, int)]]
        else:
            prompts = [tokenizer.encode(each) if isinstance(each, str) else list(each) for each in given]  # type: ignore[arg-type]
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise RequestError(f"prompt: 1 to {MAX_PROMPTS} prompts expected, {len(prompts)} found")
        if not all(prompts):
            raise RequestError("prompt: a token or more expected, none found")
        return prompts

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            RequestError: it does.
        """
        if self.best_of not in (None, self.n or 1):
            raise RequestError(f"best_of: as many as n ({self.n or 1}) expected, {self.best_of} found")
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens: 1 or more expected, 0 found; 0 is for echo alone")
        if self.echo and self.stream:
            raise RequestError("echo: nothing expected beside stream, true found")


@router.post(PATH, response_model=None)
async def completions(request: Request) -> Response:
    """Continue texts."""
    service: Service = request.app.state.service
    wanted = await read(request, CompletionsRequest)
    wanted.check()
    backend = service.backend(wanted.model)
    reply = _Completions(backend, wanted, service.most_choices(backend))
    if len(reply.choices) > backend.places:
        count = len(reply.choices)
        raise RequestError(f"prompt: at most {backend.places} choices of all prompts together expected, {count} found")
    if not wanted.stream:
        return Json(await unless_gone(request, _answer(service, reply)))
    async with AsyncExitStack() as held:
        tokens = await _start(service, reply, held)
        return EventStream(reporting(_frames(tokens, reply), openai_shape), held.pop_all())


async def _start(service: Service, reply: _Completions, held: AsyncExitStack) -> Merged[Token]:
    asked = reply.choices if reply.wanted.max_tokens else []
    streams = [await held.enter_async_context(await service.complete(reply.model, each.request)) for each in asked]
    return await held.enter_async_context(Merged(streams, service.settings.ping_seconds))


async def _answer(service: Service, reply: _Completions) -> dict[str, Any]:
    if reply.wanted.echo:
        for choice in reply.choices:
            await choice.echo(service, reply.model)
    async with AsyncExitStack() as held:
        async for item in await _start(service, reply, held):
            if item is not None:
                reply.choices[item[0]].add(item[1])
    choices = [choice.told() for choice in reply.choices]
    return {**reply.head(), "choices": choices, "usage": reply.usage()}


async def _frames(tokens: Merged[Token], reply: _Completions) -> AsyncGenerator[bytes, None]:
    usage: dict[str, Any] = {"usage": None} if reply.wanted.includes_usage else {}
    async for item in tokens:
        if item is None:
            yield PING_FRAME
            continue
        choice = reply.choices[item[0]]
        choice.add(item[1])
        told = choice.told()
        if told["text"] or told["finish_reason"] or choice.request.logprobs is not None:
            yield frame({**reply.head(), "choices": [told], **usage})
            choice.forget()
    if usage:
        yield frame({**reply.head(), "choices": [], "usage": reply.usage()})
    yield DONE_FRAME


class _Completions:
    """What comes of one request: `n` choices for each prompt, one prompt after the other."""

    def __init__(self, backend: Backend, wanted: CompletionsRequest, most: int) -> None:
        self.wanted = wanted
        self.model = backend.model_id
        self.prompts = wanted.prompts(backend.tokenizer)
        count = wanted.choices(most)
        self.choices = [
            _Choice(i * count + j, self._request(backend.tokenizer, prompt, j), backend.tokenizer)
            for i, prompt in enumerate(self.prompts)
            for j in range(count)
        ]
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def _request(self, tokenizer: Tokenizer, prompt: Sequence[int], choice: int) -> CompletionRequest:
        wanted = self.wanted
        return CompletionRequest(
            prompt, wanted.sampling(tokenizer, choice), wanted.max_tokens or None, logprobs=wanted.logprobs
        )

    def head(self) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self.model}

    def usage(self) -> dict[str, Any]:
        prompt, completion = sum(map(len, self.prompts)), sum(choice.count for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Choice:
    """One completion, as far as it has not been given out."""

    def __init__(self, index: int, request: CompletionRequest, tokenizer: Tokenizer) -> None:
        self.index = index
        self.request = request
        self.count = 0
        self._tokenizer = tokenizer
        self._text = ""
        self._offset = 0  # of the text in the whole completion
        self._logprobs: list[tuple[int, TokenLogprobs | None]] = []  # offset of a token, and how likely it was
        self._finish_reason: str | None = None

    async def echo(self, service: Service, model: str) -> None:
        """Put the prompt in front."""
        tokens, decoder = self.request.tokens, StreamDecoder(self._tokenizer)
        scores: list[TokenLogprobs | None] = [None] * len(tokens)
        if self.request.logprobs is not None:
            scores[1:] = await service.score(model, tokens, self.request.logprobs)
        for token, score in zip(tokens, scores, strict=True):
            if self.request.logprobs is not None:
                self._logprobs.append((len(self._text), score))
            self._text += decoder.push(token)
        self._text += decoder.flush()
        self._finish_reason = "length"  # if nothing follows

    def add(self, token: Token) -> None:
        """Go on by a token."""
        self.count += 1
        if token.logprobs is not None:
            self._logprobs.append((self._offset + len(self._text), token.logprobs))
        self._text += token.text
        limit = self.request.max_tokens
        self._finish_reason = "stop" if token.stopped else "length" if self.count == limit else None

    def told(self) -> dict[str, Any]:
        """The choice as the interface has it."""
        return {
            "index": self.index,
            "text": self._text,
            "logprobs": None if self.request.logprobs is None else self._told_logprobs(),
            "finish_reason": self._finish_reason,
        }

    def _told_logprobs(self) -> dict[str, Any]:
        first = self.request.tokens[0]
        ids = [first if told is None else told.token for _, told in self._logprobs]
        return {
            "tokens": [self._tokenizer.decode([token]) for token in ids],
            "token_logprobs": [None if told is None else told.logprob for _, told in self._logprobs],
            "top_logprobs": [None if told is None else dict(self._top(told)) for _, told in self._logprobs],
            "text_offset": [offset for offset, _ in self._logprobs],
        }

    def _top(self, told: TokenLogprobs) -> Iterator[tuple[str, float]]:
        for token, logprob in reversed(told.top):  # of two tokens with one spelling the likelier one stays
            yield self._tokenizer.decode([token]), logprob

    def forget(self) -> None:
        """What is here has been given out."""
        self._offset += len(self._text)
        self._text, self._logprobs = "", []
