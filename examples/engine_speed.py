"""What the engine's reuse, batching, drafts and masks are worth on this machine, as ratios within one run.

    python examples/engine_speed.py                 # the embedded model
    python examples/engine_speed.py FOLDER --prompt 20000 --only later_turn

Measured: a later turn's time to its first token against the first turn's; the scheduler against a plain loop; the
tokens per second of several sequences against one; a pass over several rows against one row, which is what verifying
drafts costs; drafts on random text, and on one that comes again (embedded model only); and what masks of a JSON Schema
add to a step. Every ratio is the median of alternating runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import mlx.core as mx
import numpy as np

import gptoss_mlx
from gptoss_mlx import GptOss, SamplingParams, kernels
from gptoss_mlx.bench import distinct_experts
from gptoss_mlx.engine import Engine, EngineOptions, Request, prefill
from gptoss_mlx.engine.grammar import Grammar, Vocabulary
from gptoss_mlx.engine.masks import mask_bias
from gptoss_mlx.engine.structure import Constraint, Rules
from gptoss_mlx.harmony import render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.sampling import Sampler

PLAIN = EngineOptions(prefix_bytes=0, speculate=False)
DRAFTING = EngineOptions(prefix_bytes=0)
GREEDY = SamplingParams(temperature=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="demo")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the first turn")
    parser.add_argument("--generate", type=int, default=48, help="tokens per measurement")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="WHAT")
    options = parser.parse_args()
    embedded = options.folder == "demo"
    if not embedded and "copying" in (options.only or ()):
        parser.error("copying: only the embedded model says again what stands in its prompt")
    model = gptoss_mlx.load(options.folder)
    list(new_engine(model).generate(Request(random_tokens(model, 512, 0), GREEDY, 8)))  # maps weights, builds kernels
    for name in options.only or MEASUREMENTS:
        if embedded or name != "copying":
            MEASUREMENTS[name](model, options)


def new_engine(model: GptOss, options: EngineOptions = PLAIN) -> Engine:
    """An engine that remembers nothing, unless told otherwise, and never stops early."""
    return Engine(model.model, model.tokenizer.size, (), options)


def random_tokens(model: GptOss, count: int, seed: int) -> list[int]:
    """Random ids."""
    found: list[int] = np.random.default_rng(seed).integers(0, model.tokenizer.size, count).tolist()
    return found


def seconds(act: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def paired(first: Callable[[], float], second: Callable[[], float], repeat: int) -> tuple[float, float, float]:
    """Medians of two measurements in seconds, made in turns, and the median of their ratios first / second.

    What is not always the first of the two does not always pay for what the other left behind.
    """
    pairs = []
    for turn in range(repeat):
        if turn % 2:
            latter, former = second(), first()
        else:
            former, latter = first(), second()
        pairs.append((former, latter))
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def later_turn(model: GptOss, length: int) -> None:
    """A prompt, then the same with a little more behind it."""
    engine = new_engine(model, EngineOptions())
    prompt = random_tokens(model, length, 1)
    cold = seconds(lambda: next(engine.generate(Request(prompt, GREEDY, 2))))
    again = engine.submit(Request([*prompt, *random_tokens(model, 24, 2)], GREEDY, 2))
    warm = seconds(lambda: next(engine.outputs(again)))
    print(f"later turn: first token after {warm:.3f} s, {100 * warm / cold:.2f} % of the first turn's {cold:.2f} s "
          f"({again.figures.cached_tokens} of {length} tokens reused)")  # fmt: skip


def scheduler(model: GptOss, count: int, repeat: int) -> None:
    """The engine with one sequence against a loop of passes, temperature 1."""
    prompt, sampling = random_tokens(model, 16, 3), SamplingParams(seed=1)

    def loop() -> None:
        caches, tokens = model.model.make_cache(), list(prompt)
        logits = prefill(model.model, tokens, caches)
        sampler = Sampler(sampling, model.tokenizer.size)
        for _ in range(count):
            tokens.append(sampler.choose(np.array(logits.astype(mx.float32)), tokens, len(prompt)))
            with kernels.rounding("step"):
                logits = model.model(mx.array([tokens[-1:]]), caches, positions=slice(-1, None))[0, -1]

    engine = new_engine(model)
    request = Request(prompt, sampling, count)
    own, plain, ratio = paired(lambda: seconds(lambda: list(engine.generate(request))), lambda: seconds(loop), repeat)
    print(f"scheduler: {count / own:.1f} tokens/s, a plain loop {count / plain:.1f}: {ratio:.3f} of its time")


def random_text(model: GptOss, count: int, repeat: int) -> None:
    """Drafts where nothing repeats, and where every few tokens were there before but something else follows now."""
    few = random_tokens(model, 16, 6)
    among_few = dict.fromkeys(few, 1000.0)
    repeating = [few[i % 16] for i in random_tokens(model, 4000, 7)]
    drafting, plain = new_engine(model, DRAFTING), new_engine(model)
    for name, prompt, sampling in (
        ("random text", random_tokens(model, 16, 3), SamplingParams(temperature=100, seed=1)),
        ("misleading text", repeating, SamplingParams(temperature=100, seed=1, logit_bias=among_few)),
    ):
        request = Request(prompt, sampling, count)
        for engine in (drafting, plain):
            decoding_seconds(engine, request)  # so that costs are known, as in a process that runs for a while
        _, _, ratio = paired(
            partial(decoding_seconds, plain, request), partial(decoding_seconds, drafting, request), 4 * repeat
        )
        print(f"drafts on {name}: {ratio:.3f} times as fast as without")


def decoding_seconds(engine: Engine, request: Request) -> float:
    """How long the tokens after the first take."""
    outputs = engine.generate(request)
    next(outputs)
    return seconds(lambda: list(outputs))


def sequences(model: GptOss, count: int) -> None:
    """Decoding sequences together against one alone, in turns."""
    speeds: dict[int, list[float]] = {}
    for _ in range(3):
        for together in (1, 2, 4, 8):
            engine = new_engine(model)
            running = [
                engine.submit(Request(random_tokens(model, 8, i), SamplingParams(seed=i), count))
                for i in range(together)
            ]
            while not all(sequence.is_decoding for sequence in running):
                engine.step()
            before = sum(sequence.figures.generated_tokens for sequence in running)
            started = time.perf_counter()
            while all(not sequence.finished for sequence in running):
                engine.step()
            done = sum(sequence.figures.generated_tokens for sequence in running) - before
            speeds.setdefault(together, []).append(done / (time.perf_counter() - started))
    for together in (2, 4, 8):
        ratio = statistics.median(a / b for a, b in zip(speeds[together], speeds[1], strict=True))
        experts = distinct_experts(model.config, together) / model.config.num_experts_per_tok
        print(f"{together} sequences: {statistics.median(speeds[together]):.1f} tokens/s, {ratio:.2f} times one "
              f"(together they read {experts:.2f} times one's experts)")  # fmt: skip


def rows(model: GptOss, repeat: int) -> None:
    """A pass over several tokens of a sequence against a pass over one."""
    caches = model.model.make_cache()
    mx.eval(prefill(model.model, random_tokens(model, 64, 4), caches))

    def pass_over(count: int) -> None:
        tokens = mx.array([random_tokens(model, count, time.perf_counter_ns())])
        with kernels.rounding("step"):
            mx.eval(model.model(tokens, caches))
        for cache in caches:
            cache.rewind(64)

    def cost(drafted: int) -> float:
        return paired(lambda: seconds(lambda: pass_over(1 + drafted)), lambda: seconds(lambda: pass_over(1)), repeat)[2]

    costs = {drafted: cost(drafted) for drafted in (2, 4, 8, 16)}
    print("verifying drafted tokens, in passes over one: " + ", ".join(f"{n}: {cost:.2f}" for n, cost in costs.items()))


def copying(model: GptOss, repeat: int) -> None:
    """The embedded model says again, word for word, what stands in its prompt twice."""
    prompt = render(to_conversation("What is 457 + 386?", effort="high"), model.tokenizer)
    said = [step.token for step in model.engine.generate(Request(prompt, GREEDY))]
    again = Request([*prompt, *said, *prompt, *said, *prompt], GREEDY, len(said) - 1)
    drafting, plain = new_engine(model, DRAFTING), new_engine(model)
    _, _, ratio = paired(
        lambda: seconds(lambda: list(plain.generate(again))),
        lambda: seconds(lambda: list(drafting.generate(again))),
        repeat,
    )
    print(f"drafts on repeated text: {ratio:.2f} times as fast as without (prompt included)")


def masks(model: GptOss, repeat: int) -> None:
    """What following a grammar adds to each step."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["name", "tags"],
        "additionalProperties": False,
    }
    vocabulary = Vocabulary.of(model.tokenizer)
    text = '<|channel|>final<|message|>{"name": "a long enough name", "tags": ["one", "two", "three"]}'
    tokens = []
    for piece in text.replace("|>", "|>\0").replace("<|", "\0<|").split("\0"):
        tokens += [model.tokenizer.id_of(piece)] if piece.startswith("<|") else model.tokenizer.encode(piece)
    caches = model.model.make_cache()
    mx.eval(prefill(model.model, random_tokens(model, 64, 5), caches))
    logits = np.zeros(model.config.vocab_size, np.float32)

    def follow() -> None:
        constraint = Constraint(vocabulary, Rules(answer=Grammar.json_schema(schema)))
        for token in tokens:
            _ = logits + mask_bias(constraint.mask(), len(logits))
            constraint.accept(token)

    def step() -> None:
        with kernels.rounding("step"):
            mx.eval(model.model(mx.array([[1]]), caches))

    follow()
    masked = statistics.median(seconds(follow) for _ in range(repeat)) / len(tokens)
    passed = statistics.median(seconds(step) for _ in range(3 * repeat))
    print(f"masks: {1e3 * masked:.3f} ms per token, {100 * masked / passed:.2f} % of a step of {1e3 * passed:.1f} ms")


MEASUREMENTS: dict[str, Callable[[GptOss, argparse.Namespace], None]] = {
    "later_turn": lambda model, options: later_turn(model, options.prompt),
    "scheduler": lambda model, options: scheduler(model, options.generate, options.repeat),
    "random_text": lambda model, options: random_text(model, 4 * options.generate, options.repeat),
    "sequences": lambda model, options: sequences(model, options.generate),
    "rows": lambda model, options: rows(model, options.repeat),
    "copying": lambda model, options: copying(model, options.repeat),
    "masks": lambda model, options: masks(model, options.repeat),
}
"""What `--only` takes."""


if __name__ == "__main__":
    main()
