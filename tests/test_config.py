"""Every dialect of config.json gives the same configuration; every bad field its own line."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import FULL, SLIDING, Shape
from gptoss_mlx.config import ModelConfig, read_json
from gptoss_mlx.errors import ConfigError

SHAPE = Shape(layers=6, hidden=96, intermediate=160, heads=6, kv_heads=2, head_dim=24, experts=10, top_k=3, vocab=300)
Fields = dict[str, Any]


def transformers_5(raw: Fields) -> Fields:
    """The rope block under its newer name, with theta inside."""
    raw["rope_parameters"] = raw.pop("rope_scaling") | {"rope_theta": raw.pop("rope_theta")}
    return raw


def mlx_folder(raw: Fields) -> Fields:
    """What converters write: no quantization_config of the release, a quantization block twice."""
    block = {"group_size": 32, "bits": 4, "mode": "mxfp4", "lm_head": {"group_size": 64, "bits": 8, "mode": "affine"}}
    return raw | {"quantization": block, "quantization_config": block, "eos_token_id": [200002, 199999, 200012]}


def lean(raw: Fields) -> Fields:
    """Without the fields that other fields repeat or imply."""
    for name in ("experts_per_token", "initial_context_length", "layer_types", "max_position_embeddings"):
        del raw[name]
    raw["rope_scaling"]["type"] = raw["rope_scaling"].pop("rope_type")
    return raw


def other_count(raw: Fields) -> Fields:
    """Only the reference's name for the experts per token."""
    del raw["num_experts_per_tok"]
    return raw


def original_context_outside(raw: Fields) -> Fields:
    """The original context outside the rope block only."""
    del raw["rope_scaling"]["original_max_position_embeddings"]
    return raw


@pytest.mark.parametrize(
    "dialect", [dict, transformers_5, mlx_folder, lean, other_count, original_context_outside], ids=lambda f: f.__name__
)
def test_every_dialect_gives_the_same_configuration(dialect: Callable[[Fields], Fields]) -> None:
    assert ModelConfig.from_dict(dialect(SHAPE.config())) == ModelConfig.from_dict(SHAPE.original_config())


def test_the_fields_land_where_they_belong() -> None:
    found = ModelConfig.from_dict(SHAPE.config())
    assert found == ModelConfig(
        num_hidden_layers=6,
        hidden_size=96,
        intermediate_size=160,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=24,
        num_local_experts=10,
        num_experts_per_tok=3,
        vocab_size=300,
        sliding_window=8,
        layer_types=(SLIDING, FULL) * 3,
    )


def test_the_defaults_are_the_20b_release() -> None:
    release = ModelConfig.from_dict(
        Shape(24, 2880, 2880, 64, 8, 64, experts=32, top_k=4, vocab=201088, window=128).config()
    )
    assert release == ModelConfig()
    assert release.attention_factor == pytest.approx(1.3465735902799727, rel=1e-15)
    assert release.kv_bytes_per_token == 2048
    assert release.max_position_embeddings == 131072
    assert (release.rope_theta, release.rope_factor, release.rope_truncate) == (150000, 32, False)


def test_the_quantization_block_is_kept_but_does_not_tell_models_apart() -> None:
    plain, packed = ModelConfig.from_dict(SHAPE.config()), ModelConfig.from_dict(mlx_folder(SHAPE.config()))
    assert plain.quantization is None
    assert packed.quantization is not None
    assert packed.quantization["lm_head"]["bits"] == 8
    assert plain == packed


def test_truncate_and_kinds_of_layers_are_honoured() -> None:
    raw = SHAPE.config()
    raw["rope_scaling"]["truncate"] = True
    raw["layer_types"] = [FULL, SLIDING, SLIDING] * 2
    found = ModelConfig.from_dict(raw)
    assert found.rope_truncate
    assert found.layer_types == (FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING)


def _without(name: str) -> Callable[[Fields], Any]:
    return lambda raw: raw.pop(name)


def _with(**fields: Any) -> Callable[[Fields], Any]:
    return lambda raw: raw.update(fields)


def _rope(**fields: Any) -> Callable[[Fields], Any]:
    return lambda raw: raw["rope_scaling"].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with(model_type="llama"), ["architecture", "'llama'", "gpt_oss"]),
        (_without("model_type"), ["architecture", "None"]),
        (_without("hidden_size"), ["'hidden_size'", "missing"]),
        (_without("sliding_window"), ["'sliding_window'", "missing"]),
        (_without("num_local_experts"), ["'num_local_experts'", "missing"]),
        (_without("rope_scaling"), ["rope_scaling", "rope_parameters"]),
        (_with(tie_word_embeddings=True), ["tie_word_embeddings", "false"]),
        (_without("rope_theta"), ["'rope_theta'", "missing"]),
        (_with(rope_scaling="yarn"), ["rope_scaling"]),
        (_rope(rope_type="linear"), ["rope_type", "'yarn'", "'linear'"]),
        (_rope(factor=None), ["'factor'", "missing"]),
        (_with(hidden_size=0), ["hidden_size", "positive", "0"]),
        (_with(hidden_size=-32), ["hidden_size", "positive", "-32"]),
        (_with(num_hidden_layers=True), ["num_hidden_layers", "positive", "True"]),
        (_with(vocab_size="300"), ["vocab_size", "positive", "'300'"]),
        (_with(head_dim=24.0), ["head_dim", "positive", "24.0"]),
        (_with(head_dim=25), ["head_dim", "even", "25"]),
        (_with(hidden_size=100), ["hidden_size", "32", "100"]),
        (_with(intermediate_size=100), ["intermediate_size", "32", "100"]),
        (_with(num_key_value_heads=4), ["num_attention_heads", "6", "num_key_value_heads", "4"]),
        (_with(num_experts_per_tok=11), ["num_experts_per_tok", "11", "num_local_experts", "10"]),
        (_with(layer_types=[FULL] * 5), ["layer_types", "6", "5"]),
        (_with(layer_types=[FULL] * 5 + ["linear"]), ["layer_types", SLIDING, FULL, "'linear'"]),
        (_with(quantization=4), ["quantization", "4"]),
    ],
)
def test_each_bad_field_has_its_line(change: Callable[[Fields], Any], words: list[str]) -> None:
    raw = SHAPE.config()
    change(raw)
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(raw)
    line = str(caught.value)
    assert line.startswith("config.json: ")
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", sorted(Shape().original_config()))
def test_each_field_of_the_original_dialect_is_needed(name: str) -> None:
    raw = SHAPE.original_config()
    del raw[name]
    if name == "swiglu_limit":
        assert ModelConfig.from_dict(raw).swiglu_limit == 7.0
        return
    with pytest.raises(ConfigError, match=r"^config\.json: "):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize(
    "change",
    [
        _with(rope_theta="fast"),
        _with(rms_norm_eps=[1]),
        _rope(factor="32x"),
        _rope(original_max_position_embeddings="long"),
        _with(max_position_embeddings="long"),
        _with(layer_types=7),
        _rope(factor=float("nan")),
        _rope(factor=0.0),
        _with(rope_theta=-1.0),
        _with(rms_norm_eps=-1.0),
        _with(swiglu_limit=0.0),
        _rope(beta_fast=0.0),
    ],
)
def test_numbers_that_are_none_are_config_errors_too(change: Callable[[Fields], Any]) -> None:
    raw = SHAPE.config()
    change(raw)
    with pytest.raises(ConfigError, match=r"^config\.json: "):
        ModelConfig.from_dict(raw)


def test_a_folder_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: not found"):
        ModelConfig.from_folder(tmp_path)
    file = tmp_path / "config.json"
    for text, words in (("{", "not readable as JSON"), ("[1]", "found list"), ("\x80", "not readable as JSON")):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigError, match=words):
            read_json(file)
    file.write_text(json.dumps(SHAPE.config()))
    assert ModelConfig.from_folder(tmp_path) == ModelConfig.from_dict(SHAPE.config())


@st.composite
def configurations(draw: st.DrawFn) -> ModelConfig:
    def count(most: int) -> int:
        return draw(st.integers(1, most))

    def number(least: float, most: float) -> float:
        return draw(st.floats(least, most))

    layers, kv_heads, experts = count(40), count(16), count(256)
    return ModelConfig(
        num_hidden_layers=layers,
        hidden_size=32 * count(200),
        intermediate_size=32 * count(200),
        num_attention_heads=kv_heads * count(8),
        num_key_value_heads=kv_heads,
        head_dim=2 * count(64),
        num_local_experts=experts,
        num_experts_per_tok=count(experts),
        vocab_size=count(300000),
        sliding_window=count(4096),
        layer_types=tuple(draw(st.lists(st.sampled_from([SLIDING, FULL]), min_size=layers, max_size=layers))),
        max_position_embeddings=count(1 << 20),
        rms_norm_eps=number(1e-8, 1e-3),
        swiglu_limit=number(0.5, 100),
        rope_theta=number(1000, 1e7),
        rope_factor=number(1, 64),
        rope_beta_fast=number(2, 64),
        rope_beta_slow=number(0.5, 1.5),
        rope_original_context=count(1 << 17),
        rope_truncate=draw(st.booleans()),
    )


@given(configurations())
def test_a_configuration_survives_its_own_json(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists), st.data())
def test_any_value_in_any_field_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from([SHAPE.config(), SHAPE.original_config()]))
    raw[data.draw(st.sampled_from(sorted(raw)))] = value
    with suppress(ConfigError):
        ModelConfig.from_dict(raw)
