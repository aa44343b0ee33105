"""The model's activations: their dtype on a GPU, and what `positions` computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from checkpoints import Shape, build
from gptoss_mlx import model as layers
from gptoss_mlx.convert import convert
from gptoss_mlx.weights import load_model
from oracle import Oracle, relative_error

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 128, 40)]
SHAPE = Shape(hidden=128, experts=8, top_k=4, seed=31)


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_stays_bfloat16(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would do: one widened operand would double the traffic of everything after it."""
    monkeypatch.setattr("gptoss_mlx.kernels.compute_dtype", lambda: mx.bfloat16)
    folder = source = build(tmp_path / "release", SHAPE)
    if packed:
        folder = tmp_path / "mlx"
        convert(source, folder)
    model, _ = load_model(folder)
    seen: set[mx.Dtype] = set()
    for kind in (layers.RMSNorm, layers.Attention, layers.MixtureOfExperts, layers.Layer, layers.ExpertLinear):
        plain = kind.__call__

        def call(self: Any, *arguments: Any, plain: Any = plain) -> Any:
            out = plain(self, *arguments)
            seen.add(out.dtype)
            return out

        monkeypatch.setattr(kind, "__call__", call)
    logits = model(mx.array([TOKENS]), model.make_cache())
    assert seen | {logits.dtype} == {mx.bfloat16}
    if not packed:  # MLX's CPU adds affine products up in bfloat16, which no GPU does
        rows = zip(np.array(logits[0].astype(mx.float32)), Oracle(source).logits(TOKENS), strict=True)
        errors = [relative_error(row, exact) for row, exact in rows]
        assert np.median(errors) < 0.05  # a router's near tie may send single tokens to another expert


def test_only_the_asked_positions_are_projected(tmp_path: Path) -> None:
    model, config = load_model(build(tmp_path, SHAPE))
    every = np.array(model(mx.array([TOKENS])))
    assert every.shape == (1, 40, config.vocab_size)
    for positions in (slice(-1, None), slice(3, 7), mx.array([0, 20, 39])):
        some = np.array(model(mx.array([TOKENS]), positions=positions))
        index = np.array(positions) if isinstance(positions, mx.array) else positions
        assert np.abs(some - every[:, index]).max() <= 1e-6 * np.abs(every).max()
