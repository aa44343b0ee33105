"""A question, an answer, and a second question that needs the first.

    python examples/chat.py
    python examples/chat.py --model 20b "Why is the sky blue?" "And at sunset?"

The embedded model is a toy that knows capitals and small sums; `gptoss-mlx pull 20b` gets the real one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gptoss_mlx


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ask questions, one after the other.")
    parser.add_argument("questions", nargs="*", default=["What is the capital of France?", "And of Spain?"])
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    parser.add_argument("--effort", choices=["low", "medium", "high"], default="medium")
    parser.add_argument("--temperature", type=float, default=0.0, help="1.0 is what the release recommends")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=options.temperature)
    session = model.session(effort=options.effort, sampling=sampling)
    for question in options.questions:
        reply = session.say(question)
        print(f"> {question}")
        print(f"({reply.analysis})")
        print(f"{reply.final}\n")


if __name__ == "__main__":
    main()
