"""A model in this process as a backend: loaded when it is first asked, let go when nobody asks for it any more."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine import EngineOptions, TokenLogprobs, check_tokens
from gptoss_mlx.engine.sequence import logprobs_of
from gptoss_mlx.errors import BusyError
from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, Done, Event
from gptoss_mlx.harmony import render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.runtime import MAX_TOKENS, GptOss, Token
from gptoss_mlx.tokenizer import Tokenizer

from .backend import CompletionRequest, Load, Stream, TurnRequest

T = TypeVar("T")


class LocalBackend:
    """Answers with a model of this machine.

    Args:
        model_id: what clients call it.
        folder: where it lies. Its configuration and tokenizer are read at once, its weights when they are needed.
        options: what its engine may take. Whoever finds all its places taken is refused.
        max_tokens: of a reply that does not say how many.

    Raises:
        ConfigError, TokenizerError: the folder is not a whole gpt-oss model.
    """

    def __init__(
        self, model_id: str, folder: Path, options: EngineOptions | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        self.model_id = model_id
        self.context = ModelConfig.from_folder(folder).max_position_embeddings
        self.created = int(folder.stat().st_mtime)
        self.tokenizer = Tokenizer.from_folder(folder)
        self._folder = folder
        self._options = options or EngineOptions()
        self._max_tokens = max_tokens
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
        model = GptOss.from_folder(self._folder)
        return GptOss(model.model, model.config, model.tokenizer, model.folder, self._options)

    async def prompt(self, request: TurnRequest) -> list[int]:
        """The prompt that `request` makes; see `Backend.prompt`."""
        return await asyncio.to_thread(self._prompt, request)

    def _prompt(self, request: TurnRequest) -> list[int]:
        conversation = to_conversation(
            request.messages,
            effort=request.effort,
            instructions=request.instructions,
            tools=request.tools,
            date=request.date,
        )
        return render(conversation, self.tokenizer)

    async def start(self, request: TurnRequest) -> Stream[Event]:
        """The events of a reply; see `Backend.start`."""
        return await self._start(lambda runtime: _turn(runtime, request, self._max_tokens))

    async def complete(self, request: CompletionRequest) -> Stream[Token]:
        """The pieces of a completion; see `Backend.complete`."""
        return await self._start(lambda runtime: _completion(runtime, request))

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probabilities of given tokens; see `Backend.score`."""
        async with await self._start(lambda runtime: _scores(runtime, tokens, top)) as scores:
            return [score async for score in scores]

    async def _start(self, prepare: Callable[[GptOss], Iterator[T]]) -> Stream[T]:
        self._take()
        try:
            runtime = await self.ready()
            steps = await asyncio.to_thread(prepare, runtime)
        except BaseException:
            self._release()
            raise
        return Stream(in_thread(steps), self._release)

    def _take(self) -> None:
        places = self._options.max_sequences + self._options.max_waiting
        if self._taken >= places:
            raise BusyError(f"{self.model_id}: all {places} places are taken; try again later")
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
        """Let the weights go."""
        self._runtime = None
        gc.collect()
        mx.clear_cache()


def _turn(runtime: GptOss, request: TurnRequest, max_tokens: int) -> Iterator[Event]:
    events = runtime.stream(
        request.messages,
        effort=request.effort,
        instructions=request.instructions,
        tools=request.tools,
        sampling=request.sampling,
        max_tokens=request.max_tokens or max_tokens,
        date=request.date,
    )
    return events if request.parallel_calls else _first_call(events, request)


def _first_call(events: Iterator[Event], request: TurnRequest) -> Iterator[Event]:
    """The events without any call for the client after the first."""
    first: int | None = None
    for event in events:
        match event:
            case CallStarted(index, _, recipient) if first is None and request.is_for_client(recipient):
                first = index
            case CallStarted(_, _, recipient) | CallDelta(_, _, recipient) if request.is_for_client(recipient):
                if event.index != first:
                    continue
            case CallCompleted(index, call) if index != first and request.is_for_client(call.recipient):
                continue
            case Done(reply):
                event = Done(replace(reply, calls=reply.calls[:1]))
        yield event


def _completion(runtime: GptOss, request: CompletionRequest) -> Iterator[Token]:
    check_tokens(runtime.model, request.tokens)
    return runtime.generate(request.tokens, request.sampling, request.max_tokens, request.logprobs)


def _scores(runtime: GptOss, tokens: Sequence[int], top: int) -> Iterator[TokenLogprobs]:
    check_tokens(runtime.model, tokens)
    return _scored(runtime, tokens, top)


def _scored(runtime: GptOss, tokens: Sequence[int], top: int) -> Iterator[TokenLogprobs]:
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


async def in_thread(steps: Iterator[T]) -> AsyncGenerator[T, None]:
    """What `steps` yields, worked out in a thread of its own; closing this one closes it after its current step."""
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "gptoss-mlx generation")
    try:
        while (step := await loop.run_in_executor(thread, _next, steps)) is not None:
            yield step[0]
    finally:
        thread.submit(_close, steps)
        thread.shutdown(wait=False)


def _next(steps: Iterator[T]) -> tuple[T] | None:
    """The next item, None at the end: a future cannot hold a StopIteration."""
    for item in steps:
        return (item,)
    return None


def _close(steps: Iterator[object]) -> None:
    if isinstance(steps, Generator):
        steps.close()
