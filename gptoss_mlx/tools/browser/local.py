"""A folder of documents as what the browser searches: full text by SQLite's FTS5, without any network.

The index follows the folder: before each search, files whose time or size changed are read again. Hidden files, and
links that lead out of the folder, do not exist for it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from .backend import BrowserError, Document, SearchResult, at_least
from .decode import decode
from .layout import document_page
from .links import LOCAL, plain

MEDIA_TYPES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".rst": "text/plain",
    ".csv": "text/csv",
    ".json": "application/json",
}
"""The documents of a folder, by the ends of their names."""

_APPLICATION = 0x67707462  # marks a SQLite file as ours
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE made_for (folder BLOB NOT NULL, max_bytes INTEGER NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, mtime INTEGER NOT NULL, size INTEGER NOT NULL, problem TEXT
);
CREATE VIRTUAL TABLE pages USING fts5 (title, body, tokenize = 'porter unicode61 remove_diacritics 2');
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
_SEARCH = """
SELECT files.url, pages.title, snippet(pages, 1, '', '', ' … ', 40)
FROM pages JOIN files ON files.id = pages.rowid
WHERE pages MATCH ? ORDER BY bm25(pages, 4.0, 1.0), files.url LIMIT ?
"""
_MAX_WORDS = 64
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Indexed:
    """What an index holds: documents that can be found, and how many files were left out for which reason."""

    documents: int
    binary: int
    oversized: int
    unreadable: int


@dataclass(frozen=True)
class _File:
    path: Path
    url: str
    mtime: int
    size: int


class LocalFolder:
    """A folder as a back end of the browser.

    Args:
        folder: whose documents (see MEDIA_TYPES) can be found, in all depths.
        index: a file that keeps the index between runs; None keeps it in memory.
        max_bytes: how large a document may be.

    Raises:
        BrowserError: there is no such folder, or `index` is another folder's, or no index at all.
        RequestError: `max_bytes` is less than 1.
    """

    def __init__(self, folder: str | Path, index: str | Path | None = None, *, max_bytes: int = 2_000_000) -> None:
        at_least(1, max_bytes=max_bytes)
        self.folder = Path(folder).expanduser().resolve()
        if not self.folder.is_dir():
            raise BrowserError(f"browser: {folder}: no such folder; name one that holds documents")
        self.instructions = (
            "The browser reads a folder of the user's own documents and not the web: search it with the words that "
            "the documents use, and open them by the links of the results."
        )
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._database = _open(index, self.folder, max_bytes)

    async def search(self, query: str, topn: int) -> list[SearchResult]:
        """The documents with any of the query's words, the best first; see `Backend.search`."""
        return await asyncio.to_thread(self._search, query, topn)

    async def fetch(self, url: str) -> Document:
        """The document at `local:///path`, or at a path in the folder; see `Backend.fetch`."""
        return await asyncio.to_thread(self._fetch, url)

    async def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._database.close()

    def refresh(self) -> Indexed:
        """Bring the index up to date and count what it holds; a search does so by itself.

        Raises:
            BrowserError: the index cannot be written, or has been closed.
        """
        with self._lock, _database_errors(), self._database:
            self._update()
            rows = self._database.execute("SELECT ifnull(problem, 'documents'), count(*) FROM files GROUP BY problem")
            counts = dict(rows.fetchall())
        return Indexed(*(counts.get(name, 0) for name in ("documents", "binary", "oversized", "unreadable")))

    def _search(self, query: str, topn: int) -> list[SearchResult]:
        self.refresh()
        words = re.findall(r"\w+", query)[:_MAX_WORDS]
        if not words:
            return []
        quoted = " OR ".join(f'"{word}"' for word in words)  # no word can be an operator, nor end its quotes
        with self._lock, _database_errors():
            rows = self._database.execute(_SEARCH, (quoted, topn)).fetchall()
        return [SearchResult(url, title, snippet) for url, title, snippet in rows]

    def _fetch(self, url: str) -> Document:
        name = url.removeprefix(LOCAL).partition("#")[0].lstrip("/")
        found = self._file(self.folder / os.fsdecode(unquote_to_bytes(name)))
        if found is None:
            raise BrowserError(f"{url}: no such document in the folder; open one of the links of a search")
        document = self._read(found)
        if isinstance(document, str):
            raise BrowserError(f"{url}: the document cannot be shown: it is {document}")
        return document

    def _update(self) -> None:
        rows = self._database.execute("SELECT url, mtime, size FROM files")
        known = {url: (mtime, size) for url, mtime, size in rows}
        for file in self._walk():
            if known.pop(file.url, None) != (file.mtime, file.size):
                self._forget(file.url)
                self._add(file)
        for url in known:
            self._forget(url)

    def _add(self, file: _File) -> None:
        document = self._read(file)
        problem = document if isinstance(document, str) else None
        row = self._database.execute(
            "INSERT INTO files (url, mtime, size, problem) VALUES (?, ?, ?, ?)",
            (file.url, file.mtime, file.size, problem),
        ).lastrowid
        if isinstance(document, Document):
            page = document_page(document)
            body = "\n".join(plain(line) for line in page.lines)
            self._database.execute("INSERT INTO pages (rowid, title, body) VALUES (?, ?, ?)", (row, page.title, body))

    def _forget(self, url: str) -> None:
        self._database.execute("DELETE FROM pages WHERE rowid = (SELECT id FROM files WHERE url = ?)", (url,))
        self._database.execute("DELETE FROM files WHERE url = ?", (url,))

    def _walk(self) -> Iterator[_File]:
        for root, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = self._file(Path(root, name))
                if file is not None:
                    yield file

    def _file(self, path: Path) -> _File | None:
        """The document at a path; None where there is none, it is hidden, or the path leads out of the folder."""
        try:
            named, target = path.relative_to(self.folder), path.resolve(strict=True)
            parts = (*named.parts, *target.relative_to(self.folder).parts)
            status = target.stat()
        except (OSError, RuntimeError, ValueError):  # gone, a circle of links, a name that cannot be, outside
            return None
        hidden = any(part.startswith(".") for part in parts)  # `..` as well
        if hidden or not stat.S_ISREG(status.st_mode) or path.suffix.lower() not in MEDIA_TYPES:
            return None
        url = f"{LOCAL}/{quote(os.fsencode(named.as_posix()))}"
        return _File(path, url, status.st_mtime_ns, status.st_size)

    def _read(self, file: _File) -> Document | str:
        """A document, or why it is left out: oversized, binary or unreadable."""
        if file.size > self._max_bytes:
            return "oversized"
        try:
            with file.path.open("rb") as stream:
                data = stream.read(self._max_bytes)
        except OSError:
            return "unreadable"
        if b"\0" in data and not data.startswith(_BYTE_ORDER_MARKS):
            return "binary"
        title = os.fsencode(file.path.name).decode(errors="replace")
        return Document(file.url, decode(data), MEDIA_TYPES[file.path.suffix.lower()], title)


def _open(index: str | Path | None, folder: Path, max_bytes: int) -> sqlite3.Connection:
    """The index of a folder, made if it is not there."""
    name = ":memory:" if index is None else str(Path(index).expanduser())
    with _database_errors(name):
        database = sqlite3.connect(name, check_same_thread=False)
    try:
        with _database_errors(name):
            _prepare(database, name, (os.fsencode(folder), max_bytes))
    except BrowserError:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, name: str, wanted: tuple[bytes, int]) -> None:
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        database.executescript(_SCHEMA)
        with database:
            database.execute("INSERT INTO made_for VALUES (?, ?)", wanted)
        return
    marks = [database.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    if marks != [_APPLICATION, _VERSION]:
        raise BrowserError(f"browser: {name}: no index of this version; delete the file or name another one")
    folder, max_bytes = database.execute("SELECT folder, max_bytes FROM made_for").fetchone()
    if folder != wanted[0]:
        raise BrowserError(f"browser: {name}: the index of {os.fsdecode(folder)}; name another file for this folder")
    if max_bytes != wanted[1]:
        with database:
            database.execute("DELETE FROM files")
            database.execute("DELETE FROM pages")
            database.execute("UPDATE made_for SET max_bytes = ?", wanted[1:])


@contextmanager
def _database_errors(name: str = "the index") -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BrowserError(f"browser: {name}: {error}") from None
