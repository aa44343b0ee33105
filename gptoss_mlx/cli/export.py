"""A conversation as a document for people: Markdown or one HTML page; or as openai-harmony's JSON.

What the model and its tools wrote is shown and never obeyed: the page holds no raw HTML of theirs and loads no picture
that they name.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import is_call
from gptoss_mlx.harmony import Conversation, DeveloperContent, Message, Role, SystemContent

from .sessions import write_file

STYLE = """\
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
pre { overflow-x: auto; padding: .6rem; background: #8881; white-space: pre-wrap; }
summary, h2 { color: #777; font-size: 1rem; }
"""


def export(conversation: Conversation, path: Path) -> None:
    """Write a conversation in the form that the file's name ends with.

    Raises:
        RequestError: it ends with none of `.md`, `.json` and `.html`, or the file cannot be written.
    """
    forms: dict[str, Callable[[Conversation], str]] = {".md": markdown, ".json": as_json, ".html": page}
    form = forms.get(path.suffix.lower())
    if form is None:
        raise RequestError(f"{path}: a name that ends with {', '.join(forms)} expected")
    write_file(path, form(conversation).encode(errors="replace"))


def as_json(conversation: Conversation) -> str:
    """The JSON form of openai-harmony."""
    return json.dumps(conversation.to_dict(), ensure_ascii=False, indent=2) + "\n"


def markdown(conversation: Conversation) -> str:
    """The conversation as Markdown."""
    parts: list[str] = []
    for title, text, form in _sections(conversation):
        parts.append(f"## {title}")
        parts.append(text if form == "markdown" else _fenced(text))
    return "\n\n".join(parts) + "\n"


def page(conversation: Conversation) -> str:
    """The conversation as an HTML page that needs nothing else."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    body: list[str] = []
    for title, text, form in _sections(conversation):
        if form == "markdown":
            body.append(f"<h2>{html.escape(title)}</h2>\n{reader.render(text)}")
        else:
            shown = "" if form == "call" else " open"
            summary = f"<summary>{html.escape(title)}</summary>"
            body.append(f"<details{shown}>{summary}<pre>{html.escape(text)}</pre></details>")
    head = f'<meta charset="utf-8"><title>Conversation</title>\n<style>\n{STYLE}</style>'
    return f"<!doctype html>\n{head}\n" + "\n".join(body) + "\n"


def _sections(messages: Iterable[Message]) -> Iterator[tuple[str, str, str]]:
    """(title, text, form): the form is `markdown` for what people read, `text` or `call` for what is shown as it is."""
    for message in messages:
        text = message.text
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                instructions = _instructions(message)
                if instructions:
                    yield "Instructions", instructions, "text"
            case Role.USER:
                yield "Question", text, "text"
            case Role.TOOL:
                yield f"Result of {message.author.name}", text, "call"
            case Role.ASSISTANT if is_call(message):
                yield f"Call of {message.recipient}", text, "call"
            case Role.ASSISTANT:
                thoughts = message.channel == "analysis"
                yield ("Thoughts", text, "call") if thoughts else ("Answer", text, "markdown")


def _instructions(message: Message) -> str:
    contents = [part for part in message.content if isinstance(part, DeveloperContent | SystemContent)]
    said = [part.instructions for part in contents if isinstance(part, DeveloperContent) and part.instructions]
    return "\n\n".join(said) if contents else message.text


def _fenced(text: str) -> str:
    """A block of code, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
