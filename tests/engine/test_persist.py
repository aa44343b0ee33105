"""Prompt states on disk: what comes back, what takes the place of what, what makes room."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numbered import ROW
from prompt_folders import LARGE, LINE, OTHER, files, grown, only, opened, recalled

import gptoss_mlx
from gptoss_mlx import kernels
from gptoss_mlx.cache import FullCache, SlidingCache
from gptoss_mlx.engine import prefill
from gptoss_mlx.engine.persist import PromptFolder
from gptoss_mlx.engine.prefix import PrefixStore


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


def test_another_process_replaces_a_file(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 300, 700))
    folder = opened(tmp_path)
    opened(tmp_path).save(grown(LINE, 400, 700))
    assert recalled(folder, LINE) == 0
    folder.save(PrefixStore(0))  # looks again
    assert recalled(folder, LINE, 600) == 400


def test_a_file_that_got_another_s_inode_is_another_file(tmp_path: Path) -> None:
    for name, boundaries in (("before", (300, 700)), ("after", (300, 400, 700))):
        opened(tmp_path / name).save(grown(LINE, *boundaries))
    path, later = only(tmp_path / "before"), only(tmp_path / "after")
    folder, inode = opened(path.parent), path.stat().st_ino
    path.write_bytes(later.read_bytes())
    assert path.stat().st_ino == inode
    assert recalled(folder, LINE) == 0  # silently
    folder.save(PrefixStore(0))
    assert recalled(folder, LINE, 600) == 400


@pytest.mark.parametrize("end", [700, 2000])
def test_what_the_store_has_forgotten_stays_on_disk(end: int, tmp_path: Path) -> None:
    """Its first states go first where memory is short, and begin the most prompts."""
    opened(tmp_path).save(grown(LINE, 30, 400, 700))
    opened(tmp_path).save(grown(LINE, 300, end))
    assert len(files(tmp_path)) == 1
    for limit, position in ((299, 30), (399, 300), (699, 400), (5000, end)):
        assert recalled(opened(tmp_path), LINE, limit) == position


def test_damage_on_the_way_does_not_keep_from_writing(tmp_path: Path) -> None:
    opened(tmp_path).save(grown(LINE, 30, 700))
    file = only(tmp_path)
    file.write_bytes(file.read_bytes()[:-3000] + bytes(2996) + file.read_bytes()[-4:])
    said: list[str] = []
    opened(tmp_path, said).save(grown(LINE, 2000))
    assert ["is not what was written" in line for line in said] == [True]
    assert recalled(opened(tmp_path, []), LINE) == 2000


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
