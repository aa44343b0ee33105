"""An answer as it comes: thoughts, text and the speed at the end.

python examples/stream.py "What is 17 + 25?"
python examples/stream.py --model 20b "Explain tides in three sentences."
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gptoss_mlx
from gptoss_mlx.events import Done, TextDelta


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print an answer while it is written.")
    parser.add_argument("question", nargs="?", default="What is 17 + 25?")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    channel = None
    for event in model.stream(options.question):
        match event:
            case TextDelta():
                if event.channel != channel:
                    channel = event.channel
                    print(f"\n[{channel}] ", end="")
                print(event.text, end="", flush=True)
            case Done(reply):
                usage = reply.usage
                print(f"\n\n{usage.completion_tokens} tokens, {usage.tokens_per_second:.0f} a second")


if __name__ == "__main__":
    main()
