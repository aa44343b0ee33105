"""A model in this process as a backend: loaded when it is first asked, let go when nobody asks for it any more."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine import EngineOptions, Request, StopText, TokenLogprobs
from gptoss_mlx.engine.sequence import logprobs_of
from gptoss_mlx.errors import BusyError
from gptoss_mlx.events import Event
from gptoss_mlx.harmony import render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.runtime import MAX_TOKENS, GptOss
from gptoss_mlx.tokenizer import StreamDecoder, Tokenizer

from .backend import CompletionRequest, Load, Piece, Stream, TurnRequest

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

    async def count(self, request: TurnRequest) -> int:
        """Tokens of the prompt that `request` makes; see `Backend.count`."""
        return await asyncio.to_thread(self._count, request)

    def _count(self, request: TurnRequest) -> int:
        conversation = to_conversation(
            request.messages,
            effort=request.effort,
            instructions=request.instructions,
            tools=request.tools,
            date=request.date,
        )
        return len(render(conversation, self.tokenizer))

    async def start(self, request: TurnRequest) -> Stream[Event]:
        """The events of a reply; see `Backend.start`."""
        return await self._start(lambda runtime: _turn(runtime, request, self._max_tokens))

    async def complete(self, request: CompletionRequest) -> Stream[Piece]:
        """The pieces of a completion; see `Backend.complete`."""
        return await self._start(lambda runtime: _completion(runtime, request))

    async def score(self, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probabilities of given tokens; see `Backend.score`."""
        async with await self._start(lambda runtime: _scores(runtime, tokens, top)) as scores:
            return [score async for score in scores]

    async def _start(self, prepare: Callable[[GptOss], Generator[T, None, None]]) -> Stream[T]:
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
