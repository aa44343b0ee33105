"""Outcomes of tasks in a file that grows line by line, so that a run goes on where it was interrupted.

The first line says what the results depend on; results of another model, other tasks or other settings are never
mixed. A line that a killed run left unfinished is removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

from gptoss_mlx.errors import RequestError
from gptoss_mlx.runtime import GptOss
from gptoss_mlx.weights import identity

from .runs import Outcome, Settings, TaskReport, run_tasks
from .scoring import Progress
from .tasks import Task
from .texts import read_text

HEADER = "gptoss_mlx_eval"
FOREIGN = "results of an evaluation expected, something else found; name another file"


class OutcomeFile:
    """A file of outcomes, opened to be continued.

    Args:
        path: the file; it need not exist.
        settings: what the outcomes depend on (see `fingerprint`).
        overwrite: start over where it exists.

    Attributes:
        done: the outcomes that it has, by id.

    Raises:
        RequestError: the file was made by something else or with other settings, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._path = path
        header = json.dumps({HEADER: dict(settings)}).encode() + b"\n"
        with self._one_line():
            data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and not header.startswith(data):
            raise RequestError(f"{path}: {FOREIGN}")
        self.done = _read(path, whole, settings, overwrite=overwrite)
        kept = b"" if overwrite else whole
        self._header = b"" if kept else header  # written with the first outcome: settings without any bind nobody
        with self._one_line():
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(len(kept))
            self._file.seek(len(kept))

    def append(self, outcome: Outcome) -> None:
        """Add an outcome; it is in the file when this returns.

        Raises:
            RequestError: the disk does not take it.
        """
        with self._one_line():
            self._file.write(self._header + json.dumps(asdict(outcome)).encode() + b"\n")
        self._header = b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(f"{self._path}: cannot be written: {error.strerror}") from None


def _read(path: Path, whole: bytes, settings: Mapping[str, Any], *, overwrite: bool) -> dict[str, Outcome]:
    lines = whole.split(b"\n")[:-1]
    if not lines:
        return {}
    found = _object(lines[0], f"{path}:1").get(HEADER)
    if not isinstance(found, dict):
        raise RequestError(f"{path}: {FOREIGN}")
    if overwrite:
        return {}
    for key in (*settings, *found):
        if found.get(key) != settings.get(key):
            raise RequestError(
                f"{path}: holds results for {key} {found.get(key)!r}, not {settings.get(key)!r}; "
                "repeat its settings, name another file, or start over with --overwrite"
            )
    outcomes = [_outcome(line, f"{path}:{number}") for number, line in enumerate(lines[1:], 2)]
    return {outcome.id: outcome for outcome in outcomes}


def _outcome(line: bytes, where: str) -> Outcome:
    row = _object(line, where)
    kinds: dict[str, Any] = {"correct": bool, "extracted": (str, type(None)), "tokens": int}
    names = [field.name for field in fields(Outcome)]
    if set(row) != set(names) or not all(isinstance(row[name], kinds.get(name, str)) for name in names):
        raise RequestError(f"{where}: an outcome expected, something else found; remove the line or the file")
    return Outcome(**row)


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise RequestError(f"{where}: a JSON object expected, something else found; remove the line or the file")
    return row


def run_kept(
    model: GptOss,
    tasks: Sequence[Task],
    settings: Settings,
    path: Path,
    out: Path | None,
    *,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> TaskReport:
    """`run_tasks`, with the outcomes kept in a file and taken up from there.

    Args:
        model: any.
        tasks: all or some of those in `path`.
        settings: how to put them.
        path: the file that they come from.
        out: where to keep outcomes; None: nowhere.
        overwrite: start `out` over.
        progress: told (tasks done, tasks in all).

    Raises:
        RequestError: see `OutcomeFile` and `run_tasks`.
    """
    if out is None:
        return run_tasks(model, tasks, settings, progress=progress)
    with closing(OutcomeFile(out, fingerprint(model, path, settings), overwrite=overwrite)) as file:
        return run_tasks(model, tasks, settings, done=file.done, keep=file.append, progress=progress)


def fingerprint(model: GptOss, tasks: Path, settings: Settings) -> dict[str, Any]:
    """What results depend on, as plain JSON values: settings, the tasks file, the model's name and weights."""
    text = hashlib.sha256(read_text(tasks).encode()).hexdigest()
    return {"model": model.name, "weights": identity(model.folder), "tasks": text, **asdict(settings)}
