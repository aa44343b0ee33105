"""The embedded model: a real gpt-oss checkpoint of a few MB that runs with no download."""

from __future__ import annotations

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
NOTICE = (
    "This is the embedded demonstration model, a toy that knows capitals and small sums. "
    "`gptoss-mlx pull 20b` gets the real gpt-oss-20b."
)
