"""The cell magic, in an IPython without a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import gptoss_mlx
from gptoss_mlx import Reply, SamplingParams, hub, jupyter, magic
from gptoss_mlx.session import ChatSession

OPTIONS = "--model demo --effort low"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # of another environment, IPython warns
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    monkeypatch.setattr(jupyter, "place", lambda: pages.append)
    monkeypatch.setattr(magic, "ChatSession", partial(ChatSession, sampling=SamplingParams(temperature=0.0)))
    monkeypatch.setattr(magic, "place", lambda: pages.append)
    pages.clear()
    shell.run_line_magic("load_ext", "gptoss_mlx")
    yield shell
    InteractiveShell.clear_instance()


pages: list[str] = []


def ask(shell: InteractiveShell, line: str, cell: str) -> Reply:
    shell.run_cell_magic("gptoss", line, cell)
    reply = shell.user_ns[magic.VARIABLE]
    assert isinstance(reply, Reply)
    return reply


def test_a_cell_is_a_question(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    reply = ask(shell, OPTIONS, "What is the capital of France?\n")
    assert reply.final == "The capital of France is Paris."
    assert reply.final in pages[-1]
    assert "toy" in capsys.readouterr().out


def test_the_conversation_goes_on_until_it_is_reset(shell: InteractiveShell) -> None:
    ask(shell, OPTIONS, "What is the capital of France?")
    assert "Madrid" in ask(shell, "--keep", "And of Spain?").final
    assert len(ask(shell, "--reset", "What is 2 + 3?").conversation) == 4
    assert len(ask(shell, "", "And 3 more?").conversation) > 4


def test_options_stay_until_they_change(shell: InteractiveShell) -> None:
    ask(shell, f"{OPTIONS} --system 'Be brief.'", "Hello")
    text = str(ask(shell, "", "Hello").conversation.to_dict())
    assert "Be brief." in text
    assert "'Be" not in text.replace("'Be brief.'", "")
    assert "low" in text.lower()
    assert "high" in str(ask(shell, "--effort high", "Hello").conversation.to_dict()).lower()


def test_a_model_is_loaded_once_and_the_conversation_goes_on_with_another(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    magics = shell.magics_manager.registry["GptOssMagics"]

    def load(folder: Path, **options: object) -> gptoss_mlx.GptOss:
        assert magics._session is None, "two models at once"
        loaded.append(folder)
        return gptoss_mlx.load(folder)

    monkeypatch.setattr(magic, "load", load)
    monkeypatch.setattr(hub, "newest", lambda: None)
    lengths = [
        len(ask(shell, line, "Hello").conversation)
        for line in ("--system Brief.", "--reset", "--model demo --effort low", "--model demo")
    ]
    assert len(loaded) == 2
    assert lengths[0] == lengths[1] < lengths[2] < lengths[3]
    assert "Brief." in str(shell.user_ns[magic.VARIABLE].conversation.to_dict())


@pytest.mark.parametrize(
    ("line", "cell", "problem"),
    [
        ("--model nowhere", "Hello", "nowhere: no such folder"),
        (OPTIONS, " \n", "a question expected"),
        ("--effort huge", "Hello", "huge"),
        ("--colour red", "Hello", "colour"),
    ],
)
def test_what_is_wrong_is_one_line(shell: InteractiveShell, line: str, cell: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        shell.run_cell_magic("gptoss", line, cell)
    assert magic.VARIABLE not in shell.user_ns


def test_the_extension_is_no_public_name(shell: InteractiveShell) -> None:
    assert "gptoss" in shell.magics_manager.magics["cell"]
    assert "load_ipython_extension" not in gptoss_mlx.__all__
