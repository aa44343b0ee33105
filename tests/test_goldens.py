"""A second witness: logits that transformers' float32 GptOss gave for the same tiny checkpoints.

`goldens/make_transformers.py` made the files. The checkpoints are rebuilt here from their seeds; a hash proves
that they are the ones that transformers saw. transformers multiplies positions and frequencies in float32, which
is off by 2e-4 rad at position 4400: past the original context its own rounding is the larger part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import Shape, build, digest, tensors
from gptoss_mlx.weights import load_model
from oracle import Oracle, relative_error

pytestmark = pytest.mark.usefixtures("exact")

FILES = sorted((Path(__file__).parent / "goldens" / "transformers").glob("*.npz"))
FAR = "past_original_context"


@dataclass(frozen=True)
class Golden:
    name: str
    folder: Path
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    logits: NDArray[np.float32]
    tolerance: float


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    path: Path = request.param
    with np.load(path) as stored:
        fields: dict[str, Any] = json.loads(str(stored["shape"]))
        shape = Shape(**(fields | {"kinds": tuple(fields["kinds"])}))
        assert digest(tensors(shape)) == str(stored["sha256"]), (
            f"{path.name}: checkpoints.py no longer builds the weights that transformers saw; make the goldens anew"
        )
        folder = build(tmp_path_factory.mktemp(path.stem), shape)
        tolerance = 3e-5 if path.stem == FAR else 4e-6
        return Golden(path.stem, folder, stored["tokens"], stored["positions"], stored["logits"], tolerance)


def pieces(tokens: NDArray[np.int32], size: int = 512) -> list[NDArray[np.int32]]:
    return [tokens[first : first + size] for first in range(0, len(tokens), size)]


def test_the_goldens_are_there() -> None:
    assert len(FILES) == 5
    assert sum(path.stat().st_size for path in FILES) < 300_000


def test_the_oracle_agrees_with_transformers(golden: Golden) -> None:
    found = Oracle(golden.folder).logits(golden.tokens.tolist(), rows=golden.positions.tolist())
    assert relative_error(golden.logits, found) < golden.tolerance


def test_ours_agrees_with_transformers(golden: Golden) -> None:
    model, _ = load_model(golden.folder)
    caches = model.make_cache()
    chunks = [model(mx.array(part)[None], caches)[0] for part in pieces(golden.tokens)]
    found = mx.concatenate(chunks)[mx.array(golden.positions)]
    assert relative_error(found, golden.logits) < golden.tolerance
