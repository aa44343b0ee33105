"""The clipboard of the terminal, wherever that runs: over SSH, too, by the control sequence OSC 52."""

from __future__ import annotations

import base64

from rich.console import Console

from .blocks import visible

MAX_BYTES = 74_994
"""What terminals take: some cut a sequence of more than 100,000 characters off."""


def copy(text: str, console: Console) -> bool:
    """Put a text into the clipboard; where no terminal takes control sequences, or the text is too long, print it.

    Returns:
        Whether it went to the clipboard.
    """
    data = text.encode(errors="replace")
    if not console.is_terminal or console.color_system is None or len(data) > MAX_BYTES:
        console.print(visible(text) if console.is_terminal else text, markup=False, soft_wrap=True)
        return False
    console.file.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\a")
    console.file.flush()
    return True
