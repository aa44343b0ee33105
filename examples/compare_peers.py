"""This runtime against llama.cpp and mlx-lm on the same weights, the same tokens and the same machine.

    python examples/compare_peers.py MODEL_FOLDER --gguf FILE.gguf --llama-python OTHER_VENV/bin/python
    python examples/compare_peers.py MODEL_FOLDER --mlx-lm CONVERTED_FOLDER --context 4096

The runtimes take turns, each run in a fresh process, because a machine's speed drifts from minute to minute: what
counts is the median of the ratios within a round. Before a run its files are read once, so that loading finds them in
the file cache, and before a round the machine's reading speed is measured. llama.cpp is reached through the
low-level part of the `llama-cpp-python` package, which may live in an environment of its own; on its side this script
needs nothing else.

A run loads the model, warms it with five tokens, prefills PROMPT tokens, fills the cache up to CONTEXT unmeasured and
decodes GENERATE tokens. All ids are given by one seeded generator, so that every runtime visits the same experts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OURS, LLAMA, MLX_LM = "gptoss_mlx", "llama.cpp", "mlx-lm"
CHUNK = 2048
"""Tokens handed over at once while prefilling; each runtime may cut them smaller."""
MEASURES = {
    "load": ("load_s", "s", True),
    "prefill": ("prefill_tokens_per_s", "tokens/s", False),
    "decode": ("decode_tokens_per_s", "tokens/s", False),
    "peak memory": ("peak_memory_bytes", "bytes", True),
}
"""What is compared: key, unit, and whether less is better."""

Figures = dict[str, float]
Forward = Callable[[list[int]], object]
"""Appends tokens to the cache and finds the likeliest successor of the last one."""


@dataclass(frozen=True)
class Work:
    """What every runtime does, in tokens."""

    prompt: int
    generate: int
    context: int


@dataclass(frozen=True)
class Runtime:
    """One of the compared: its name, the interpreter that has it, its weights."""

    name: str
    python: str
    path: Path


@dataclass(frozen=True)
class Round:
    """Each runtime's figures, and the reading speed measured before them in 1e9 bytes per second."""

    reading: float
    figures: dict[str, Figures]


# In the process of a run: this part imports only what its runtime needs.


def run_ours(path: str, work: Work) -> Figures:
    """Load and run with gptoss_mlx."""
    import mlx.core as mx

    from gptoss_mlx.bench import Settings, step_bytes
    from gptoss_mlx.engine import prefill
    from gptoss_mlx.weights import load_model

    started = time.perf_counter()
    model, config = load_model(Path(path))
    load = time.perf_counter() - started
    state = {"cache": model.make_cache()}

    def forward(tokens: list[int]) -> None:
        if len(tokens) > 1:
            logits = prefill(model, tokens, state["cache"])
        else:
            logits = model(mx.array([tokens]), state["cache"], positions=slice(-1, None))
        mx.eval(mx.argmax(logits, axis=-1))

    def fresh() -> None:
        state["cache"] = model.make_cache()

    figures = timed(forward, fresh, work, config.vocab_size)
    step = step_bytes(model, config, Settings(work.prompt, work.generate, work.context))
    return {"load_s": load, **figures, "bytes_per_token": step.total}


def run_llama(path: str, work: Work) -> Figures:
    """Load and run with llama.cpp on as many threads as there are cores."""
    import llama_cpp as llama
    import numpy as np

    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, None)
    llama.llama_backend_init()
    started = time.perf_counter()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    load = time.perf_counter() - started
    if not model:
        sys.exit(f"{path}: llama.cpp does not load it")
    settings = llama.llama_context_default_params()
    settings.n_ctx = work.context + work.generate + 8
    settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
    settings.n_batch, settings.n_ubatch = CHUNK, 512
    settings.swa_full = False  # as llama.cpp's own tools: sliding layers keep their window only
    context = llama.llama_init_from_model(model, settings)
    if not context:
        sys.exit(f"{path}: llama.cpp has no room for a context of {settings.n_ctx} tokens")
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def forward(tokens: list[int]) -> None:
        ids = (llama.llama_token * len(tokens))(*tokens)
        status = llama.llama_decode(context, llama.llama_batch_get_one(ids, len(tokens)))
        if status:
            sys.exit(f"llama_decode: status {status}")
        np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), shape=(vocabulary,)).argmax()

    def fresh() -> None:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)

    return {"load_s": load, **timed(forward, fresh, work, vocabulary)}


def run_mlx_lm(path: str, work: Work) -> Figures:
    """Load and run with mlx-lm on MLX's default device."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    started = time.perf_counter()
    model, config = load_model(Path(path), lazy=False)
    load = time.perf_counter() - started
    state = {"cache": make_prompt_cache(model)}

    def forward(tokens: list[int]) -> None:
        logits = model(mx.array([tokens]), cache=state["cache"])[:, -1]
        mx.eval(mx.argmax(logits, axis=-1), [layer.state for layer in state["cache"]])

    def fresh() -> None:
        state["cache"] = make_prompt_cache(model)

    return {"load_s": load, **timed(forward, fresh, work, config["vocab_size"])}


RUNS: dict[str, Callable[[str, Work], Figures]] = {OURS: run_ours, LLAMA: run_llama, MLX_LM: run_mlx_lm}


def timed(forward: Forward, fresh: Callable[[], object], work: Work, vocabulary: int) -> Figures:
    """The work of one run, the same for every runtime.

    Args:
        forward: runs tokens.
        fresh: empties the cache.
        work: how many tokens.
        vocabulary: number of ids.
    """
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, vocabulary, work.context + work.generate).tolist()
    forward([1, 2, 3, 4])
    forward([5])
    fresh()
    prefilled = _run(forward, _chunks(tokens[: work.prompt]))
    _run(forward, _chunks(tokens[work.prompt : work.context]))
    decoded = _run(forward, [[token] for token in tokens[work.context :]])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "prefill_tokens_per_s": work.prompt / prefilled,
        "decode_tokens_per_s": work.generate / decoded,
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "vocabulary": vocabulary,
    }


def _chunks(tokens: list[int]) -> list[list[int]]:
    return [tokens[first : first + CHUNK] for first in range(0, len(tokens), CHUNK)]


def _run(forward: Forward, chunks: list[list[int]]) -> float:
    started = time.perf_counter()
    for chunk in chunks:
        forward(chunk)
    return time.perf_counter() - started


# In the process that compares.


def run_apart(runtime: Runtime, work: Work) -> Figures:
    """One run in a process of its own, its files read once before; ends the program in one line if it fails."""
    read_through(runtime.path)
    command = [runtime.python, __file__, "--run", runtime.name, str(runtime.path), json.dumps(asdict(work))]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"{runtime.name}: {runtime.python} does not start ({error.strerror}); name a Python interpreter")
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        hint = "; pip install llama-cpp-python, or name with --llama-python who has it" if "llama_cpp" in reason else ""
        sys.exit(f"{runtime.name}: {reason}{hint}")
    found: Figures = json.loads(ended.stdout.splitlines()[-1])
    return found


def read_through(path: Path) -> None:
    """Bring a model's files into the file cache, as far as they fit."""
    block = bytearray(1 << 24)
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


def compare(runtimes: Sequence[Runtime], work: Work, alternations: int) -> list[Round]:
    """One unmeasured run of each, then the rounds; who is first changes from round to round."""
    from gptoss_mlx.machine import core_count, machine_reading

    for runtime in runtimes:
        note(f"warm-up: {runtime.name}")
        same_model(runtimes[0], runtime, run_apart(runtime, work))
    rounds = []
    for number in range(alternations):
        reading = machine_reading(core_count())  # apart: a run would inherit this process's peak memory
        first = number % len(runtimes)
        figures = {}
        for runtime in (*runtimes[first:], *runtimes[:first]):
            note(f"round {number + 1} of {alternations}: {runtime.name}")
            figures[runtime.name] = run_apart(runtime, work)
        rounds.append(Round(reading, figures))
    return rounds


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians of the figures; of the ratios within each round, above 1 where gptoss_mlx is better; all raw figures."""
    names = list(rounds[0].figures)
    medians = {
        name: {key: statistics.median(r.figures[name][key] for r in rounds) for key, _, _ in MEASURES.values()}
        for name in sorted(names, key=list(RUNS).index)
    }
    shares = [
        ours["decode_tokens_per_s"] * ours["bytes_per_token"] / r.reading / 1e7
        for r in rounds
        for ours in (r.figures[OURS],)
    ]
    return {
        "alternations": len(rounds),
        "reading_gb_per_s": statistics.median(r.reading for r in rounds),
        "achieved_percent_of_reading": statistics.median(shares),
        "medians": medians,
        "ratios": {name: {what: ratios(rounds, name, what) for what in MEASURES} for name in medians if name != OURS},
        "rounds": [{"reading_gb_per_s": r.reading, **r.figures} for r in rounds],
    }


def ratios(rounds: Sequence[Round], peer: str, measure: str) -> dict[str, float]:
    """How many times better gptoss_mlx was than a peer in the same round: median, least, largest."""
    key, _, less_is_better = MEASURES[measure]
    found = [r.figures[OURS][key] / r.figures[peer][key] for r in rounds]
    found = [1 / ratio for ratio in found] if less_is_better else found
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def print_table(found: dict[str, Any]) -> None:
    """Print a summary."""
    from rich.console import Console
    from rich.table import Table

    work = found["work"]
    table = Table(
        title=f"prefill of {work['prompt']} tokens, decode of {work['generate']} at {work['context']}, "
        f"medians of {found['alternations']}"
    )
    table.add_column("measured")
    for name in found["medians"]:
        table.add_column(name, justify="right")
        if name != OURS:
            table.add_column("times better", justify="right")
    for what, (key, unit, _) in MEASURES.items():
        cells = []
        for name, figures in found["medians"].items():
            cells.append(f"{figures[key] / 1e9:.2f} GB" if unit == "bytes" else f"{figures[key]:,.2f} {unit}")
            if name != OURS:
                ratio = found["ratios"][name][what]
                cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        table.add_row(what, *cells)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        f"{found['machine']} reads {found['reading_gb_per_s']:.1f} GB/s; "
        f"{OURS} decodes at {found['achieved_percent_of_reading']:.0f} % of that",
        soft_wrap=True,
    )


def note(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def same_model(ours: Runtime, other: Runtime, figures: Figures) -> None:
    """Refuse a peer's file whose vocabulary is not that of our folder."""
    from gptoss_mlx.config import ModelConfig
    from gptoss_mlx.convert.sources import checkpoint_folder

    wanted = ModelConfig.from_folder(checkpoint_folder(ours.path)).vocab_size
    if figures["vocabulary"] != wanted:
        sys.exit(
            f"{other.path}: {wanted} ids expected as in {ours.path}, {figures['vocabulary']} found; another model?"
        )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model folder for gptoss_mlx")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--mlx-lm", type=Path, metavar="FOLDER", help="the same weights for mlx-lm")
    parser.add_argument("--llama-python", default=sys.executable, help="the interpreter that has llama_cpp")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--context", type=int, help="where the decode begins (default: after the prompt)")
    parser.add_argument("--alternations", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def chosen(options: argparse.Namespace) -> list[Runtime]:
    """The runtimes that the command line names, ours first; ends the program in one line where it names no peer."""
    runtimes = [Runtime(OURS, sys.executable, options.folder)]
    if options.gguf is not None:
        runtimes.append(Runtime(LLAMA, options.llama_python, options.gguf))
    if options.mlx_lm is not None:
        runtimes.append(Runtime(MLX_LM, sys.executable, options.mlx_lm))
    if len(runtimes) == 1:
        sys.exit("compare_peers: a peer expected, none found; give --gguf or --mlx-lm")
    for runtime in runtimes:
        if not runtime.path.exists():
            sys.exit(f"{runtime.name}: {runtime.path} does not exist")
    return runtimes


def main(words: Sequence[str] | None = None) -> None:
    """Compare what the command line names."""
    from gptoss_mlx.machine import machine_name

    options = arguments().parse_args(words)
    context = options.prompt if options.context is None else options.context
    work = Work(options.prompt, options.generate, context)
    if min(work.prompt, work.generate, options.alternations) < 1 or context < work.prompt:
        sys.exit("compare_peers: numbers of 1 or more expected, and a context no shorter than the prompt")
    rounds = compare(chosen(options), work, options.alternations)
    found = {"machine": machine_name(), "work": asdict(work), **summary(rounds)}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        _, _, name, path, work = sys.argv
        print(json.dumps(RUNS[name](path, Work(**json.loads(work)))))
    else:
        try:
            main()
        except KeyboardInterrupt:
            note("interrupted")
            sys.exit(130)
