"""Prompt states on disk: what comes back, what is refused, what a process that is killed leaves."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import ROW, Run, empty

import gptoss_mlx
from gptoss_mlx import kernels
from gptoss_mlx.cache import FullCache, SlidingCache
from gptoss_mlx.engine import prefill
from gptoss_mlx.engine.persist import PromptFolder
from gptoss_mlx.engine.prefix import PrefixStore
from gptoss_mlx.errors import GptOssError

LARGE = 1 << 30
LINE = [n % 50 for n in range(3000)]
OTHER = LINE[:700] + [70] * 800


def opened(
    folder: Path, said: list[str] | None = None, fingerprint: str = "model", budget: int = LARGE
) -> PromptFolder:
    """The folder as a new process sees it; nothing in it may be refused unless the test listens."""
    report: Callable[[str], None] = pytest.fail if said is None else said.append
    return PromptFolder(folder, fingerprint, empty, budget=budget, report=report)


def grown(tokens: Sequence[int], *boundaries: int, store: PrefixStore | None = None) -> PrefixStore:
    """A store with the states of a run at these positions."""
    store, run = store or PrefixStore(LARGE), Run()
    for first, last in zip((0, *boundaries), boundaries, strict=False):
        run.feed(tokens[first:last])
        store.add(run.tokens, run.caches)
    return store


def recalled(folder: PromptFolder, tokens: Sequence[int], limit: int = LARGE, store: PrefixStore | None = None) -> int:
    """How much of a prompt comes back, which has to be right and to go on rightly."""
    store = store or PrefixStore(LARGE)
    folder.recall(store, tokens, limit)
    for branch in store.branches():
        for position, caches in branch.states.items():
            Run(branch.tokens[:position].tolist(), caches).check()
    found = store.find(tokens, limit)
    if found is None:
        return 0
    run = Run(tokens[: found[0]], found[1])
    run.feed([5] * 300)
    run.check()
    return found[0]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def only(folder: Path) -> Path:
    (path,) = files(folder)
    return path


def reseal(path: Path, change: Callable[[Any], Any] | bytes) -> None:
    """Change the header of a file as one would who knows the checksum."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = change if isinstance(change, bytes) else json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    text += b" " * (-(8 + len(text)) % 8)
    header = len(text).to_bytes(8, "little") + text
    path.write_bytes(header + data[8 + length : -4] + zlib.crc32(header).to_bytes(4, "little"))


def test_a_new_process_finds_every_boundary(tmp_path: Path) -> None:
    store = grown(LINE, 30, 700, 1000, 2000)
    grown(OTHER, 700, 1500, store=store)
    opened(tmp_path).save(store)
    assert len(files(tmp_path)) == 2
    assert recalled(opened(tmp_path), LINE) == 2000
    assert recalled(opened(tmp_path), OTHER) == 1500
    assert recalled(opened(tmp_path), LINE, 1999) == 1000
    assert recalled(opened(tmp_path), [*LINE[:1300], 99]) == 1000
    assert recalled(opened(tmp_path), LINE[:700] + [70] * 3) == 700
    assert (
        recalled(opened(tmp_path), [99]) == recalled(opened(tmp_path), []) == recalled(opened(tmp_path), LINE, -1) == 0
    )


def test_full_layers_are_written_once_and_read_no_further_than_needed(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 30, 700, 1000, 2000))
    assert only(tmp_path).stat().st_size < ROW * (2000 + 4 * (191 + 83)) + 10000
    store = PrefixStore(LARGE)
    assert recalled(opened(tmp_path), [*LINE[:1300], 99], store=store) == 1000
    assert store.stats.bytes <= ROW * (1000 + 3 * (191 + 83))
    assert store.stats.states == 3


def test_what_the_store_knows_is_not_read(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 700, 1000))
    folder = opened(tmp_path)
    only(tmp_path).unlink()
    assert recalled(folder, LINE, store=grown(LINE, 1000)) == 1000
    assert recalled(folder, LINE) == 0


def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.save(grown(LINE, 700, 1000))
    before = only(tmp_path).stat()
    folder.save(grown(LINE, 700, 1000))
    opened(tmp_path).save(grown(LINE, 700))  # all in the file
    assert only(tmp_path).stat() == before
    opened(tmp_path).save(grown(LINE, 800, 1000))
    assert only(tmp_path).stat() != before
    assert recalled(opened(tmp_path), LINE, 900) == 800


def test_a_longer_path_takes_the_place_of_its_beginnings(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.save(grown(LINE, 700))
    folder.save(grown(OTHER, 1500))
    folder.save(grown(LINE, 700, 2000))
    assert len(files(tmp_path)) == 2
    for current in (folder, opened(tmp_path)):
        assert [recalled(current, LINE), recalled(current, LINE, 1500), recalled(current, OTHER)] == [2000, 700, 1500]


def test_a_file_is_for_its_owner(tmp_path: Path) -> None:
    opened(tmp_path / "made" / "here").save(grown(LINE, 700))
    assert stat.S_IMODE(only(tmp_path / "made" / "here").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "made" / "here").stat().st_mode) == 0o700


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_dtypes_come_back_and_layers_that_need_nothing(dtype: mx.Dtype, tmp_path: Path) -> None:
    numbers = mx.random.normal((1, 2, 128, 4)).astype(dtype)

    def make() -> list[Any]:
        return [FullCache(dtype), SlidingCache(1, dtype)]

    caches = make()
    for cache in caches:
        cache.update_and_fetch(numbers, -numbers)
    store, back = PrefixStore(LARGE), PrefixStore(LARGE)
    store.add([1] * 128, caches)
    folder = PromptFolder(tmp_path, "model", make, budget=LARGE, report=pytest.fail)
    folder.save(store)
    folder.recall(back, [1] * 128, 128)
    found = back.find([1] * 128, 128)
    assert found is not None
    for before, after in zip(caches, found[1], strict=True):
        pairs = zip(before.update_and_fetch(numbers, numbers), after.update_and_fetch(numbers, numbers), strict=True)
        assert all(one.dtype == two.dtype == dtype and mx.array_equal(one, two) for one, two in pairs)


def test_states_larger_than_the_store_stay_on_disk(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 700, 2000))
    store = PrefixStore(1300 * ROW)
    assert recalled(opened(tmp_path), LINE, store=store) == 700
    assert store.stats.bytes <= store.budget
    file = only(tmp_path)
    file.write_bytes(file.read_bytes()[:-3000] + bytes(2996) + file.read_bytes()[-4:])
    assert recalled(opened(tmp_path), LINE, store=PrefixStore(10 * ROW)) == 0  # not even read


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    for first in range(3):
        opened(tmp_path, [], fingerprint=f"model {first == 1}").save(grown([first, *LINE], 900))
    foreign = tmp_path / "notes.txt"
    foreign.write_text("x" * 10**6)
    young, _, new = sorted(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)
    said: list[str] = []
    assert recalled(opened(tmp_path, said, "model False"), [0, *LINE]) == 900  # makes it young
    total = sum(path.stat().st_size for path in files(tmp_path))
    opened(tmp_path, said, "model False", budget=total - 1).save(PrefixStore(0))
    assert set(files(tmp_path)) == {young, new}
    opened(tmp_path, said, "model False", budget=total - 1).save(grown([3, *LINE], 900))
    assert len(files(tmp_path)) == 2 + 1 - (3 * young.stat().st_size > total - 1)
    opened(tmp_path, said, "model False", budget=10).save(grown([4, *LINE], 900))
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_path_larger_than_the_disk_s_budget_drives_nobody_out(tmp_path: Path) -> None:
    opened(tmp_path, budget=2000 * ROW).save(grown([1, *LINE], 500))
    opened(tmp_path, budget=2000 * ROW).save(grown(LINE, 2500))
    assert recalled(opened(tmp_path), [1, *LINE]) == 500
    assert recalled(opened(tmp_path), LINE) == 0


def test_foreign_things_are_named_once_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 700))
    name = only(tmp_path).name
    (tmp_path / "model.safetensors").write_bytes(b"\\0" * 100)
    (tmp_path / "folder").mkdir()
    (tmp_path / f"prompt-{'a' * 40}.safetensors").mkdir()
    (tmp_path / f"prompt-{'b' * 40}.safetensors").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / f"prompt-{'c' * 40}.safetensors")
    (tmp_path / f"prompt-{'d' * 40}.safetensors").write_bytes(only_bytes := (tmp_path / name).read_bytes())
    said: list[str] = []
    folder = opened(tmp_path, said)
    assert len(said) == 6
    assert all("\n" not in line and "ignored" in line for line in said)
    before = sorted(os.listdir(tmp_path))
    folder.save(grown(LINE, 700))
    assert len(said) == 6
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / name).read_bytes() == only_bytes
    assert recalled(folder, LINE) == 700


def test_another_model_s_files(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 700))
    said: list[str] = []
    assert recalled(opened(tmp_path, said, "another"), LINE) == 0
    assert said == [f"{tmp_path}: {only(tmp_path).name!r} is ignored: of another model"]
    folder = opened(tmp_path, said, "another")
    folder.save(grown(LINE, 700))
    assert len(files(tmp_path)) == 2
    assert recalled(folder, LINE) == recalled(opened(tmp_path, said), LINE) == 700


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Name and content of a good file."""
    folder = tmp_path_factory.mktemp("saved")
    opened(folder).save(grown(LINE, 100, 300))
    return only(folder).name, only(folder).read_bytes()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_never_used(data: st.DataObject, saved: tuple[str, bytes], tmp_path: Path) -> None:
    name, good = saved
    kind = data.draw(st.sampled_from(["flip", "flip", "cut", "longer", "noise", "hole"]))
    at = data.draw(st.one_of(st.integers(0, len(good) - 1), st.integers(0, 3000)))
    match kind:
        case "flip":
            bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
        case "cut":
            bad = good[:at]
        case "longer":
            bad = good + data.draw(st.binary(min_size=1, max_size=9))
        case "noise":
            bad = data.draw(st.binary(max_size=200))
        case _:
            bad = good[:at] + bytes(len(good) - at)
    (tmp_path / name).write_bytes(bad)
    said: list[str] = []
    found = recalled(opened(tmp_path, said), LINE)
    assert found == (300 if bad == good or not said else 0)
    assert len(said) <= 1
    folder = opened(tmp_path, said)
    recalled(folder, LINE)  # shows damage that the header does not
    folder.save(grown(LINE, 100, 300))
    assert recalled(folder, LINE) == 300


def test_damage_that_makes_sense(saved: tuple[str, bytes], tmp_path: Path) -> None:
    name, good = saved
    (tmp_path / name).write_bytes(good.replace(b'"F32"', b'"U32"'))
    said: list[str] = []
    assert recalled(opened(tmp_path, said), LINE) == 0
    assert said == [f"{tmp_path}: {name!r} is ignored: damaged or truncated"]


Change = Callable[[dict[str, Any]], Any]


def changed(**metadata: Any) -> Change:
    return lambda header: {**header, "__metadata__": {**header["__metadata__"], **metadata}}


def tensor(name: str, **fields: Any) -> Change:
    return lambda header: {**header, name: {**header[name], **fields}}


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"a": Infinity}',
        changed(version="2"),
        changed(version=2),
        changed(format="else"),
        changed(positions="[100]"),
        changed(positions="[300, 100, 300]"),
        changed(positions="[0, 100, 300]"),
        changed(positions="[100, 200, 300]"),
        changed(positions="[100, 1e400]"),
        changed(positions="[" * 100_000),
        changed(positions="{}"),
        changed(positions=[100, 300]),
        lambda header: {key: value for key, value in header.items() if key != "__metadata__"},
        lambda header: {**header, "__metadata__": 5},
        lambda header: {key: value for key, value in header.items() if key != "tokens"},
        lambda header: {key: value for key, value in header.items() if key != "checksums"},
        lambda header: {key: value for key, value in header.items() if key != "1.0"},
        lambda header: {**header, "7.0": header["1.0"]},
        tensor("tokens", shape=[300, 2]),
        tensor("tokens", shape=[float("inf")]),
        tensor("tokens", shape=None),
        tensor("tokens", data_offsets=[10**9, 10**9 + 1200]),
        tensor("1.0", dtype="I64"),
        tensor("1.0", shape=[1, -2, 300, -4]),
        tensor("1.0", shape=[1, 2, 1200]),
        tensor("1.0", shape=[1, 2, 600, 2]),
        tensor("checksums", shape=[3]),
    ],
)
def test_headers_that_nobody_wrote(change: Any, saved: tuple[str, bytes], tmp_path: Path) -> None:
    name, good = saved
    (tmp_path / name).write_bytes(good)
    reseal(tmp_path / name, change)
    said: list[str] = []
    store = PrefixStore(LARGE)
    opened(tmp_path, said).recall(store, LINE, LARGE)
    assert len(said) == 1
    assert store.stats.states == 0


def test_a_file_that_is_not_to_be_read(tmp_path: Path) -> None:
    """Found damaged or gone only when it is wanted; the next best serves."""
    folder = opened(tmp_path)
    folder.save(grown(LINE[:100] + [70] * 50, 100, 150))
    folder.save(grown(LINE, 300))
    said: list[str] = []
    folder = opened(tmp_path, said)
    large = max(files(tmp_path), key=lambda path: path.stat().st_size)
    good = large.read_bytes()
    with large.open("r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"????")
    assert recalled(folder, LINE) == 100
    assert ["is not what was written" in line for line in said] == [True]
    large.write_bytes(good)
    folder = opened(tmp_path, said)
    large.unlink()
    assert recalled(folder, LINE) == 100
    assert len(said) == 1


def test_another_process_replaces_a_file(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 300, 700))
    folder = opened(tmp_path)
    opened(tmp_path).save(grown(LINE, 400, 700))
    assert recalled(folder, LINE) == 0
    folder.save(PrefixStore(0))  # looks again
    assert recalled(folder, LINE, 600) == 400


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


WRITER = """
import os, signal, sys
from pathlib import Path
import mlx.core as mx
mx.set_default_device(mx.Device(mx.cpu))
from test_persist import LARGE, LINE, grown, opened
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


def test_logits_after_a_state_from_the_disk_are_those_of_a_fresh_run(native: Any, tmp_path: Path) -> None:
    model, prompt = gptoss_mlx.load("demo").model, np.random.default_rng(3).integers(0, 1800, 800).tolist()
    store, caches, done = PrefixStore(LARGE), model.make_cache(), 0
    with kernels.rounding("prompt"):
        for boundary in (130, 555, 700):
            prefill(model, prompt[done:boundary], caches)
            store.add(prompt[:boundary], caches)
            done = boundary
    PromptFolder(tmp_path, "demo", model.make_cache, budget=LARGE, report=pytest.fail).save(store)
    cold = np.array(prefill(model, prompt, model.make_cache()))
    for limit, position in ((799, 700), (699, 555), (400, 130)):
        folder = PromptFolder(tmp_path, "demo", model.make_cache, budget=LARGE, report=pytest.fail)
        back = PrefixStore(LARGE)
        folder.recall(back, prompt, limit)
        found = back.find(prompt, limit)
        assert found is not None
        assert found[0] == position
        warm = np.array(prefill(model, prompt[position:], found[1]))
        assert (warm == cold).all()
