"""The web page at `/`: a chat made of plain files, and what it has to know of this server.

The page asks `/v1/responses` as any other client does. It loads nothing from elsewhere, and `HEADERS` make browsers see
to that: whatever a model writes, no script, picture or request of it comes to be.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from ..built_in import BuiltIns
from ..responses import Responses
from ..wire import Json

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter()


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, file: Path) -> Asset:
        """The file, with a tag that changes when it does."""
        body = file.read_bytes()
        return cls(body, MEDIA_TYPES[file.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _assets() -> dict[str, Asset]:
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in MEDIA_TYPES)
    return {"/" if file.name == "index.html" else f"/page/{file.name}": Asset.read(file) for file in files}


ASSETS = _assets()
"""The files by their paths. They need no key: the page is what asks for it."""


async def _serve(request: Request) -> Response:
    asset = ASSETS[request.scope["route"].path]
    headers = {**HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


for _path in ASSETS:
    router.add_api_route(_path, _serve, methods=["GET"], response_model=None)


@router.get("/page/tools", response_model=None)
async def tools(request: Request) -> Response:
    """What a request to `/v1/responses` may offer the model here, in the form of its `tools`."""
    room: Responses = request.app.state.responses
    return Json({"object": "list", "data": _offers(room.built_ins)})


def _offers(built_ins: BuiltIns) -> list[dict[str, Any]]:
    offers: list[dict[str, Any]] = []
    if built_ins.browser is not None:
        offers.append({"type": "web_search"})
    if built_ins.python is not None:
        offers.append({"type": "code_interpreter", "container": {"type": "auto"}})
    labels = {label for label, _ in built_ins.mcp.origins.values()} if built_ins.mcp is not None else set()
    return offers + [{"type": "mcp", "server_label": label} for label in sorted(labels)]
