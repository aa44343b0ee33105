"""A random model with the tiny tokenizer: says nothing sensible, but runs every path from text to text."""

from __future__ import annotations

from pathlib import Path

from checkpoints import Shape, build
from tiny_tokenizer import write_tiny_tokenizer


def write_toy(folder: Path, seed: int = 1, vocab: int = 400) -> Path:
    """Write a complete model folder in the release layout; some ids have no token, as in the release."""
    build(folder, Shape(vocab=vocab, seed=seed))
    write_tiny_tokenizer(folder)
    return folder
