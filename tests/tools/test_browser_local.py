"""A folder is searched as it is now, whatever the query; nothing hidden and nothing outside is ever shown."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.tools.browser import BrowserError, Document, Indexed, LocalFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "tides.md").write_text("# Tides\n\nThe tide rises twice a day at Brest.")
    (folder / "sub" / "boats and [more].txt").write_text("Boats leave at high tide. Café.")
    (folder / "page.HTM").write_text("<title>Page</title><p>Pilots guide <a href=tides.md>ships</a>.")
    (folder / "table.csv").write_text("port,height\nRoscoff,9\n")
    (folder / "data.json").write_text('{"harbour": "Camaret"}')
    (folder / "notes.rst").write_text("Notes\n=====\n\nLighthouse.")
    (folder / "ignored.py").write_text("tide = 1")
    return folder


@pytest.fixture
def local(folder: Path) -> Iterator[LocalFolder]:
    local = LocalFolder(folder)
    yield local
    asyncio.run(local.close())


def search(local: LocalFolder, query: str, topn: int = 10) -> list[str]:
    return [result.url for result in asyncio.run(local.search(query, topn))]


def fetch(local: LocalFolder, url: str) -> Document:
    return asyncio.run(local.fetch(url))


def test_every_kind_of_document_is_found_by_its_words(local: LocalFolder) -> None:
    assert local.refresh() == Indexed(documents=6, binary=0, oversized=0, unreadable=0)
    assert search(local, "pilot guides") == ["local:///page.HTM"]  # by the stems of words
    assert search(local, "roscoff") == ["local:///table.csv"]
    assert search(local, "CAMARET") == ["local:///data.json"]
    assert search(local, "lighthouse?") == ["local:///notes.rst"]
    assert search(local, "cafe") == ["local:///sub/boats%20and%20%5Bmore%5D.txt"]  # without accents
    assert search(local, "xyzzy") == []


def test_the_best_comes_first_and_the_snippet_quotes_it(local: LocalFolder) -> None:
    best, second = asyncio.run(local.search("tides at Brest", 10))
    assert (best.url, best.title) == ("local:///tides.md", "Tides")
    assert "rises twice a day at Brest" in best.snippet
    assert (second.title, second.snippet) == ("boats and [more].txt", "Boats leave at high tide. Café.")
    assert search(local, "tides at Brest", 1) == ["local:///tides.md"]


def test_documents_open_by_their_address_or_path(local: LocalFolder) -> None:
    assert fetch(local, "local:///page.HTM").media_type == "text/html"
    boats = "local:///sub/boats%20and%20%5Bmore%5D.txt"
    expected = Document(boats, "Boats leave at high tide. Café.", "text/plain", "boats and [more].txt")
    for name in (boats, "sub/boats and [more].txt", "local://sub/boats and [more].txt#x"):
        assert fetch(local, name) == expected


def test_the_index_follows_the_folder(local: LocalFolder, folder: Path) -> None:
    assert search(local, "Brest") == ["local:///tides.md"]
    (folder / "tides.md").write_text("# Tides\n\nNow about Roscoff, and longer than before.")
    (folder / "new.txt").write_text("Brest")
    (folder / "table.csv").unlink()
    assert search(local, "Brest") == ["local:///new.txt"]
    assert search(local, "Roscoff") == ["local:///tides.md"]


def test_only_changed_files_are_read_again(local: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Path.open

    def opened(self: Path, mode: str) -> Any:
        read.append(self.name)
        return original(self, mode)

    monkeypatch.setattr(Path, "open", opened)
    local.refresh()
    assert len(read) == 6
    local.refresh()
    assert len(read) == 6
    os.utime(local.folder / "tides.md", (1, 1))
    local.refresh()
    assert read[6:] == ["tides.md"]


def test_what_is_no_text_or_too_large_is_counted(folder: Path) -> None:
    (folder / "binary.txt").write_bytes(b"tide\x00tide")
    (folder / "large.txt").write_text("tide " * 100)
    (folder / "wide.txt").write_bytes("Zebra, wide".encode("utf-16"))
    local = LocalFolder(folder, max_bytes=400)
    assert local.refresh() == local.refresh() == Indexed(documents=7, binary=1, oversized=1, unreadable=0)
    assert search(local, "zebra") == ["local:///wide.txt"]
    for name, problem in (("binary", "binary"), ("large", "oversized")):
        with pytest.raises(BrowserError, match="cannot be shown: it is " + problem):
            fetch(local, f"local:///{name}.txt")
    asyncio.run(local.close())


def test_unreadable_files_are_counted(local: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: str) -> None:
        raise PermissionError(self)

    monkeypatch.setattr(Path, "open", refuse)
    assert local.refresh() == Indexed(documents=0, binary=0, oversized=0, unreadable=6)


def test_nothing_hidden_or_outside_is_found_or_opened(local: LocalFolder, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.txt").write_text("secret")
    (folder / ".hidden.txt").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "within.txt").symlink_to(".hidden.txt")
    (folder / "circle.txt").symlink_to("circle.txt")
    assert search(local, "secret") == []
    for name in (
        "link.txt", "linked/secret.txt", ".hidden.txt", ".git/secret.txt", "within.txt", "circle.txt", "../secret.txt",
        "sub/../../secret.txt", "%2e%2e/secret.txt", str(secret), f"/{secret}", "ignored.py", "sub", "", "no.txt",
        "\0.txt", "%00.txt", "https://a.example/tides.md", "x" * 5000,
    ):  # fmt: skip
        for url in (name, f"local:///{name}"):
            with pytest.raises(BrowserError, match="no such document in the folder"):
                fetch(local, url)


def test_links_within_the_folder_are_followed(local: LocalFolder, folder: Path) -> None:
    (folder / "alias.md").symlink_to("tides.md")
    assert set(search(local, "Brest")) == {"local:///alias.md", "local:///tides.md"}


@pytest.mark.skipif(os.name != "posix", reason="only there are names bytes")
def test_names_that_are_no_text_are_found(local: LocalFolder, folder: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff.txt")).write_text("zebra")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert search(local, "zebra") == ["local:///odd%FF.txt"]
    assert fetch(local, "local:///odd%FF.txt").title == "odd\ufffd.txt"


QUERIES = [
    '"', "'", 'tide"', "AND", "NOT tide", "tide NEAR(", "title:tide", "tide*", "^tide", "{x} : y", "(", "-tide",
    "''; DROP TABLE tide; --", "tide " * 5000,
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_queries_hold_no_syntax(local: LocalFolder, query: str) -> None:
    found = search(local, query)
    assert ("local:///tides.md" in found) == ("tide" in query)
    assert search(local, "Brest") == ["local:///tides.md"]


def test_any_query_is_safe(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("tide")
    local = LocalFolder(tmp_path)

    @given(st.text() | st.text(alphabet=st.sampled_from("\"'*^:(){}-+ANDORNTEtide ")))
    def check(query: str) -> None:
        assert search(local, query) in ([], ["local:///a.txt"])

    check()
    asyncio.run(local.close())


def test_an_index_in_a_file_is_used_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = LocalFolder(folder, tmp_path / "index.db")
    assert first.refresh().documents == 6
    asyncio.run(first.close())
    monkeypatch.setattr(Path, "open", lambda self, *args: pytest.fail(f"{self} is read again"))
    second = LocalFolder(folder, tmp_path / "index.db")
    assert search(second, "Brest") == ["local:///tides.md"]
    asyncio.run(second.close())
    third = LocalFolder(folder, tmp_path / "index.db", max_bytes=10)  # other documents fit: all anew
    monkeypatch.undo()
    assert third.refresh() == Indexed(documents=0, binary=0, oversized=6, unreadable=0)
    asyncio.run(third.close())


def test_an_index_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    mine = LocalFolder(folder, tmp_path / "index.db")
    asyncio.run(mine.close())
    with pytest.raises(BrowserError, match=f"the index of {folder}; name another file"):
        LocalFolder(folder / "sub", tmp_path / "index.db")
    (tmp_path / "text.db").write_text("no database at all, but a text of some length" * 20)
    with pytest.raises(BrowserError, match="not a database"):
        LocalFolder(folder, tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE files (x)")
    other.close()
    with pytest.raises(BrowserError, match="no index of this version; delete the file or name another one"):
        LocalFolder(folder, tmp_path / "other.db")
    with pytest.raises(BrowserError, match="unable to open"):
        LocalFolder(folder, tmp_path / "no" / "index.db")


def test_there_must_be_a_folder_and_an_open_index(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BrowserError, match="no such folder"):
        LocalFolder(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="max_bytes of at least 1 expected, 0 found"):
        LocalFolder(folder, max_bytes=0)
    local = LocalFolder(folder)
    asyncio.run(local.close())
    with pytest.raises(BrowserError, match="closed"):
        search(local, "tide")
