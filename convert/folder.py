"""The small files of an MLX folder: configurations, index, tokenizer files, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptoss_mlx.config import read_json
from gptoss_mlx.errors import CheckpointError

from .plan import ConversionPlan
from .presets import DENSE, EXPERTS
from .sources import INDEX, Source, hub_id
from .synthetic import RELEASED_TOKENS, TOKENIZER_FILES, release_config
from .write import write_durably

VERBATIM = (*TOKENIZER_FILES, "LICENSE", "USAGE_POLICY")


def write_side_files(plan: ConversionPlan, folder: Path, name: str) -> None:
    """Write everything but the shards into `folder`; `name` is what the model will be called."""
    source = plan.source
    generation = generation_config(source)
    config = mlx_config(plan, generation["eos_token_id"])
    write_durably(folder / "config.json", json.dumps(config, indent=4))
    write_durably(folder / INDEX, json.dumps(plan.index(), indent=4))
    original = source.side_folder / "generation_config.json"
    if original.is_file() and read_json(original) == generation:
        shutil.copyfile(original, folder / original.name)
    else:
        text = json.dumps(generation, indent=2, sort_keys=True) + "\n"
        write_durably(folder / "generation_config.json", text)
    for file in VERBATIM:
        if (source.side_folder / file).is_file():
            shutil.copyfile(source.side_folder / file, folder / file)
    write_durably(folder / "README.md", model_card(plan, name))


def mlx_config(plan: ConversionPlan, stops: list[int]) -> dict[str, Any]:
    """config.json as mlx-lm writes it: sorted keys, `quantization` and its copy, the list of stop tokens."""
    source = plan.source
    if source.layout == "original":
        raw = release_config(source.config, control_tokens(source), packed=False)
        del raw["torch_dtype"]
    else:
        raw = dict(source.raw_config)
    raw.pop("_name_or_path", None)
    raw |= {"quantization": plan.quantization, "quantization_config": plan.quantization}
    raw["eos_token_id"] = stops
    return dict(sorted(raw.items()))


def generation_config(source: Source) -> dict[str, Any]:
    """The source's generation config, with every token that ends a turn of gpt-oss among its stop tokens."""
    tokens = control_tokens(source)
    path = source.side_folder / "generation_config.json"
    if path.is_file():
        config = read_json(path)
    else:
        config = {
            "bos_token_id": tokens["<|startoftext|>"],
            "do_sample": True,
            "pad_token_id": tokens["<|endoftext|>"],
        }
    stops = config.get("eos_token_id", [])
    stops = list(stops) if isinstance(stops, list) else [stops]
    config["eos_token_id"] = stops + [token for token in stop_tokens(tokens) if token not in stops]
    return config


def stop_tokens(tokens: Mapping[str, int]) -> list[int]:
    """Those of the control tokens that end a turn of gpt-oss."""
    return [tokens[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")]


def control_tokens(source: Source) -> Mapping[str, int]:
    """The ids of the control tokens by the folder's tokenizer.json; the release's where there is none.

    Raises:
        CheckpointError: tokenizer.json is not readable or lacks one of them.
    """
    path = source.side_folder / "tokenizer.json"
    if not path.is_file():
        return RELEASED_TOKENS
    try:
        text = path.read_text(encoding="utf-8")
        place = text.index("[", text.index('"added_tokens"'))  # the rest, some 28 MB, need not be parsed
        added, _ = json.JSONDecoder().raw_decode(text, place)
        found = {str(token["content"]): int(token["id"]) for token in added}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as a tokenizer ({error}); fetch it again") from None
    for name in RELEASED_TOKENS:
        if name not in found:
            raise CheckpointError(f"{path}: lacks the harmony token {name}; this is no gpt-oss tokenizer")
    return {name: found[name] for name in RELEASED_TOKENS}


def source_name(source: Source) -> str:
    """What the source is called: a hub id for a folder of the Hugging Face cache, else the folder's name."""
    folder = source.folder.resolve()
    folder = folder.parent if folder.name == "original" else folder
    return hub_id(folder) or folder.name


def model_card(plan: ConversionPlan, name: str) -> str:
    """README.md of the folder: source, preset, sizes and the command that makes it."""
    return "\n".join(_card(plan, name)) + "\n"


def _card(plan: ConversionPlan, name: str) -> Iterator[str]:
    source, preset = plan.source, plan.preset
    origin = source_name(source)
    command = f"gptoss-mlx convert {origin} {name} --dense {preset.dense} --experts {preset.experts}"
    yield from ("---", "library_name: mlx", "pipeline_tag: text-generation", "tags:", "- mlx", "- gpt_oss")
    if "/" in origin:
        yield f"base_model: {origin}"
    yield from ("---", "", f"# {name}", "")
    yield f"Converted to MLX format from `{origin}` ({_LAYOUTS[source.layout]})."
    yield from ("", "| | |", "| --- | --- |")
    yield f"| parameters | {plan.parameters:,} |"
    yield f"| layers, experts | {source.config.num_hidden_layers}, {source.config.num_local_experts} |"
    yield f"| experts | {_expert_line(plan)} |"
    yield f"| embeddings, attention, output | {DENSE[preset.dense] or 'bfloat16, as in the source'} |"
    yield f"| router | {plan.quantization.get('model.layers.0.mlp.router', {}).get('bits', 16)} bits |"
    yield "| norms, sinks, biases | bfloat16, as in the source |"
    yield f"| source | {source.nbytes:,} bytes of tensors |"
    yield f"| this folder | {plan.nbytes:,} bytes of tensors in {len(plan.shards)} file(s) |"
    yield ""
    for note in plan.notes:
        yield f"Note: {note}."
    if plan.notes:
        yield ""
    yield from ("```", command, "```")


def _expert_line(plan: ConversionPlan) -> str:
    kept = all(step.untouched for step in plan.steps if ".experts." in step.outputs[0].name)
    return f"{EXPERTS[plan.preset.experts]}" + (", bit for bit as in the source" if kept else "")


_LAYOUTS = {
    "hf": "the layout of the release",
    "original": "the original/ layout",
    "bf16": "a BF16 checkpoint",
    "mlx": "an MLX folder",
}
