"""A model's name -> a folder on this machine; and the way to get one there.

A name is a path, `demo` (the embedded model), an alias (`20b`, `120b`) or an id of the Hugging Face hub. Nothing
here asks the network but `pull`: what has been converted or is in the Hugging Face cache is used as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.convert import sources

from . import demo
from .config import ModelConfig
from .errors import CheckpointError, ConfigError, ModelNotFoundError

ALIASES = {
    "20b": "openai/gpt-oss-20b",
    "120b": "openai/gpt-oss-120b",
    "safeguard-20b": "openai/gpt-oss-safeguard-20b",
    "safeguard-120b": "openai/gpt-oss-safeguard-120b",
}
DEMO = "demo"
ROOT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "LICENSE*", "USAGE_POLICY*", "README*"]
"""What a download takes of a repository; folders (`original/`, `metal/`) hold the same weights again."""


def models_folder() -> Path:
    """Where `pull` puts converted models: $GPTOSS_MLX_HOME, else the user's cache folder."""
    home = os.environ.get("GPTOSS_MLX_HOME")
    if home:
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gptoss_mlx" / "models"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gptoss_mlx" / "models"


def find(name: str | Path) -> Path:
    """The folder that a name stands for.

    Raises:
        ModelNotFoundError: it leads to no complete model on this machine.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if str(name) == DEMO:
        return demo.MODEL_FOLDER
    repository = ALIASES.get(str(name), str(name))
    found = _newest(folder for folder in (*_converted(repository), *_cached(repository)))
    if found is not None:
        return found
    if path.exists():
        raise ModelNotFoundError(f"{name}: a model is a folder, this is a file; name the folder that holds it")
    if str(name) in ALIASES or _looks_like_repository(repository):
        raise ModelNotFoundError(f"{name}: not on this machine; `gptoss-mlx pull {name}` downloads and converts it")
    raise ModelNotFoundError(
        f"{name}: no such folder, and neither {DEMO!r}, an alias ({', '.join(ALIASES)}) nor an id like 'owner/model'"
    )


def newest() -> Path | None:
    """The gpt-oss model that arrived last on this machine, converted or in the Hugging Face cache; None without one."""
    return _newest(folder for folder in (*_converted(None), *_cached(None)))


def converted_name(repository: str, dense: str, experts: str) -> str:
    """The folder name that `pull` gives a converted model."""
    return f"{repository.replace('/', '--')}-{experts}-{dense}"


@dataclass(frozen=True)
class Pulled:
    """Where a pulled model lies: the download and the converted folder."""

    source: Path
    folder: Path


def pull(
    name: str, *, dense: str = "q8", experts: str = "mxfp4", progress: Callable[[int, int], None] | None = None
) -> Pulled:
    """Download a model's root files and convert them; an interrupted pull goes on where it stopped.

    Args:
        name: an alias or a hub id.
        dense: preset for embeddings, attention and output (see `gptoss_mlx.convert`).
        experts: preset for the experts.
        progress: of the conversion, in bytes; the download shows its own bars.

    Raises:
        ModelNotFoundError: the hub has no such model or cannot be reached.
        ConversionError, CheckpointError, ConfigError: see `gptoss_mlx.convert.convert`.
    """
    from gptoss_mlx.convert import convert

    repository = ALIASES.get(name, name)
    if not _looks_like_repository(repository):
        raise ModelNotFoundError(f"{name}: an alias ({', '.join(ALIASES)}) or an id like 'owner/model' expected")
    source = _download(repository)
    folder = models_folder() / converted_name(repository, dense, experts)
    if _complete(folder):
        return Pulled(source, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = any(folder.parent.glob(f"{folder.name}.partial*"))
    convert(source, folder, dense=dense, experts=experts, resume=begun, progress=progress)
    return Pulled(source, folder)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=ROOT_FILES, ignore_patterns=["*/*"]))
    except RepositoryNotFoundError:
        raise ModelNotFoundError(f"{repository}: the hub has no such model (or it needs a login)") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelNotFoundError(
            f"{repository}: the hub cannot be reached ({reason}); try again, what has arrived is kept"
        ) from None


def _looks_like_repository(name: str) -> bool:
    owner, _, model = name.partition("/")
    return bool(owner and model) and "/" not in model and not name.startswith((".", "~"))


def _converted(repository: str | None) -> Iterator[Path]:
    prefix = "" if repository is None else repository.replace("/", "--") + "-"
    yield from (folder for folder in models_folder().glob(f"{prefix}*") if ".partial" not in folder.name)


def _cached(repository: str | None) -> Iterator[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    pattern = "*" if repository is None else repository.replace("/", "--")
    yield from Path(HF_HUB_CACHE).glob(f"models--{pattern}/snapshots/*")


def _newest(folders: Iterator[Path]) -> Path | None:
    complete = [folder for folder in folders if _complete(folder)]
    return max(
        complete, key=lambda folder: (sources.checkpoint_folder(folder) / "config.json").stat().st_mtime, default=None
    )


def _complete(folder: Path) -> bool:
    """Whether a folder holds a gpt-oss model with its tokenizer and every file that its index names."""
    if not (folder / "tokenizer.json").exists():
        return False
    weights = sources.checkpoint_folder(folder)
    try:
        ModelConfig.from_folder(weights)
        return bool(sources.read_tensors(weights))
    except (ConfigError, CheckpointError):
        return False


def display_name(folder: Path) -> str:
    """What to call a folder's model in front of a person: its hub id where the folder tells it."""
    if folder == demo.MODEL_FOLDER:
        return "the embedded demonstration model"
    return sources.hub_id(folder) or folder.name.replace("--", "/")
