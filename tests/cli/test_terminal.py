"""The real program at a terminal: what a person types and sees. And the line editor's parts on their own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from screen import COLUMNS, Screen
from talks import ESCAPE, Talk

import gptoss_mlx
from gptoss_mlx.cli.terminal import CommandCompleter, is_unfinished, unquoted

STYLE = re.compile(r"\x1b\[[\d;]*m")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
WEATHER = 'def get_weather(city: str) -> str:\n    "Get the weather in a city."\n    return "7 C, snow"\n'
PARIS = "The capital of France is Paris."


@pytest.fixture
def screens(tmp_path: Path) -> Iterator[Any]:
    """Starts the program; it is ended with the test."""
    opened: list[Screen] = []

    def start(*arguments: str, **environment: str) -> Screen:
        opened.append(Screen(tmp_path, *arguments, **environment))
        opened[-1].until(lambda text: text.endswith("\n>"))
        return opened[-1]

    yield start
    for screen in opened:
        screen.program.close(force=True)


def test_a_session(screens: Any, tmp_path: Path) -> None:
    screen = screens()
    text = screen.type("What is the capital of France?\r", "tokens/s")
    assert "> What is the capital of France?\n" in text
    assert PARIS in text.splitlines()
    assert "· context" in text
    screen.type("/analysis coll", lambda text: "collapsed" in text)  # the menu
    screen.type("\t", "> /analysis collapsed")
    screen.type("\r", "analysis: collapsed")
    assert "Rome" in screen.type("And of Italy?\r", lambda text: text.count("tokens/s") == 2)
    assert "\nthought for " in screen.text
    screen.type("/edit\r", lambda text: text.endswith("> And of Italy?"))
    screen.type("\x7f" * 6 + "Spain?\r", "Madrid")
    assert "Rome" not in screen.type("/export talk.md\r", "exported").split("Madrid")[1]
    screen.type('"""two\r', lambda text: text.endswith('> """two'))
    screen.type('lines"""\r', lambda text: text.count("tokens/s") == 4)
    screen.program.send("\x04")
    assert screen.end() == 0
    said = (tmp_path / "talk.md").read_text()
    assert "Madrid" in said
    assert "Italy" not in said
    again = screens("--continue")
    assert "going on with " in again.text
    assert "two\nlines" in again.type("/export again.md\r", "exported") + (tmp_path / "again.md").read_text()
    again.program.send("/quit\r")
    assert again.end() == 0


def test_a_call_is_confirmed_and_shown_as_a_panel(screens: Any, tmp_path: Path) -> None:
    (tmp_path / "weather_tools.py").write_text(WEATHER)
    screen = screens("--tool", "weather_tools:get_weather")
    screen.type("What is the weather in Oslo?\r", "run get_weather? [y]es, [n]o, [a]lways:")
    screen.type("what\r", lambda text: text.count("run get_weather?") == 2)
    text = screen.type("a\r", "tokens/s")
    assert "╭─ call get_weather ─" in text
    assert '│ {"city":"Oslo"}' in text.replace(": ", ":")
    assert "│ 7 C, snow" in text
    text = screen.type("What is the weather in Rome?\r", lambda text: text.count("tokens/s") == 2)
    assert text.count("run get_weather?") == 2
    screen.type("/tools\r", "get_weather (always allowed): Get the weather in a city.")


def test_ctrl_c_stops_the_answer_and_not_the_session(screens: Any, tmp_path: Path) -> None:
    wait = 'print("BEGUN", flush=True)\n    while not pathlib.Path("go").exists(): time.sleep(0.05)\n    return'
    (tmp_path / "slow_tools.py").write_text("import pathlib, time\n" + WEATHER.replace("return", wait))
    screen = screens("--tool", "slow_tools:get_weather", "--yes")
    screen.type("What is the weather in Oslo?\r", "BEGUN")
    screen.press("\x03", "/retry asks again")
    (tmp_path / "go").touch()
    assert PARIS in screen.type("What is the capital of France?\r", "tokens/s")
    screen.type("half a quest\x03", lambda text: text.endswith("\n>"))
    screen.program.send("\x04")
    assert screen.end() == 0


def test_no_colour_means_no_styles_and_nothing_overflows(screens: Any) -> None:
    screen = screens(NO_COLOR="1")
    screen.type("What is the capital of France?\r", "tokens/s")
    screen.type("/help\r", "/quit")
    screen.type("/stats\r", "decoding")
    styles = set(STYLE.findall(screen.raw)) - {"\x1b[0m", "\x1b[m"}
    assert styles <= {"\x1b[0;7m", "\x1b[0;1m"}  # of the line editor: none of them is a colour
    answer = screen.raw[screen.raw.index("The user asks") : screen.raw.index("tokens/s")]
    assert PARIS in answer
    assert ESCAPE not in answer
    for line in STYLE.sub("", screen.raw).split("\r\n"):
        if ESCAPE not in line:  # what the line editor draws wraps by itself
            assert len(line) <= COLUMNS


def test_one_question_at_a_terminal(tmp_path: Path) -> None:
    screen = Screen(tmp_path, "What is the capital of France?", "--collapse-analysis")
    assert screen.end() == 0
    assert PARIS in screen.text
    assert "thought for" in screen.text
    assert not (tmp_path / ".local" / "share").exists()


def test_completion(tmp_path: Path) -> None:
    talk = Talk(gptoss_mlx.load("demo"), tmp_path)
    completer = CommandCompleter(talk.session)
    (tmp_path / "some.json").touch()

    def completed(text: str) -> list[str]:
        return [c.text for c in completer.get_completions(Document(text), CompleteEvent())]

    assert completed("/e") == ["/effort", "/edit", "/export"]
    assert completed("/effort ") == ["low", "medium", "high"]
    assert completed("/effort h") == ["high"]
    assert "demo" in completed("/model ")
    assert completed(f"/save {tmp_path}/so") == ["me.json"]
    assert completed("/what ") == completed("hello") == completed("/e\n") == []


@pytest.mark.parametrize(
    ("text", "unfinished", "meant"),
    [
        ("a", False, "a"),
        ("a\\", True, "a\\"),
        ("a\\\nb", False, "a\nb"),
        ('"""a', True, '"""a'),
        ('"""a\nb"""', False, "a\nb"),
        ('"""', True, '"""'),
        ('"""""', True, '"""""'),
        ('say """x"""', False, 'say """x"""'),
    ],
)
def test_several_lines(text: str, unfinished: bool, meant: str) -> None:
    assert is_unfinished(text) is unfinished
    assert unquoted(text) == meant


@given(st.text('a"\\\n '))
def test_any_text_is_taken(text: str) -> None:
    assert len(unquoted(text)) <= len(text)
    assert isinstance(is_unfinished(text), bool)
