"""Store a float matrix as compressed-tensors' pack-quantized format does."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from glmc.backends.packing import unfit
from glmc.ir.errors import NotQuantizableError
from glmc.ir.graph import Program
from glmc.ir.leaves import RoundedGroups
from glmc.ir.passes.rounding import rounded
from glmc.ir.recipe import leaves

if TYPE_CHECKING:
    import torch

_ROWS = 4096
"""Rows of a matrix that are rounded at once: in float32 they are wide."""


def matrices(program: Program, bits: int, group: int) -> Iterator[str]:
    """Yield the matrices of a lowered program that ops can read as codes, by name."""
    for _, layer, param in rounded(program, bits, group, unfit).bindings():
        for leaf in leaves(param.recipe):
            if isinstance(leaf, RoundedGroups):
                name = leaf.codes.name
                yield name if layer is None else name.replace("{i}", str(layer))


def described(bits: int, group: int, floats: Collection[str]) -> Mapping[str, Any]:
    """Return the ``quantization_config`` of a checkpoint.

    Args:
        bits: of a code.
        group: columns that share a scale.
        floats: matrices that are stored as floats, by name.
    """
    left_out = {name.removesuffix(".weight") for name in floats} | {"lm_head"}
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    group_0 = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group_0},
        "ignore": sorted(left_out),
        "kv_cache_scheme": None,
    }


def packed(
    weight: "torch.Tensor", bits: int, group: int, name: str
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yield what a matrix ``name`` [O, I] is stored as, by name: its codes in words
    [O, I * bits / 32], the scales [O, I / group] in its dtype, and its sizes.

    Raises:
        GlmcError: when a weight is not finite, or a scale too large for the dtype.
    """
    import torch

    from glmc.backends.runtime.quantization import round_groups

    height, width = weight.shape
    words = torch.empty(height, width * bits // 32, dtype=torch.int32)
    scale = torch.empty(height, width // group, dtype=weight.dtype)
    for begin in range(0, height, _ROWS):
        rows = slice(begin, begin + _ROWS)
        try:
            codes, scale[rows] = round_groups(weight[rows], bits, group)
        except ValueError as error:
            raise NotQuantizableError(
                f"{name} {error}; it cannot be quantised"
            ) from None
        words[rows] = in_words(codes, bits)
    yield f"{name}_packed", words
    yield f"{name}_scale", scale
    yield f"{name}_shape", torch.tensor(weight.shape)


def in_words(codes: "torch.Tensor", bits: int) -> "torch.Tensor":
    """Pack int8 codes [O, I] in words of int32 [O, I * bits / 32], the first in the
    least bits, each with half its range added."""
    import torch

    octets = codes.view(torch.uint8) + (1 << bits - 1)
    if bits == 4:
        octets = octets & 15
        octets = octets[:, ::2] | octets[:, 1::2] << 4
    return octets.contiguous().view(torch.int32)
