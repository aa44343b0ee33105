"""`apply_patch`: the model changes the files of one folder, all of a patch or nothing of it."""

from __future__ import annotations

import asyncio
import difflib
import errno
import json
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import RequestError
from ..harmony.message import Tool
from .patch import Action, AddFile, DeleteFile, UpdateFile, new_contents, parse, split_lines
from .tool import RunnableTool, ToolResult

INSTRUCTIONS = """\
Change files with the function `apply_patch`. Its argument is one patch:

*** Begin Patch
*** Update File: path/of/file.py
@@ class Account:
@@     def close(self):
         self.open = False
-        return None
+        return self.balance
*** Add File: path/of/new.txt
+every line of a new file begins with a plus
*** Delete File: path/of/old.txt
*** End Patch

Paths are relative to the folder you work in. An update may say `*** Move to: new/path` on its second line. It has one \
or more hunks in the order of the file. A line of a hunk begins with a blank (it stays), `-` (it goes) or `+` (it is \
new); give about three lines of context before and after a change, copied exactly from the file. Where these lines \
occur more than once, name the class or function that holds them on a line of its own that begins with `@@ `, or on \
several. `*** End of File` after a hunk says that its lines are the last of the file. A patch is applied as a whole or \
not at all.
"""
DESCRIPTION = "Create, change, move and delete files by a patch."


class ApplyPatchTool(RunnableTool):
    """The function `apply_patch`, confined to one folder.

    Files are UTF-8. They are written beside their places and renamed into them; when one of them fails, those before
    it are put back.
    """

    functions = (Tool("apply_patch", DESCRIPTION, {"type": "string", "description": "the patch"}),)
    instructions = INSTRUCTIONS

    def __init__(self, folder: str | Path, *, dry_run: bool = False) -> None:
        """Confine the tool to a folder.

        Args:
            folder: what paths are relative to; nothing outside of it is read or written.
            dry_run: change nothing, answer with the unified diff of what would change.

        Raises:
            RequestError: there is no such folder.
        """
        self._folder = Path(folder).resolve()
        self._dry_run = dry_run
        if not self._folder.is_dir():
            raise RequestError(f"apply_patch: an existing folder expected, {folder} found")

    async def run(self, recipient: str, arguments: str) -> ToolResult:
        """Apply a patch: its text, or JSON that holds it (a string, or an object with one)."""
        try:
            return ToolResult(await asyncio.to_thread(self._apply, arguments))
        except RequestError as error:
            return ToolResult(str(error), failed=True)
        except OSError as error:
            named = Path(error.filename2 or error.filename or self._folder)
            name = named.relative_to(self._folder) if named.is_relative_to(self._folder) else named
            return ToolResult(f"{name}: {error.strerror or error}; no file was changed", failed=True)

    def _apply(self, arguments: str) -> str:
        actions = [self._resolved(action) for action in parse(patch_text(arguments))]
        before: dict[str, str | None] = {}

        def read(path: str) -> str | None:
            before[path] = self._read(path)
            return before[path]

        after = new_contents(actions, read)
        if self._dry_run:
            return "".join(_diff(path, before.get(path), text) for path, text in after.items()) or "no difference\n"
        moved = {a.move_to: a.path for a in actions if isinstance(a, UpdateFile) and a.move_to is not None}
        changes = {path: text for path, text in after.items() if text is not None or before.get(path) is not None}
        _write([_Change(self._folder / p, text, self._folder / moved.get(p, p)) for p, text in changes.items()])
        return "\n".join(map(_summary, actions))

    def _resolved(self, action: Action) -> Action:
        """The action on the files that its paths lead to."""
        follow = isinstance(action, UpdateFile) and action.move_to is None
        if isinstance(action, UpdateFile) and action.move_to is not None:
            action = replace(action, move_to=self._inside(action.move_to, follow=False))
        return replace(action, path=self._inside(action.path, follow=follow))

    def _inside(self, path: str, *, follow: bool) -> str:
        """The path of the file itself, relative to the folder; `follow`: it may be a link to a file in the folder."""
        parts = Path(path)
        if "\0" in path or parts.anchor or ".." in parts.parts:
            raise RequestError(f"{path!r}: a path inside the folder expected, without '..'")
        place = self._folder / parts
        try:
            real = place.resolve()
            linked = place.is_symlink()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise RequestError(f"{path}: a path that leads to a file expected ({error})") from None
        if real == self._folder or not real.is_relative_to(self._folder):
            raise RequestError(f"{path}: a file inside the folder expected")
        if linked and not follow:
            raise RequestError(f"{path}: is a symbolic link; only the file it leads to can be added, moved or deleted")
        return real.relative_to(self._folder).as_posix()

    def _read(self, path: str) -> str | None:
        try:
            if not stat.S_ISREG((self._folder / path).stat().st_mode):
                raise RequestError(f"{path}: a regular file expected, found another kind")
            return (self._folder / path).read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}: UTF-8 text expected, found another byte at {error.start}") from None


def patch_text(arguments: str) -> str:
    """The patch in a call's arguments, which the model writes as they are, or as JSON.

    Raises:
        RequestError: it is JSON that holds no patch, or a text that cannot be a file's.
    """
    text = arguments.strip()
    if text.startswith(("{", '"')):
        try:
            value = json.loads(text, strict=False)  # line breaks inside strings are common in patches
        except (ValueError, RecursionError) as error:
            raise RequestError(f'arguments: {{"patch": "..."}} or a patch expected, found no JSON ({error})') from None
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
        if not isinstance(value, str):
            raise RequestError('arguments: {"patch": "..."} expected, found JSON without one text')
        text = value
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"patch: Unicode text expected, found half a character at {error.start}") from None
    return text


def _summary(action: Action) -> str:
    match action:
        case AddFile(path):
            return f"A {path}"
        case DeleteFile(path):
            return f"D {path}"
        case UpdateFile(path, _, None):
            return f"M {path}"
        case UpdateFile(path, _, target):
            return f"M {path} -> {target}"


def _diff(path: str, before: str | None, after: str | None) -> str:
    lines = difflib.unified_diff(
        split_lines(before or ""),
        split_lines(after or ""),
        "/dev/null" if before is None else f"a/{path}",
        "/dev/null" if after is None else f"b/{path}",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


class _Change:
    """A file's new text, None to delete it, and what is needed to make the change or undo it in one step."""

    def __init__(self, path: Path, text: str | None, model: Path) -> None:
        """`model`: the file whose permissions it gets, if there is one."""
        token = secrets.token_hex(8)
        self.path, self._text, self._model = path, text, model
        self._new, self.old = (path.with_name(f".{token}.{name}") for name in ("new", "old"))
        self._existed = False

    def prepare(self) -> None:
        """Lay the new file and a copy of the old one beside it, where there are such."""
        if self.path.exists():
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "the file is read-only", str(self.path))
            shutil.copy2(self.path, self.old)
            self._existed = True
        if self._text is not None:
            with self._new.open("xb") as file:
                file.write(self._text.encode())
            if self._model.exists():
                shutil.copymode(self._model, self._new)

    def make(self) -> None:
        """Make the change."""
        if self._text is None:
            self.path.unlink()
        else:
            os.replace(self._new, self.path)

    def undo(self) -> bool:
        """Put the old file back; False if that fails, and it remains in `old`."""
        try:
            if not self._existed:
                if not self.path.is_dir():  # else it is another new file's folder, which is why this one failed
                    self.path.unlink(missing_ok=True)
                return True
            try:
                os.replace(self.old, self.path)
            except OSError:
                shutil.copy2(self.old, self.path)  # renaming may be what fails today
        except OSError:
            return False
        return True

    def clean(self) -> None:
        """Remove what still lies beside the file."""
        for path in (self._new, self.old):
            with suppress(OSError):
                path.unlink()


def _write(changes: list[_Change]) -> None:
    """Make all the changes, or none."""
    folders: list[Path] = []
    tried: list[_Change] = []
    try:
        for change in changes:
            for folder in reversed([f for f in change.path.parents if not f.exists()]):
                folder.mkdir()
                folders.append(folder)
            change.prepare()
        for change in changes:
            tried.append(change)
            change.make()
    except BaseException as error:  # an interrupt must not leave half of it either
        lost = [change for change in reversed(tried) if not change.undo()]
        _clean([change for change in changes if change not in lost])
        for folder in reversed(folders):
            with suppress(OSError):
                folder.rmdir()
        if lost:
            kept = ", ".join(f"{change.path} (in {change.old})" for change in lost)
            raise RequestError(f"{error}; these could not be put back, their old text is kept: {kept}") from error
        raise
    _clean(changes)


def _clean(changes: list[_Change]) -> None:
    for change in changes:
        change.clean()
