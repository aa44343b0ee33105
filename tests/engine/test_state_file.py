"""Files of prompt states that nobody should use: damaged, foreign, made up, gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import empty
from prompt_folders import LARGE, LINE, files, grown, only, opened, recalled, reseal

from gptoss_mlx.engine import state_file
from gptoss_mlx.engine.prefix import Branch, PrefixStore


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
        tensor("1.0", shape=[1, 4, 300, 2]),
        tensor("1.0", shape=[2, 1, 300, 4]),
        tensor("1.0", dtype="U32"),
        tensor("300.0.1", shape=[1, 8, 44, 1]),
        lambda header: {"1.2" if key == "1.1" else key: value for key, value in header.items()},
        lambda header: {"100.1.0" if key == "1.1" else key: value for key, value in header.items()},
        lambda header: {key: header[{"1.0": "tokens", "tokens": "1.0"}.get(key, key)] for key in header},
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


def test_a_file_of_several_sequences(tmp_path: Path) -> None:
    """Such caches exist, but no engine has them."""
    caches = empty()
    for cache in caches:
        cache.update_and_fetch(mx.zeros((2, 2, 30, 4)), mx.zeros((2, 2, 30, 4)))
    branch = Branch(np.array(LINE[:30], np.int32), {30: caches})
    state_file.write(tmp_path / state_file.file_name("model", branch.tokens), "model", branch)
    said: list[str] = []
    assert recalled(opened(tmp_path, said), LINE) == 0
    assert ["of a model with other layers" in line for line in said] == [True]


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
