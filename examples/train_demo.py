"""Train the embedded model: a gpt-oss of a few megabytes, from nothing, on conversations made up on the way.

    python examples/train_demo.py --out gptoss_mlx/demo/model --minutes 60

needs PyTorch (its CPU build will do), numpy, tokenizers and safetensors. On Linux the environment variables
MALLOC_MMAP_THRESHOLD_=33554432 and MALLOC_TRIM_THRESHOLD_=8589934592 halve the time: PyTorch's tensors then reuse
memory instead of asking the system for it each time.

Where to look: what the model shall know, `demo_world.py`; other words, and tools, `demo_words.py` and
`demo_values.py`; what it thinks, `demo_thoughts.py`; the conversations, `demo_talk.py` (made of `demo_records.py`);
tokenizer and harmony format, `demo_tokens.py`; the architecture, `demo_model.py`; the optimizer,
`demo_optimizer.py`; the released file layout, `demo_export.py`; held-out questions and the model card,
`demo_evaluate.py`.

The shipped checkpoint was made by several runs, each of which started from the one before (`--start`) while the
conversations were being improved; its tokenizer is that of the first, and its follow-up sums were not yet kept
apart from the held-out pairs of numbers. Two workers read about 11 000 tokens/s on two
x86 cores with AVX-512.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import demo_evaluate
import demo_export
import demo_model
import torch
from demo_model import DemoModel
from demo_optimizer import Optimizer
from demo_talk import Maker
from demo_tokens import Encoder, Piece, build_tokenizer, example
from tokenizers import Tokenizer
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional

from gptoss_mlx.config import ModelConfig


@dataclass(frozen=True)
class Plan:
    """How to train: stop after `steps` or `minutes` (of computing; a paused process does not count)."""

    steps: int | None
    minutes: float
    seed: int = 1
    batch_tokens: int = 2048
    batches_per_step: int = 1
    rate: float = 1.0
    """Scales both of these."""
    muon_rate: float = 0.015
    adam_rate: float = 0.003
    warmup: int = 100
    decay_from: float = 0.5
    balance: float = 0.01


class Batch(NamedTuple):
    tokens: Tensor  # (B, T)
    learn: Tensor  # (B, T), True where the *next* token is to be predicted


def demo_config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        num_hidden_layers=4,
        hidden_size=128,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=16,
        num_experts_per_tok=4,
        vocab_size=-(-tokenizer.get_vocab_size() // 32) * 32,
    )


def make_tokenizer() -> Tokenizer:
    maker = Maker(seed=1)
    talks = [example(maker.talk(), as_generated=True) for _ in range(8000)]
    return build_tokenizer([piece.text for talk in talks for piece in talk if not piece.text.startswith("<|")])


def batches(encoder: Encoder, plan: Plan, rank: int, longest: int = 640) -> Iterator[Batch]:
    """Endless batches of about `batch_tokens`, each of talks of nearly the same length."""
    maker = Maker(1000 * plan.seed + rank)
    waiting: dict[int, list[tuple[list[int], list[bool]]]] = defaultdict(list)
    while True:
        ids, learn = encoder(_any_example(maker))
        length = -(-len(ids) // 32) * 32
        if length > longest:
            continue
        waiting[length].append((ids, learn))
        if len(waiting[length]) * length >= plan.batch_tokens:
            yield _batch(waiting.pop(length), length, encoder.special["<|endoftext|>"])


def _any_example(maker: Maker) -> list[Piece]:
    """Mostly as it will be asked; the third kind learns several answers at once, which saves time."""
    roll = maker.random.random()
    if roll < 0.45:
        return example(maker.talk((3, 4, 5)), as_generated=True, learn_all=True)
    return example(maker.talk(), as_generated=roll < 0.85)


def _batch(rows: list[tuple[list[int], list[bool]]], length: int, padding: int) -> Batch:
    tokens = torch.full((len(rows), length), padding)
    learn = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (ids, wanted) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        learn[row, : len(ids) - 1] = torch.tensor(wanted[1:])
    return Batch(tokens, learn)


def learned_rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """Positions (in the flattened batch) to learn and their next tokens, filled up to a multiple of 128 with -100."""
    rows = batch.learn.flatten().nonzero()[:, 0]
    targets = batch.tokens.roll(-1, 1).flatten()[rows]
    missing = -len(rows) % 128
    return functional.pad(rows, (0, missing)), functional.pad(targets, (0, missing), value=-100)


def step_loss(model: DemoModel, step: list[Batch], balance: float) -> float:
    """Add the gradients of one step; the mean loss per learned token."""
    count = sum(int(batch.learn.sum()) for batch in step)
    total = 0.0
    for batch in step:
        rows, targets = learned_rows(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch.tokens, rows)
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
        loss = loss / count
        (loss + balance / len(step) * model.balance()).backward()
        total += loss.item()
    return total


class Clock:
    """How much of the plan is done, from 0 to 1."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.steps, self.seconds, self.last = plan, 0, 0.0, time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.seconds += min(now - self.last, 5.0)  # a pause of the process does not count
        self.last, self.steps = now, self.steps + 1

    @property
    def done(self) -> float:
        return self.steps / self.plan.steps if self.plan.steps else self.seconds / (60 * self.plan.minutes)

    def rate(self, done: float) -> float:
        """The learning rate's factor: warm-up, constant, then straight to zero."""
        rest = (1 - done) / (1 - self.plan.decay_from)
        return min(1.0, (self.steps + 1) / self.plan.warmup, max(rest, 0.0))


def shared_gradients(model: DemoModel, done: float) -> float:
    """Replace every gradient by its mean over the workers; the mean of `done`, so that all keep the same pace."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([done])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = flat[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])


def train(model: DemoModel, encoder: Encoder, plan: Plan, checkpoint: Path, before: int) -> None:
    """Train in place, as one of the workers; the first one keeps the checkpoint, with `before` more tokens seen."""
    optimizer = Optimizer(model, plan.rate * plan.muon_rate, plan.rate * plan.adam_rate)
    rank, workers = distributed.get_rank(), distributed.get_world_size()
    source, clock, tokens, mean = batches(encoder, plan, rank), Clock(plan), 0, 0.0
    model.train()
    done = 0.0
    while done < 1:
        step = [next(source) for _ in range(plan.batches_per_step)]
        loss = step_loss(model, step, plan.balance)
        clock.tick()
        done = shared_gradients(model, clock.done)
        optimizer.step(clock.rate(done))
        tokens += workers * sum(batch.tokens.numel() for batch in step)
        mean = loss if clock.steps == 1 else 0.95 * mean + 0.05 * loss
        if rank == 0 and clock.steps % 50 == 0:
            print(
                f"step {clock.steps:5} {done:6.1%} loss {mean:.4f} balance {model.balance():.3f} "
                f"{tokens / 1e6:.2f}M tokens, {tokens / clock.seconds:.0f}/s",
                flush=True,
            )
        if rank == 0 and (clock.steps % 200 == 0 or done >= 1):
            state = {"weights": model.state_dict(), "tokens": before + tokens, "tokenizer": encoder.tokenizer.to_str()}
            torch.save(state, checkpoint)


def load_checkpoint(path: Path) -> tuple[DemoModel, Tokenizer, int]:
    """The model, its tokenizer and the number of tokens that it has seen."""
    state = torch.load(path)
    tokenizer = Tokenizer.from_str(state["tokenizer"])
    model = DemoModel(demo_config(tokenizer))
    model.load_state_dict(state["weights"])
    return model, tokenizer, state["tokens"]


def work(rank: int, workers: int, meeting: str, plan: Plan, start: Path | None, checkpoint: Path) -> None:
    """One of the training processes; each takes one thread and its own conversations."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    demo_model.compile_small_operations()
    if start:
        model, tokenizer, before = load_checkpoint(start)
    else:
        tokenizer, before = make_tokenizer(), 0
        model = DemoModel(demo_config(tokenizer))
    if rank == 0:
        print(
            f"{sum(p.numel() for p in model.parameters()):,} weights, {tokenizer.get_vocab_size()} tokens", flush=True
        )
    train(model, Encoder(tokenizer), plan, checkpoint, before)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--minutes", type=float, default=50, help="how long to train (default 50)")
    parser.add_argument("--steps", type=int, help="train so many steps instead: reproducible on one machine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decay-from", type=float, default=0.5, help="when the learning rate starts to fall")
    parser.add_argument("--rate", type=float, default=1.0, help="scales the learning rates (default 1)")
    parser.add_argument("--start", type=Path, help="weights to start from (a --checkpoint)")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/demo.pt"), help="saved every 200 steps")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default 2)")
    parser.add_argument("--export-only", action="store_true", help="export and measure the checkpoint as it is")
    parser.add_argument("--questions", type=int, default=200, help="held-out questions per kind and effort")
    parser.add_argument("--sharpen", type=float, default=2.0, help="multiply the exported logits (default 2)")
    parser.add_argument("--held-out", type=Path, help="also write held-out questions for the tests there")
    parser.add_argument("--show", type=int, default=0, help="print so many failures of each kind")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    plan = Plan(options.steps, options.minutes, options.seed, decay_from=options.decay_from, rate=options.rate)
    options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not options.export_only:
        with tempfile.TemporaryDirectory() as folder:
            job = (options.workers, f"{folder}/meeting", plan, options.start, options.checkpoint)
            multiprocessing.spawn(work, job, nprocs=options.workers)
    model, tokenizer, seen = load_checkpoint(options.checkpoint)
    demo_export.export(model, tokenizer, options.out, options.sharpen)
    written = demo_export.read_back(options.out)
    table = demo_evaluate.measure(written, Encoder(tokenizer), options.questions, show=options.show)
    print(table.text())
    if options.held_out:
        demo_evaluate.write_questions(options.held_out, questions=9)
    demo_evaluate.write_card(options.out, written, tokenizer.get_vocab_size(), table, seen)


if __name__ == "__main__":
    main()
