"""The models of a session: which folder a name stands for, and what is said before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from talks import LOADING

from gptoss_mlx.cli.models import LocalModels
from gptoss_mlx.demo import MODEL_FOLDER
from gptoss_mlx.errors import CheckpointError, MemoryLimitError, ModelNotFoundError
from gptoss_mlx.memory import Machine


def test_a_name_leads_to_a_folder_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MODEL_FOLDER, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert LocalModels(LOADING).find("mine") == tmp_path / "mine"
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        LocalModels(LOADING).find("nowhere")


def test_the_newest_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gptoss_mlx.hub.newest", lambda: None)
    assert LocalModels(LOADING).find(None) == MODEL_FOLDER
    assert "embedded demonstration model" in capsys.readouterr().err
    shutil.copytree(MODEL_FOLDER, tmp_path / "mine")
    monkeypatch.setattr("gptoss_mlx.hub.newest", lambda: tmp_path / "mine")
    assert LocalModels(LOADING).find(None) == tmp_path / "mine"
    assert capsys.readouterr().err == f"model: mine ({tmp_path / 'mine'})\n"


def test_what_cannot_be_loaded_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Path(shutil.copytree(MODEL_FOLDER, tmp_path / "broken"))
    (broken / "model-00000-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not found"):
        LocalModels(LOADING).find(str(broken))
    monkeypatch.setattr(Machine, "measure", lambda: Machine("cpu", 1 << 10, 1 << 10))
    with pytest.raises(MemoryLimitError):
        LocalModels(LOADING).find("demo")
