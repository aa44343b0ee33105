"""What the converter's tests share: reading folders whole, damaging checkpoints, the mlx package as an oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gptoss_mlx.convert import tensorfile

Array = NDArray[Any]
U16 = NDArray[np.uint16]


def tensors(folder: Path) -> dict[str, Array]:
    """Every tensor of a folder's shards (bfloat16 as uint16)."""
    found: dict[str, Array] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= {name: tensorfile.read_whole(stored) for name, stored in tensorfile.read_header(path)[0].items()}
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mlx_array(bits: U16) -> mx.array:
    """Bfloat16 bits as MLX sees them."""
    return mx.array(bits).view(mx.bfloat16)


def numpy_array(array: mx.array) -> Array:
    """An MLX array with bfloat16 as bits."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


Entry = tuple[str, tuple[int, ...], bytes]
"""dtype, shape and data of a tensor."""


def edit(folder: Path, change: Callable[[dict[str, Entry]], None], containing: str = "") -> Path:
    """Rewrite the shard that holds the tensor `containing` (the first one by default); the index stays."""
    for path in sorted(folder.glob("model*.safetensors")):
        stored = tensorfile.read_header(path)[0]
        if containing and containing not in stored:
            continue
        entries = {name: (s.dtype, s.shape, tensorfile.read_whole(s).tobytes()) for name, s in stored.items()}
        change(entries)
        write(path, entries)
        return path
    raise AssertionError(f"no shard holds {containing}")


def write(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a safetensors file, of any dtype the format knows."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in entries.values()))
