"""The models of a server, by the names that clients may use: the one thing that interfaces hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gptoss_mlx.engine import TokenLogprobs
from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import Event
from gptoss_mlx.runtime import Token

from .backend import Backend, CompletionRequest, Stream, TurnRequest
from .errors import ApiError
from .metrics import Metrics
from .settings import Settings


class Service:
    """Finds the model that a request names, and counts what it does.

    Args:
        backends: at least one, by its `model_id`; nothing else can be asked for. The first one answers requests without
            a name.
        settings: how.

    Raises:
        RequestError: there is no model, or one has another name.
    """

    def __init__(self, backends: Mapping[str, Backend], settings: Settings) -> None:
        if not backends or any(name != backend.model_id for name, backend in backends.items()):
            raise RequestError(f"backends: models by their model_id expected, {list(backends)} found")
        self.backends = dict(backends)
        self.settings = settings
        self.metrics = Metrics(self.backends.values())

    def backend(self, name: str | None) -> Backend:
        """The model called `name`.

        Raises:
            ApiError: there is none.
        """
        if name is None:
            return next(iter(self.backends.values()))
        if name not in self.backends:
            known = ", ".join(self.backends)
            raise ApiError(
                404, f"model: one of {known} expected, {name!r} found", code="model_not_found", param="model"
            )
        return self.backends[name]

    def most_choices(self, backend: Backend) -> int:
        """Choices that a request may ask a model for: no more than there could ever be places for."""
        return min(self.settings.max_choices, backend.places)

    async def start(self, name: str | None, request: TurnRequest) -> Stream[Event]:
        """The events of a reply; whoever gets the stream closes it. See `Backend.start`.

        Raises:
            ApiError: there is no such model.
            GptOssError: as `Backend.start`.
        """
        backend = self.backend(name)
        return self.metrics.watch_reply(backend.model_id, await backend.start(request))

    async def complete(self, name: str | None, request: CompletionRequest) -> Stream[Token]:
        """The tokens of a completion; see `start`."""
        backend = self.backend(name)
        stream = await backend.complete(request)
        return self.metrics.watch_completion(backend.model_id, len(request.tokens), stream)

    async def score(self, name: str | None, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probabilities of given tokens; see `Backend.score`."""
        return await self.backend(name).score(tokens, top)

    async def unload_idle(self) -> None:
        """Let go the weights of models that nobody asks for, until cancelled."""
        seconds = self.settings.idle_unload
        while seconds is not None:
            await asyncio.sleep(min(seconds / 4, 10.0))
            for backend in self.backends.values():
                await backend.unload_if_idle(seconds)

    async def close(self) -> None:
        """Let everything go."""
        for backend in self.backends.values():
            await backend.close()
