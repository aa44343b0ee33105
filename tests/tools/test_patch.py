"""The patch format: what is read, where hunks fit, what the files become."""

from __future__ import annotations

from contextlib import suppress
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools.patch import AddFile, DeleteFile, Hunk, UpdateFile, new_contents, parse, split_lines, updated

LINES = ["", " ", "a", " a", "a ", "b", "}", "@@ a", "*** End Patch", "+a", "-a", "\ta", "é\u2028x", "a\rb"]
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff")
lines = st.sampled_from(LINES) | st.text(characters, max_size=4)
files = st.lists(lines, max_size=12)


def edits(old: list[str]) -> st.SearchStrategy[list[str]]:
    """Each line stays, goes, or gets another before it; perhaps one more at the end."""

    def parts(line: str) -> st.SearchStrategy[list[str]]:
        return st.sampled_from([[line], [line], [line], []]) | lines.map(lambda new: [new, line])

    end: st.SearchStrategy[list[str]] = st.sampled_from([[], ["end"]])
    return st.tuples(*map(parts, old), end).map(lambda kept: [line for part in kept for line in part])


def first_place(old: list[str], block: list[str], start: int) -> int:
    return next(i for i in range(start, len(old) + 1) if old[i : i + len(block)] == block)


def make_patch(old: list[str], new: list[str], context: int) -> list[str]:
    """The lines of an update's hunks, with as much context as leads to the right place."""
    codes = [code for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    result: list[str] = []
    done = 0
    for k, (_, i1, i2, j1, j2) in enumerate(codes):
        end = min(i2 + context, codes[k + 1][1] if k + 1 < len(codes) else len(old))
        start = max(i1 - context, done)
        while first_place(old, old[start:end], done) != start:
            start -= 1
        if start == end:  # nothing to find: one hunk for the whole file
            return ["@@", *(f"-{line}" for line in old), *(f"+{line}" for line in new)]
        result += ["@@", *(f" {x}" for x in old[start:i1]), *(f"-{x}" for x in old[i1:i2])]
        result += [*(f"+{x}" for x in new[j1:j2]), *(f" {x}" for x in old[i2:end])]
        done = end
    return result


def text(content: list[str], newline: str, terminated: bool) -> str:
    return newline.join(content) + (newline if terminated and content else "")


def hunks_of(*body: str) -> tuple[Hunk, ...]:
    (action,) = parse("\n".join(["*** Begin Patch", "*** Update File: f", *body, "*** End Patch"]))
    assert isinstance(action, UpdateFile)
    return action.hunks


@given(files, st.data(), st.integers(0, 3), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_patch_made_from_edits_makes_them(
    old: list[str], data: st.DataObject, context: int, newline: str, terminated: bool
) -> None:
    new = data.draw(edits(old))
    before = text(old, newline, terminated)
    if not terminated and old and not old[-1]:
        old, terminated = old[:-1], True  # the empty last line was none: the file ends with a line break
    if body := make_patch(old, new, context):
        whole = terminated or not before
        assert updated("f", before, hunks_of(*body)) == text(new, newline if newline in before else "\n", whole)


def test_every_section_is_read() -> None:
    patch = """
*** Begin Patch
*** Add File: new file.txt
+one
+
+ two
*** Update File: a.py
*** Move to: b/a.py
@@ class A:
@@   def f():
 x
-y
+z

@@
-last
*** End of File
*** Delete File: old.txt

*** Update File: c
-no header
*** Add File: empty
*** End Patch
"""
    assert parse(patch) == [
        AddFile("new file.txt", "one\n\n two\n"),
        UpdateFile(
            "a.py",
            (
                Hunk(("class A:", "  def f():"), ((" ", "x"), ("-", "y"), ("+", "z"), (" ", "")), loose=1),
                Hunk((), (("-", "last"),), at_end=True),
            ),
            "b/a.py",
        ),
        DeleteFile("old.txt"),
        UpdateFile("c", (Hunk((), (("-", "no header"),)),)),
        AddFile("empty", ""),
    ]
    assert parse(patch.replace("\n", "\r\n")) == parse(patch)


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("", "patch line 1: expected '*** Begin Patch', found ''"),
        ("*** Begin Patch", "patch line 2: expected '*** End Patch', found the end"),
        ("*** Begin Patch\n*** End Patch", "patch line 2: expected '*** Add File:', '*** Update File:' or"),
        ("*** Begin Patch\nx\n*** End Patch", "patch line 2: expected '*** Add File:', '*** Update File:', "),
        ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", "patch line 3: expected '*** Add File:'"),
        ("*** Begin Patch\n*** Add File: \n*** End Patch", "patch line 2: expected a path after '*** Add File:'"),
        ("*** Begin Patch\n*** Update File: a\n*** End Patch", "patch line 3: expected a hunk for a ('@@'"),
        ("*** Begin Patch\n*** Update File: a\n@@\n*** End Patch", "patch line 4: expected lines of a hunk"),
        ("*** Begin Patch\n*** Update File: a\n@@\nx\n*** End Patch", "patch line 4: expected a line of a hunk"),
        ("*** Begin Patch\n*** Delete File: a\n*** End Patch\nx", "patch line 4: expected nothing after"),
    ],
)
def test_what_is_no_patch_is_refused(patch: str, told: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(patch)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


CLASSES = "\n".join(f"class {c}:\n    def f():\n        x = 1\n        return x\n" for c in "AB")
FIRST = ["-        x = 1", "+        x = 2"]
SECOND = ["-        return x", "+        x = 2"]


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (["@@ class B:", *FIRST], [8]),
        (["@@ class B:", "@@     def f():", *FIRST], [8]),
        (["@@ def f():", "     def f():", *FIRST], [3]),  # the header again as context
        (["-    x = 1   ", "+        x = 2"], [3]),  # blanks on both sides
        (["-        x = 1", "+        x = 2", "", ""], [3]),  # empty lines that only set the hunk off
        (["@@ class A:", *FIRST, "@@ class A:", *SECOND], [3, 4]),
        (["@@ class A:", *FIRST, "@@ class A:", "@@ def f():", *SECOND], [3, 4]),
        (["@@ def f():", *FIRST, "@@ def f():", *FIRST], [3, 8]),
        (["-        x = 1", "-        return x", "+        x = 2", "*** End of File"], [8]),
    ],
)
def test_where_hunks_fit(body: list[str], changed: list[int]) -> None:
    result = split_lines(updated("f", CLASSES, hunks_of(*body)))
    assert [i for i, line in enumerate(result, 1) if line == "        x = 2\n"] == changed


def test_exact_lines_win_over_similar_ones() -> None:
    assert updated("f", "a \n a\na\n", hunks_of("-a", "+b")) == "a \n a\nb\n"
    assert updated("f", " a\na \n", hunks_of("-a", "+b")) == " a\nb\n"


def test_context_stays_as_it_is_in_the_file() -> None:
    assert updated("f", "\tif x:  \n\t\ty\n", hunks_of(" if x:", "-y", "+z")) == "\tif x:  \nz\n"


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        ("", ["+a"], "a\n"),
        ("a", [" a", "+b"], "a\nb"),
        ("a\nb", ["-b"], "a"),
        ("a", ["-a"], ""),
        ("a\r\nb\nc\r\n", [" b", "+x"], "a\r\nb\nx\r\nc\r\n"),
        ("\ufeffa\n", ["-a", "+b"], "\ufeffb\n"),
        ("a\nb\n", ["@@ a", "+x"], "a\nx\nb\n"),
        ("a\nb\n", ["@@ a", "+x", "", ""], "a\nx\nb\n"),
        ("a\nb\n", ["+x", "*** End of File"], "a\nb\nx\n"),
        ("a\rb\n", ["-a\rb", "+c"], "c\n"),
    ],
)
def test_line_endings_and_insertions(before: str, body: list[str], after: str) -> None:
    assert updated("f", before, hunks_of(*body)) == after


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (["-        y = 1"], "src/f: hunk 1: line not found: '        y = 1'; copy it as it stands in the file"),
        (["-class A:", "-class B:"], "src/f: hunk 1: lines not found one after the other, from 'class A:' on"),
        (["-class B:", "@@", "-class A:"], "src/f: hunk 2: found only before the place it should follow: 'class A:'"),
        (["@@ class C:", "-x"], "src/f: hunk 1: header not found: 'class C:'; copy the line"),
        (["@@ class B:", "@@ class A:", "-x"], "src/f: hunk 1: header not found: 'class A:'"),
        (["-class A:", "*** End of File"], "src/f: hunk 1: not the last lines of the file: 'class A:'; leave out"),
        (["+x"], "src/f: hunk 1: no context; give lines around 'x', a header or '*** End of File'"),
    ],
)
def test_what_does_not_fit_is_named(body: list[str], told: str) -> None:
    with pytest.raises(RequestError) as refused:
        updated("src/f", CLASSES, hunks_of(*body))
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_actions_see_what_those_before_them_did() -> None:
    patch = """*** Begin Patch
*** Update File: a
*** Move to: b
-1
+2
*** Update File: b
-2
+3
*** Add File: a
+new
*** Delete File: c
*** Update File: d
*** Move to: d
+x
*** End Patch"""
    there = {"a": "1\n", "c": "", "d": ""}
    assert new_contents(parse(patch), there.get) == {"a": "new\n", "b": "3\n", "c": None, "d": "x\n"}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("*** Add File: a\n+x", "a: there is such a file already"),
        ("*** Delete File: b", "b: no such file"),
        ("*** Update File: b\n+x", "b: no such file"),
        ("*** Update File: a\n*** Move to: c\n-1", "c: there is such a file already"),
        ("*** Delete File: a\n*** Delete File: a", "a: no such file"),
    ],
)
def test_files_that_are_there_or_not(section: str, told: str) -> None:
    actions = parse(f"*** Begin Patch\n{section}\n*** End Patch")
    with pytest.raises(RequestError, match=told):
        new_contents(actions, {"a": "1\n", "c": ""}.get)


MARKERS = [
    "Begin Patch",
    "End Patch",
    "Update File: a",
    "Add File: a",
    "Delete File: a",
    "Move to: b",
    "End of File",
    "",
]
pieces = st.sampled_from([*(f"*** {marker}" for marker in MARKERS), "@@", "@@ a", "+a", "-a", " a", "", " ", "x"])


@given(st.lists(pieces, max_size=8), files)
def test_nothing_but_the_one_error_comes_of_nonsense(body: list[str], old: list[str]) -> None:
    with suppress(RequestError):
        new_contents(parse("\n".join(body)), {"a": text(old, "\n", True)}.get)
    with suppress(RequestError):
        patch = ["*** Begin Patch", "*** Update File: a", *body, "*** End Patch"]
        new_contents(parse("\n".join(patch)), {"a": text(old, "\n", True)}.get)
