"""Checkpoints in the quantised formats of the hub, made by hand.

The packings are written with numpy loops from what each format's definition says, and
nothing here calls glmc: it is what glmc's own arithmetic is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from support import edits
from support import tiny as tinies

Array = NDArray[Any]
Tensors = dict[str, torch.Tensor]
Made = tuple[dict[str, Array | torch.Tensor], Array]
"""(ending of a tensor's name to the tensor, the weight that they stand for)."""

GROUP = 16
# As AutoAWQ's words have the rows of eight.
AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Format:
    """A published format: what its config says, and how a matrix is stored in it."""

    config: Mapping[str, Any]
    make: Callable[[Array], Made]


def words(codes: Array, bits: int, order: tuple[int, ...] | None = None) -> Array:
    """Codes [rows, n] from 0 on, as int32 [rows, n * bits / 32]: least bits first."""
    many = 32 // bits
    order = order or tuple(range(many))
    rows, width = codes.shape
    packed = np.zeros((rows, width // many), np.uint32)
    for at in range(width // many):
        for place in range(many):
            code = codes[:, at * many + order[place]].astype(np.uint32)
            packed[:, at] += code * np.uint32(1 << bits * place)
    return packed.view(np.int32)


def codes_of(
    weight: Array, bits: int, group_of: Array, zeros: bool
) -> tuple[Array, Array, Array]:
    """(codes [O, I] from 0 on, scale [O, G], zero point [O, G]) of a weight [O, I]."""
    most, count = 2**bits - 1, int(group_of.max()) + 1
    codes = np.zeros(weight.shape, np.int64)
    scale = np.zeros((len(weight), count), np.float32)
    point = np.full((len(weight), count), (most + 1) // 2, np.int64)
    for group in range(count):
        part = weight[:, group_of == group]
        low, high = part.min(1), part.max(1)
        if zeros:
            step = ((high - low) / most).astype(np.float16).astype(np.float32)
            point[:, group] = np.clip(np.rint(-low / step), 0, most)
        else:
            step = (2 * np.abs(part).max(1) / most).astype(np.float16)
            step = step.astype(np.float32)
        steps = np.rint(part / step[:, None]) + point[:, [group]]
        codes[:, group_of == group] = np.clip(steps, 0, most)
        scale[:, group] = step
    return codes, scale, point


def in_order(width: int, group: int) -> Array:
    """The group of each column, where groups are neighbours."""
    return np.arange(width) // group


def value(codes: Array, scale: Array, point: Array, group_of: Array) -> Array:
    """Return what codes stand for: the zero point taken off, times the scale."""
    made: Array = (codes - point[:, group_of]).astype(np.float32) * scale[:, group_of]
    return made


def gptq(
    bits: int = 4,
    group: int = GROUP,
    *,
    zeros: bool = True,
    shuffled: bool = False,
    less: int = 1,
) -> Callable[[Array], Made]:
    """GPTQ: words along the input, zero points stored ``less`` one."""

    def make(weight: Array) -> Made:
        width = weight.shape[1]
        group_of = in_order(width, width if group < 0 else group)
        if shuffled:
            group_of = group_of[np.random.default_rng(width).permutation(width)]
        codes, scale, point = codes_of(weight, bits, group_of, zeros)
        return {
            "qweight": words_down(codes.T, bits),
            "qzeros": words((point.T - less) % (1 << bits), bits),
            "scales": scale.T.astype(np.float16),
            "g_idx": group_of.astype(np.int32),
        }, value(codes, scale, point, group_of)

    return make


def words_down(codes: Array, bits: int) -> Array:
    """Codes [n, columns] as int32 [n * bits / 32, columns]: words run down."""
    return words(codes.T, bits).T.copy()


def awq(weight: Array) -> Made:
    """AWQ: words along the output, in AutoAWQ's order."""
    group_of = in_order(weight.shape[1], GROUP)
    codes, scale, point = codes_of(weight, 4, group_of, True)
    return {
        "qweight": words(codes.T, 4, AWQ),
        "qzeros": words(point.T, 4, AWQ),
        "scales": scale.T.astype(np.float16),
    }, value(codes, scale, point, group_of)


def packed(
    bits: int = 4, group: int | None = GROUP, *, zeros: bool = False
) -> Callable[[Array], Made]:
    """compressed-tensors, pack-quantized: words along each row."""

    def make(weight: Array) -> Made:
        group_of = in_order(weight.shape[1], group or weight.shape[1])
        codes, scale, point = codes_of(weight, bits, group_of, zeros)
        made: dict[str, Array | torch.Tensor] = {
            "weight_packed": words(codes, bits),
            "weight_scale": scale,
            "weight_shape": np.array(weight.shape, np.int64),
        }
        if zeros:
            made["weight_zero_point"] = words_down(point, bits)
        return made, value(codes, scale, point, group_of)

    return make


def plain(group: int | None = None, *, zeros: bool = False) -> Callable[[Array], Made]:
    """compressed-tensors, int-quantized: int8 as it is."""

    def make(weight: Array) -> Made:
        group_of = in_order(weight.shape[1], group or weight.shape[1])
        codes, scale, point = codes_of(weight, 8, group_of, zeros)
        made: dict[str, Array | torch.Tensor] = {
            "weight": (codes - 128).astype(np.int8),
            "weight_scale": scale,
        }
        if zeros:
            made["weight_zero_point"] = (point - 128).astype(np.int8)
        return made, value(codes, scale, point, group_of)

    return make


def float8(
    block: tuple[int, int] | str, ending: str, **scales: Any
) -> Callable[[Array], Made]:
    """e4m3 with a scale per block, per ``row``, or per ``matrix``.

    ``scales``: their ``shape`` where it is not that of the grid, and their ``dtype``.
    """

    def make(weight: Array) -> Made:
        sizes = {"row": (1, weight.shape[1]), "matrix": weight.shape}.get(str(block))
        height, width = sizes or block  # type: ignore[str-unpack]
        grid = -(-weight.shape[0] // height), -(-weight.shape[1] // width)
        scale = torch.empty(grid)
        codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
        made = torch.empty(weight.shape)
        for row in range(grid[0]):
            for column in range(grid[1]):
                place = (
                    slice(row * height, (row + 1) * height),
                    slice(column * width, (column + 1) * width),
                )
                part = torch.from_numpy(weight)[place]
                step = part.abs().max() / 448
                if "dtype" in scales:  # powers of two
                    step = torch.exp2(step.log2().ceil())
                scale[row, column] = step
                codes[place] = (part / step).to(codes.dtype)
                made[place] = codes[place].float() * step
        stored = scale.reshape(scales.get("shape", grid))
        found: dict[str, Any] = {
            "weight": codes,
            ending: stored.to(scales.get("dtype", stored.dtype)),
        }
        return found | {"input_scale": torch.tensor(1.0)}, made.numpy()

    return make


FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)


def fp4(scaled: Array) -> tuple[Array, Array]:
    """(bytes of e2m1 codes [..., n / 2], the even column in the low nibble; what they
    stand for [..., n]) of the nearest to numbers [..., n]."""
    nearest = np.abs(np.abs(scaled)[..., None] - FP4).argmin(-1)
    codes = nearest + 8 * (scaled < 0)
    value = np.where(codes < 8, 1, -1).astype(np.float32) * FP4[codes % 8]
    return (codes[..., ::2] + 16 * codes[..., 1::2]).astype(np.uint8), value


def nvfp4(codes: str, factor: str, *, divides: bool) -> Callable[[Array], Made]:
    """NVFP4: a scale in e4m3 for 16 columns, and one in float32 for all; by names of
    codes and factor, and whether the factor is one that divides."""

    def make(weight: Array) -> Made:
        groups = weight.reshape(len(weight), -1, 16)
        most = np.float32(448 * 6 / np.abs(weight).max())
        of_all = most if divides else np.float32(1) / most
        step = torch.from_numpy(np.abs(groups).max(-1) / 6 * most)
        scale = step.clamp(2**-9).to(torch.float8_e4m3fn)
        gain = scale.float().numpy()
        gain = gain / of_all if divides else gain * of_all
        octets, value = fp4(groups / gain[..., None])
        return {
            codes: octets.reshape(len(weight), -1),
            "weight_scale": scale,
            factor: torch.tensor([of_all] if divides else of_all),
            "input_global_scale" if divides else "input_scale": torch.ones(1),
        }, (value * gain[..., None]).reshape(weight.shape)

    return make


def mx(codes: str, bits: int) -> Callable[[Array], Made]:
    """MXFP4 and MXFP8: a power of two for 32 columns, as a byte 127 above it."""

    def make(weight: Array) -> Made:
        groups = weight.reshape(len(weight), -1, 32)
        most = {4: 6.0, 8: 448.0}[bits]
        power = np.ceil(np.log2(np.abs(groups).max(-1) / most)).astype(np.int64)
        scaled = (groups / np.exp2(power)[..., None]).astype(np.float32)
        stored: Array | torch.Tensor
        if bits == 4:
            stored, value = fp4(scaled)
            stored = stored.reshape(len(weight), -1)
        else:
            small = torch.from_numpy(scaled).to(torch.float8_e4m3fn)
            stored, value = small.reshape(weight.shape), small.float().numpy()
        made = (value * np.exp2(power)[..., None]).astype(np.float32)
        bytes_ = (power + 127).astype(np.uint8)
        return {codes: stored, "weight_scale": bytes_}, made.reshape(weight.shape)

    return make


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    """A ``quantization_config`` of compressed-tensors."""
    weights = {"type": "int", "symmetric": True, "dynamic": False, **weights}
    group = {"weights": weights, "targets": ["Linear"], "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def _gptq(**more: Any) -> dict[str, Any]:
    base = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
    return {**base, "sym": False, "damp_percent": 0.01, **more}


_GROUPS = {"strategy": "group", "group_size": GROUP}
_BLOCKS = {"strategy": "block", "block_structure": [32, 24]}
_FLOAT4 = {"type": "float", "num_bits": 4}
_NVFP4 = {"strategy": "tensor_group", "group_size": 16}
_MX = {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
_FP8 = {"quant_method": "fp8", "activation_scheme": "static", "fmt": "e4m3"}
FORMATS: Mapping[str, Format] = {
    "gptq": Format(_gptq(), gptq()),
    "gptq8": Format(_gptq(bits=8, sym=True), gptq(8, zeros=False)),
    "gptq-row": Format(_gptq(group_size=-1), gptq(group=-1)),
    "gptq-order": Format(_gptq(desc_act=True), gptq(shuffled=True)),
    "gptq-v2": Format(_gptq(checkpoint_format="gptq_v2"), gptq(less=0)),
    "awq": Format(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
        | {"zero_point": True, "modules_to_not_convert": None},
        awq,
    ),
    "packed4": Format(compressed("pack-quantized", num_bits=4, **_GROUPS), packed()),
    "packed4-zeros": Format(
        compressed("pack-quantized", num_bits=4, **{**_GROUPS, "symmetric": False}),
        packed(zeros=True),
    ),
    "packed4-row": Format(
        compressed("pack-quantized", num_bits=4, strategy="channel"),
        packed(group=None),
    ),
    "packed8": Format(compressed("pack-quantized", num_bits=8, **_GROUPS), packed(8)),
    "int8": Format(
        compressed("int-quantized", num_bits=8, strategy="channel"), plain()
    ),
    "int8-zeros": Format(
        compressed("int-quantized", num_bits=8, **{**_GROUPS, "symmetric": False}),
        plain(GROUP, zeros=True),
    ),
    "fp8-matrix": Format(
        _FP8 | {"weight_block_size": None},
        float8("matrix", "weight_scale_inv", shape=()),
    ),
    "fp8-exponents": Format(
        _FP8 | {"weight_block_size": [32, 24], "scale_fmt": "ue8m0"},
        float8((32, 24), "weight_scale_inv", dtype=torch.float8_e8m0fnu),
    ),
    "fp8-rows": Format(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        float8("row", "weight_scale"),
    ),
    "float8-matrix": Format(
        compressed("float-quantized", num_bits=8, type="float", strategy="tensor"),
        float8("matrix", "weight_scale", shape=(1,)),
    ),
    "float8-rows": Format(
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        float8("row", "weight_scale"),
    ),
    "float8-blocks": Format(
        compressed("float-quantized", num_bits=8, type="float", **_BLOCKS),
        float8((32, 24), "weight_scale"),
    ),
    "modelopt": Format(
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        float8("matrix", "weight_scale", shape=()),
    ),
    "nvfp4": Format(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        nvfp4("weight", "weight_scale_2", divides=False),
    ),
    "nvfp4-packed": Format(
        compressed("nvfp4-pack-quantized", **_FLOAT4, **_NVFP4),
        nvfp4("weight_packed", "weight_global_scale", divides=True),
    ),
    "mxfp4-packed": Format(
        compressed("mxfp4-pack-quantized", **_FLOAT4, **_MX), mx("weight_packed", 4)
    ),
    "mxfp8": Format(
        compressed("mxfp8-quantized", type="float", num_bits=8, **_MX),
        mx("weight", 8),
    ),
}


def is_linear(name: str) -> bool:
    """Return whether a tensor is the weight of a linear map within a layer."""
    return ".layers." in name and name.endswith("_proj.weight")


def pair(
    source: Path, folder: Path, form: Format, chosen: Callable[[str], bool] = is_linear
) -> tuple[Path, Path]:
    """(quantised folder, its float twin) of a tiny checkpoint."""
    stored: Tensors = {}
    twin: Tensors = {}
    for name, tensor in tinies.tensors_of(source).items():
        twin[name] = stored[name] = tensor
        if chosen(name):
            del stored[name]
            made, weight = form.make(tensor.numpy())
            twin[name] = torch.from_numpy(np.ascontiguousarray(weight))
            stem = name.removesuffix("weight")
            for ending, part in made.items():
                if not isinstance(part, torch.Tensor):
                    part = torch.from_numpy(np.ascontiguousarray(part))
                stored[stem + ending] = part
    config = edits.read_config(source)
    edits.write_config(folder / "q", config | {"quantization_config": form.config})
    save_file(stored, folder / "q/model.safetensors")
    edits.write_config(folder / "twin", config)
    save_file(twin, folder / "twin/model.safetensors", metadata={"format": "pt"})
    return folder / "q", folder / "twin"


def mxfp4(weight: Array) -> tuple[Array, Array, Array]:
    """(blocks, scales, what they stand for) of experts' weights [X, I, O].

    Blocks are uint8 [X, O, I / 32, 16], the even column in the low nibble; scales
    uint8 [X, O, I / 32] are exponents plus 127.
    """
    rows = np.swapaxes(weight, 1, 2)
    groups = rows.reshape(*rows.shape[:2], -1, 32)
    power = np.ceil(np.log2(np.abs(groups).max(-1) / 6.0)).astype(np.int64)
    blocks, value = fp4(groups / np.exp2(power)[..., None])
    value = value * np.exp2(power)[..., None]
    made = np.swapaxes(value.reshape(rows.shape), 1, 2).astype(np.float32)
    return blocks, (power + 127).astype(np.uint8), made


def mxfp4_pair(source: Path, folder: Path) -> tuple[Path, Path]:
    """(mxfp4 folder, its float twin) of a tiny gpt-oss."""
    stored: Tensors = {}
    twin: Tensors = {}
    for name, tensor in tinies.tensors_of(source).items():
        twin[name] = stored[name] = tensor
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            del stored[name]
            blocks, scales, made = mxfp4(tensor.numpy())
            twin[name] = torch.from_numpy(np.ascontiguousarray(made))
            stored[f"{name}_blocks"] = torch.from_numpy(np.ascontiguousarray(blocks))
            stored[f"{name}_scales"] = torch.from_numpy(np.ascontiguousarray(scales))
    config = edits.read_config(source)
    # As gpt-oss-120b has it.
    left_out = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
    left_out += ["model.embed_tokens", "lm_head"]
    method = {"quant_method": "mxfp4", "modules_to_not_convert": left_out}
    edits.write_config(folder / "q", config | {"quantization_config": method})
    save_file(stored, folder / "q/model.safetensors")
    edits.write_config(folder / "twin", config)
    save_file(twin, folder / "twin/model.safetensors", metadata={"format": "pt"})
    return folder / "q", folder / "twin"
