"""How sure the model was of each piece of its answer, and what else it might have written.

python examples/logprobs.py "What is the capital of France?"
python examples/logprobs.py --model 20b --top 5 "Name a prime number."
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import gptoss_mlx
from gptoss_mlx.events import TextDelta


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print the probabilities of an answer.")
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--top", type=int, default=3, help="alternatives to show")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    for event in model.stream(options.question, logprobs=options.top):
        if not isinstance(event, TextDelta) or event.channel != "final":
            continue
        probability = math.exp(sum(token.logprob for token in event.logprobs))  # a character may take several tokens
        others = [
            f"{model.tokenizer.decode([id])!r} {math.exp(logprob):.1%}"
            for token in event.logprobs
            for id, logprob in token.top
        ]
        print(f"{probability:6.1%} {event.text!r:16} of {', '.join(others)}")


if __name__ == "__main__":
    main()
