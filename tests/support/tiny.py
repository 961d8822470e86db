"""Tiny seeded checkpoints in the layouts that transformers itself writes.

Every tensor is random, norm weights and biases too: a forgotten bias, a swapped
split or a norm without its weight then changes the logits.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from safetensors.torch import load_file

from support.variants import Variant

transformers.utils.logging.disable_progress_bar()


def make(variant: Variant, folder: Path, *, seed: int = 0, shard: str = "") -> None:
    """Write config.json and model.safetensors of `variant` to `folder`.

    `shard` ("40KB") is the largest size of a shard: several files and their index.
    """
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(variant.family, **variant.config)
    model = auto_class(config).from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    randomise(model, seed)
    _share(model)
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size=shard or "1GB")


def _share(model: Any) -> None:
    """Give layers that share the weights of an earlier one copies of them: without a
    tied head transformers takes each for a weight of its own."""
    inner = model.base_model
    for key, source in (getattr(inner, "_tied_weights_keys", None) or {}).items():
        for name, module in inner.named_modules():
            if re.fullmatch(key, name):
                module.load_state_dict(inner.get_submodule(source).state_dict())


# Mistral 4 is listed as the text part of a composite only, and what sees in Emu 3 has
# another name. What Phi-4 Multimodal sees and hears is in its one class.
_WITH_EYES = ("mistral4", "emu3")
_TEXT_ALONE = ("phi4_multimodal",)
# Listed among models that turn speech into text.
_WITH_EARS = (
    *("audioflamingo3", "qwen2_audio", "voxtral", "glmasr", "qwen3_asr"),
    *("granite_speech", "granite_speech_plus"),
)


def auto_class(config: Any) -> Any:
    """The auto class that knows models with this config: of text, or with eyes."""
    if config.model_type in _TEXT_ALONE:
        return transformers.AutoModelForCausalLM
    if config.model_type in _WITH_EARS:
        return transformers.AutoModelForSeq2SeqLM
    if hasattr(config, "vision_config") or config.model_type in _WITH_EYES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


#: Tables of whole numbers name experts, and no tiny mixture has fewer.
CHOSEN = 4
#: Buffers that are made of the config, and saved all the same.
COMPUTED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")


def randomise(model: Any, seed: int) -> None:
    """Fill every saved tensor with noise whose size suits what it is."""
    generator = torch.Generator().manual_seed(seed)
    saved = [n for n in model.state_dict() if not n.endswith(COMPUTED)]
    buffers = [(n, b) for n, b in model.named_buffers() if n in saved]
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *buffers]:
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.is_floating_point():
                parameter.copy_(_scaled(name, parameter, noise))
            else:
                parameter.copy_((noise.abs() * 1e3) % CHOSEN)


def _scaled(name: str, parameter: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    if parameter.dim() == 0:
        return parameter  # a constant, saved as a buffer
    if parameter.dim() == 1:
        return (parameter == 1).float() + 0.25 * noise  # a norm's weight, or a bias
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.5 * noise
    if "x_proj" in name or "dt_proj" in name or "adapter" in name:
        # Mamba multiplies what these make with one another and sums it up, and adapters
        # are beside large maps: rounding of large ones is all that would be compared.
        return 0.25 * noise / math.sqrt(min(parameter.shape[-2:]))
    return noise / math.sqrt(min(parameter.shape[-2:]))


def as_bin(source: Path, folder: Path, *, shards: int = 1) -> None:
    """Save the checkpoint in `source` again as pytorch_model.bin, or as its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = tensors_of(source)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = names[i::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files in `folder`."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def legacy_dialect(config: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers 4 wrote it: rope_theta and rope_scaling beside it."""
    config = {**config, **config.get("text_config", {}), **_whole(config)}
    gone = ("rope_parameters", "dtype", "text_config")
    out = {k: v for k, v in config.items() if k not in gone}
    out["torch_dtype"] = config.get("dtype", "float32")
    rope = dict(config.get("rope_parameters") or {})
    if not rope:
        return out
    out["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        out["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type", "default")
    # Both spellings are in the wild; the older one is the harder to get right.
    out["rope_scaling"] = {"type": kind, **rope} if rope or kind != "default" else None
    return out


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a multimodal config says of the whole model."""
    keys = ("model_type", "architectures")
    return {key: config[key] for key in keys if key in config}
