"""Writing prompt states where that fails or is cut off: folders that cannot be, full disks, killed processes."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prompt_folders import LINE, files, grown, opened, recalled

import gptoss_mlx
from gptoss_mlx.errors import GptOssError


@pytest.mark.parametrize("inside", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made(inside: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GptOssError, match=f"^{tmp_path / inside}: a folder .*name another") as caught:
        opened(tmp_path / inside)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # as it is for all but root
    with pytest.raises(GptOssError, match="no permission"):
        opened(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = opened(tmp_path)
    folder.save(grown(LINE, 700))
    before = os.listdir(tmp_path)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(GptOssError, match=r"No space left on device.*make room"):
        folder.save(grown(LINE, 700, 1500))
    assert os.listdir(tmp_path) == before
    monkeypatch.undo()
    folder.save(grown(LINE, 700, 1500))
    assert recalled(opened(tmp_path), LINE) == 1500


def test_a_disk_that_fills_up_while_a_file_is_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it; what was there stays."""
    folder = opened(tmp_path)
    folder.save(grown(LINE, 700))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(GptOssError, match=r"File too large.*make room") as caught:
            folder.save(grown(LINE, 700, 2500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    folder.save(grown(LINE, 700, 2500))
    assert recalled(opened(tmp_path), LINE) == 2500


def test_who_writes_waits_for_another(tmp_path: Path) -> None:
    folder, done = opened(tmp_path), threading.Event()

    def write() -> None:
        folder.save(grown(LINE, 700))
        done.set()

    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    writer = threading.Thread(target=write)
    writer.start()
    assert not done.wait(0.5)
    assert not os.listdir(tmp_path)
    os.close(lock)
    writer.join()
    assert recalled(opened(tmp_path), LINE) == 700


WRITER = """
import os, signal, sys
from pathlib import Path
import mlx.core as mx
mx.set_default_device(mx.Device(mx.cpu))
from prompt_folders import LARGE, LINE, grown, opened
from gptoss_mlx.engine.prefix import PrefixStore

left = int(sys.argv[2])
def counted(call):
    def act(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return act
if left > 0:
    os.fsync, os.replace, Path.unlink = counted(os.fsync), counted(os.replace), counted(Path.unlink)
folder, store = opened(Path(sys.argv[1]), []), PrefixStore(LARGE)
print("ready", flush=True)
for turn in range(1, 1000):
    for first in (1, 2, 3):
        grown([first, *LINE * turn], *range(100, 300 * turn, 100), store=store)
    folder.save(store)
"""


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 7, 8, 9, 0, -1, -2])
def test_a_killed_writer_leaves_only_whole_files(calls: int, tmp_path: Path) -> None:
    """At one of the calls that change the folder, or at any time."""
    search = os.pathsep.join([str(Path(gptoss_mlx.__file__).parents[1]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(calls)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": search}) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        if calls < 1:
            time.sleep(random.uniform(0.01, 0.8))
            writer.kill()
    assert writer.returncode == -signal.SIGKILL
    folder = opened(tmp_path)
    lengths = [recalled(folder, [first, *LINE]) for first in (1, 2, 3)]
    assert all(length % 100 == 0 for length in lengths)
    assert bool(files(tmp_path)) == any(lengths)
    folder.save(grown([4, *LINE], 200))
    assert files(tmp_path) == sorted(tmp_path.iterdir())
    assert [recalled(opened(tmp_path), [first, *LINE]) for first in (1, 2, 3, 4)] == [*lengths, 200]
