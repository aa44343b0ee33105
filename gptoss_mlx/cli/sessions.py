"""Sessions on disk: each a file of openai-harmony's JSON, with this package's own settings beside the messages."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import HarmonyError, RequestError
from gptoss_mlx.harmony import Conversation, Role

SETTINGS = "gptoss_mlx"
"""The key of our settings: openai-harmony reads `messages` and passes over it."""


@dataclass(frozen=True)
class SavedSession:
    """What a file holds."""

    conversation: Mapping[str, Any]
    """The JSON form of openai-harmony."""
    model: str | None = None
    """The folder of the model that answered last."""
    response_format: Mapping[str, Any] | None = None

    def title(self) -> str:
        """The first question in one line; HarmonyError if this is no conversation."""
        asked = (m.text for m in Conversation.from_dict(self.conversation) if m.role is Role.USER)
        return " ".join(next(asked, "").split())

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        settings = {"model": self.model, "response_format": self.response_format}
        return {**self.conversation, SETTINGS: settings}

    @classmethod
    def from_dict(cls, data: Any) -> SavedSession:
        """Read what `to_dict` wrote, or openai-harmony; HarmonyError if it is neither."""
        if not isinstance(data, Mapping):
            raise HarmonyError(f"an object with messages expected, {type(data).__name__} found")
        settings = data.get(SETTINGS, {})
        if not isinstance(settings, Mapping) or not settings.keys() <= {"model", "response_format"}:
            raise HarmonyError(f"{SETTINGS}: an object with model and response_format expected")
        model, form = settings.get("model"), settings.get("response_format")
        if not isinstance(model, str | None) or not isinstance(form, Mapping | None):
            raise HarmonyError(f"{SETTINGS}: a text as model and an object as response_format expected, or null")
        return cls({key: value for key, value in data.items() if key != SETTINGS}, model, form)


class SessionStore:
    """The folder with the sessions of this user.

    Args:
        folder: by default the platform's place for a program's data.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or data_folder() / "sessions"

    def new(self) -> Path:
        """Where a session that begins now is to be kept."""
        return self.folder / f"{new_name()}.json"

    def names(self) -> list[str]:
        """The sessions that there are, the newest first."""
        return [path.stem for path in self._paths()]

    def newest(self) -> Path:
        """The session that was saved last; RequestError if there is none."""
        path = next(iter(self._paths()), None)
        if path is None:
            raise RequestError(f"{self.folder}: a saved session expected, none found; begin one without --continue")
        return path

    def find(self, name: str) -> Path:
        """The file that a name of `names`, or a path, stands for."""
        kept = self.folder / f"{name}.json"
        return kept if Path(name).name == name and kept.is_file() else Path(name).expanduser()

    def _paths(self) -> list[Path]:
        try:
            found = [(path.stat().st_mtime_ns, path.name, path) for path in self.folder.glob("*.json")]
        except OSError:
            return []
        return [path for *_, path in sorted(found, reverse=True)]


def read_session(path: Path) -> SavedSession:
    """Read a file; HarmonyError names it if it holds no session."""
    try:
        return SavedSession.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, HarmonyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HarmonyError(f"{path}: no saved conversation ({reason})") from None


def write_session(path: Path, session: SavedSession) -> None:
    """Write a file, atomically."""
    write_file(path, json.dumps(session.to_dict(), ensure_ascii=False, indent=2).encode(errors="replace"))


def write_file(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; whoever looks finds the old content or all of the new.

    Raises:
        RequestError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


def version(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it; None where there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns)


def new_name() -> str:
    """A name for something made now, which no other program chooses; names sort by time."""
    return f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-{secrets.token_hex(2)}"


def data_folder() -> Path:
    """The platform's place for a program's data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "gptoss_mlx"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "gptoss_mlx"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gptoss_mlx"
