"""Running the application under uvicorn until somebody stops it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

import uvicorn

from gptoss_mlx.errors import RequestError

from .app import create_app
from .local import LocalBackend
from .logs import log, write_log
from .responses import Responses
from .settings import Settings

KEEP_ALIVE = 75
"""Seconds that a connection may be idle. Clients must be the first to close theirs, which httpx, and so OpenAI's
package, does after 5: else one may send a request just when the server closes."""


def run(
    backends: Mapping[str, LocalBackend], settings: Settings, kept: Responses, *, host: str, port: int, drain: int
) -> None:
    """Serve until SIGINT or SIGTERM; then take no more requests, and let those in progress end.

    Args:
        backends: the models by name. The first one is loaded at once, the others when they are asked for.
        settings: how.
        kept: the store of responses and the tools that run here.
        host: address to listen at.
        port: 0 takes a free one, which the log tells.
        drain: seconds that requests in progress get at the end.

    Raises:
        RequestError: the address cannot be listened at.
        GptOssError: the first model cannot be loaded, or a tool cannot be started.
    """
    write_log(content=settings.log_content)
    with _listen(host, port) as listener:
        app = create_app(backends, settings, kept)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=drain,
            timeout_keep_alive=KEEP_ALIVE,
        )
        _Server(config, next(iter(backends.values())), kept).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that begins to listen when its first model is loaded and its tools are there."""

    def __init__(self, config: uvicorn.Config, first: LocalBackend, kept: Responses) -> None:
        super().__init__(config)
        self._first = first
        self._kept = kept

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load, and begin."""
        await self._first.ready()
        await self._kept.open()
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            page = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            log("listening", url=f"{page}v1", page=page)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise RequestError(f"host: {host} port {port} cannot be listened at ({error.strerror})") from None
    listener.set_inheritable(True)
    return listener
