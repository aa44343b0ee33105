"""An answer as an object: the model can write nothing but JSON of the class's form.

    python examples/structured_output.py
    python examples/structured_output.py --model 20b "Which country has the capital Lima?"

The form is certain with every model; what the values are is up to the model. Needs pip install 'gptoss-mlx[tools]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pydantic import BaseModel, Field

import gptoss_mlx


class Capital(BaseModel):
    """The capital of a country."""

    city: str = Field(description="its English name", max_length=40)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ask for an answer of a given form.")
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)
    reply = model.chat(options.question, response_format=Capital, sampling=sampling, max_tokens=1000)
    print(reply.final)
    capital: Capital = reply.parsed  # RequestError, should the answer have been cut off
    print(f"city: {capital.city}")


if __name__ == "__main__":
    main()
