"""What a guide allows and forces in the engine, and when it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from small_engine import ALONE, Alternating, engine, small_chunks, tiny, tokens

from gptoss_mlx.engine import Engine, Request
from gptoss_mlx.engine.masks import Mask
from gptoss_mlx.model import Model
from gptoss_mlx.sampling import SamplingParams


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny(11)


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


def test_a_guide_binds_and_forces(model: Model) -> None:
    guide = Alternating()
    steps = list(engine(model).generate(Request([1, 2, 3], SamplingParams(seed=2), 9, guide=guide)))
    assert [step.token for step in steps] == guide.taken == [40, 41] * 4 + [40]
    assert [step.forced for step in steps] == [False, True, True, True, *[False] * 5]


class Late(Alternating):
    """Has no say for a while, and then allows one token."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def idle(self) -> int:
        return max(0, self.count - len(self.taken))

    def mask(self) -> Mask:
        mask = np.full(4, 0xFFFFFFFF, np.uint32)
        if not self.idle():
            mask[:] = 0
            mask[0] = 1 << 7
        return mask

    def forced(self) -> list[int]:
        return []


@pytest.mark.parametrize("count", range(6))
def test_a_guide_without_a_say_costs_nothing_and_comes_in_time(
    model: Model, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: list[int] = []
    start = Engine._start

    def noted(self: Engine, sequence: Any, after: mx.array, further: int) -> mx.array:
        ahead.append(further)
        return start(self, sequence, after, further)

    monkeypatch.setattr(Engine, "_start", noted)
    request = Request([1, 2, 3], SamplingParams(temperature=0), 8)
    free = tokens(engine(model, ALONE).generate(request))
    ahead.clear()
    guide = Late(count)
    found = tokens(engine(model, ALONE).generate(replace(request, guide=guide)))
    assert found == guide.taken == free[:count] + [7] * (8 - count)
    assert bool(ahead) == (count > 2)
