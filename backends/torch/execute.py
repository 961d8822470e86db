"""Execute the IR with the reference ops, which define what a graph means.

``glmc compile --verify-passes`` runs every stage of a shrunken model on the same
random weights and inputs and compares the logits.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from glmc.backends.runtime import state as runtime_state
from glmc.backends.runtime.cache import Cache
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
from glmc.backends.runtime.state import Declared, From, LayerState
from glmc.backends.states import declaration, owner
from glmc.backends.torch import ops
from glmc.backends.torch.threads import on_ranks
from glmc.ir.dealing import unplaced
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.recipe import (
    Cat,
    Dequant,
    DequantBlocks,
    DequantFloats,
    DequantGroups,
    DequantRows,
    OnFirst,
    Permute,
    Quantized,
    Recipe,
    Repacked,
    RoundedGroups,
    Scaled,
    Shard,
    Slice,
    Stack,
    Tensor,
    View,
    leaves,
)

Values = dict[str, Any]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
Watch = Callable[[str, Graph, Op, Values], None]
"""Called after every op: the path of its layer (``layers.3.``, or empty), its graph,
the op, and the values so far."""


TOKENS = 12
"""Of each row of the batch that programs are compared on."""


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
        return pack_codes(float_codes(stored, bits), bits)
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


class Executor:
    """A program with its weights, executed op by op in the program's dtype."""

    def __init__(
        self, program: Program, checkpoint: Mapping[str, torch.Tensor]
    ) -> None:
        self.program = program
        self.watch: Watch | None = None
        self.weights = {
            path: _typed(assemble(param.recipe, checkpoint, layer), param.type.dtype)
            for path, layer, param in program.bindings()
        }

    def cache(self, batch: int, capacity: int) -> Cache:
        """Returns a cache for this program that has seen no token yet."""
        kept = [_declared(block) for block in self.program.schedule()]
        dtype = DTYPES[self.program.dtype]
        encoder = self.program.prefix_encoder
        if encoder is None:
            return Cache(kept, batch, capacity, dtype, "cpu")
        rows = torch.arange(int(encoder.inputs[0].type.dims[1]))[None]
        (states,) = self._run(encoder, {"rows": rows}, "")
        cache = Cache(kept, batch, capacity + rows.shape[1], dtype, "cpu")
        cache.begin_with(states)
        return cache

    def __call__(
        self, ids: torch.Tensor, pos: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Returns logits [B,T,V] of ids [B,T] at positions [B,T] or [B,S,T]; the cache
        advances by T."""
        given = {"ids": ids, "pos": pos, "prefix": cache.prefix}
        (logits,) = self.run(given, cache.layers)
        cache.advance(ids.shape[1])
        assert isinstance(logits, torch.Tensor)
        return logits

    def run(self, given: Values, states: Sequence[LayerState] = ()) -> list[Any]:
        """Returns the head's results for the stem's inputs and each layer's states."""
        program = self.program
        made = self._run(program.stem, dict(given), "")
        env = dict(zip(program.stem.returns, made, strict=True))
        shared = {name: env[name] for name in program.shared}
        parts = {name: env[whole].unbind(2) for name, whole in program.sliced}
        carried = made[: len(program.carried)]
        for layer, block in enumerate(program.schedule()):
            values = dict(zip(program.carried, carried, strict=True)) | shared
            values |= {name: each[layer] for name, each in parts.items()}
            values |= vars(states[layer]) if block.states else {}
            carried = self._run(block, values, f"layers.{layer}.")
        names = [value.name for value in program.head.inputs]
        # The head reads the first of what the last layer hands on.
        return self._run(program.head, dict(zip(names, carried, strict=False)), "")

    def _run(self, graph: Graph, env: Values, path: str) -> list[Any]:
        for op in graph.ops:
            required = op.operand_fields()
            args, kwargs = [], op.attributes()
            for field, sigil, name in op.operands():
                own = self.weights.get(path + name) if sigil == "@" else None
                actual = env[name] if sigil == "%" else own
                actual = self.weights[name] if actual is None else actual
                if required[field][1]:
                    args.append(actual)
                else:
                    kwargs[field] = actual
            made = self.apply(op, args, kwargs)
            made = made if isinstance(made, tuple) else (made,)
            env |= dict(zip(op.outs, made, strict=True))
            if self.watch:
                self.watch(path, graph, op, env)
        return [env[name] for name in graph.returns]

    def apply(self, op: Op, args: list[Any], kwargs: Values) -> Any:
        """Runs an op on its operands, which are passed as emitted code passes them."""
        return getattr(ops, op.mnemonic)(*args, **kwargs)


def _declared(block: Graph) -> dict[str, Declared]:
    """Returns the states that a layer of a block declares."""
    found: dict[str, Declared] = {}
    for state in block.states:
        if state.owners:
            found[state.name] = From(owner(block.layers, state.owners))
            continue
        made = declaration(state.type)
        more: dict[str, Any] = {"dtype": DTYPES[made.dtype]} if made.dtype else {}
        more |= {"every": made.every} if made.every > 1 else {}
        found[state.name] = getattr(runtime_state, made.name)(*made.sizes, **more)
    return found


def _typed(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """Casts a float to the dtype that the program has it in; codes stay as they are."""
    return weight.to(DTYPES[dtype]) if dtype in DTYPES else weight


def compare(programs: Sequence[Program]) -> Iterator[float]:
    """Yields the largest difference of each program's answers to those of the first.

    Relative to the largest answer where that is above 1: random weights can make a
    residual stream grow without bound, and rounding grows with it.
    """
    checkpoint = random_checkpoint(programs[0])
    expected, unit = None, 1.0
    for program in programs:
        answers = answered(program, checkpoint)
        if expected is None:
            expected, unit = answers, max(1.0, answers.abs().max().item())
        yield (answers - expected).abs().max().item() / unit


def answered(program: Program, checkpoint: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the answers of a program, of which all its ranks give the same."""
    if program.ranks == 1:
        return run_batch(Executor(program, checkpoint))
    first, *others = on_ranks(
        program.ranks, lambda _: run_batch(Executor(program, checkpoint))
    )
    if not all(torch.equal(first, other) for other in others):
        return first + torch.inf
    return first


def run_batch(model: Executor) -> torch.Tensor:
    """Returns the answers of a model, in one tensor.

    Decoders answer a left-padded batch of two: a prompt of nine, then three tokens one
    by one. Encoders answer a batch with padding on either side.
    """
    return _logits(model) if model.program.decodes else _encoded(model)


def _logits(model: Executor) -> torch.Tensor:
    start = first_slots()
    real = torch.arange(TOKENS) >= start[:, None]
    return read(model, slice(0, len(start)), 0, (9, 1, 1, 1))[real]


def first_slots() -> torch.Tensor:
    """Returns the first token of each row of a batch that is not padding."""
    return torch.tensor([0, 3], dtype=torch.int32)


def seen_both_ways() -> torch.Tensor:
    """Returns the length of each row's bidirectional part, for models that have one."""
    return torch.tensor([4, 5], dtype=torch.int32)


@torch.no_grad()
def read(
    model: Executor, rows: slice, first: int, calls: Sequence[int]
) -> torch.Tensor:
    """Returns logits [B,T,V] of some rows of a batch, from a token on, in several
    calls."""
    pos = (torch.arange(TOKENS) - first_slots()[:, None]).clamp(min=0)[rows, first:]
    start = (first_slots()[rows] - first).clamp(min=0)
    cache = model.cache(len(start), sum(calls))
    cache.start = start + cache.learned if start.any() else None
    cache.prefix = start + cache.learned + seen_both_ways()[rows]
    if len(model.program.stem.inputs[1].type.dims) == 3:
        pos = torch.stack((pos, pos // 2), 1)
    ids, ends = _ids(model)[rows, first:], list(accumulate(calls, initial=0))
    pieces = [slice(*ends[at : at + 2]) for at in range(len(calls))]
    return torch.cat([model(ids[:, s], pos[..., s], cache) for s in pieces], 1)


@torch.no_grad()
def _encoded(model: Executor) -> torch.Tensor:
    """Returns every answer of an encoder in one row of numbers."""
    ids, pos = _ids(model), torch.arange(TOKENS).expand(2, TOKENS)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[0, 8:], mask[1, :3] = False, False
    answers = model.run({"ids": ids, "pos": pos, "types": pos % 2, "mask": mask})
    return torch.cat([answer.flatten() for answer in answers])


def _ids(model: Executor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    program = model.program
    table = program.param(program.stem, program.stem.ops[0].params[0])
    assert table is not None
    rows = unplaced(table.recipe).shape[0]
    return torch.randint(rows, (2, TOKENS), generator=generator)
