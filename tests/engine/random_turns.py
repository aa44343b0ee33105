"""A model that writes anything: random tokens among those that a constraint allows, with a pull towards the end."""

from __future__ import annotations

import random
import re
from functools import cache

import numpy as np

from gptoss_mlx.engine.grammar import Vocabulary
from gptoss_mlx.engine.masks import Mask
from gptoss_mlx.engine.structure import Constraint
from gptoss_mlx.tokenizer import Tokenizer

MOST = 600
"""Tokens after which a turn counts as endless."""


def allowed(mask: Mask) -> list[int]:
    """The ids that a mask allows."""
    return [int(token) for token in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of `text` in which control tokens stand by their spelling."""
    tokens: list[int] = []
    for part in re.split(r"(<\|\w+\|>)", text):
        tokens += [tokenizer.special[part]] if part in tokenizer.special else tokenizer.encode(part)
    return tokens


def follow(constraint: Constraint, tokens: list[int]) -> Constraint:
    """`constraint` after `tokens`."""
    for token in tokens:
        constraint.accept(token)
    return constraint


def write(constraint: Constraint, vocabulary: Vocabulary, seed: int, most: int = MOST) -> list[int] | None:
    """Finish the turn with random tokens, and accept them; None if it does not end."""
    rng, tokens = random.Random(seed), list[int]()
    while not constraint.finished:
        if len(tokens) >= most:
            return None
        tokens.append(choose(rng, vocabulary, constraint.mask(), len(tokens)))
        constraint.accept(tokens[-1])
    return tokens


def choose(rng: random.Random, vocabulary: Vocabulary, mask: Mask, length: int) -> int:
    """An allowed token: the longer the turn, the likelier one that closes something."""
    hurry = min(0.98, 0.3 + length / 100)
    for better in _closing(vocabulary):
        preferred = mask & better
        if preferred.any() and rng.random() < hurry:
            mask = preferred
            break
    return rng.choice(allowed(mask))


@cache
def _closing(vocabulary: Vocabulary) -> list[Mask]:
    """Control tokens, then what closes JSON, then what is short in JSON."""
    tokens = [vocabulary.tokenizer.token_bytes(token) for token in range(vocabulary.tokenizer.size)]
    special = ~vocabulary.text
    closing = vocabulary.mask_of(i for i, data in enumerate(tokens) if data and set(data) <= set(b'"]}'))
    short = vocabulary.mask_of(i for i, data in enumerate(tokens) if data.isdigit() or data in (b"n", b"null"))
    return [special, closing, short]
