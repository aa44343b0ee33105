"""What clients are told when something goes wrong: a status, and one line in the error shape of the interface.

Whatever a request does, it gets such an answer and never a stack trace. Each interface may bring a shape of its own;
OpenAI's is the one for everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gptoss_mlx.errors import BusyError, ContextError, GptOssError, HarmonyError, RequestError

CLIENT_GONE = 499
"""The status that the log has for a client that did not wait; nobody else sees it."""
RETRY_SECONDS = 1
TOO_LONG = "context_length_exceeded"
"""OpenAI's code for prompts that clients had better shorten."""
PROMPT = "messages"
"""What most interfaces call the prompt."""
_NAMED = re.compile(r"([a-z_]\w*(?:[.\[][\w.\[\]]*)?): ")
"""How messages of RequestError begin: with the argument's name."""


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one line that names the thing, what was expected, what was found, and the way out.
        code: a word for programs, as OpenAI uses it.
        param: the parameter that is wrong.
        headers: further headers of the answer.
        too_long: the prompt's length, where that is what is wrong: interfaces have their own words for it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        too_long: ContextError | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message = message
        self.code = code
        self.param = param
        self.too_long = too_long


ErrorShape = Callable[[ApiError], dict[str, Any]]
"""The body of an error in some interface."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_shape(error: ApiError, prompt: str = PROMPT) -> dict[str, Any]:
    """The body that OpenAI's clients read, where the prompt is the parameter `prompt`."""
    if error.too_long is not None:
        told = ContextError(prompt, error.too_long.tokens, error.too_long.limit)
        error = ApiError(error.status_code, str(told), code=error.code, param=prompt)
    kind = _TYPES.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def brief(value: Any) -> str:
    """A value that a client sent, as messages show it."""
    return json.dumps(value, ensure_ascii=False, default=str)[:80]


def to_api_error(error: Exception) -> ApiError:
    """What a client is told of `error`; of one that nobody expected only that it happened."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case ClientDisconnect():
            return ApiError(CLIENT_GONE, "the client has gone")
        case BusyError():
            return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(RETRY_SECONDS)})
        case ContextError():
            return ApiError(400, str(error), code=TOO_LONG, param=PROMPT, too_long=error)
        case RequestError() | HarmonyError():
            named = _NAMED.match(str(error))
            return ApiError(400, str(error), param=named.group(1) if named else None)
        case GptOssError():
            return ApiError(503, str(error), code="model_unavailable")
        case _:
            return ApiError(500, "the server failed at this request; its log says more", code="internal_error")
