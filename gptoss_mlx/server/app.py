"""The application: interfaces, models and settings put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from gptoss_mlx import __version__

from . import chat, completions, messages, models, operation, page, responses, tokens
from .backend import Backend
from .errors import ErrorShape, openai_shape
from .guard import Guard
from .service import Service
from .settings import Settings
from .wire import end


@dataclass(frozen=True)
class Interface:
    """Some routes. They find the `Service` in `request.app.state.service`."""

    router: APIRouter
    prefix: str = "/"
    """Errors under this path have the shape."""
    shape: ErrorShape = openai_shape


INTERFACES = (
    Interface(chat.router),
    Interface(completions.router, completions.PATH, partial(openai_shape, prompt="prompt")),
    Interface(models.router),
    Interface(tokens.router),
    Interface(operation.router),
    Interface(responses.router, responses.PATH, partial(openai_shape, prompt="input")),
    Interface(page.router),
    Interface(messages.router, messages.PATH, messages.anthropic_shape),
)


def create_app(
    backends: Mapping[str, Backend], settings: Settings | None = None, kept: responses.Responses | None = None
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        backends: the models, by their `model_id`; nothing else can be asked for.
        settings: how it behaves.
        kept: the store of responses and the tools that run here, opened by the caller and closed with the application;
            None: a store in memory, and no tools.
    """
    settings = settings or Settings()
    kept = kept or responses.Responses()
    service = Service(backends, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        unloading = asyncio.create_task(service.unload_idle())
        try:
            yield
        finally:
            await end(unloading)
            await kept.close()
            await service.close()

    app = FastAPI(
        title="gptoss_mlx",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HTTPException: _pass_on},
    )
    app.state.service = service
    app.state.responses = kept
    for interface in INTERFACES:
        app.include_router(interface.router)
    app.add_middleware(Guard, settings=settings, metrics=service.metrics, shape_of=shape_of)
    if settings.cors:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])
    return app


def shape_of(path: str) -> ErrorShape:
    """The shape of errors at a path: that of the interface with the longest prefix of it."""
    matching = [interface for interface in INTERFACES if path.startswith(interface.prefix)]
    return max(matching, key=lambda interface: len(interface.prefix), default=INTERFACES[0]).shape


async def _pass_on(_: Request, error: Exception) -> Response:
    raise error  # the guard answers it
