"""Choosing tokens: the settings there are, and a rule of your own on the raw logits.

    python examples/custom_sampling.py "What is the capital of France?"
    python examples/custom_sampling.py --model 20b "Invent a word for the smell of rain."

The rule here keeps the tokens whose logits are at most N standard deviations below the largest one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

import gptoss_mlx
from gptoss_mlx import Conversation, GptOss, Message, SamplingParams
from gptoss_mlx.harmony import render

SETTINGS = {
    "the likeliest tokens": SamplingParams(temperature=0.0),
    "as released": SamplingParams(seed=1),
    "bolder, without the long tail": SamplingParams(temperature=1.3, min_p=0.05, seed=1),
    "at most two sentences": SamplingParams(temperature=0.0, stop=["\n", ". I"]),
}


def within_sigmas(model: GptOss, prompt: Sequence[int], sigmas: float, limit: int, seed: int) -> Iterator[int]:
    """Tokens after `prompt`, chosen by the rule."""
    random, cache = np.random.default_rng(seed), model.model.make_cache()
    tokens = list(prompt)
    for _ in range(limit):
        *_, block = model.logits_blocks(tokens, [len(tokens) - 1], cache)  # the cache holds what came before
        logits = block[-1].astype(np.float64)
        logits[logits < logits.max() - sigmas * logits.std()] = -np.inf
        weights = np.exp(logits - logits.max())
        tokens = [int(random.choice(len(weights), p=weights / weights.sum()))]
        if tokens[0] in model.tokenizer.stop_tokens:
            return
        yield tokens[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare ways to choose tokens.")
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    for name, sampling in SETTINGS.items():
        print(f"{name}: {model.chat(options.question, sampling=sampling).final}")

    conversation = Conversation((Message.system(), Message.user(options.question)))
    prompt = render(conversation, model.tokenizer)
    chosen = within_sigmas(model, prompt, sigmas=1.0, limit=500, seed=1)
    print(f"a rule of our own, raw: {model.tokenizer.decode(chosen)}")


if __name__ == "__main__":
    main()
