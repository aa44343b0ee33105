"""Thoughts in a form that clients pass back unread, where an interface keeps them from people's eyes.

It hides nothing: whoever asks this server may read the model's thoughts anyway.
"""

from __future__ import annotations

import base64

_MARK = "gpt-oss:"


def seal(thoughts: str) -> str:
    """The thoughts, sealed."""
    return base64.b64encode(f"{_MARK}{thoughts}".encode("utf-8", "replace")).decode()


def unseal(sealed: str) -> str | None:
    """The thoughts that `seal` was given; None for another model's, which mean nothing here."""
    try:
        text = base64.b64decode(sealed, validate=True).decode()
    except ValueError:
        return None
    return text.removeprefix(_MARK) if text.startswith(_MARK) else None
