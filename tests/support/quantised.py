"""Quantised checkpoints made by hand: arithmetic in numpy, from what is published.

Nothing here calls glmc: it is what glmc's own arithmetic is held to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from support import edits

Tensors = dict[str, torch.Tensor]

LINEARS = re.compile(
    r"\.(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)\.weight$", re.ASCII
)
EMBEDDINGS = re.compile(r"(word_embeddings|output_layer|lm_head)\.weight$", re.ASCII)


def pack(codes: NDArray[Any]) -> NDArray[np.int8]:
    """int4 codes [rows, in] to bytes [rows, in / 2]: even columns in high nibbles."""
    rows, width = codes.shape
    packed = np.zeros((rows, width // 2), np.uint8)
    for column in range(width // 2):
        high = codes[:, 2 * column].astype(np.int64) % 16
        low = codes[:, 2 * column + 1].astype(np.int64) % 16
        packed[:, column] = 16 * high + low
    return packed.view(np.int8)


def unpack(packed: NDArray[np.int8]) -> NDArray[np.int8]:
    """Bytes [rows, in / 2] to int4 codes [rows, in], by division instead of shifts."""
    whole = packed.view(np.uint8).astype(np.int64)
    nibbles = np.stack([whole // 16, whole % 16], axis=-1)
    signed = np.where(nibbles >= 8, nibbles - 16, nibbles)
    return signed.reshape(len(packed), -1).astype(np.int8)


def quantise(weight: NDArray[Any], bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """(codes as stored, fp16 scale of every row): absmax / (2^(bits-1) - 1)."""
    most = 2 ** (bits - 1) - 1
    scale = (np.abs(weight).max(axis=1) / most).astype(np.float16)
    codes = np.rint(weight / scale.astype(np.float32)[:, None])
    codes = np.clip(codes, -most, most).astype(np.int8)
    return (pack(codes) if bits == 4 else codes), scale


def dequantise(
    stored: NDArray[Any], scale: NDArray[Any], bits: int, dtype: Any
) -> NDArray[Any]:
    """Codes times scales, each factor in ``dtype`` and the product rounded to it."""
    codes = unpack(stored) if bits == 4 else stored
    product: NDArray[Any] = codes.astype(dtype) * scale.astype(dtype)[:, None]
    assert product.dtype == dtype
    return product


def tensors_of(folder: Path) -> Tensors:
    """All tensors of a folder's .bin shards."""
    found: Tensors = {}
    for shard in sorted(folder.glob("*.bin")):
        found |= torch.load(shard, weights_only=True)
    return found


def quantised(tensors: Tensors, bits: int, *, embeddings: bool = False) -> Tensors:
    """A float checkpoint in the published format."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        chosen = LINEARS.search(name) or (embeddings and EMBEDDINGS.search(name))
        if not chosen:
            found[name] = tensor
            continue
        codes, scale = quantise(tensor.float().numpy(), bits)
        found[name] = torch.from_numpy(codes)
        found[f"{name}_scale"] = torch.from_numpy(scale)
    return found


def twin(tensors: Tensors, bits: int, dtype: Any = np.float32) -> Tensors:
    """The float checkpoint that a quantised one stands for."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}_scale")
        if scale is not None:
            values = dequantise(tensor.numpy(), scale.numpy(), bits, dtype)
            found[name] = torch.from_numpy(values)
        elif not name.endswith("_scale"):
            found[name] = tensor
    return found


def write(
    folder: Path,
    source: Path,
    tensors: Tensors,
    changes: Mapping[str, Any],
    *,
    as_bin: bool = False,
) -> Path:
    """A model folder: the config of ``source`` with changes, and these tensors."""
    edits.write_config(folder, {**edits.read_config(source), **changes})
    if as_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        whole = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(whole, folder / "model.safetensors")
    return folder
