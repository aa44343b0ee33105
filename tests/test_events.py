"""A Reply, and how it looks in a notebook: what the model wrote is shown, never obeyed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.events import Reply, ToolCall, ToolOutput, Usage, new_call_id
from gptoss_mlx.harmony import Conversation, Message
from gptoss_mlx.tools import Citation, ToolResult

EVIL = "</pre><script>alert(1)</script> ``` `x`"


def reply(
    final: str = "",
    analysis: str = "",
    calls: tuple[ToolCall, ...] = (),
    outputs: tuple[ToolOutput, ...] = (),
    citations: tuple[Citation, ...] = (),
) -> Reply:
    messages = tuple(
        Message.assistant(text, channel) for channel, text in (("analysis", analysis), ("final", final)) if text
    )
    return Reply(messages, Conversation(messages), Usage(), "stop", calls, outputs, citations)


class Tags(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes += attrs


def test_calls_know_their_names() -> None:
    call = ToolCall.to("functions.a.b", "{}")
    assert (call.name, call.recipient, call.arguments) == ("a.b", "functions.a.b", "{}")
    assert ToolCall.to("browser.search").name == "browser.search"
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.id)
    assert ToolCall.to("python", id="x").id == "x"
    assert new_call_id() != new_call_id()


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 0.5, 4.0, 6) + Usage(10, 20, 30, 0.5, 4.0, 60)
    assert total == Usage(11, 22, 33, 1.0, 8.0, 66)
    assert (total.tokens_per_second, Usage().tokens_per_second) == (22 / 8, 0.0)


def test_channels_are_joined() -> None:
    messages = (
        Message.assistant("one"),
        Message.call("functions.f", "{}"),
        Message.tool("functions.f", "no answer", "final"),
        Message.assistant(""),
        Message.assistant("two"),
    )
    assert Reply(messages, Conversation(messages), Usage(), "stop").final == "one\n\ntwo"


def test_a_page() -> None:
    call = ToolCall.to("functions.tide", '{"port": "<BES>"}')
    output = ToolOutput(ToolCall.to("python", "6 * 7"), ToolResult("4<2", images=(b"png",)))
    page = reply("It is **so**.\n\n| a | b |\n|---|---|\n| 1 | 2 |", "Hm & so.", (call,), (output,))._repr_html_()
    for part in (
        "<details><summary>analysis</summary>", "Hm &amp; so.", "<strong>so</strong>", "<td>1</td>",
        "<code>tide({&quot;port&quot;: &quot;&lt;BES&gt;&quot;})</code>", "<code>python(6 * 7)</code>", "4&lt;2",
        '<img src="data:image/png;base64,cG5n">',
    ):  # fmt: skip
        assert part in page
    assert page.index("analysis") < page.index("python(") < page.index("tide(") < page.index("so</strong>")


@pytest.mark.parametrize(
    "text",
    [EVIL, "![x](http://tracker.example/a.png)", "[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "<b>x"],
)
def test_an_answer_cannot_script_the_page(text: str) -> None:
    tags = Tags(reply(text)._repr_html_())
    assert not tags.found & {"script", "img", "b"}
    assert not any((value or "").startswith("javascript") for _, value in tags.attributes)


@given(st.text("<>/&`\"'prescitde \n#", max_size=60))
def test_whatever_is_written_is_escaped(text: str) -> None:
    output = ToolOutput(ToolCall.to("functions.f", text), ToolResult(text))
    made = reply("", text, (ToolCall.to("functions.g", text),), (output,))
    assert Tags(made._repr_html_()).found <= {"details", "summary", "pre", "code"}
    markdown = made._repr_markdown_()
    assert markdown.count("</pre>") == markdown.count("<pre>")


def test_markdown() -> None:
    markdown = reply("It is **so**.", EVIL, (ToolCall.to("functions.f", EVIL),))._repr_markdown_()
    assert markdown.endswith("\n\nIt is **so**.")
    assert f"````\nf({EVIL})\n````" in markdown
    assert "<summary>analysis</summary>" in markdown
    assert "<script>" not in markdown.replace(f"f({EVIL})", "")
    assert reply("Only this.")._repr_markdown_() == "Only this."


CITED = "High at 4【3†L5-L9】, low at 9【4†L0】."
WEB = Citation(9, 18, 3, "https://a.example/t", "Tides <of> Brest", (5, 9))


def test_citations_are_links() -> None:
    local = Citation(28, 34, 4, "local:///low%20water.md", "Low", (0, 0))
    made = reply(CITED, citations=(WEB, local))
    page = made._repr_html_()
    assert page.count('<a href="https://a.example/t">') == 2
    assert '<a href="https://a.example/t">[1]</a>, low at 9[2].' in page
    assert '<li><a href="https://a.example/t">Tides &lt;of&gt; Brest</a>, lines 5–9</li>' in page
    assert "<li>Low <code>local:///low%20water.md</code>, line 0</li>" in page
    assert "【" not in page
    assert "4[[1]](<https://a.example/t>), low at 9[2].\n\nSources:\n\n1. [" in made._repr_markdown_()


@pytest.mark.parametrize(
    ("url", "title"),
    [
        ("javascript:alert(1)", "x"),
        ("https://a.example/>) <script>alert(1)</script>", "x"),
        ("https://a.example/", "](javascript:alert(1)) <script> ![x](http://tracker.example/a.png)\n\n# x"),
        ("local:///`<script>`", "`"),
    ],
)
def test_a_source_cannot_script_the_page(url: str, title: str) -> None:
    made = reply(CITED, citations=(Citation(9, 18, 3, url, title),))
    tags = Tags(made._repr_html_())
    assert not tags.found & {"script", "img", "h1"}
    assert all((value or "").startswith("https://a.example/") for name, value in tags.attributes if name == "href")


def test_a_value_is_parsed_once() -> None:
    asked: list[str] = []

    def parse(text: str) -> int:
        asked.append(text)
        return len(asked)

    made = Reply((Message.assistant("x"),), Conversation(), Usage(), "stop", parse=parse)
    assert (made.parsed, made.parsed, asked) == (1, 1, ["x"])
    assert reply("x").parsed is None
    assert str(reply("x")) == "x"


def test_what_a_reply_shows_of_itself() -> None:
    assert repr(reply("It is so.", "Hm.")) == "<Reply 'It is so.': stop, 0 tokens>"
    waiting = reply(calls=(ToolCall.to("functions.tide"), ToolCall.to("python")))
    assert repr(waiting) == "<Reply '': stop, 0 tokens, calls: tide, python>"
