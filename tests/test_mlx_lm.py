"""Interchange with mlx-lm, both ways: the same folders, the same logits, its generation and LoRA on our model.

mlx-lm rounds the borders of YaRN's blend. These tests give its model the exact frequencies and float32 parameters;
what remains is rounding of float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm.utils as theirs
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.generate import generate_step
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers
from numpy.typing import NDArray

from checkpoints import Shape, build
from gptoss_mlx.convert import convert
from gptoss_mlx.weights import load_model
from oracle import Oracle, relative_error, yarn
from tiny_tokenizer import tiny_tokenizer, write_tiny_tokenizer

pytestmark = pytest.mark.usefixtures("exact")

SHAPE = Shape(layers=4, experts=8, top_k=4, window=16, vocab=512, seed=21)
TOKENS = np.random.default_rng(21).integers(0, SHAPE.vocab, 75)
PROMISED = 2e-5
Entry = dict[str, Any]
Logits = NDArray[np.float32]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("mlx_lm") / "release", SHAPE)
    write_tiny_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def in_float32(model: Any) -> Any:
    def widened(a: mx.array) -> mx.array:
        return a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a

    return model.update(tree_map(widened, model.parameters()))


def their_model(folder: Path) -> Any:
    """mlx-lm's model of a folder in float32, with exact frequencies."""
    model = in_float32(theirs.load_model(folder)[0])
    inv_freq, _ = yarn(SHAPE.config())
    for layer in model.layers:
        layer.self_attn.rope._freqs = mx.array((1 / inv_freq).astype(np.float32))
    return model


def their_logits(folder: Path) -> Logits:
    return np.array(their_model(folder)(mx.array(TOKENS)[None])[0])


def our_logits(folder: Path) -> Logits:
    return np.array(load_model(folder)[0](mx.array(TOKENS)[None])[0])


def packing(folder: Path) -> dict[str, Entry]:
    """How our model of a folder packs each quantized module."""
    found = {}
    model: Any = load_model(folder)[0]
    for path, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            found[path] = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        elif getattr(module, "quantization", None) is not None:
            q = module.quantization
            found[path] = {"group_size": q.group_size, "bits": q.bits, "mode": q.mode}
    return found


def expected(dense: Entry | None, router: Entry | None, experts: Entry | None) -> dict[str, Entry]:
    """The same from three rules."""
    found: dict[str, Entry | None] = {"model.embed_tokens": dense, "lm_head": dense}
    for n in range(SHAPE.layers):
        found |= {f"model.layers.{n}.self_attn.{part}_proj": dense for part in "qkvo"}
        found |= {f"model.layers.{n}.mlp.experts.{part}_proj": experts for part in ("gate", "up", "down")}
        found[f"model.layers.{n}.mlp.router"] = router
    return {path: entry for path, entry in found.items() if entry is not None}


def affine(bits: int, group_size: int = 64) -> Entry:
    return {"group_size": group_size, "bits": bits, "mode": "affine"}


MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
MXFP8 = {"group_size": 32, "bits": 8, "mode": "mxfp8"}


# Our folders in mlx-lm


@pytest.mark.parametrize("experts", ["mxfp4", "q4", "q8"])
@pytest.mark.parametrize("dense", ["bf16", "q8", "q6", "q4", "mxfp8"])
def test_mlx_lm_reads_what_we_convert(dense: str, experts: str, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    convert(release, folder, dense=dense, experts=experts)
    found = our_logits(folder)
    assert relative_error(their_logits(folder), found) < PROMISED
    if (dense, experts) == ("bf16", "mxfp4"):
        assert relative_error(found, Oracle(release).logits(TOKENS.tolist())) < PROMISED


def test_the_rounding_of_yarn_is_what_sets_mlx_lm_apart(release: Path) -> None:
    model, _ = theirs.load_model(release)
    rounded = np.array(model(mx.array(TOKENS)[None])[0].astype(mx.float32))
    assert relative_error(rounded, our_logits(release)) > 1e-3


def test_where_a_configuration_asks_for_rounding_we_round_alike(release: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(release, tmp_path / "rounded"))
    rewrite_config(folder, lambda raw: raw["rope_scaling"].update(truncate=True))
    model = in_float32(theirs.load_model(folder)[0])
    assert relative_error(our_logits(folder), np.array(model(mx.array(TOKENS)[None])[0])) < PROMISED


def test_mlx_lm_loads_the_whole_folder_with_its_tokenizer(release: Path, tmp_path: Path) -> None:
    convert(release, tmp_path / "out")
    tokenizer: Any = theirs.load(str(tmp_path / "out"))[1]
    text = "Paris is the capital of France."
    assert tokenizer.encode(text) == tiny_tokenizer().encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


# mlx-lm's folders, and imitations of those in circulation, in ours


def rewrite_config(folder: Path, change: Callable[[Entry], Any]) -> None:
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def save(model: Any, config: Entry, folder: Path) -> None:
    theirs.save_model(folder, model)
    theirs.save_config(config, folder / "config.json")


def plain(release: Path) -> tuple[Any, Entry]:
    """mlx-lm's model with every expert expanded to BF16, and its config without quantization."""
    model, config = theirs.load_model(release)
    model = theirs.dequantize_model(model)
    return model, {key: value for key, value in config.items() if not key.startswith("quantization")}


def test_mlx_lm_convert_without_quantization(release: Path, tmp_path: Path) -> None:
    mlx_lm_convert(release, tmp_path / "out")
    assert packing(tmp_path / "out") == expected(None, None, MXFP4)
    np.testing.assert_array_equal(our_logits(tmp_path / "out"), our_logits(release))


@pytest.mark.parametrize(("options", "dense"), [
    ({"q_bits": 8}, affine(8)),
    ({"q_bits": 4}, affine(4)),
    ({"q_bits": 6, "q_group_size": 32}, affine(6, 32)),
    ({"q_mode": "mxfp8"}, MXFP8),
])  # fmt: skip
def test_mlx_lm_convert_with_quantization(options: Entry, dense: Entry, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    mlx_lm_convert(release, folder, quantize=True, **options)
    raw = json.loads((folder / "config.json").read_text())["quantization"]
    assert "mode" not in raw["model.layers.0.mlp.router"]  # affine; it does not inherit the mode of the top level
    assert raw["mode"] == "mxfp4"
    assert packing(folder) == expected(dense, affine(8), MXFP4)
    assert relative_error(our_logits(folder), their_logits(folder)) < PROMISED


def mlx_lm_convert(source: Path, folder: Path, **options: Any) -> None:
    from mlx_lm.convert import convert as their_convert

    their_convert(str(source), str(folder), **options)


def test_experts_expanded_by_mlx_lm(release: Path, tmp_path: Path) -> None:
    save(*plain(release), tmp_path)
    assert packing(tmp_path) == {}
    assert relative_error(our_logits(tmp_path), our_logits(release)) < PROMISED


def test_old_affine_conversions_without_any_mode(release: Path, tmp_path: Path) -> None:
    model, config = theirs.quantize_model(*plain(release), 64, 4)
    save(model, config, tmp_path)
    their_found = their_logits(tmp_path)

    def drop_modes(raw: Entry) -> None:
        for block in (raw["quantization"], raw["quantization_config"]):
            block.pop("mode")
            for entry in block.values():
                if isinstance(entry, dict):
                    entry.pop("mode", None)

    rewrite_config(tmp_path, drop_modes)
    assert packing(tmp_path) == expected(affine(4), affine(8), affine(4))
    assert relative_error(our_logits(tmp_path), their_found) < PROMISED


@pytest.mark.parametrize("recipe", ["mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_mixed_bits(recipe: str, release: Path, tmp_path: Path) -> None:
    model, config = plain(release)
    predicate: Any = mixed_quant_predicate_builder(recipe, model, 64)
    save(*theirs.quantize_model(model, config, 64, 4, quant_predicate=predicate), tmp_path)
    found = packing(tmp_path)
    assert {entry["bits"] for entry in found.values()} == {int(bits) for bits in recipe.split("_")[1:]}
    assert found["lm_head"]["bits"] == int(recipe[-1])
    assert relative_error(our_logits(tmp_path), their_logits(tmp_path)) < PROMISED


def test_configurations_that_say_little_or_too_much(release: Path, tmp_path: Path) -> None:
    convert(release, tmp_path / "out", dense="q8")
    folder, whole = tmp_path / "out", expected(affine(8), affine(8), MXFP4)
    wanted = our_logits(folder)

    def no_entries(raw: Entry) -> None:
        raw["quantization"] = {key: value for key, value in raw["quantization"].items() if not isinstance(value, dict)}

    def other_top_level(raw: Entry) -> None:
        raw["quantization"] = {"group_size": 64, "bits": 2}

    def unknown_keys(raw: Entry) -> None:
        raw["quantization"] = {"quant_method": "x", "lm_head": affine(8) | {"global_scale": 1}, "nowhere": affine(4)}

    def none_at_all(raw: Entry) -> None:
        del raw["quantization"], raw["quantization_config"]

    for change in (no_entries, other_top_level, unknown_keys, none_at_all):
        rewrite_config(folder, change)
        assert packing(folder) == whole, change.__name__
        np.testing.assert_array_equal(our_logits(folder), wanted)


# mlx-lm's loops on our model


def test_mlx_lm_generates_with_our_model(release: Path) -> None:
    model, _ = load_model(release)
    prompt = TOKENS[:40].tolist()
    found = [token for token, _ in generate_step(mx.array(prompt), model, max_tokens=24, prefill_step_size=16)]
    wanted = prompt[:]
    for _ in found:
        wanted.append(int(mx.argmax(model(mx.array(wanted)[None], positions=slice(-1, None))[0, -1])))
    assert found == wanted[40:]


@pytest.mark.parametrize("dense", ["bf16", "q8"])
def test_mlx_lm_trains_lora_layers_in_our_model(dense: str, release: Path, tmp_path: Path) -> None:
    convert(release, tmp_path / "out", dense=dense)
    model: Any = load_model(tmp_path / "out")[0]
    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0})
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert {name.split(".")[2] for name in trained} == {"2", "3"}
    assert {name.split(".", 3)[3].rsplit(".", 1)[0] for name in trained} == {
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")),
        "mlp.router",
    }
    assert all(name.endswith(("lora_a", "lora_b")) for name in trained)
    losses = train(model, steps=8)
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0] - 0.05


def test_an_adapter_trained_in_mlx_lm_serves_our_model(release: Path, tmp_path: Path) -> None:
    """The same names and shapes: what mlx-lm trained in its model changes ours alike."""
    options = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    adapter = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": options}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    their = their_model(release)
    their.freeze()
    linear_to_lora_layers(their, 2, options)
    train(their, steps=2)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), dict(tree_flatten(their.trainable_parameters())))
    model: Any = load_model(release)[0]
    before = np.array(model(mx.array(TOKENS)[None])[0])
    theirs.load_adapters(model, str(tmp_path))
    found = np.array(model(mx.array(TOKENS)[None])[0])
    assert relative_error(found, before) > 1e-3
    assert relative_error(found, np.array(their(mx.array(TOKENS)[None])[0])) < PROMISED


def train(model: Any, steps: int) -> list[float]:
    """A few steps of mlx-lm's loss on two fixed sequences; the loss before each."""
    model.train()
    batch = mx.array(TOKENS[:66].reshape(2, 33))
    lengths = mx.array([[0, 33], [0, 33]])
    step = nn.value_and_grad(model, default_loss)
    optimizer = optim.Adam(learning_rate=1e-2)
    losses = []
    for _ in range(steps):
        (loss, _), gradients = step(model, batch, lengths)
        for name, gradient in dict(tree_flatten(gradients)).items():
            assert mx.isfinite(mx.array(gradient)).all(), name
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    model.eval()
    return losses
