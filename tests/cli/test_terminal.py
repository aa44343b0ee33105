"""The real program at a terminal: what a person types and sees. And the line editor's parts on their own."""

from __future__ import annotations

import re
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from screen import COLUMNS, Screen
from talks import ESCAPE, Talk

import gptoss_mlx
from gptoss_mlx.cli.terminal import CommandCompleter, input_history, is_unfinished, unquoted

STYLE = re.compile(r"\x1b\[[\d;]*m")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
WEATHER = 'def get_weather(city: str) -> str:\n    "Get the weather in a city."\n    return "7 C, snow"\n'
PARIS = "The capital of France is Paris."


@pytest.fixture
def screens(tmp_path: Path) -> Iterator[Any]:
    """Starts the program; it is ended with the test."""
    opened: list[Screen] = []

    def start(*arguments: str, **settings: Any) -> Screen:
        opened.append(Screen(tmp_path, *arguments, **settings))
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


@pytest.fixture
def endless(tmp_path: Path) -> tuple[str, ...]:
    """Options that offer a tool which says that it has begun, and never returns."""
    body = 'print("BEGUN", flush=True)\n    while True: time.sleep(0.05)'
    (tmp_path / "endless_tools.py").write_text("import time\n" + WEATHER.replace('return "7 C, snow"', body))
    return "--tool", "endless_tools:get_weather", "--yes"


def test_ctrl_c_stops_the_answer_and_not_the_session(screens: Any, endless: tuple[str, ...]) -> None:
    screen = screens(*endless)
    screen.type("What is the weather in Oslo?\r", "BEGUN")
    screen.until("running get_weather … 1 s, Ctrl-C stops")
    assert "running" not in screen.type("\x03", "/retry asks again")
    assert PARIS in screen.type("What is the capital of France?\r", "tokens/s")
    screen.type("half a quest\x03", lambda text: text.endswith("\n>"))
    screen.program.send("\x04")  # the tool still runs, and does not keep the program
    assert screen.end() == 0


def test_keys_pressed_during_an_answer_wait_for_the_next_prompt(screens: Any, endless: tuple[str, ...]) -> None:
    screen = screens(*endless)
    screen.type("What is the weather in Oslo?\r", "BEGUN")
    screen.program.send("/effort high\r\x04")
    screen.until("running get_weather … 1 s")
    assert "/effort" not in screen.text
    screen.program.kill(signal.SIGINT)  # the key would be read before what was typed
    screen.until("effort: high")
    assert screen.end() == 0


def test_impatience_ends_nothing(screens: Any, endless: tuple[str, ...]) -> None:
    screen = screens(*endless)
    screen.type("What is the weather in Oslo?\r", "BEGUN")
    for _ in range(20):
        screen.program.kill(signal.SIGINT)
        time.sleep(0.01)
    screen.until("/retry asks again")
    assert PARIS in screen.type("What is the capital of France?\r", "tokens/s")


@pytest.mark.parametrize(
    ("columns", "environment"),
    [(40, {}), (200, {}), (80, {"TERM": "dumb"}), (80, {"PYTHONIOENCODING": "ascii:strict"})],
)
def test_other_terminals(columns: int, environment: dict[str, str], screens: Any) -> None:
    screen = screens(columns=columns, **environment)
    text = screen.type("What is the capital of France?\r", "first token")
    assert PARIS in text.replace("of\nFrance", "of France")
    text = screen.type("/help\r", "/quit")
    beside = "/quit                               leave, like Ctrl-D"
    assert (beside if columns >= 80 else "/quit\n    leave, like Ctrl-D") in text


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


def test_lines_are_remembered_where_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "")
    history = input_history()
    history.append_string("a line")
    file = tmp_path / ".local" / "state" / "gptoss_mlx" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(input_history().load_history_strings()) == ["a line"]
    file.unlink()
    file.mkdir()
    history.append_string("another")
    assert history.get_strings()[-1] == "another"
    assert list(history.load_history_strings()) == []
    monkeypatch.setenv("XDG_STATE_HOME", str(file / "x"))
    file.rmdir()
    file.touch()
    assert isinstance(input_history(), InMemoryHistory)


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
