"""The benchmark: its arithmetic by hand, what it prints and draws, and how it fails."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from gptoss_mlx import bench, hub, machine
from gptoss_mlx.bench import Settings, Spread, curve_contexts, step_bytes
from gptoss_mlx.cli import main
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, RequestError
from gptoss_mlx.weights import load_model

DEMO = hub.find("demo")
QUICK = ("--prompt", "8", "--generate", "3", "--repeat", "2")
KEYS = """
model folder device machine kernels threads prompt_tokens generate_tokens context_tokens batch_sequences repetitions
seed load_s prefill_tokens_per_s prefill_tokens_per_s_min prefill_tokens_per_s_max decode_tokens_per_s
decode_tokens_per_s_min decode_tokens_per_s_max bytes_per_step bytes_per_token dense_bytes_per_step
expert_bytes_per_step kv_bytes_per_step experts_per_layer experts_per_layer_is achieved_gb_per_s achieved_gb_per_s_min
achieved_gb_per_s_max reading_gb_per_s reading_gb_per_s_min reading_gb_per_s_max achieved_percent_of_reading
achieved_percent_of_reading_min achieved_percent_of_reading_max peak_memory_bytes mlx_peak_memory_bytes curve
"""


@pytest.fixture
def slow_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that reads 8 GB/s, then 2, then 8 again, and so on; measuring it takes no time."""
    speeds = iter([8.0, 2.0] * 50)
    monkeypatch.setattr(bench, "machine_reading", lambda threads: next(speeds))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_every_figure_has_a_key(slow_memory: None) -> None:
    result = run("demo", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert list(found) == KEYS.split()
    assert (found["prompt_tokens"], found["context_tokens"], found["repetitions"]) == (8, 8, 2)
    assert (found["experts_per_layer"], found["experts_per_layer_is"], found["curve"]) == (4, "exact", [])
    assert found["reading_gb_per_s"] == 5
    for figure in ("prefill_tokens_per_s", "decode_tokens_per_s", "achieved_gb_per_s", "achieved_percent_of_reading"):
        assert 0 < found[f"{figure}_min"] <= found[figure] <= found[f"{figure}_max"]
    assert found["peak_memory_bytes"] > found["mlx_peak_memory_bytes"] > 2_000_000


@pytest.mark.parametrize("batch", [1, 3])
def test_bandwidth_is_bytes_times_speed(batch: int, slow_memory: None) -> None:
    found = bench.bench(DEMO, Settings(prompt=8, generate=3, batch=batch, repeat=1)).to_dict()
    steps_per_s = found["decode_tokens_per_s"] / batch
    assert found["achieved_gb_per_s"] == pytest.approx(found["bytes_per_step"] * steps_per_s / 1e9)
    assert found["bytes_per_token"] == pytest.approx(found["bytes_per_step"] / batch)
    assert found["achieved_percent_of_reading"] == pytest.approx(100 * found["achieved_gb_per_s"] / 8)
    parts = found["dense_bytes_per_step"] + found["expert_bytes_per_step"] + found["kv_bytes_per_step"]
    assert found["bytes_per_step"] == pytest.approx(parts)


def test_the_share_pairs_each_repetition_with_its_own_reading_speed(
    slow_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([(1.0, 40.0), (1.0, 10.0)])  # as fast as the memory is, twice
    monkeypatch.setattr(bench, "run_once", lambda *_: next(speeds))
    found = bench.bench(DEMO, Settings(prompt=8, generate=3, repeat=2))
    assert found.share.low == pytest.approx(found.share.high)
    assert found.achieved.high == pytest.approx(4 * found.achieved.low)


@pytest.mark.parametrize(("kind", "full"), [("float32", 4), ("q8", 9 / 8), ("q4", 5 / 8)])
def test_bytes_of_a_step_by_hand(kind: str, full: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_CACHE", kind)
    model, config = load_model(DEMO)
    leaves: Any = tree_flatten(model.parameters())
    sizes = {name: array.nbytes for name, array in leaves}
    embedding = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    dense = sum(sizes.values()) - embedding - experts
    numbers = 2 * 2 * 32  # keys and values of two heads
    start, window = 300, config.sliding_window
    kv = numbers * (2 * window * 4 + 2 * (start + 2) * full)  # steps see 301, 302, 303; two layers of each kind

    one = step_bytes(model, config, Settings(generate=3, context=start))
    assert one.dense == dense + embedding / config.vocab_size
    assert one.experts == experts * 4 / 16
    assert one.kv == kv
    assert one.total == one.dense + one.experts + one.kv

    three = step_bytes(model, config, Settings(generate=3, context=start, batch=3))
    assert three.dense == pytest.approx(dense + 3 * embedding / config.vocab_size)
    assert three.experts_per_layer == pytest.approx(16 * (1 - 0.75**3))
    assert three.experts == pytest.approx(experts * (1 - 0.75**3))
    assert three.kv == 3 * kv


@pytest.mark.parametrize("context", [5, 12, None])
def test_the_cache_is_filled_before_decoding(context: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model(DEMO)
    seen: list[tuple[int, tuple[int, ...]]] = []
    measured = bench.decode

    def spy(model: Any, tokens: Any, cache: Any) -> float:
        seen.append((cache[0].offset, tokens.shape))
        return measured(model, tokens, cache)

    monkeypatch.setattr(bench, "decode", spy)
    told: list[tuple[int, int]] = []
    for batch in (1, 2):
        prefill, decode = bench.run_once(
            model, Settings(8, 3, context, batch), lambda done, total: told.append((done, total))
        )
        assert prefill > 0
        assert decode > 0
        assert seen.pop() == (context or 8, (batch, 3))
    assert all(done <= total for done, total in told)


def test_a_long_prompt_is_run_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model(DEMO)
    monkeypatch.setattr(bench, "PREFILL_CHUNK", 8)
    cache, told = model.make_cache(), []
    bench.fill(model, Settings(batch=2).tokens(100, 10), cache, lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert cache[0].offset == 10


@given(st.one_of(st.none(), st.integers(1, 131072)), st.integers(1, 2000), st.sampled_from([1000, 4096, 5000, 131072]))
def test_contexts_of_a_curve(context: int | None, generate: int, limit: int) -> None:
    config = ModelConfig(max_position_embeddings=limit)
    settings = Settings(1, generate, context)
    try:
        settings.check(config)
    except RequestError:
        return
    found = curve_contexts(settings, config)
    assert found[-1] == (context or min(4096, limit - generate))
    assert all(later >= earlier + generate for earlier, later in itertools.pairwise(found))
    assert all(c == 256 * 2**i for i, c in enumerate(found[:-1])) or generate > 128


def test_table(slow_memory: None) -> None:
    result = run("demo", *QUICK, "--batch", "2", "--context", "20")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for expected in ("decode of 2 × 3 tokens at 20", "about 7 experts a layer", "GB/s", "kernels: "):
        assert expected in result.stdout


def test_plot(slow_memory: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "speed.png"
    result = run("demo", *QUICK, "--context", "600", "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["speed.png"]
    rows = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("│") and "tokens/s" in line]
    assert rows[-3:] == ["256", "512", "600"]


def test_a_plot_that_fails_leaves_what_was_there(
    slow_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "speed.png"
    picture.write_text("older")

    def interrupted(self: Any, target: Any, **options: Any) -> None:
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted)
    result = run("demo", *QUICK, "--context", "10", "--plot", str(picture))
    assert result.exit_code == 130
    assert result.output == "interrupted\n"
    assert picture.read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "--prompt", "0"], "prompt: 1 or more"),
        (["demo", "--generate", "-2"], "generate: 1 or more"),
        (["demo", "--context", "0"], "context: 1 or more"),
        (["demo", "--batch", "0"], "batch: 1 or more"),
        (["demo", "--repeat", "0"], "repeat: 1 or more"),
        (["demo", "--seed", "-1"], "seed: 0 or more"),
        (["demo", "--context", "131041"], "context: at most 131072"),
        (["demo", "--prompt", "131041"], "prompt: at most 131072"),
        (["demo", "--prompt", "131073", "--context", "5"], "prompt: at most 131072"),
        (["nowhere/"], "no such folder"),
        (["20b"], "gptoss-mlx pull 20b"),
        (["demo", "--plot", "speed.pdf"], ".png"),
        (["demo", "--plot", "nowhere/speed.png"], "cannot be written"),
    ],
)
def test_failures_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_MLX_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.strip().splitlines()) == 1
    assert says in result.output


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.cli.plot.find_spec", lambda name: None)
    result = run("demo", "--plot", "speed.png")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert "pip install 'gptoss-mlx[plot]'" in result.output


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(threads: int) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "machine_reading", interrupted)
    result = run("demo", *QUICK)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_reading_speed_counts_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))  # every attempt takes a second
    for threads in (1, 3):
        assert machine.reading_speed(threads, 8_000_000, 2) == 0.008


def test_reading_speed_is_measured_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def child(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        started.append(command)
        code = command[2].replace("(2)", "(2, 1 << 20)")
        return subprocess.CompletedProcess(command, *outcomes.pop(0)(code))

    def small(code: str) -> tuple[int, str, str]:
        return 0, str(eval(code.split("print(")[1][:-1], vars(machine))), ""

    outcomes: list[Any] = [small, lambda code: (1, "", "Traceback\nMemoryError"), lambda code: (-9, "", "")]
    monkeypatch.setattr("subprocess.run", child)
    assert machine.machine_reading(2) > 0
    for reason in ("MemoryError", "exit status -9"):
        with pytest.raises(GptOssError, match=reason):
            machine.machine_reading(2)
    assert started[0][0] == sys.executable


def test_the_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.machine_name().endswith(f", {machine.core_count()} cores")
    assert 1 <= machine.core_count() <= (os.cpu_count() or 1)
    monkeypatch.setattr("gptoss_mlx.kernels.extension", SimpleNamespace(threads=lambda: 7))
    monkeypatch.setattr("gptoss_mlx.kernels.native", lambda: True)
    assert machine.thread_count() == 7
    monkeypatch.setattr("gptoss_mlx.kernels.native", lambda: False)
    assert machine.thread_count() == 1
    monkeypatch.setattr("gptoss_mlx.kernels.on_gpu", lambda: True)
    monkeypatch.setattr("gptoss_mlx.kernels.device_name", lambda: "Some GPU")
    assert machine.machine_name() == "Some GPU"


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2, 1, 3)
    assert Spread.of([3.0, 1.0]).keys("x_s") == {"x_s": 2, "x_s_min": 1, "x_s_max": 3}
