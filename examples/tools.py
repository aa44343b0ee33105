"""Functions of your own that the model calls: their names, docstrings and annotations are all it needs.

    python examples/tools.py
    python examples/tools.py --model 20b "Is it warmer in Cairo or in Oslo, and by how much?"

The embedded model makes one call per question and repeats what the tool says. Needs pip install 'gptoss-mlx[tools]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gptoss_mlx

TEMPERATURES = {"Oslo": 3, "Paris": 8, "Cairo": 21}


def get_temperature(city: str) -> str:
    """Get the temperature in a city.

    Args:
        city: its English name.
    """
    if city not in TEMPERATURES:
        raise ValueError(f"no station in {city}; there are {', '.join(TEMPERATURES)}")  # the model reads this
    return f"{TEMPERATURES[city]} C"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Let the model call a Python function.")
    parser.add_argument("question", nargs="?", default="What is the temperature in Oslo?")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)
    reply = model.chat(options.question, tools=[get_temperature], sampling=sampling)
    for output in reply.outputs:
        print(f"{output.call.name}({output.call.arguments}) -> {output.result.text}")
    print(reply.final)


if __name__ == "__main__":
    main()
