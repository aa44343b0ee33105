"""Convert a checkpoint, prove the result against its source, and ask it something.

    python examples/convert_model.py converted/
    python examples/convert_model.py --source path/to/gpt-oss-20b --dense q4 converted/

Without a source it converts the embedded model, which is in the layout of the release. The command line does the
same: `gptoss-mlx convert SRC DST` and `gptoss-mlx verify SRC DST`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gptoss_mlx
from gptoss_mlx.convert import convert, verify
from gptoss_mlx.demo import MODEL_FOLDER


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert and verify a model.")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--source", type=Path, default=MODEL_FOLDER, help="a folder with a released checkpoint")
    parser.add_argument("--dense", choices=["bf16", "q8", "q6", "q4", "mxfp8"], default="q8")
    parser.add_argument("--question", default="What is the capital of France?")
    options = parser.parse_args(arguments)

    convert(options.source, options.destination, dense=options.dense)
    size = sum(path.stat().st_size for path in options.destination.iterdir())
    print(f"{options.destination}: {size / 1e6:.1f} MB")

    report = verify(options.source, options.destination)
    print(f"{len(report.checks)} tensors compared, {'all as they should be' if report.ok else 'NOT ALL RIGHT'}")

    model = gptoss_mlx.load(options.destination)
    print(model.chat(options.question, sampling=gptoss_mlx.SamplingParams(temperature=0.0)).final)


if __name__ == "__main__":
    main()
