"""What the runner replied -> what the model reads and the person sees.

A reply comes out of the sandbox, so nothing about it is taken for granted.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from ..tool import ToolResult

MOST_IMAGES = 8
"""As many as an honest runner sends (see `runner.FIGURES`)."""
PNG = b"\x89PNG\r\n\x1a\n"
LOST = "the notebook was restarted: its variables are lost"
"""What a result says after the kernel had to be given up."""


@dataclass(frozen=True)
class Reply:
    """How a cell ended (see `runner`; "lost": the sandbox ended or did not answer), and what it showed."""

    state: str
    text: str = ""
    images: tuple[bytes, ...] = ()
    reason: str = ""
    """Why the kernel or the sandbox ended, as far as known."""

    @property
    def final(self) -> bool:
        """Whether the kernel can take no further cell."""
        return self.state in ("stuck", "died", "lost")


def read_reply(line: bytes, output: int) -> Reply:
    """Read a reply of the runner; one that it cannot have written is "lost".

    Args:
        line: JSON.
        output: characters that the text may have; some more are left for what is said about those left out.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("state"), str):
        return Reply("lost", reason="it sent something that is no reply")
    images = data.get("images")
    pictures = (_picture(image) for image in (images if isinstance(images, list) else [])[:MOST_IMAGES])
    return Reply(
        data["state"],
        _text(data.get("text"))[: output + 100],
        tuple(picture for picture in pictures if picture is not None),
        _text(data.get("death"))[:100],
    )


def describe(reply: Reply, timeout: float, before: str = "") -> ToolResult:
    """The result of a cell.

    Args:
        reply: how it ended and what it showed.
        timeout: seconds that it was allowed.
        before: what has to be said first.
    """
    notes = {
        "timeout": f"stopped after {timeout:g} seconds; variables are kept",
        "interrupted": "stopped by the user; variables are kept",
        "stuck": f"it was told to stop after {timeout:g} seconds and went on; {LOST}",
        "died": f"the kernel ended ({reply.reason}); {LOST}",
        "lost": f"{reply.reason}; {LOST}",
    }
    shown = reply.text.rstrip("\n")
    note = f"[{notes[reply.state]}]" if reply.state in notes else ""
    parts = [part for part in (before, shown, note) if part]
    return ToolResult("\n".join(parts) or "[no output]", reply.state != "ok", reply.images)


def _text(value: Any) -> str:
    """A text that can be encoded: JSON may spell halves of characters."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""


def _picture(value: Any) -> bytes | None:
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return None
    return data if data.startswith(PNG) else None
