"""The models that may be asked: `GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from .backend import Backend
from .service import Service
from .wire import Json

router = APIRouter()


@router.get("/v1/models", response_model=None)
async def list_models(request: Request) -> Response:
    """All models."""
    service: Service = request.app.state.service
    return Json({"object": "list", "data": [_told(name, each) for name, each in service.backends.items()]})


@router.get("/v1/models/{name:path}", response_model=None)
async def one_model(request: Request, name: str) -> Response:
    """One model."""
    service: Service = request.app.state.service
    return Json(_told(name, service.backend(name)))


def _told(name: str, backend: Backend) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": backend.created,
        "owned_by": "gptoss_mlx",
        "max_model_len": backend.context,
    }
