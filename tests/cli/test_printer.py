"""What an answer looks like: in a pipe, on a terminal, without colours; and that it fits its columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from talks import ESCAPE

from gptoss_mlx.cli.blocks import PlainText, WordWrap, pretty_arguments, result_panel, split_blocks, visible
from gptoss_mlx.cli.printer import AnswerPrinter, listing, remark, terminal_console
from gptoss_mlx.events import CallCompleted, CallDelta, CallStarted, TextDelta, ToolCall, ToolOutput
from gptoss_mlx.tools import ToolResult

CALL = ToolCall("f", '{"a":1,"b":[2]}', "c", "functions.f")
STARTED = CallStarted(0, "c", "functions.f", "f")
TEXTS = [
    TextDelta("analysis", "Let me "), TextDelta("analysis", "think."), TextDelta("final", "It is **bo"),
    TextDelta("final", "ld**.\n\nNext [x] block"),
]  # fmt: skip
EVENTS = [
    *TEXTS, STARTED, CallDelta(0, "c", "functions.f", '{"a":1,'), CallDelta(0, "c", "functions.f", '"b":[2]}'),
    CallCompleted(0, CALL), ToolOutput(CALL, ToolResult("three\nlines\nhere", images=(b"png",))),
]  # fmt: skip


def printed(
    events: list[Any], folder: Path, *, terminal: bool, analysis: str = "shown", colors: str | None = "standard"
) -> str:
    out = io.StringIO()
    system: Any = colors if terminal else None
    console = Console(file=out, force_terminal=terminal, width=60, color_system=system, highlight=False)
    printer = AnswerPrinter(analysis, console, pictures=folder)
    for event in events:
        printer.print(event)
    printer.close()
    return out.getvalue()


def test_a_pipe_gets_the_answer_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(EVENTS, tmp_path, terminal=False) == "Let me think.\n\nIt is **bold**.\n\nNext [x] block\n"
    (picture,) = tmp_path.glob("*.png")
    assert capsys.readouterr().err == (f'-> f {{"a":1,"b":[2]}}\n<- three\nlines\nhere\npicture: {picture}\n')
    assert picture.read_bytes() == b"png"
    hidden = printed(EVENTS[:4], tmp_path, terminal=False, analysis="hidden")
    assert hidden == "It is **bold**.\n\nNext [x] block\n"


def test_a_terminal_sees_markdown_dimmed_thoughts_and_panels(tmp_path: Path) -> None:
    out = printed(EVENTS, tmp_path, terminal=True)
    assert f"{ESCAPE}[2mLet me " in out
    assert "think." in out
    assert f"{ESCAPE}[1mbold" in out
    last = out.split("Next")[-1]
    assert "call f" in last
    assert "result" in last
    assert f"\npicture: {tmp_path}/2" in last


def test_without_colours_there_are_no_control_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(EVENTS, tmp_path, terminal=True, colors=None)
    assert ESCAPE not in out
    assert "It is bold." in out
    assert "call f" in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal_console().color_system is None


def test_addresses_stay_in_sight(tmp_path: Path) -> None:
    out = printed([TextDelta("final", "See [the bank](http://evil.example).")], tmp_path, terminal=True)
    assert "http://evil.example" in out
    assert "]8;" not in out


def test_thoughts_collapse_to_one_line(tmp_path: Path) -> None:
    out = printed(TEXTS, tmp_path, terminal=True, analysis="collapsed", colors=None)
    assert out.startswith("thought for 13 tokens\nIt is bold.")
    assert "think" not in printed(TEXTS, tmp_path, terminal=True, analysis="hidden")


def test_what_a_model_writes_does_not_steer_the_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;title\x07\x9b2J"
    events = [
        TextDelta("analysis", bad), TextDelta("final", bad), CallStarted(0, "c", bad, bad),
        CallDelta(0, "c", bad, bad), CallCompleted(0, CALL), ToolOutput(CALL, ToolResult(bad)),
    ]  # fmt: skip
    for analysis in ("shown", "collapsed"):
        out = printed(events, tmp_path, terminal=True, analysis=analysis, colors=None)
        assert not set(out) & {ESCAPE, "\x07", "\x9b"}
    said = io.StringIO()
    remark(bad, Console(file=said, force_terminal=True, color_system=None))
    assert ESCAPE not in said.getvalue()
    assert visible("a\tb\n") == "a\tb\n"


@given(st.lists(st.text("ab \n`#*|[漢─", max_size=90), max_size=4), st.booleans())
def test_nothing_is_wider_than_the_terminal(texts: list[str], is_failed: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=30, color_system=None, highlight=False)
    printer = AnswerPrinter("shown", console)
    long = "x" * 100
    for text in texts:
        printer.print(TextDelta("final", f"{text} "))
    for event in (STARTED, CallDelta(0, "c", "functions.f", f'{{"a": "{long}"}}'), CallCompleted(0, CALL)):
        printer.print(event)
    printer.print(ToolOutput(CALL, ToolResult(f"{long} {texts}", failed=is_failed)))
    printer.note("a remark that is longer than thirty columns are")
    assert max(map(cell_len, out.getvalue().split("\n"))) <= 30


def test_a_long_result_is_cut(tmp_path: Path) -> None:
    out = printed([ToolOutput(CALL, ToolResult("line\n" * 100))], tmp_path, terminal=True, colors=None)
    assert out.count("line ") == 12
    assert "… 88 more lines" in out
    assert result_panel(ToolResult("x", failed=True)).title == "failed"


def test_arguments_are_made_readable() -> None:
    assert pretty_arguments("python", "print(1)") == ("print(1)", "python")
    assert pretty_arguments("f", '{"a":1,"b":2}') == ('{\n  "a": 1,\n  "b": 2\n}', "json")
    assert pretty_arguments("f", '{"a":1}') == ('{"a":1}', "json")
    assert pretty_arguments("f", '{"a":') == ('{"a":', "text")
    assert pretty_arguments("f", '{"a":"b\\nc"}') == ("b\nc", "text")
    assert pretty_arguments("apply_patch", '{"patch":"+a\\n-b"}') == ("+a\n-b", "diff")


def test_what_is_waited_for_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr("gptoss_mlx.cli.blocks.time.monotonic", lambda: now[0])
    console = Console(file=out, force_terminal=True, width=60, color_system="standard", highlight=False)
    printer = AnswerPrinter("hidden", console)
    printer.wait("reading")
    now[0] = 3.0
    printer._block.push("x")  # type: ignore[union-attr]
    printer._block._end._live.refresh()  # type: ignore[union-attr]
    assert "reading … 3 s, Ctrl-C stops" in out.getvalue()
    printer.print(TextDelta("analysis", "Hm."))
    thinking = printer._block
    printer.print(TextDelta("analysis", "Hm."))
    assert printer._block is thinking
    printer.print(TextDelta("final", "So."))
    printer.close()
    screen = pyte.Screen(60, 10)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    assert [line.rstrip() for line in screen.display if line.strip()] == ["So."]


def test_text_wraps_at_the_width_that_there_is(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    text = PlainText(console)
    text.push("one two three ")
    console.width = 10
    text.push("four five six seven")
    text.close()
    assert out.getvalue() == "one two three \nfour five \nsix seven\n"


def test_a_listing_goes_below_where_it_does_not_fit_beside(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"/a": "does this", "/abc": "does that"}
    for width, expected in (
        (20, "/a    does this\n/abc  does that\n"),
        (12, "/a\n    does\n    this\n/abc\n    does\n    that\n"),
    ):
        out = io.StringIO()
        listing(rows, Console(file=out, force_terminal=True, width=width, color_system=None))
        assert out.getvalue() == expected


def test_json_is_not_taken_for_markdown(tmp_path: Path) -> None:
    out = io.StringIO()
    printer = AnswerPrinter("shown", Console(file=out, force_terminal=True, width=60, color_system=None))
    printer.is_json = True
    printer.print(TextDelta("final", '{"a": "**b**"}'))
    printer.close()
    assert out.getvalue() == '{"a": "**b**"}\n'


@given(st.lists(st.sampled_from(["text", "```", "", "- item", "\n"]), max_size=12))
def test_blocks_are_never_cut_inside_a_fence(lines: list[str]) -> None:
    text = "\n".join(lines)
    finished, rest = split_blocks(text)
    assert (finished + rest).replace("\n", "") == text.replace("\n", "")
    assert finished.count("```") % 2 == 0


@given(st.text("ab \n", max_size=80), st.integers(4, 20), st.data())
def test_words_are_kept_whole(text: str, width: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    wrap = WordWrap(width)
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out = "".join(map(wrap.push, pieces)) + wrap.flush()
    assert out.split() == text.split()
    for line in out.split("\n"):
        assert len(line.rstrip()) < width or " " not in line.strip()
