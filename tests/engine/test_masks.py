"""Masks: the tokens that are allowed keep their logits, all others have none."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_turns import allowed

from gptoss_mlx import hub
from gptoss_mlx.engine.grammar import Vocabulary
from gptoss_mlx.engine.masks import apply_mask, is_allowed, mask_bias
from gptoss_mlx.tokenizer import Tokenizer

DEMO = Tokenizer.from_folder(hub.find(hub.DEMO))
VOCABULARY = Vocabulary.of(DEMO)


@given(tokens=st.sets(st.integers(0, DEMO.size - 1)), extra=st.integers(0, 100))
def test_a_mask_forbids_the_others(tokens: set[int], extra: int) -> None:
    mask = VOCABULARY.mask_of(tokens)
    assert set(allowed(mask)) == tokens == {token for token in range(-9, DEMO.size + 99) if is_allowed(mask, token)}
    logits = np.random.default_rng(0).normal(size=DEMO.size + extra).astype(np.float32)
    expected = [value if token in tokens else -np.inf for token, value in enumerate(logits)]
    assert (np.array(apply_mask(mx.array(logits), mask)) == expected).all()
    assert (logits + mask_bias(mask, len(logits)) == expected).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_logits_keep_their_type_and_shape(dtype: mx.Dtype) -> None:
    mask = VOCABULARY.mask_of([5])
    masked = apply_mask(mx.ones((3, DEMO.size - 100), dtype), mask)
    assert (masked.dtype, masked.shape) == (dtype, (3, DEMO.size - 100))
    assert mx.argmax(masked, axis=-1).tolist() == [5, 5, 5]
