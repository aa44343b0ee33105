"""The oracle itself, held against published numbers and cases small enough to check by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from checkpoints import Shape, bf16_words, build, digest, tensors
from oracle import FP4, Oracle, attend, decode_mxfp4, read_safetensors, rms_norm, rotate, swiglu, yarn

RELEASE = {
    "head_dim": 64,
    "rope_theta": 150000,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
    },
}
INV_FREQ = """
    1.0 0.6890443 0.47478205 0.32714587 0.225418 0.15532298 0.10702442 0.073744565 0.050813273 0.031705696
    0.019335 0.011592049 0.0067949593 0.0038603591 0.0020937927 0.0010526022 4.5648392e-4 1.2931869e-4
    3.8308812e-5 2.6396468e-5 1.8188337e-5 1.253257e-5 8.6354958e-6 5.9502395e-6 4.0999785e-6 2.8250668e-6
    1.9465963e-6 1.341291e-6 9.2420896e-7 6.3682091e-7 4.3879785e-7 3.0235114e-7
"""


def test_yarn_gives_the_release_s_frequencies_and_factor() -> None:
    inv_freq, factor = yarn(RELEASE)
    np.testing.assert_allclose(inv_freq, [float(word) for word in INV_FREQ.split()], rtol=3e-7)
    assert factor == pytest.approx(1.3465735902799727, rel=1e-15)


def test_yarn_blends_between_fractional_borders() -> None:
    inv_freq, _ = yarn(RELEASE)
    plain = 150000.0 ** (-np.arange(32) / 32)
    kept = (inv_freq / plain - 1 / 32) / (1 - 1 / 32)
    np.testing.assert_allclose(kept[:9], 1, rtol=1e-12)
    between = [0.902504, 0.795038, 0.687572, 0.580106, 0.472639, 0.365173, 0.257707, 0.15024, 0.042774]
    np.testing.assert_allclose(kept[9:18], between, atol=1e-6)
    np.testing.assert_allclose(kept[18:], 0, atol=1e-12)


def test_mxfp4_puts_the_low_nibble_first_and_scales_by_powers_of_two() -> None:
    blocks = np.zeros((1, 2, 16), dtype=np.uint8)
    blocks[0, 0, :4] = [0x45, 0x32, 0x79, 0x89]
    blocks[0, 1, 15] = 0xF1
    values = decode_mxfp4(blocks, np.array([[127, 124]], dtype=np.uint8))
    assert values.shape == (1, 64)
    assert values[0, :8].tolist() == [3, 2, 1, 1.5, -0.5, 6, -0.5, 0]
    assert values[0, 62:].tolist() == [0.0625, -0.75]
    assert math.copysign(1, FP4[8]) == -1


def test_rotation_turns_halves_not_neighbours() -> None:
    x = np.array([[[1.0, 2.0, 3.0, 4.0]]])  # pairs (1, 3) and (2, 4)
    turned = rotate(x, np.array([[math.pi / 2, 0.0]]), 1.0)
    np.testing.assert_allclose(turned, [[[-3.0, 2.0, 1.0, 4.0]]], atol=1e-15)


def test_rotated_products_depend_on_the_distance_only() -> None:
    inv_freq, factor = yarn(RELEASE)
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 64))
    products = [
        (rotate(q, (p + 7) * inv_freq[None], factor) * rotate(k, p * inv_freq[None], factor)).sum()
        for p in (0, 100, 130000)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-9)


def test_rms_norm_multiplies_by_the_weight() -> None:
    x = np.array([3.0, 4.0])
    np.testing.assert_allclose(rms_norm(x, np.array([1.0, 2.0]), 0.0), np.array([3.0, 8.0]) / math.sqrt(12.5))


def test_the_sink_only_enlarges_the_denominator() -> None:
    q = np.zeros((1, 2, 4))  # all scores are 0: each of 3 keys weighs exp(0)
    k, v = np.ones((3, 1, 4)), np.arange(3.0)[:, None, None] * np.ones((1, 1, 4))
    allowed = np.array([[True, True, True]])
    out = attend(q, k, v, np.array([-np.inf, math.log(3.0)]), allowed)
    np.testing.assert_allclose(out[0, 0], 1.0)  # no sink: the mean of 0, 1, 2
    np.testing.assert_allclose(out[0, 1], 0.5)  # a sink that weighs as much as the keys together
    out = attend(q, k, v, np.array([-np.inf, -np.inf]), np.array([[True, False, True]]))
    np.testing.assert_allclose(out[0, 0], 1.0)
    out = attend(q, k, v, np.array([-np.inf, -np.inf]), np.array([[False, True, True]]))
    np.testing.assert_allclose(out[0, 0], 1.5)


def test_query_heads_share_key_heads_in_blocks() -> None:
    q, k = np.zeros((1, 4, 2)), np.zeros((1, 2, 2))
    v = np.array([[[1.0, 1.0], [2.0, 2.0]]])
    out = attend(q, k, v, np.full(4, -np.inf), np.array([[True]]))
    assert out[0, :, 0].tolist() == [1, 1, 2, 2]


def test_swiglu_clips_the_gate_from_above_only() -> None:
    h = np.array([100.0, 100.0, -9.0, -100.0, 1.0, 0.5])  # gate, up, gate, up, gate, up
    seven = 7 / (1 + math.exp(-1.702 * 7))
    below = -9 / (1 + math.exp(1.702 * 9))
    one = 1 / (1 + math.exp(-1.702))
    np.testing.assert_allclose(swiglu(h, 7.0), [seven * 8, below * -6, one * 1.5], rtol=1e-12)


def test_a_window_counts_the_current_token(tmp_path: Path) -> None:
    shape = Shape(layers=1, window=5, kinds=("sliding_attention",))
    oracle = Oracle(build(tmp_path, shape))
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    last = oracle.logits(tokens)[-1]
    for changed in range(7):  # the last position sees 3 to 7
        other = [*tokens]
        other[changed] = 77
        moved = np.abs(oracle.logits(other)[-1] - last).max()
        assert (moved > 1e-3) == (changed >= 3)


def test_only_the_chosen_experts_share_the_weight(tmp_path: Path) -> None:
    oracle = Oracle(build(tmp_path, Shape(layers=1, experts=4, top_k=2)))
    path = "model.layers.0.mlp"
    oracle.tensors[f"{path}.router.weight"][:] = 0
    oracle.tensors[f"{path}.router.bias"][:] = [1.0, 5.0, 0.0, 5.0]
    x = np.random.default_rng(0).standard_normal((1, 64))

    def alone(e: int) -> np.ndarray:
        h = swiglu(oracle._expert(path, "gate_up", e, x), 7.0)
        return oracle._expert(path, "down", e, h)

    np.testing.assert_allclose(oracle._moe(0, x), (alone(1) + alone(3)) / 2, rtol=1e-12)


def test_rows_and_blocks_change_nothing(tmp_path: Path) -> None:
    oracle = Oracle(build(tmp_path, Shape(layers=3, experts=8, top_k=4)))
    tokens = np.random.default_rng(1).integers(0, 128, 50).tolist()
    every = oracle.logits(tokens)
    np.testing.assert_allclose(oracle.logits(tokens, rows=[49, 0, 23], block=3), every[[49, 0, 23]], atol=1e-12)
    np.testing.assert_allclose(oracle.logits(tokens[:24]), every[:24], atol=1e-12)


def test_the_builder_is_deterministic_and_reads_back(tmp_path: Path) -> None:
    shape = Shape(seed=5)
    parts = tensors(shape)
    assert digest(parts) == digest(tensors(shape)) != digest(tensors(Shape(seed=6)))
    folder = build(tmp_path, shape, shards=3)
    read = {name: t for path in folder.glob("*.safetensors") for name, t in read_safetensors(path)}
    assert read.keys() == parts.keys()
    for name, part in parts.items():
        if part.dtype == np.uint16:
            np.testing.assert_array_equal(bf16_words(read[name].astype(np.float32)), part)
        else:
            np.testing.assert_array_equal(read[name], part)


def test_bf16_rounds_ties_to_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5], dtype=np.float32)
    assert bf16_words(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xC020]
