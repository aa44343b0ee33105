"""Documents of a conversation: everything is in them, and nothing of it is obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptoss_mlx import Conversation, Message
from gptoss_mlx.cli.export import as_json, export, markdown, page
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import DeveloperContent, SystemContent

TALK = Conversation(
    (
        Message.system(SystemContent()),
        Message.developer(DeveloperContent("Be <kind>.")),
        Message.user("Why <b>?"),
        Message.assistant("Hm.", "analysis"),
        Message.assistant("print('```')", "commentary", recipient="python"),
        Message.tool("python", "<script>", "commentary"),
        Message.assistant("**So.** <script>x</script> ![p](http://a/b.png)", "final"),
    )
)


def test_markdown() -> None:
    text = markdown(TALK)
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["Instructions", "Question", "Thoughts", "Call of python", "Result of python", "Answer"]
    assert "````\nprint('```')\n````" in text
    assert "\n**So.** " in text


def test_the_page_obeys_nothing() -> None:
    text = page(TALK)
    assert "<strong>So.</strong>" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "Why &lt;b&gt;?" in text
    assert text.count("<details>") == 3


def test_json() -> None:
    assert Conversation.from_dict(json.loads(as_json(TALK))) == TALK


def test_the_name_says_the_form(tmp_path: Path) -> None:
    export(TALK, tmp_path / "a.MD")
    assert (tmp_path / "a.MD").read_text() == markdown(TALK)
    with pytest.raises(RequestError, match=r"a name that ends with \.md, \.json, \.html expected"):
        export(TALK, tmp_path / "a.txt")
