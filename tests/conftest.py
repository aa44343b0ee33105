"""Settings shared by all tests: the CPU, property tests without deadlines, no network for the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import httpx
import mlx.core as mx
import pytest
from hypothesis import HealthCheck, settings
from openai_harmony import HarmonyEncoding, load_harmony_encoding

import gptoss_mlx
import vocabulary
from gptoss_mlx import GptOss, kernels
from gptoss_mlx.convert import convert, synthesize
from gptoss_mlx.tokenizer import Tokenizer
from scripted import Script

if TYPE_CHECKING:
    from browsing import Browser

mx.set_default_device(mx.Device(mx.cpu))  # float32 there; a GPU's bfloat16 would say nothing about a formula

settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture
def exact() -> Iterator[None]:
    """Native kernels in float32 throughout, as the promise of 2e-5 needs; without them nothing changes."""
    with kernels.exactly():
        yield


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


@pytest.fixture(scope="session")
def native() -> Any:
    """The compiled kernels; skips where they are not built, unless GPTOSS_MLX_REQUIRE_KERNELS=1 says they must be."""
    if kernels.extension is None:
        reason = f"native kernels are off: {kernels.why_off}"
        if os.environ.get("GPTOSS_MLX_REQUIRE_KERNELS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return kernels.extension


@pytest.fixture(params=["native", "pages", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appending in place, to small buffers and to such as large ones are, and MLX's own way."""
    if request.param == "plain":
        monkeypatch.setattr(kernels, "extension", None)
        return
    request.getfixturevalue("native")
    if request.param == "pages":
        monkeypatch.setattr(kernels, "LARGE", 0)


@pytest.fixture(scope="module", params=kernels.extension.available_isas() if kernels.extension else ["none"])
def forced(request: pytest.FixtureRequest, native: Any) -> Iterator[Any]:
    """The compiled kernels, made to use each instruction set of this processor in turn."""
    before = native.isa(), native.threads()
    native.use_isa(request.param)
    yield native
    native.use_isa(before[0])
    native.set_threads(before[1])


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random model as "hf", "original", "bf16" and "mlx" (dense parts BF16). Do not change these folders."""
    root = tmp_path_factory.mktemp("sources")
    folders = {layout: root / layout for layout in ("hf", "original", "bf16")}
    for layout, folder in folders.items():
        synthesize(folder, layers=3, layout=layout, seed=5)
    convert(folders["hf"], root / "mlx", dense="bf16")
    return {**folders, "mlx": root / "mlx"}


@pytest.fixture
def damaged(sources: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the random model in the release's layout that a test may damage."""
    return Path(shutil.copytree(sources["hf"], tmp_path / "source"))


@pytest.fixture(scope="module")
def demo_model() -> GptOss:
    """The embedded model."""
    return gptoss_mlx.load("demo")


@pytest.fixture
def scripted(demo_model: GptOss, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    """Makes the embedded model say given texts."""

    def say(*turns: str) -> Script:
        script = Script(*turns, tokenizer=demo_model.tokenizer)
        monkeypatch.setattr(demo_model, "_generate", script)
        return script

    return say


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """The address of a server with the embedded model, which runs four sequences at once; for tests in server/."""
    from serving import demo_backend, served

    with served({"demo": demo_backend(max_sequences=4)}) as url:
        yield url


@pytest.fixture(scope="session")
def demo(demo_url: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=demo_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser; for tests in server/."""
    from browsing import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
