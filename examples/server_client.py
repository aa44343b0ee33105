"""Talk to a running server with OpenAI's own package.

    gptoss-mlx serve demo                     # in another terminal
    python examples/server_client.py "What is the capital of France?"

Any program that speaks OpenAI's interface works the same way. Needs pip install openai.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from openai import APIConnectionError, OpenAI


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ask a server.")
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default="demo", help="as the server calls it")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="what the server was started with")
    options = parser.parse_args(arguments)

    client = OpenAI(base_url=options.url, api_key=options.key, max_retries=0)
    try:
        stream = client.chat.completions.create(
            model=options.model,
            messages=[{"role": "user", "content": options.question}],
            reasoning_effort="low",
            stream=True,
        )
        for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
        print()
    except APIConnectionError:
        raise SystemExit(f"{options.url}: no server there; start one with `gptoss-mlx serve {options.model}`") from None


if __name__ == "__main__":
    main()
