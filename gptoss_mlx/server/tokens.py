"""Text to tokens and back: `POST /tokenize` and `POST /detokenize`."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from gptoss_mlx.errors import RequestError

from .backend import TurnRequest
from .chat_types import ToolSpec
from .service import Service
from .wire import Body, Json, read

router = APIRouter()


class TokenizeRequest(Body):
    """A text, or a conversation whose prompt is wanted."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[ToolSpec] | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None


class DetokenizeRequest(Body):
    """Tokens whose text is wanted."""

    model: str | None = None
    tokens: list[int]


@router.post("/tokenize", response_model=None)
async def tokenize(request: Request) -> Response:
    """The tokens of a text, which is ordinary text whatever it spells, or of a conversation's prompt."""
    service: Service = request.app.state.service
    wanted = await read(request, TokenizeRequest)
    backend = service.backend(wanted.model)
    if (wanted.prompt is None) == (wanted.messages is None):
        raise RequestError("prompt: either a prompt or messages expected")
    if wanted.messages is None:
        tokens = backend.tokenizer.encode(wanted.prompt or "")
    else:
        tools = tuple(tool.model_dump(exclude_none=True) for tool in wanted.tools or ())
        tokens = await backend.prompt(TurnRequest(wanted.messages, effort=wanted.reasoning_effort, tools=tools))
    return Json({"tokens": tokens, "count": len(tokens), "max_model_len": backend.context})


@router.post("/detokenize", response_model=None)
async def detokenize(request: Request) -> Response:
    """The text of tokens; control tokens are spelled out."""
    service: Service = request.app.state.service
    wanted = await read(request, DetokenizeRequest)
    tokenizer = service.backend(wanted.model).tokenizer
    for token in wanted.tokens:
        if not 0 <= token < tokenizer.size:
            raise RequestError(f"tokens: ids from 0 to {tokenizer.size - 1} expected, {token} found")
    return Json({"prompt": tokenizer.decode(wanted.tokens)})
