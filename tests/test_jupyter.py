"""Answers that grow in a notebook's cell, the chat there, and the bar while a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

import gptoss_mlx
from gptoss_mlx import GptOss, SamplingParams, jupyter
from gptoss_mlx.errors import RequestError
from gptoss_mlx.events import CallDelta, CallStarted, Done, Event, Reply, TextDelta, ToolCall, ToolOutput, Usage
from gptoss_mlx.harmony import Conversation, Message
from gptoss_mlx.notebook import Shown, shown_page
from gptoss_mlx.tools import ToolResult

GREEDY = SamplingParams(temperature=0.0)
CALL = ToolCall.to("functions.f", "{}", "call_1")


@pytest.fixture(scope="module")
def model() -> GptOss:
    return gptoss_mlx.load("demo")


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is shown one after the other, at once."""
    shown: list[str] = []
    monkeypatch.setattr(jupyter, "INTERVAL", 0.0)
    monkeypatch.setattr(jupyter, "REST", 0.0)
    monkeypatch.setattr(jupyter, "place", lambda: shown.append)
    return shown


def done(reason: str = "stop") -> Done:
    messages = (Message.assistant("I see.", "commentary"), Message.assistant("So."))
    return Done(Reply(messages, Conversation(messages), Usage(), reason))


def events() -> Generator[Event, None, None]:
    yield TextDelta("analysis", "I ")
    yield TextDelta("analysis", "think.")
    yield CallStarted(0, "call_1", "functions.f", "f")
    yield CallDelta(0, "call_1", "functions.f", "{")
    yield CallDelta(0, "call_1", "functions.f", "}")
    yield ToolOutput(CALL, ToolResult("4<2", failed=True))
    yield TextDelta("analysis", "Again.")
    yield TextDelta("final", "**So**")
    yield done()


def test_what_is_shown_grows_with_the_events() -> None:
    shown = Shown()
    for event in list(events())[:5]:
        shown.add(event)
    assert (shown.analysis, [(c.name, c.arguments, c.id) for c in shown.calls]) == ("I think.", [("f", "{}", "call_1")])
    for event in list(events())[5:]:
        shown.add(event)
    assert (shown.analysis, shown.calls, shown.final) == ("I think.\n\nAgain.", [], "**So**")
    assert "<summary>error</summary>\n\n<pre>4&lt;2</pre>" in shown_page(shown)


def test_an_answer_grows_in_one_place(pages: list[str]) -> None:
    reply = jupyter.follow(events(), jupyter.place())
    assert reply.final == "So."
    assert pages[0] == "<details open><summary>analysis</summary>\n\n<pre>I </pre>\n\n</details>"
    assert "<code>f({)</code>" in pages[3]
    assert pages[-2].startswith("<details><summary>analysis")
    assert pages[-2].endswith("<p><strong>So</strong></p>\n")
    assert pages[-1] == "<p>I see.</p>\n\n<p>So.</p>\n"


@pytest.mark.parametrize("pause", ["INTERVAL", "REST"])
def test_drawing_waits(pages: list[str], monkeypatch: pytest.MonkeyPatch, pause: str) -> None:
    monkeypatch.setattr(jupyter, pause, 1e12)
    jupyter.follow(events(), jupyter.place())
    assert len(pages) == 2  # the first piece, and the whole


def test_an_interrupted_answer_stays_with_a_remark(pages: list[str]) -> None:
    closed = []

    def interrupted() -> Generator[Event, None, None]:
        try:
            yield TextDelta("final", "So")
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        jupyter.follow(interrupted(), jupyter.place())
    assert pages[-1] == "<p>So</p>\n\n<p><em>interrupted</em></p>"
    assert closed


def test_a_reply_that_was_cut_off_says_so() -> None:
    reply = done("length").reply
    assert "<p><em>cut off" in reply._repr_html_()
    assert (
        reply._repr_markdown_() == "I see.\n\nSo.\n\n*cut off: the limit of tokens, turns or the context was reached*"
    )


def test_a_chat_shows_and_remembers(model: GptOss, pages: list[str]) -> None:
    chat = model.chat_widget(sampling=GREEDY, date=None)
    assert "Nothing has been asked" in chat._repr_html_()
    chat("What is the capital of France?")
    assert "The capital of France is Paris." in pages[-1]
    assert "<details open>" in pages[0]
    chat("And of Spain?")
    assert str(chat.reply) == "The capital of Spain is Madrid."
    whole = chat._repr_html_()
    assert (
        whole.index("<strong>What is the capital of France?</strong>") < whole.index("Paris.") < whole.index("Madrid")
    )
    chat.clear()
    assert chat.reply is None
    assert "Paris" not in chat._repr_html_()
    assert not chat.session.messages


def test_a_question_is_escaped(model: GptOss, pages: list[str]) -> None:
    chat = model.chat_widget(sampling=GREEDY, max_tokens=200)
    chat("<script>x</script>")
    assert "<strong>&lt;script&gt;x&lt;/script&gt;</strong>" in chat._repr_html_()


def test_with_ipywidgets_there_is_a_line_to_type_in(model: GptOss, pages: list[str]) -> None:
    pytest.importorskip("ipywidgets", reason="the line to type in is ipywidgets'")
    chat = model.chat_widget(sampling=GREEDY, date=None)
    box = jupyter._box(chat)
    said, line = box.children
    line.value = "  "
    assert chat.reply is None
    line.value = "What is 2 + 3?"
    assert "<strong>What is 2 + 3?</strong>" in said.value
    assert "2 + 3 = 5." in said.value
    assert (line.value, line.disabled) == ("", False)
    chat.session.effort = "huge"
    line.value = "What is 3 + 3?"
    assert "effort" in said.value
    assert not line.disabled
    assert {"text/html", "application/vnd.jupyter.widget-view+json"} <= set(chat._repr_mimebundle_())


def test_without_ipywidgets_there_is_the_conversation(model: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jupyter, "find_spec", lambda name: None)
    assert set(model.chat_widget()._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_the_bar_goes_and_disappears(pages: list[str]) -> None:
    with jupyter.loading() as report:
        report(500_000_000, 2_000_000_000)
    assert pages == ['loading <progress value="500000000" max="2000000000"></progress> 0.5 of 2.0 GB', ""]
    with jupyter.loading(title="converting") as report:
        report(1, 2)
    assert pages[2].startswith("converting <progress")


def test_outside_of_a_notebook_the_way_out_is_named(model: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"use session\(\)"):
        model.chat_widget()("Hello")
    absent: Any = None
    monkeypatch.setitem(sys.modules, "IPython", absent)
    with pytest.raises(RequestError, match=r"pip install 'gptoss-mlx\[notebook\]'"):
        jupyter.place()
