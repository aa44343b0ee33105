"""Settings shared by all tests: the CPU, property tests without deadlines, no network for the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, settings
from openai_harmony import HarmonyEncoding, load_harmony_encoding

import vocabulary
from gptoss_mlx.tokenizer import Tokenizer

mx.set_default_device(mx.Device(mx.cpu))  # float32 there; a GPU's bfloat16 would say nothing about a formula

settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(scope="session")
def real_vocabulary() -> Path:
    """A folder with the released tokenizer.json and its ranks, for openai-harmony as well; skips without them."""
    return vocabulary.real_vocabulary()


@pytest.fixture(scope="session")
def real_tokenizer(real_vocabulary: Path) -> Tokenizer:
    """The tokenizer of the released models."""
    return Tokenizer.from_folder(real_vocabulary)


@pytest.fixture(scope="session")
def oracle(real_vocabulary: Path) -> HarmonyEncoding:
    """The openai-harmony package's encoding."""
    return load_harmony_encoding("HarmonyGptOss")
