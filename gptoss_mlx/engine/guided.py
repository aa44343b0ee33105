"""A sampler that keeps to a request's guide, and tells how likely its tokens were."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from gptoss_mlx.sampling import Sampler

from .masks import apply_mask
from .request import Request, TokenLogprobs


class GuidedSampler(Sampler):
    """Chooses the tokens of one request; `logprob` and `forced` are those of the last one."""

    def __init__(self, request: Request, size: int) -> None:
        super().__init__(request.sampling, size)
        self._guide = request.guide
        self._top = request.logprobs
        self.logprob: TokenLogprobs | None = None
        self.forced = False

    def __call__(self, logits: mx.array, history: Sequence[int]) -> int:
        """Choose a token; see `Sampler`."""
        forced = [] if self._guide is None else self._guide.forced()
        self.forced = bool(forced)
        token = forced[0] if forced else self._choose(logits, history)
        if self._guide is not None:
            self._guide.accept(token)
        if self._top is not None:
            self.logprob = self._told(logits, token, self._top)
        return token

    def _choose(self, logits: mx.array, history: Sequence[int]) -> int:
        mask = None if self._guide is None else self._guide.mask()
        return super().__call__(logits if mask is None else apply_mask(logits, mask), history)

    def _told(self, logits: mx.array, token: int, count: int) -> TokenLogprobs:
        known = np.array(logits[: self._size].astype(mx.float32))
        known -= known.max()
        logprobs = known - np.log(np.exp(known).sum())
        top = np.argsort(-logprobs, kind="stable")[:count]
        return TokenLogprobs(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in top))
