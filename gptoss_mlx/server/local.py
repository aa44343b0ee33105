"""A model in this process as a backend: loaded when it is first asked, let go when nobody asks for it any more."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.conversation import MAX_TOKENS, Dialogue
from gptoss_mlx.engine import EngineOptions, Request, TokenLogprobs, check_tokens
from gptoss_mlx.engine.sequence import logprobs_of
from gptoss_mlx.errors import BusyError, MemoryLimitError
from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Done, Event, ToolCall
from gptoss_mlx.memory import CONTEXT
from gptoss_mlx.runtime import GptOss, Token
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.worker import Worker

from .backend import CompletionRequest, Load, Stream, TurnRequest
from .errors import TOO_LONG, ApiError

T = TypeVar("T")
Cancelled = Callable[[], bool]


class LocalBackend:
    """Answers with a model of this machine.

    Args:
        model_id: what clients call it.
        folder: where it lies. Its configuration and tokenizer are read at once, its weights when they are needed.
        options: what its engine may take. Whoever finds all its places taken is refused.
        max_tokens: of a reply that does not say how many.
        room: tokens that must fit in memory beside the weights.
        force: load it even if it does not fit.

    Raises:
        ConfigError, TokenizerError: the folder is not a whole gpt-oss model.
    """

    def __init__(
        self,
        model_id: str,
        folder: Path,
        options: EngineOptions | None = None,
        max_tokens: int = MAX_TOKENS,
        *,
        room: int = CONTEXT,
        force: bool = False,
    ) -> None:
        self.model_id = model_id
        self.context = ModelConfig.from_folder(folder).max_position_embeddings
        self.created = int(folder.stat().st_mtime)
        self.tokenizer = Tokenizer.from_folder(folder)
        self._folder = folder
        self._options = options or EngineOptions()
        self.places = self._options.max_sequences + self._options.max_waiting
        self._max_tokens = max_tokens
        self._room = room
        self._force = force
        self._runtime: GptOss | None = None
        self._loading = asyncio.Lock()
        self._taken = 0
        self._last_used = time.monotonic()

    @property
    def load(self) -> Load:
        """What it is doing."""
        runtime = self._runtime
        if runtime is None:
            return Load(loaded=False, waiting=self._taken)
        return Load(True, runtime.engine.running, runtime.engine.waiting)

    async def ready(self) -> GptOss:
        """The model, loaded if it is not yet."""
        async with self._loading:
            if self._runtime is None:
                self._runtime = await asyncio.to_thread(self._loaded)
            return self._runtime

    def _loaded(self) -> GptOss:
        options = replace(self._options, max_waiting=sys.maxsize)  # `_take` counts: a refusal needs a status
        return GptOss.from_folder(self._folder, context=self._room, force=self._force, options=options)

    async def prompt(self, request: TurnRequest) -> list[int]:
        """The prompt that `request` makes; see `Backend.prompt`."""
        runtime = await self.ready()
        dialogue = await asyncio.to_thread(_dialogue, runtime, request, self._max_tokens)
        return list(dialogue.prompt)

    async def start(self, request: TurnRequest) -> Stream[Event]:
        """The events of a reply; see `Backend.start`."""
        return await self._start(lambda runtime, gone: _events(runtime, request, self._max_tokens, gone))

    async def complete(self, request: CompletionRequest) -> Stream[Token]:
        """The pieces of a completion; see `Backend.complete`."""
        return await self._start(lambda runtime, gone: in_thread(_completion(runtime, request, gone)))

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probabilities of given tokens; see `Backend.score`."""
        async with await self._start(lambda runtime, _: in_thread(_scores(runtime, tokens, top))) as scores:
            return [score async for score in scores]

    async def _start(self, prepare: Callable[[GptOss, Cancelled], AsyncGenerator[T, None]]) -> Stream[T]:
        self._take()
        gone = threading.Event()

        def release() -> None:
            gone.set()
            self._release()

        try:
            runtime = await self.ready()
            return Stream(await asyncio.to_thread(prepare, runtime, gone.is_set), release)
        except BaseException:  # a client that has gone as well: the place must be free again
            release()
            raise

    def _take(self) -> None:
        if self._taken >= self.places:
            raise BusyError(f"{self.model_id}: all {self.places} places are taken; try again later")
        self._taken += 1

    def _release(self) -> None:
        self._taken -= 1
        self._last_used = time.monotonic()

    async def unload_if_idle(self, seconds: float) -> bool:
        """Let the weights go; see `Backend.unload_if_idle`."""
        idle = not self._taken and time.monotonic() - self._last_used >= seconds
        if self._runtime is None or not idle:
            return False
        await self.close()
        return True

    async def close(self) -> None:
        """Let the weights go, once the prompts that were read have been written where they are to be kept."""
        async with self._loading:  # whoever asks meanwhile waits, as two would not fit in memory
            await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        if self._runtime is not None:
            self._runtime.engine.save()
        self._runtime = None
        gc.collect()
        mx.clear_cache()


def _events(
    runtime: GptOss, request: TurnRequest, max_tokens: int, cancelled: Cancelled
) -> AsyncGenerator[Event, None]:
    dialogue = _dialogue(runtime, request, max_tokens, cancelled)
    _check(runtime, dialogue.prompt, request.max_tokens or max_tokens)
    events = dialogue.aevents()
    return events if request.parallel_calls else _first_call(events, request)


def _check(runtime: GptOss, prompt: Sequence[int], max_tokens: int | None) -> None:
    """Refuse what could never run, while there can still be a status."""
    try:
        runtime.engine.check(Request(prompt, max_tokens=max_tokens))
    except MemoryLimitError as error:  # waiting would not help, unlike where the model itself does not fit
        raise ApiError(400, f"max_tokens: {error}", code=TOO_LONG, param="max_tokens") from None


def _dialogue(runtime: GptOss, request: TurnRequest, max_tokens: int, cancelled: Cancelled | None = None) -> Dialogue:
    return runtime.dialogue(
        request.messages,
        effort=request.effort,
        instructions=request.instructions,
        tools=(*request.tools, *request.built_in),
        tool_choice=request.tool_choice,
        response_format=request.response_format,
        sampling=request.sampling,
        max_tokens=max_tokens if request.max_tokens is None else request.max_tokens,
        reasoning_budget=request.reasoning_budget,
        logprobs=request.logprobs,
        cancelled=cancelled,
        date=request.date,
    )


async def _first_call(events: AsyncGenerator[Event, None], request: TurnRequest) -> AsyncGenerator[Event, None]:
    """The events without any call for the client after the first."""
    first: int | None = None
    async with aclosing(events):
        async for event in events:
            match event:
                case CallStarted(index, _, recipient) if first is None and request.is_for_client(recipient):
                    first = index
                case CallStarted(index, _, to) | CallDelta(index, _, to) | CallCompleted(index, ToolCall(recipient=to)):
                    if index != first and request.is_for_client(to):
                        continue
                case Done(reply):
                    event = Done(replace(reply, calls=reply.calls[:1]))
            yield event


def _completion(runtime: GptOss, request: CompletionRequest, cancelled: Cancelled) -> Generator[Token, None, None]:
    _check(runtime, request.tokens, request.max_tokens)
    return runtime.generate(request.tokens, request.sampling, request.max_tokens, request.logprobs, cancelled)


def _scores(runtime: GptOss, tokens: Sequence[int], top: int) -> Generator[TokenLogprobs, None, None]:
    check_tokens(runtime.model, tokens)
    return _scored(runtime, tokens, top)


def _scored(runtime: GptOss, tokens: Sequence[int], top: int) -> Generator[TokenLogprobs, None, None]:
    if len(tokens) < 2:
        return
    following = iter(tokens[1:])
    blocks = runtime.logits_blocks(tokens[:-1])
    while True:
        with runtime.engine.paused():
            block = next(blocks, None)
        if block is None:
            return
        for row in block:
            yield logprobs_of(row, next(following), top)


async def in_thread(steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """What `steps` yields, worked out in a thread of its own."""
    with Worker() as worker:
        async with aclosing(worker.iterate(steps)) as items:
            async for item in items:
                yield item
