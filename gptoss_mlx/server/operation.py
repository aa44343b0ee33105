"""For whoever runs the server: `GET /health` and `GET /metrics`; for whoever writes clients: `GET /openapi.json`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gptoss_mlx import __version__

from .openapi import document
from .service import Service
from .wire import Json

router = APIRouter()


@router.get("/health", response_model=None)
async def health(request: Request) -> Response:
    """That the server answers, and which models are in memory. Needs no key."""
    service: Service = request.app.state.service
    models = {name: {"loaded": backend.load.loaded} for name, backend in service.backends.items()}
    return Json({"status": "ok", "version": __version__, "models": models})


@router.get("/metrics", response_model=None)
async def metrics(request: Request) -> Response:
    """The figures in Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", response_model=None)
async def openapi(request: Request) -> Response:
    """What can be asked, as an OpenAPI document."""
    return Json(document(request.app))
