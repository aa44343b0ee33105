"""What surrounds the kernels: environment variables, the fallback, threads, processes, memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from checkpoints import Shape, build
from gptoss_mlx import kernels
from gptoss_mlx.convert import convert
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.kernels.plain import quantize
from gptoss_mlx.weights import load_model
from oracle import Oracle, relative_error
from packings import PACKINGS, matrix

SHAPE = Shape(layers=3, experts=8, top_k=4, window=8, seed=12)
TOKENS = np.random.default_rng(12).integers(0, SHAPE.vocab, 45)


def info(**environment: str) -> tuple[int, str, str]:
    """Exit status and output of `gptoss-mlx info` in a process with these variables."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GPTOSS_")} | environment
    command = [sys.executable, "-m", "gptoss_mlx", "info"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


# Environment variables


def test_info_names_what_is_active(native: Any) -> None:
    status, out, _ = info(GPTOSS_ISA="portable", GPTOSS_NUM_THREADS="3")
    assert status == 0
    assert "native CPU kernels (portable C++, 3 threads)" in " ".join(out.split())


def test_info_names_why_there_are_none() -> None:
    status, out, _ = info(GPTOSS_NATIVE="0")
    assert status == 0
    assert "native kernels are off: turned off by GPTOSS_NATIVE=0" in " ".join(out.split())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GPTOSS_NUM_THREADS", "0", "a number from 1 to 1024 expected, '0' found"),
        ("GPTOSS_NUM_THREADS", "2.5", "a number from 1 to 1024 expected, '2.5' found"),
        ("GPTOSS_NUM_THREADS", "99999999999999999999", "expected, '99999999999999999999' found"),
        ("GPTOSS_ISA", "sse9", "'sse9' is unknown or not for this processor, which runs "),
    ],
)
def test_bad_settings_are_one_line(native: Any, name: str, value: str, words: str) -> None:
    status, _, errors = info(**{name: value})
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"Error: {name}: ")
    assert words in line


def test_bad_settings_stop_whoever_computes(native: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = build(tmp_path, SHAPE)
    monkeypatch.setattr(kernels, "why_off", "GPTOSS_ISA: 'sse9' is unknown")
    for use in (kernels.native, kernels.describe, lambda: load_model(folder)[0](mx.array([[1]]))):
        with pytest.raises(GptOssError, match=r"^GPTOSS_ISA: 'sse9' is unknown$"):
            use()


def test_other_names_and_counts_are_refused(native: Any) -> None:
    with pytest.raises(ValueError, match=r"^GPTOSS_ISA: 'sse9' is unknown"):
        native.use_isa("sse9")
    with pytest.raises(ValueError, match=r"^threads: 1 or more expected, 0 found"):
        native.set_threads(0)
    assert native.isa() in native.available_isas()


# The fallback


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("switches")
    source = build(root / "hf", SHAPE)
    for dense in ("bf16", "q8", "q4"):
        convert(source, root / dense, dense=dense)
    return {name: root / name for name in ("hf", "bf16", "q8", "q4")}


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Take the extension away or put it back."""
    genuine, why = kernels.extension, kernels.why_off

    def switch(on: bool) -> None:
        monkeypatch.setattr(kernels, "extension", genuine if on else None)
        monkeypatch.setattr(kernels, "why_off", why if on else "not here")

    return switch


def logits(model: Any, cuts: list[int]) -> Any:
    caches = model.make_cache()
    return np.concatenate([np.array(model(mx.array(part)[None], caches)[0]) for part in np.split(TOKENS, cuts)])


@pytest.mark.parametrize("cuts", [[], [30], list(range(1, 45))])
@pytest.mark.parametrize("name", ["hf", "bf16"])
def test_without_the_extension_the_model_is_the_oracle_s(
    name: str, cuts: list[int], folders: dict[str, Path], switch: Callable[[bool], None]
) -> None:
    wanted = Oracle(folders["hf"]).logits(TOKENS.tolist())
    switch(False)
    assert not kernels.native()
    assert "native kernels are off: not here" in kernels.describe()
    assert relative_error(logits(load_model(folders[name])[0], cuts), wanted) < 2e-5


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["hf", "bf16", "q8", "q4"])
def test_a_model_loaded_with_it_runs_without_it_and_back(
    name: str, native: Any, folders: dict[str, Path], switch: Callable[[bool], None]
) -> None:
    model, _ = load_model(folders[name])
    with_it = logits(model, [30])
    switch(False)
    without = logits(model, [30])
    assert relative_error(without, with_it) < 2e-5
    switch(True)
    np.testing.assert_array_equal(logits(model, [30]), with_it)


def test_a_model_that_learns_takes_mlx_s_operations(native: Any, folders: dict[str, Path]) -> None:
    model, _ = load_model(folders["bf16"])
    model.train()
    assert relative_error(model(mx.array(TOKENS)[None])[0], Oracle(folders["hf"]).logits(TOKENS.tolist())) < 2e-5


# Threads and processes


def test_python_threads_share_the_pool(native: Any) -> None:
    """Every thread has a default stream of its own in MLX, so that several callers want the pool at once."""
    weight = matrix(PACKINGS[0], (200, 64), 1).native(native)
    x = np.random.default_rng(1).normal(size=(16, 5, 64)).astype(np.float32)
    wanted = [np.array(native.product(mx.array(rows), weight, 0)) for rows in x]

    def work(i: int) -> bool:
        found = [np.array(native.product(mx.array(x[i]), weight, 0)) for _ in range(60)]
        return all((each == wanted[i]).all() for each in found)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_models_in_two_threads(native: Any, folders: dict[str, Path]) -> None:
    models = [load_model(folders[name])[0] for name in ("q8", "q4")]
    wanted = [logits(model, [30]) for model in models]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(lambda model: logits(model, [30]), models), wanted, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_the_number_of_threads_may_change_at_any_time(native: Any, folders: dict[str, Path]) -> None:
    before = native.threads()
    model, _ = load_model(folders["q8"])
    wanted = logits(model, [30])
    for count in (1, 2, 7, 3):
        native.set_threads(count)
        assert native.threads() == count
        assert f"{count} threads" in kernels.describe()
        np.testing.assert_array_equal(logits(model, [30]), wanted)
    native.set_threads(before)


FORK = """
import os, sys
import mlx.core as mx
mx.set_default_device(mx.cpu)
from gptoss_mlx import kernels
weight = kernels.extension.Weight(mx.ones((300, 64)))
def compute():
    return kernels.extension.product(mx.ones((40, 64)), weight, 0).sum().item()
child = os.fork()
if child == 0:
    os._exit(0 if compute() == 64 * 300 * 40 else 1)
assert compute() == 64 * 300 * 40
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_computes_and_so_does_its_parent(native: Any) -> None:
    """MLX itself does not work in a child of a process that has computed; before that, both must."""
    ended = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "GPTOSS_NUM_THREADS": "3"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


EXIT = """
import mlx.core as mx
mx.set_default_device(mx.cpu)
from gptoss_mlx import kernels
weight = kernels.extension.Weight(mx.ones((300, 640)))
mx.async_eval(*[kernels.extension.product(mx.ones((400, 640)) + i, weight, 0) for i in range(100)])
"""


def test_a_process_ends_while_kernels_run(native: Any) -> None:
    ended = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


# Memory


def resident() -> int:
    """Bytes of this process that no file backs."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


def operations(native: Any) -> dict[str, Callable[[], Any]]:
    """Every operation at a tiny shape, with inputs that need copying."""
    x, cos = mx.ones((2, 3, 64)), mx.ones((3, 16))
    turned = mx.contiguous(x.swapaxes(0, 1)).swapaxes(0, 1)
    packings = [p for p in PACKINGS if p.mode.startswith("mx") or (p.group in (0, 64) and p.number == "bfloat16")]
    weights = {str(p): matrix(p, (8, 64), 1).native(native) for p in packings}
    parts = [matrix(PACKINGS[-2], (4, 64, 64), n).native(native) for n in range(3)]
    chosen, shares = mx.zeros((2, 3, 2), mx.uint32), mx.ones((2, 3, 2))
    heads, buffer = mx.ones((2, 4, 3, 32)), mx.zeros((2, 2, 16, 32))
    codes, row = quantize(buffer, 8), (heads, buffer[:, :, :3], buffer[:, :, :3], mx.ones((4,)))

    def room() -> list[mx.array]:
        return [mx.zeros((2, 2, 16, 32)) for _ in "kv"]

    found: dict[str, Callable[[], Any]] = {
        f"product {name}": partial(native.product, turned, weight, 1) for name, weight in weights.items()
    }
    return found | {
        "experts": lambda: native.experts(turned, chosen, shares, *parts, 7.0, 1.702, 2),
        "route": lambda: native.route(turned, 4),
        "attend": lambda: native.attend(heads, buffer, buffer, mx.ones((4,)), 0.2, 0),
        "heads": lambda: native.heads(turned, 32, cos, cos, mx.float16),
        "attend_codes": lambda: native.attend_codes(heads, codes, codes, mx.ones((4,)), 0.2, 0),
        "append": lambda: native.append(mx.zeros((2, 2, 16, 32)), buffer[:, :, :3], 5),
        "append_and_attend": lambda: native.append_and_attend(*row, [room()], [3], [5], [0], 0.2, 0)[0],
        "append_codes": lambda: native.append_codes(quantize(mx.zeros((2, 2, 16, 32)), 4), buffer[:, :, :3], 5)[0],
        "rms_norm": lambda: native.rms_norm(turned, mx.ones((64,)), 1e-5),
    }


def test_ten_thousand_calls_of_each_operation_leave_nothing_behind(native: Any) -> None:
    """A leak of one output, or of one list of inputs, would be megabytes."""
    for name, operation in operations(native).items():

        def repeat(count: int, operation: Callable[[], Any] = operation) -> None:
            for _ in range(count):
                mx.eval(operation())

        repeat(500)
        gc.collect()
        before, active = resident(), mx.get_active_memory()
        repeat(10_000)
        gc.collect()
        assert resident() - before < 1 << 20, name
        assert mx.get_active_memory() - active < 1 << 16, name


def test_refusals_leave_nothing_behind(native: Any) -> None:
    weight = matrix(PACKINGS[0], (200, 64), 1).native(native)

    def repeat(count: int) -> None:
        for _ in range(count):
            with pytest.raises(ValueError, match="expected"):
                native.product(mx.zeros((300, 63)), weight, 0)

    repeat(500)
    before = resident()
    repeat(3000)
    gc.collect()
    assert resident() - before < 1 << 20


def test_a_model_that_is_dropped_gives_its_memory_back(native: Any, folders: dict[str, Path]) -> None:
    for _ in range(2):
        logits(load_model(folders["hf"])[0], [30])
    gc.collect()
    active = mx.get_active_memory()
    for _ in range(5):
        logits(load_model(folders["hf"])[0], [30])
    gc.collect()
    assert mx.get_active_memory() - active < 1 << 16
