"""What stands before every interface: the key, the size of requests, errors of all kinds, the log and the figures."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CLIENT_GONE, ApiError, ErrorShape, to_api_error
from .logs import log
from .metrics import Metrics
from .page import ASSETS
from .settings import Settings
from .wire import Json

OPEN_PATHS = {"/health", *ASSETS}
"""What needs no key."""
MOST_DIGITS = 18
"""Of a length that is worth reading."""
_UNRENAMED = re.compile(r"(?:localhost|[\d.]+|\[[\da-f:.]+\])(?::\d+)?", re.IGNORECASE)
"""A host that nobody can let lead here: an address, or this machine itself."""


class Guard:
    """ASGI middleware; see the module.

    Args:
        app: what is guarded.
        settings: how.
        metrics: where requests are counted.
        shape_of: the shape of errors for a path.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, shape_of: Callable[[str], ErrorShape]
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._shape_of = shape_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            self._check_origin(scope)
            self._check_key(scope)
            await self._app(scope, self._limited(scope, receive), answer.send)
        except Exception as error:  # noqa: BLE001  a request that fails must not take anything with it
            await self._refuse(error, answer, scope, receive)
        finally:
            self._record(scope, answer)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse web pages that the operator has not named: one that is open in a browser here could ask as well."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or {origin, "*"} & set(self._settings.cors) or self._is_own(origin, headers.get("host", "")):
            return
        raise ApiError(403, f"origin: web pages of {origin[:80]} may not ask; --cors lets them", code="origin")

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether it is this server's page that asks.

        Whoever owns a name may let it lead here and so make a page of theirs look like one of ours; such a page has no
        key, so names count where there is one.
        """
        _, _, place = origin.partition("://")
        return place == host != "" and (self._settings.api_key is not None or bool(_UNRENAMED.fullmatch(host)))

    def _check_key(self, scope: Scope) -> None:
        expected, path = self._settings.api_key, scope["path"]
        if expected is None or path in OPEN_PATHS:
            return
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(shown.encode(), expected.encode()):
            raise ApiError(
                401,
                "api key: the server's key expected as `Authorization: Bearer KEY` or `x-api-key: KEY`, "
                f"{'another one' if shown else 'none'} found",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that refuses more bytes than the limit."""
        limit = self._settings.max_body
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > MOST_DIGITS or int(declared) > limit):
            raise _too_large(limit)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        return limited

    async def _refuse(self, error: Exception, answer: _Answer, scope: Scope, receive: Receive) -> None:
        refusal = to_api_error(error)
        if refusal.status_code >= 500:
            log("request failed", logging.ERROR, failed=error, request_id=answer.id)
        if answer.status is None:
            shape = self._shape_of(scope["path"])
            response = Json(shape(refusal), refusal.status_code, refusal.headers)
            await response(scope, receive, answer.send)

    def _record(self, scope: Scope, answer: _Answer) -> None:
        route = getattr(scope.get("route"), "path", "other")
        seconds = time.perf_counter() - answer.started
        status = answer.status or CLIENT_GONE
        self._metrics.record_request(route, status, seconds)
        fields = {"request_id": answer.id, "method": scope["method"], "path": scope["path"], "status": status}
        said = scope.get("state", {}).get("body")
        if self._settings.log_content and said is not None:
            fields["body"] = said.decode("utf-8", "replace")
        log("request", **fields, seconds=round(seconds, 4))


class _Answer:
    """What has been sent to a client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.id = f"req_{secrets.token_hex(12)}"
        self.status: int | None = None
        self.started = time.perf_counter()

    async def send(self, message: Message) -> None:
        """Send on, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.id
        await self._send(message)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"body: {limit} bytes at most expected, more found", code="request_too_large")
