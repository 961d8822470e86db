"""Make the weights of a program on random tensors: what a checkpoint holds, what its
recipes make of it."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from glmc.backends.runtime.quantization import (
    Groups,
    block_scales,
    code_rows,
    dequantize_blocks,
    dequantize_floats,
    dequantize_rows,
    float_codes,
    grouped,
    pack_codes,
    round_groups,
    scale_rows,
    unpack_codes,
    zero_rows,
)
from glmc.backends.runtime.ranks import current
from glmc.ir.graph import Program
from glmc.ir.leaves import (
    Dequant,
    DequantBlocks,
    DequantFloats,
    DequantGroups,
    DequantRows,
    Quantized,
    RoundedGroups,
    Scaled,
    Tensor,
)
from glmc.ir.recipe import (
    Cat,
    OnFirst,
    Permute,
    Recipe,
    Repacked,
    Shard,
    Slice,
    Stack,
    View,
    leaves,
)


def random_checkpoint(program: Program) -> dict[str, torch.Tensor]:
    """Makes a random tensor for every name a lowered program reads: floats in fp32, and
    codes with their scales where weights are quantised. A name fixes its values."""
    found: dict[str, torch.Tensor] = {}
    for _, layer, param in program.bindings():
        for leaf in leaves(param.recipe):
            if isinstance(leaf, Tensor):
                name = _name(leaf, layer)
                made = _chosen if param.type.dtype == "i64" else _random
                found.setdefault(name, made(name, leaf.stored))
            else:
                found |= _quantized(leaf, layer)
    return found


def _quantized(leaf: Dequant, layer: int | None) -> dict[str, torch.Tensor]:
    """Makes codes over their whole range, and scales that make the weights as large as
    those of a float matrix."""
    made: dict[str, torch.Tensor] = {}
    if isinstance(leaf, RoundedGroups):
        name = _name(leaf.codes, layer)
        return {name: _random(name, leaf.codes.stored)}
    for field, part in leaf.parts().items():
        name = _name(part, layer)
        if field == "scale":
            made[name] = _gains(leaf, name)
        elif field == "index":
            made[name] = _shuffled(name, leaf)
        elif field == "factor":
            made[name] = 0.5 + _random(name, (1, 1)).abs().reshape(part.stored)
        else:
            made[name] = _codes(name, part.stored, leaf.dtypes()[field])
    return made


def _gains(leaf: Scaled, name: str) -> torch.Tensor:
    gains = _random(name, leaf.scale.stored).abs() / math.sqrt(leaf.shape[-1])
    match leaf:
        case DequantRows(bits=bits) | DequantGroups(bits=bits):
            return gains / float(2 ** (bits - 2))
        case DequantFloats(powers=True):
            return _codes(name, leaf.scale.stored, "U8") % 4 + 123
        case DequantFloats():
            return gains.clamp(min=2**-6).to(torch.float8_e4m3fn)
    return gains


def _codes(name: str, shape: Sequence[int], dtype: str) -> torch.Tensor:
    """Makes random bits, but for float8, of which not all patterns are numbers."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if dtype == "F8_E4M3":
        return torch.randn(*shape, generator=generator).to(torch.float8_e4m3fn)
    if dtype == "I8":
        return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)
    if dtype == "U8":
        return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    low, high = -(1 << 31), 1 << 31
    return torch.randint(low, high, shape, generator=generator).to(torch.int32)


def _shuffled(name: str, leaf: Dequant) -> torch.Tensor:
    """Makes the group of each column, in no order."""
    assert isinstance(leaf, DequantGroups)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    order = torch.randperm(leaf.shape[-1], generator=generator)
    return (order // leaf.group).to(torch.int32)


def _random(name: str, shape: Sequence[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(*shape, generator=generator)
    return 1 + 0.2 * noise if len(shape) == 1 else noise / math.sqrt(shape[-1])


def _chosen(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Makes a table of what rows choose, among as many as each of them chooses."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(0, shape[-1], tuple(shape), generator=generator)


def _name(tensor: Tensor, layer: int | None, x: int | None = None) -> str:
    name = tensor.name if layer is None else tensor.name.replace("{i}", str(layer))
    return name if x is None else name.replace("{x}", str(x))


def assemble(
    recipe: Recipe,
    checkpoint: Mapping[str, torch.Tensor],
    layer: int | None,
    x: int | None = None,
) -> torch.Tensor:
    """Evaluate a recipe, as the current rank does; ``x`` is the index within the stack
    that it is part of."""
    where = (checkpoint, layer, x)
    match recipe:
        case Tensor():
            return checkpoint[_name(recipe, layer, x)]
        case Cat(parts=parts, dim=dim):
            return torch.cat([assemble(part, *where) for part in parts], dim)
        case Slice(of=of, dim=dim, start=start, stop=stop):
            return assemble(of, *where).narrow(dim, start, stop - start)
        case View(of=of, to=to):
            return assemble(of, *where).reshape(to)
        case Permute(of=of, dims=dims):
            return assemble(of, *where).permute(dims)
        case Stack(of=of, count=count):
            each = [assemble(of, checkpoint, layer, at) for at in range(count)]
            return torch.stack(each)
        case Shard(of=of):
            return _own(recipe, assemble(of, *where))
        case OnFirst(of=of):
            made = assemble(of, *where)
            return made if current().rank == 0 else torch.zeros_like(made)
        case Repacked():
            return _repacked(recipe, checkpoint, layer, x)
        case Quantized():
            return _dequantized(recipe, checkpoint, layer, x)


def _own(node: Shard, whole: torch.Tensor) -> torch.Tensor:
    """Returns the current rank's part, filled up with zeros where it is shorter."""
    size, dim = node.shape[node.dim], node.dim
    begin = current().rank // node.copies * size
    if isinstance(node.of, Repacked) and node.of.part == "codes" and dim == 1:
        # Their order depends on how many there are in a row.
        bits = 8 if isinstance(node.of.of, DequantBlocks) else node.of.of.bits
        one = slice(begin * 8 // bits, (begin + size) * 8 // bits)
        return pack_codes(unpack_codes(whole, bits)[:, one], bits)
    part = whole.narrow(dim, begin, min(size, whole.shape[dim] - begin))
    lacking = list(part.shape)
    lacking[dim] = size - part.shape[dim]
    return torch.cat((part, part.new_zeros(lacking)), dim) if lacking[dim] else part


def _repacked(
    node: Repacked,
    checkpoint: Mapping[str, torch.Tensor],
    layer: int | None,
    x: int | None,
) -> torch.Tensor:
    """Returns a part of quantised weights, repacked as builds repack it."""
    leaf, rows = node.of, slice(None)
    held = leaf.parts().get(node.part, leaf.codes)
    stored = checkpoint[_name(held, layer, x)]
    if isinstance(leaf, RoundedGroups):
        codes, scale = round_groups(stored, leaf.bits, leaf.group)
        kept = pack_codes(codes, leaf.bits) if node.part == "codes" else scale
        return kept.reshape(node.shape)
    if isinstance(leaf, DequantFloats | DequantBlocks):
        return _floats_repacked(leaf, node.part, stored).reshape(node.shape)
    packing = leaf.packing if isinstance(leaf, DequantGroups) else "rows"
    if node.part == "codes":
        return pack_codes(code_rows(stored, leaf.bits, packing, rows), leaf.bits)
    if node.part == "zeros":
        return zero_rows(stored, leaf.bits, packing, rows)
    stored = stored.reshape(leaf.scale.stored)
    return scale_rows(stored, packing, rows).reshape(node.shape)


def _floats_repacked(
    leaf: DequantFloats | DequantBlocks, part: str, stored: torch.Tensor
) -> torch.Tensor:
    bits = leaf.bits if isinstance(leaf, DequantFloats) else 8
    if part == "codes":
        # Of a stack all rows, and of a row all codes, however they are cut.
        return pack_codes(float_codes(stored, bits).reshape(-1, leaf.shape[-1]), bits)
    if isinstance(leaf, DequantBlocks):
        grid = stored.reshape(leaf.scale.stored)
        return block_scales(grid, leaf.shape[0], leaf.block[0])
    return stored.reshape(1).expand(leaf.shape[0]) if part == "factor" else stored


def _dequantized(
    leaf: Dequant,
    checkpoint: Mapping[str, torch.Tensor],
    layer: int | None,
    x: int | None,
) -> torch.Tensor:
    """Dequantises a leaf, by the arithmetic that builds carry."""
    parts: dict[str, Any] = {
        field: checkpoint[_name(part, layer, x)] for field, part in leaf.parts().items()
    }
    if isinstance(leaf, RoundedGroups):
        codes, scale = round_groups(parts["codes"], leaf.bits, leaf.group)
        return Groups(codes, scale, None, None).weights(leaf.group, torch.float32)
    parts["scale"] = parts["scale"].reshape(leaf.scale.stored)
    match leaf:
        case DequantRows(bits=bits):
            return dequantize_rows(**parts, dtype=torch.float32, bits=bits)
        case DequantBlocks(block=block):
            return dequantize_blocks(**parts, dtype=torch.float32, block=block)
        case DequantGroups(bits=bits, packing=packing, group=group):
            groups = grouped(**parts, bits=bits, packing=packing)
            return groups.weights(group, torch.float32)
        case DequantFloats(bits=bits, divided=divided):
            how: dict[str, Any] = {"bits": bits, "divided": divided}
            return dequantize_floats(**parts, dtype=torch.float32, **how)
