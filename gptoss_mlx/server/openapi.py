"""The OpenAPI document: what every route takes, from the classes that its requests are held against.

Routes read their bodies themselves, because their refusals have the shapes of several interfaces; so FastAPI, which
knows the paths, does not know the bodies.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from . import completions, messages, responses
from .chat_types import ChatRequest
from .completions import CompletionsRequest
from .messages_types import CountTokens, CreateMessage
from .responses.types import CreateResponse
from .tokens import DetokenizeRequest, TokenizeRequest
from .wire import Body

BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatRequest,
    completions.PATH: CompletionsRequest,
    responses.PATH: CreateResponse,
    f"{responses.PATH}/input_tokens": CreateResponse,
    messages.PATH: CreateMessage,
    f"{messages.PATH}/count_tokens": CountTokens,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
"""What is posted to a path."""
REFUSAL = {
    "description": "What was wrong, in one line.",
    "content": {"application/json": {"schema": {"type": "object"}}},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application."""
    told = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = told.setdefault("components", {}).setdefault("schemas", {})
    for path, kind in BODIES.items():
        prefix = f"{kind.__name__}."  # interfaces have different things of one name
        schema = kind.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
        schemas.update({prefix + name: part for name, part in schema.pop("$defs", {}).items()})
        content = {"application/json": {"schema": schema}}
        told["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    for operations in told["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # which FastAPI expects of itself
            operation["responses"]["4XX"] = REFUSAL
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return told
