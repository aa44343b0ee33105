"""How precisely native kernels compute, and what caches keep: chosen by blocks of code and by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import mlx.core as mx

from ..errors import RequestError
from .packed import GROUP

Rounding = Literal["prompt", "step"]

_exact = ContextVar("exact", default=os.environ.get("GPTOSS_EXACT") == "1")

MANY_ROWS = 16
"""Tokens of a sequence from which native products unpack weights once for all rows: fewer are limited by reading
weights, not by arithmetic. See `rounding`."""

_rounding: ContextVar[Rounding | None] = ContextVar("rounding", default=None)


@contextmanager
def rounding(kind: Rounding) -> Iterator[None]:
    """Build native products of one kind inside a `with` block, however many rows they have.

    `prompt` rounds activations to 16 bits, `step` to 24, which is as good as float32. Outside such a block the number
    of tokens decides. A caller that names the kind gets results for a token that do not depend on which others are
    computed with it.
    """
    token = _rounding.set(kind)
    try:
        yield
    finally:
        _rounding.reset(token)


CACHE_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
CACHE_BITS = {"q8": 8, "q4": 4}


def cache_kind(asked: str | None = None) -> str | None:
    """What caches keep, as CACHE_DTYPES or CACHE_BITS name it; None leaves it to what computes the numbers.

    float16 takes half of float32's memory, q8 and q4 (codes, in full-attention layers only) 9/32 and 5/32. Over 24
    random layers, where all other rounding moves logits by 1e-3, float16 moves them by 5e-3, bfloat16 and q8 by 5e-2,
    q4 by half of themselves. In float16, numbers beyond 65504 stay there.

    Args:
        asked: a name; None asks GPTOSS_CACHE, which counts unless `exact` is on.

    Raises:
        RequestError: there is no such kind.
    """
    source, name = ("GPTOSS_CACHE", os.environ.get("GPTOSS_CACHE")) if asked is None else ("kv", asked)
    if name not in (None, *CACHE_DTYPES, *CACHE_BITS):
        raise RequestError(f"{source}: one of {', '.join((*CACHE_DTYPES, *CACHE_BITS))} expected, {name!r} found")
    return None if asked is None and exact() else name


def code_bytes(bits: int) -> float:
    """Bytes of a number in codes, its part of a group's scale and bias in float16 included."""
    return bits / 8 + 2 * mx.float16.size / GROUP


def exact() -> bool:
    """Whether native kernels stay in float32 throughout, here and now; else they may round (see `exactly`)."""
    return _exact.get()


@contextmanager
def exactly(wanted: bool | None = True) -> Iterator[None]:
    """Build operations that stay in float32 (or need not) inside a `with` block; None leaves that as it is.

    Else native kernels round the activations of prompts (see `rounding`) to 16 bits with a scale per group, an error
    of about 2e-5 of a product, and GPTOSS_CACHE may choose what keys and values are kept in. GPTOSS_EXACT=1
    sets the default.
    """
    token = _exact.set(exact() if wanted is None else wanted)
    try:
        yield
    finally:
        _exact.reset(token)


def precision(x: mx.array) -> int:
    """What native products may do (product/rows.h): 0 exact, 1 rounded few rows, 2 rounded many rows."""
    if exact():
        return 0
    kind = _rounding.get()
    if kind is None:
        kind = "prompt" if x.ndim > 1 and x.shape[-2] >= MANY_ROWS else "step"
    return 2 if kind == "prompt" else 1
