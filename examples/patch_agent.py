"""Let the model change files: it writes a patch, you see it and say yes or no, and the tool applies it as a whole.

    python examples/patch_agent.py --model 20b
    python examples/patch_agent.py --model 20b --folder path/to/a/repository "Rename the function f to area."

Without a folder it works in a scratch one with a small mistake in it. The embedded model cannot write patches: with
it, the files stay as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gptoss_mlx
from gptoss_mlx.events import ToolCall
from gptoss_mlx.tools.apply_patch import ApplyPatchTool

MISTAKEN = "def area(width, height):\n    return width + height\n"


def confirm(call: ToolCall) -> bool:
    """Ask the person before anything is written."""
    return input(f"{call.arguments}\nApply this? [y/N] ").strip().lower() == "y"


def work(model: gptoss_mlx.GptOss, folder: Path, task: str) -> None:
    files = {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}
    shown = "\n\n".join(f"{name}:\n```\n{text}```" for name, text in files.items())
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)
    reply = model.chat(f"{task}\n\n{shown}", tools=[ApplyPatchTool(folder)], confirm=confirm, sampling=sampling)
    for output in reply.outputs:
        print(output.result.text)
    print(reply.final)
    changed = [name for name, text in files.items() if (folder / name).read_text("utf-8") != text]
    print(f"changed: {', '.join(changed) or 'nothing'}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Let the model patch files.")
    parser.add_argument("task", nargs="?", default="The function area in shapes.py is wrong. Correct it.")
    parser.add_argument("--folder", type=Path, help="whose Python files to show and change")
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    if options.folder is not None:
        work(model, options.folder, options.task)
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "shapes.py").write_text(MISTAKEN, "utf-8")
        work(model, Path(scratch), options.task)


if __name__ == "__main__":
    main()
