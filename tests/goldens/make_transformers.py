"""Make the goldens in `transformers/`: float32 logits of transformers' GptOss on tiny seeded checkpoints.

Needs torch and transformers, which the package and its tests do not:

    pip install torch==2.13.0 transformers==5.23.0 accelerate safetensors
    PYTHONPATH=tests python tests/goldens/make_transformers.py

Each file holds the tokens, the positions looked at, their logits (float32), the shape's fields as JSON, and the
SHA-256 of the checkpoint's tensors, which the tests rebuild with `checkpoints.build`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from checkpoints import FULL, SLIDING, Shape, build, digest, tensors

GROUPED = Shape(heads=8, kv_heads=2, hidden=96, intermediate=32, window=16, seed=12)
WIDE = Shape(heads=4, kv_heads=1, head_dim=64, window=128, seed=13)
FULL_FIRST = Shape(layers=3, kinds=(FULL, SLIDING, SLIDING), top_k=1, seed=14)
CASES: dict[str, tuple[Shape, int, Sequence[int]]] = {
    # name: shape, tokens, positions kept
    "window8": (Shape(layers=4, experts=8, top_k=4, seed=11), 100, range(1, 100, 9)),
    "window16_group4": (GROUPED, 70, range(5, 70, 8)),
    "window128_wide_heads": (WIDE, 400, (0, 127, 128, 129, 255, 256, 399)),
    "three_layers_full_first": (FULL_FIRST, 60, range(3, 60, 7)),
    "past_original_context": (Shape(window=128, seed=15), 4400, (4095, 4096, 4250, 4399)),
}


def main() -> None:
    torch.set_num_threads(1)
    for name, (shape, count, positions) in CASES.items():
        tokens = np.random.default_rng(shape.seed).integers(0, shape.vocab, count)
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), shape)
            model = GptOssForCausalLM.from_pretrained(
                folder,
                config=GptOssConfig.from_pretrained(folder, pad_token_id=None, eos_token_id=None),
                quantization_config=Mxfp4Config(dequantize=True),
                dtype=torch.float32,
                attn_implementation="eager",
            )
        with torch.no_grad():
            logits = model.float().eval()(torch.from_numpy(tokens)[None]).logits[0].numpy()
        np.savez_compressed(
            Path(__file__).parent / "transformers" / f"{name}.npz",
            tokens=tokens.astype(np.int32),
            positions=np.array(list(positions), dtype=np.int32),
            logits=logits[list(positions)].astype(np.float32),
            shape=json.dumps(asdict(shape)),
            sha256=digest(tensors(shape)),
            made_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
        )
        print(name, logits.shape)


if __name__ == "__main__":
    main()
