"""apply_patch on real folders: confined, all or nothing, whatever the model writes and whatever fails."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony.typescript import function_type
from gptoss_mlx.tools.apply_patch import INSTRUCTIONS, ApplyPatchTool
from gptoss_mlx.tools.tool import ToolResult

PATCH = """*** Begin Patch
*** Update File: a.txt
 one
-two
+zwei
*** Add File: new/deep/b.txt
+b
*** Update File: dir/c.txt
*** Move to: dir/d.txt
-c
+d
*** Delete File: e.txt
*** End Patch"""
AFTER = {"a.txt": b"one\nzwei\n", "dir/d.txt": b"d\n", "new/deep/b.txt": b"b\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one\ntwo\n")
    (root / "dir" / "c.txt").write_bytes(b"c\n")
    (root / "e.txt").write_bytes(b"e")
    (tmp_path / "outside.txt").write_bytes(b"secret\n")
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def everything(folder: Path) -> dict[str, Any]:
    return {**files(folder), "folders": sorted(p for p in folder.rglob("*") if p.is_dir())}


def apply(folder: Path, arguments: str, dry_run: bool = False) -> ToolResult:
    return asyncio.run(ApplyPatchTool(folder, dry_run=dry_run).run("functions.apply_patch", arguments))


def section(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


@pytest.mark.parametrize(
    "written",
    [
        str,
        lambda patch: f"\n{patch}\n",
        json.dumps,
        lambda patch: json.dumps({"patch": patch}),
        lambda patch: json.dumps({"input": patch}, indent=1),
        lambda patch: '{"patch": "' + patch + '"}',  # line breaks that JSON does not allow
    ],
    ids=["raw", "blanks around", "text", "patch", "input", "line breaks"],
)
def test_a_patch_is_applied_however_it_is_written(folder: Path, written: Callable[[str], str]) -> None:
    result = apply(folder, written(PATCH))
    assert result == ToolResult("M a.txt\nA new/deep/b.txt\nM dir/c.txt -> dir/d.txt\nD e.txt")
    assert files(folder) == AFTER


def test_a_dry_run_shows_and_changes_nothing(folder: Path) -> None:
    before = everything(folder)
    result = apply(folder, PATCH, dry_run=True)
    assert everything(folder) == before
    assert result.text == (
        "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+zwei\n"
        "--- /dev/null\n+++ b/new/deep/b.txt\n@@ -0,0 +1 @@\n+b\n"
        "--- a/dir/c.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-c\n"
        "--- /dev/null\n+++ b/dir/d.txt\n@@ -0,0 +1 @@\n+d\n"
        "--- a/e.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-e\n\\ No newline at end of file\n"
    )
    assert apply(folder, section("*** Update File: a.txt", " one"), dry_run=True).text == "no difference\n"


def test_what_the_model_reads() -> None:
    (tool,) = ApplyPatchTool.functions
    assert function_type(tool.name, tool.parameters) == "type apply_patch = (_: string) => any;"
    assert ApplyPatchTool.instructions == INSTRUCTIONS


def test_the_example_of_the_instructions_is_a_patch(folder: Path) -> None:
    lines = INSTRUCTIONS.split("\n")
    example = lines[lines.index("*** Begin Patch") : lines.index("*** End Patch") + 1]
    (folder / "path/of").mkdir(parents=True)
    (folder / "path/of/file.py").write_text(
        "class Account:\n    def close(self):\n        self.open = False\n        return None\n"
    )
    (folder / "path/of/old.txt").touch()
    result = apply(folder, "\n".join(example))
    assert not result.failed, result.text


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../outside.txt", "'../outside.txt': a path inside the folder expected, without '..'"),
        ("dir/../a.txt", "'dir/../a.txt': a path inside the folder expected"),
        ("/etc/passwd", "'/etc/passwd': a path inside the folder expected"),
        ("a\0b", "'a\\x00b': a path inside the folder expected"),
        (".", ".: a file inside the folder expected"),
        ("dir", "dir: a regular file expected, found another kind"),
        ("pipe", "pipe: a regular file expected, found another kind"),
        ("out", "out: a file inside the folder expected"),
        ("outdir/outside.txt", "outdir/outside.txt: a file inside the folder expected"),
        ("circle", "circle: "),
        ("a.txt/b", "a.txt/b: no such file"),
        ("latin", "latin: UTF-8 text expected, found another byte at 1"),
        ("x" * 300, ""),
    ],
)
def test_files_that_are_not_the_tools_to_change(folder: Path, path: str, told: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "latin").write_bytes(b"a\xe9")
    (folder / "out").symlink_to("../outside.txt")
    (folder / "outdir").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    for body in (
        (f"*** Update File: {path}", "-secret", "+x"),
        (f"*** Delete File: {path}",),
        ("*** Add File: good", "+x", f"*** Update File: {path}", "+x"),
    ):
        result = apply(folder, section(*body))
        assert result.failed
        assert result.text.startswith(told)
        assert "\n" not in result.text
    assert (folder.parent / "outside.txt").read_bytes() == b"secret\n"
    assert not (folder / "good").exists()


@pytest.mark.parametrize("path", ["out/x", "out", "a.txt/b", "a.txt", "dir", "link"])
def test_places_where_nothing_can_be_added(folder: Path, path: str) -> None:
    (folder / "out").symlink_to("..")
    (folder / "link").symlink_to("nowhere")
    before = everything(folder)
    assert apply(folder, section("*** Add File: new/x", "+x", f"*** Add File: {path}", "+x")).failed
    assert apply(folder, section("*** Update File: dir/c.txt", f"*** Move to: {path}", "-c", "+2")).failed
    assert everything(folder) == before
    assert not (folder.parent / "x").exists()


@pytest.mark.parametrize("names", [("x", "x/y"), ("x/y", "x"), ("x", "x/y/z")], ids=" ".join)
def test_a_file_cannot_be_a_folder_as_well(folder: Path, names: tuple[str, str]) -> None:
    before = everything(folder)
    result = apply(folder, section(*(line for name in names for line in (f"*** Add File: {name}", "+x"))))
    assert result.failed
    assert result.text.endswith("; no file was changed")
    assert everything(folder) == before


def test_links_inside_the_folder_are_followed_to_update_only(folder: Path) -> None:
    (folder / "link").symlink_to("a.txt")
    assert apply(folder, section("*** Update File: link", "-two", "+2")) == ToolResult("M a.txt")
    assert (folder / "link").is_symlink()
    assert (folder / "a.txt").read_bytes() == b"one\n2\n"
    for body in (("*** Delete File: link",), ("*** Update File: link", "*** Move to: z", "-2", "+3")):
        result = apply(folder, section(*body))
        assert result.text.startswith("link: is a symbolic link; only the file it leads to can be added, moved")


def test_permissions_are_kept(folder: Path) -> None:
    (folder / "a.txt").chmod(0o751)
    (folder / "dir/c.txt").chmod(0o640)
    apply(folder, PATCH)
    assert stat.S_IMODE((folder / "a.txt").stat().st_mode) == 0o751
    assert stat.S_IMODE((folder / "dir/d.txt").stat().st_mode) == 0o640


def test_a_read_only_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "e.txt")  # root may write everywhere
    before = everything(folder)
    assert apply(folder, PATCH) == ToolResult("e.txt: the file is read-only; no file was changed", failed=True)
    assert everything(folder) == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=repr)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("fails_at", range(3))
def test_a_failure_in_the_middle_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, forever: bool, fails_at: int
) -> None:
    before, replace, calls = everything(folder), os.replace, iter(range(100))

    def failing(source: Any, target: Any) -> None:
        call = next(calls)
        if call == fails_at or (forever and call > fails_at and isinstance(error, OSError)):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    if isinstance(error, Killed):
        with pytest.raises(Killed):
            ApplyPatchTool(folder)._apply(PATCH)
    else:
        result = apply(folder, PATCH)
        assert result.failed
        assert result.text.endswith("No space left on device; no file was changed")
    assert everything(folder) == before


def test_a_failed_deletion_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, unlink = everything(folder), Path.unlink

    def failing(path: Path, missing_ok: bool = False) -> None:
        if path.name == "e.txt":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    assert apply(folder, PATCH).text == "e.txt: Permission denied; no file was changed"
    assert everything(folder) == before


def test_what_cannot_be_put_back_is_kept_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, iter(range(100))

    def failing(source: Any, target: Any) -> None:
        if next(calls):
            raise OSError(5, "Input/output error", str(source))
        replace(source, target)

    copy = shutil.copy2
    monkeypatch.setattr(os, "replace", failing)
    monkeypatch.setattr(shutil, "copy2", lambda a, b: failing(a, b) if ".old" in str(a) else copy(a, b))
    result = apply(folder, PATCH)
    assert result.failed
    assert "could not be put back" in result.text
    (kept,) = folder.glob(".*.old")
    assert str(kept) in result.text
    assert kept.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "patch line 1: expected '*** Begin Patch', found ''"),
        ("{", 'arguments: {"patch": "..."} or a patch expected, found no JSON'),
        ("{" * 100_000, 'arguments: {"patch": "..."} or a patch expected, found no JSON'),
        ('{"a":' * 100_000, 'arguments: {"patch": "..."} or a patch expected, found no JSON'),
        ("{}", 'arguments: {"patch": "..."} expected, found JSON without one text'),
        ('{"patch": "x", "input": "y"}', 'arguments: {"patch": "..."} expected, found JSON without one text'),
        ('{"patch": 1}', 'arguments: {"patch": "..."} expected, found JSON without one text'),
        ('"\\ud800"', "patch: Unicode text expected, found half a character at 0"),
    ],
)
def test_arguments_without_a_patch(folder: Path, arguments: str, told: str) -> None:
    result = apply(folder, arguments)
    assert result.failed
    assert result.text.startswith(told)


names = st.sampled_from(["a", "b", "d/a", "d", "a/b", "b/c", "../x", "/x", "", ".", "link", "é\0"])
bodies = st.lists(st.sampled_from(["@@", "@@ 1", "-1", "+2", " 1", "", "*** End of File", "junk"]), max_size=4)
markers = st.sampled_from(["Add", "Update", "Delete"])


@st.composite
def patches(draw: st.DrawFn) -> str:
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        lines.append(f"*** {draw(markers)} File: {draw(names)}")
        if draw(st.booleans()):
            lines.append(f"*** Move to: {draw(names)}")
        lines += draw(bodies)
    return section(*lines)


@given(patches() | st.text() | patches().map(json.dumps) | patches().map(lambda p: p.replace(" ", "", 1)))
def test_whatever_the_model_writes_changes_all_or_nothing(arguments: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        (root / "d").mkdir(parents=True)
        (root / "a").write_text("1\n")
        (root / "d" / "a").write_text("1\n1\n")
        (root / "link").symlink_to("a")
        before = everything(root)
        result = apply(root, arguments)
        if result.failed:
            assert everything(root) == before
        assert [path.name for path in Path(name).iterdir()] == ["root"]
        assert not list(root.rglob(".*"))


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="an existing folder expected"):
        ApplyPatchTool(tmp_path / "none")
