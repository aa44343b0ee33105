"""Prompts that one process has read serve the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

import gptoss_mlx
from gptoss_mlx.engine import EngineOptions, Request
from gptoss_mlx.sampling import SamplingParams

PROMPT = list(range(40, 100))


def answer(model: gptoss_mlx.GptOss) -> tuple[list[int], int]:
    sequence = model.engine.submit(Request([*PROMPT, 7, 8], SamplingParams(seed=1, temperature=2.0), 12))
    return [step.token for step in model.engine.outputs(sequence)], sequence.figures.cached_tokens


def test_a_later_process_goes_on_from_the_folder(tmp_path: Path) -> None:
    options = EngineOptions(prompt_cache=tmp_path / "prompts")
    first = gptoss_mlx.load("demo", options=options)
    list(first.engine.generate(Request(PROMPT, SamplingParams(temperature=0), 3)))
    first.engine.save()
    again = gptoss_mlx.load("demo", options=options)
    assert answer(again) == (answer(gptoss_mlx.load("demo"))[0], len(PROMPT))


def test_other_precision_is_another_model(tmp_path: Path) -> None:
    options = EngineOptions(prompt_cache=tmp_path)
    first = gptoss_mlx.load("demo", options=options, exact=True)
    list(first.engine.generate(Request(PROMPT, SamplingParams(temperature=0), 3)))
    first.engine.save()
    with pytest.warns(UserWarning, match="another model"):
        again = gptoss_mlx.load("demo", options=options, exact=False)
    assert answer(again)[1] == 0


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    model = gptoss_mlx.load("demo")
    answer(model)
    model.engine.save()
    assert list(tmp_path.iterdir()) == []
