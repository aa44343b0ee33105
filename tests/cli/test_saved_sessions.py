"""Sessions on disk: whole or not at all, readable by openai-harmony, and total on bad files."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import openai_harmony
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx import Conversation, Message
from gptoss_mlx.cli.sessions import (
    SavedSession,
    SessionStore,
    data_folder,
    read_session,
    write_file,
    write_session,
)
from gptoss_mlx.errors import HarmonyError, RequestError

CONVERSATION = Conversation((Message.user("hi \ud800"), Message.assistant("Hello.", "final"))).to_dict()
SAVED = SavedSession(CONVERSATION, "/models/demo", {"type": "object"})


def test_a_session_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.json"
    write_session(path, SAVED)
    read = read_session(path)
    assert (read.model, read.response_format) == (SAVED.model, SAVED.response_format)
    assert len(Conversation.from_dict(read.conversation).messages) == 2
    assert len(openai_harmony.Conversation.from_json(path.read_text()).messages) == 2
    assert [p.name for p in path.parent.iterdir()] == ["s.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match=r"s\.json: cannot be written \(No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
    with pytest.raises(RequestError, match="cannot be written"):
        write_file(path / "below", b"x")


def test_the_newest_is_first(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "none yet")
    assert store.names() == []
    with pytest.raises(RequestError, match="none found; begin one without --continue"):
        store.newest()
    for age, name in enumerate(("new", "middle", "old")):
        write_session(store.folder / f"{name}.json", SAVED)
        os.utime(store.folder / f"{name}.json", (1000 - age, 1000 - age))
    assert store.names() == ["new", "middle", "old"]
    assert store.newest() == store.find("new") == store.folder / "new.json"
    assert store.find("other.json") == Path("other.json")
    assert store.find("sessions/new") == Path("sessions/new")
    assert store.new() != store.new()


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"messages": [], "gptoss_mlx": []}', "\xff"])
def test_bad_files_are_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(HarmonyError, match=r"bad\.json: no saved conversation"):
        read_session(path)
    with pytest.raises(HarmonyError, match="nowhere: no saved conversation"):
        read_session(tmp_path / "nowhere")


JSON = st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda v: st.dictionaries(
    st.sampled_from(["messages", "gptoss_mlx", "model", "response_format"]), v))  # fmt: skip


@given(JSON)
def test_any_json_is_read_or_refused(data: Any) -> None:
    try:
        saved = SavedSession.from_dict(json.loads(json.dumps(data)))
    except HarmonyError:
        return
    assert SavedSession.from_dict(saved.to_dict()) == saved


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("linux", "/data/gptoss_mlx"), ("darwin", "/home/Library/Application Support/gptoss_mlx")],
)
def test_the_platforms_place(platform: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("HOME", "/home")
    assert data_folder() == Path(expected)
