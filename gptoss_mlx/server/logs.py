"""The log: one JSON object per line on standard error, without what was said unless the operator asks for it."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

LOGGER = logging.getLogger("gptoss_mlx.server")


class JsonLines(logging.Formatter):
    """Formats records as JSON; what `extra={"fields": {...}}` brings stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def log(message: str, level: int = logging.INFO, *, failed: BaseException | None = None, **fields: Any) -> None:
    """Write an entry; `failed` adds where an exception came from."""
    LOGGER.log(level, message, exc_info=failed, extra={"fields": fields})


def write_log(stream: TextIO | None = None) -> None:
    """Send this log and uvicorn's to `stream`, by default standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
