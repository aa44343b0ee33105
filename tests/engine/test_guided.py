"""The sampler keeps to a guide, and tells the probabilities that the model gave."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.budget import ReasoningBudget
from gptoss_mlx.engine.grammar import Grammar, Vocabulary
from gptoss_mlx.engine.guided import GuidedSampler
from gptoss_mlx.engine.request import Guide, Request
from gptoss_mlx.engine.structure import Constraint, Rules
from gptoss_mlx.sampling import SamplingParams
from scripted import tokens_of
from tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def sampler(guide: Guide | None = None, logprobs: int | None = None) -> GuidedSampler:
    request = Request([1], SamplingParams(temperature=0), 10, guide=guide, logprobs=logprobs)
    return GuidedSampler(request, TOKENIZER.size)


def logits(best: int) -> mx.array:
    values = np.zeros(TOKENIZER.size + 8, np.float32)
    values[best], values[-1] = 5.0, 50.0  # a row that no token has
    return mx.array(values)


def test_without_a_guide_it_samples() -> None:
    choose = sampler()
    assert choose(logits(17), []) == 17
    assert (choose.logprob, choose.forced) == (None, False)


def test_masks_hold() -> None:
    guide = Constraint(Vocabulary.of(TOKENIZER), Rules(answer=Grammar.json_schema({"enum": [True, 1]})))
    choose = sampler(guide)
    text = [choose(logits(TOKENIZER.message), []) for _ in range(3)]
    assert text[0] == TOKENIZER.channel


def test_forced_tokens_come_whatever_the_model_says() -> None:
    guide = ReasoningBudget(TOKENIZER, 0)
    for token in tokens_of("<|channel|>analysis<|message|>"):
        guide.accept(token)
    choose = sampler(guide, logprobs=0)
    assert choose(logits(3), []) == TOKENIZER.end
    assert choose.forced
    assert choose.logprob is not None
    assert choose.logprob.token == TOKENIZER.end
    assert choose.logprob.logprob < -5


def test_logprobs_are_those_of_the_model() -> None:
    choose = sampler(logprobs=2)
    choose(logits(17), [])
    assert choose.logprob is not None
    total = np.exp(5.0) + TOKENIZER.size - 1
    assert choose.logprob.logprob == pytest.approx(5.0 - np.log(total), abs=1e-5)
    (first, likely), (second, unlikely) = choose.logprob.top
    assert (first, likely, second) == (17, choose.logprob.logprob, 0)
    assert unlikely == pytest.approx(-np.log(total), abs=1e-5)
