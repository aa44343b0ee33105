"""The trained model in the released layout: safetensors shards numbered from zero, MXFP4 blocks and scales, an
index, config.json and the tokenizer's files; and the way back, to measure what was really written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from demo_model import MXFP4_BLOCK, MXFP4_STEPS, DemoModel, mxfp4_exponents, mxfp4_round
from demo_tokens import SPECIALS
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from gptoss_mlx.config import ModelConfig

Tensors = dict[str, Tensor]


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (E, out, in) as MXFP4: blocks (E, out, in / 32, 16) and scales (E, out, in / 32), both uint8."""
    exponents = mxfp4_exponents(weight.unflatten(-1, (-1, MXFP4_BLOCK)))
    values = mxfp4_round(weight).unflatten(-1, (-1, MXFP4_BLOCK)) / torch.exp2(exponents)
    codes = torch.bucketize(values.abs(), torch.tensor(MXFP4_STEPS)) + 8 * (values < 0)
    low, high = codes[..., 0::2], codes[..., 1::2]
    return (low + 16 * high).to(torch.uint8), (exponents.squeeze(-1) + 127).to(torch.uint8)


def unpack(blocks: Tensor, scales: Tensor) -> Tensor:
    """What `pack` made, as float32 (E, out, in)."""
    table = torch.tensor([*MXFP4_STEPS, *(-step for step in MXFP4_STEPS)])
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    return (table[codes.long()] * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


def interleaved(halves: Tensor, dim: int) -> Tensor:
    """Gate rows, then up rows -> gate and up in turn, as the release stores them."""
    return torch.stack(halves.chunk(2, dim), dim + 1).flatten(dim, dim + 1)


def released_tensors(model: DemoModel) -> Tensors:
    """Every tensor under its released name, in the released type."""
    found: Tensors = {}
    for name, tensor in model.state_dict().items():
        prefix, _, last = name.rpartition(".")
        if name.endswith(("qkv.weight", "qkv.bias")):
            width = model.config.head_dim
            rows = [n * width for n in (model.config.num_attention_heads, *[model.config.num_key_value_heads] * 2)]
            for kind, part in zip("qkv", tensor.split(rows), strict=True):
                found[f"{prefix.removesuffix('qkv')}{kind}_proj.{last}"] = part
        elif last in ("gate_up", "down"):
            whole = interleaved(tensor, 1) if last == "gate_up" else tensor
            blocks, scales = pack(whole)
            found[f"{prefix}.experts.{last}_proj_blocks"], found[f"{prefix}.experts.{last}_proj_scales"] = (
                blocks,
                scales,
            )
        elif last in ("gate_up_bias", "down_bias"):
            whole = interleaved(tensor, 1) if last == "gate_up_bias" else tensor
            found[f"{prefix}.experts.{last.removesuffix('_bias')}_proj_bias"] = whole
        else:
            found[name] = tensor
    return {
        name if name.startswith("lm_head") else f"model.{name}": (
            t if t.dtype == torch.uint8 else t.bfloat16()
        ).contiguous()
        for name, t in found.items()
    }


def write_shards(tensors: Tensors, folder: Path, count: int = 2) -> None:
    """Shards of about the same size and their index; like the release, numbered from 0 to count - 1 "of" count - 1."""
    total = sum(t.nbytes for t in tensors.values())
    shards: list[Tensors] = [{} for _ in range(count)]
    written = 0
    for name, tensor in sorted(tensors.items()):
        shards[min(written * count // total, count - 1)][name] = tensor
        written += tensor.nbytes
    places = {}
    for number, shard in enumerate(shards):
        file = f"model-{number:05}-of-{count - 1:05}.safetensors"
        save_file(shard, folder / file)
        (folder / file).chmod(0o644)
        places.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", named)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(tokenizer.token_to_id(name)): {"content": name, **flags} for name in SPECIALS}
    settings = {
        **named,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_configs(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> None:
    stop, padding = tokenizer.token_to_id("<|return|>"), tokenizer.token_to_id("<|endoftext|>")
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    content = config.to_dict() | {
        "eos_token_id": stop,
        "pad_token_id": padding,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": kept},
    }
    write_json(folder / "config.json", content)
    generation = {
        "bos_token_id": tokenizer.token_to_id("<|startoftext|>"),
        "do_sample": True,
        "eos_token_id": [stop, padding, tokenizer.token_to_id("<|call|>")],
        "pad_token_id": padding,
    }
    write_json(folder / "generation_config.json", generation)


def export(model: DemoModel, tokenizer: Tokenizer, folder: Path, sharpen: float) -> None:
    """Write the whole model folder, except its card. Logits are multiplied by `sharpen`, through the last norm.

    What a toy samples at temperature 1 should be what it means; a factor of 2 makes that temperature act like 0.5.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        model.norm.weight *= sharpen
    write_shards(released_tensors(model), folder)
    write_configs(model.config, tokenizer, folder)
    write_tokenizer(tokenizer, folder)


def read_back(folder: Path) -> DemoModel:
    """The model of a folder that `export` wrote, in float32."""
    config = ModelConfig.from_folder(folder)
    tensors: Tensors = {}
    for file in sorted(folder.glob("model-*.safetensors")):
        tensors.update(load_file(file))
    found = {name.removeprefix("model."): t if t.dtype == torch.uint8 else t.float() for name, t in tensors.items()}
    state: Tensors = {}
    for name in DemoModel(config).state_dict():
        prefix, _, last = name.rpartition(".")
        if ".qkv." in name:
            state[name] = torch.cat([found[name.replace("qkv", f"{kind}_proj")] for kind in "qkv"])
        elif last in ("gate_up", "down"):
            path = f"{prefix}.experts.{last}_proj"
            state[name] = _halves(unpack(found[f"{path}_blocks"], found[f"{path}_scales"]), last)
        elif last in ("gate_up_bias", "down_bias"):
            state[name] = _halves(found[f"{prefix}.experts.{last.removesuffix('_bias')}_proj_bias"], last)
        else:
            state[name] = found[name]
    model = DemoModel(config)
    model.load_state_dict(state)
    return model.eval()


def _halves(rows: Tensor, name: str) -> Tensor:
    return torch.cat((rows[:, 0::2], rows[:, 1::2]), dim=1) if name.startswith("gate_up") else rows
