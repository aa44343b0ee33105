"""The store of responses: chains, bounds, files that are not its own, and processes that end without warning."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Message
from gptoss_mlx.server.responses.store import ResponseStore, Stored


def stored(id: str, previous: str | None = None, text: str = "", **fields: Any) -> Stored:
    item = {"type": "message", "id": f"msg_{id}", "role": "user", "content": text or id}
    response = {"id": id, "previous_response_id": previous, "status": "completed", "output": [], **fields}
    return Stored(response, (item,), (Message.user(text or id), Message.assistant("yes")))


def ids(chain: list[Stored]) -> list[str]:
    return [each.id for each in chain]


def test_what_is_put_is_got() -> None:
    store = ResponseStore()
    one = stored("a", text="é \ud800 \N{GRINNING FACE}")
    store.put(one)
    assert store.get("a") == one
    assert store.get("b") is None


def test_a_later_state_replaces_an_earlier_one() -> None:
    store = ResponseStore()
    store.put(stored("a", status="queued"))
    store.put(stored("a", status="completed"))
    assert [each.response["status"] for each in store.chain("a")] == ["completed"]


def test_chains_are_given_from_their_beginning() -> None:
    store = ResponseStore()
    for id, previous in (("a", None), ("b", "a"), ("c", "b"), ("d", "b")):
        store.put(stored(id, previous))
    assert ids(store.chain("c")) == ["a", "b", "c"]
    assert ids(store.chain("d")) == ["a", "b", "d"]
    assert store.chain("x") == []


def test_deleted_responses_are_gone_but_not_from_chains() -> None:
    store = ResponseStore()
    for id, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.put(stored(id, previous))
    assert store.delete("b")
    assert not store.delete("b")
    assert store.get("b") is None
    assert store.item("msg_b") is None
    assert store.chain("b") == []
    assert ids(store.chain("c")) == ["a", "b", "c"]


def test_the_last_deletion_of_a_chain_removes_what_waited_for_it(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store")
    for id, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.put(stored(id, previous))
    for id in ("a", "b", "c"):
        store.delete(id)
    store.close()
    rows = sqlite3.connect(tmp_path / "store").execute("SELECT count(*) FROM responses").fetchone()
    assert rows == (0,)


def test_items_are_found_by_their_ids() -> None:
    store = ResponseStore()
    store.put(stored("a", output=[{"type": "reasoning", "id": "rs_1"}]))
    assert store.item("msg_a") == {"type": "message", "id": "msg_a", "role": "user", "content": "a"}
    assert store.item("rs_1") == {"type": "reasoning", "id": "rs_1"}
    assert store.item("rs_2") is None


def test_the_least_recently_used_are_forgotten() -> None:
    store = ResponseStore(limit=6000)
    for id in "abcd":
        store.put(stored(id, text=id * 500))
    assert store.chain("a") != []  # now b is the oldest
    store.put(stored("e", text="e" * 500))
    kept = [id for id in "abcde" if store.get(id) is not None]
    assert "b" not in kept
    assert {"a", "e"} <= set(kept)
    assert store.item("msg_b") is None


@given(steps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 900)), max_size=40), limit=st.integers(1, 9000))
def test_chains_never_have_gaps(steps: list[tuple[int, int]], limit: int) -> None:
    """Whatever is forgotten, what is left leads back to a beginning, and the last response is always there."""
    store = ResponseStore(limit=limit)
    for number, (previous, size) in enumerate(steps):
        before = f"r{previous}" if store.get(f"r{previous}") is not None else None
        store.put(stored(f"r{number}", before, text="x" * size))
        for id in (f"r{i}" for i in range(number + 1)):
            one = store.get(id)
            if one is not None:
                assert store._database.execute(
                    "SELECT 1 FROM responses WHERE ? IS NULL OR id = ?", [one.response["previous_response_id"]] * 2
                ).fetchone()
        assert ids(store.chain(f"r{number}"))[-1] == f"r{number}"


def test_one_chain_may_be_longer_than_the_bound() -> None:
    store = ResponseStore(limit=1)
    previous = None
    for number in range(5):
        store.put(stored(f"r{number}", previous))
        previous = f"r{number}"
    assert len(store.chain("r4")) == 5
    store.put(stored("other"))
    assert store.get("r4") is None


def test_what_is_put_survives_a_kill(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from gptoss_mlx.server.responses.store import ResponseStore, Stored
store = ResponseStore(Path(sys.argv[1]))
store.put(Stored({"id": "a", "status": "completed", "output": []}))
store.put(Stored({"id": "b", "status": "in_progress", "output": []}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "store"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    store = ResponseStore(path)
    a, b = store.get("a"), store.get("b")
    assert a is not None
    assert a.response["status"] == "completed"
    assert b is not None
    assert b.response["status"] == "failed"
    assert "restarted" in b.response["error"]["message"]


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("no database at all, but long enough to be taken for one" * 100)
    before = text.read_bytes()
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE others (a)")
    other.close()
    for path in (text, database, tmp_path / "missing" / "store"):
        with pytest.raises(RequestError, match=r"^store: .* cannot be used"):
            ResponseStore(path)
    assert text.read_bytes() == before


def test_a_file_has_one_user_at_a_time(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store")
    with pytest.raises(RequestError, match="locked"):
        ResponseStore(tmp_path / "store")
    store.close()
    ResponseStore(tmp_path / "store").close()


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(RequestError, match="limit"):
        ResponseStore(limit=0)


def test_threads_may_share_it() -> None:
    store = ResponseStore()

    def work(number: int) -> None:
        for step in range(20):
            store.put(stored(f"{number}-{step}", f"{number}-{step - 1}" if step else None))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.chain(f"{number}-19")) for number in range(4)] == [20] * 4
