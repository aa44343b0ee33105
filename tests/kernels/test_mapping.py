"""Arrays over mapped files: the file's values, no copy of them, no way to write them, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.convert.tensorfile import DTYPES, Stored, TensorSpec, header, read_header, read_whole
from gptoss_mlx.weights import MAPPED
from regions import regions

LARGE = 64 << 20


def write(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]], seed: int = 0) -> dict[str, Stored]:
    """A file of random bytes with tensors of these dtypes and shapes."""
    specs = [TensorSpec(name, dtype, shape) for name, (dtype, shape) in shapes.items()]
    data = np.random.default_rng(seed).bytes(sum(spec.nbytes for spec in specs))
    path.write_bytes(header(specs) + data)
    tensors: dict[str, Stored] = read_header(path)[0]
    return tensors


def mapped(native: Any, stored: Stored, mapping: Any = None) -> mx.array:
    mapping = mapping or native.Mapping(str(stored.path))
    array: mx.array = mapping.array(stored.start, stored.shape, MAPPED[stored.dtype])
    return array


def raw(array: mx.array) -> bytes:
    """An array's bits; random floats are not all equal to themselves."""
    words: Any = array.flatten().view(mx.uint8)
    return bytes(memoryview(words))


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


# Values


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 7), max_size=4).map(tuple)),
        min_size=1,
        max_size=5,
    )
)
def test_arrays_are_those_of_the_file(
    native: Any, tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, tuple[int, ...]]]
) -> None:
    path = tmp_path_factory.mktemp("mapped") / "m.safetensors"
    for stored in write(path, {str(i): shape for i, shape in enumerate(shapes)}, len(shapes)).values():
        if stored.start % DTYPES[stored.dtype].itemsize:
            with pytest.raises(ValueError, match=f"offset {stored.start} is no multiple of"):
                mapped(native, stored)
            continue
        array = mapped(native, stored)
        assert array.shape == stored.shape
        assert array.dtype == MAPPED[stored.dtype]
        assert raw(array) == read_whole(stored).tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_operations_take_them_like_any_array(dtype: str, native: Any, tmp_path: Path) -> None:
    stored = write(tmp_path / "m.safetensors", {"before": ("F32", (5,)), "x": (dtype, (64, 96))})["x"]
    array = mapped(native, stored)
    copy = mx.array(np.array(read_whole(stored))).view(MAPPED[dtype])
    for use in (
        lambda x: x[3:7, ::2],
        lambda x: x.T.flatten(),
        lambda x: mx.contiguous(x[::2]),
        mx.contiguous,
        lambda x: mx.concatenate([x, x]),
        lambda x: mx.take(x, mx.array([5, 0, 63]), axis=0),
        lambda x: mx.array(x).view(mx.uint8) + 1,
    ):
        assert raw(use(array)) == raw(use(copy))


def test_mlx_s_own_files_are_those_that_mlx_reads(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    mx.save_safetensors(str(path), {"a": mx.random.normal((33, 8)), "b": mx.arange(7, dtype=mx.uint8)})
    loaded: Any = mx.load(str(path))
    for name, stored in read_header(path)[0].items():
        if stored.start % DTYPES[stored.dtype].itemsize == 0:
            assert mx.array_equal(mapped(native, stored), loaded[name])


# No copy


def test_nothing_is_read_before_it_is_used_and_nothing_is_copied(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"small": ("U8", (64,)), "x": ("F32", (LARGE // 4096, 1024))})["x"]
    active, resident = mx.get_active_memory(), anonymous()
    array = mapped(native, stored)
    mx.eval(array)
    (region,) = regions(path)
    assert region["Size"] >= LARGE >> 10
    assert region["Rss"] == 0
    address = np.array(array, copy=False).__array_interface__["data"][0]
    assert address == region["start"] + stored.start
    mx.eval(mx.contiguous(array), mx.max(array.view(mx.uint32)))
    (region,) = regions(path)
    assert region["Rss"] >= LARGE >> 10
    assert region["Anonymous"] == 0  # the file cache itself, shared with everyone
    assert mx.get_active_memory() - active < LARGE // 8
    assert anonymous() - resident < LARGE // 8


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this system has no large pages")
def test_large_pages_are_asked_for(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    array = mapped(native, write(path, {"x": ("F32", (LARGE // 4096, 1024))})["x"])
    _, after = Path("/proc/self/smaps").read_text().split(str(path), 1)
    assert " hg" in after[after.index("VmFlags:") :].splitlines()[0]
    del array


# No way to write


def test_no_operation_writes_into_the_file(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"x": ("U32", (1 << 20,))})["x"]
    before = path.read_bytes()
    only = [mapped(native, stored)]
    mx.eval(mx.square(only.pop()) + 1)  # whose input has no other owner, and could be overwritten
    array = mapped(native, stored)
    array += 1
    array[5:9] = 0
    array = mx.sort(array)
    mx.eval(array)
    view = np.array(mapped(native, stored), copy=False)
    view[:] = 7
    assert path.read_bytes() == before
    assert view.sum() == 7 << 20
    assert raw(mapped(native, stored)) == read_whole(stored).tobytes()


def test_mlx_never_reuses_or_keeps_mapped_memory(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"x": ("F32", (1 << 20,))})["x"]
    mx.clear_cache()
    mx.eval(mapped(native, stored) * 2)
    gc.collect()
    assert regions(path) == []
    filled = [mx.full((1 << 20,), i, mx.float32) for i in range(8)]  # what a cached buffer would be used for
    mx.eval(filled)
    assert regions(path) == []


# Lifetime


def test_arrays_outlive_their_mapping_and_the_file_s_name(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = write(path, {"x": ("F32", (1 << 16,)), "y": ("BF16", (3, 5))})
    mapping = native.Mapping(str(path))
    x, y = (mapped(native, stored, mapping) for stored in tensors.values())
    wanted = {name: read_whole(stored).tobytes() for name, stored in tensors.items()}
    part = y[1:]
    path.unlink()
    del mapping, y
    gc.collect()
    assert raw(x) == wanted["x"]
    assert raw(part) == wanted["y"][10:]
    del x
    assert regions(path)
    del part
    gc.collect()
    assert regions(path) == []


def test_a_file_that_is_replaced_leaves_the_arrays_alone(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"x": ("F32", (1 << 16,))})["x"]
    array, wanted = mapped(native, stored), read_whole(stored).tobytes()
    (tmp_path / "new").write_bytes(b"")
    os.replace(tmp_path / "new", path)
    assert raw(array) == wanted


def test_pages_that_the_system_takes_away_are_read_again(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"x": ("U8", (LARGE,))})["x"]
    array, wanted = mapped(native, stored), read_whole(stored).tobytes()
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only pages that are on the disk can be given up
    for _ in range(3):
        assert raw(array) == wanted
        assert regions(path)[0]["Rss"] >= LARGE >> 10
        evict(array, stored)
        if regions(path)[0]["Rss"] >= LARGE >> 11:
            pytest.skip("files in the temporary folder stay in memory")


def evict(array: mx.array, stored: Stored) -> None:
    """Ask the system for the pages back, as it does by itself when memory is short."""
    page = mmap.PAGESIZE
    address = np.array(array, copy=False).__array_interface__["data"][0]
    first = -(-address // page) * page
    length = (address + stored.nbytes - first) // page * page
    pageout = 21
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), pageout) == 0, os.strerror(ctypes.get_errno())


def test_a_thousand_mappings_leave_nothing_behind(native: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stored = write(path, {"x": ("F32", (1000,))})["x"]
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        mx.eval(mapped(native, stored).sum())
    gc.collect()
    assert regions(path) == []
    assert len(os.listdir("/proc/self/fd")) == files


# What is refused


def test_what_cannot_be_mapped_is_refused_in_words(native: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"1234567")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("missing", "No such file or directory"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("empty", "truncated to 0 bytes"),
        ("short", "truncated to 7 bytes"),
    ):
        with pytest.raises(RuntimeError, match=f"^{words}$"):
            native.Mapping(str(tmp_path / name))


def test_a_file_that_must_not_be_read_is_refused(native: Any, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    path = tmp_path / "m.safetensors"
    write(path, {"x": ("U8", (1,))})
    path.chmod(0)
    with pytest.raises(RuntimeError, match="Permission denied"):
        native.Mapping(str(path))


def test_a_file_system_that_maps_nothing_is_told_apart(native: Any) -> None:
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # regular, of a page's size, and not to be mapped
    if not file.exists():
        pytest.skip("no such file in this system's /sys")
    with pytest.raises(native.Unmappable):
        native.Mapping(str(file))


@pytest.mark.parametrize(
    ("offset", "shape", "words"),
    [
        (64, (65,), "truncated, 324 bytes expected, 320 found"),
        (320, (1,), "truncated, 324 bytes expected, 320 found"),
        (4096, (0,), "truncated"),
        (0, (1,), "truncated"),
        (-64, (1,), "truncated"),
        (66, (1,), "offset 66 is no multiple of 4"),
        (64, (-1,), "a length from 0 to 2147483647 expected, -1 found"),
        (64, (-1, -64), "-1 found"),
        (64, (1 << 31,), "2147483648 found"),
        (64, (1 << 30, 1 << 30, 1 << 30), "1073741824 found"),
        (64, (0, 1 << 40), "1099511627776 found"),
    ],
)
def test_places_outside_the_file_are_refused(
    offset: int, shape: tuple[int, ...], words: str, native: Any, tmp_path: Path
) -> None:
    (tmp_path / "m").write_bytes(bytes(320))
    with pytest.raises(ValueError, match=words):
        native.Mapping(str(tmp_path / "m")).array(offset, shape, mx.float32)


SHRINK = """
import os, sys, mlx.core as mx
from gptoss_mlx import kernels
path = sys.argv[1]
array = kernels.extension.Mapping(path).array(64, (1 << 20,), mx.uint8)
os.truncate(path, 4096)
mx.eval(mx.max(array))
"""


def test_a_file_that_shrinks_in_use_ends_the_process(native: Any, tmp_path: Path) -> None:
    """Nothing can be done about it; this holds the documentation true."""
    path = tmp_path / "m"
    path.write_bytes(bytes(1 << 21))
    ended = subprocess.run([sys.executable, "-c", SHRINK, str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGBUS, ended.stderr
