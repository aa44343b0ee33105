"""Responses that can be asked for again, and gone on from: one SQLite file, or memory.

A response is kept with what was put into it, as the API's items and as harmony messages, and with the id of the
response that it goes on from. Going on touches the whole chain, so the least recently used responses, which are
forgotten first, never leave a gap in a chain that is used.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Conversation, Message

LIMIT = 256 << 20
"""Bytes of JSON that are kept, unless asked otherwise."""
FORMAT = 1
APPLICATION = 0x67707472
"""What marks a file as ours; anything else's file is refused."""
PENDING = ("queued", "in_progress")
"""Statuses of responses that somebody is working on."""

_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    previous TEXT,
    status TEXT NOT NULL,
    used INTEGER NOT NULL,
    size INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_previous ON responses (previous);
CREATE INDEX IF NOT EXISTS by_use ON responses (used, position DESC, size);
CREATE TABLE IF NOT EXISTS contents (
    owner INTEGER PRIMARY KEY REFERENCES responses ON DELETE CASCADE,
    response TEXT NOT NULL,
    input TEXT NOT NULL,
    messages TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS by_owner ON items (owner);
"""
_PUT = """
INSERT INTO responses (id, previous, status, used, size) VALUES (?, ?, ?, 0, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, size = excluded.size
RETURNING position
"""
_GET = "SELECT response, input, messages FROM responses JOIN contents ON contents.owner = position"
_CHAIN = """
WITH RECURSIVE chain (position, previous, depth) AS (
    SELECT position, previous, 0 FROM responses WHERE id = ?
    UNION ALL
    SELECT r.position, r.previous, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous
)
"""
_FORGET = """
DELETE FROM responses WHERE position IN (
    SELECT position FROM (
        SELECT position, used, sum(size) OVER (ORDER BY used, position DESC) - size AS before FROM responses
    ) WHERE before < ? AND used < (SELECT max(used) FROM responses)
)
"""
_PRUNE = """
DELETE FROM responses WHERE deleted AND NOT EXISTS (SELECT 1 FROM responses later WHERE later.previous = responses.id)
"""


@dataclass(frozen=True)
class Stored:
    """A response, and what it came from."""

    response: dict[str, Any]
    """As the API shows it."""
    input: tuple[dict[str, Any], ...] = ()
    """Its own input items, without those of the responses before."""
    messages: tuple[Message, ...] = ()
    """Input and output in harmony, without instructions."""

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.response["id"])


class ResponseStore:
    """Keeps responses; any thread may use it. What `put` was given survives the end of the process, however it ends.

    Args:
        path: the file, which no other process may use meanwhile; None keeps everything in memory.
        limit: bytes of JSON that are kept. The chain that was used last is kept whole even where it is longer.

    Raises:
        RequestError: the limit is below 1, or the file cannot be used as a store.
    """

    def __init__(self, path: Path | None = None, limit: int = LIMIT) -> None:
        if limit < 1:
            raise RequestError(f"store: a limit of 1 byte or more expected, {limit} found")
        self._limit = limit
        self._lock = threading.Lock()
        try:
            self._database = _open(path)
        except sqlite3.Error as error:
            raise RequestError(f"store: {path} cannot be used: {error}; name a new file, or one of a store") from None
        weakref.finalize(self, self._database.close)
        self._abandon()

    def put(self, stored: Stored) -> None:
        """Keep a response, in place of an earlier state of it."""
        texts = (
            json.dumps(stored.response),
            json.dumps(stored.input),
            json.dumps(Conversation(stored.messages).to_dict()),
        )
        row = stored.id, stored.response.get("previous_response_id"), stored.response["status"], sum(map(len, texts))
        items = [*stored.input, *stored.response["output"]]
        with self._changing() as database:
            owner = database.execute(_PUT, row).fetchone()[0]
            database.execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", (owner, *texts))
            ids = [(item["id"], owner) for item in items if isinstance(item.get("id"), str)]
            database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?)", ids)
            _touch(database, stored.id)
            total = database.execute("SELECT sum(size) FROM responses").fetchone()[0]
            if total > self._limit:  # somewhat more goes than must, as sorting all of them takes a while
                database.execute(_FORGET, (total - self._limit * 9 // 10,))

    def get(self, id: str) -> Stored | None:
        """The response of that id, unless it was deleted or forgotten."""
        with self._lock:
            row = self._database.execute(f"{_GET} WHERE id = ? AND NOT deleted", (id,)).fetchone()
        return None if row is None else _read(row)

    def chain(self, id: str) -> list[Stored]:
        """The response of that id and all that it goes on from, the first one first; empty if there is none."""
        with self._changing() as database:
            if not database.execute("SELECT 1 FROM responses WHERE id = ? AND NOT deleted", (id,)).fetchone():
                return []
            _touch(database, id)
            found = "SELECT response, input, messages FROM chain JOIN contents ON owner = position"
            rows = database.execute(f"{_CHAIN} {found} ORDER BY depth DESC", (id,)).fetchall()
        return [_read(row) for row in rows]

    def item(self, id: str) -> dict[str, Any] | None:
        """The input or output item of that id, of a response that is there."""
        with self._lock:
            row = self._database.execute(
                f"{_GET} JOIN items ON items.owner = position WHERE items.id = ? AND NOT deleted", (id,)
            ).fetchone()
        if row is None:
            return None
        stored = _read(row)
        return next((item for item in (*stored.response["output"], *stored.input) if item.get("id") == id), None)

    def delete(self, id: str) -> bool:
        """Delete a response; what later ones go on from stays in the file until they are deleted too.

        Returns:
            Whether there was one.
        """
        with self._changing() as database:
            found = database.execute("UPDATE responses SET deleted = 1 WHERE id = ? AND NOT deleted", (id,)).rowcount
            while database.execute(_PRUNE).rowcount:
                pass  # those before it may have been waiting for this one
        return bool(found)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _abandon(self) -> None:
        """Mark what the process before this one was working on as failed."""
        message = "The server was restarted while it worked on this response; ask again."
        with self._changing() as database:
            query = (
                f"SELECT position, response FROM responses JOIN contents ON owner = position WHERE status IN {PENDING}"
            )
            for position, text in database.execute(query).fetchall():
                response: Mapping[str, Any] = json.loads(text)
                ended = {**response, "status": "failed", "error": {"code": "server_error", "message": message}}
                database.execute("UPDATE responses SET status = 'failed' WHERE position = ?", (position,))
                database.execute("UPDATE contents SET response = ? WHERE owner = ?", (json.dumps(ended), position))

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database


def _open(path: Path | None) -> sqlite3.Connection:
    database = sqlite3.connect(path or ":memory:", timeout=1, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
        is_new = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not is_new and (application, version) != (APPLICATION, FORMAT):
            raise sqlite3.DatabaseError("it is another program's database, or another version's")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.executescript(_TABLES)
        for name, value in zip(_MARKS, (APPLICATION, FORMAT), strict=True):
            database.execute(f"PRAGMA {name} = {value}")
    except BaseException:  # Ctrl-C as well: the file must not stay locked
        database.close()
        raise
    return database


_MARKS = ("application_id", "user_version")


def _touch(database: sqlite3.Connection, id: str) -> None:
    """Make the chain up to a response the one that was used last."""
    database.execute(
        f"{_CHAIN} UPDATE responses SET used = (SELECT max(used) + 1 FROM responses) "
        "WHERE position IN (SELECT position FROM chain)",
        (id,),
    )


def _read(row: tuple[str, str, str]) -> Stored:
    response, given, messages = map(json.loads, row)
    return Stored(response, tuple(given), Conversation.from_dict(messages).messages)
