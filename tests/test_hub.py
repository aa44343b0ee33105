"""Names lead to folders, offline; downloads take the root files and go on after an interruption."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from checkpoints import Shape, build
from gptoss_mlx import hub
from gptoss_mlx.errors import ModelNotFoundError
from tiny_tokenizer import write_tiny_tokenizer

ID = "openai/gpt-oss-20b"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty models folder and an empty Hugging Face cache."""
    monkeypatch.setenv("GPTOSS_MLX_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def release(folder: Path) -> Path:
    build(folder, Shape(vocab=320, seed=21))
    write_tiny_tokenizer(folder)
    return folder


def snapshot(machine: Path, repository: str = ID) -> Path:
    return machine / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert hub.find(tmp_path) == tmp_path
    assert hub.find(str(tmp_path)) == tmp_path


def test_nothing_here_says_how_to_get_it(machine: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="gptoss-mlx pull 20b"):
        hub.find("20b")
    with pytest.raises(ModelNotFoundError, match="gptoss-mlx pull me/mine"):
        hub.find("me/mine")
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        hub.find("./nowhere")
    assert hub.newest() is None


def test_the_cache_serves_alias_and_id(machine: Path) -> None:
    folder = release(snapshot(machine))
    assert hub.find("20b") == hub.find(ID) == hub.newest() == folder
    assert hub.display_name(folder) == ID
    with pytest.raises(ModelNotFoundError):
        hub.find("120b")


@pytest.mark.parametrize("missing", ["tokenizer.json", "model-00001-of-00001.safetensors", "config.json"])
def test_an_incomplete_download_is_no_model(machine: Path, missing: str) -> None:
    (release(snapshot(machine)) / missing).unlink()
    with pytest.raises(ModelNotFoundError):
        hub.find("20b")


def test_the_newest_wins_and_unfinished_ones_do_not_count(machine: Path) -> None:
    cached = release(snapshot(machine))
    converted = machine / "models" / hub.converted_name(ID, "q8", "mxfp4")
    shutil.copytree(cached, converted)
    shutil.copytree(cached, converted.with_name(converted.name + ".partial"))
    os.utime(cached / "config.json", (1, 1))
    os.utime(converted / "config.json", (2, 2))
    assert hub.find("20b") == hub.newest() == converted
    os.utime(cached / "config.json", (3, 3))
    assert hub.find("20b") == hub.newest() == cached


def test_other_models_are_not_offered(machine: Path) -> None:
    other = release(snapshot(machine, "some/llama"))
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert hub.newest() is None


def test_a_download_takes_the_root_files_only() -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    files = [
        "config.json", "model-00000-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "README.md", "chat_template.jinja", "LICENSE", "USAGE_POLICY",
        "original/config.json", "original/model.safetensors", "metal/model.bin",
    ]  # fmt: skip
    taken = list(filter_repo_objects(files, allow_patterns=hub.ROOT_FILES, ignore_patterns=["*/*"]))
    assert taken == [name for name in files if "/" not in name]


def test_pull_converts_what_was_downloaded(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options))
        folder = snapshot(machine)
        return str(folder if folder.exists() else release(folder))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pulled = hub.pull("20b", dense="bf16")
    assert asked[0][0] == ID
    assert pulled.folder == machine / "models" / "openai--gpt-oss-20b-mxfp4-bf16"
    assert (pulled.folder / "model.safetensors").exists()
    before = (pulled.folder / "model.safetensors").stat().st_mtime_ns
    assert hub.pull("20b", dense="bf16") == pulled  # nothing is done twice
    assert (pulled.folder / "model.safetensors").stat().st_mtime_ns == before


def test_pull_says_why_it_cannot(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, **options: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError, match="cannot be reached"):
        hub.pull("20b")
    with pytest.raises(ModelNotFoundError, match="an alias"):
        hub.pull("what")
