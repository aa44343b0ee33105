"""The log: one JSON object per line on standard error, without what was said unless the operator asks for it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

from gptoss_mlx.errors import GptOssError, HarmonyError, RequestError

LOGGER = logging.getLogger("gptoss_mlx.server")


class JsonLines(logging.Formatter):
    """Formats records as JSON; what `extra={"fields": {...}}` brings stands beside the message.

    Args:
        content: whether the messages of unexpected exceptions are told, which may quote a request.
    """

    def __init__(self, content: bool = False) -> None:
        super().__init__()
        self._content = content

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            failed = record.exc_info[1]
            entry["traceback"] = self.formatException(record.exc_info) if self._content else without_words(failed)
        return json.dumps(entry, ensure_ascii=True, default=str)


def without_words(error: BaseException) -> str:
    """A traceback without messages that may quote a request: those of models, memory and files are left."""
    before = error.__cause__ or error.__context__
    earlier = "" if before is None else without_words(before)
    quotes = not isinstance(error, GptOssError) or isinstance(error, (RequestError, HarmonyError))
    said = "" if quotes else f": {error}"
    return f"{earlier}{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}{said}\n"


def log(message: str, level: int = logging.INFO, *, failed: BaseException | None = None, **fields: Any) -> None:
    """Write an entry; `failed` adds where an exception came from."""
    LOGGER.log(level, message, exc_info=failed, extra={"fields": fields})


def write_log(stream: TextIO | None = None, *, content: bool = False) -> None:
    """Send this log and uvicorn's to `stream`, by default standard error; `content` as for `JsonLines`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(content))
    for name in (LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
