"""Fresh pages: zeros that take no memory before they are written, and give it back."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx import kernels
from gptoss_mlx.machine import resident_memory

LARGE_PAGE = 2 << 20
ROOM = (1, 4, 1 << 16, 64)
"""64 MiB of float32."""


def test_they_are_zeros_of_any_shape_and_dtype(native: Any) -> None:
    for shape in ((), (0,), (3,), (2, 3, 5, 7), (1, 4, 3000, 64)):
        for dtype in (mx.float32, mx.float16, mx.bfloat16, mx.uint32):
            found = native.fresh_pages(shape, dtype)
            assert (found.shape, found.dtype) == (shape, dtype)
            assert not mx.any(found.astype(mx.float32)).item()


def test_numbers_begin_at_a_large_page(native: Any) -> None:
    address = np.array(native.fresh_pages(ROOM, mx.float32), copy=False).__array_interface__["data"][0]
    assert address % LARGE_PAGE == 0


@pytest.mark.parametrize("shape", [(-1,), (1 << 31,), (1 << 30, 1 << 30, 1 << 30)])
def test_it_refuses_shapes_that_no_array_has(shape: tuple[int, ...], native: Any) -> None:
    with pytest.raises(ValueError, match="a length from 0 to 2147483647 expected"):
        native.fresh_pages(shape, mx.float32)


def test_what_no_machine_has_is_out_of_memory(native: Any) -> None:
    with pytest.raises(MemoryError):
        native.fresh_pages((1 << 20, 1 << 20, 1 << 8), mx.float32)
    assert native.page_bytes() < 1 << 40


def test_memory_comes_with_writing_and_goes_with_the_last_array(native: Any) -> None:
    gc.collect()
    quarter = mx.ones((1, 4, 1 << 14, 64))
    mx.eval(quarter)
    counted, resident = kernels.room_bytes(), resident_memory()
    room = kernels.room(ROOM, mx.float32)
    size = room.nbytes
    assert kernels.room_bytes() - counted == size
    assert resident_memory() - resident < size // 16
    room = kernels.append(room, quarter, 0)
    mx.eval(room)
    assert size // 4 <= resident_memory() - resident < 3 * size // 8
    part = room[:, :, :10]
    del room
    assert kernels.room_bytes() - counted == size  # a part holds all
    assert mx.all(part == 1).item()
    del part
    assert kernels.room_bytes() == counted
    assert resident_memory() - resident < size // 16


def test_small_room_is_mlx_own(native: Any) -> None:
    counted = kernels.room_bytes()
    room = kernels.room((1, 2, 256, 64), mx.float32)
    assert not mx.any(room).item()
    assert kernels.room_bytes() == counted


@pytest.mark.parametrize("take", ["all", "part", "every second"])
def test_appending_moves_heads_from_wherever_they_lie(take: str, native: Any) -> None:
    source = mx.random.normal((2, 3, 40, 8))
    fresh = {"all": source, "part": source[:, 1:, 5:25], "every second": source[:, :, ::2]}[take]
    heads, count = fresh.shape[1:3]
    found = native.append(native.fresh_pages((2, heads, 64, 8), mx.float32), fresh, 3)
    assert mx.array_equal(found[:, :, 3 : 3 + count], fresh)
    assert not mx.any(found[:, :, :3]).item()
    assert not mx.any(found[:, :, 3 + count :]).item()


def test_operations_of_mlx_leave_them_alone(native: Any, tmp_path: Path) -> None:
    """MLX would write a result where an operand lies that nobody else has."""
    room = native.append(native.fresh_pages((1, 2, 64, 8), mx.float32), mx.ones((1, 2, 3, 8)), 0)
    mx.eval(room)
    kept = np.array(room, copy=False)
    mx.save_safetensors(str(tmp_path / "room.safetensors"), {"room": room})
    changed = mx.exp(room * 2 + 1)
    mx.eval(changed)
    del room
    mx.eval(changed + 1)
    assert kept[:, :, :3].min() == kept[:, :, :3].max() == 1
    assert not kept[:, :, 3:].any()
    loaded: Any = mx.load(str(tmp_path / "room.safetensors"))
    np.testing.assert_array_equal(np.array(loaded["room"]), kept)
