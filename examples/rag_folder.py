"""Questions about a folder of documents, which the model searches and cites with the browser that it was trained on.

    python examples/rag_folder.py --model 20b notes/ "When did we choose the name?"

Everything stays on this machine. The embedded model was not trained to search: with it, this shows only what the
folder would have found. Needs pip install 'gptoss-mlx[tools]'.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import gptoss_mlx
from gptoss_mlx.tools import with_footnotes
from gptoss_mlx.tools.browser import BrowserTool, LocalFolder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ask about the documents of a folder.")
    parser.add_argument("folder")
    parser.add_argument("question")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    folder = LocalFolder(options.folder)  # LocalFolder(path, index="notes.sqlite") keeps its index between runs
    print(f"{folder.refresh().documents} documents")
    for result in asyncio.run(folder.search(options.question, topn=3)):
        print(f"found: {result.title} ({result.url})")

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)
    reply = model.chat(options.question, tools=[BrowserTool(folder)], sampling=sampling)
    for output in reply.outputs:
        print(f"{output.call.name}({output.call.arguments})")
    print(with_footnotes(reply.final, reply.citations))
    if not reply.outputs:
        print("(the model has not searched; the embedded one cannot)")


if __name__ == "__main__":
    main()
