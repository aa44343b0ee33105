"""Reading a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import Shape, build
from gptoss_mlx import kernels
from gptoss_mlx.engine import prefill
from gptoss_mlx.errors import RequestError
from gptoss_mlx.model import Model
from gptoss_mlx.weights import load_model

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(build(tmp_path_factory.mktemp("tiny"), Shape(seed=11)))[0]


@given(chunk=st.integers(1, 20))
@settings(max_examples=10)
def test_the_chunk_changes_nothing(chunk: int, model: Model) -> None:
    whole = np.array(prefill(model, TOKENS, model.make_cache()))
    parts = np.array(prefill(model, TOKENS, model.make_cache(), chunk=chunk))
    assert np.abs(parts - whole).max() <= 2e-5 * np.abs(whole).max()


@given(chunk=st.integers(1, 200))
@settings(max_examples=10)
def test_natively_the_chunk_changes_no_bit(chunk: int, model: Model, native: Any) -> None:
    """Rounded to 16 bits, too, and through windows that move on."""
    tokens = np.random.default_rng(0).integers(0, 128, 300).tolist()
    with kernels.exactly(False):
        whole = np.array(prefill(model, tokens, model.make_cache()))
        np.testing.assert_array_equal(np.array(prefill(model, tokens, model.make_cache(), chunk=chunk)), whole)


def test_progress_of_the_prefill(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    prefill(model, TOKENS, model.make_cache(), chunk=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]


@pytest.mark.parametrize(("tokens", "says"), [([], "at least one"), ([5, 128], "128 found"), ([-1], "-1 found")])
def test_bad_tokens(model: Model, tokens: list[int], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prefill(model, tokens, model.make_cache())


def test_more_than_the_context(model: Model) -> None:
    limit = model.args.max_position_embeddings
    with pytest.raises(RequestError, match=f"at most {limit}"):
        prefill(model, [1] * (limit + 1), model.make_cache())
