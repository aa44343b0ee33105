"""Prompt states on disk: what one process has read, another need not read again.

A folder holds one file per path of the store to a leaf (`state_file.py`). A file is complete and on the disk before
it gets its name, so work that was interrupted leaves nothing that looks finished. It is named after its tokens and the
model that read them, so nothing is kept twice, and it takes the place of those whose tokens begin its own, with the
states that they have. Whatever else lies in the folder is left alone.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gptoss_mlx.cache import Cache
from gptoss_mlx.errors import GptOssError

from . import state_file
from .prefix import Branch, PrefixStore, Tokens
from .state_file import Mark, StateFile, mark_of

FINISHED = re.compile(r"prompt-[0-9a-f]{40}\.safetensors")
UNFINISHED = re.compile(FINISHED.pattern + r"\.partial")


class PromptFolder:
    """The files of one folder that belong to one model.

    An engine calls `recall` before it looks for a prompt in its store, and `save` when it has time, from one thread at
    a time. Several processes may use a folder: those that save wait for each other, and a file that another one
    deletes is as good as never found.

    Args:
        folder: made where there is none, for its owner only: the files tell what was asked and answered.
        fingerprint: names the model and how its caches are kept. Files of another one are ignored.
        make_cache: gives an empty cache for each layer.
        budget: bytes of all such files, whatever their model; the oldest go. Reading makes a file young again.
        report: told in one line about each thing in the folder that is ignored.

    Raises:
        GptOssError: the folder cannot be made or written to.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        make_cache: Callable[[], list[Cache]],
        *,
        budget: int,
        report: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.budget = budget
        self._fingerprint = fingerprint
        self._make_cache = make_cache
        self._report = report
        self._files: dict[str, StateFile] = {}
        self._ignored: dict[str, Mark] = {}
        with self._writing():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("no permission")
            self._scan()

    def recall(self, store: PrefixStore, tokens: Sequence[int], limit: int) -> None:
        """Bring into a store what the folder knows of a prompt beyond what the store knows.

        Args:
            store: where `find` will then look.
            tokens: the prompt.
            limit: of `find`.
        """
        prompt = np.array(tokens[: max(0, limit)], np.int32)
        known = store.reach(tokens, limit)
        while (best := self._deepest(prompt, known, store.budget)) is not None:
            file, position = best
            try:
                states = file.read(position, self._make_cache())
                os.utime(file.path)
            except (OSError, GptOssError) as error:
                self._ignore(file.path, file.mark, error)
                continue
            for end, caches in states.items():
                store.add(prompt[:end].tolist(), caches)
            return

    def save(self, store: PrefixStore) -> None:
        """Write what the store knows and the folder does not.

        Raises:
            GptOssError: the disk does not take it.
        """
        with self._writing(), self._alone() as directory:
            self._scan()
            for path in self._own(UNFINISHED):
                path.unlink()  # of a process that was killed: who writes is alone here
            for branch in store.branches():
                known = any(file.covers(branch) for file in self._files.values())
                if not known and state_file.nbytes(branch := self._completed(branch)) <= self.budget:
                    self._write(branch, directory)
                    self._trim()
            self._trim()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise GptOssError(
                f"{self.folder}: a folder to keep prompts in expected, {reason}; name another or make room"
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Keep other processes from writing; the lock goes with this one, however that ends."""
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield directory
        finally:
            os.close(directory)

    def _own(self, name: re.Pattern[str]) -> list[Path]:
        return [path for path in self.folder.iterdir() if name.fullmatch(path.name) and path.is_file()]

    def _scan(self) -> None:
        """Learn what is there now. Of a file only the header and the tokens are read."""
        files, self._files = self._files, {}
        for path in sorted(self.folder.iterdir()):
            if UNFINISHED.fullmatch(path.name):
                continue
            try:
                mark = mark_of(path.lstat())
            except FileNotFoundError:  # another process deleted it
                continue
            if self._ignored.get(path.name) == mark:
                continue
            try:
                if not FINISHED.fullmatch(path.name) or not path.is_file():
                    raise GptOssError("not a file of prompt states")
                known = files.get(path.name)
                if known is None or known.mark != mark:
                    known = StateFile.open(path, self._fingerprint, self._make_cache())
                self._files[path.name] = known
            except (OSError, GptOssError) as error:
                self._ignore(path, mark, error)

    def _ignore(self, path: Path, mark: Mark, error: Exception) -> None:
        self._files.pop(path.name, None)
        if not isinstance(error, FileNotFoundError):
            self._ignored[path.name] = mark
            self._report(f"{self.folder}: {path.name!r} is ignored: {error}")

    def _deepest(self, prompt: Tokens, known: int, budget: int) -> tuple[StateFile, int] | None:
        """The file and the position of the longest beginning of a prompt, if it is longer than what is known."""
        best = None
        for file in self._files.values():
            shared = file.shared(prompt)
            for position in file.positions:
                if known < position <= shared and file.nbytes(position) <= budget:
                    best, known = (file, position), position
        return best

    def _completed(self, branch: Branch) -> Branch:
        """A branch with what is known on the way to its end from files that it takes the place of."""
        states = dict(branch.states)
        for file in list(self._files.values()):
            if file.begins(branch.tokens) and not states.keys() >= set(file.positions):
                try:
                    states = file.read_beside(branch.states[len(branch.tokens)], self._make_cache()) | states
                except (OSError, GptOssError) as error:
                    self._ignore(file.path, file.mark, error)
        return Branch(branch.tokens, dict(sorted(states.items())))

    def _write(self, branch: Branch, directory: int) -> None:
        path = self.folder / state_file.file_name(self._fingerprint, branch.tokens)
        partial = path.with_name(f"{path.name}.partial")
        try:
            state_file.write(partial, self._fingerprint, branch)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        os.fsync(directory)
        for name, file in list(self._files.items()):
            if name != path.name and file.begins(branch.tokens):
                self._delete(file.path)
        self._files[path.name] = StateFile.open(path, self._fingerprint, self._make_cache())

    def _trim(self) -> None:
        """Delete the oldest files as far as the budget asks for it."""
        found = [(path.stat(), path) for path in self._own(FINISHED)]
        over = sum(status.st_size for status, _ in found) - self.budget
        for status, path in sorted(found, key=lambda item: item[0].st_mtime_ns):
            if over <= 0:
                return
            self._delete(path)
            over -= status.st_size

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._files.pop(path.name, None)
