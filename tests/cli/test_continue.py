"""`--continue`: the newest session, with what is given now in place of what was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gptoss_mlx.cli.chat import chat
from gptoss_mlx.cli.sessions import SessionStore
from gptoss_mlx.demo import MODEL_FOLDER


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionStore:
    """This user's sessions."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return SessionStore()


def ask(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(chat, ["--continue", "--temp", "0", *arguments], input=stdin)


def keep(store: SessionStore, **settings: Any) -> Path:
    """A session about France with the embedded model."""
    path = store.folder / "kept.json"
    first = [
        ("user", None, "What is the capital of France?"),
        ("assistant", "final", "The capital of France is Paris."),
    ]
    messages: list[dict[str, Any]] = [{"role": r, "channel": c, "content": text} for r, c, text in first]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"messages": messages, "gptoss_mlx": {"model": str(MODEL_FOLDER)} | settings}))
    return path


def test_it_goes_on(store: SessionStore) -> None:
    path = keep(store)
    result = ask("And of Italy?", "--system", "Be kind.")
    assert result.exit_code == 0, result.output
    assert result.stdout == "The capital of Italy is Rome.\n"
    assert "going on with kept (2 messages)" in result.stderr
    kept = json.loads(path.read_text())["messages"]
    assert [m["role"] for m in kept] == ["system", "developer", "user", "assistant", "user", "assistant", "assistant"]
    again = ask("--effort", "high", stdin="/effort\n/system What?\n/reset\nWhat is the capital of Spain?\n")
    assert "effort: high" in again.stderr
    assert len(store.names()) == 2
    assert "Madrid" in again.stdout


def test_what_the_session_was_held_with_is_kept(store: SessionStore) -> None:
    keep(store, model="/no/such/model", response_format={"type": "object"})
    result = ask("And of Italy?")
    assert result.exit_code == 1
    assert "/no/such/model" in result.stderr
    result = ask("--model", "demo", stdin="/schema\n")
    assert 'schema: {"type": "object"}' in result.stderr


def test_nothing_to_go_on_with(store: SessionStore) -> None:
    result = ask("And of Italy?")
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {store.folder}: a saved session expected, none found")
    keep(store).write_text("{")
    assert "kept.json: no saved conversation" in ask("And of Italy?").output
