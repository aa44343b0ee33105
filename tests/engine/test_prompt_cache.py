"""Prompts that one process has read serve the next one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx
from gptoss_mlx import kernels, memory, runtime
from gptoss_mlx.config import ModelConfig
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


FINGERPRINTS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "the process is exact": lambda patch: kernels.exactly(),
    "caches keep less": lambda patch: patch.setenv("GPTOSS_CACHE", "float16"),
    "another release": lambda patch: patch.setattr(runtime, "__version__", "0.0.1"),
    "another mlx": lambda patch: patch.setattr(runtime, "version", lambda name: "0.0.1"),
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_what_computes_otherwise_uses_no_states_of_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPTOSS_CACHE", raising=False)
    options = EngineOptions(prompt_cache=tmp_path)
    first = gptoss_mlx.load("demo", options=options)
    list(first.engine.generate(Request(PROMPT, SamplingParams(temperature=0), 3)))
    first.engine.save()
    with FINGERPRINTS[name](monkeypatch) or nullcontext(), pytest.warns(UserWarning, match="another model"):
        assert answer(gptoss_mlx.load("demo", options=options))[1] == 0


def test_exact_caches_are_admitted_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GPTOSS_CACHE says, they keep float32."""
    monkeypatch.setenv("GPTOSS_CACHE", "q4")
    asked: list[str] = []
    genuine = memory.admission

    def noted(config: ModelConfig, machine: memory.Machine, **more: Any) -> Callable[[int], bool]:
        asked.append(machine.kv)
        return genuine(config, machine, **more)

    monkeypatch.setattr(memory, "admission", noted)
    for exact in (True, False):
        gptoss_mlx.load("demo", exact=exact)
    assert asked == ["float32", "q4"]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    model = gptoss_mlx.load("demo")
    answer(model)
    model.engine.save()
    assert list(tmp_path.iterdir()) == []
